"""Points: the lines of metrics.jsonl as trackers take them, read while the file grows."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.record.run_json import METRICS

TRAIN, EVALUATION = "train", "eval"
# Part of the name of every figure of an evaluation in metrics.jsonl.
_EVALUATED = "eval_"
_SECONDS = ("seconds", "eval_seconds")
# What every tracker takes in a name.
_ODD = re.compile(r"[^A-Za-z0-9_./ -]")


@dataclass(frozen=True)
class Point:
    """The figures of a line of metrics.jsonl.

    Attributes:
        kind: `train` or `eval`.
        step: optimizer steps done.
        time: of the line, in seconds since 1970, by the seconds that the steps before it took: the
            same whenever it is read.
        figures: by name: `train/loss`, `eval/loss`.
    """

    kind: str
    step: int
    time: float
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Cursor:
    """How far a tracker has the lines of each kind, by their last step.

    A resumed run repeats the steps after its checkpoint: they are behind the cursor.
    """

    train: int = 0
    eval: int = 0

    def beyond(self, point: Point) -> bool:
        """Return whether the point is past what the tracker has."""
        return point.step > (self.train if point.kind == TRAIN else self.eval)

    def after(self, points: Sequence[Point]) -> Cursor:
        """Return the cursor after these points, too."""
        last = {TRAIN: self.train, EVALUATION: self.eval}
        for point in points:
            last[point.kind] = max(last[point.kind], point.step)
        return Cursor(last[TRAIN], last[EVALUATION])


class Points:
    """The points of a run, in the order of its metrics.

    Args:
        folder: of the run.
        started: when it began, in seconds since 1970.
    """

    def __init__(self, folder: Path, started: float = 0.0) -> None:
        self._file = folder / METRICS
        self._started = self._clock = started
        self._read = 0
        self.all: list[Point] = []

    def read(self) -> list[Point]:
        """Read what was written since the last call; return all points so far.

        A last line that is not complete yet is left for later.
        """
        if not self._file.is_file():
            return self.all
        if self._file.stat().st_size < self._read:
            # The run was resumed: steps after its checkpoint are taken again.
            self._read, self._clock, self.all = 0, self._started, []
        with open(self._file, "rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            if (point := self._point(json.loads(line))) is not None:
                self.all.append(point)
        return self.all

    def _point(self, line: Mapping[str, Any]) -> Point | None:
        self._clock += sum(float(line.get(name, 0.0)) for name in _SECONDS)
        kind = EVALUATION if any(name.startswith(_EVALUATED) for name in line) else TRAIN
        figures = {
            named(kind, name.removeprefix(_EVALUATED)): value
            for name, value in numbers(line).items()
            if name != "step"
        }
        return Point(kind, int(line["step"]), self._clock, figures) if figures else None


def named(*parts: str) -> str:
    """Return the name of a figure for trackers: its parts with slashes between."""
    return _ODD.sub("_", "/".join(parts))


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers among values, those of inner mappings with both names; never a
    text."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{inner}": item for inner, item in numbers(value).items()}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = float(value)
    return {name: value for name, value in found.items() if math.isfinite(value)}
