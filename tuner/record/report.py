"""report.html: the run on one self-contained page."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tuner.console import formatting
from tuner.record import proof_limits
from tuner.record.disk import write_file
from tuner.record.run_json import METRICS

if TYPE_CHECKING:
    from tuner.record.run_folder import RunFolder

_WIDTH, _HEIGHT, _MARGIN = 720, 240, 44
_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:760px;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}
th,td{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #8884;
vertical-align:top;overflow-wrap:anywhere}
pre{white-space:pre-wrap;margin:0;font:13px/1.4 ui-monospace,monospace}
svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:currentColor}
.axis{stroke:currentColor;opacity:.3}.line{fill:none;stroke:#2a78d6;stroke-width:2}
"""


def write(folder: RunFolder) -> None:
    """Write the page from the record and the metrics of a finished run."""
    record = folder.record
    lines = (folder.path / METRICS).read_text("utf-8").splitlines()
    metrics = [json.loads(line) for line in lines]
    name = html.escape(folder.path.name)
    scores = record["scores"]
    columns = [when for when in ("before", "after", "unquantized") if when in scores]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{name}</title>",
        f"<style>{_STYLE}</style><h1>{name}</h1>",
        f"<p>{html.escape(record['command'])}</p>",
        f"<p>{html.escape(_took(record))}</p>",
        *_curves(metrics),
        "<h2>Held-out rows</h2>",
        _table(
            ("metric", *columns),
            [
                (key, *(_number(scores[when].get(key)) for when in columns))
                for key in scores["after"]
            ],
        ),
        "<h2>Answers</h2>",
        *[
            _table(("", ""), [(key, item[key]) for key in ("prompt", "reference")])
            + _table(("before", "after"), [(item["answer"], item["after"])])
            for item in record["samples"]
        ],
        "<h2>Artefacts</h2>",
        _table(
            ("kind", "path", "bytes", "proof", "sha256"),
            [
                (a["kind"], a["path"], f"{a['bytes']:,}", proof_limits.verdict(a), a["sha256"])
                for a in record["artefacts"]
            ],
        ),
        "<h2>Plan</h2>",
        _table(
            ("key", "value", "from"),
            [
                (key, json.dumps(item["value"], ensure_ascii=False), item["origin"])
                for key, item in record["plan"]["values"].items()
            ],
        ),
    ]
    write_file(folder.path / "report.html", "\n".join(parts).encode())


def _took(record: Mapping[str, Any]) -> str:
    """Time and money of the run."""
    seconds, cost = record["durations"]["total"], record.get("cost")
    price = "" if cost is None else f", for {formatting.money(cost)}"
    return f"{formatting.duration(seconds)}{price}"


def _curves(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Loss by step and, for a policy, reward and KL."""
    parts = []
    for title, key in (
        ("Loss", "loss"),
        ("Reward", "reward"),
        ("KL to the reference policy", "kl"),
    ):
        points = [(line["step"], line[key]) for line in metrics if key in line]
        if points or key == "loss":
            parts += [f"<h2>{title}</h2>", _curve(points, title)]
    return parts


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f"<th>{html.escape(name)}" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td><pre>{html.escape(cell)}</pre>" for cell in row) for row in rows
    )
    return f"<table><tr>{titles}{body}</table>"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _curve(points: Sequence[tuple[int, float]], title: str) -> str:
    """A figure over the steps as an inline SVG."""
    if not points:
        return "<p>no steps were logged</p>"
    steps, losses = [p[0] for p in points], [p[1] for p in points]
    low, high = min(losses), max(losses)
    last = max(steps)
    spread, reach = (high - low) or 1.0, max(last - 1, 1)

    def place(step: int, loss: float) -> str:
        x = _MARGIN + (step - 1) / reach * (_WIDTH - 2 * _MARGIN)
        y = _HEIGHT - _MARGIN + (low - loss) / spread * (_HEIGHT - 2 * _MARGIN)
        return f"{x:.1f},{y:.1f}"

    path = " ".join(place(step, loss) for step, loss in points)
    bottom, right = _HEIGHT - _MARGIN, _WIDTH - _MARGIN
    marks: Mapping[str, Any] = {
        f'x="4" y="{_MARGIN + 4}"': f"{high:.3g}",
        f'x="4" y="{bottom + 4}"': f"{low:.3g}",
        f'x="{_MARGIN}" y="{_HEIGHT - 20}"': "step 1",
        f'x="{right - 30}" y="{_HEIGHT - 20}"': f"{last:,}",
    }
    texts = "".join(f"<text {where}>{text}</text>" for where, text in marks.items())
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title} by step">'
        f'<path class="axis" fill="none" d="M{_MARGIN},{_MARGIN}V{bottom}H{right}"/>'
        f'<polyline class="line" points="{path}"/>{texts}</svg>'
    )
