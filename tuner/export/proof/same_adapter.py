"""The check that the file of an adapter holds what was trained, bit for bit, at the same scale.

Logits do not show that an update is 1 % smaller, above all in bfloat16; its tensors do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from tuner.export.proof.saved import Saved, lora_scale
from tuner.methods.options import CONFIG, WEIGHTS
from tuner.model.adapters.norms import PROMPTS


def as_trained(model: Any, folder: Path, start: Mapping[str, torch.Tensor] | None) -> list[str]:
    """Return what differs between a live model and its adapter's file, in words.

    Args:
        model: peft's, with the adapter `default`.
        folder: peft's files.
        start: of a method that moves the base: what its factors were at the start. The file then
            holds the difference, a LoRA of twice the rank.
    """
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    live = {_plain(name): tensor for name, tensor in model.state_dict().items()}
    problems, kind = [], config["peft_type"]
    with safe_open(folder / WEIGHTS, "pt") as tensors:
        names = set(tensors.keys())
        for name in sorted(names & set(live)):
            if not _equal(tensors.get_tensor(name), live[name], name, start):
                problems.append(f"{name} is not the tensor that was trained")
    # Virtual tokens are written as a network computes them, not as they are trained.
    if kind not in PROMPTS:
        trained = {_plain(name) for name, p in model.named_parameters() if p.requires_grad}
        problems += [f"{name} is missing" for name in sorted(trained - names)]
        problems += [f"{name} was not trained" for name in sorted(names - set(live))]
    return problems + _other_scales(model, config)


def as_copied(source: Path, folder: Path) -> list[str]:
    """Return what differs between the files of two adapters that must give the same update."""
    problems = []
    with safe_open(source / WEIGHTS, "pt") as one, safe_open(folder / WEIGHTS, "pt") as other:
        names, others = set(one.keys()), set(other.keys())
        problems += [f"{name} is missing or added" for name in sorted(names ^ others)]
        for name in sorted(names & others):
            if not torch.equal(one.get_tensor(name), other.get_tensor(name)):
                problems.append(f"{name} differs")
    configs = [json.loads((place / CONFIG).read_text("utf-8")) for place in (source, folder)]
    if configs[0].get("peft_type") == "LORA":
        for module in Saved(source / WEIGHTS, configs[0], None).modules("lora_A.weight"):
            first, second = (lora_scale(config, module) for config in configs)
            if not math.isclose(first, second, rel_tol=1e-9):
                problems.append(f"{module} is scaled by {second:.6g} instead of {first:.6g}")
    return problems


def _plain(name: str) -> str:
    """Return the name of a live tensor as peft writes it: without the adapter's name."""
    parts = [part for part in name.split(".") if part not in ("default", "modules_to_save")]
    if len(parts) > 1 and parts[-2] == "lora_magnitude_vector":
        parts.pop()
    return ".".join(parts)


def _equal(
    saved: torch.Tensor,
    live: torch.Tensor,
    name: str,
    start: Mapping[str, torch.Tensor] | None,
) -> bool:
    wanted = live.detach().cpu()
    if start is not None and name in start and (".lora_A" in name or ".lora_B" in name):
        first = start[name].detach().cpu().to(wanted.dtype)
        parts = [wanted, first] if ".lora_A" in name else [wanted, -first]
        wanted = torch.cat(parts, dim=0 if ".lora_A" in name else 1)
    return wanted.shape == saved.shape and torch.equal(wanted.to(saved.dtype), saved)


def _other_scales(model: Any, config: Mapping[str, Any]) -> list[str]:
    from peft.tuners.lora import LoraLayer

    problems: list[str] = []
    if config["peft_type"] != "LORA":
        return problems
    for module, layer in model.get_base_model().named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        live = layer.scaling["default"]
        own = module.replace(".base_layer", "")
        if parameter := getattr(layer, "parameter_name", None):
            own = f"{own}.{parameter}"
        said = lora_scale(config, own)
        if not math.isclose(said, live, rel_tol=1e-9):
            problems.append(f"{module} is scaled by {said:.6g} in the file, by {live:.6g} live")
    return problems
