"""Every method and task: stopped, resumed, scored, exported (tests/gpu/matrix.py)."""

from __future__ import annotations

import time
from pathlib import Path

from tests.gpu import matrix
from tests.gpu.program import Bench, first_line

# What the suite does not run in each pull request, for a fake GPU in three minutes.
FEW = ("dora", "ptuning", "reward", "lora on gpt2", "lora with new tokens", "ppo")


def check(bench: Bench) -> None:
    """As many cases as time is left for; on a fake GPU a few, every one with `--all`.

    There a run that was stopped also has the bytes of one that was not.
    """
    names = list(matrix.CASES)
    if bench.fake and not bench.every:
        names = list(FEW)
    failed, done = [], 0
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
    bench.say(cases=done, failed=failed)
    bench.missed += failed
