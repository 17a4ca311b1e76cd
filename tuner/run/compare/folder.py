"""The folder of a comparison: its lock and its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.errors import IntegrityError, RecipeError
from tuner.record.disk import make_folder, resource_error, write_file, write_json
from tuner.record.lock import FolderLock
from tuner.record.run_json import RUN, read_record
from tuner.run.compare import report
from tuner.run.compare.plans import Entry

RESULT, LOCK = "compare.json", "compare.lock"


class CompareFolder:
    """An open folder of a comparison, locked; held while its runs run."""

    def __init__(self, output: Path, entries: Sequence[Entry], resume: bool) -> None:
        """Open or make the folder and write the recipes.

        Raises:
            RecipeError: it is in use, foreign, holds a comparison and `resume` is false, or holds
                runs of other recipes.
            ResourceError: it cannot be written.
        """
        self.output = output.resolve()
        try:
            make_folder(self.output)
            _refuse_taken(self.output, resume)
            self._lock = FolderLock(self.output / LOCK)
            try:
                self._write_recipes(entries)
            except BaseException:
                self.release()
                raise
        except OSError as error:
            raise resource_error(error, self.output) from error

    def _write_recipes(self, entries: Sequence[Entry]) -> None:
        texts = {self.recipe(entry.name): entry.recipe.encode() for entry in entries}
        changed = [
            file.stem
            for file, text in texts.items()
            if (self.output / file.stem / RUN).exists()
            and not (file.is_file() and file.read_bytes() == text)
        ]
        if changed:
            raise RecipeError(
                f"{self.output} holds runs of another recipe: {', '.join(changed)}",
                "runs of different recipes cannot be compared in one table",
                "choose another folder with --output",
            )
        make_folder(self.output / "recipes")
        make_folder(self.output / "logs")
        for file, text in texts.items():
            write_file(file, text)

    def recipe(self, name: str) -> Path:
        """Return the path of one run's recipe."""
        return self.output / "recipes" / f"{name}.yaml"

    def finished(self, name: str) -> dict[str, Any] | None:
        """Return the record of a run if it is done."""
        try:
            record = read_record(self.output / name)
        except IntegrityError:
            return None
        return record if record["status"] == "done" else None

    def write(self, record: Mapping[str, Any]) -> None:
        """Write the three results."""
        write_json(self.output / RESULT, record)
        write_file(self.output / "compare.md", report.markdown(record).encode())
        write_file(self.output / "compare.html", report.page(record).encode())

    def release(self) -> None:
        """Release the folder."""
        self._lock.release()


def _refuse_taken(output: Path, resume: bool) -> None:
    names = {entry.name for entry in output.iterdir()}
    if RESULT in names and not resume:
        raise RecipeError(
            f"{output} already holds a comparison",
            f"there is a {RESULT}",
            "continue it with --resume, or choose another folder with --output",
        )
    if RESULT not in names and not names <= {LOCK, "recipes", "logs", f".{RESULT}.tmp"}:
        raise RecipeError(
            f"{output} is not empty and holds no comparison",
            f"it holds {', '.join(sorted(names)[:3])}",
            "choose another folder with --output",
        )
