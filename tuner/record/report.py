"""report.html: the run on one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tuner.console import formatting, page
from tuner.record import gates, proof_limits, selection
from tuner.record.disk import write_file
from tuner.record.run_json import read_metrics

if TYPE_CHECKING:
    from tuner.record.run_folder import RunFolder

_WIDTH, _HEIGHT, _MARGIN = 720, 240, 44


def write_report(folder: RunFolder) -> None:
    """Write the page from the record and the metrics of a finished run."""
    record = folder.record
    scores = record["scores"]
    columns = [
        when for when in ("before", "after", "last", "test", "unquantized") if when in scores
    ]
    text = page.render(
        "run.html",
        name=folder.path.name,
        record=record,
        took=_took(record),
        curves=_curves(read_metrics(folder.path), record.get("evaluation") or {}),
        columns=columns,
        chosen=selection.said(record.get("evaluation") or {}),
        gates=[(gate["passed"], gates.said(gate)) for gate in record.get("gates") or ()],
        scores=[
            (key, *(formatting.value(scores[when].get(key)) for when in columns))
            for key in scores["after"]
        ],
        artefacts=[
            (a["kind"], a["path"], f"{a['bytes']:,}", proof_limits.verdict(a), a["sha256"])
            for a in record["artefacts"]
        ],
        plan=[
            (key, json.dumps(item["value"], ensure_ascii=False), item["origin"])
            for key, item in record["plan"]["values"].items()
        ],
    )
    write_file(folder.path / "report.html", text.encode())


def _took(record: Mapping[str, Any]) -> str:
    """Time and money of the run."""
    seconds, cost = record["durations"]["total"], record.get("cost")
    price = "" if cost is None else f", for {formatting.money(cost)}"
    return f"{formatting.duration(seconds)}{price}"


def _curves(
    metrics: Sequence[Mapping[str, Any]], evaluation: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Loss by step; for a policy, reward and KL; and the metric that evaluations go by."""
    titles = {"loss": "Loss", "reward": "Reward", "kl": "KL to the reference policy"}
    if name := evaluation.get("metric"):
        titles[f"eval_{name}"] = f"{name} of the held-out rows"
    by_key = {key: [(row["step"], row[key]) for row in metrics if key in row] for key in titles}
    return [
        (titles[key], _curve(points, titles[key]))
        for key, points in by_key.items()
        if points or key == "loss"
    ]


def _curve(points: Sequence[tuple[int, float]], title: str) -> str:
    """A figure over the steps as an inline SVG; nothing without points."""
    if not points:
        return ""
    steps, losses = [p[0] for p in points], [p[1] for p in points]
    low, high = min(losses), max(losses)
    last = max(steps)
    spread, reach = (high - low) or 1.0, max(last - 1, 1)

    def place(step: int, loss: float) -> str:
        x = _MARGIN + (step - 1) / reach * (_WIDTH - 2 * _MARGIN)
        y = _HEIGHT - _MARGIN + (low - loss) / spread * (_HEIGHT - 2 * _MARGIN)
        return f"{x:.1f},{y:.1f}"

    path = " ".join(place(step, loss) for step, loss in points)
    return page.render(
        "curve.svg",
        title=title,
        width=_WIDTH,
        height=_HEIGHT,
        margin=_MARGIN,
        points=path,
        high=f"{high:.3g}",
        low=f"{low:.3g}",
        last=f"{last:,}",
    )
