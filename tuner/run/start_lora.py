"""LoRA initialisation from the data (EVA) or from the quantized weights (LoftQ)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.data.tokens.example import Example
    from tuner.plan.plan import Plan

EVA_ROWS = 32


def start(model: Any, plan: Plan, examples: Sequence[Example]) -> None:
    """Initialise a LoRA from the data (EVA) or from the quantized weights (LoftQ), if asked to."""
    options: Any = plan.recipe.method
    if options.init == "eva":
        _eva(model, examples)
    if options.init == "loftq":
        _loftq(model, plan)


def _loftq(model: Any, plan: Plan) -> None:
    """Let the factors begin with what quantization has taken from the base."""
    import peft
    import torch

    peft.replace_lora_weights_loftq(model, model_path=str(plan.base.folder))
    # peft forgets that a layer multiplies them by its scale, with which they would overshoot.
    with torch.no_grad():
        for module in model.modules():
            for name, factor in getattr(module, "lora_B", {}).items():
                factor.weight.div_(module.scaling[name])


def _eva(model: Any, examples: Sequence[Example]) -> None:
    from peft import initialize_lora_eva_weights

    from tuner.data.tokens.collate import collate_padded

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
        prepare_layer_inputs_fn=_read_positions,
        show_progress_bar=False,
    )


def _padding_mask(inputs: dict[str, Any], _config: Any) -> Any:
    """Return the positions in EVA's statistics, as (row, position): all except padding."""
    return inputs["attention_mask"].bool()


def _read_positions(states: Any, mask: Any, _layer: str) -> Any:
    """Return what a layer reads at these positions, as (position, width)."""
    states = states[0] if isinstance(states, tuple | list) else states
    if states.shape[:2] == mask.shape:
        return states[mask].flatten(0, -2)
    # Layers next to experts get the rows in one; experts, the positions that are theirs.
    states, mask = states.flatten(0, -2), mask.flatten()
    return states[mask] if len(states) == len(mask) else states
