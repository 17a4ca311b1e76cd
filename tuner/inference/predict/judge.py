"""Rows answered with labels, by a classifier; and scores of their answers, by a reward model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.classifier import Asked, Classifier
from tuner.data.reading.read import Row
from tuner.data.recognise import recognise
from tuner.data.rows.check_row import check
from tuner.data.rows.dialogue import RowRenderer
from tuner.data.sources.label_names import LabelNames
from tuner.data.to_answer import RowFile, refused
from tuner.data.tokens.answer_encoder import AnswerEncoder, PromptAndAnswers
from tuner.data.tokens.example_maker import ExampleMaker
from tuner.data.tokens.prepared import Inputs
from tuner.data.turns.turn_rules import TurnRules
from tuner.errors import DataError, RecipeError
from tuner.inference import labels
from tuner.inference.engine import Inference
from tuner.inference.predict.request import Request
from tuner.inference.scores import scores

# Rows that are worked on together: a file that is continued is worked on in the same portions.
PORTION = 64
# Digits that a batch does not change.
DIGITS = 6


def labelled(
    model: Inference, classifier: Classifier, inputs: Sequence[tuple[int, Asked]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each row with its label, or those that reach the classifier's threshold,
    and the probabilities of all.

    Args:
        model: the open base.
        classifier: what answers.
        inputs: of the rows, by their number.
    """
    prepared = [each for _, each in inputs]
    threshold = classifier.threshold
    found = labels.probabilities(model, model.active, classifier.labels, prepared, threshold)
    for (number, each), shares in zip(inputs, found, strict=True):
        line: dict[str, Any] = {
            **labels.answered(shares, threshold),
            "probabilities": {label: round(share, DIGITS) for label, share in shares.items()},
        }
        yield number, line | ({"truncated": True} if each.truncated else {})


class Scorer:
    """A reward model, with what makes of rows what it reads.

    Args:
        network: the model, in evaluation mode.
        tokenizer: its own.
        room: tokens of prompt and answer together.
        stops: tokens that end an answer.
    """

    def __init__(self, network: Any, tokenizer: Any, room: int, stops: Sequence[int]) -> None:
        self.network, self.tokenizer = network, tokenizer
        self._room, self._stops = room, stops

    def read(self, asked: Request, file: RowFile) -> tuple[RowFile, list[list[int] | None]]:
        """Return the rows, with the problems found; and prompt and answer of each, in tokens.

        Raises:
            DataError, RecipeError: no template fits the rows.
        """
        source = file.source
        try:
            fit = recognise(source, asked.folder)
        except (DataError, RecipeError) as error:
            raise refused(error, source) from None
        inputs = Inputs(source.data, self.tokenizer, asked.folder, 0, self._room, self._stops)
        maker = ExampleMaker(inputs, [fit.template], self._room)
        encoder = AnswerEncoder(self.tokenizer, maker, True)
        names = LabelNames(labels=frozenset(source.data.labels))
        renderer = RowRenderer(fit, names, TurnRules().of_source(source.data))

        def ids(row: Row) -> list[int]:
            dialogue = renderer.render(row)
            check(dialogue)
            (found,) = encoder.encode([PromptAndAnswers((dialogue,))])
            if isinstance(found, BadRow):
                raise found
            (whole,) = found.wholes
            if len(whole) > self._room:
                raise BadRow(f"it has {len(whole)} tokens; the context is {self._room} tokens")
            return list(whole)

        return file.each(ids)

    def scored(
        self, inputs: Sequence[tuple[int, list[int]]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number of each row with the score of its answer."""
        rows = [ids for _, ids in inputs]
        found = scores(self.network, rows, self.network.config.pad_token_id)
        for (number, ids), score in zip(inputs, found, strict=True):
            yield number, {"score": round(score, DIGITS), "tokens": len(ids)}
