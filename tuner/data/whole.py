"""What is kept whole or left out, never cut: the count of it, its limit, and the report."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuner.console.formatting import counted
from tuner.data.example_maker import MAX_LOST_SHARE, ExampleMaker
from tuner.data.files import Source
from tuner.errors import DataError, RecipeError
from tuner.recipe.schema import DataSection


@dataclass
class Losses:
    """What did not fit into `max_length` tokens.

    Args:
        rows: the rows left out.
        longest: tokens of the longest text, fitting or not.
        kept: supervised tokens of what is kept.
        lost: supervised tokens of what is left out.
        pairs: pairs left out.
        foreign: special tokens in the rows' text.
    """

    rows: list[str] = field(default_factory=list)
    longest: int = 0
    kept: int = 0
    lost: int = 0
    pairs: int = 0
    foreign: int = 0


def refuse_cuts(data: DataSection) -> None:
    """Refuse a recipe that wants prompts or answers cut.

    Raises:
        RecipeError: `data.long` is truncate or split.
    """
    if data.long in ("truncate", "split"):
        raise RecipeError(
            f"data.long: {data.long}, but preferences and prompts are never cut",
            "half a prompt asks something else, and half an answer is another answer",
            "leave data.long out (rows that do not fit are dropped, if few), or set it to error",
        )


def stop_if_too_many(
    losses: Losses, count: int, max_length: int, what: str, room: str, long: str = "auto"
) -> None:
    """Raise when too many training rows do not fit.

    Args:
        losses: of the training rows.
        count: how many there were.
        max_length: tokens that fit.
        what: what is too long, in the plural.
        room: what to set so that all fit, or why nothing can be set.
        long: the recipe's `data.long`.

    Raises:
        DataError: more than a tenth of the rows, or all; with `data.long: error` any.
    """
    lost = len(losses.rows)
    if lost <= (0 if long == "error" else MAX_LOST_SHARE) * count and lost < count:
        return
    raise DataError(
        f"{lost} of {count} training rows ({lost / count:.0%}) are left out: {what} longer than "
        f"{max_length} tokens are never cut",
        f"the longest has {losses.longest} tokens; e.g. {', '.join(losses.rows[:3])}",
        room,
    )


def base_report(
    source: Source, used: frozenset[str], maker: ExampleMaker, train: Losses, held: Losses
) -> dict[str, Any]:
    """Return the keys that every data report has, except the counts of what is kept."""
    template = maker.chat_template
    total = train.kept + train.lost
    return {
        **source.facts(used),
        "skipped": [{"row": row, "reason": reason} for row, reason in source.bad.found],
        "max_length": maker.max_length,
        "chat_template_origin": maker.chat_template_origin,
        "chat_template_sha256": template and hashlib.sha256(template.encode()).hexdigest(),
        "truncated_rows": 0,
        "dropped_too_long": len(train.rows),
        "eval_dropped_too_long": len(held.rows),
        "supervised_tokens": train.kept,
        "supervised_tokens_cut_share": round(train.lost / total, 6) if total else 0.0,
        "special_tokens_in_text": train.foreign + held.foreign,
    }


def base_warnings(report: dict[str, Any]) -> list[str]:
    """Return what a reader of the report should not overlook."""

    def some(names: Sequence[str]) -> str:
        return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")

    def many(key: str, noun: str) -> str:
        return counted(report[key], noun)

    most = report["max_length"]
    texts = {
        "skipped": f"{counted(len(report['skipped']), 'bad row')} left out: "
        + some([item["row"] for item in report["skipped"]]),
        "ignored_columns": f"columns not used: {some(report['ignored_columns'])}",
        "dropped_too_long": f"{many('dropped_too_long', 'row')} left out: longer than {most} "
        "tokens, and rows are never cut",
        "eval_dropped_too_long": f"{many('eval_dropped_too_long', 'eval row')} left out: longer "
        f"than {most} tokens",
        "eval_rows_also_in_train": "left out of the eval split because their prompts are in train: "
        f"{many('eval_rows_also_in_train', 'row')}",
        "special_tokens_in_text": "special tokens in the rows' text, kept literal "
        f"(data.special_tokens_in_text): {report['special_tokens_in_text']}",
    }
    return [text for key, text in texts.items() if report[key]]


def sequences_sha256(sequences: Collection[Sequence[int]]) -> str:
    """Return the sha256 over sequences of whole numbers, in order."""
    digest = hashlib.sha256()
    for numbers in sequences:
        digest.update(array("q", [len(numbers), *numbers]).tobytes())
    return digest.hexdigest()
