"""What became of every row: the numbers in `data_report.json` and their warnings."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from tuner.console.formatting import counted
from tuner.data.example import Example
from tuner.data.example_maker import ExampleMaker
from tuner.data.sft_rows import Rows


def losses(maker: ExampleMaker) -> dict[str, Any]:
    """Return what `max_length` took from the rows; keys without eval are about training rows."""
    train, held = maker.train, maker.eval
    total = train.supervised_kept + train.supervised_cut
    return {
        "max_length": maker.max_length,
        "split_rows": len(train.pieces),
        "split_pieces": sum(train.pieces.values()),
        "eval_split_rows": len(held.pieces),
        "eval_split_pieces": sum(held.pieces.values()),
        "dropped_no_answer_left": len(train.dropped),
        "truncated_rows": len(train.truncated),
        "eval_dropped_no_answer_left": len(held.dropped),
        "eval_truncated_rows": len(held.truncated),
        "supervised_tokens": train.supervised_kept,
        "supervised_tokens_cut_share": round(train.supervised_cut / total, 6) if total else 0.0,
        "special_tokens_in_text": train.foreign + held.foreign,
    }


def report_of(
    rows: Rows,
    maker: ExampleMaker,
    train: Sequence[Example],
    held_out: Sequence[Example],
) -> dict[str, Any]:
    """Return the report of a run's data, JSON-able."""
    template = maker.chat_template
    report: dict[str, Any] = dict(rows.facts)
    report |= {
        "rows_train": len({example.row for example in train}),
        "rows_eval": len({example.row for example in held_out}),
        "examples_train": len(train),
        "skipped": [{"row": row, "reason": reason} for row, reason in rows.bad.found],
        "tokens": sum(example.num_tokens for example in train),
        "longest": max(example.num_tokens for example in train),
        "template": rows.fit.template.name,
        "template_origin": rows.fit.origin,
        "chat_template_origin": maker.chat_template_origin,
        "chat_template_sha256": template and hashlib.sha256(template.encode()).hexdigest(),
        "tokens_sha256": tokens_sha256(train),
    }
    report |= losses(maker)
    report["warnings"] = warnings_of(report)
    return report


def warnings_of(report: dict[str, Any]) -> list[str]:
    """Return what a reader of the report should not overlook, costliest first.

    Args:
        report: of the rows; a preview's lacks the counts of the split.
    """

    def some(key: str) -> str:
        return ", ".join(report[key][:10]) + (", ..." if len(report[key]) > 10 else "")

    def many(key: str, noun: str) -> str:
        return counted(report[key], noun)

    report = {"skipped": [], "unread_turn_keys": {}, "eval_rows_also_in_train": 0, **report}
    skipped = ", ".join(item["row"] for item in report["skipped"][:10])
    unread = ", ".join(
        f"'{key}' ({counted(count, 'turn')})" for key, count in report["unread_turn_keys"].items()
    )
    share, most = report["supervised_tokens_cut_share"], report["max_length"]
    texts = {
        "truncated_rows": f"{many('truncated_rows', 'row')} truncated to {most} tokens: "
        f"{share:.1%} of supervised tokens are cut off (data.long, data.max_length)",
        "rows_cut_while_reading": f"long texts cut while reading: {some('rows_cut_while_reading')}",
        "dropped_no_answer_left": f"{many('dropped_no_answer_left', 'row')} dropped: truncation "
        "left none of their answer",
        "eval_dropped_no_answer_left": f"{many('eval_dropped_no_answer_left', 'eval row')} "
        "dropped: truncation left none of their answer",
        "split_rows": f"{many('split_rows', 'long text')} split into {report['split_pieces']} "
        f"pieces of at most {most} tokens",
        "thumbs_down_rows": f"{many('thumbs_down_rows', 'row')} with a thumbs-down left out: "
        "disliked answers are not trained on",
        "skipped": f"{counted(len(report['skipped']), 'bad row')} left out: {skipped}",
        "blank_rows": f"{many('blank_rows', 'blank text')} left out",
        "unread_turn_keys": f"keys of turns that nothing reads: {unread}",
        "ignored_columns": f"columns not used: {some('ignored_columns')}",
        "eval_rows_also_in_train": "left out of the eval split because they are also in train: "
        f"{many('eval_rows_also_in_train', 'row')}",
        "special_tokens_in_text": "special tokens in the rows' text, kept literal "
        f"(data.special_tokens_in_text): {report['special_tokens_in_text']}",
    }
    return [text for key, text in texts.items() if report[key]]


def tokens_sha256(examples: Iterable[Example]) -> str:
    """Return the sha256 over the ids and the supervised flags of all examples, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(array("q", [len(example.input_ids), *example.input_ids]).tobytes())
        digest.update(bytes(example.supervised))
        if example.target or example.label is not None or example.task:
            further = [example.task, -1 if example.label is None else example.label]
            digest.update(array("q", [*further, *example.target]).tobytes())
    return digest.hexdigest()
