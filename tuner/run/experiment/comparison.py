"""A comparison: methods on the same data at equal budget.

Its runs are planned, and checked to be comparable, before any of them starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner import __version__
from tuner.errors import RecipeError, TunerError
from tuner.plan import data, make, plan
from tuner.recipe import dump
from tuner.record.disk import require_space, write_file
from tuner.run.experiment import report, results
from tuner.run.experiment.experiment import Experiment
from tuner.run.experiment.trial import Outcome, Trial

if TYPE_CHECKING:
    from tuner.machine.hardware import Machine
    from tuner.recipe.comparison import LoadedComparison


@dataclass(frozen=True, kw_only=True)
class Entry(Trial):
    """A run of the comparison, planned. Memory and disk in bytes.

    Attributes:
        method: the recipe's `method` section.
        same: what must be equal in all runs.
        updates: all that affects the updates of this run; equal for two identical runs.
    """

    method: dict[str, Any]
    learning_rate: float
    trainable: int
    steps: int
    formats: tuple[str, ...]
    memory_bytes: int
    disk_bytes: int
    same: dict[str, Any]
    updates: dict[str, Any]
    warnings: tuple[str, ...]


def make_plans(
    comparison: LoadedComparison,
    machine: Machine,
    output: Path,
    note: Callable[[str], None] = lambda text: None,
) -> list[Entry]:
    """Plan every run before any of them starts.

    Raises:
        RecipeError: the runs would not be comparable.
        TunerError: why runs cannot be planned, all at once; each line begins with the run's name.
    """
    entries, failures = list[Entry](), dict[str, TunerError]()
    known: list[data.Known] = []
    for name, loaded in comparison.runs.items():
        try:
            made = make.make(loaded, machine, output=output / name, note=note, known=known)
        except TunerError as error:
            failures[name] = error
        else:
            entries.append(_entry(name, made, output))
    if failures:
        raise _all_of(comparison.shared.path, failures)
    _refuse_unequal(entries)
    present = sum(1 for entry in entries if (output / entry.name).exists())
    if not present:
        require_space(output, sum(entry.disk_bytes for entry in entries))
    return entries


def _entry(name: str, made: plan.Plan, output: Path) -> Entry:
    report = made.prepared.report
    held_out = len(made.prepared.eval) if made.recipe.eval.enabled else 0
    most = made.recipe.eval.max_rows
    return Entry(
        name=name,
        verb="sft",
        recipe=output.resolve() / "recipes" / f"{name}.yaml",
        folder=output / name,
        log=output / "logs" / f"{name}.log",
        text=_portable(made),
        about=f"{made.steps} steps",
        method=made.recipe.method.model_dump(mode="json"),
        learning_rate=made.values["train.learning_rate"].value,
        trainable=made.facts["parameters"]["trainable"],
        steps=made.steps,
        formats=made.formats,
        memory_bytes=made.facts["memory"]["peak"],
        disk_bytes=made.facts["disk"]["total"],
        same={
            "base": made.base.name,
            "rows": len(made.prepared.train),
            "tokens_sha256": report["tokens_sha256"],
            "steps": made.steps,
            "batch_size": made.recipe.train.batch_size,
            "scheduler": made.values["train.scheduler"].value,
            "seed": made.recipe.run.seed,
            "held_out_rows": held_out if most is None else min(held_out, most),
        },
        updates=_updates(made),
        warnings=tuple(made.warnings),
    )


def _updates(made: plan.Plan) -> dict[str, Any]:
    identity, start = made.identity(), "method."
    options = {k.removeprefix(start): v for k, v in identity.items() if k.startswith(start)}
    rest = {key: value for key, value in identity.items() if not key.startswith(start)}
    return rest | {"method": made.recipe.method.meaning(options, made.setting)}


def twins(entries: Sequence[Entry]) -> dict[str, str]:
    """Return the runs that repeat an earlier one: the name of each to the name of the first."""
    found = dict[str, str]()
    for number, entry in enumerate(entries):
        first = next(e for e in entries[: number + 1] if e.updates == entry.updates)
        if first is not entry:
            found[entry.name] = first.name
    return found


def _portable(made: plan.Plan) -> str:
    recipe, folder = made.recipe, made.loaded.folder
    if made.base.kind not in ("alias", "hub"):
        name = Path(recipe.model.base).expanduser()
        there = folder / name if (folder / name).exists() else name
        base = recipe.model.model_copy(update={"base": str(there.resolve())})
        recipe = recipe.model_copy(update={"model": base})
    return dump.dump(recipe, folder)


def _all_of(path: Path, failures: Mapping[str, TunerError]) -> TunerError:
    lines = [
        f"{name}: {line}"
        for name, error in failures.items()
        for line in (error.problems or [f"{error.what}{f' ({error.why})' if error.why else ''}"])
    ]
    first = next(iter(failures.values()))
    what = f"{path}: {len(failures)} of the compared methods cannot run: {', '.join(failures)}"
    return type(first)(what, fix=first.fix, problems=lines)


def _refuse_unequal(entries: Sequence[Entry]) -> None:
    first = entries[0]
    fixes = {
        "steps": "set train.max_steps",
        "tokens_sha256": "set data.max_length, so that rows are truncated alike in all runs",
    }
    problems, fix = [], ""
    for key, value in first.same.items():
        for entry in entries[1:]:
            if entry.same[key] != value:
                problems.append(f"{entry.name}: {key} {entry.same[key]}; {first.name}: {value}")
                fix = fix or fixes.get(key, "leave the method out")
    if problems:
        raise RecipeError("the runs would not be comparable", fix=fix, problems=problems)


class MethodComparison(Experiment):
    """The runs of a comparison in its folder.

    Args:
        output: the folder.
        entries: from `make_plans`.
        head: facts about the recipe.
        resume: keep what is done, continue with the rest.
    """

    kind, unit = "comparison", "runs"
    result, lock = "compare.json", "compare.lock"
    folders = ("recipes", "logs")

    def __init__(
        self, output: Path, entries: Sequence[Entry], head: Mapping[str, Any], resume: bool
    ) -> None:
        super().__init__(output.resolve(), entries)
        self._entries, self._head, self._resume = entries, head, resume

    def refuse_taken(self, names: set[str]) -> None:
        """Refuse a folder that holds something else, or a comparison that is not continued."""
        if self.result not in names:
            super().refuse_taken(names)
        elif not self._resume:
            raise RecipeError(
                f"{self.root} already holds a comparison",
                f"there is a {self.result}",
                "continue it with --resume, or choose another folder with --output",
            )

    def collect(self, outcomes: Mapping[str, Outcome], status: str) -> dict[str, Any]:
        """Return the content of compare.json."""
        same = twins(self._entries)
        rows = [
            self._row(entry, outcomes.get(entry.name)) | {"same_as": same.get(entry.name)}
            for entry in self._entries
        ]
        score = results.shared_score(rows, ("label_accuracy", "token_accuracy"))
        return {
            "format": 1,
            "tuner": __version__,
            **self._head,
            "status": status,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "output": str(self.root),
            "equal": self._entries[0].same,
            "score": score,
            "rows": sorted(rows, key=lambda row: results.rank(row, score)),
            "durations": {"total": sum(row["seconds"] or 0 for row in rows)},
        }

    def _row(self, entry: Entry, outcome: Outcome | None) -> dict[str, Any]:
        record = self.finished(entry)
        saved = {item["kind"]: item for item in record["artefacts"]} if record else {}
        artefact = saved.get("adapter") or saved.get("merged")
        weights = artefact and _weights_bytes(entry.folder / Path(artefact["path"]).name)
        facts = {
            "method": entry.method,
            "learning_rate": entry.learning_rate,
            "trainable_parameters": entry.trainable,
            "steps": entry.steps,
        }
        measured = {
            "artefact": artefact and artefact["kind"],
            "weights_bytes": weights,
            "peak_memory_bytes": record and record["peak_memory_bytes"],
            "seconds": record and record["durations"]["total"],
        }
        return results.row(entry.name, facts, record, outcome, measured)

    def write(self, record: Mapping[str, Any]) -> None:
        """Write the three results."""
        super().write(record)
        write_file(self.root / "compare.md", report.markdown(record).encode())
        write_file(self.root / "compare.html", report.page(record).encode())


def _weights_bytes(folder: Path) -> int:
    """Return the size without the tokenizer, which is equal for all and dwarfs small adapters."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
