"""How `python -m tests.gpu` runs its checks: in order, each with its seconds, results at once."""

from __future__ import annotations

import contextlib
import gc
import json
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from tests.gpu.fake import Fake


class Skipped(Exception):
    """A check that cannot be made here; the text says why."""


class OutOfTime(Exception):
    """A check that took longer than it may."""


@dataclass(frozen=True)
class Check:
    """One line of the program.

    Attributes:
        name: for `--only`.
        seconds: what it takes at most on an H100; it begins only if they are left.
        function: makes the check; it raises where something is wrong.
    """

    name: str
    seconds: int
    function: Callable[[Bench], None]


@dataclass
class Bench:
    """What a check works with.

    Attributes:
        folder: for the files of the checks.
        lines: takes a JSON line for each result.
        until: when the time is over, by `time.monotonic`.
        fake: the fake GPU, None on a real one.
        every: whether the matrix is run whole.
        values: results of the check that runs.
        missed: its bars that were missed.
        kept: what a check leaves for those behind it.
    """

    folder: Path
    lines: Path
    until: float
    fake: Fake | None = None
    every: bool = False
    values: dict[str, Any] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    kept: dict[str, Any] = field(default_factory=dict)
    check: str = ""

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.until - time.monotonic()

    def say(self, **values: Any) -> None:
        """Write results at once, and keep them for the table."""
        self.values |= values
        self.write(check=self.check, **values)

    def bar(
        self,
        name: str,
        value: float,
        most: float | None = None,
        least: float | None = None,
        speed: bool = False,
    ) -> None:
        """Compare a result with its bar; `speed` bars and sizes mean nothing on a fake GPU."""
        met = (most is None or value <= most) and (least is None or value >= least)
        judged = not (speed and self.fake)
        bar = f"<= {most:g}" if most is not None else f">= {least:g}"
        self.say(**{name: value, f"{name}_bar": bar if judged else "not judged on a fake GPU"})
        if judged and not met:
            self.missed.append(f"{name} is {value:.4g}, the bar is {bar}")

    def write(self, **values: Any) -> None:
        """Add a line to the results."""
        with self.lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values, default=str) + "\n")


def run(bench: Bench, checks: Sequence[Check]) -> list[dict[str, Any]]:
    """Run the checks that time is left for; return a row of the table for each."""
    table = []
    for check in checks:
        started = time.monotonic()
        bench.check, bench.values, bench.missed = check.name, {}, []
        if bench.left < check.seconds:
            status = f"left out: {bench.left:.0f} s were left, it may take {check.seconds}"
        else:
            status = _outcome(bench, check)
        row = {
            "check": check.name,
            "status": status,
            "seconds": round(time.monotonic() - started, 1),
        }
        bench.write(**row)
        table.append({**row, "values": bench.values})
        gc.collect()
        torch.cuda.empty_cache()
    return table


def _outcome(bench: Bench, check: Check) -> str:
    # Twice the time: a fake or a cold machine is slow; what hangs must not take all that is left.
    limit = int(min(bench.left, 2 * check.seconds if not bench.fake else bench.left)) + 1
    try:
        with _alarm(limit):
            check.function(bench)
    except Skipped as reason:
        return f"skipped: {reason}"
    except OutOfTime:
        return f"failed: not done after {limit} s"
    except Exception as error:
        bench.write(check=check.name, traceback=traceback.format_exc())
        return f"failed: {type(error).__name__}: {first_line(error)}"
    return "failed: " + "; ".join(bench.missed) if bench.missed else "passed"


def first_line(error: BaseException) -> str:
    """Return the beginning of an error's text."""
    return (str(error).strip().splitlines() or [""])[0][:300]


@contextlib.contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    def ring(*args: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Return the seconds that a call takes on the GPU, after one that does not count."""
    call()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def show(table: Sequence[dict[str, Any]]) -> str:
    """Return the table of all checks, with the figures that the checks gave."""
    lines = []
    for row in table:
        lines.append(f"{row['check']:<12} {row['seconds']:>6.1f} s  {row['status']}")
        for name, value in row["values"].items():
            if isinstance(value, float):
                value = f"{value:.5g}"
            lines.append(f"{'':<21}{name}: {value}")
    return "\n".join(lines)
