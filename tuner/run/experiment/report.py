"""The table and the page of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.console import formatting
from tuner.console.page import render
from tuner.run.experiment import plot, results

_WHOLE = "* the whole model: the method has no adapter"


def table(record: Mapping[str, Any], errors: bool) -> tuple[list[str], list[list[str]]]:
    """Return head and cells; with `errors`, a column for them if a run failed."""
    rows = record["rows"]
    accuracy = record["score"] if record["score"] != "loss" else ""
    scores = [name for name in (accuracy, "loss") if name]
    failed = errors and any(row["exit_code"] for row in rows)
    head = ["method", "trained", "weights"]
    for name in scores:
        head += [f"{name} before", "after"]
    head += ["memory", "time", *(["error"] if failed else [])]
    return head, [_cells(row, scores, failed) for row in rows]


def _cells(row: Mapping[str, Any], scores: list[str], failed: bool) -> list[str]:
    cells = [row["name"], formatting.value(row["trainable_parameters"])]
    size = row["weights_bytes"]
    whole = "" if row["artefact"] in (None, "adapter") else "*"
    cells.append("-" if size is None else f"{formatting.size(size)}{whole}")
    for name in scores:
        cells += [formatting.value((row[when] or {}).get(name)) for when in ("before", "after")]
    memory, seconds = row["peak_memory_bytes"], row["seconds"]
    cells.append("-" if memory is None else formatting.size(memory))
    cells.append(row["status"] if seconds is None else formatting.duration(seconds))
    if failed:
        cells.append(f"exit {row['exit_code']}: {results.said(row)}" if row["exit_code"] else "")
    return cells


def notes(record: Mapping[str, Any]) -> list[str]:
    """Return the notes on the table, one per line."""
    same = record["equal"]
    lines = [
        f"{same['base']}; {same['rows']:,} rows, {same['steps']:,} steps of {same['batch_size']} "
        f"rows, seed {same['seed']}; scored on {same['held_out_rows']:,} held-out rows"
    ]
    lines += [repeats(row["name"], row["same_as"]) for row in record["rows"] if row.get("same_as")]
    whole = any(row["artefact"] not in (None, "adapter") for row in record["rows"])
    return [*lines, *([_WHOLE] if whole else [])]


def repeats(name: str, first: str) -> str:
    """Return a line for a run that repeats another."""
    return f"{name} is the same run as {first}: their options give the same updates"


def markdown(record: Mapping[str, Any]) -> str:
    """Return the table in Markdown, to paste into a README."""
    head, rows = table(record, errors=True)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    text = [f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines]
    remarks = [line.replace("*", "\\*") for line in notes(record)]
    return "\n".join([*text, "", *("  \n".join(remarks)).split("\n"), ""])


def _escaped(cell: str) -> str:
    return formatting.clean(cell).replace("\n", " ").replace("|", "\\|").replace("*", "\\*")


def page(record: Mapping[str, Any]) -> str:
    """Return the page: self-contained, without scripts."""
    head, rows = table(record, errors=True)
    score = record["score"]
    points = [
        (row["name"], row["trainable_parameters"], row["after"][score])
        for row in record["rows"]
        if (row["after"] or {}).get(score) is not None
    ]
    text = render(
        "comparison.html",
        name=record["recipe"],
        notes=notes(record),
        head=head,
        rows=[list(zip(head, map(formatting.clean, row), strict=True)) for row in rows],
        plot=plot.draw(points, score),
    )
    return f"{text}\n"
