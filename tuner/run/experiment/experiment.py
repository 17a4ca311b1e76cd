"""An experiment: its folder opened and locked, its runs carried out, its results written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tuner.errors import RecipeError
from tuner.machine.signals import StopRequest
from tuner.record.disk import make_folder, resource_error, write_file, write_json
from tuner.record.lock import FolderLock
from tuner.run.experiment.trial import Outcome, Trial


class Experiment(ABC):
    """Several runs in one folder.

    Attributes:
        kind: what it is called.
        unit: what its runs are called.
        others: what runs that do not belong to it are of.
        result: its file of results.
        lock: its lock file.
        folders: what its folder holds besides these, before a result is written.
        root: its folder.
        trials: the runs.
    """

    kind: ClassVar[str]
    unit: ClassVar[str]
    others: ClassVar[str] = "another recipe"
    result: ClassVar[str]
    lock: ClassVar[str]
    folders: ClassVar[tuple[str, ...]]

    def __init__(self, root: Path, trials: Sequence[Trial]) -> None:
        self.root = root
        self.trials = trials

    def is_of(self, trial: Trial) -> bool:
        """Return whether the run in a trial's folder is of the trial's recipe."""
        written = trial.recipe.read_bytes() if trial.recipe.is_file() else b""
        return not trial.begun or written == (trial.text or "").encode()

    @abstractmethod
    def collect(self, outcomes: Mapping[str, Outcome], status: str) -> dict[str, Any]:
        """Return the content of the file of results: one row per run, the best first.

        Args:
            outcomes: of the runs that ended this time, by name.
            status: running, done, failed or interrupted.
        """

    def finished(self, trial: Trial) -> dict[str, Any] | None:
        """Return the record of a run if it is done."""
        record = trial.record()
        return record if record and record["status"] == "done" else None

    def waiting(self) -> list[Trial]:
        """Return the runs that are not done."""
        return [trial for trial in self.trials if not self.finished(trial)]

    def carry_out(
        self, runner: Callable[[Experiment, dict[str, Outcome], StopRequest], None]
    ) -> dict[str, Any]:
        """Carry out the runs that are not done, and return the content of the file of results.

        Args:
            runner: runs them, and adds the outcome of each; a signal is passed on to the runs.

        Raises:
            Interrupted: by a signal; what was running has sealed its checkpoint.
            RecipeError, ResourceError: the folder cannot be used.
        """
        with StopRequest() as stop:
            lock, outcomes = self._open(), dict[str, Outcome]()
            status = "interrupted"
            try:
                runner(self, outcomes, stop)
                status = "failed" if any(code for code, _ in outcomes.values()) else "done"
            finally:
                record = self.collect(outcomes, status)
                self.write(record)
                lock.release()
            return record

    def write(self, record: Mapping[str, Any]) -> None:
        """Write the results."""
        write_json(self.root / self.result, record)

    def refuse_taken(self, names: set[str]) -> None:
        """Refuse a folder that holds something else."""
        if foreign := names - {self.result, f".{self.result}.tmp", self.lock, *self.folders}:
            raise RecipeError(
                f"{self.root} is not empty and holds no {self.kind}",
                f"it holds {', '.join(sorted(foreign)[:3])}",
                "choose another folder with --output",
            )

    def _open(self) -> FolderLock:
        """Open and lock the folder.

        Raises:
            RecipeError: it is in use, or holds other things, or runs of another recipe.
            ResourceError: it cannot be written.
        """
        try:
            make_folder(self.root)
            self.refuse_taken({path.name for path in self.root.iterdir()})
            lock = FolderLock(self.root / self.lock)
            try:
                self._refuse_others()
                for name in self.folders:
                    make_folder(self.root / name)
                for trial in self.trials:
                    if trial.text is not None:
                        write_file(trial.recipe, trial.text.encode())
            except BaseException:
                lock.release()
                raise
        except OSError as error:
            raise resource_error(error, self.root) from error
        return lock

    def _refuse_others(self) -> None:
        others = [each.name for each in self.trials if not self.is_of(each)]
        if others:
            raise RecipeError(
                f"{self.root} holds {self.unit} of {self.others}: {', '.join(others[:3])}",
                f"{self.unit} of different recipes cannot be compared in one table",
                "choose another folder with --output",
            )
