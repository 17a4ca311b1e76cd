"""What became of every row: the numbers in `data_report.json` and their warnings."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from tuner.data.examples import Example, ExampleMaker, Tally
from tuner.data.rows import Rows


def losses(tally: Tally) -> dict[str, Any]:
    """What truncation took from the training rows; to be called before the eval rows are cut."""
    total = tally.supervised_kept + tally.supervised_cut
    return {
        "dropped_no_answer_left": len(tally.dropped),
        "truncated_rows": len(tally.truncated),
        "supervised_tokens": tally.supervised_kept,
        "supervised_tokens_cut_share": round(tally.supervised_cut / total, 6) if total else 0.0,
    }


def report_of(
    rows: Rows,
    maker: ExampleMaker,
    train: Sequence[Example],
    rows_eval: int,
) -> dict[str, Any]:
    """The report, but for `losses`."""
    template = maker.chat_template
    report: dict[str, Any] = dict(rows.facts)
    report |= {
        "rows_train": len({example.row for example in train}),
        "rows_eval": rows_eval,
        "examples_train": len(train),
        "skipped": [{"row": row, "reason": reason} for row, reason in rows.bad.found],
        "max_length": maker.max_length,
        "tokens": sum(len(example.input_ids) for example in train),
        "longest": max(len(example.input_ids) for example in train),
        "special_tokens_in_text": maker.tally.foreign,
        "template": rows.fit.template.name,
        "template_origin": rows.fit.origin,
        "chat_template_origin": maker.chat_template_origin,
        "chat_template_sha256": template and hashlib.sha256(template.encode()).hexdigest(),
        "tokens_sha256": tokens_sha256(train),
    }
    report["warnings"] = _warnings(report, maker)
    return report


def _warnings(report: dict[str, Any], maker: ExampleMaker) -> list[str]:
    warnings = []
    if report["skipped"]:
        rows = ", ".join(item["row"] for item in report["skipped"][:10])
        warnings.append(f"{len(report['skipped'])} bad rows left out: {rows}")
    if report["blank_rows"]:
        warnings.append(f"{report['blank_rows']} blank texts left out")
    if report["ignored_columns"]:
        warnings.append(f"columns not used: {', '.join(report['ignored_columns'])}")
    if report["rows_cut_while_reading"]:
        rows = ", ".join(report["rows_cut_while_reading"][:10])
        warnings.append(f"very long texts cut while reading: {rows}")
    if maker.tally.truncated:
        warnings.append(f"{len(maker.tally.truncated)} rows truncated to {maker.max_length} tokens")
    if maker.tally.dropped:
        warnings.append(
            f"{len(maker.tally.dropped)} rows dropped: truncation left none of their answer"
        )
    if report["eval_rows_also_in_train"]:
        count = report["eval_rows_also_in_train"]
        warnings.append(f"{count} eval rows also stand in train and were taken out")
    if report["special_tokens_in_text"]:
        warnings.append(
            f"{report['special_tokens_in_text']} special tokens in the rows' text, kept literal "
            "(data.special_tokens_in_text)"
        )
    return warnings


def tokens_sha256(examples: Iterable[Example]) -> str:
    """sha256 over the ids and the supervised flags of all examples, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(array("q", [len(example.input_ids), *example.input_ids]).tobytes())
        digest.update(bytes(example.supervised))
    return digest.hexdigest()
