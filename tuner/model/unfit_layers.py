"""Linear layers that no adapter works on: found on a model without weights."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch

# Layers of a state-space mixer (Mamba, Jamba, Zamba, Bamba ...) whose weights its kernels read
# directly: an adapter around such a layer would never be computed with.
_READ_DIRECTLY = ("x_proj", "dt_proj", "out_proj")
# So are these of Gemma-3n's alternating updates, while it is trained.
_COEFFICIENTS = ("prediction_coefs", "correction_coefs")
_PAST = "its weight is read past any adapter"


def find(model: Any, linears: Iterable[str], norms: Iterable[str]) -> dict[str, str]:
    """Return which layers of a model no adapter works on, as name -> why.

    Args:
        model: on torch's meta device.
        linears: full names of its linear layers.
        norms: full names of its normalisation layers.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    text, shared = _text_model(model), _shared(modules, linears)
    outside = [name for name in (*linears, *norms) if text and not name.startswith(text + ".")]
    found = dict.fromkeys(outside, "text alone does not go through it")
    for name in linears:
        parent, _, last = name.rpartition(".")
        if name in found:
            continue
        if last in _COEFFICIENTS or (last in _READ_DIRECTLY and _is_mixer(modules[parent])):
            found[name] = _PAST
        elif not maps_plainly(modules[name]):
            found[name] = "its result is not that of a linear layer"
        elif name in shared:
            found[name] = f"its weight is that of {shared[name]}, too"
    for name in norms:
        parent, _, last = name.rpartition(".")
        if name not in found and _is_mixer(modules[parent]) and _reads(modules[parent], last):
            found[name] = _PAST
    return found


def _text_model(model: Any) -> str:
    """Return the name of the part that reads text in a model that also reads images or sound."""
    if model.config.get_text_config(decoder=True) is model.config:
        return ""
    if model.config.is_encoder_decoder:
        return ""
    part = model.get_decoder()
    return next((name for name, module in model.named_modules() if module is part), "")


def _shared(modules: dict[str, Any], linears: Iterable[str]) -> dict[str, str]:
    """Return another layer with the same weight, for each layer that has one."""
    owners: dict[int, list[str]] = {}
    for name in linears:
        owners.setdefault(id(modules[name].weight), []).append(name)
    return {
        name: next(other for other in names if other != name)
        for names in owners.values()
        if len(names) > 1
        for name in names
    }


def _is_mixer(module: Any) -> bool:
    """Return whether a module is a state-space mixer: it has the decay A and the skip D."""
    own = dict(module.named_parameters(recurse=False))
    return "A_log" in own and "D" in own


def _reads(module: Any, name: str) -> bool:
    """Return whether a module hands the weight of one of its layers to a kernel."""
    try:
        return f"self.{name}.weight" in inspect.getsource(type(module))
    except (OSError, TypeError):
        return False


def maps_plainly(module: Any) -> bool:
    """Return whether a layer's result is (rows, outputs); routers, for one, return more."""
    if type(module).forward is torch.nn.Linear.forward or not isinstance(module, torch.nn.Linear):
        return True
    with torch.device("meta"), torch.no_grad():
        try:
            result = module(torch.empty(2, module.in_features, dtype=module.weight.dtype))
        except (RuntimeError, ValueError, IndexError):
            return False
    return isinstance(result, torch.Tensor) and result.shape == (2, module.out_features)
