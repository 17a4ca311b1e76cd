"""make(loaded): turn a recipe into its plan, in five steps: ground, data, values, memory, plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from tuner.methods import METHODS, lora
from tuner.methods.lora import LoraOptions
from tuner.methods.options import Setting
from tuner.model.heads import family
from tuner.plan import (
    contradictions,
    contradictions_train,
    costs,
    data,
    decide,
    devices,
    evaluations,
    facts,
    gates,
    ground,
    metrics,
    preferences,
    start,
    summary,
    targets,
    tested,
    track,
)
from tuner.plan import formats as plan_formats
from tuner.plan import rlhf as plan_rlhf
from tuner.plan.decide import Decided
from tuner.plan.footprint import Footprint
from tuner.plan.ground import Adapted, RecipeAndBase
from tuner.plan.plan import Plan
from tuner.plan.values import Values

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tuner.data.tokens.prepared import Prepared
    from tuner.machine.hardware import Machine
    from tuner.model.adapters.saved_models import SavedModel
    from tuner.recipe.load import LoadedRecipe
    from tuner.recipe.schema import Recipe


def make(
    loaded: LoadedRecipe,
    machine: Machine,
    *,
    output: Path,
    note: Callable[[str], None] = lambda text: None,
    chained: Mapping[str, SavedModel] = MappingProxyType({}),
    code_sha256: str | None = None,
    known: list[data.Known] | None = None,
) -> Plan:
    """Decide everything a run needs.

    Args:
        loaded: the recipe.
        machine: what it will run on.
        output: the run folder.
        note: called with a line about slow work (converting or downloading a base).
        chained: outputs of other stages of the same command, by the recipe's name for them.
        code_sha256: of the base's code in the run that is resumed; other code is not run.
        known: rows that the command's other plans have read; gets those of this one.

    Raises:
        RecipeError: keys that contradict each other or the machine.
        DataError, ModelError, ResourceError: what would stop the run, a disk too small included.
    """
    loaded, policy = plan_rlhf.adopt(loaded, chained)
    loaded, begun = start.adopt(loaded)
    recipe, values = loaded.recipe, Values(loaded)
    contradictions.refuse_contradictions(recipe, METHODS[recipe.method.name], machine)
    base = ground.open_recipe_and_base(loaded, note, code_sha256, begun)
    contradictions_train.refuse_loss(base)
    adapted = ground.adapt(base, machine)
    rows = data.read(base, adapted, policy, chained, [] if known is None else known)
    preferences.decide(recipe, values)
    decided = _decide(base, adapted, rows.prepared, machine, values)
    footprint = Footprint.of(base, adapted, rows, decided, machine, values)
    decide.defaults(recipe, rows.prepared, base.base, base.head.name, values)
    exports = plan_formats.formats(recipe, base.method, base.head.name, values)
    space, memory = footprint.refuse_exports(exports, machine, output)
    _scale(recipe, values)
    measured = _measured(loaded, rows.prepared, values)
    plan = Plan(
        verb=loaded.verb,
        task=loaded.task,
        loaded=loaded,
        base=base.base,
        method=base.method,
        prepared=rows.prepared,
        tokenizer=base.tokenizer,
        stop_ids=base.stop_ids,
        output=output,
        dtype=decided.dtype,
        device=decided.device,
        packing=decided.packing,
        gradient_checkpointing=footprint.checkpointing,
        micro_batch_size=footprint.micro_batch_size,
        max_length=values.now("data.max_length"),
        stages=decided.stages,
        setting=decided.setting,
        head=base.head,
        vocabulary_rows=base.vocabulary,
        metrics=measured,
        formats=exports,
        values=values.table,
        facts=facts.facts(base, adapted, rows.prepared, decided, footprint, memory, space),
        warnings=_warnings(base, adapted, rows.prepared, footprint, machine),
        parties=rows.parties,
        ptx=rows.ptx,
        devices=decided.processes,
        evaluations=evaluations.decide(base, measured, rows.prepared, decided.stages, values),
        sampled=evaluations.sampled(recipe, rows.prepared, decided.stages),
        shape=footprint.shape,
        start=begun,
    )
    return _costed(plan, machine)


def _costed(plan: Plan, machine: Machine) -> Plan:
    """The plan with what it costs, where it is followed, and a sentence about it."""
    more = {**costs.facts(plan, machine), **track.facts(plan.recipe, plan.output)}
    plan = replace(plan, facts={**plan.facts, **more})
    return replace(plan, summary=summary.sentence(plan))


def _warnings(
    base: ground.RecipeAndBase,
    adapted: ground.Adapted,
    prepared: Prepared,
    footprint: Footprint,
    machine: Machine,
) -> list[str]:
    return [
        *_unlike_asked(base.recipe, machine, footprint, len(prepared.train)),
        *facts.warnings(base, adapted, prepared, footprint),
    ]


def _scale(recipe: Recipe, values: Values) -> None:
    """Decide `method.alpha` of LoRA."""
    if isinstance(recipe.method, LoraOptions):
        values.set_auto("method.alpha", lora.alpha(recipe.method), "2 x r")


def _measured(loaded: LoadedRecipe, prepared: Prepared, values: Values) -> tuple[str, ...]:
    """Decide the metrics, and refuse gates that none of them is for."""
    measured = metrics.metrics(loaded.recipe, loaded.task, tested.scored(prepared), values)
    gates.refuse(loaded.recipe, loaded.task, measured, prepared)
    return measured


def _unlike_asked(recipe: Recipe, machine: Machine, footprint: Footprint, rows: int) -> list[str]:
    """Return warnings where devices, steps or updates are not those that the recipe asks for."""
    decided = footprint.decided
    return [
        *_unused_gpus(recipe, machine),
        *devices.warnings(decided.processes, recipe.train.batch_size),
        *decide.unreached(recipe, decided.stages, rows),
        *contradictions_train.warnings(recipe, decided.device, footprint.weights),
    ]


def _unused_gpus(recipe: Recipe, machine: Machine) -> list[str]:
    """Return a warning if a run that would have taken a GPU takes the CPU."""
    if recipe.run.device != "auto" or not machine.gpu_note:
        return []
    return [f"{machine.gpu_note}; this run trains on the CPU"]


def _decide(
    base: RecipeAndBase, adapted: Adapted, prepared: Prepared, machine: Machine, values: Values
) -> Decided:
    """Decide device, type and steps of the run, and what it trains."""
    recipe, method = base.recipe, base.method
    device, dtype = decide.place(recipe, method, machine, values)
    processes = devices.decide(recipe, method, base.loaded.task, machine, device, values)
    attention = decide.attention(recipe, base.layers, base.base, values)
    packing = decide.packing(recipe, method, base.base, base.head.name, values)
    stages = decide.stages(recipe, method, len(prepared.train), values)
    setting = Setting(
        options=recipe.method,
        config=base.base.config,
        task_type=base.head.task_type,
        targets=tuple(adapted.targets),
        experts=adapted.experts,
        saved=adapted.saved,
        steps=stages[-1].stop,
        tasks=len(recipe.data.train),
        token_ids=targets.token_ids(recipe, base.tokenizer),
        new_token_ids=base.new_ids if method.adapter else (),
        new_modules=base.layers.new_modules if base.head.added else (),
        decoder=family(base.base.config) == "decoder",
        group=adapted.group,
    )
    return Decided(device, dtype, processes, attention, packing, stages, setting)
