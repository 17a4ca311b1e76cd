"""The run folder: who owns it, what happened in it, and how it is found again.

`run.json` is replaced atomically, `metrics.jsonl` grows by whole lines, `run.lock` is held while
the run lives. A folder that holds anything other than a run of ours is never written to.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from tuner import __version__
from tuner.console.formatting import plain
from tuner.errors import Interrupted, ResourceError, TunerError
from tuner.record import runs
from tuner.record.checkpoint_folder import BEST, CHECKPOINTS
from tuner.record.disk import make_folder, resource_error, write_all, write_json
from tuner.record.lock import FolderLock
from tuner.record.output import refuse_file, refuse_foreign, resolve_output
from tuner.record.run_json import FORMAT, LOCK, METRICS, RUN, SAMPLES, read_record
from tuner.record.seal import clean_staging

Status = Literal["running", "done", "failed", "interrupted"]
log = logging.getLogger(__name__)


class RunFolder:
    """An open run folder; made by `RunFolder.open`.

    Attributes:
        path: the folder, absolute, links resolved.
        record: what `run.json` holds.
        resumed: whether an earlier run is continued.
        admitted: what `admit` returned; None for a new run.
        notes: what the user should know about the opening, one line each.
    """

    def __init__(
        self, path: Path, lock: FolderLock | None, record: dict[str, Any], resumed: bool
    ) -> None:
        self.path = path
        self.record = record
        self.resumed = resumed
        self.admitted: Any = None
        self.notes: list[str] = []
        self._lock = lock
        self._lines: dict[str, int] = {}

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        resume: bool,
        initial: Mapping[str, Any] | None = None,
        admit: Callable[[Path], Any] = lambda path: None,
    ) -> RunFolder:
        """Make or continue a run folder and lock it.

        Args:
            path: where; missing parents are made.
            resume: continue the run in the folder; start one if there is none.
            initial: fields of the record, such as `recipe_sha256`, written at once.
            admit: called with the folder of an earlier run once it is locked; raises if that run
                cannot be continued, and the run's record then stays as it was. What it returns is
                kept as `admitted`.

        Raises:
            RecipeError: the folder is in use, holds a run and `resume` is false, or is foreign.
            ResourceError: it cannot be written.
            IntegrityError: its run.json is damaged.
        """
        resolved = resolve_output(path, from_recipe=False)
        try:
            refuse_file(resolved)
            make_folder(resolved)
            refuse_foreign(resolved)
        except OSError as error:
            raise resource_error(error, resolved) from error
        lock = FolderLock(resolved / LOCK)
        try:
            run = cls._begin(resolved, lock, resume, initial or {}, admit)
        except BaseException:
            lock.release()
            raise
        if resolved != Path(os.path.abspath(path)):
            run.notes.append(f"{path} resolves to {resolved}")
        if lock.taken_over is not None:
            run.notes.append(f"took over the lock of {lock.taken_over}, which is no longer running")
        return run

    @classmethod
    def follow(cls, path: Path, record: Mapping[str, Any], resumed: bool) -> RunFolder:
        """Return the folder for a process that does not write to it: another one does."""
        return cls(path, None, dict(record), resumed)

    @classmethod
    def _begin(
        cls,
        path: Path,
        lock: FolderLock,
        resume: bool,
        initial: Mapping[str, Any],
        admit: Callable[[Path], Any],
    ) -> RunFolder:
        previous = read_record(path) if (path / RUN).exists() else None
        if previous is not None and not resume:
            raise runs.taken(path, str(previous["status"]))
        admitted = None if previous is None else admit(path)
        now = _now()
        head = {
            "format": FORMAT,
            "tuner": __version__,
            "status": "running",
            "started": now,
            "ended": None,
            "output": str(path),
            "error": None,
            "resumes": [],
        }
        if previous is not None:
            history = [*previous.get("resumes", []), {"at": now, "tuner": __version__}]
            kept = {"started": previous.get("started", now), "resumes": history}
            head = {**previous, **head, **kept}
        run = cls(path, lock, {**head, **initial}, previous is not None)
        run.admitted = admitted
        for folder in (path, path / CHECKPOINTS, path / BEST):
            clean_staging(folder, exclusive=True)
        run.write_record(run.record)
        return run

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return self.path / CHECKPOINTS

    @property
    def best(self) -> Path:
        """The folder of the best checkpoint, which is not rotated."""
        return self.path / BEST

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Replace `run.json`, atomically and durably."""
        self.record = dict(record)
        if self._lock is not None:
            write_json(self.path / RUN, self.record)

    def update(self, **fields: Any) -> None:
        """Set top-level fields of `run.json`."""
        self.write_record({**self.record, **fields})

    def append_metrics(self, values: Mapping[str, Any]) -> None:
        """Add one line to `metrics.jsonl`; it is in the kernel when this returns.

        Raises:
            ResourceError: the disk is full.
        """
        self._append(METRICS, values)

    def append_sample(self, values: Mapping[str, Any]) -> None:
        """Add one line to `samples.jsonl`, as `append_metrics` does."""
        self._append(SAMPLES, values)

    def _append(self, name: str, values: Mapping[str, Any]) -> None:
        line = json.dumps(plain(values, repr), sort_keys=True, ensure_ascii=False, allow_nan=False)
        path = self.path / name
        if self._lock is None:
            return
        try:
            if name not in self._lines:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                self._lines[name] = os.open(path, flags, 0o666)
            write_all(self._lines[name], (line + "\n").encode())
        except OSError as error:
            raise resource_error(error, path) from error

    def sync_metrics(self) -> None:
        """Flush metrics and samples to the disk, before a checkpoint that relies on them."""
        for opened in self._lines.values():
            os.fsync(opened)

    def truncate_metrics(self, after_step: int) -> int:
        """Cut `metrics.jsonl` and `samples.jsonl` at the first line that is past a step or torn.

        Returns:
            How many lines, whole or torn, were dropped.
        """
        if self._lock is None:
            return 0
        return sum(self._truncate(self.path / name, after_step) for name in (METRICS, SAMPLES))

    def _truncate(self, path: Path, after_step: int) -> int:
        if not path.exists():
            return 0
        lines = path.read_bytes().splitlines(keepends=True)
        end = 0
        for number, line in enumerate(lines):
            step = _step_of(line)
            if step is None or step > after_step:
                os.truncate(path, end)
                return len(lines) - number
            end += len(line)
        return 0

    def finish(self, **fields: Any) -> None:
        """Record that the run is done."""
        self.update(**{**fields, "status": "done", "ended": _now()})

    def fail(self, error: BaseException) -> None:
        """Record why the run stopped; if even that cannot be written, log it."""
        if isinstance(error, KeyboardInterrupt):
            error = Interrupted(signal.SIGINT, "stopped by SIGINT")
        if not isinstance(error, TunerError):
            error = TunerError(
                type(error).__name__, str(error), "report it, with run.log of the run folder"
            )
        status: Status = "interrupted" if error.kind == Interrupted.kind else "failed"
        try:
            self.update(status=status, ended=_now(), error=error.as_dict())
        except ResourceError as full:
            log.error("the end of the run could not be recorded: %s", full)

    def release(self) -> None:
        """Release the folder; a second call does nothing."""
        for opened in self._lines.values():
            os.close(opened)
        self._lines.clear()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.fail(error)
        self.release()


def _step_of(line: bytes) -> float | None:
    """The step of a metrics line; None where the line is torn."""
    if not line.endswith(b"\n"):
        return None
    try:
        return float(json.loads(line).get("step", 0))
    except (ValueError, TypeError, AttributeError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
