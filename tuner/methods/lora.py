"""The LoRA family: LoRA (Hu et al. 2021), rsLoRA (Kalajdzievski 2023), DoRA (Liu et al. 2024).

Initialisations follow peft: PiSSA (Meng et al. 2024), OLoRA (Buyukakyuz 2024), EVA (Paischer et al.
2024), LoftQ (Li et al. 2023). PiSSA and OLoRA move part of the base weights into the adapter;
`export` converts the result so that it works on the untouched base.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from tuner.methods.method import QUANTIZED, Method
from tuner.methods.options import MethodOptions, Setting, TargetedOptions
from tuner.schema.fields import AutoPositive, Count, Counts, Flag, Positive, Share, Words

_BASE_CHANGING_INITS = ("pissa", "olora")

# The fused weights of mixtures of experts, (experts, outputs, inputs), by the ends of their names.
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")


class LoraOptions(TargetedOptions):
    """Options of the LoRA family."""

    name: Literal["lora"] = "lora"
    r: Annotated[Count, Field(description="rank of the update")] = 16
    alpha: Annotated[
        AutoPositive, Field(description="scale of the update, divided by r; auto: 2 x r")
    ] = "auto"
    dropout: Annotated[Share, Field(description="dropout on the input of each adapter")] = 0.0
    init: Annotated[
        Literal["default", "pissa", "olora", "eva", "loftq"],
        Field(description="initialisation of the two factors"),
    ] = "default"
    layers: Annotated[
        Counts, Field(description="indices of the layers to adapt, from 0; empty: all")
    ] = ()
    rank_pattern: Annotated[
        dict[str, Count],
        Field(description="per-module ranks: {end of the module's name: rank}"),
    ] = Field(default_factory=dict)
    b_rate_ratio: Annotated[
        Positive, Field(description="ratio of B's learning rate to A's (LoRA+)")
    ] = 1.0
    experts: Annotated[
        Flag, Field(description="also adapt the fused weights of a mixture of experts")
    ] = False
    modules_to_save: Annotated[
        Words, Field(description="modules to train in full and save with the adapter")
    ] = ()


class RsloraOptions(LoraOptions):
    """LoRA with the rank-stabilised scale."""

    name: Literal["rslora"] = "rslora"  # type: ignore[assignment]


class DoraOptions(LoraOptions):
    """LoRA with a trained magnitude.

    It has no other initialisation: peft's conversion of PiSSA and OLoRA drops the magnitudes,
    and EVA and LoftQ replace the factors after the magnitudes were measured.
    """

    name: Literal["dora"] = "dora"  # type: ignore[assignment]
    init: Annotated[Literal["default"], Field(description="initialisation of the two factors")] = (
        "default"
    )


def moves_base(options: MethodOptions) -> bool:
    """Return whether the initialisation moves part of the base's weights into the adapter."""
    return isinstance(options, LoraOptions) and options.init in _BASE_CHANGING_INITS


def alpha(options: LoraOptions) -> float:
    """Return the scale: the recipe's, else twice the rank."""
    return 2.0 * options.r if options.alpha == "auto" else float(options.alpha)


def rank(options: LoraOptions, name: str) -> int:
    """Return the rank of a module: by `rank_pattern` (the longest ending wins), else `r`."""
    own = [end for end in options.rank_pattern if name == end or name.endswith("." + end)]
    return options.rank_pattern[max(own, key=len)] if own else options.r


def shapes(options: LoraOptions, name: str, shape: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the trained tensors on one linear layer of (inputs, outputs)."""
    inputs, outputs = shape
    r = rank(options, name)
    magnitude: dict[str, tuple[int, ...]] = {}
    if isinstance(options, DoraOptions):
        magnitude = {"lora_magnitude_vector": (outputs,)}
    return {"lora_A": (r, inputs), "lora_B": (outputs, r), **magnitude}


def config(setting: Setting) -> Any:
    """Return peft's configuration; full module names, so that nothing else can match."""
    import peft

    options: Any = setting.options
    own = {name: rank(options, name) for name in (*setting.targets, *setting.experts)}
    return peft.LoraConfig(
        task_type=setting.task_type,
        r=options.r,
        lora_alpha=alpha(options),  # type: ignore[arg-type]  # peft takes any number
        lora_dropout=options.dropout,
        target_modules=list(setting.targets),
        rank_pattern={name: value for name, value in own.items() if value != options.r},
        target_parameters=list(setting.experts) or None,
        modules_to_save=list(setting.saved) or None,
        use_rslora=options.name == "rslora",
        use_dora=options.name == "dora",
        init_lora_weights=True if options.init in ("default", "loftq") else options.init,
        fan_in_fan_out=setting.transposed,
    )


LORA = Method(
    "lora",
    "lora",
    "low-rank updates of the linear layers",
    LoraOptions,
    config,
    2e-4,
    mergeable=True,
    merges_classes=True,
    quantized=QUANTIZED,
    rlhf=True,
    new_tokens=True,
    matrices=True,
)
RSLORA = replace(
    LORA,
    name="rslora",
    summary="LoRA scaled by alpha / sqrt(r)",
    options=RsloraOptions,
)
DORA = replace(
    LORA,
    name="dora",
    summary="LoRA with a trained magnitude per output",
    options=DoraOptions,
    quantized=frozenset({"nf4"}),
    matrices=False,
)
