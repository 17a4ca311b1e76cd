"""The recipe: what the user asks for, as a strict YAML.

Every key has a one-line description, which is its help, its place in the JSON Schema and its
documentation. All problems of a recipe are reported at once, each with its line and, for an unknown
key, the nearest one that exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, Discriminator, Field, Tag
from pydantic.fields import FieldInfo

from tuner.methods import METHODS
from tuner.methods.lora import LoraOptions
from tuner.methods.options import MethodOptions
from tuner.recipe.export import ExportSection
from tuner.recipe.schema_rlhf import PpoSection, RewardSection, RlhfSection
from tuner.schema.fields import (
    BASE,
    FILE,
    AutoCount,
    AutoFlag,
    AutoPositive,
    Count,
    CountFromZero,
    Flag,
    FreeMapping,
    Integer,
    NotNegative,
    PathOrAmount,
    Positive,
    Section,
    Share,
    StepsOrShare,
    Text,
    Words,
)


class ModelSection(Section):
    """The base model."""

    base: Annotated[
        Text, BASE, Field(description="alias (smollm2-135m), Hub id, local folder or .gguf file")
    ] = "smollm2-135m"
    revision: Annotated[Text | None, Field(description="branch, tag or commit of a Hub model")] = (
        None
    )
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Field(description="type of the base weights; auto: what the machine computes fastest"),
    ] = "auto"
    quantize: Annotated[
        Literal["none", "nf4", "int8"],
        Field(description="load the base quantized (bitsandbytes)"),
    ] = "none"
    task: Annotated[
        Literal["auto", "generation", "classification"],
        Field(description="write text, or tell classes; auto: what the base is made for"),
    ] = "auto"
    new_tokens: Annotated[
        Words, Field(description="tokens to add to the vocabulary, never split, and to train")
    ] = ()
    trust_remote_code: Annotated[
        Flag, Field(description="run Python code that comes with the model")
    ] = False
    code_sha256: Annotated[
        Text | None,
        Field(description="sha256 of that code, as the lock has it; any other code is refused"),
    ] = None


class DataSection(Section):
    """The rows and how they become examples."""

    train: Annotated[Words, FILE, Field(min_length=1, description="file or files of training rows")]
    eval: Annotated[
        PathOrAmount,
        FILE,
        Field(description="held-out rows: a file, a fraction below 1, or a number of rows"),
    ] = 0.1
    template: Annotated[
        Text, FILE, Field(description="name or file of a data template; auto: from the columns")
    ] = "auto"
    columns: Annotated[
        dict[str, Text],
        Field(description="rename columns: {name in the template: name in the file}"),
    ] = Field(default_factory=dict)
    labels: Annotated[
        Words, Field(description="answers to choose from; scores label accuracy")
    ] = ()
    render: Annotated[
        Literal["auto", "chat", "raw"],
        Field(description="through the chat template, or as plain prompt and answer"),
    ] = "auto"
    max_length: Annotated[
        AutoCount, Field(description="longest example in tokens; auto: the model's context")
    ] = "auto"
    long: Annotated[
        Literal["auto", "truncate", "split", "error"],
        Field(description="longer rows: cut, split (plain text), error; auto: cut by half at most"),
    ] = "auto"
    max_rows: Annotated[Count | None, Field(description="use only the first rows")] = None
    packing: Annotated[
        AutoFlag, Field(description="rows of a micro-batch in one sequence, without padding")
    ] = "auto"
    special_tokens_in_text: Annotated[
        Literal["literal", "error", "allow"],
        Field(description="what control tokens written in a row's text become"),
    ] = "literal"
    max_bad_rows: Annotated[
        CountFromZero, Field(description="broken rows to leave out and count before stopping")
    ] = 0


class TrainSection(Section):
    """The optimisation."""

    epochs: Annotated[Positive, Field(description="passes over the training rows")] = 3.0
    max_steps: Annotated[
        Count | None, Field(description="stop after this many optimizer steps")
    ] = None
    batch_size: Annotated[Count, Field(description="rows per optimizer step, over all devices")] = (
        16
    )
    micro_batch_size: Annotated[
        AutoCount, Field(description="rows per forward pass; auto: from the memory estimate")
    ] = "auto"
    learning_rate: Annotated[
        AutoPositive, Field(description="peak learning rate; auto: the method's own")
    ] = "auto"
    scheduler: Annotated[
        Literal["linear", "cosine", "constant"],
        Field(description="course of the learning rate after the warmup"),
    ] = "linear"
    warmup: Annotated[
        StepsOrShare, Field(description="warmup: a share of the steps, or a number of steps")
    ] = 0.03
    weight_decay: Annotated[NotNegative, Field(description="AdamW weight decay")] = 0.0
    max_grad_norm: Annotated[Positive, Field(description="gradients are clipped to this norm")] = (
        1.0
    )
    gradient_checkpointing: Annotated[
        AutoFlag, Field(description="recompute activations; auto: only when memory needs it")
    ] = "auto"
    qat: Annotated[
        Literal["none", "int8", "int4"],
        Field(description="train the merged weights for their quantization by torchao"),
    ] = "none"
    save_steps: Annotated[Count, Field(description="seal a checkpoint every so many steps")] = 50
    logging_steps: Annotated[
        Count, Field(description="write a metrics line every so many steps")
    ] = 1
    adam_beta1: Annotated[Share, Field(description="AdamW: decay of the first moment")] = 0.9
    adam_beta2: Annotated[Share, Field(description="AdamW: decay of the second moment")] = 0.999
    adam_epsilon: Annotated[
        Positive, Field(description="AdamW: added to the root of the second moment")
    ] = 1e-8


class EvalSection(Section):
    """Scores on held-out rows, before and after."""

    enabled: Annotated[Flag, Field(description="score before and after training")] = True
    metrics: Annotated[Words, Field(description="metric names; auto: those that fit the data")] = (
        "auto",
    )
    max_rows: Annotated[
        Count | None, Field(description="score at most this many held-out rows")
    ] = None
    samples: Annotated[
        CountFromZero, Field(description="held-out prompts to answer before and after")
    ] = 1
    max_new_tokens: Annotated[Count, Field(description="longest generated answer")] = 64


class RunSection(Section):
    """Where and how the run happens."""

    output: Annotated[
        Text | None, Field(description="the run folder; default: runs/<recipe name>")
    ] = None
    seed: Annotated[Integer, Field(ge=0, description="seeds data order, weights and dropout")] = 42
    device: Annotated[Literal["auto", "cpu", "cuda"], Field(description="where to train")] = "auto"
    devices: Annotated[
        AutoCount, Field(description="processes on each machine; auto: one a GPU, one on a CPU")
    ] = "auto"
    nodes: Annotated[
        AutoCount, Field(description="machines; auto: as many as a launcher has started on")
    ] = "auto"
    strategy: Annotated[
        Literal["auto", "ddp", "fsdp"],
        Field(description="ddp: each process holds the model; fsdp: a share of the frozen base"),
    ] = "auto"
    timeout: Annotated[
        Count, Field(description="seconds that a process waits for the others before it gives up")
    ] = 600
    price_per_hour: Annotated[
        Positive | None,
        Field(description="what a machine (of run.nodes) costs an hour; times get a cost by it"),
    ] = None


class CompareSection(Section):
    """Several methods on the same data at equal budget; for `tuner compare` alone."""

    # Each is read as a `method` section of its own, so that it has that section's messages.
    methods: Annotated[
        tuple[FreeMapping, ...],
        Field(min_length=1, description="the method sections to train with, a run each"),
    ]
    learning_rates: Annotated[
        dict[str, Positive],
        Field(description="peak learning rates of their own: {method: rate}"),
    ] = Field(default_factory=dict)


def _method_tag(value: Any) -> str:
    name = value.get("name", "lora") if isinstance(value, dict) else getattr(value, "name", "lora")
    return str(name)


if TYPE_CHECKING:
    MethodSection = MethodOptions
else:
    MethodSection = Annotated[
        reduce(or_, (Annotated[row.options, Tag(row.name)] for row in METHODS.values())),
        Discriminator(_method_tag),
    ]


class Recipe(Section):
    """A whole recipe. Every section but `data` may be left out."""

    model: ModelSection = ModelSection()
    data: DataSection
    method: MethodSection = LoraOptions()
    train: TrainSection = TrainSection()
    eval: EvalSection = EvalSection()
    export: ExportSection = ExportSection()
    run: RunSection = RunSection()
    # Each is there for its own task alone.
    reward: Annotated[RewardSection | None, Field(description="for `tuner reward`")] = None
    rlhf: Annotated[RlhfSection | None, Field(description="for `tuner rlhf`")] = None
    ppo: Annotated[PpoSection | None, Field(description="for rlhf.algorithm: ppo")] = None
    # Not part of what a run is: each method becomes a recipe without it.
    compare: Annotated[
        CompareSection | None,
        Field(exclude=True, description="the methods that `tuner compare` trains"),
    ] = None


def sections() -> dict[str, list[type[BaseModel]]]:
    """Each section of the recipe and its models: one, but for `method` one a method."""
    return {name: list(models_in(info.annotation)) for name, info in Recipe.model_fields.items()}


def keys_of(section: str, method: str | None = None) -> dict[str, FieldInfo]:
    """The valid keys of a section; of `method`, those of one method or of all."""
    if section == "method" and method in METHODS:
        return dict(METHODS[method].options.model_fields)
    return {
        name: info
        for model in sections().get(section, [])
        for name, info in model.model_fields.items()
    }


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every section model that a type mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, for editors; every key with its description."""
    schema = Recipe.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    for model in schema["$defs"].values():
        for name, key in model.get("properties", {}).items():
            model["properties"][name] = _or_one_word(key)
    method = {"oneOf": schema["properties"]["method"]["oneOf"]}
    schema["$defs"]["CompareSection"]["properties"]["methods"]["items"] = method
    return schema


def _or_one_word(key: dict[str, Any]) -> dict[str, Any]:
    """A list of words may be written as one word."""
    if key.get("items", {}).get("type") != "string":
        return key
    listed = {name: key[name] for name in ("type", "items", "minItems") if name in key}
    rest = {name: value for name, value in key.items() if name not in listed}
    return {**rest, "anyOf": [{"type": "string"}, listed]}
