"""What a plan decides: each `auto` of the recipe becomes a value with a reason."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuner import fitting, memory
from tuner.base import Base
from tuner.data import Prepared, pack
from tuner.devices import Devices
from tuner.errors import RecipeError, ResourceError
from tuner.export_formats import made
from tuner.heads import HEADS
from tuner.methods import Method
from tuner.methods.full import StagedOptions
from tuner.recipe import Recipe
from tuner.recipe_export import AUTO, name_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuner.machine import Machine
    from tuner.recipe_load import LoadedRecipe

# Families whose packed rows are proven isolated by tests/test_packing.py: what a row says changes
# no bit of the others' results. Mixtures of experts are not among them: a row's words decide how
# large the matrix products are that the others share.
PACKED_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gpt2"})
# Tokens from which on float32 matrix products run at a CPU's full rate: halving 1,652 tokens of
# packed rows on SmolLM2-135M cost 4 % of the time and saved 1 GB of 3.3. In half precision it cost
# 5 %, and a token takes half of the memory: there it is twice as many.
ENOUGH_TOKENS = 768


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


class Values:
    """The flat table of values under decision."""

    def __init__(self, loaded: LoadedRecipe) -> None:
        self.table: dict[str, PlanValue] = {}
        for section, keys in loaded.recipe.model_dump(mode="json").items():
            for key, value in (keys or {}).items():
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


def place(recipe: Recipe, machine: Machine, values: Values) -> tuple[str, str]:
    device = values.set_auto(
        "run.device",
        "cuda" if machine.gpus else "cpu",
        machine.gpus[0].name if machine.gpus else "no GPU on this machine",
    )
    if device == "cpu":
        why = "this processor has no bf16 instructions: bf16 would be several times slower"
        if machine.cpu_bf16:
            why = (
                "exact on any CPU; this one has bf16 instructions: model.dtype: bfloat16 is faster"
            )
        return device, values.set_auto("model.dtype", "float32", why)
    fast = all(gpu.bf16 for gpu in machine.gpus)
    why = "the GPU has bf16" if fast else "the GPU has no bf16 of its own"
    return device, values.set_auto("model.dtype", "bfloat16" if fast else "float32", why)


def packing(recipe: Recipe, method: Method, found: Base, head: str, values: Values) -> bool:
    model_type = str(found.config.get("model_type"))
    why = ""
    if head != "language":
        why = "only a causal language model can keep packed rows apart"
    elif model_type not in PACKED_FAMILIES:
        known = ", ".join(sorted(PACKED_FAMILIES))
        why = f"isolation of packed rows is not proven for {model_type} (it is for {known})"
    elif not method.packing:
        why = f"packed rows of {method.name} would see each other"
    if recipe.data.packing is True and why:
        raise RecipeError(
            "data.packing: true, but packed rows of this model are not isolated",
            why,
            "set data.packing: auto; rows are then padded in groups of like length",
        )
    said = f"{why}: padded, by length" if why else f"packed rows stay isolated in {model_type}"
    return bool(values.set_auto("data.packing", not why, said))


def shares(recipe: Recipe, method: Method, found: Base) -> bool:
    """Whether packed rows may share the tokens they begin with: nothing is drawn in the model's
    forward pass, and nothing stands before the rows."""
    drawn = [value for key, value in found.config.items() if "drop" in key]
    none_drawn = not any(isinstance(value, (int, float)) and value for value in drawn)
    return none_drawn and not method.virtual_tokens and not getattr(recipe.method, "dropout", 0.0)


# Rows of the training order by which memory is foreseen: of more, the largest is hardly larger.
_FORESEEN = 50_000


def order(recipe: Recipe, count: int, stages: Sequence[Stage]) -> list[int]:
    """The training rows as the run takes them, as far as they are looked at ahead."""
    rows = min(stages[-1].stop * recipe.train.batch_size, _FORESEEN)
    return [int(row) for row in pack.order(count, recipe.run.seed, 0, rows)]


def mapped(recipe: Recipe, found: Base, device: str, dtype: str, parameters: int) -> int:
    """Bytes of the base's files that stay mapped beside its quantized weights: on a CPU the others
    are read where they lie, if they are stored as they are computed."""
    stored = found.config.get("dtype") or found.config.get("torch_dtype")
    stays = recipe.model.quantize != "none" and device == "cpu" and stored == dtype
    return parameters * (4 if dtype == "float32" else 2) if stays else 0


def split(
    recipe: Recipe,
    method: Method,
    machine: Machine,
    device: str,
    shape: memory.Shape,
    quantized: memory.Shape | None,
    packed: bool,
    values: Values,
    processes: Devices,
) -> tuple[int, bool]:
    """Micro-batch and gradient checkpointing from the memory estimate.

    Args:
        shape: of the run.
        quantized: the same on a base in 4 bits, for the advice where nothing fits.

    Raises:
        RecipeError: what cannot be recomputed is asked to be.
        ResourceError: not even one row per forward pass fits; says what would.
    """
    possible = recomputable(method, packed)
    if recipe.train.gradient_checkpointing is True and not possible:
        raise RecipeError(
            f"train.gradient_checkpointing: true and method.name: {method.name}",
            "its keys and values stand in a cache unless rows are packed, and a cache cannot be "
            "recomputed",
            "lower train.micro_batch_size instead, which leaves the update as it is",
        )
    shared = machine.memory_bytes // processes.per_node
    available = machine.gpus[0].memory_bytes if device == "cuda" else shared
    limit = fitting.budget(device, available)
    batch = processes.share(recipe.train.batch_size)
    asked, micro = recipe.train.gradient_checkpointing, recipe.train.micro_batch_size
    allowed = recomputes(recipe, possible)
    choice = fitting.choose(shape, limit, allowed)
    if choice is None and micro == "auto":
        need = min(memory.estimate(shape, 1, again).total for again in allowed)
        raise ResourceError(
            "this run does not fit into memory",
            f"one row per forward pass needs about {need / 2**30:.1f} GiB, "
            f"{limit / 2**30:.1f} of {available / 2**30:.1f} GiB may be used",
            fitting.remedies(shape, quantized, limit, allowed),
        )
    if (drawing := memory.drawing_peak(shape)) > limit:
        raise ResourceError(
            "drawing the answers of a step does not fit into memory",
            f"it needs about {drawing / 2**30:.1f} GiB, "
            f"{limit / 2**30:.1f} of {available / 2**30:.1f} GiB may be used",
            "lower train.batch_size, rlhf.max_new_tokens or data.max_length",
        )
    size = choice.micro_batch_size if choice and micro == "auto" else int(micro)
    checkpointing = bool(choice and choice.checkpointing)
    if micro != "auto":
        fits = memory.estimate(shape, size, False).total <= limit
        checkpointing = possible and not fits if asked == "auto" else bool(asked)
    why = f"fits {limit / 2**30:.1f} GiB"
    if (
        micro == "auto"
        and device == "cpu"
        and packed
        and (few := _enough(shape, batch, size)) < size
    ):
        size, why = few, f"{_enough_tokens(shape)} tokens a time keep a CPU busy, more take memory"
    values.set_auto("train.micro_batch_size", size, why)
    why = "memory needs it" if checkpointing else "memory does not need it"
    values.set_auto("train.gradient_checkpointing", checkpointing, why)
    return size, checkpointing


def recomputable(method: Method, packed: bool) -> bool:
    """Whether activations may be recomputed: what lies in a cache may not."""
    return method.gradient_checkpointing and (packed or not method.deep_prompts)


def recomputes(recipe: Recipe, possible: bool) -> tuple[bool, ...]:
    """Whether activations are kept or recomputed, what is tried first coming first."""
    asked = recipe.train.gradient_checkpointing
    return (asked,) if asked != "auto" else (False, True) if possible else (False,)


def _enough_tokens(shape: memory.Shape) -> int:
    return int(ENOUGH_TOKENS * memory.WIDTHS["float32"] / memory.WIDTHS[shape.dtype])


def _enough(shape: memory.Shape, batch_size: int, most: int) -> int:
    """The fewest rows, of the divisors of the batch up to `most`, that have enough tokens."""
    enough = _enough_tokens(shape)
    mean = sum(shape.rows.lengths) / max(1, len(shape.rows.lengths))
    sizes = (size for size in range(1, most) if batch_size % size == 0)
    return next((size for size in sizes if size * mean >= enough), most)


def stages(recipe: Recipe, method: Method, rows: int, values: Values) -> tuple[Stage, ...]:
    train, rlhf = recipe.train, recipe.rlhf
    if rlhf is not None and rlhf.draws:
        why = f"the default of {rlhf.algorithm}"
        rows *= int(values.set_auto("rlhf.responses_per_prompt", rlhf.copies, why))
    if isinstance(recipe.method, StagedOptions):
        asked: list[tuple[str, float, float]] = [
            (s.train, s.learning_rate, s.epochs) for s in recipe.method.stages
        ]
        values.table["train.epochs"] = PlanValue(
            sum(epochs for _, _, epochs in asked), "the sum of method.stages"
        )
        values.table["train.learning_rate"] = PlanValue(asked[0][1], "the first of method.stages")
    else:
        which = "last_layer" if method.name == "last_layer" else "all"
        usual = recipe.method.own_learning_rate or method.learning_rate
        rate = values.set_auto("train.learning_rate", usual, f"the default of {method.name}")
        asked = [(which, rate, train.epochs)]
    stages: list[Stage] = []
    for name, rate, epochs in asked:
        start = stages[-1].stop if stages else 0
        steps = max(1, math.ceil(round(epochs * rows, 6) / train.batch_size))
        if train.max_steps is not None:
            steps = min(steps, train.max_steps - start)
        if steps > 0:
            warmup = train.warmup if train.warmup >= 1 else math.ceil(train.warmup * steps)
            stages.append(Stage(name, rate, start, start + steps, int(min(warmup, steps - 1))))
    values.table["train.max_steps"] = PlanValue(
        stages[-1].stop,
        values.table["train.max_steps"].origin
        if train.max_steps == stages[-1].stop
        else "auto: epochs x rows / batch_size, rounded up",
    )
    return tuple(stages)


def defaults(recipe: Recipe, prepared: Prepared, found: Base, head: str, values: Values) -> None:
    room = prepared.report["max_length"]
    whole = "the model's context"
    drawn = recipe.rlhf is not None and recipe.rlhf.draws
    kept = "tokens to draw" if drawn else "virtual tokens"
    own = f"{whole} less {found.context_length - room} {kept}"
    values.set_auto("data.max_length", room, whole if room == found.context_length else own)
    task = "classification" if head == "classes" else "generation"
    values.set_auto("model.task", task, f"{found.config.get('model_type')} is made for it")
    values.set_auto("data.template", prepared.template, "from the columns")
    if "dropped_too_long" not in prepared.report:
        values.set_auto("data.long", "truncate", "no row loses more than half")
    if found_labels := prepared.report.get("labels"):
        values.table["data.labels"] = PlanValue(found_labels, "auto: the labels of the rows")
    values.set_auto(
        "data.render",
        "chat" if prepared.chat_template else "raw",
        "the template has turns" if prepared.chat_template else "plain text is what fits",
    )


# What is told of each task's held-out rows; `evaluate.METRICS` has their functions.
TASK_METRICS = {
    "reward": ("pair_loss", "pair_accuracy", "margin", "calibration_error", "length_bias"),
    "rlhf": ("reward", "reward_ci95", "kl", "response_length", "ended_share"),
    "dpo": ("pair_loss", "pair_accuracy", "margin"),
}


def metrics(recipe: Recipe, task: str, prepared: Prepared, values: Values) -> tuple[str, ...]:
    if recipe.rlhf is not None and not recipe.rlhf.draws:
        task = recipe.rlhf.algorithm
    if task in TASK_METRICS:
        own = TASK_METRICS[task]
        chosen = tuple(values.set_auto("eval.metrics", list(own), f"what {task} is judged by"))
        for name in chosen:
            if name not in own:
                raise RecipeError(
                    f"eval.metrics: {name} is not a metric of `tuner {task}`",
                    f"it has {', '.join(own)}",
                    "name some of these, or leave out eval.metrics",
                )
        return chosen
    labelled = any(row.options for row in prepared.eval)
    fitting = ["loss", "perplexity", "token_accuracy", *(["label_accuracy"] if labelled else [])]
    if any(row.example.label is not None for row in prepared.eval):
        labelled, fitting = True, ["loss", "label_accuracy"]
    why = "the rows have labels" if labelled else "what every row has"
    chosen = tuple(values.set_auto("eval.metrics", fitting, why))
    if "label_accuracy" in chosen and not labelled and prepared.eval:
        raise RecipeError(
            "eval.metrics: label_accuracy, but no held-out row has a label",
            "none of the answers is one of data.labels",
            "set data.labels, or leave label_accuracy out",
        )
    return chosen


def formats(recipe: Recipe, method: Method, head: str, values: Values) -> tuple[str, ...]:
    """Names of the formats that the run writes, each once; options stay with the recipe.

    What is made of the trained weights does not replace them: the adapter, or the model where
    there is none, is written with it.
    """
    allowed = []
    if method.adapter:
        allowed.append("adapter")
    if method.virtual_tokens and head == "language":
        allowed.append("virtual_tokens")
    merges = method.mergeable and (method.merges_classes or not HEADS[head].added)
    if merges and recipe.model.quantize == "none":
        allowed.append("merged")
    wanted = list(recipe.export.formats)
    if wanted == [AUTO]:
        return tuple(values.set_auto("export.formats", allowed, f"what {method.name} allows"))
    origin = values.table["export.formats"].origin
    if AUTO in wanted:
        place = wanted.index(AUTO)
        others = [item for item in wanted if item != AUTO]
        named = [name_of(item) for item in others]
        others[place:place] = [name for name in allowed if name not in named]
        wanted, origin = others, f"{origin}; auto: what {method.name} allows"
    names = [name_of(item) for item in wanted]
    source = "adapter" if method.adapter else "merged"
    if source not in names and made(names, recipe.model.quantize):
        names, wanted = [source, *names], [source, *wanted]
        origin = f"{origin}; {source}: what the others are made of"
    values.table["export.formats"] = PlanValue(wanted, origin)
    return tuple(names)
