"""Checkpoints: sealed folders that hold all that a training step depends on.

`checkpoints/step-N/` holds `model.safetensors` (the trained tensors), `optimizer.safetensors` and
`state.json` (parameter groups, scheduler, and what the caller keeps). Data order and random numbers
are functions of seed and step, so they need no state. Nothing here is ever written or read as
pickle.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from tuner.errors import IntegrityError
from tuner.record import manifest, seal
from tuner.record.checkpoint_folder import KEPT, keep_only, rotate
from tuner.record.disk import write_file
from tuner.record.optimizer_state import decode, encode, flatten, unflatten

log = logging.getLogger(__name__)
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


class Scheduler(Protocol):
    """What a learning-rate scheduler must offer to be kept in a checkpoint."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None: ...


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        path: the folder it came from.
        step: optimizer steps done.
        tensors: the trained tensors by parameter name, on the CPU.
        optimizer: parameter groups and state as `optimizer_state.flatten` returns them, or None.
        optimizer_tensors: the tensors that `optimizer` refers to.
        scheduler: the scheduler's state, or None.
        state: what the caller gave `save`.
    """

    path: Path
    step: int
    tensors: dict[str, Tensor]
    optimizer: dict[str, Any] | None
    optimizer_tensors: dict[str, Tensor]
    scheduler: dict[str, Any] | None
    state: dict[str, Any]


def save(
    folder: Path,
    step: int,
    named_parameters: Mapping[str, Tensor],
    optimizer: Optimizer | None,
    scheduler: Scheduler | None,
    state: Mapping[str, Any],
    *,
    keep: int | None = KEPT,
) -> Path:
    """Seal `folder/step-N`, then remove older checkpoints until `keep` are left.

    Args:
        folder: the run's `checkpoints` folder; the caller holds the run's lock.
        step: optimizer steps done.
        named_parameters: the trained parameters, each under its name in the model.
        optimizer: may train parameters from `named_parameters` only; None to save none.
        scheduler: None to save none.
        state: JSON of the caller: stage, metric windows, `identity`, ...
        keep: how many intact checkpoints stay, this one included; None: this one alone.

    Returns:
        The sealed folder; the existing one, if this step is already sealed and intact.

    Raises:
        ResourceError: the disk is full or not writable; earlier checkpoints are untouched.
    """
    final = folder / f"step-{step}"
    if _stands(final, named_parameters):
        return final
    with seal.seal(final, extra={"kind": "checkpoint", "step": step}) as staging:
        groups, tensors = flatten(optimizer, named_parameters) if optimizer else (None, {})
        values = scheduler.state_dict() if scheduler else None
        body = {
            "step": step,
            "optimizer": groups,
            "scheduler": encode(values, "scheduler", tensors),
            "state": encode(state, "state", tensors),
        }
        text = json.dumps(body, ensure_ascii=False, allow_nan=False)
        save_file(_storable(named_parameters), staging / MODEL, metadata={"format": "pt"})
        save_file(_storable(tensors), staging / OPTIMIZER)
        write_file(staging / STATE, text.encode())
    if keep is None:
        keep_only(final)
    else:
        rotate(folder, keep)
    return final


def _stands(final: Path, named_parameters: Mapping[str, Tensor]) -> bool:
    """Return whether this step is sealed, intact and the same; any other folder is moved away."""
    if not final.exists():
        return False
    try:
        saved = load(final).tensors
        if saved.keys() == named_parameters.keys() and all(
            torch.equal(saved[name], value.detach().cpu())
            for name, value in named_parameters.items()
        ):
            return True
        reason = "its tensors differ"
    except IntegrityError as error:
        reason = error.why
    number = 1
    while (aside := final.with_name(f"aside-{final.name}-{number}")).exists():
        number += 1
    log.warning("%s moved to %s: %s", final, aside.name, reason)
    final.rename(aside)
    return False


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that share no memory: safetensors stores no others."""
    seen: set[int] = set()
    stored = {}
    for name, tensor in tensors.items():
        value = tensor.detach().contiguous()
        storage = value.untyped_storage().data_ptr()
        stored[name] = value.clone() if storage in seen else value
        seen.add(storage)
    return stored


def load(path: Path, *, verified: bool = False) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: a sealed step folder.
        verified: `newest` or `manifest.verify` has just checked every byte.

    Raises:
        IntegrityError: it is damaged, or is no checkpoint.
    """
    if not verified:
        manifest.verify(path)
    try:
        body = json.loads((path / STATE).read_bytes())
        optimizer_tensors = load_file(path / OPTIMIZER)
        return Checkpoint(
            path=path,
            step=int(body["step"]),
            tensors=load_file(path / MODEL),
            optimizer=body["optimizer"],
            optimizer_tensors=optimizer_tensors,
            scheduler=decode(body["scheduler"], optimizer_tensors),
            state=decode(body["state"], optimizer_tensors),
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError, SafetensorError) as error:
        raise IntegrityError(
            f"{path} cannot be read as a checkpoint",
            f"{type(error).__name__}: {error}",
            f"remove {path}: --resume then continues from the checkpoint before it",
        ) from error


def restore(
    checkpoint: Checkpoint,
    named_parameters: Mapping[str, Tensor],
    optimizer: Optimizer | None,
    scheduler: Scheduler | None,
) -> None:
    """Copy a checkpoint into the live objects, in place and bit for bit.

    Raises:
        IntegrityError: names, shapes, dtypes, parameter groups or trainable flags are not those
            saved; the parameters are then untouched.
    """
    problems = []
    if (checkpoint.optimizer is None) != (optimizer is None):
        problems.append("optimizer state: only one of the checkpoint and this run has it")
    if (checkpoint.scheduler is None) != (scheduler is None):
        problems.append("scheduler state: only one of the checkpoint and this run has it")
    problems += _differences(checkpoint.tensors, named_parameters)
    if problems:
        raise _does_not_fit(checkpoint, problems)
    if optimizer is not None and checkpoint.optimizer is not None:
        try:
            unflatten(
                checkpoint.optimizer, checkpoint.optimizer_tensors, optimizer, named_parameters
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            detail = f"{STATE}: optimizer state not understood ({type(error).__name__}: {error})"
            raise _does_not_fit(checkpoint, [detail]) from error
    restore_tensors(checkpoint, named_parameters)
    if scheduler is not None and checkpoint.scheduler is not None:
        scheduler.load_state_dict(checkpoint.scheduler)


def restore_tensors(checkpoint: Checkpoint, named_parameters: Mapping[str, Tensor]) -> None:
    """Copy the trained tensors of a checkpoint alone, in place and bit for bit.

    Raises:
        IntegrityError: names, shapes, dtypes or trainable flags are not those saved; the
            parameters are then untouched.
    """
    problems = _differences(checkpoint.tensors, named_parameters)
    if problems:
        raise _does_not_fit(checkpoint, problems)
    with torch.no_grad():
        for name, parameter in named_parameters.items():
            parameter.copy_(checkpoint.tensors[name])


def _does_not_fit(checkpoint: Checkpoint, problems: list[str]) -> IntegrityError:
    return IntegrityError(
        f"{checkpoint.path} does not fit this run",
        problems[0],
        "resume with recipe.lock.yaml of the run folder, and with the base that it names",
        problems if len(problems) > 1 else None,
    )


def _differences(saved: Mapping[str, Tensor], current: Mapping[str, Tensor]) -> list[str]:
    problems = [f"{name}: not in the checkpoint" for name in current if name not in saved]
    problems += [f"{name}: not trained by this run" for name in saved if name not in current]
    for name in saved.keys() & current.keys():
        before, now = saved[name], current[name]
        if (before.shape, before.dtype) != (now.shape, now.dtype):
            problems.append(
                f"{name}: {tuple(before.shape)} {before.dtype} in the checkpoint, "
                f"{tuple(now.shape)} {now.dtype} now"
            )
        elif not now.requires_grad:
            problems.append(f"{name}: frozen now, but trained in the checkpoint")
    return sorted(problems)
