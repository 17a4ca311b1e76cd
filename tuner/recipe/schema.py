"""The schema of a recipe: strict YAML.

Every key has a one-line description, which serves as its help, in the JSON Schema and in the
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
from tuner.recipe.schema_eval import EvalSection
from tuner.recipe.schema_learn import Learn
from tuner.recipe.schema_model import ModelSection
from tuner.recipe.schema_preference import CpoSection, DpoSection, KtoSection, SimpoSection
from tuner.recipe.schema_rlhf import GrpoSection, PpoSection, RewardSection, RlhfSection
from tuner.recipe.schema_rows import Cut, Disliked, Draw, Long, MaxLength, SpecialTokens, Split
from tuner.recipe.schema_run import RunSection
from tuner.recipe.schema_source import HeldOut, Source, Sources, SourceSection
from tuner.recipe.schema_train import TrainSection
from tuner.schema.fields import (
    FILE,
    AutoFlag,
    Count,
    CountFromZero,
    Flag,
    FreeMapping,
    Positive,
    Section,
    Text,
    Words,
)


class DataSection(Section):
    """The rows and how they become examples."""

    train: Annotated[
        Sources,
        FILE,
        Field(
            description="files with training rows; {source: FILE, rows: 500} has keys of its own",
        ),
    ]
    eval: Annotated[
        HeldOut,
        FILE,
        Field(
            description="held-out rows: a file (or a mapping as in train), a fraction below 1, or "
            "a number of rows"
        ),
    ] = 0.1
    template: Annotated[
        Text,
        FILE,
        Field(description="name or file of a data template; auto: chosen by the columns"),
    ] = "auto"
    columns: Annotated[
        dict[str, Text],
        Field(
            description="rename columns: {name in the template: name in the file, or a path into "
            "its rows: answer.0, meta.id, questions.*.q; or several, joined: title + body; or the "
            "name of the one that is 1: late | lost}"
        ),
    ] = Field(default_factory=dict)
    labels: Annotated[
        Words, Field(description="the possible answers, which are scored; auto: as the rows say")
    ] = ()
    multi_label: Annotated[
        Flag,
        Field(
            description="model.task: classification: a row has any number of the labels, as a "
            "list ([late, lost]), as text (late; lost) or as columns of 0 and 1 (late | lost)"
        ),
    ] = False
    label_names: Annotated[
        dict[str, Text] | Text | None,
        Field(description="{0: negative, 1: positive}, or the column that has the labels' names"),
    ] = None
    render: Annotated[
        Literal["auto", "chat", "raw"],
        Field(description="use the chat template, or plain prompt and answer"),
    ] = "auto"
    reasoning: Annotated[
        Literal["auto", "learn", "context", "drop"],
        Field(description="reasoning before answers: learn it, show it only, drop it; auto: learn"),
    ] = "auto"
    reasoning_column: Annotated[
        Text | None, Field(description="column with the reasoning before each row's last answer")
    ] = None
    learn: Annotated[
        Learn,
        Field(
            description="turns that are learned: answers, last_answer, all, or {roles: [user, "
            "tool]}; a key of a turn (weight, train ...) comes first"
        ),
    ] = "answers"
    system: Annotated[
        Text | None,
        Field(description="system turn of rows that have none, and of chats without one"),
    ] = None
    instruction: Annotated[
        Text | None, Field(description="text before every row; those who use the model send it too")
    ] = None
    disliked: Disliked = "error"
    max_length: MaxLength = "auto"
    long: Long = "auto"
    cut: Cut = "auto"
    max_rows: Annotated[Count | None, Field(description="use only this many training rows")] = None
    draw: Draw = "seed"
    split: Split = "prompt"
    packing: Annotated[
        AutoFlag,
        Field(description="pack the rows of a micro-batch into one sequence, without padding"),
    ] = "auto"
    special_tokens_in_text: SpecialTokens = "auto"
    max_bad_rows: Annotated[
        CountFromZero, Field(description="malformed rows to skip and count before stopping")
    ] = 0

    @property
    def eval_file(self) -> Source | None:
        """The source of held-out rows; None if they are training rows."""
        return self.eval if isinstance(self.eval, str | SourceSection) else None


class CompareSection(Section):
    """Several methods on the same data at equal budget; only for `tuner compare`."""

    # Each is read as a `method` section, so that it gets that section's messages.
    methods: Annotated[
        tuple[FreeMapping, ...],
        Field(min_length=1, description="the method sections to compare, one run each"),
    ]
    learning_rates: Annotated[
        dict[str, Positive],
        Field(description="peak learning rate per method: {method: rate}"),
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
    # Each is present for its own task only.
    reward: Annotated[RewardSection | None, Field(description="for `tuner reward`")] = None
    rlhf: Annotated[RlhfSection | None, Field(description="for `tuner rlhf`")] = None
    ppo: Annotated[PpoSection | None, Field(description="for rlhf.algorithm: ppo")] = None
    grpo: Annotated[GrpoSection | None, Field(description="for rlhf.algorithm: grpo")] = None
    dpo: Annotated[DpoSection | None, Field(description="for rlhf.algorithm: dpo")] = None
    kto: Annotated[KtoSection | None, Field(description="for rlhf.algorithm: kto")] = None
    simpo: Annotated[SimpoSection | None, Field(description="for rlhf.algorithm: simpo")] = None
    cpo: Annotated[CpoSection | None, Field(description="for rlhf.algorithm: cpo")] = None
    # No run has it: each method becomes a recipe without this section.
    compare: Annotated[
        CompareSection | None,
        Field(exclude=True, description="the methods that `tuner compare` trains"),
    ] = None


def sections() -> dict[str, list[type[BaseModel]]]:
    """Return the models of each section: one, except for `method`, which has one per method."""
    return {name: list(models_in(info.annotation)) for name, info in Recipe.model_fields.items()}


def keys_of(section: str, method: str | None = None) -> dict[str, FieldInfo]:
    """Return the valid keys of a section; for `method`, those of one method or of all."""
    if section == "method" and method in METHODS:
        return dict(METHODS[method].options.model_fields)
    return {
        name: info
        for model in sections().get(section, [])
        for name, info in model.model_fields.items()
    }


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield every section model that a type mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)
