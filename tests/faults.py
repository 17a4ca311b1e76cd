"""Kill a child at, or fail, its k-th file system call: by patched Python functions or by ptrace.

The Python level works everywhere; the kernel level also sees what compiled libraries do, and needs
Linux on x86-64 and leave to trace one's own children.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tuner.errors import TunerError

# Numbers of the x86-64 system calls that change, open or flush files.
KERNEL = {
    **{1: "write", 2: "open", 18: "pwrite", 20: "writev", 40: "sendfile", 73: "flock"},
    **{74: "fsync", 75: "fdatasync", 77: "ftruncate", 82: "rename", 83: "mkdir", 84: "rmdir"},
    **{85: "creat", 86: "link", 87: "unlink", 90: "chmod", 91: "fchmod", 257: "openat"},
    **{258: "mkdirat", 263: "unlinkat", 264: "renameat", 268: "fchmodat", 316: "renameat2"},
    **{326: "copy_file_range", 76: "truncate"},
}
WRITES = ("write", "pwrite", "writev")
# What a full disk can refuse; opening counts only where it creates.
GROWS = (*WRITES, "sendfile", "copy_file_range", "fsync", "ftruncate", "mkdir", "mkdirat", "creat")
PYTHON = (
    *("mkdir", "open", "write", "fsync", "rename", "replace", "unlink", "rmdir", "chmod"),
    *("ftruncate", "pwrite", "truncate"),
)
RAX, RDX, RSI, RDI, ORIG_RAX = (8 * index for index in (10, 12, 13, 14, 15))
TRACEME, PEEKUSER, POKEUSER, SYSCALL, SETOPTIONS = 0, 3, 6, 24, 0x4200
KILL_WITH_TRACER, MARK_SYSCALLS = 0x100000, 1


@dataclass
class Fault:
    """What happens at the `at`-th call (from 0): `kill`, `torn` (half a write, kill), `fail`."""

    kind: str
    at: int
    level: str = "python"
    errno: int = 0
    only: tuple[str, ...] = ()


@dataclass
class Outcome:
    """How the child ended: `code` as of `os.waitstatus_to_exitcode`, and the call it was hit at."""

    code: int
    hit: str | None
    calls: list[str] = field(default_factory=list)


def can_trace() -> bool:
    """Whether the kernel level works here."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return run(lambda: None, Fault("kill", 10**9, "kernel")).code == 0


def run(action: Callable[[], Any], fault: Fault) -> Outcome:
    """Run `action` in a forked child under a fault."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(action, fault, writer)
    os.close(writer)
    try:
        if fault.level == "kernel":
            return _trace(pid, fault)
        with os.fdopen(reader, "rb", closefd=False) as file:
            calls = file.read().decode().split()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        hit = next((call[1:] for call in calls if call.startswith("!")), None)
        return Outcome(code, hit, [call.lstrip("!") for call in calls])
    finally:
        os.close(reader)


def results(module: str, *arguments: object) -> list[dict[str, Any]]:
    """The lines that a scenario prints, one for each fault."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=300)
    assert done.returncode == 0, done.stderr
    if done.stdout == "cannot trace\n":
        pytest.skip("this machine does not let a process trace its child")
    return [json.loads(line) for line in done.stdout.splitlines()]


def with_level(arguments: list[str]) -> list[str]:
    """`arguments` (kind, level) with `best` replaced by the best level there is.

    Where the kernel level is asked for and not to be had, says so and ends the process.
    """
    if arguments[1:] == ["best"]:
        return [arguments[0], "kernel" if can_trace() else "python"]
    if arguments[1:] == ["kernel"] and not can_trace():
        sys.stdout.write("cannot trace\n")
        sys.exit(0)
    return arguments


def sweep(
    folder: Path, fault: Fault, action: Callable[[Path], Any], template: Path
) -> Iterator[tuple[Path, Outcome]]:
    """Run the action once for every call that it makes, with the fault at that call."""
    while True:
        work = folder / f"{fault.level}-{fault.kind}-{fault.at}"
        shutil.copytree(template, work)
        outcome = run(lambda work=work: action(work), fault)  # type: ignore[misc]
        yield work, outcome
        if outcome.hit is None:
            return
        fault.at += 1


def print_line(outcome: Outcome, seen: dict[str, Any]) -> None:
    line = {"code": outcome.code, "hit": outcome.hit, "calls": outcome.calls, **seen}
    sys.stdout.write(json.dumps(line) + "\n")


def _child(action: Callable[[], Any], fault: Fault, report: int) -> None:
    code = 0
    try:
        if fault.level == "kernel":
            if ctypes.CDLL(None).ptrace(TRACEME, 0, 0, 0) != 0:
                os._exit(99)
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            _patch(fault, report)
        action()
    except TunerError as error:
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
        code = 70
    os._exit(code)


def _patch(fault: Fault, report: int) -> None:
    """Wrap the functions of `os`, and safetensors' writer as one big write."""
    count = 0
    tell = os.write

    def wrap(name: str, original: Callable[..., Any], *, tear: Callable[..., None]) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            hit = count == fault.at
            count += 1
            tell(report, f"{'!' if hit else ''}{name} ".encode())
            if hit:
                if fault.kind == "torn":
                    tear(*args, **kwargs)
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    def half(fd: int, data: Any, *rest: int) -> None:
        tell(fd, bytes(data)[: len(data) // 2])

    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    for name in PYTHON:
        setattr(os, name, wrap(name, getattr(os, name), tear=half if name == "write" else nothing))
    checkpoint = sys.modules.get("tuner.record.checkpoint")
    if checkpoint is not None:
        save_file = checkpoint.save_file  # type: ignore[attr-defined]

        def half_file(tensors: Any, path: Path, **kwargs: Any) -> None:
            save_file(tensors, path, **kwargs)
            with Path(path).open("r+b") as file:
                file.truncate(Path(path).stat().st_size // 2)

        checkpoint.save_file = wrap("save_file", save_file, tear=half_file)  # type: ignore[attr-defined]


def _trace(pid: int, fault: Fault) -> Outcome:
    libc = ctypes.CDLL(None)
    libc.ptrace.argtypes = [ctypes.c_long] * 4
    libc.ptrace.restype = ctypes.c_long
    status = os.waitpid(pid, 0)[1]
    if not os.WIFSTOPPED(status):
        return Outcome(os.waitstatus_to_exitcode(status), None)
    libc.ptrace(SETOPTIONS, pid, 0, KILL_WITH_TRACER | MARK_SYSCALLS)
    calls: list[str] = []
    hit = None
    entering, at_exit, forward = True, False, 0
    while True:
        libc.ptrace(SYSCALL, pid, 0, forward)
        forward = 0
        status = os.waitpid(pid, 0)[1]
        if not os.WIFSTOPPED(status):
            return Outcome(os.waitstatus_to_exitcode(status), hit, calls)
        if os.WSTOPSIG(status) != signal.SIGTRAP | 0x80:
            forward = os.WSTOPSIG(status)
            continue
        if entering:
            name = _relevant(libc, pid, fault)
            if name and len(calls) == fault.at:
                hit = name
                at_exit = _strike(libc, pid, fault, name)
            if name:
                calls.append(name)
        elif at_exit:
            at_exit = False
            if fault.kind == "fail":
                libc.ptrace(POKEUSER, pid, RAX, -fault.errno)
            else:
                os.kill(pid, signal.SIGKILL)
        entering = not entering


def _relevant(libc: Any, pid: int, fault: Fault) -> str | None:
    name = KERNEL.get(libc.ptrace(PEEKUSER, pid, ORIG_RAX, 0))
    if name is None or (name in WRITES and libc.ptrace(PEEKUSER, pid, RDI, 0) in (1, 2)):
        return None
    if name == "openat" and libc.ptrace(PEEKUSER, pid, RDX, 0) & os.O_CREAT:
        name = "creat"
    return name if not fault.only or name in fault.only else None


def _strike(libc: Any, pid: int, fault: Fault, name: str) -> bool:
    """Act at the entry of the call; True when there is more to do at its exit."""
    if fault.kind == "fail":
        libc.ptrace(POKEUSER, pid, ORIG_RAX, -1)
        return True
    if fault.kind == "torn" and name in ("write", "pwrite"):
        libc.ptrace(POKEUSER, pid, RDX, libc.ptrace(PEEKUSER, pid, RDX, 0) // 2)
        return True
    os.kill(pid, signal.SIGKILL)
    return False
