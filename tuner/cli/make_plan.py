"""Make the plan of a command line: load the recipe, run or plan its stages, show them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import RecipeError
from tuner.machine import hardware, imports, launch, ranks

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.machine.hardware import Machine
    from tuner.model.adapters.saved_models import SavedModel
    from tuner.plan.plan import Plan
    from tuner.recipe.load import LoadedRecipe


class Mode(Enum):
    """How far a training command goes."""

    PLAN = "plan"
    REHEARSE = "rehearse"
    RUN = "run"


@dataclass(frozen=True)
class PlanRequest:
    """The request of a command line to a training command.

    Attributes:
        verb: the command; None: the one that fits the recipe.
        recipe: a file or the name of a bundled recipe.
        overrides: `section.key=value` each.
        output: the value of `--output`.
        resume: whether an earlier run is continued.
        mode: how far the command goes.
        card: a GPU to plan for, as `--for` names it; None: this machine.
        cards: how many of them.
        dry: what the command would refuse is refused, though it stops at the plan.
    """

    verb: str | None
    recipe: str
    overrides: Sequence[str] = ()
    output: str | None = None
    resume: bool = False
    mode: Mode = Mode.PLAN
    card: str | None = None
    cards: int | None = None
    dry: bool = False

    def machine(self) -> Machine:
        """Return the machine to plan for."""
        from tuner.plan import cards

        return cards.machine_with(hardware.detect(), self.card, self.cards)


def mode_of(dry_run: bool, rehearse: bool, resume: bool, card: str | None = None) -> Mode:
    """Return the mode that the options ask for.

    Raises:
        RecipeError: they contradict each other.
    """
    for option, given, why in (
        ("--dry-run", dry_run, "--dry-run loads no model; --rehearse tries every part of the run"),
        ("--resume", resume, "a rehearsal neither changes nor continues a run"),
        ("--for", card is not None, "a rehearsal runs on this machine"),
    ):
        if rehearse and given:
            raise RecipeError(f"{option} and --rehearse cannot be combined", why, "use one of them")
    return Mode.PLAN if dry_run else Mode.REHEARSE if rehearse else Mode.RUN


def make_plan(asked: PlanRequest, console: Console) -> Plan:
    """Load the recipe, make its plan and show it; stages that it names are run or planned first.

    Args:
        asked: the request; only a run carries out stages that are not done.
        console: shows what happens.
    """
    from tuner.cli import run_folder, show_plan
    from tuner.recipe import load as recipe_load
    from tuner.record import output, runs
    from tuner.record.run_json import RUN

    loaded = recipe_load.load(Path(asked.recipe), asked.overrides, asked.verb, asked.output)
    loaded = run_folder.as_repeated(loaded)
    if loaded.recipe.compare is not None:
        raise recipe_load.for_comparison(loaded.path, str(loaded.path))
    launch.recognise(loaded.recipe.run.nodes)
    if asked.mode is not Mode.PLAN:
        launch.follow_parent()
        ranks.meet()
    # The parent of this process, or its rank 0, has shown the plan.
    console.muted = launch.LAUNCHED in os.environ or not ranks.place().main
    show_plan.header(loaded, console)
    folder = run_folder.find(loaded, asked.resume)
    if asked.resume:
        given = run_folder.command(loaded.verb, asked.recipe, asked.overrides)
        run_folder.nothing_to_resume(loaded, folder, given, console)
        loaded = as_begun(loaded, folder)
    held = runs.read_run(folder).status if (folder / RUN).is_file() else ""
    with contextlib.suppress(OSError):
        output.refuse_foreign(folder.resolve())
    begins = (asked.dry or asked.mode is Mode.RUN) and not asked.resume
    if begins and held not in ("", "damaged") and not console.muted:
        # Before the stages, not after them.
        raise runs.taken(folder, held)
    # A wrong recipe is refused before the libraries that a plan needs are imported.
    with imports.importing():
        from tuner.model import own_code
        from tuner.plan import make

    present = asked.machine()
    chained = _stages(loaded, folder, present, console, asked.mode)
    plan = make.make(
        loaded,
        present,
        output=folder,
        note=console.note,
        chained=chained,
        code_sha256=own_code.of_run(folder) if asked.resume else None,
    )
    warnings = list(plan.warnings)
    if asked.resume and held and asked.mode is Mode.PLAN and not present.elsewhere:
        _check_resumption(plan, console)
    if held and not asked.resume:
        refused = runs.taken(folder, held)
        warnings.insert(0, f"{refused.what}, and a new one there is refused; {refused.fix}")
    plan = replace(plan, warnings=warnings)
    show_plan.plan(plan, console)
    return plan


def _check_resumption(plan: Plan, console: Console) -> None:
    """Refuse what `--resume` would refuse, without touching the run."""
    from tuner.run import extend
    from tuner.run import resume as resumption

    found, skipped = resumption.examine(plan)
    for text in skipped:
        console.warn(text)
    if longer := extend.of(plan, found):
        console.note(str(longer))
    console.note(f"resumes after step {found.step}" if found else "resumes from the start")


def as_begun(loaded: LoadedRecipe, folder: Path) -> LoadedRecipe:
    """Return the recipe with what `auto` meant when an earlier version began the run."""
    from tuner.recipe import history, history_rows
    from tuner.recipe.schema_rlhf import RewardSection
    from tuner.record.run_json import RUN, read_record

    if not (folder / RUN).is_file():
        return loaded
    recipe, record = loaded.recipe, read_record(folder)
    plan = record.get("plan", {})
    values = plan.get("values", {})
    data, files = recipe.data, plan.get("data", {}).get("files", [])
    meant: dict[str, dict[str, Any]] = {
        "data": history_rows.as_read(files, data)
        | history_rows.rows_as_begun(values, recipe)
        | history_rows.old_special_tokens(values, data),
        "model": _model_as_begun(loaded, plan, record),
    }
    loaded = replace(loaded, earlier_turns=history_rows.earlier_turns(plan))
    if loaded.task == "sft":
        loaded = replace(loaded, formats=history_rows.formats(plan))
        meant["data"] |= history.old_auto_values(plan, data.template, data.columns, data.long)
        if (disliked := history_rows.old_disliked(plan)) and data.disliked == "error":
            meant["data"]["disliked"] = disliked
    else:
        meant["data"] |= history_rows.old_preferences(plan, data.columns)
    if loaded.task == "reward" and (unpaired := history_rows.old_unpaired(plan)):
        recipe = recipe.model_copy(update={"reward": recipe.reward or RewardSection()})
        meant["reward"] = {"unpaired": unpaired}
    beta = history.old_coefficient(values)
    if beta is not None and recipe.rlhf is not None and recipe.rlhf.kl_coefficient == "auto":
        meant["rlhf"] = {"kl_coefficient": beta}
    sections = {
        name: getattr(recipe, name).model_copy(update=keys) for name, keys in meant.items() if keys
    }
    if not sections:
        return loaded
    origins = {f"{name}.{key}": history_rows.BEGUN for name, keys in meant.items() for key in keys}
    recipe = recipe.model_copy(update=sections)
    return replace(loaded, recipe=recipe, origins=loaded.origins | origins)


def _model_as_begun(
    loaded: LoadedRecipe, plan: Mapping[str, Any], record: Mapping[str, Any]
) -> dict[str, Any]:
    """Return keys of the model section that a run of an earlier version began with."""
    from tuner.recipe import history, history_rows

    model, meant = loaded.recipe.model, dict[str, Any]()
    if history_rows.earlier_turns(plan) and model.chat_arguments is None and loaded.task == "sft":
        arguments = history_rows.old_chat_arguments(plan)
        meant |= {} if arguments is None else {"chat_arguments": arguments}
    dtype = history.old_dtype(plan.get("values", {}))
    if dtype is not None and model.dtype == "auto":
        meant["dtype"] = dtype
    date = history.chat_date(record)
    if model.chat_date == "auto" != date:
        meant["chat_date"] = date
    return meant


def _stages(
    loaded: LoadedRecipe, folder: Path, present: Machine, console: Console, mode: Mode
) -> Mapping[str, SavedModel]:
    """Return the results of the recipes that this one names."""
    from tuner.cli import show_plan
    from tuner.plan import make
    from tuner.run import chain

    found = chain.links(loaded, folder)
    undone = next((link for link in found if link.status != "done"), None)
    if mode is Mode.REHEARSE and undone:
        raise RecipeError(
            f"{undone.key}: {undone.name} has not run yet, and the rehearsal needs its result",
            "a rehearsal keeps nothing that it trains",
            f"rehearse that stage: tuner {undone.loaded.verb} --recipe {undone.loaded.path} "
            "--rehearse; or run it first",
        )
    if mode is not Mode.PLAN:
        return chain.carry_out_all(found, console)
    for number, link in enumerate(found, 1):
        if link.status == "done":
            console.note(f"stage {number}, {link.name}, is done: {link.folder}")
            continue
        console.phase(f"stage {number} of {len(found) + 1}: {link.name} ({link.status})")
        made = make.make(link.loaded, present, output=link.folder, note=console.note)
        show_plan.plan(made, console)
    if found:
        console.phase(f"stage {len(found) + 1} of {len(found) + 1}: {loaded.name}")
    return {link.name: link.source() for link in found}
