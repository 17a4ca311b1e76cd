"""The formats that a run makes from what it has just sealed, by the code of `tuner export`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tuner.errors import IntegrityError, ModelError
from tuner.export import convert, origin, parity
from tuner.export.job import Settings
from tuner.export.run_end import describe
from tuner.recipe.formats import FORMATS
from tuner.record import manifest

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.plan.plan import Plan
    from tuner.tasks.trained import Trained


def write(
    plan: Plan, trained: Trained, console: Console, *, rehearsal: bool
) -> list[dict[str, Any]]:
    """Write, prove and seal every format of the plan that is not written from the live model.

    Args:
        plan: says which formats; those of the live model are sealed.
        trained: the live model; it is freed, since the formats are made from files.
        console: shows what happens.
        rehearsal: the model was trained for only a few steps.

    Returns:
        For each artefact, in the plan's order: as `export.describe`, with the seconds it took.

    Raises:
        IntegrityError, ModelError: a format was refused; those that were proven are kept.
    """
    formats = plan.made_formats
    done = [name for name in formats if manifest.is_sealed(plan.output / name)]
    for name in done:
        manifest.verify(plan.output / name)
    rows = [FORMATS[name] for name in formats if name not in done]
    seconds: dict[str, dict[str, Any]] = {}
    if rows:
        parity.let_go(trained)
        said = plan.recipe.export
        limits = {name: said.options(name).get("max_kl") for name in formats}
        settings = Settings(
            output=plan.output.resolve(),
            opened=plan.base,
            onto=said.onto,
            limits={name: limit for name, limit in limits.items() if limit is not None},
            rehearsal=rehearsal,
        )
        try:
            reports = convert.export(origin.of_plan(plan), rows, settings, console)
        except (IntegrityError, ModelError) as error:
            raise _with_the_kept(plan, error) from error
        seconds = {
            report["kind"]: {key: report[key] for key in ("seconds", "shared_seconds")}
            for report in reports
        }
    return [describe(plan.output / name) | seconds.get(name, {}) for name in formats]


def _with_the_kept(plan: Plan, error: IntegrityError | ModelError) -> IntegrityError | ModelError:
    """Return the refusal of a format, with how to end the run with those that were proven."""
    kept = [name for name in plan.formats if manifest.is_sealed(plan.output / name)]
    names = ",".join(kept)
    return type(error)(
        error.what,
        error.why,
        f"kept: {', '.join(kept)}; --resume --set export.formats=[{names}] ends the run with "
        "these. Otherwise train longer, choose a format with more bits, or set its limit: "
        "{NAME: {max_kl: ...}}",
        error.problems,
    )
