"""What all methods' options share, and what a peft configuration is built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, create_model

from tuner.schema.fields import Flag, Section, Words

# peft's names for the files of an adapter.
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


if TYPE_CHECKING:
    _Continuing = Section
else:
    # Python's syntax has no attribute of this name.
    _Continuing = create_model(
        "_Continuing",
        __base__=Section,
        **{
            "continue": (
                Annotated[Flag, Field(description="train the weights of model.adapter further")],
                False,
            )
        },
    )


class MethodOptions(_Continuing):
    """Base of the recipe's `method` section; each method adds its own keys."""

    name: str

    @property
    def continues(self) -> bool:
        """Whether the weights of `model.adapter` are trained further."""
        return bool(getattr(self, "continue"))  # a keyword of Python

    @property
    def own_learning_rate(self) -> float | None:
        """Return the default learning rate of these options, if it differs from the method's."""
        return None

    def meaning(self, values: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
        """Return the options in canonical form, the same for every way to write them.

        Args:
            values: the options as the plan shows them, by key.
            setting: the same plan's.
        """
        del setting
        return dict(values)


class TargetedOptions(MethodOptions):
    """Options of a method that changes named modules of the base."""

    target_modules: Annotated[
        Words, Field(description="module names to adapt, or all-linear, or one regular expression")
    ] = ("all-linear",)
    allow_partial_targets: Annotated[
        Flag, Field(description="accept targets found in less than half of the layers")
    ] = False


@dataclass(frozen=True)
class Setting:
    """What a method's peft configuration is built from; known before any weight is loaded.

    Attributes:
        options: the recipe's `method` section.
        config: the base's config.json.
        task_type: peft's name of the task, such as CAUSAL_LM.
        targets: full names of the modules to adapt.
        experts: full names of parameters to adapt, the fused weights of experts.
        saved: full names of modules to train in full and save with the adapter.
        steps: optimizer steps of the run.
        tasks: number of data sets that are trained together.
        new_modules: parts of a new head, trained and saved with the adapter.
        decoder: whether the base is a decoder.
        token_ids: ids of `method.tokens`, where the method has them.
        new_token_ids: ids of `model.new_tokens`, whose rows an adapter trains, too.
        group: inputs that share a scale in quantization-aware training to int4.
    """

    options: Any
    config: Mapping[str, Any]
    task_type: str
    targets: tuple[str, ...] = ()
    experts: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()
    steps: int = 1
    tasks: int = 1
    token_ids: tuple[int, ...] = ()
    new_token_ids: tuple[int, ...] = ()
    new_modules: tuple[str, ...] = ()
    decoder: bool = True
    group: int | None = None

    def with_head(self, config: Any) -> Any:
        """Return peft's configuration, with the new head among the modules that are saved."""
        if self.new_modules:
            config.modules_to_save = [*(config.modules_to_save or ()), *self.new_modules]
        return config

    @property
    def transposed(self) -> bool:
        """Whether the base stores its matrices (inputs, outputs), as GPT-2 does."""
        return self.config.get("model_type") == "gpt2"
