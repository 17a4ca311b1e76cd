"""The LoRA family: LoRA (Hu et al. 2021), rsLoRA (Kalajdzievski 2023), DoRA (Liu et al. 2024).

Initialisations follow peft: PiSSA (Meng et al. 2024), OLoRA (Buyukakyuz 2024), EVA (Paischer et al.
2024), LoftQ (Li et al. 2023). PiSSA and OLoRA move part of the base weights into the adapter;
`export` converts the result so that it works on the untouched base.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tuner.fields import AutoPositive, Count, Flag, Share, Words
from tuner.methods.options import MethodOptions

if TYPE_CHECKING:
    from tuner.data.prepare import Example
    from tuner.plan import Plan

BASE_CHANGING_INITS = ("pissa", "olora")
EVA_ROWS = 32


class LoraOptions(MethodOptions):
    """Options of the LoRA family."""

    name: Literal["lora"] = "lora"
    r: Annotated[Count, Field(description="rank of the update")] = 16
    alpha: Annotated[
        AutoPositive, Field(description="scale of the update, divided by r; auto: 2 x r")
    ] = "auto"
    dropout: Annotated[Share, Field(description="dropout on the input of each adapter")] = 0.0
    target_modules: Annotated[
        Words, Field(description="module names to adapt, or all-linear, or one regular expression")
    ] = ("all-linear",)
    allow_partial_targets: Annotated[
        Flag, Field(description="accept targets found in less than half of the layers")
    ] = False
    init: Annotated[
        Literal["default", "pissa", "olora", "eva", "loftq"],
        Field(description="how the two factors start"),
    ] = "default"


class RsloraOptions(LoraOptions):
    """LoRA with the rank-stabilised scale."""

    name: Literal["rslora"] = "rslora"  # type: ignore[assignment]


class DoraOptions(LoraOptions):
    """LoRA with a trained magnitude.

    The other starts are not for it: peft's conversion of PiSSA and OLoRA drops the magnitudes, EVA
    and LoftQ replace the factors after the magnitudes were measured.
    """

    name: Literal["dora"] = "dora"  # type: ignore[assignment]
    init: Annotated[Literal["default"], Field(description="how the two factors start")] = "default"


def targets(options: LoraOptions, linears: Sequence[str]) -> list[str]:
    """The names among `linears` that `target_modules` selects; peft's rules.

    A name selects the modules that end with it; a single entry that is no module's ending is a
    regular expression over the whole name.
    """
    import re

    wanted = options.target_modules
    if wanted == ("all-linear",):
        return list(linears)
    by_name = [
        name
        for name in linears
        if any(name == entry or name.endswith("." + entry) for entry in wanted)
    ]
    if by_name or len(wanted) != 1:
        return by_name
    try:
        return [name for name in linears if re.fullmatch(wanted[0], name)]
    except re.error:
        return []


def parameters(options: LoraOptions, shape: tuple[int, int]) -> int:
    """Trained parameters on one linear layer of (inputs, outputs)."""
    inputs, outputs = shape
    return options.r * (inputs + outputs) + (outputs if isinstance(options, DoraOptions) else 0)


def build(model: Any, plan: Plan, examples: Sequence[Example]) -> Any:
    """Wrap `model` in a peft LoRA model; its base weights stay frozen.

    Args:
        model: the loaded base.
        plan: says the modules, the rank, the start.
        examples: training rows, for inits that look at the data (EVA).
    """
    import peft

    options: Any = plan.recipe.method
    init: Any = True if options.init in ("default", "loftq") else options.init
    config = peft.LoraConfig(
        task_type=peft.TaskType.CAUSAL_LM,
        r=options.r,
        lora_alpha=plan.lora_alpha,  # type: ignore[arg-type]  # peft takes any number
        lora_dropout=options.dropout,
        target_modules=list(plan.target_modules),
        use_rslora=options.name == "rslora",
        use_dora=options.name == "dora",
        init_lora_weights=init,
        fan_in_fan_out=plan.base.config.get("model_type") == "gpt2",
    )
    wrapped = peft.get_peft_model(model, config, autocast_adapter_dtype=True)
    if options.init == "eva":
        _eva(wrapped, examples)
    if options.init == "loftq":
        peft.replace_lora_weights_loftq(wrapped, model_path=str(plan.base.folder))
    return wrapped


def _eva(model: Any, examples: Sequence[Example]) -> None:
    from peft import initialize_lora_eva_weights

    from tuner.data.pack import collate_padded

    rows = list(examples)[:EVA_ROWS]
    batches = []
    for first in range(0, len(rows), 4):
        batch = collate_padded(rows[first : first + 4])
        batches.append({key: batch[key] for key in ("input_ids", "attention_mask")})
    initialize_lora_eva_weights(
        model,
        dataloader=batches,
        forward_fn=lambda network, inputs: network(**inputs),
        prepare_model_inputs_fn=_padding_mask,
        show_progress_bar=False,
    )


def _padding_mask(inputs: dict[str, Any], _config: Any) -> Any:
    """Which positions count in EVA's statistics: all but padding, as (row, place) pairs."""
    return inputs["attention_mask"].nonzero()
