"""Answers that are liked or not, each a row of its own: what KTO learns from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from tuner.data.columns.preference_advice import RENAME
from tuner.data.columns.preference_formats import PreferenceFit
from tuner.data.comparisons import compare
from tuner.data.preference_rows import ZERO, Comparison, last_turn
from tuner.data.preferences import PreferenceData, Ranking
from tuner.data.rows.dialogue import Dialogue
from tuner.data.sources.source import Source, SplitFiles
from tuner.data.tokens.prepared import Inputs
from tuner.errors import DataError

# Formats in which an answer may be better than one and worse than another.
_SEVERAL = ("rankings", "scores")
_EITHER = "add the other kind, or learn from pairs with rlhf.algorithm: dpo"
_ONLY = {
    True: f"{_EITHER}; liked answers alone are learned with tuner lora, or another method",
    False: _EITHER,
}


class ThumbData(PreferenceData):
    """Prepares `Ranking`s of one answer each, compared with a score of 0.

    Of a pair the better answer counts as liked, the worse one as disliked. An answer that is both
    liked and disliked under the same prompt is left out.
    """

    likely = ("prompt", "completion", "label")
    no_room = "no held-out answer fits into data.max_length {}"

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs, alone=True)
        self.sampled = False

    def _fit(self, source: Source) -> PreferenceFit:
        try:
            fit = super()._fit(source)
        except DataError as error:
            if error.fix != RENAME:
                raise
            raise DataError(
                "rlhf.algorithm: kto learns from labels, and no answer is labelled",
                "",
                "name the column that says whether an answer is liked (true or false, 1 or 0, good "
                "or bad): data.columns: {label: NAME}; answers without labels are learned with "
                "tuner lora, or another method",
                error.problems[:1],
            ) from None
        if fit.template.name in _SEVERAL:
            raise DataError(
                "rlhf.algorithm: kto learns single answers, and these rows rank several",
                f"they are {fit.template.name}: an answer may be better than one and worse than "
                "another",
                "set rlhf.algorithm: dpo, which learns every pair; or write one answer per row, "
                "with a label (true or false)",
            )
        return fit

    def _items(self, files: SplitFiles) -> list[Comparison]:
        found = compare(files.sources, self.source, alone=True)
        thumbs = _apart(found.comparisons)
        answers = sum(len(each.dialogues) for each in found.comparisons)
        self._compared[files.name] = replace(
            found,
            comparisons=thumbs,
            identical=found.identical + answers - len(thumbs),
            alone=0,
        )
        return thumbs

    def _refuse_empty(self, files: SplitFiles, found: Collection[Any]) -> None:
        super()._refuse_empty(files, found)
        compared = self._compared.get(files.name)
        if files.name != "train" or compared is None or not compared.comparisons:
            return
        kinds = {is_liked(each.pairs) for each in compared.comparisons}
        if len(kinds) == 1:
            (liked,) = kinds
            raise DataError(
                f"every answer of the train split is {'liked' if liked else 'disliked'}",
                "rlhf.algorithm: kto learns the difference between liked and disliked answers",
                _ONLY[liked],
            )

    def _counts(self, train: Sequence[Ranking], held: Sequence[Ranking]) -> dict[str, Any]:
        counts = super()._counts(train, held)
        liked = sum(is_liked(each.pairs) for each in train)
        pairs = sum(each.pairs for each in self._compared.values())
        given = {key: value for key, value in counts.items() if not key.startswith("pairs_")}
        return {
            "liked_train": liked,
            "disliked_train": len(train) - liked,
            "pairs_as_thumbs": pairs,
            **given,
        }


def is_liked(pairs: Sequence[tuple[int, int, float]]) -> bool:
    """Return whether a single answer is liked: it is compared with a score of 0."""
    return pairs[0][1] == ZERO


def _apart(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return each answer alone and once, without those that are both liked and not."""
    said: dict[tuple[str, str], dict[bool, Dialogue]] = {}
    for each in comparisons:
        liked = {better for better, _, _ in each.pairs}
        for place, dialogue in enumerate(each.dialogues):
            key = (each.mark, last_turn(dialogue))
            said.setdefault(key, {}).setdefault(place in liked, dialogue)
    return [
        Comparison((dialogue,), ((0, ZERO, 0.0) if liked else (ZERO, 0, 0.0),))
        for opinions in said.values()
        if len(opinions) == 1
        for liked, dialogue in opinions.items()
    ]
