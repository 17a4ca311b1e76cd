"""Every method and task: stopped, resumed, scored, exported (tests/gpu/matrix.py)."""

from __future__ import annotations

import time
from pathlib import Path
from unittest import mock

from tests import here
from tests.gpu import matrix
from tests.gpu.program import Bench, first_line
from tuner.machine import processes

# What the suite does not run in each pull request, for a fake GPU in three minutes.
FEW = ("dora", "ptuning", "reward", "lora on gpt2", "lora with new tokens", "ppo")


def check(bench: Bench) -> None:
    """As many cases as time is left for; on a fake GPU a few, every one with `--all`.

    There a run that was stopped also has the bytes of one that was not.
    """
    names = list(matrix.CASES)
    if bench.fake and not bench.every:
        names = list(FEW)
    failed: list[str] = []
    # A process for each proof would take most of the time; `runs` has them.
    with mock.patch.object(processes, "fresh", here.fresh):
        done = _run(bench, names, failed)
    bench.say(cases=done, failed=failed)
    bench.missed += failed


def _run(bench: Bench, names: list[str], failed: list[str]) -> int:
    """Run cases and add those that fail to `failed`; return how many were run."""
    done = 0
    for name in names:
        if bench.left < 15:
            bench.say(not_run=names[done:])
            break
        started = time.monotonic()
        folder = Path(bench.folder) / f"matrix-{done}"
        folder.mkdir()
        done += 1
        try:
            matrix.run(matrix.CASES[name], folder, compare=bench.fake is not None and bench.every)
            status = "passed"
        except Exception as error:
            status = f"{type(error).__name__}: {first_line(error)}"
            failed.append(f"{name}: {status}")
        bench.write(
            check=bench.check,
            case=name,
            status=status,
            seconds=round(time.monotonic() - started, 1),
        )
    return done
