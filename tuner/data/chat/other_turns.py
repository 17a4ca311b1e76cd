"""Turns other than answers that are learned, and what each turn weighs in the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tuner.data.bad_rows import BadRow
from tuner.data.chat.chat_shapes import ChatShape, RenderJob, locate, neutral
from tuner.data.rows.rendered import Rendered, Span
from tuner.data.turns import turn_keys


def with_other_turns(
    example: Rendered, chat: RenderJob, stops: Sequence[str], render: Callable[..., str]
) -> Rendered:
    """Return an example with its learned turns that are no answers, and its fractional weights.

    Args:
        example: with the spans of `chat.answers`.
        chat: what it was rendered from.
        stops: tokens that end a turn.
        render: renders messages and a job with `generate`.

    Raises:
        BadRow: the template does not write such a turn as the row has it.
    """
    spans = [*zip(example.supervised, chat.answers, strict=True)]
    if chat.others:
        further = _others(chat, example.text, stops, render)
        if example.dialogue.messages[-1]["role"] != "assistant":
            example = replace(example, prompt_end=further[-1][0])
        example = replace(example, further=further)
        spans += zip(further, chat.others, strict=True)
    weighed = ((span, turn_keys.weight(chat.messages[i])) for span, i in spans)
    fractions = tuple((span, weight) for span, weight in weighed if weight < 1)
    return replace(example, fractions=fractions) if fractions else example


def _others(
    chat: RenderJob, text: str, stops: Sequence[str], render: Callable[..., str]
) -> tuple[Span, ...]:
    """The texts of turns other than answers, each with the stop token right behind it.

    They are looked for in the prompt of the last answer, which is always shown as it is trained.
    """
    turns, generate = list(chat.messages), False
    if chat.answers and max(chat.others) < chat.answers[-1]:
        turns, generate = turns[: chat.answers[-1]], True
    bare = neutral(turns)
    pattern = render(bare, chat, generate=generate)
    shown = render(turns, chat, generate=generate)
    shape = ChatShape(pattern, locate(pattern, bare), None)
    given = shape.given(turns, shown)
    if given is None or not text.startswith(shown):
        raise BadRow(
            "the model's chat template changes the text of turns, so those that are no answers "
            "cannot be learned (data.learn, or a key of the turn)"
        )
    found, moved = {}, 0
    for (start, end, i, key), said in zip(shape.contents or (), given, strict=True):
        place = start + moved
        moved += len(said) - (end - start)
        if key == "content":
            stop = next((each for each in stops if shown.startswith(each, end + moved)), "")
            found[i] = (place, end + moved + len(stop))
    for i in chat.others:
        if i not in found:
            raise BadRow(f"a {chat.messages[i]['role']} turn is to be learned, but has no text")
    return tuple(found[i] for i in chat.others)
