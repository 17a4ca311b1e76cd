"""The last answer put behind its prompt, where an answered chat does not begin with the prompt."""

from __future__ import annotations

from collections.abc import Callable

from tuner.data.bad_rows import BadRow
from tuner.data.chat.chat_shapes import RenderJob
from tuner.data.turns import reasoning
from tuner.data.turns.reasoning import KEY, Message
from tuner.errors import DataError

Render = Callable[..., str]


def composed(chat: RenderJob, render: Render) -> tuple[str, int]:
    """Return prompt and answer as one text, and where the prompt ends: reasoning as a block that
    the prompt may have opened, and the answer's content.

    Raises:
        BadRow: the template shows no such turn.
    """
    message = chat.messages[-1]
    prompt = render(chat.messages[:-1], chat, generate=True)
    mark = "XqanswerqX"
    content = str(message.get("content") or "")
    if not content.strip():
        raise BadRow("the model's chat template cannot show a turn without text")
    bare = {**reasoning.without(message), "content": mark}
    _, found, after = render([*chat.messages[:-1], bare], chat).partition(mark)
    if not found:
        raise BadRow("the model's chat template leaves out the answer")
    said, opened = message.get(KEY, ""), reasoning.opens(prompt)
    thought = reasoning.block(said) if said or opened else ""
    if opened:
        thought = thought.removeprefix(reasoning.OPEN)
        thought = thought.removeprefix("\n") if prompt.endswith("\n") else thought
    return f"{prompt}{thought}{content}{after}", len(prompt)


def spliced(chat: RenderJob, render: Render) -> tuple[str, int]:
    """Return the same for a template that shows earlier reasoning before an answer and drops it
    behind one (gpt-oss, after a call): the answer is what it writes where there was none.

    Raises:
        NoPrefix: the generation prompt is not a prefix of the answered chat there either.
    """
    earlier = [reasoning.without(turn) for turn in chat.messages[:-1]]
    asked = render(earlier, chat, generate=True)
    answered = render([*earlier, chat.messages[-1]], chat)
    if not answered.startswith(asked):
        raise NoPrefix(len(chat.messages) - 1)
    prompt = render(chat.messages[:-1], chat, generate=True)
    return prompt + answered[len(asked) :], len(prompt)


class NoPrefix(Exception):
    """An answered chat does not begin with its generation prompt; has the turn that answers."""

    def __init__(self, turn: int) -> None:
        super().__init__(turn)
        self.turn = turn


def refuse_tags(message: Message) -> None:
    """Refuse an answer that a template cannot be learned with for tags of reasoning in its text.

    Raises:
        BadRow: it has such tags.
    """
    content = str(message.get("content") or "")
    found = [tag for tag in (reasoning.OPEN, reasoning.CLOSE) if tag in content]
    if found:
        raise BadRow(
            f"the text of an answer has {' and '.join(found)}, which the model's chat template "
            "takes for reasoning (write it in another way; model.chat_template: chatml leaves it)"
        )


def no_prefix(row: str, chat: RenderJob, turn: int, render: Render) -> DataError:
    """Return the error for such a template, with the prompt and the answered chat of a row."""
    prompt = render(chat.messages[:turn], chat, generate=True)
    answered = render(chat.messages[: turn + 1], chat)
    return DataError(
        "the model's chat template cannot be trained on",
        f"{row}: an answered chat does not begin with its generation prompt, so the answer cannot "
        f"be separated from the prompt:\n  sent     {prompt!r}\n  answered {answered!r}",
        "leave out turns that it treats in a special way (often a system turn), or choose another "
        "template, such as model.chat_template: chatml",
    )
