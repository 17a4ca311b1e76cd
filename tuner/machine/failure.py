"""The failure of one rank as the failure of all."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping
from typing import Any

from tuner.errors import Interrupted, ResourceError, TunerError

# Key under which the first rank that fails stores its error.
_FAILURE = "tuner/failure"

# Seconds between two looks at the store, and until a process that never came is given up.
_PAUSE, _LONGEST = 0.05, 4 * 3600.0

# Parts of library errors that mean that the process at the other end of a connection is gone.
_GONE = ("closed by peer", "reset by peer", "Broken pipe", "gloo", "NCCL", "recvValue", "sendBytes")


class FailedElsewhere(TunerError):
    """The failure of another rank, which has already shown it."""

    shown_already = True

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error["what"], error["why"], error["fix"], list(error["problems"]))
        self.exit_code, self.kind = int(error["exit_code"]), str(error["kind"])


def first_failure(error: BaseException, store: Any, rank: int) -> TunerError | None:
    """Return what to raise in place of `error`; None if it came first."""
    if store is None or isinstance(error, SystemExit):
        return None
    own = _as_error(error)
    text = json.dumps({**own.as_dict(), "rank": rank})
    try:
        said = store.compare_set(_FAILURE, "", text).decode()
    except Exception:
        # Rank 0, which has the store, has ended before this one, with its own error.
        return FailedElsewhere(own.as_dict())
    if said != text:
        return FailedElsewhere(json.loads(said))
    return own if isinstance(own, ResourceError) and own is not error else None


def await_keys(store: Any, keys: list[str]) -> None:
    """Wait until other ranks have set some keys.

    Raises:
        FailedElsewhere: one of them has failed.
        ResourceError: nothing was heard of them for too long.
    """
    pause, end = _PAUSE / 64, time.monotonic() + _LONGEST
    while not store.check(keys):
        if store.check([_FAILURE]):
            raise FailedElsewhere(json.loads(store.get(_FAILURE)))
        if time.monotonic() > end:
            raise ResourceError(
                "another process of this run does not answer",
                f"waited {_LONGEST / 3600:.0f} hours for it",
                "find out why, then run the same command with --resume",
            )
        time.sleep(pause)
        pause = min(2 * pause, _PAUSE)


def _as_error(error: BaseException) -> TunerError:
    """Return an error, also a library's that another process is gone, as a TunerError."""
    if isinstance(error, TunerError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(signal.SIGINT, "stopped by SIGINT")
    text = str(error).partition("\n")[0]
    if isinstance(error, RuntimeError) and any(word in str(error) for word in _GONE):
        return ResourceError(
            "another process of this run exited unexpectedly",
            text[:200],
            "find out why (most often out of memory), then run the same command with --resume",
        )
    return TunerError(
        f"{type(error).__name__}: {text}",
        "an error that tuner does not know",
        "report it, with run.log and the output of the same command run with --verbose",
    )
