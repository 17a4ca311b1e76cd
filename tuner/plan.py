"""The plan: a recipe with nothing left to decide, checked and costed before anything runs.

`make` needs no weights: config.json, the safetensors headers, the tokenizer and the data are
enough. Every value says where it comes from; contradictions are collected and raised together.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tuner import (
    activations,
    checks,
    checks_export,
    decide,
    devices,
    disk,
    export_formats,
    export_needs,
    fitting,
    memory,
    memory_rlhf,
    parts,
    plan_facts,
    plan_rlhf,
    skeleton,
    vocabulary,
)
from tuner import base as bases
from tuner.base import Base
from tuner.data import Prepared
from tuner.data.pack import Collator, shared_prefix
from tuner.decide import PlanValue, Stage
from tuner.devices import Devices
from tuner.heads import Head, family, head_for
from tuner.methods import METHODS, Method, lora, qat
from tuner.methods.lora import LoraOptions
from tuner.methods.options import Setting
from tuner.methods.prompts import MultitaskOptions, adapter_file
from tuner.plan_rlhf import Parties
from tuner.recipe import Recipe
from tuner.recipe_rlhf import PpoSection, RlhfSection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tuner.data import Example
    from tuner.machine import Machine
    from tuner.recipe_load import LoadedRecipe
    from tuner.sources import Source

# Keys that may differ between a run and its resumption: they do not touch the update. Base and data
# may lie elsewhere: what they hold is compared (`base_fingerprint` of the record, `tokens_sha256`).
MAY_CHANGE = (
    "train.save_steps",
    "train.logging_steps",
    "eval.",
    "export.",
    "run.output",
    "run.devices",
    "run.nodes",
    "run.strategy",
    "run.timeout",
    "run.price_per_hour",
    "model.base",
    "model.revision",
    "model.code_sha256",
    "data.train",
    "data.eval",
    "data.long",
)

_SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class Plan:
    """What will run. Lengths are in tokens, memory in bytes."""

    verb: str
    task: str
    loaded: LoadedRecipe
    base: Base
    method: Method
    prepared: Prepared
    tokenizer: Any
    stop_ids: tuple[int, ...]
    output: Path
    dtype: str
    device: str
    packing: bool
    gradient_checkpointing: bool
    micro_batch_size: int
    gradient_accumulation_steps: int
    max_length: int
    stages: tuple[Stage, ...]
    setting: Setting
    head: Head
    metrics: tuple[str, ...]
    formats: tuple[str, ...]
    shape: memory.Shape
    values: dict[str, PlanValue]
    facts: dict[str, dict[str, Any]]
    warnings: list[str] = field(default_factory=list)
    parties: Parties = field(default_factory=Parties)
    ptx: list[Example] = field(default_factory=list)
    devices: Devices = field(default_factory=Devices)
    new_token_ids: tuple[int, ...] = ()

    @property
    def recipe(self) -> Recipe:
        """The recipe as the user gave it."""
        return self.loaded.recipe

    @property
    def target_modules(self) -> tuple[str, ...]:
        """Full names of the modules that the method changes."""
        return self.setting.targets

    @property
    def rlhf(self) -> RlhfSection:
        """The section of a recipe whose task is rlhf."""
        return self.recipe.rlhf or RlhfSection()

    @property
    def ppo(self) -> PpoSection:
        """The section of a recipe whose algorithm is ppo."""
        return self.recipe.ppo or PpoSection()

    @property
    def vocabulary_rows(self) -> int:
        """Embedding rows of the model that is trained."""
        return vocabulary.rows_for(self.base.vocabulary_rows, self.new_token_ids)

    @property
    def live_formats(self) -> tuple[str, ...]:
        """The formats that are written from the live model."""
        return export_formats.live(self.formats, self.recipe.model.quantize)

    @property
    def made_formats(self) -> tuple[str, ...]:
        """The formats that are made of what was sealed of them, as `tuner export` makes them."""
        return export_formats.made(self.formats, self.recipe.model.quantize)

    @property
    def qat(self) -> bool:
        """Whether training computes with quantized weights."""
        return self.recipe.train.qat != "none"

    def step_seed(self, number: int) -> int:
        """The seed of all that is drawn in step `number`, from 0."""
        return self.recipe.run.seed * _SEED_STRIDE + number

    @property
    def collate(self) -> Collator:
        """How the rows of a micro-batch become tensors."""
        start = self.base.config.get("decoder_start_token_id")
        return Collator(
            self.packing,
            self.head.name,
            self.tokenizer.pad_token_id,
            self.tokenizer.pad_token_id if start is None else start,
            tasks=isinstance(self.recipe.method, MultitaskOptions),
        )

    @property
    def training_collate(self) -> Collator:
        """The same for training, where rows share the tokens they begin with if they may."""
        return replace(self.collate, share=decide.shares(self.recipe, self.method, self.base))

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.stages[-1].stop

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to be resumed: all that touches the updates."""
        kept = {
            key: value.value for key, value in self.values.items() if not key.startswith(MAY_CHANGE)
        }
        kept["data.tokens_sha256"] = self.prepared.report["tokens_sha256"]
        kept |= self.parties.digests
        if code := self.facts["model"].get("code_sha256"):
            kept["model.code_sha256"] = code
        return kept

    def as_dict(self) -> dict[str, Any]:
        """The plan as it stands in `run.json` and in `--json` output."""
        return {
            "verb": self.verb,
            "task": self.task,
            "recipe": str(self.loaded.path),
            "recipe_sha256": self.loaded.sha256,
            "output": str(self.output),
            "values": {
                key: {"value": item.value, "origin": item.origin}
                for key, item in self.values.items()
            },
            **self.facts,
            "warnings": self.warnings,
        }


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
    values, warnings = decide.Values(loaded), list[str]()
    checks.refuse_contradictions(recipe, method, machine)
    if isinstance(recipe.method, MultitaskOptions) and recipe.method.source is not None:
        adapter_file(recipe.method.source, loaded.folder)
    pinned = {"code_sha256": code_sha256 or recipe.model.code_sha256}
    found = bases.resolve(recipe.model.model_copy(update=pinned), loaded.folder, note)
    head = head_for(recipe.model.task, found.config, loaded.task)
    checks.refuse_base(recipe, method, found, head.name)
    vocabulary.refuse_base(recipe, found, head.name)
    tokenizer, new_ids = vocabulary.open_tokenizer(recipe.model, found)
    words = vocabulary.rows_for(found.vocabulary_rows, new_ids)
    stop_ids = bases.stop_ids(found.folder)
    if loaded.task == "reward":
        plan_rlhf.choose_pad(tokenizer, (*stop_ids, *new_ids))
    bones = skeleton.read(found, head.name, words if new_ids else 0)
    checks_export.refuse_base(recipe, method, found, head.name, bones)
    if not machine.elsewhere:
        checks_export.refuse_missing(recipe)
    group = qat.group_for(recipe, loaded.task, head.name, found, bones)
    parts.refuse_layers(recipe.method, bones, found)
    chosen = checks.targets(recipe, bones, found)
    extra = parts.find(recipe.method, bones, chosen, found)
    room = found.context_length - checks.virtual_tokens(recipe, found)
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
        token_ids=checks.token_ids(recipe, tokenizer),
        new_token_ids=new_ids if method.adapter else (),
        new_modules=bones.new_modules if head.added else (),
        decoder=family(found.config) == "decoder",
        group=group,
    )
    trainable = skeleton.trainable(found, head.name, bones, method, setting)
    drawn = recipe.rlhf.max_new_tokens if recipe.rlhf and recipe.rlhf.draws else 0
    ordered = [prepared.train[row] for row in decide.order(recipe, len(prepared.train), stages)]
    together = packing and loaded.task == "sft" and decide.shares(recipe, method, found)
    kept = activations.kept(recipe, method, found.config, bones.linears, chosen)
    beside = memory.trained_rows(words, found.config) if new_ids and method.adapter else 0
    shape = memory.Shape(
        parameters=bones.total,
        trainable=trainable,
        adapter=method.adapter,
        dtype=dtype,
        stored=dtype if recipe.model.quantize == "none" else recipe.model.quantize,
        vocabulary=words,
        kept=memory_rlhf.with_critic(recipe, kept),
        rows=memory.Rows(
            lengths=[example.num_tokens + drawn for example in ordered],
            targets=[drawn or example.num_targets for example in ordered],
            batch=processes.share(recipe.train.batch_size),
            packed=packing,
            shared=shared_prefix(prepared.train) if together else 0,
        ),
        device=device,
        requantized=qat.weights(recipe.train.qat, bones),
        full_precision=0 if recipe.model.quantize == "none" else bones.unquantized,
        others=beside + memory_rlhf.judges(others, found, dtype),
        mapped=decide.mapped(recipe, found, device, dtype, bones.total),
        drawing=memory_rlhf.drawing(recipe, prepared, found, kept, dtype),
    )
    held = shape
    if processes.sharded:
        held = replace(shape, parameters=shape.parameters // processes.per_node)
    quantized = fitting.in_4_bits(held, recipe, method, found, bones, chosen)
    micro, checkpointing = decide.split(
        recipe, method, machine, device, held, quantized, packing, values, processes
    )
    allowed = decide.recomputes(recipe, decide.recomputable(method, packing))
    decide.defaults(recipe, prepared, found, head.name, values)
    peak = memory.estimate(held, micro, checkpointing)
    exports = decide.formats(recipe, method, head.name, values)
    live = export_formats.live(exports, recipe.model.quantize)
    needs = export_needs.Needs.of(recipe, exports, shape, bones)
    needs.refuse(machine.gpus[0].memory_bytes if device == "cuda" else machine.memory_bytes)
    space = needs.disk(memory.disk(shape, live))
    if not machine.elsewhere:
        disk.require_space(output, space["total"] - disk.folder_bytes(output))
    if isinstance(recipe.method, LoraOptions):
        values.set_auto("method.alpha", lora.alpha(recipe.method), "2 x r")
    warnings += plan_facts.warnings(recipe, prepared, bones, trainable, found)
    warnings += vocabulary.doubts(recipe, new_ids, found, prepared)
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
        metrics=decide.metrics(recipe, loaded.task, prepared, values),
        formats=exports,
        values=values.table,
        facts={
            **plan_facts.facts(found, bones, trainable, prepared, recipe, stages, micro, processes),
            "memory": memory.facts(
                peak, needs.peak(memory.export_peak(shape, live)), memory.drawing_peak(held)
            ),
            "gpus": fitting.on_gpus(held, quantized, allowed),
            **plan_facts.adapted(bones, chosen, extra.experts, found),
            **qat.facts(recipe.train.qat, setting.group),
            **vocabulary.facts(recipe, new_ids, found),
            "disk": space,
        },
        warnings=warnings,
        parties=others,
        ptx=ptx,
        devices=processes,
        shape=shape,
        new_token_ids=new_ids,
    )
