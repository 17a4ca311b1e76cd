"""The plan: a recipe with nothing left to decide, checked and costed before anything runs.

`make` needs no weights: config.json, the safetensors headers, the tokenizer and the data are
enough. Every value says where it comes from; contradictions are collected and raised together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner import base as bases
from tuner import data, memory, skeleton
from tuner.base import Base
from tuner.data import Prepared
from tuner.errors import ModelError, RecipeError, ResourceError
from tuner.methods import METHODS, Method, lora
from tuner.methods.full import StagedOptions
from tuner.methods.lora import LoraOptions
from tuner.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from tuner.machine import Machine
    from tuner.recipe_load import LoadedRecipe

# Families whose packed rows are proven isolated, bit for bit, by tests/test_packing.py. Mixtures of
# experts are not among them: a row changes the size of the matrix products that the others share.
PACKED_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gpt2"})
FORMATS = ("adapter", "merged")
METRICS = ("loss", "perplexity", "token_accuracy", "label_accuracy", "exact_match")
# Keys that may differ between a run and its resumption: they do not touch the update.
MAY_CHANGE = ("train.save_steps", "train.logging_steps", "eval.", "export.", "run.output")


@dataclass(frozen=True)
class PlanValue:
    """A value of the resolved recipe, and where it comes from."""

    value: Any
    origin: str


@dataclass(frozen=True)
class Stage:
    """Optimizer steps `start` to `stop` at one peak learning rate, over one set of weights."""

    train: str
    learning_rate: float
    start: int
    stop: int
    warmup_steps: int

    @property
    def steps(self) -> int:
        """Optimizer steps of this stage."""
        return self.stop - self.start


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
    target_modules: tuple[str, ...]
    lora_alpha: float
    metrics: tuple[str, ...]
    formats: tuple[str, ...]
    values: dict[str, PlanValue]
    facts: dict[str, dict[str, Any]]
    warnings: list[str] = field(default_factory=list)

    @property
    def recipe(self) -> Recipe:
        """The recipe as the user gave it."""
        return self.loaded.recipe

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.stages[-1].stop

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to be resumed: all that touches the updates."""
        kept = {
            key: value.value
            for key, value in self.values.items()
            if not key.startswith(MAY_CHANGE)
        }
        kept["data.tokens_sha256"] = self.prepared.report["tokens_sha256"]
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
) -> Plan:
    """Decide everything a run needs.

    Args:
        loaded: the recipe.
        machine: what it will run on.
        output: the run folder.
        note: told about work that takes long (converting or downloading a base).

    Raises:
        RecipeError: keys that contradict each other or the machine.
        DataError, ModelError, ResourceError: what would stop the run.
    """
    recipe = loaded.recipe
    method = METHODS[recipe.method.name]
    values, warnings = _Values(loaded), list[str]()
    _refuse_contradictions(recipe, method, machine)
    found = bases.resolve(recipe.model, loaded.folder, note)
    tokenizer = bases.load_tokenizer(found.folder, recipe.model.trust_remote_code)
    bases.check_vocabulary(found, tokenizer)
    bones = skeleton.read(found)
    chosen = _targets(recipe, bones.linears, found)
    prepared = data.prepare(
        recipe.data,
        tokenizer,
        folder=loaded.folder,
        seed=recipe.run.seed,
        context_length=found.context_length,
        stop_ids=(stop_ids := bases.stop_ids(found.folder)),
    )
    if prepared.chat_template and not tokenizer.chat_template:
        tokenizer.chat_template = prepared.chat_template
    device, dtype = _place(recipe, machine, values)
    packing = _packing(recipe, method, found, values)
    trainable = bones.trainable(recipe, chosen)
    shape = memory.Shape(
        parameters=bones.total,
        trainable=trainable,
        adapter=method.adapter,
        dtype=dtype,
        stored=dtype if recipe.model.quantize == "none" else recipe.model.quantize,
        **dict(zip(("hidden", "inner", "layers"), memory.shape_of(found.config), strict=True)),
        vocabulary=found.vocabulary_rows,
        lengths=[len(example.input_ids) for example in prepared.train],
        supervised=[sum(example.supervised) for example in prepared.train],
    )
    micro, checkpointing = _split(recipe, machine, device, shape, values)
    stages = _stages(recipe, method, len(prepared.train), values)
    _defaults(recipe, prepared, found, values)
    peak = memory.estimate(shape, micro, checkpointing)
    alpha = values.set_auto("method.alpha", 2.0 * recipe.method.r, "2 x r") if isinstance(
        recipe.method, LoraOptions
    ) else 0.0
    warnings += _warnings(recipe, prepared, bones, trainable, found)
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
        gradient_accumulation_steps=recipe.train.batch_size // micro,
        max_length=values.now("data.max_length"),
        stages=stages,
        target_modules=tuple(chosen),
        lora_alpha=alpha,
        metrics=_metrics(recipe, prepared, values),
        formats=_formats(recipe, method, values),
        values=values.table,
        facts=_facts(found, bones, trainable, prepared, recipe, stages, micro, peak),
        warnings=warnings,
    )


class _Values:
    """The flat table of values under decision."""

    def __init__(self, loaded: LoadedRecipe) -> None:
        self.table: dict[str, PlanValue] = {}
        for section, keys in loaded.recipe.model_dump(mode="json").items():
            for key, value in keys.items():
                name = f"{section}.{key}"
                self.table[name] = PlanValue(value, loaded.origins.get(name, "default"))

    def now(self, key: str) -> Any:
        """The present value of a key."""
        return self.table[key].value

    def set_auto(self, key: str, value: Any, why: str) -> Any:
        """Replace `auto` (or none) by what the plan decides; a value the user gave stays."""
        present = self.table[key].value
        if present in ("auto", None, ["auto"]):
            self.table[key] = PlanValue(value, f"auto: {why}")
            return value
        return present


def _refuse_contradictions(recipe: Recipe, method: Method, machine: Machine) -> None:
    """Collect what cannot be, and say it all at once."""
    problems = []
    quantize, options = recipe.model.quantize, recipe.method
    cpu = recipe.run.device == "cpu" or (recipe.run.device == "auto" and not machine.gpus)
    if recipe.run.device == "cuda" and not machine.gpus:
        problems.append("run.device: cuda, and this machine has no GPU that can be used")
    if cpu and recipe.model.dtype == "float16":
        problems.append("model.dtype: float16 cannot train on a CPU; use float32 or auto")
    if quantize != "none" and not method.quantizable_base:
        problems.append(f"model.quantize: {quantize} and method.name: {method.name}; quantized "
                        "weights cannot be trained, only adapters beside them")
    if quantize != "none" and "merged" in recipe.export.formats:
        problems.append(f"export.formats: merged and model.quantize: {quantize}; a quantized base "
                        "cannot take the update without loss, export the adapter")
    if isinstance(options, LoraOptions):
        if options.init == "loftq" and (cpu or quantize != "nf4"):
            problems.append("method.init: loftq needs a GPU and model.quantize: nf4")
        if options.init in lora.BASE_CHANGING_INITS and quantize != "none":
            problems.append(f"method.init: {options.init} rewrites the base weights, which "
                            f"model.quantize: {quantize} forbids")
        if options.init == "eva" and options.name == "dora":
            problems.append("method.init: eva is not defined for method.name: dora")
    if not method.adapter and "adapter" in recipe.export.formats:
        problems.append(f"export.formats: adapter and method.name: {method.name}, which trains the "
                        "base's own weights; use merged")
    micro, batch = recipe.train.micro_batch_size, recipe.train.batch_size
    if micro != "auto" and batch % micro:
        problems.append(f"train.micro_batch_size: {micro} does not divide train.batch_size: {batch}")
    if recipe.data.packing is True and not method.packing:
        problems.append(f"data.packing: true and method.name: {method.name}, whose packed rows "
                        "would see each other")
    if isinstance(options, StagedOptions) and recipe.train.learning_rate != "auto":
        problems.append("train.learning_rate and method.name: staged; each stage has its own rate")
    problems += [
        f"export.formats: {name} is unknown; one of {', '.join(FORMATS)}, auto"
        for name in recipe.export.formats
        if name not in (*FORMATS, "auto")
    ]
    problems += [
        f"eval.metrics: {name} is unknown; one of {', '.join(METRICS)}, auto"
        for name in recipe.eval.metrics
        if name not in (*METRICS, "auto")
    ]
    if problems:
        raise RecipeError(
            "the recipe asks for things that cannot go together",
            problems=problems,
            fix="change one side of each",
        )


def _targets(
    recipe: Recipe, linears: dict[str, tuple[int, int]], found: Base
) -> list[str]:
    """The modules a LoRA adapts; every name must match, and half of the layers at least."""
    if not isinstance(recipe.method, LoraOptions):
        return []
    wanted = recipe.method.target_modules
    chosen = lora.targets(recipe.method, list(linears))
    endings = sorted({name.rsplit(".", 1)[-1] for name in linears})
    absent = [
        entry
        for entry in wanted
        if entry != "all-linear"
        and not any(name == entry or name.endswith("." + entry) for name in linears)
    ]
    if not chosen or (absent and len(wanted) > 1):
        raise ModelError(
            "method.target_modules names modules that the model does not have",
            f"{found.name}: {', '.join(absent or wanted)} matches no linear layer; "
            f"it has {', '.join(endings)}",
            "correct method.target_modules, or use all-linear",
        )
    layers = memory.shape_of(found.config)[2]
    touched = {part for name in chosen for part in name.split(".") if part.isdigit()}
    if layers and len(touched) * 2 < layers and not recipe.method.allow_partial_targets:
        raise ModelError(
            "method.target_modules reaches only part of the model",
            f"{found.name}: {len(chosen)} modules in {len(touched)} of {layers} layers",
            "widen it, or set method.allow_partial_targets: true",
        )
    return chosen


def _place(recipe: Recipe, machine: Machine, values: _Values) -> tuple[str, str]:
    device = values.set_auto(
        "run.device",
        "cuda" if machine.gpus else "cpu",
        machine.gpus[0].name if machine.gpus else "no GPU on this machine",
    )
    if device == "cpu":
        why = "bf16 is several times slower than fp32 on a CPU without fast bf16"
        return device, values.set_auto("model.dtype", "float32", why)
    fast = all(gpu.capability >= (8, 0) for gpu in machine.gpus)
    why = "the GPU has bf16" if fast else "the GPU has no bf16 of its own"
    return device, values.set_auto("model.dtype", "bfloat16" if fast else "float32", why)


def _packing(recipe: Recipe, method: Method, found: Base, values: _Values) -> bool:
    family = str(found.config.get("model_type"))
    isolated = family in PACKED_FAMILIES and method.packing
    if recipe.data.packing is True and not isolated:
        raise RecipeError(
            "data.packing: true, but packed rows of this model are not isolated",
            f"model type {family} is not among {', '.join(sorted(PACKED_FAMILIES))}",
            "set data.packing: auto; rows are then padded in groups of like length",
        )
    why = (
        f"packed rows stay isolated in {family} models"
        if isolated
        else f"isolation of packed rows is not proven for {family}: padded, grouped by length"
    )
    return bool(values.set_auto("data.packing", isolated, why))


def _split(
    recipe: Recipe, machine: Machine, device: str, shape: memory.Shape, values: _Values
) -> tuple[int, bool]:
    """Micro-batch and gradient checkpointing from the memory estimate."""
    available = machine.gpus[0].memory_bytes if device == "cuda" else machine.memory_bytes
    budget = int(available * memory.SHARE)
    batch = recipe.train.batch_size
    asked, micro = recipe.train.gradient_checkpointing, recipe.train.micro_batch_size
    checkpointing = False if asked == "auto" else asked
    size = memory.fit(shape, batch, budget, checkpointing) if micro == "auto" else micro
    if asked == "auto" and not (
        size and memory.estimate(shape, size, False).total <= budget
    ):
        checkpointing = True
        size = memory.fit(shape, batch, budget, True) if micro == "auto" else micro
    if not size:
        need = memory.estimate(shape, 1, True).total
        raise ResourceError(
            "this run does not fit into memory",
            f"one row a time needs about {need / 2**30:.1f} GiB, "
            f"{budget / 2**30:.1f} of {available / 2**30:.1f} GiB may be used",
            "lower data.max_length, use a smaller model.base, or model.quantize: nf4",
        )
    values.set_auto("train.micro_batch_size", size, f"fits {budget / 2**30:.1f} GiB")
    why = "memory needs it" if checkpointing else "memory does not need it"
    values.set_auto("train.gradient_checkpointing", checkpointing, why)
    return size, checkpointing


def _stages(
    recipe: Recipe, method: Method, rows: int, values: _Values
) -> tuple[Stage, ...]:
    train = recipe.train
    if isinstance(recipe.method, StagedOptions):
        asked = [(s.train, s.learning_rate, s.epochs) for s in recipe.method.stages]
        values.table["train.epochs"] = PlanValue(
            sum(epochs for _, _, epochs in asked), "the sum of method.stages"
        )
        values.table["train.learning_rate"] = PlanValue(asked[0][1], "the first of method.stages")
    else:
        which = "last_layer" if method.name == "last_layer" else "all"
        rate = values.set_auto(
            "train.learning_rate", method.learning_rate, f"the default of {method.name}"
        )
        asked = [(which, rate, train.epochs)]
    stages: list[Stage] = []
    for name, rate, epochs in asked:
        start = stages[-1].stop if stages else 0
        steps = max(1, math.ceil(round(epochs * rows, 6) / train.batch_size))
        if train.max_steps is not None:
            steps = min(steps, train.max_steps - start)
        if steps > 0:
            warmup = train.warmup if train.warmup >= 1 else math.ceil(train.warmup * steps)
            stages.append(Stage(name, rate, start, start + steps, int(min(warmup, steps))))
    values.table["train.max_steps"] = PlanValue(
        stages[-1].stop,
        values.table["train.max_steps"].origin
        if train.max_steps == stages[-1].stop
        else "auto: epochs x rows / batch_size, rounded up",
    )
    return tuple(stages)


def _defaults(recipe: Recipe, prepared: Prepared, found: Base, values: _Values) -> None:
    values.set_auto("data.max_length", found.context_length, "the model's context")
    values.set_auto("data.template", prepared.template, "from the columns")
    values.set_auto(
        "data.render",
        "chat" if prepared.chat_template else "raw",
        "the template has turns" if prepared.chat_template else "the template is plain text",
    )


def _metrics(recipe: Recipe, prepared: Prepared, values: _Values) -> tuple[str, ...]:
    labelled = any(row.options for row in prepared.eval)
    fitting = ["loss", "perplexity", "token_accuracy", *(["label_accuracy"] if labelled else [])]
    why = "the rows have labels" if labelled else "what every row has"
    chosen = tuple(values.set_auto("eval.metrics", fitting, why))
    if "label_accuracy" in chosen and not labelled and prepared.eval:
        raise RecipeError(
            "eval.metrics: label_accuracy, but no held-out row has a label",
            "none of the answers is one of data.labels",
            "set data.labels, or leave label_accuracy out",
        )
    return chosen


def _formats(recipe: Recipe, method: Method, values: _Values) -> tuple[str, ...]:
    allowed = []
    if method.adapter:
        allowed.append("adapter")
    if method.mergeable and recipe.model.quantize == "none":
        allowed.append("merged")
    return tuple(values.set_auto("export.formats", allowed, f"what {method.name} allows"))


def _warnings(
    recipe: Recipe, prepared: Prepared, bones: skeleton.Skeleton, trainable: int, found: Base
) -> list[str]:
    warnings = [str(text) for text in prepared.report.get("warnings", [])]
    if recipe.model.trust_remote_code:
        warnings.append(f"model.trust_remote_code: Python code of {found.name} will run")
    if bones.tied and recipe.method.name in ("last_layer", "staged"):
        warnings.append("the head is the embedding matrix: training the last layer trains both")
    if recipe.model.dtype in ("bfloat16", "float16") and trainable == bones.total:
        warnings.append("full weights are trained in float32; model.dtype is what is computed in")
    if not prepared.eval and recipe.eval.enabled:
        warnings.append("there are no held-out rows: no scores before and after")
    return warnings


def _facts(
    found: Base,
    bones: skeleton.Skeleton,
    trainable: int,
    prepared: Prepared,
    recipe: Recipe,
    stages: tuple[Stage, ...],
    micro: int,
    peak: memory.Estimate,
) -> dict[str, dict[str, Any]]:
    report = prepared.report
    return {
        "model": {
            "name": found.name,
            "kind": found.kind,
            "folder": str(found.folder),
            "type": found.config.get("model_type"),
            "context_length": found.context_length,
        },
        "parameters": {
            "total": bones.total,
            "trainable": trainable,
            "trainable_share": trainable / (bones.total or 1),
        },
        "data": {key: value for key, value in report.items() if key != "warnings"},
        "steps": {
            "total": stages[-1].stop,
            "rows_per_step": recipe.train.batch_size,
            "micro_batch_size": micro,
            "gradient_accumulation_steps": recipe.train.batch_size // micro,
            "stages": [
                {"train": s.train, "steps": s.steps, "learning_rate": s.learning_rate}
                for s in stages
            ],
        },
        "memory": peak.as_dict(),
    }
