"""`python -m tests.bench.neighbours`: what a training loses to its neighbours on the processors.

Three figures for each way of waiting and each type: the speed alone, the share of it that is left
next to one busy process, and how much longer a step takes while a second training runs. "before" is
libgomp's own way, set as a user would set it; "after" is what `tuner` chooses. All trainings of a
type are started once and stopped (SIGSTOP); the measurements let them run in turn, so that whatever
else the machine does affects all alike.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench import rows

# libgomp's own count where the user has set nothing: its env.c.
BEFORE = {"GOMP_SPINCOUNT": "300000"}
_CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
# What is wanted of "after": speed alone of that before, share left, times one's time.
ALONE, LEFT, TWICE = 0.97, 0.45, 2.5

# Seconds of a step: "alone", "busy", "two".
Figures = dict[str, list[float]]


class Training:
    """A training in a process of its own, which runs only while it is measured."""

    def __init__(self, recipe: Path, output: Path, dtype: str, waiting: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "tuner", "sft", "--recipe", str(recipe), "--json"]
        command += ["--output", str(output), "--set", f"model.dtype={dtype}"]
        plain = {name: value for name, value in os.environ.items() if name not in _CHOSEN}
        self.moments = list[float]()
        self._log = output.with_suffix(".log")
        self._news = threading.Condition()
        with open(self._log, "w", encoding="utf-8") as errors:
            self._child = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
                env={**plain, **waiting},
                preexec_fn=_end_with_parent,
            )
        threading.Thread(target=self._listen, daemon=True).start()
        # It allocates; the step in which it is stopped is not measured either.
        self.wait(1)
        self.stop()

    def _listen(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            if line.startswith("{") and json.loads(line).get("event") == "progress":
                with self._news:
                    self.moments.append(time.perf_counter())
                    self._news.notify_all()
        with self._news:
            self._child.wait()
            self._news.notify_all()

    def wait(self, steps: int) -> None:
        """Return when so many steps are done, from the start on."""
        with self._news:
            self._news.wait_for(lambda: len(self.moments) >= steps or self._ended())
            if self._ended():
                raise SystemExit(f"no step:\n{self._log.read_text('utf-8')[-3000:]}")

    def _ended(self) -> bool:
        return self._child.returncode is not None

    def go(self) -> int:
        """Let it run; steps done when the one that was interrupted is over."""
        self._child.send_signal(signal.SIGCONT)
        return len(self.moments) + 1

    def stop(self) -> None:
        """Let it stand still."""
        self._child.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        """End it."""
        self._child.kill()
        self._child.wait()


def _end_with_parent() -> None:
    """A stopped process would stay for ever."""
    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def step_seconds(trainings: Sequence[Training], steps: int) -> float:
    """Seconds of a step while all of these run: of the slowest."""
    first = [training.go() for training in trainings]
    for training, done in zip(trainings, first, strict=True):
        training.wait(done + steps)
    found = [
        (training.moments[done + steps - 1] - training.moments[done - 1]) / steps
        for training, done in zip(trainings, first, strict=True)
    ]
    for training in trainings:
        training.stop()
    return max(found)


def busy() -> subprocess.Popen[bytes]:
    """A process that computes all the time on one processor."""
    return subprocess.Popen([sys.executable, "-c", "while True: pass"])


def next_to_busy(training: Training, steps: int) -> float:
    """Seconds of a step next to a process that computes all the time on one processor."""
    neighbour = busy()
    try:
        return step_seconds([training], steps)
    finally:
        neighbour.kill()
        neighbour.wait()


def write_recipe(given: argparse.Namespace, folder: Path) -> Path:
    """A recipe without end, each step of which has the same rows."""
    made = rows.alpaca_like(given.batch_size)
    text = "".join(json.dumps(item) + "\n" for item in made)
    (folder / "rows.jsonl").write_text(text, "utf-8")
    recipe = {
        "model": {"base": given.base},
        "data": {"train": "rows.jsonl", "eval": 0, "template": "instruction", "long": "truncate"},
        "method": {"name": "lora", "r": 16},
        "train": {
            "batch_size": given.batch_size,
            "epochs": 100_000,
            "max_steps": 100_000,
            "save_steps": 100_000,
            "scheduler": "constant",
            "learning_rate": 2e-4,
        },
        "eval": {"enabled": False, "samples": 0},
    }
    path = folder / "recipe.yaml"
    # JSON is YAML.
    path.write_text(json.dumps(recipe), "utf-8")
    return path


def measure(given: argparse.Namespace, dtype: str, recipe: Path) -> dict[str, Figures]:
    """Seconds of a step by each way of waiting, all in turn, several times."""
    started: dict[str, list[Training]] = {}
    found: dict[str, Figures] = {name: {} for name in given.ways}
    numbers = count()
    try:
        for name, waiting in given.ways.items():
            started[name] = []
            for _ in range(2):
                output = recipe.parent / f"run-{dtype}-{next(numbers)}"
                started[name].append(Training(recipe, output, dtype, waiting))
        measures: list[tuple[str, Callable[[list[Training]], float]]] = [
            # The smallest difference is looked for here.
            *[("alone", lambda pair: step_seconds(pair[:1], given.steps))] * 3,
            ("busy", lambda pair: next_to_busy(pair[0], given.steps)),
            ("two", lambda pair: step_seconds(pair, given.steps)),
        ]
        turn = list(started)
        for _ in range(given.rounds):
            for kind, take in measures:
                for name in turn:
                    seconds = take(started[name])
                    found[name].setdefault(kind, []).append(seconds)
                    print(f"{dtype:9} {name:10} {kind:5} {seconds:.3f} s", flush=True)
                turn = turn[1:] + turn[:1]
    finally:
        for training in (each for pair in started.values() for each in pair):
            training.end()
    return found


def summary(found: Mapping[str, Figures]) -> dict[str, dict[str, float]]:
    """Medians over the rounds; shares are of the first way's speed alone."""
    usual = median(next(iter(found.values()))["alone"])
    figures = {}
    for name, seconds in found.items():
        figures[name] = {
            "alone_step_seconds": median(seconds["alone"]),
            "alone_speed": usual / median(seconds["alone"]),
            "busy_speed": usual / median(seconds["busy"]),
            "two_times": median(seconds["two"]) / usual,
        }
    return figures


def table(result: Mapping[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| type | waiting | step alone | speed alone | next to a busy process | two at once |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for dtype, figures in result["figures"].items():
        for name, each in figures.items():
            lines.append(
                f"| {dtype} | {name} | {each['alone_step_seconds']:.2f} s | "
                f"{each['alone_speed']:.2f} | {each['busy_speed']:.2f} | "
                f"{each['two_times']:.2f} x |"
            )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.neighbours", description=__doc__)
    parser.add_argument("--base", default="smollm2-135m", help="alias or folder of the base")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--spins", nargs="+", default=[], help="further values of GOMP_SPINCOUNT")
    parser.add_argument("--output", type=Path, help="where the JSON goes")
    given = parser.parse_args()
    given.ways = {"before": BEFORE, "after": {}}
    given.ways |= {f"spin {spins}": {"GOMP_SPINCOUNT": spins} for spins in given.spins}
    return given


def main() -> int:
    """Measure; 1 where "after" is not what is wanted."""
    given = arguments()
    found = {}
    with tempfile.TemporaryDirectory(prefix="tuner-neighbours-") as place:
        recipe = write_recipe(given, Path(place))
        for dtype in given.dtypes:
            found[dtype] = measure(given, dtype, recipe)
    result = {
        "wanted": {"alone_speed": ALONE, "busy_speed": LEFT, "two_times": TWICE},
        "figures": {dtype: summary(each) for dtype, each in found.items()},
        "ways": given.ways,
        "step": {"rows": given.batch_size, "base": Path(given.base).name, "steps": given.steps},
        "machine": {
            "cpu_cores": len(os.sched_getaffinity(0)),
            "architecture": platform.machine(),
            "torch": version("torch"),
            "date": time.strftime("%Y-%m-%d"),
        },
        "rounds": found,
    }
    print("\n" + table(result))
    if given.output:
        given.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    kept = all(
        each["after"]["alone_speed"] >= ALONE
        and each["after"]["busy_speed"] >= LEFT
        and each["after"]["two_times"] <= TWICE
        for each in result["figures"].values()
    )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
