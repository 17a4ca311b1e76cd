"""A run in a child process: started, its events relayed, and ended with its parent."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.machine import processes
from tuner.machine.signals import StopRequest

Relay = Callable[[str, Mapping[str, Any]], None]


def carry_out(
    arguments: Sequence[str],
    log_file: Path,
    name: str,
    stop: StopRequest,
    relay: Relay,
) -> tuple[int, dict[str, Any] | None]:
    """Run `tuner ARGUMENTS --json`, relaying its events.

    Args:
        arguments: the command and its options.
        log_file: its stderr is appended here.
        name: of the run, for the relayed events.
        stop: a signal to this process is passed on, and the run's end awaited.
        relay: called with the name and each event of the run.

    Returns:
        Its exit code, and the error that it reported.

    Raises:
        Interrupted: by a signal; the run has sealed its checkpoint.
    """
    error: dict[str, Any] | None = None
    child: processes.Popen[str] | None = None
    with open(log_file, "ab") as log:
        try:
            with stop.deferred():
                child = processes.run_of_ours([*arguments, "--json"], log)
            assert child.stdout is not None
            for line in child.stdout:
                if not (event := event_in(line)):
                    continue
                relay(name, event)
                error = event.get("error", error)
            code = child.wait()
        except BaseException:
            if child is not None:
                _end(child, stop.requested or signal.SIGTERM)
            raise
    return ended(code, error)


def ended(code: int, error: dict[str, Any] | None) -> tuple[int, dict[str, Any] | None]:
    """Return the exit code of a process as a shell shows it, and its error, also if it was killed.

    Args:
        code: as `wait` returns it.
        error: that it reported.
    """
    if code >= 0:
        return code, error
    said = signal.Signals(-code).name
    return 128 - code, {"kind": "killed", "what": f"its process was killed by {said}", "why": ""}


def event_in(line: str) -> dict[str, Any]:
    """Return the event of a line of output; empty if it has none."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _end(child: processes.Popen[str], number: int) -> None:
    """Pass a signal on and wait until the run is sealed; a second signal ends it at once."""
    try:
        child.send_signal(number)
        # Its remaining output must be read, or it could not end.
        child.communicate()
    except BaseException:
        child.kill()
        child.wait()
        raise
