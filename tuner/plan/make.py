"""make(loaded): from a recipe to its plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from tuner.data.collate import shared_prefix
from tuner.methods import METHODS, lora
from tuner.methods.lora import LoraOptions
from tuner.methods.options import Setting
from tuner.methods.prompts import MultitaskOptions, adapter_file
from tuner.model import base as bases
from tuner.model import layers
from tuner.model import tokenizer as vocabulary
from tuner.model.heads import family, head_for
from tuner.plan import (
    contradictions,
    contradictions_export,
    decide,
    devices,
    new_tokens,
    refuse_base,
    split,
    targets,
)
from tuner.plan import facts as plan_facts
from tuner.plan import formats as plan_formats
from tuner.plan import metrics as plan_metrics
from tuner.plan import qat as plan_qat
from tuner.plan import rlhf as plan_rlhf
from tuner.plan import values as plan_values
from tuner.plan.memory import activations, estimate, fit
from tuner.plan.memory import exports as export_needs
from tuner.plan.memory import rlhf as memory_rlhf
from tuner.plan.plan import Plan
from tuner.recipe import formats as export_formats
from tuner.record import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tuner.machine.hardware import Machine
    from tuner.model.adapters.sources import Source
    from tuner.recipe.load import LoadedRecipe


def make(
    loaded: LoadedRecipe,
    machine: Machine,
    *,
    output: Path,
    note: Callable[[str], None] = lambda text: None,
    chained: Mapping[str, Source] = MappingProxyType({}),
    code_sha256: str | None = None,
) -> Plan:
    """Decide everything a run needs.

    Args:
        loaded: the recipe.
        machine: what it will run on.
        output: the run folder.
        note: told about work that takes long (converting or downloading a base).
        chained: what other stages of the same command leave, by the recipe's name for it.
        code_sha256: of the base's code in the run that goes on; other code is not run.

    Raises:
        RecipeError: keys that contradict each other or the machine.
        DataError, ModelError, ResourceError: what would stop the run, a disk too small included.
    """
    loaded, policy = plan_rlhf.adopt(loaded, chained)
    recipe = loaded.recipe
    method = METHODS[recipe.method.name]
    values, warnings = plan_values.Values(loaded), list[str]()
    contradictions.refuse_contradictions(recipe, method, machine)
    if isinstance(recipe.method, MultitaskOptions) and recipe.method.source is not None:
        adapter_file(recipe.method.source, loaded.folder)
    pinned = {"code_sha256": code_sha256 or recipe.model.code_sha256}
    found = bases.resolve(recipe.model.model_copy(update=pinned), loaded.folder, note)
    head = head_for(recipe.model.task, found.config, loaded.task)
    refuse_base.refuse_base(recipe, method, found, head.name)
    new_tokens.refuse_base(recipe, found, head.name)
    tokenizer, new_ids = vocabulary.open_tokenizer(recipe.model, found)
    words = vocabulary.rows_for(found.vocabulary_rows, new_ids)
    stop_ids = vocabulary.stop_ids(found.folder)
    if loaded.task == "reward":
        vocabulary.choose_pad(tokenizer, (*stop_ids, *new_ids))
    bones = layers.read(found, head.name, words if new_ids else 0)
    contradictions_export.refuse_base(recipe, method, found, head.name, bones)
    if not machine.elsewhere:
        contradictions_export.refuse_missing(recipe)
    group = plan_qat.group_for(recipe, loaded.task, head.name, found, bones)
    targets.refuse_layers(recipe.method, bones, found)
    chosen = targets.targets(recipe, bones, found)
    extra = targets.find(recipe.method, bones, chosen, found)
    room = found.context_length - targets.virtual_tokens(recipe, found)
    prepared, ptx = plan_rlhf.prepare(loaded, tokenizer, room, stop_ids, head)
    if prepared.chat_template and not tokenizer.chat_template:
        tokenizer.chat_template = prepared.chat_template
    others = plan_rlhf.parties(loaded, policy, found, tokenizer, chained)
    device, dtype = decide.place(recipe, machine, values)
    processes = devices.decide(recipe, method, loaded.task, machine, device, values)
    packing = decide.packing(recipe, method, found, head.name, values)
    stages = decide.stages(recipe, method, len(prepared.train), values)
    setting = Setting(
        options=recipe.method,
        config=found.config,
        task_type=head.task_type,
        targets=tuple(chosen),
        experts=extra.experts,
        saved=extra.saved,
        steps=stages[-1].stop,
        tasks=len(recipe.data.train),
        token_ids=targets.token_ids(recipe, tokenizer),
        new_token_ids=new_ids if method.adapter else (),
        new_modules=bones.new_modules if head.added else (),
        decoder=family(found.config) == "decoder",
        group=group,
    )
    trainable = layers.trainable(found, head.name, bones, method, setting)
    drawn = recipe.rlhf.max_new_tokens if recipe.rlhf and recipe.rlhf.draws else 0
    ordered = [prepared.train[row] for row in split.order(recipe, len(prepared.train), stages)]
    together = packing and loaded.task == "sft" and decide.shares(recipe, method, found)
    kept = activations.kept(recipe, method, found.config, bones.linears, chosen)
    beside = estimate.trained_rows(words, found.config) if new_ids and method.adapter else 0
    shape = estimate.Shape(
        parameters=bones.total,
        trainable=trainable,
        adapter=method.adapter,
        dtype=dtype,
        stored=dtype if recipe.model.quantize == "none" else recipe.model.quantize,
        vocabulary=words,
        kept=memory_rlhf.with_critic(recipe, kept),
        rows=estimate.Rows(
            lengths=[example.num_tokens + drawn for example in ordered],
            targets=[drawn or example.num_targets for example in ordered],
            batch=processes.share(recipe.train.batch_size),
            packed=packing,
            shared=shared_prefix(prepared.train) if together else 0,
        ),
        device=device,
        requantized=plan_qat.weights(recipe.train.qat, bones),
        full_precision=0 if recipe.model.quantize == "none" else bones.unquantized,
        others=beside + memory_rlhf.judges(others, found, dtype),
        mapped=split.mapped(recipe, found, device, dtype, bones.total),
        drawing=memory_rlhf.drawing(recipe, prepared, found, kept, dtype),
    )
    held = shape
    if processes.sharded:
        held = replace(shape, parameters=shape.parameters // processes.per_node)
    quantized = fit.in_4_bits(held, recipe, method, found, bones, chosen)
    micro, checkpointing = split.split(
        recipe, method, machine, device, held, quantized, packing, values, processes
    )
    allowed = split.recomputes(recipe, split.recomputable(method, packing))
    decide.defaults(recipe, prepared, found, head.name, values)
    peak = estimate.estimate(held, micro, checkpointing)
    exports = plan_formats.formats(recipe, method, head.name, values)
    live = export_formats.live(exports, recipe.model.quantize)
    needs = export_needs.Needs.of(recipe, exports, shape, bones)
    needs.refuse(machine.gpus[0].memory_bytes if device == "cuda" else machine.memory_bytes)
    space = needs.disk(estimate.disk(shape, live))
    if not machine.elsewhere:
        disk.require_space(output, space["total"] - disk.folder_bytes(output))
    if isinstance(recipe.method, LoraOptions):
        values.set_auto("method.alpha", lora.alpha(recipe.method), "2 x r")
    warnings += plan_facts.warnings(recipe, prepared, bones, trainable, found)
    warnings += new_tokens.doubts(recipe, new_ids, found, prepared)
    return Plan(
        verb=loaded.verb,
        task=loaded.task,
        loaded=loaded,
        base=found,
        method=method,
        prepared=prepared,
        tokenizer=tokenizer,
        stop_ids=stop_ids,
        output=output,
        dtype=dtype,
        device=device,
        packing=packing,
        gradient_checkpointing=checkpointing,
        micro_batch_size=micro,
        gradient_accumulation_steps=processes.accumulation(recipe.train.batch_size, micro),
        max_length=values.now("data.max_length"),
        stages=stages,
        setting=setting,
        head=head,
        metrics=plan_metrics.metrics(recipe, loaded.task, prepared, values),
        formats=exports,
        values=values.table,
        facts={
            **plan_facts.facts(found, bones, trainable, prepared, recipe, stages, micro, processes),
            "memory": estimate.facts(
                peak, needs.peak(estimate.export_peak(shape, live)), estimate.drawing_peak(held)
            ),
            "gpus": fit.on_gpus(held, quantized, allowed),
            **plan_facts.adapted(bones, chosen, extra.experts, found),
            **plan_qat.facts(recipe.train.qat, setting.group),
            **new_tokens.facts(recipe, new_ids, found),
            "disk": space,
        },
        warnings=warnings,
        parties=others,
        ptx=ptx,
        devices=processes,
        shape=shape,
        new_token_ids=new_ids,
    )
