"""The adapter as plain peft files, next to the tokenizer it was trained with."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from tuner.errors import ModelError
from tuner.methods import lora
from tuner.methods.options import CONFIG
from tuner.model import known_files

if TYPE_CHECKING:
    from tuner.export.job import Work
    from tuner.plan.plan import Plan
    from tuner.recipe.formats import ExportFormat
    from tuner.tasks.trained import Trained


def write_again(row: ExportFormat, work: Work, folder: Path) -> None:
    """Write the adapter of a finished run."""
    copy(work.origin.folder, folder, work.name, portable=work.portable)


def copy(source: Path, folder: Path, base: str, *, portable: bool) -> None:
    """Copy the adapter of a finished run, naming its base by name.

    Args:
        source: its files.
        folder: takes the copy.
        base: name of the base.
        portable: write the scale of rsLoRA, alpha / sqrt(r), as the alpha / r that every runtime
            reads; modules of another rank get an alpha of their own.

    Raises:
        ModelError: `portable`, and no plain LoRA is equivalent.
    """
    known_files.copy(source, folder)
    config = json.loads((source / CONFIG).read_text("utf-8"))
    config["base_model_name_or_path"] = base
    if portable:
        config |= _portable(config)
    _write_config(config, folder)


def _write_config(config: dict[str, Any], folder: Path) -> None:
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def _portable(config: dict[str, Any]) -> dict[str, Any]:
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        kind = "DoRA" if config.get("use_dora") else config.get("peft_type")
        raise ModelError(
            f"{kind} cannot be written as a plain LoRA",
            "other runtimes would silently ignore part of it",
            "merge instead: tuner export RUN --format merged",
        )
    if not config.get("use_rslora"):
        return {}
    ranks = dict(config.get("rank_pattern") or {})
    alphas = dict(config.get("alpha_pattern") or {})
    alpha = config["lora_alpha"]
    scaled = {
        name: alphas.get(name, alpha) * math.sqrt(ranks.get(name, config["r"]))
        for name in {*ranks, *alphas}
    }
    return {
        "use_rslora": False,
        "lora_alpha": alpha * math.sqrt(config["r"]),
        "alpha_pattern": scaled,
    }


def write_adapter(plan: Plan, trained: Trained, folder: Path) -> None:
    """Save the adapter so that it works on the untouched base.

    An adapter whose start moved part of the base weights (PiSSA, OLoRA) is converted into the
    difference from that start, a LoRA of twice the rank.
    """
    model = trained.model
    # The folder that the base was loaded from concerns this machine only.
    base = model.get_base_model()
    base.config._name_or_path = base.name_or_path = plan.base.name
    for config in model.peft_config.values():
        config.base_model_name_or_path = plan.base.name
        if plan.base.kind == "hub" and plan.recipe.model.revision:
            config.revision = plan.recipe.model.revision
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
    if plan.recipe.export.options("adapter").get("portable"):
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        _write_config(config | _portable(config), folder)
    plan.tokenizer.save_pretrained(folder)
