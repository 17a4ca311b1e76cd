"""A few prompts of a run as they are trained, to compare them with those that are sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from tuner.data.bad_rows import BadRow
from tuner.data.rows.dialogue import Dialogue, Message
from tuner.data.rows.rendered import Rendered
from tuner.data.tokens.encode import Encoded
from tuner.data.tokens.example_maker import ExampleMaker, Pair
from tuner.data.tokens.prepared import TrainedPrompt
from tuner.data.turns import turn_keys
from tuner.data.turns.reasoning import KEY


def trained(pairs: Sequence[Pair], maker: ExampleMaker) -> Iterator[TrainedPrompt]:
    """Yield a prompt of a turn in the middle, of a last turn, of a later one (with answers before
    it), and of one with tools, if there are such."""
    if maker.head != "language":
        return
    wanted = {"a turn in the middle", "a last turn", "a later turn", "a turn with tools"}
    for rendered, encoded in pairs:
        dialogue = rendered.dialogue
        if not wanted:
            return
        if dialogue.segments:
            continue
        turns = [
            number
            for number, message in enumerate(dialogue.messages)
            if message["role"] == "assistant" and turn_keys.weight(message)
        ]
        if not turns or not rendered.supervised:
            continue
        several = len(rendered.supervised) == len(turns)
        kinds = {
            turn: _kind(dialogue, turn) for turn in (turns[-1], turns[0] if several else turns[-1])
        }
        # Reasoning that is context comes before what is learned, and not from the prompt.
        apart = rendered.supervised[-1][0] != rendered.prompt_end
        if dialogue.messages[-1]["role"] != "assistant":
            apart = bool(dialogue.messages[turns[-1]].get(KEY))
        if apart or wanted.isdisjoint(kinds.values()):
            continue
        starts = _starts(_answers_only(rendered, encoded, maker))
        for turn, kind in kinds.items() if starts else ():
            # Two answers may share a stretch: then only the last one's beginning is known.
            if kind in wanted and (turn == turns[-1] or len(starts) == len(turns)):
                wanted.discard(kind)
                yield TrainedPrompt(
                    dialogue.row,
                    kind,
                    _own(dialogue.messages[:turn], maker.system),
                    dialogue.tools,
                    maker.asked([dialogue]),
                    encoded.ids[: starts[-1] if turn == turns[-1] else starts[0]],
                )


def _kind(dialogue: Dialogue, turn: int) -> str:
    if dialogue.tools:
        return "a turn with tools"
    if turn < len(dialogue.messages) - 1:
        return "a turn in the middle"
    # Templates that rewrite earlier turns make an example of each: those have no middle.
    earlier = any(message["role"] == "assistant" for message in dialogue.messages[:turn])
    return "a later turn" if earlier else "a last turn"


def _answers_only(rendered: Rendered, encoded: Encoded, maker: ExampleMaker) -> list[bool]:
    """Which tokens are learned as answers: rendering again finds those of other turns."""
    if not rendered.further:
        return encoded.supervised
    (alone,) = maker.encoder.encode([replace(rendered, further=(), append_eos=False)])
    return encoded.supervised if isinstance(alone, BadRow) else alone.supervised


def _own(turns: Sequence[Message], system: str | None) -> list[Message]:
    """Turns without the system turn that whoever asks gets by default."""
    given = [turn_keys.shown(turn) for turn in turns]
    default = given and given[0] == {"role": "system", "content": system}
    return given[1:] if default else given


def _starts(supervised: Sequence[bool]) -> list[int]:
    """Return where stretches of supervised tokens begin."""
    return [
        place
        for place, (before, here) in enumerate(pairwise([False, *supervised]))
        if here and not before
    ]
