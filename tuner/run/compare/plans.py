"""The runs of a comparison, planned and checked to be comparable before any of them starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import RecipeError, TunerError
from tuner.plan import make, plan
from tuner.recipe import dump
from tuner.record.disk import require_space

if TYPE_CHECKING:
    from tuner.machine.hardware import Machine
    from tuner.recipe.comparison import LoadedComparison


@dataclass(frozen=True)
class Entry:
    """A run of the comparison, planned. Memory and disk in bytes.

    Attributes:
        name: of the run: its method, with a number if the method occurs again.
        method: the recipe's `method` section.
        recipe: the text of this run's recipe, valid in any folder.
        same: what must be equal in all runs.
        updates: all that affects the updates of this run; equal for two identical runs.
    """

    name: str
    method: dict[str, Any]
    recipe: str
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
    for name, loaded in comparison.runs.items():
        try:
            made = make.make(loaded, machine, output=output / name, note=note)
        except TunerError as error:
            failures[name] = error
        else:
            entries.append(_entry(name, made))
    if failures:
        raise _all_of(comparison.shared.path, failures)
    _refuse_unequal(entries)
    present = sum(1 for entry in entries if (output / entry.name).exists())
    if not present:
        require_space(output, sum(entry.disk_bytes for entry in entries))
    return entries


def _entry(name: str, made: plan.Plan) -> Entry:
    report = made.prepared.report
    held_out = len(made.prepared.eval) if made.recipe.eval.enabled else 0
    most = made.recipe.eval.max_rows
    return Entry(
        name=name,
        method=made.recipe.method.model_dump(mode="json"),
        recipe=_portable(made),
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
            "scheduler": made.recipe.train.scheduler,
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
