"""The plot of a comparison: an inline SVG, one labelled point per method."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.console.page import render

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 20, 52
RADIUS, LINE = 5.0, 14.0
# A little more than the average width of a letter of an 11 px sans-serif.
LETTER = 6.4


@dataclass(frozen=True)
class Box:
    """A rectangle of the plot, in its units."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """Return whether the two share more than an edge."""
        apart = self.right <= other.left or other.right <= self.left
        return not (apart or self.bottom <= other.top or other.bottom <= self.top)

    @property
    def inside(self) -> bool:
        """Return whether it is within the axes."""
        return (
            self.left >= LEFT
            and self.right <= WIDTH
            and self.top >= 0
            and self.bottom <= HEIGHT - BOTTOM
        )


def draw(points: Sequence[tuple[str, float, float]], score: str) -> str:
    """Plot the scores over the trainable parameters; nothing without points.

    Args:
        points: name, trainable parameters (1 or more, on a log axis) and score of each method.
        score: the name of the score.
    """
    if not points:
        return ""
    logs = [math.log10(max(count, 1.0)) for _, count, _ in points]
    x_low, x_high = _padded(logs, least=0.5)
    y_low, y_high = _padded([value for _, _, value in points], least=0.01)

    def x(log: float) -> float:
        return round(LEFT + (log - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        share = (value - y_low) / (y_high - y_low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    places = [(x(log), y(value)) for log, (_, _, value) in zip(logs, points, strict=True)]
    labels = place_labels([name for name, _, _ in points], places)
    return render(
        "plot.svg",
        score=score,
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        top=TOP,
        bottom=HEIGHT - BOTTOM,
        radius=RADIUS,
        x_ticks=[(x(log), _count(10**log)) for log in _log_ticks(x_low, x_high)],
        y_ticks=[(y(value), f"{value:g}") for value in _ticks(y_low, y_high)],
        points=[
            _point(name, cx, cy, box)
            for (name, _, _), (cx, cy), box in zip(points, places, labels, strict=True)
        ],
    )


def _point(name: str, x: float, y: float, box: Box) -> dict[str, Any]:
    """Return a point with its label, and where the line between them ends if it needs one."""
    edge = box.left if box.left > x else box.right
    middle = (box.top + box.bottom) / 2
    lead = f"{edge:.1f},{middle:.1f}" if abs(middle - y) > LINE else ""
    label = {"label_x": round(box.left, 1), "label_y": round(box.bottom - 4, 1)}
    return {"name": name, "x": x, "y": y, "lead": lead, **label}


def place_labels(names: Sequence[str], places: Sequence[tuple[float, float]]) -> list[Box]:
    """Return for every label the nearest box that covers no point and no other label."""
    taken = [Box(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in places]
    boxes = []
    for name, (x, y) in zip(names, places, strict=True):
        candidates = list(_candidates(x, y, len(name) * LETTER))
        free = (b for b in candidates if b.inside and not any(b.overlaps(t) for t in taken))
        box = next(free, candidates[0])
        taken.append(box)
        boxes.append(box)
    return boxes


def _candidates(x: float, y: float, width: float) -> Iterator[Box]:
    """Yield boxes right and left of a point, then further and further above and below."""
    offsets = [0.0]
    for number in range(1, int(2 * HEIGHT / LINE)):
        offsets += [-number * LINE / 2, number * LINE / 2]
    for offset in offsets:
        # A box higher or lower leaves room for the line that leads to it.
        gap = RADIUS + (3 if abs(offset) <= LINE else 15)
        top = y + offset - LINE / 2
        yield Box(x + gap, top, x + gap + width, top + LINE)
        yield Box(x - gap - width, top, x - gap, top + LINE)


def _padded(values: Sequence[float], least: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = max(0.08 * (high - low), least if high == low else 0.0)
    return low - pad, high + pad


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * each for each in (1, 2, 5, 10) if power * each >= rough)
    first = math.ceil(low / step)
    return [round(n * step, 10) for n in range(first, math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten; if there are fewer than three, also 2 and 5 times them."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1,), (1, 2, 5)):
        logs = [power + math.log10(factor) for power in powers for factor in factors]
        found = [log for log in logs if low <= log <= high]
        if len(found) >= 3:
            break
    return found


def _count(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
