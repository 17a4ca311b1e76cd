"""Rows of preference data to comparisons: a prompt, its answers, and which is better than which."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tuner.data.columns.preference_formats import PreferenceFit
from tuner.data.preference_rows import ZERO, Comparison, PreferenceReader, last_turn, stripped
from tuner.data.rows.dialogue import Dialogue
from tuner.data.rows.turns import blank
from tuner.data.sources.files import DataSource
from tuner.data.sources.source import Source


@dataclass
class Compared:
    """The comparisons of one split.

    Args:
        comparisons: each with at least one pair.
        unpaired: rows that make no pair.
        identical: thumbs that repeat or contradict another row with the same answer.
        contradicting: pairs that another row has in the opposite order; neither is used.
        ties: rows whose two answers are equally good.
        alone: thumbs that are learned without an opposite one.
        unrated: rows without a thumb.
        pairs: comparisons that are no thumbs.
    """

    comparisons: list[Comparison]
    unpaired: list[str]
    identical: int = 0
    contradicting: int = 0
    ties: int = 0
    alone: int = 0
    unrated: int = 0
    pairs: int = 0

    @property
    def without_pair(self) -> int:
        """Rows that make no pair."""
        return len(self.unpaired) + self.ties + self.unrated


def compare(
    sources: Sequence[Source], files: DataSource, alone: bool = False, earlier: bool = False
) -> Compared:
    """Make the comparisons of a split; bad rows are recorded by the files.

    Where a column names the better of two answers, a tie makes no pair. A ranking of K answers
    makes K(K-1)/2 pairs. Scores make a pair wherever they differ; its margin is the difference,
    divided by the largest in the source. Of thumbs, every liked answer makes a pair with every
    disliked one to exactly the same prompt; those to a prompt with one kind only are left out or,
    if `alone`, compared with a score of 0.
    """
    thumbs: list[tuple[Dialogue, bool]] = []
    pairs: list[Comparison] = []
    others: list[Comparison] = []
    ties = unrated = 0
    for source in sources:
        if not source.rows:
            continue
        fit = source.fit
        assert isinstance(fit, PreferenceFit)
        reader, name = PreferenceReader(fit, source.data, earlier), fit.template.name
        if name == "thumbs":
            rated = [row for row in source.rows if not blank(row.values.get(fit.columns["label"]))]
            thumbs += files.each(rated, reader.thumb)
            unrated += len(source.rows) - len(rated)
        elif name == "pairs":
            pairs += files.each(source.rows, reader.pair)
        elif name == "winners":
            named = files.each(source.rows, reader.winner)
            pairs += [each for each in named if each.pairs]
            ties += sum(not each.pairs for each in named)
        elif name == "scored_pairs":
            scored = files.each(source.rows, reader.scored_pair)
            others += _scaled([each for each in scored if each.pairs])
            ties += sum(not each.pairs for each in scored)
        elif name == "rankings":
            others += files.each(source.rows, reader.ranking)
        else:
            others += _scaled(files.each(source.rows, reader.scores))
    grouped, consistent = _grouped(thumbs, alone), _consistent(pairs)
    compared = [*consistent.comparisons, *(each for each in others if each.pairs)]
    return Compared(
        [*grouped.comparisons, *compared],
        grouped.unpaired + [each.row for each in others if not each.pairs],
        grouped.identical,
        consistent.contradicting,
        ties,
        grouped.alone,
        unrated,
        len(compared),
    )


def _consistent(pairs: Sequence[Comparison]) -> Compared:
    """The pairs without those that another row has in the opposite order."""
    said = [(each.mark, *(last_turn(dialogue) for dialogue in each.dialogues)) for each in pairs]
    swapped = {(mark, rejected, chosen) for mark, chosen, rejected in said}
    kept = [each for each, key in zip(pairs, said, strict=True) if key not in swapped]
    return Compared(kept, [], contradicting=len(pairs) - len(kept))


def _scaled(found: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of a source with margins from 0 to 1, on its own scale."""
    largest = max((margin for each in found for _, _, margin in each.pairs), default=0.0)
    return [
        replace(each, pairs=tuple((b, w, m / largest) for b, w, m in each.pairs)) for each in found
    ]


def _grouped(thumbs: Sequence[tuple[Dialogue, bool]], alone: bool) -> Compared:
    """Group liked and disliked answers to the same prompt."""
    groups: dict[str, list[tuple[Dialogue, bool]]] = {}
    for dialogue, liked in thumbs:
        key = json.dumps([stripped(dialogue)[:-1], dialogue.tools], sort_keys=True)
        groups.setdefault(key, []).append((dialogue, liked))
    result = Compared([], [])
    for group in groups.values():
        opinions: dict[str, set[bool]] = {}
        for dialogue, liked in group:
            opinions.setdefault(last_turn(dialogue), set()).add(liked)
        kept = {last_turn(each): (each, liked) for each, liked in reversed(group)}
        clear = [kept[mark] for mark, said in opinions.items() if len(said) == 1]
        result.identical += len(group) - len(clear)
        pairs = tuple(
            (better, worse, 0.0)
            for better, (_, liked) in enumerate(clear)
            for worse, (_, other) in enumerate(clear)
            if liked and not other
        )
        if alone and clear and not pairs:
            pairs = tuple(
                (place, ZERO, 0.0) if liked else (ZERO, place, 0.0)
                for place, (_, liked) in enumerate(clear)
            )
            result.alone += len(clear)
        if pairs:
            result.comparisons.append(Comparison(tuple(each for each, _ in clear), pairs))
        else:
            result.unpaired += [dialogue.row for dialogue, _ in group]
    return result
