"""Runs `tuner` commands in several processes at once, as torchrun would start them.

Run as `python -m tests.group`: the libraries are imported once, then every line on stdin, a JSON
object, becomes a group of forks; the answer on stdout has the exit code of each.

A request: `args` of the command, `world`, `machine` (how many of them are on one), `log` (takes
stdout and stderr of rank N with .N behind), and `traps`, by rank: a fault that this rank is given
(see `FAULTS`). What a rank opens for writing, makes, renames or removes is listed in the log's name
with .N.paths behind.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers.models.llama.modeling_llama
import transformers.trainer  # noqa: F401

import tests.unflushed  # noqa: F401
from tests.launcher import verify_in_a_fork
from tuner import cli
from tuner.data.tokens.collate import Collator
from tuner.errors import DataError
from tuner.record import checkpoint
from tuner.run import build as run_build
from tuner.tasks import callbacks, gradients, step_end
from tuner.tasks.leg import Leg

_WRITES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink")
PATIENCE = 60.0
# Seconds that a slow process takes.
SLOW = 8.0


def _not_finite() -> None:
    true = callbacks.StepLoss.__call__

    def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
        value = true(self, *args, **kwargs)
        if self.leg.step.number == 1:
            self.parts[-1] *= math.nan
            return value * math.nan
        return value

    callbacks.StepLoss.__call__ = broken  # type: ignore[method-assign]


def _bad_rows() -> None:
    def broken(self: Any, rows: Any) -> Any:
        raise DataError("a row is broken", "rank 1 alone has seen it", "mend it")

    Collator.__call__ = broken  # type: ignore[method-assign]


def _other_start() -> None:
    true = run_build.build

    def build(*args: Any) -> Any:
        built = true(*args)
        with torch.no_grad():
            next(p for p in built.parameters() if p.requires_grad).add_(1e-6)
        return built

    run_build.build = build


def _signalled() -> None:
    true = callbacks.StepLoss.__call__

    def signalled(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.leg.step.number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return true(self, *args, **kwargs)

    callbacks.StepLoss.__call__ = signalled  # type: ignore[method-assign]


def _killed() -> None:
    true = gradients.clip

    def clip(leg: Any, *args: Any) -> float:
        if leg.step.number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return true(leg, *args)

    gradients.clip = clip


def _no_weights() -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("this process has read the weights")

    run_build.open_weights = refuse  # type: ignore[attr-defined]


def _counted() -> None:
    sent: list[str] = []

    def counted(name: str) -> Any:
        true = getattr(torch.distributed, name)

        def send(*args: Any, **kwargs: Any) -> Any:
            sent.append(name)
            return true(*args, **kwargs)

        return send

    for name in ("all_reduce", "all_gather_object", "broadcast_object_list"):
        setattr(torch.distributed, name, counted(name))
    begin, end = Leg.begin_step, step_end.close

    def begin_step(leg: Leg, number: int) -> None:
        begin(leg, number)
        sent.clear()

    def close(leg: Leg) -> bool:
        ends = end(leg)
        sys.stderr.write(f"messages of step {leg.step.number + 1}: {' '.join(sent)}\n")
        return ends

    Leg.begin_step = begin_step  # type: ignore[method-assign]
    step_end.close = close


def _slow_to_seal() -> None:
    true = checkpoint.save

    def save(*args: Any, **kwargs: Any) -> Any:
        time.sleep(SLOW)
        return true(*args, **kwargs)

    checkpoint.save = save


FAULTS = {
    "not finite": _not_finite,
    "bad rows": _bad_rows,
    "other start": _other_start,
    "signalled": _signalled,
    "killed": _killed,
    "no weights": _no_weights,
    "slow to seal": _slow_to_seal,
    "counted": _counted,
}


def watch_paths(file: str) -> None:
    """List what this process writes to, makes, renames and removes."""
    listed = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def note(event: str, args: tuple[Any, ...]) -> None:
        writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
        opened = event == "open" and isinstance(args[0], str) and bool((args[2] or 0) & writes)
        if opened or event in _WRITES:
            paths = args[:2] if event in ("os.rename", "os.link") else args[:1]
            names = [os.path.abspath(p) for p in paths if isinstance(p, (str, os.PathLike))]
            os.write(listed, "".join(f"{name}\n" for name in names).encode())

    sys.addaudithook(note)


def rank(number: int, port: int, request: dict[str, Any]) -> None:
    world, here = request["world"], request["machine"]
    place = {"RANK": number, "WORLD_SIZE": world}
    place |= {"LOCAL_RANK": number % here, "LOCAL_WORLD_SIZE": here}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    log = os.open(f"{request['log']}.{number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    watch_paths(f"{request['log']}.{number}.paths")
    subprocess.run = verify_in_a_fork(subprocess.run)  # type: ignore[assignment]
    if fault := request.get("traps", {}).get(str(number)):
        FAULTS[fault]()
    try:
        cli.main(request["args"])
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(end.code or 0))


def group(request: dict[str, Any]) -> dict[str, Any]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    pids = []
    for number in range(request["world"]):
        pid = os.fork()
        if pid == 0:
            rank(number, port, request)
        pids.append(pid)
    codes: dict[int, int] = {}
    first, late = 0.0, False
    while len(codes) < len(pids):
        for pid in set(pids) - codes.keys():
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
                first = first or (time.monotonic() if codes[pid] else 0.0)
        if first and time.monotonic() > first + PATIENCE:
            late = True
            for pid in set(pids) - codes.keys():
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    seconds = time.monotonic() - first if first else 0.0
    return {"codes": [codes[pid] for pid in pids], "seconds": seconds, "late": late}


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(group(json.loads(line))) + "\n")
        sys.stdout.flush()


class Groups:
    """Starts such a process and asks it."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.group"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[1],
            text=True,
        )

    def __call__(
        self,
        recipe: Path,
        output: Path,
        *overrides: str,
        world: int = 2,
        machine: int = 0,
        verb: str = "sft",
        resume: bool = False,
        rehearse: bool = False,
        traps: dict[int, str] | None = None,
    ) -> dict[str, Any]:
        """Exit codes of all ranks, and seconds from the first failure to the last end."""
        args = [verb, "--recipe", str(recipe), "--output", str(output), "--json"]
        args += [word for each in overrides for word in ("--set", each)]
        args += ["--resume"] if resume else []
        args += ["--rehearse"] if rehearse else []
        request = {"args": args, "world": world, "machine": machine or world}
        request |= {"log": str(self.log), "traps": traps or {}}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))

    def said(self, number: int) -> str:
        """What a rank has written to stdout and stderr."""
        return Path(f"{self.log}.{number}").read_text("utf-8")

    def written(self, number: int) -> list[str]:
        """What a rank has opened for writing, made, renamed or removed."""
        return Path(f"{self.log}.{number}.paths").read_text("utf-8").splitlines()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


if __name__ == "__main__":
    main()
