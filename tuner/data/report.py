"""What became of every row: the numbers in `data_report.json` and their warnings."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from tuner.data.examples import Example, ExampleMaker, Tally
from tuner.data.rows import Rows


def _losses(train: Tally, held: Tally) -> dict[str, Any]:
    """What truncation took from the rows; unmarked keys are about the training rows."""
    total = train.supervised_kept + train.supervised_cut
    return {
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
    """The report of a run's data, JSON-able."""
    template = maker.chat_template
    report: dict[str, Any] = dict(rows.facts)
    report |= {
        "rows_train": len({example.row for example in train}),
        "rows_eval": len({example.row for example in held_out}),
        "examples_train": len(train),
        "skipped": [{"row": row, "reason": reason} for row, reason in rows.bad.found],
        "max_length": maker.max_length,
        "tokens": sum(example.num_tokens for example in train),
        "longest": max(example.num_tokens for example in train),
        "template": rows.fit.template.name,
        "template_origin": rows.fit.origin,
        "chat_template_origin": maker.chat_template_origin,
        "chat_template_sha256": template and hashlib.sha256(template.encode()).hexdigest(),
        "tokens_sha256": tokens_sha256(train),
    }
    report |= _losses(maker.train, maker.eval)
    report["warnings"] = _warnings(report)
    return report


def _warnings(report: dict[str, Any]) -> list[str]:
    def some(key: str) -> str:
        return ", ".join(report[key][:10]) + (", ..." if len(report[key]) > 10 else "")

    skipped = ", ".join(item["row"] for item in report["skipped"][:10])
    share = report["supervised_tokens_cut_share"]
    texts = {
        "skipped": f"{len(report['skipped'])} bad rows left out: {skipped}",
        "blank_rows": f"{report['blank_rows']} blank texts left out",
        "ignored_columns": f"columns not used: {some('ignored_columns')}",
        "rows_cut_while_reading": f"long texts cut on reading: {some('rows_cut_while_reading')}",
        "truncated_rows": f"{report['truncated_rows']} rows truncated to {report['max_length']} "
        f"tokens: {share:.1%} of what would be learned is cut",
        "dropped_no_answer_left": f"{report['dropped_no_answer_left']} rows dropped: truncation "
        "left none of their answer",
        "eval_dropped_no_answer_left": f"{report['eval_dropped_no_answer_left']} eval rows "
        "dropped: truncation left none of their answer",
        "eval_rows_also_in_train": f"{report['eval_rows_also_in_train']} eval rows also stand in "
        "train and were taken out",
        "special_tokens_in_text": f"{report['special_tokens_in_text']} special tokens stand in the "
        "rows' text and are kept literal (data.special_tokens_in_text)",
    }
    return [text for key, text in texts.items() if report[key]]


def tokens_sha256(examples: Iterable[Example]) -> str:
    """sha256 over the ids and the supervised flags of all examples, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(array("q", [len(example.input_ids), *example.input_ids]).tobytes())
        digest.update(bytes(example.supervised))
        if example.target or example.label is not None or example.task:
            further = [example.task, -1 if example.label is None else example.label]
            digest.update(array("q", [*further, *example.target]).tobytes())
    return digest.hexdigest()
