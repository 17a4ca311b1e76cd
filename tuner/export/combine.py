"""Several adapters of one base combined into one, by peft's `add_weighted_adapter`.

`linear` is the exact weighted sum (of higher rank); ties (Yadav et al. 2023), dare (Yu et al. 2024)
and svd work on the whole updates and give the best approximation of the largest rank among them.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tuner.errors import ModelError, RecipeError
from tuner.export.job import Combination
from tuner.export.proof import reload
from tuner.methods.options import CONFIG
from tuner.model import embedding_rows, known_files, tokenizer
from tuner.model.adapters.saved_models import SavedModel

# peft's plain "linear" adds the factors apart, which adds products that were never trained.
KINDS = {"linear": "cat", "ties": "ties_svd", "dare": "dare_linear_svd", "svd": "svd"}
_NAME = "combined"


def check(asked: Combination) -> None:
    """Refuse what cannot be combined, before anything is loaded.

    Raises:
        RecipeError: weights or the kind of combination are wrong.
        ModelError: not all are plain LoRAs of the same base.
    """
    origins, weights, kind, density = asked.origins, asked.weights, asked.kind, asked.density
    if kind not in KINDS:
        raise RecipeError(f"--combination: {kind} is unknown", "", f"one of {', '.join(KINDS)}")
    if len(weights) != len(origins):
        raise RecipeError(
            f"--weights: {len(weights)} of {len(origins)} that are needed",
            "each adapter needs one weight",
            "give one weight per adapter, separated by commas",
        )
    if not 0 < density <= 1:
        raise RecipeError("--density must be between 0 and 1", f"it is {density}", "try 0.5")
    known = {origin.sealed.get("base_fingerprint") for origin in origins}
    if len(known) > 1:
        raise ModelError(
            "the adapters were trained on different bases",
            ", ".join(
                f"{origin.name}: {str(origin.sealed.get('base_fingerprint'))[:12]}"
                for origin in origins
            ),
            "combine adapters of one base",
        )
    for origin in origins:
        config = origin.config
        plain = config.get("peft_type") == "LORA" and not config.get("use_dora")
        besides = ("modules_to_save", "target_parameters", tokenizer.TRAINED)
        if not plain or any(config.get(key) for key in besides):
            raise ModelError(
                f"{origin.name} is not a plain LoRA",
                f"{origin.folder / CONFIG}: only LoRA and rsLoRA updates can be added",
                "merge one adapter, then train or merge the next on that model",
            )


@torch.no_grad()
def combine(asked: Combination, job: dict[str, Any], folder: Path) -> SavedModel:
    """Write the combined adapter into `folder`.

    Args:
        asked: which adapters and how; checked by `check`.
        job: how to load them (see `fresh_process.job_of`).
        folder: takes peft's files and the tokenizer of the first.

    Returns:
        The combined adapter, to be exported like any other.
    """
    origins, kind = asked.origins, asked.kind
    names = [f"part{number}" for number in range(len(origins))]
    model: Any = embedding_rows.load_adapter_onto(
        reload.base(job), origins[0].folder, adapter_name=names[0]
    )
    for name, origin in zip(names[1:], origins[1:], strict=True):
        model.load_adapter(str(origin.folder), adapter_name=name)
    further = {} if kind in ("linear", "svd") else {"density": asked.density}
    # dare samples which weights it keeps.
    torch.manual_seed(0)
    model.add_weighted_adapter(
        names, list(asked.weights), _NAME, combination_type=KINDS[kind], **further
    )
    model.save_pretrained(folder / "all", selected_adapters=[_NAME], save_embedding_layers=False)
    combined = folder / "adapter"
    shutil.move(folder / "all" / _NAME, combined)
    known_files.copy(origins[0].folder, combined, known_files.TOKENIZER)
    name = "+".join(origin.name for origin in origins)
    return replace(origins[0], name=name, folder=combined, run=None)
