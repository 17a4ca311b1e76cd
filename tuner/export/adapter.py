"""The adapter as plain peft files, beside the tokenizer it was trained with."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save_file

from tuner.methods import lora

if TYPE_CHECKING:
    from tuner.plan import Plan
    from tuner.training import Trained


def write(plan: Plan, trained: Trained, folder: Path) -> None:
    """Save the adapter so that it works on the untouched base.

    An adapter whose start moved part of the base weights (PiSSA, OLoRA) is converted into the
    difference to that start, a LoRA of twice the rank.
    """
    model = trained.model
    # The folder the base was loaded from is nobody's business but this machine's.
    base = model.get_base_model()
    base.config._name_or_path = base.name_or_path = plan.base.name
    for config in model.peft_config.values():
        config.base_model_name_or_path = plan.base.name
    if lora.moves_base(plan.recipe.method):
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".start-") as aside:
            # peft makes the folder's name an adapter's name, which must hold no dot.
            start = Path(aside) / "start"
            start.mkdir()
            save_file(trained.start_state, start / "adapter_model.safetensors")
            model.save_pretrained(
                folder,
                save_embedding_layers=False,
                path_initial_model_for_weight_conversion=str(start),
            )
    else:
        # Left to itself, peft asks the Hub for the base of this name.
        model.save_pretrained(folder, save_embedding_layers=False)
    plan.tokenizer.save_pretrained(folder)
