"""The data of a run: rows to training examples and eval rows, with a report of every loss."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tuner.data.asked import asked
from tuner.data.dialogue import Dialogue
from tuner.data.example import Example
from tuner.data.example_maker import ExampleMaker, Pair
from tuner.data.labels import labels_of
from tuner.data.long import refuse_split, settle
from tuner.data.prepared import EvalRow, Prepared, Preview, max_length_of
from tuner.data.rendered import Rendered
from tuner.data.report import losses, report_of, warnings_of
from tuner.data.sft_rows import Rows, gather
from tuner.errors import DataError
from tuner.recipe.schema import DataSection

__all__ = ["EvalRow", "Example", "Prepared", "Preview", "max_length_of", "prepare", "preview"]
RAW_PROMPT_TOKENS = 32


def prepare(
    data: DataSection,
    tokenizer: Any,
    *,
    folder: Path,
    seed: int,
    context_length: int,
    stop_ids: Collection[int] = (),
    head: str = "language",
) -> Prepared:
    """Read, render, check, split, tokenize and truncate the data of a recipe.

    Args:
        data: the recipe's data section.
        tokenizer: a fast transformers tokenizer.
        folder: the recipe's folder; relative paths are looked up there, else in the current one.
        seed: chooses the held-out rows.
        context_length: tokens that the model can take.
        stop_ids: further token ids that end an answer, next to the tokenizer's eos.
        head: what the examples are for: language, sequence or classes.

    Raises:
        DataError: the rows cannot be read, do not fit the template, or leave nothing to train on.
        RecipeError: a key of the data section names something that does not exist.
        ModelError: the tokenizer or its chat template does not fit.
        SafetyError: the chat template is not safe to run.
    """
    max_length = max_length_of(data, context_length)
    rows = gather(data, folder, seed, max_length)
    labels = _labels(data, rows, head)
    maker = ExampleMaker(data, rows.fit.template, tokenizer, max_length, stop_ids, head, labels)
    rows.facts["unread_turn_keys"] = maker.unread_keys([*rows.train, *rows.eval])
    pairs = maker.encode(rows.train, rows.problems)
    held = maker.encode(rows.eval, rows.problems, prompts=True)
    pairs, held = settle(data, maker, (pairs, held), context_length)
    train = _train(pairs, rows, maker)
    evals = _eval(held, rows, maker, labels, tokenizer)
    report = report_of(rows, maker, train, [row.example for row in evals])
    if rows.fit.template.label and not data.labels:
        report["labels"] = list(labels)
    if labels and head != "classes":
        without = sum(row.gold is None for row in evals)
        report["eval_rows_without_label"] = without
        if without:
            report["warnings"].append(
                f"{without} of {len(evals)} eval rows have an answer that is not one of the labels "
                "(or does not fit): they do not count for label accuracy"
            )
    reasons = maker.reasons(rows.train)
    report["rows_with_reasoning"] = sum(reasons)
    return Prepared(
        train,
        evals,
        rows.fit.template.name,
        labels,
        maker.chat_template,
        report,
        maker.defaults(reasons),
        maker.plain_template,
        tuple(asked(pairs, maker)),
    )


def preview(
    data: DataSection,
    tokenizer: Any,
    *,
    folder: Path,
    seed: int,
    context_length: int,
    stop_ids: Collection[int] = (),
    head: str = "language",
) -> tuple[list[Preview], list[str]]:
    """Render the training rows, with the supervised spans marked; arguments as for `prepare`.

    Returns:
        The rows, and what a reader should not overlook in them.

    Raises:
        TunerError: as `prepare` does, except for rows that truncation leaves without an answer.
    """
    data = data.model_copy(update={"eval": 0})
    max_length = max_length_of(data, context_length)
    rows = gather(data, folder, seed, max_length)
    labels = _labels(data, rows, head, few=True)
    maker = ExampleMaker(data, rows.fit.template, tokenizer, max_length, stop_ids, head, labels)
    rows.facts["unread_turn_keys"] = maker.unread_keys([*rows.train, *rows.eval])
    encoded = maker.encode(rows.train, rows.problems)
    (pairs,) = settle(data, maker, (encoded,), context_length)
    maker.cut(pairs, maker.train)
    shown = []
    for pair in pairs:
        made = maker.example(*pair)
        # What an encoder-decoder writes, or the class, comes after what is read.
        written = list(made.target)
        if made.label is not None:
            written = tokenizer(labels[made.label], add_special_tokens=False)["input_ids"]
        ids = made.input_ids + written
        supervised = made.supervised + [True] * len(written)
        whole = maker.whole_length(pair[1], made)
        spans = _spans(tokenizer, ids, supervised)
        shown.append(Preview(made.row, spans, whole, made.num_tokens < whole, ids))
    return shown, warnings_of(rows.facts | losses(maker))


def _labels(data: DataSection, rows: Rows, head: str, few: bool = False) -> tuple[str, ...]:
    template = rows.fit.template
    refuse_split(data, template, head)
    held_out = [] if isinstance(data.eval, str) else rows.eval
    return labels_of(data, template, [*rows.train, *held_out], head, few)


def _train(pairs: Sequence[Pair], rows: Rows, maker: ExampleMaker) -> list[Example]:
    kept = [example for _, example in maker.cut(pairs, maker.train)]
    longest = max((len(encoded.ids) for _, encoded in pairs), default=0)
    maker.stop_if_too_many_dropped(len(rows.train), {example.row for example in kept}, longest)
    if not kept:
        raise DataError(
            "the train split is empty",
            "none of its rows could be rendered and kept",
            "see `tuner data preview`",
        )
    return kept


def _eval(
    pairs: Sequence[Pair],
    rows: Rows,
    maker: ExampleMaker,
    labels: Sequence[str],
    tokenizer: Any,
) -> list[EvalRow]:
    kept = maker.cut(pairs, maker.eval)
    if rows.eval and not kept:
        raise DataError(
            "the eval split is empty",
            f"at data.max_length {maker.max_length} no held-out row keeps any of its answer",
            "set a larger data.max_length, or data.eval: 0",
        )
    if rows.fit.template.text is not None and maker.head == "language":
        return [_continuation(example, tokenizer) for _, example in kept]
    return [_eval_row(pair, example, maker, labels) for pair, example in kept]


def _eval_row(pair: Pair, example: Example, maker: ExampleMaker, labels: Sequence[str]) -> EvalRow:
    rendered, encoded = pair
    answer = rendered.dialogue.answer.strip()
    if example.label is not None:
        text = _prompt_text(rendered)
        return EvalRow(example, example.input_ids, text, answer, [], example.label)
    options = maker.options(rendered, labels) if answer in labels else None
    return EvalRow(
        example,
        example.input_ids if example.target else encoded.prompt_ids,
        _prompt_text(rendered),
        rendered.reference,
        options or [],
        labels.index(answer) if options else None,
    )


def _continuation(example: Example, tokenizer: Any) -> EvalRow:
    """Raw text has no prompt: its beginning is one, what follows is the reference."""
    ids = example.input_ids
    border = max(1, min(RAW_PROMPT_TOKENS, len(ids) // 2))
    prompt = tokenizer.decode(ids[:border], skip_special_tokens=True)
    reference = tokenizer.decode(ids[border:], skip_special_tokens=True)
    return EvalRow(example, ids[:border], prompt, reference, [], None)


def _prompt_text(rendered: Rendered) -> str:
    dialogue: Dialogue = rendered.dialogue
    if dialogue.segments:
        return rendered.text[: rendered.prompt_end].rstrip()
    asked = [m["content"] for m in dialogue.messages[:-1] if m["role"] != "assistant"]
    return str(asked[-1]) if asked else rendered.text[: rendered.prompt_end]


def _spans(tokenizer: Any, ids: list[int], supervised: list[bool]) -> list[tuple[str, bool]]:
    spans = []
    for flag, group in groupby(zip(ids, supervised, strict=True), key=lambda pair: pair[1]):
        spans.append((str(tokenizer.decode([index for index, _ in group])), flag))
    return spans
