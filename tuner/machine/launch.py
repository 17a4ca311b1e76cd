"""Several processes: the same command again, once per device, under one parent.

torchrun, `accelerate launch` and Kubernetes' operators set a process's place in variables, Slurm in
its own; such processes are used as started. Otherwise this module starts them. It does not use
torchrun, which kills a rank 30 seconds after a signal, even during its last step or while it seals
its checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from tuner.errors import Interrupted, RecipeError, ResourceError, TunerError
from tuner.machine import failure, hardware, processes, ranks, threads
from tuner.machine.signals import StopRequest

# Set for processes that this module has started: to the day, which they must not see change.
LAUNCHED = "TUNER_LAUNCHED"
# Seconds for the others to end by themselves after one has failed, and then after SIGTERM.
_GRACE, _LAST = 10.0, 10.0
_FIRST_HOST = re.compile(r"([^\[,]+)(?:\[([^\],-]+))?")


@dataclass(frozen=True)
class Group:
    """The processes that one parent starts.

    Attributes:
        devices: on this machine.
        nodes: machines.
        node: the number of this machine.
    """

    devices: int
    nodes: int
    node: int

    @classmethod
    def of(cls, devices: int, nodes: int) -> Group | None:
        """Return the processes to start; None if a run needs only this process.

        Args:
            devices: processes per machine.
            nodes: machines.

        Raises:
            RecipeError: there are several machines, but no address where they meet.
        """
        if devices * nodes == ranks.place().world:
            return None
        if nodes > 1 and not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
            raise RecipeError(
                f"run.nodes: {nodes}, but there is no address where the nodes meet",
                "MASTER_ADDR and MASTER_PORT are not set",
                "set them, and NODE_RANK from 0 on each node, or start with srun or torchrun",
            )
        node = int(os.environ.get("NODE_RANK", os.environ.get("SLURM_NODEID", "0")))
        if node >= nodes:
            raise RecipeError(
                f"this is node {node}, but run.nodes: {nodes} counts from 0",
                fix="set NODE_RANK and run.nodes to match the nodes that are started",
            )
        return cls(devices, nodes, node)

    def environment(self, number: int, port: int) -> dict[str, str]:
        """Return the environment of process `number` on this machine."""
        place = {
            "RANK": self.node * self.devices + number,
            "WORLD_SIZE": self.nodes * self.devices,
            "LOCAL_RANK": number,
            "LOCAL_WORLD_SIZE": self.devices,
            LAUNCHED: today(),
        }
        given = {
            **os.environ,
            **hardware.for_children(),
            **{name: str(value) for name, value in place.items()},
        }
        if self.nodes == 1:
            given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        # They share the processors, whatever they train on.
        if threads.is_open(threads.COUNT):
            share = max(1, threads.processors() // self.devices)
            threads.set_own(threads.COUNT, share, given)
        return given


def today() -> str:
    """Return the date, the same in all processes of a group."""
    return os.environ.get(LAUNCHED) or date.today().isoformat()


def recognise(nodes: int | str = "auto") -> None:
    """Set torchrun's variables for a Slurm task, if only Slurm has started it.

    Args:
        nodes: the recipe's `run.nodes`; with one task per node, each starts its own processes.
    """
    given = os.environ
    tasks = int(given.get("SLURM_STEP_NUM_TASKS", "1"))
    if "RANK" in given or tasks < 2 or "SLURM_PROCID" not in given or tasks == nodes:
        return
    here = int(given.get("SLURM_STEP_TASKS_PER_NODE", str(tasks)).partition("(")[0])
    host = given.get("SLURM_STEP_NODELIST", given.get("SLURM_JOB_NODELIST", "127.0.0.1"))
    # Jobs on the same machine get different ports.
    port = 20000 + int(given.get("SLURM_JOB_ID", "0")) % 20000
    given.setdefault("MASTER_ADDR", first_host(host))
    given.setdefault("MASTER_PORT", str(port))
    given |= {
        "RANK": given["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": given.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": str(here),
    }


def follow_parent() -> None:
    """Get SIGTERM when the parent ends, if this module started the process, on Linux."""
    if LAUNCHED in os.environ:
        processes.end_with_parent()


def first_host(names: str) -> str:
    """Return the first host of Slurm's list, such as gpu[03-05,7]."""
    match = _FIRST_HOST.match(names)
    assert match is not None
    return match[1] + (match[2] or "")


def take_part(per_node: int, nodes: int) -> bool:
    """Make a smaller group of the first processes on each machine; all take part where they are as
    many as the run needs.

    Args:
        per_node: processes that take part, on each machine.
        nodes: machines.

    Returns:
        Whether this process is one of them; the others have nothing to do.
    """
    here = ranks.place()
    if here.world <= per_node * nodes:
        return True
    node = here.rank // here.local_world
    if node >= nodes or here.local_rank >= per_node:
        return False
    if per_node * nodes == 1:
        for name in ranks.VARIABLES:
            os.environ.pop(name, None)
        return True
    os.environ |= {
        "RANK": str(node * per_node + here.local_rank),
        "WORLD_SIZE": str(per_node * nodes),
        "LOCAL_WORLD_SIZE": str(per_node),
    }
    return True


def carry_out(group: Group, arguments: Sequence[str]) -> None:
    """Run `tuner ARGUMENTS` once per device, and wait for all of them.

    A signal is passed on to all; when one fails, the others end within 30 seconds.

    Raises:
        FailedElsewhere: with the exit code of the rank that failed; it has shown why.
        Interrupted: by a signal; a checkpoint is sealed.
        ResourceError: the system has killed a process.
    """
    with StopRequest() as stop, stop.deferred():
        port = _free_port()
        started: list[processes.Popen[bytes]] = []
        try:
            for number in range(group.devices):
                started.append(processes.rank(arguments, group.environment(number, port)))
            codes, first = _wait(started, stop)
        finally:
            _end(started, signal.SIGKILL)
        # A signal after all had finished stopped nothing.
        stop.requested = None
        if codes[first]:
            raise _failure(codes, first, group)


def _wait(started: Sequence[processes.Popen[bytes]], stop: StopRequest) -> tuple[list[int], int]:
    """Return all exit codes and who failed first; the others are ended soon after it."""
    passed_on, failed, first = False, 0.0, 0
    while (codes := [child.poll() for child in started]).count(None):
        now = time.monotonic()
        if stop.requested is not None and not passed_on:
            passed_on = True
            _end(started, stop.requested)
        if any(codes) and not failed:
            failed, first = now, _failed(codes)
        if failed and now > failed + _GRACE + _LAST:
            _end(started, signal.SIGKILL)
        elif failed and now > failed + _GRACE and not passed_on:
            passed_on = True
            _end(started, signal.SIGTERM)
        time.sleep(0.05)
    ended = [child.wait() for child in started]
    return ended, first if failed else _failed(ended)


def _failed(codes: Sequence[int | None]) -> int:
    return next((number for number, code in enumerate(codes) if code), 0)


def _end(started: Sequence[processes.Popen[bytes]], number: int) -> None:
    for child in started:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(number)
    if number == signal.SIGKILL:
        for child in started:
            child.wait()


def _failure(codes: Sequence[int], first: int, group: Group) -> TunerError:
    """Return the error that the exit codes mean, if not all are 0."""
    code_of_run = codes[first]
    if code_of_run < 0:
        # The codes of ranks that were ended because of it say nothing else.
        ends = (128 + signal.SIGTERM, 128 + signal.SIGINT)
        code_of_run = next((code for code in codes if code > 0 and code not in ends), 0)
    if code_of_run:
        error = {"kind": "rank", "what": "a process of the run failed", "why": "", "fix": ""}
        return failure.FailedElsewhere({**error, "exit_code": code_of_run, "problems": []})
    name = signal.Signals(-codes[first]).name
    number = group.node * group.devices + first
    what = f"the process of rank {number} was killed by {name}"
    if codes[first] == -signal.SIGKILL:
        why = "killed by the system, most often the out-of-memory killer"
        return ResourceError(what, why, "run the same command again with --resume")
    if -codes[first] in (signal.SIGTERM, signal.SIGINT):
        return Interrupted(-codes[first], what, "run the same command with --resume")
    return TunerError(what, "a native library crashed", "see run.log in the run folder")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
