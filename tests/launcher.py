"""Runs `tuner` commands as processes that signal themselves at an exact place.

Run as `python -m tests.launcher`: the libraries are imported once, then every line on stdin, a JSON
object, becomes a process of its own; its outcome is the answer on stdout. The process that verifies
an export is a fork as well, so that a whole run takes less than a second.

A request: `args` of the command, `log` (a file that takes stdout and stderr), and `at`, null or
[place, number, signal]: the place's `number`-th event, or the event of step `number`, sends the
signal to the process itself. `kill` in place of `args` ends a process that a SIGSTOP has stopped.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
import transformers.models.llama.modeling_llama
import transformers.trainer  # noqa: F401

import tests.unflushed  # noqa: F401
from tuner import cli, evaluate
from tuner.export.proof import fresh_process
from tuner.record import checkpoint
from tuner.record.run_folder import RunFolder
from tuner.run import build, spine  # noqa: F401


def trap(place: str, number: int, send: int) -> None:
    """Send a signal to this process when it comes to a place."""
    counter = itertools.count(1)

    def here(event: int) -> None:
        if event == number:
            os.kill(os.getpid(), send)

    def after(true: Callable[..., Any], event: Callable[..., int]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = true(*args, **kwargs)
            here(event(*args))
            return result

        return wrapped

    def before(true: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            here(next(counter))
            return true(*args, **kwargs)

        return wrapped

    owner: Any
    if place == "logged":
        owner = RunFolder
        RunFolder.append_metrics = after(  # type: ignore[method-assign]
            RunFolder.append_metrics, lambda folder, values: int(values["step"])
        )
    elif place == "sealed":
        checkpoint.save = after(checkpoint.save, lambda folder, step, *rest: int(step))
    else:
        owner, name = {
            "sealing": (checkpoint, "save_file"),
            "loading": (build, "load"),
            "scoring": (evaluate, "score"),
            "verifying": (fresh_process, "fresh_logits"),
        }[place]
        setattr(owner, name, before(getattr(owner, name)))


def verify_in_a_fork(true: Callable[..., Any]) -> Callable[..., Any]:
    def start(command: list[str], **options: Any) -> Any:
        if "tuner.export.proof.fresh_process" not in command:
            return true(command, **options)
        child = os.fork()
        if child == 0:
            sys.argv = ["verify", command[-1]]
            fresh_process.main()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return subprocess.CompletedProcess(command, code, "", "failed in a fork, see its log")

    return start


def child(request: dict[str, Any]) -> None:
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    subprocess.run = verify_in_a_fork(subprocess.run)
    if request.get("at"):
        trap(*request["at"])
    try:
        cli.main(request["args"])
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(end.code or 0))


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        pid = request.get("kill")
        if pid:
            os.kill(pid, signal.SIGKILL)
        else:
            pid = os.fork()
            if pid == 0:
                child(request)
        status = os.waitpid(pid, os.WUNTRACED)[1]
        stopped = os.WIFSTOPPED(status)
        answer = {"pid": pid, "code": None if stopped else os.waitstatus_to_exitcode(status)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
