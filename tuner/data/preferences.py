"""Preference data: comparisons to token ids, held out by prompt, with a report."""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from tuner.data.answer_encoder import AnswerEncoder, Answers
from tuner.data.bad_rows import BadRow
from tuner.data.comparisons import Compared, Comparison, compare
from tuner.data.dialogue import Message
from tuner.data.example_maker import ExampleMaker
from tuner.data.files import Source, read_source
from tuner.data.preference_formats import FormatFit, choose_format
from tuner.data.prepared import Prepared, max_length_of
from tuner.data.split import Split, split_by_prompt
from tuner.data.template import load_template
from tuner.data.whole import (
    Losses,
    base_report,
    base_warnings,
    refuse_cuts,
    sequences_sha256,
    stop_if_too_many,
)
from tuner.errors import DataError
from tuner.recipe.schema import DataSection

__all__ = ["Ranking", "asked", "prepare_preferences"]


@dataclass(frozen=True)
class Ranking:
    """One prompt with its answers, and which of them is better than which.

    Args:
        row: file name and line, for messages.
        answers: token ids of prompt and answer, whole, each ending with the answer's stop token.
        pairs: (better, worse, margin), indices into `answers`; every answer is in a pair.
        prompt_ids: what every one of `answers` begins with.
        messages: the turns of the prompt.
        prompt_text: the last user turn, for readers.
        texts: the answers as text.
        task: which of the recipe's files it comes from.
    """

    row: str
    answers: tuple[list[int], ...]
    pairs: tuple[tuple[int, int, float], ...]
    prompt_ids: list[int]
    messages: tuple[Message, ...]
    prompt_text: str
    texts: tuple[str, ...]
    task: int = 0

    def apart(self) -> list[Ranking]:
        """Return each of its pairs alone, the better answer first."""
        return [
            replace(
                self,
                answers=(self.answers[better], self.answers[worse]),
                pairs=((0, 1, margin),),
                texts=(self.texts[better], self.texts[worse]),
            )
            for better, worse, margin in self.pairs
        ]

    def blank(self) -> Ranking:
        """Return a short row that adds nothing to the loss: it has no pair."""
        return replace(self, answers=(self.answers[0][:2],), pairs=(), texts=self.texts[:1])

    @property
    def input_ids(self) -> list[int]:
        """The longest of the answers."""
        return max(self.answers, key=len)

    @property
    def num_tokens(self) -> int:
        """Tokens that the model reads."""
        return sum(map(len, self.answers))

    @property
    def num_targets(self) -> int:
        """A prompt counts once, however many pairs it has."""
        return 1

    @property
    def num_answer_tokens(self) -> int:
        """Tokens of the answers without their prompt."""
        return self.num_tokens - len(self.answers) * len(self.prompt_ids)


def asked(messages: Sequence[Message]) -> str:
    """Return the last user turn; empty if there is none."""
    return next((str(m.get("content")) for m in reversed(messages) if m["role"] == "user"), "")


def prepare_preferences(
    data: DataSection,
    tokenizer: Any,
    *,
    folder: Path,
    seed: int,
    context_length: int,
    stop_ids: Collection[int] = (),
    scored: bool = False,
) -> Prepared:
    """Read, pair, check, split by prompt and tokenize the preferences of a recipe.

    Answers are never cut: one that is longer than `data.max_length` is left out with its pairs, and
    a row that has no pair left is dropped.

    Args:
        data: the recipe's data section; `template` is auto, pairs, rankings, scores or thumbs.
        tokenizer: a fast transformers tokenizer.
        folder: the recipe's folder; relative paths are looked up there, else in the current one.
        seed: chooses the held-out prompts.
        context_length: tokens that the model can take.
        stop_ids: further token ids that end an answer, next to the tokenizer's eos.
        scored: for a reward model: prompts are those that the chat template writes by itself, as
            they are when answers are sampled.

    Returns:
        `train` and `eval` are lists of `Ranking`.

    Raises:
        DataError: the rows cannot be read, do not fit a format, or leave nothing to train on.
        RecipeError: a key of the data section names something that does not exist.
        ModelError: the tokenizer or its chat template does not fit.
        SafetyError: the chat template is not safe to run.
    """
    max_length = max_length_of(data, context_length)
    refuse_cuts(data)
    source = read_source(data, folder, max_length)
    fit = choose_format(data, source.columns, source.rows)
    compared, held = compare(source.train, fit, source), compare(source.eval, fit, source)
    source.problems.stop_if_too_many()
    _refuse_unpaired(source, compared, held)
    split = split_by_prompt(
        compared.comparisons, held.comparisons, lambda each: each.mark, data, seed
    )
    template = load_template(_twin(fit, source, split.train), folder)
    maker = ExampleMaker(data, template, tokenizer, max_length, stop_ids)
    encoder = AnswerEncoder(data, tokenizer, maker, sampled=scored)
    train, losses = _rankings(split.train, encoder, source, max_length)
    evals, eval_losses = _rankings(split.eval, encoder, source, max_length)
    stop_if_too_many(
        losses,
        len(split.train),
        max_length,
        "answers",
        _room(losses.longest, context_length),
        data.long,
    )
    if split.eval and not evals:
        why = f"no held-out row fits into data.max_length {max_length}"
        raise source.empty("eval", why)
    report = base_report(source, fit.used, maker, losses, eval_losses)
    report |= _counts(fit, split, [compared, held], train, evals)
    report["pairs_too_long"] = losses.pairs + eval_losses.pairs
    report["warnings"] = base_warnings(report) + _warnings(report)
    return Prepared(
        train,
        evals,
        fit.format.name,
        (),
        maker.chat_template,
        report,
        {} if scored else maker.defaults(maker.reasons(each.better for each in split.train)),
        None if scored else maker.plain_template,
    )


def _twin(fit: FormatFit, source: Source, comparisons: Sequence[Comparison]) -> str:
    """The data template whose plain rendering (data.render: raw) these rows have."""
    plain = all(isinstance(fit.value(row, "prompt"), str) for row in source.rows)
    alone = all(
        sum(message["role"] != "system" for message in comparison.prompt) == 1
        for comparison in comparisons
    )
    return "prompt_completion" if plain and alone else "chat"


def _refuse_unpaired(source: Source, train: Compared, held: Compared) -> None:
    for name, compared in (("train", train), ("eval", held)):
        if compared.comparisons or (name == "eval" and not source.eval):
            continue
        if not compared.unpaired:
            raise source.empty(name)
        raise DataError(
            f"the {name} split has no preferences: none of its {len(compared.unpaired)} rows can "
            "be paired",
            "a pair needs a better and a worse answer to exactly the same prompt",
            "add answers of both kinds to the same prompts",
        )


def _rankings(
    comparisons: Sequence[Comparison], encoder: AnswerEncoder, source: Source, max_length: int
) -> tuple[list[Ranking], Losses]:
    """The comparisons that fit, and the count of what does not."""
    kept, losses = [], Losses()
    groups = [comparison.dialogues for comparison in comparisons]
    for comparison, answers in zip(comparisons, encoder.encode(groups), strict=True):
        if isinstance(answers, BadRow):
            source.problems.add(comparison.row, str(answers))
            continue
        ranking = _ranking(comparison, answers, max_length)
        total = sum(len(ids) - len(answers.prompt_ids) for ids in answers.wholes)
        losses.longest = max(losses.longest, *map(len, answers.wholes))
        losses.foreign += answers.foreign
        losses.kept += ranking.num_answer_tokens if ranking else 0
        losses.lost += total - (ranking.num_answer_tokens if ranking else 0)
        losses.pairs += len(comparison.pairs) - (len(ranking.pairs) if ranking else 0)
        if ranking:
            kept.append(ranking)
        else:
            losses.rows.append(comparison.row)
    source.problems.stop_if_too_many()
    return kept, losses


def _ranking(comparison: Comparison, answers: Answers, max_length: int) -> Ranking | None:
    """The answers that fit whole and their pairs; None if no pair is left."""
    fitting = {
        number
        for number, (ids, dialogue) in enumerate(
            zip(answers.wholes, comparison.dialogues, strict=True)
        )
        if len(ids) <= max_length and not dialogue.cut_characters
    }
    pairs = [pair for pair in comparison.pairs if {pair[0], pair[1]} <= fitting]
    if not pairs:
        return None
    used = sorted({number for better, worse, _ in pairs for number in (better, worse)})
    places = {number: place for place, number in enumerate(used)}
    return Ranking(
        comparison.row,
        tuple(answers.wholes[number] for number in used),
        tuple((places[better], places[worse], margin) for better, worse, margin in pairs),
        answers.prompt_ids,
        comparison.prompt,
        asked(comparison.prompt),
        tuple(comparison.dialogues[number].answer for number in used),
        comparison.dialogues[0].source,
    )


def _room(longest: int, context_length: int) -> str:
    if longest <= context_length:
        return f"set data.max_length: {longest} (the longest answer with its prompt)"
    return f"shorten these rows or leave them out: the model's context is {context_length} tokens"


def _counts(
    fit: FormatFit,
    split: Split[Comparison],
    compared: Sequence[Compared],
    train: Sequence[Ranking],
    held: Sequence[Ranking],
) -> dict[str, Any]:
    return {
        **split.facts,
        "rows_train": len(train),
        "rows_eval": len(held),
        "examples_train": len(train),
        "pairs_train": sum(len(ranking.pairs) for ranking in train),
        "pairs_eval": sum(len(ranking.pairs) for ranking in held),
        "unpaired_rows": sum(len(each.unpaired) for each in compared),
        "identical_answers": sum(each.identical for each in compared),
        "contradicting_pairs": sum(each.contradicting for each in compared),
        "tokens": sum(ranking.num_tokens for ranking in train),
        "longest": max(len(ranking.input_ids) for ranking in train),
        "template": fit.format.name,
        "template_origin": fit.origin,
        "tokens_sha256": sequences_sha256(list(chain.from_iterable(map(_numbers, train)))),
    }


def _numbers(ranking: Ranking) -> list[list[int]]:
    """All that the model learns from, as whole numbers; margins by their bits."""
    margins = [struct.unpack("<q", struct.pack("<d", margin))[0] for _, _, margin in ranking.pairs]
    places = [place for better, worse, _ in ranking.pairs for place in (better, worse)]
    return [[ranking.task], ranking.prompt_ids, *ranking.answers, places, margins]


def _warnings(report: dict[str, Any]) -> list[str]:
    texts = {
        "unpaired_rows": f"{report['unpaired_rows']} rows make no pair and are not used: there is "
        "no better and worse answer to the same prompt",
        "identical_answers": f"{report['identical_answers']} answers appear twice under the same "
        "prompt, or are both liked and disliked",
        "contradicting_pairs": f"{report['contradicting_pairs']} pairs left out: another row has "
        "the same answers in the opposite order",
        "pairs_too_long": f"{report['pairs_too_long']} pairs left out: one of their answers is "
        f"longer than {report['max_length']} tokens",
    }
    return [text for key, text in texts.items() if report[key]]
