"""Test rows: read as held-out rows are, scored once at the end, and used for nothing else."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tuner.console.formatting import counted
from tuner.errors import TunerError

if TYPE_CHECKING:
    from tuner.data.pipeline import Pipeline
    from tuner.data.tokens.prepared import Prepared
    from tuner.plan.plan import Plan
    from tuner.recipe.load import LoadedRecipe

_WORDS = (("data.eval", "eval.test"), ("the eval split", "the test split"))


def held_out(loaded: LoadedRecipe) -> LoadedRecipe:
    """Return a recipe whose held-out rows are its test rows."""
    data = loaded.recipe.data.model_copy(update={"eval": loaded.recipe.eval.test})
    return replace(loaded, recipe=loaded.recipe.model_copy(update={"data": data}))


def added(prepared: Prepared, rows: Pipeline[Any]) -> Prepared:
    """Return prepared rows with the test rows, without those that are also in the training files.

    Args:
        prepared: the rows of the run.
        rows: prepares the test rows as held-out ones (see `held_out`).

    Raises:
        DataError, RecipeError: as for held-out rows, under the name of their own key.
    """
    try:
        found = rows.prepare()
    except TunerError as error:
        raise _renamed(error) from None
    facts: dict[str, Any] = {"rows": len(found.eval)}
    facts["files"] = found.report["files"][len(rows.data.train) :]
    warnings = list(prepared.report.get("warnings", ()))
    if left := found.report.get("eval_rows_also_in_train", 0):
        facts["left_out"] = left
        warnings.append(
            f"eval.test: {counted(left, 'row')} left out, because they are also in the files of "
            "data.train"
        )
    report = {**prepared.report, "test": facts, "warnings": warnings}
    return replace(prepared, test=found.eval, report=report)


def scored(prepared: Prepared) -> Prepared:
    """Return the rows of which some are scored: with test rows alone, these as held-out ones."""
    return prepared if prepared.eval else replace(prepared, eval=prepared.test)


def plan_of(plan: Plan) -> Plan:
    """Return a plan by which the test rows are scored, all of them."""
    section = plan.recipe.eval.model_copy(update={"max_rows": None})
    recipe = plan.recipe.model_copy(update={"eval": section})
    prepared = replace(plan.prepared, eval=plan.prepared.test)
    return replace(plan, loaded=replace(plan.loaded, recipe=recipe), prepared=prepared)


def _renamed(error: TunerError) -> TunerError:
    """Return an error about held-out rows as one about test rows."""

    def said(text: str) -> str:
        for old, new in _WORDS:
            text = text.replace(old, new)
        return text

    renamed = copy.copy(error)
    renamed.what, renamed.why, renamed.fix = map(said, (error.what, error.why, error.fix))
    renamed.problems = [said(text) for text in error.problems]
    return renamed
