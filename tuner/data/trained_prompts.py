"""A few prompts of a run as they are trained, to compare them with those that are sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

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
        if dialogue.segments or not wanted:
            return
        turns = [
            number
            for number, message in enumerate(dialogue.messages)
            if message["role"] == "assistant" and not message.get(MASKED)
        ]
        starts = _starts(encoded.supervised)
        if not starts or rendered.supervised[-1][0] != rendered.prompt_end:
            # Its reasoning is context, which the prompt does not hold.
            continue
        several = len(starts) == len(turns)
        for turn, start in ((turns[-1], starts[-1]), *([(turns[0], starts[0])] if several else ())):
            last = turn == len(dialogue.messages) - 1
            what = "a turn with tools" if dialogue.tools else "a last turn" if last else ""
            what = what or "a turn in the middle"
            if what in wanted:
                wanted.discard(what)
                yield TrainedPrompt(
                    dialogue.row,
                    what,
                    list(dialogue.messages[:turn]),
                    dialogue.tools,
                    maker.asked([dialogue]),
                    encoded.ids[:start],
                )


def _starts(supervised: Sequence[bool]) -> list[int]:
    """Return where stretches of supervised tokens begin."""
    return [
        place
        for place, (before, here) in enumerate(pairwise([False, *supervised]))
        if here and not before
    ]
