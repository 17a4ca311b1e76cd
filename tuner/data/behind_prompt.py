"""The last answer put behind its prompt, where an answered chat does not begin with the prompt."""

from __future__ import annotations

from collections.abc import Callable

from tuner.data import reasoning
from tuner.data.bad_rows import BadRow
from tuner.data.chat_shapes import RenderJob
from tuner.data.reasoning import KEY
from tuner.errors import ModelError

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
        ModelError: the generation prompt is not a prefix of the answered chat there either.
    """
    earlier = [reasoning.without(turn) for turn in chat.messages[:-1]]
    asked = render(earlier, chat, generate=True)
    answered = render([*earlier, chat.messages[-1]], chat)
    if not answered.startswith(asked):
        raise no_prefix()
    prompt = render(chat.messages[:-1], chat, generate=True)
    return prompt + answered[len(asked) :], len(prompt)


def no_prefix() -> ModelError:
    """Return the error for a template whose answered chats do not begin with their prompt."""
    return ModelError(
        "the model's chat template cannot be trained on",
        "an answered chat does not begin with its generation prompt, so the answers cannot be "
        "separated from the prompt",
        "leave out turns that it treats in a special way (often a system turn), or choose another "
        "template, such as model.chat_template: chatml",
    )
