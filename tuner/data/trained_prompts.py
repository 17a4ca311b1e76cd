"""A few prompts of a run as they are trained, to compare them with those that are sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from tuner.data.dialogue import Dialogue
from tuner.data.example_maker import ExampleMaker, Pair
from tuner.data.prepared import TrainedPrompt
from tuner.data.turn_keys import MASKED


def trained(pairs: Sequence[Pair], maker: ExampleMaker) -> Iterator[TrainedPrompt]:
    """Yield a prompt of a turn in the middle, of a last turn, and of one with tools, if there are
    such."""
    if maker.head != "language":
        return
    wanted = {"a turn in the middle", "a last turn", "a turn with tools"}
    for rendered, encoded in pairs:
        dialogue = rendered.dialogue
        if not wanted:
            return
        if dialogue.segments:
            continue
        turns = [
            number
            for number, message in enumerate(dialogue.messages)
            if message["role"] == "assistant" and not message.get(MASKED)
        ]
        several = len(rendered.supervised) == len(turns)
        kinds = {
            turn: _kind(dialogue, turn) for turn in (turns[-1], turns[0] if several else turns[-1])
        }
        # Reasoning that is context comes before what is learned, and not from the prompt.
        apart = rendered.supervised[-1][0] != rendered.prompt_end
        if apart or wanted.isdisjoint(kinds.values()):
            continue
        starts = _starts(encoded.supervised)
        for turn, kind in kinds.items() if starts else ():
            # Two answers may share a stretch: then only the last one's beginning is known.
            if kind in wanted and (turn == turns[-1] or len(starts) == len(turns)):
                wanted.discard(kind)
                yield TrainedPrompt(
                    dialogue.row,
                    kind,
                    list(dialogue.messages[:turn]),
                    dialogue.tools,
                    maker.asked([dialogue]),
                    encoded.ids[: starts[-1] if turn == turns[-1] else starts[0]],
                )


def _kind(dialogue: Dialogue, turn: int) -> str:
    if dialogue.tools:
        return "a turn with tools"
    return "a last turn" if turn == len(dialogue.messages) - 1 else "a turn in the middle"


def _starts(supervised: Sequence[bool]) -> list[int]:
    """Return where stretches of supervised tokens begin."""
    return [
        place
        for place, (before, here) in enumerate(pairwise([False, *supervised]))
        if here and not before
    ]
