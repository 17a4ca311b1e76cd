"""Optimizer and scheduler state as named tensors and JSON, and back, bit for bit.

`state_dict()` of a torch optimizer numbers its parameters and is meant for pickle. Here every value
is kept under its parameter's name, tensors separate from the rest, so that it can be stored without
pickle and checked against the model that it is restored into.
"""

# ruff: noqa: TID253 (holds tensors: imported by checkpoint.py only)

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tuner.errors import IntegrityError

Json = Any


def encode(value: Any, key: str, tensors: dict[str, Tensor]) -> Json:
    """Return JSON for a value; tensors in it go to `tensors` under names that start with `key`.

    Numbers come back exactly: JSON carries the shortest spelling that reads back to the same float.

    Raises:
        TypeError: a value that is neither a tensor, a number, text, None nor a collection of these.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, Tensor):
        while key in tensors:
            key += "'"
        tensors[key] = value
        return {"tensor": key}
    if isinstance(value, list):
        return [encode(item, f"{key}/{i}", tensors) for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": encode(list(value), key, tensors)}
    if isinstance(value, Mapping):
        if all(isinstance(name, str) for name in value):
            return {"map": {k: encode(item, f"{key}/{k}", tensors) for k, item in value.items()}}
        return {"pairs": encode([[k, item] for k, item in value.items()], key, tensors)}
    raise TypeError(f"{key}: a {type(value).__name__} cannot be kept in a checkpoint")


def decode(value: Json, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that `encode` encoded.

    Raises:
        KeyError, ValueError, TypeError: not what `encode` writes.
    """
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, body),) = value.items()
    if tag == "tensor":
        return tensors[body]
    if tag == "float":
        return float(body)
    if tag == "tuple":
        return tuple(decode(body, tensors))
    if tag == "map":
        return {name: decode(item, tensors) for name, item in body.items()}
    if tag == "pairs":
        return dict(decode(body, tensors))
    raise ValueError(f"unknown tag {tag!r}")


def flatten(
    optimizer: Optimizer, named_parameters: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the optimizer's state by parameter name: JSON, and the tensors that it refers to.

    Raises:
        KeyError: the optimizer holds a parameter that has no name in `named_parameters`.
        TypeError: its state holds something other than tensors, numbers and text.
    """
    names = {id(parameter): name for name, parameter in named_parameters.items()}
    tensors: dict[str, Tensor] = {}
    groups: list[Json] = []
    state: dict[str, Json] = {}
    for number, group in enumerate(optimizer.param_groups):
        members = [names[id(parameter)] for parameter in group["params"]]
        options = {key: value for key, value in group.items() if key != "params"}
        encoded = encode(options, f"param_groups/{number}", tensors)
        groups.append({"params": members, "options": encoded})
        for name, parameter in zip(members, group["params"], strict=True):
            if parameter in optimizer.state:
                state[name] = encode(dict(optimizer.state[parameter]), name, tensors)
    return {"param_groups": groups, "state": state}, tensors


def check_names(saved: Mapping[str, Any], optimizer: Optimizer, names: Mapping[int, str]) -> None:
    """Check that the optimizer has the parameter groups that were saved.

    Raises:
        IntegrityError: other groups, or the same with other members.
    """
    groups = saved["param_groups"]
    if len(groups) != len(optimizer.param_groups):
        raise _mismatch(
            f"{len(groups)} parameter groups were saved, this run has {len(optimizer.param_groups)}"
        )
    for number, (before, now) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
        members = [names.get(id(parameter), "(not trained)") for parameter in now["params"]]
        if before["params"] != members:
            changed = sorted(set(before["params"]) ^ set(members))
            detail = f"differs in {', '.join(changed[:5])}" if changed else "has a different order"
            raise _mismatch(f"parameter group {number} {detail}")


def unflatten(
    saved: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    optimizer: Optimizer,
    named_parameters: Mapping[str, Tensor],
) -> None:
    """Restore a flattened state exactly: values, dtypes, and on the device torch expects.

    `Optimizer.load_state_dict` is not used because it casts moments to the parameter's dtype.

    Raises:
        IntegrityError: the optimizer's parameter groups are not the saved ones.
    """
    check_names(saved, optimizer, {id(item): name for name, item in named_parameters.items()})
    for before, group in zip(saved["param_groups"], optimizer.param_groups, strict=True):
        group.update(decode(before["options"], tensors))
        for name, parameter in zip(before["params"], group["params"], strict=True):
            optimizer.state.pop(parameter, None)
            if name in saved["state"]:
                values = decode(saved["state"][name], tensors)
                optimizer.state[parameter] = {
                    key: _placed(key, value, parameter, group) for key, value in values.items()
                }


def _placed(key: str, value: Any, parameter: Tensor, group: Mapping[str, Any]) -> Any:
    """A copy on the device where the optimizer keeps it (as torch's own loading decides)."""
    if not isinstance(value, Tensor):
        return value
    stays = key == "step" and not (group.get("capturable") or group.get("fused"))
    return value.to(torch.device("cpu") if stays else parameter.device, copy=True)


def _mismatch(detail: str) -> IntegrityError:
    return IntegrityError(
        "the checkpoint's optimizer state does not fit this run",
        detail,
        "resume with recipe.lock.yaml of the run folder",
    )
