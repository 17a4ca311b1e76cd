"""Fold an adapter into the weights of its base."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from tuner.errors import TrainingError
from tuner.methods import bottleneck_layers as bottleneck_peft  # noqa: F401  # makes peft know the method
from tuner.model import embedding_rows
from tuner.model.adapters import files
from tuner.model.adapters.files import WHOLE
from tuner.model.transformers_errors import as_model_error

if TYPE_CHECKING:
    from tuner.model.folded import Folded

_REPLACED = ("TrainableTokensLayer", "LNTuningLayer")
_REDUCED = (torch.bfloat16, torch.float16)


def onto(network: Any, chain: Sequence[Folded], task_type: str | None) -> Any:
    """Fold adapters into a loaded base, one after the other.

    Each weight is computed in float64 and rounded once to the type of the base, so that every
    machine and number of threads gives the same base.

    Args:
        network: a plain transformers model; changed in place.
        chain: the adapters.
        task_type: peft's name of the task of this model. An adapter of another one is folded too,
            as one that writes is into a base with a new head.

    Raises:
        IntegrityError: an adapter has changed since it was named.
        ModelError: one does not fit the base.
    """
    for each in chain:
        each.refuse_changed()
        config = files.read(each.folder, each.name)
        config.inference_mode = True
        if getattr(config.task_type, "value", config.task_type) != task_type:
            config.task_type = None
        with (
            warnings.catch_warnings(),
            as_model_error(f"the adapter '{each.name}' cannot be loaded", each.folder, WHOLE),
        ):
            warnings.simplefilter("ignore")
            model = embedding_rows.load_adapter_onto(
                network, each.folder, config, torch_device=str(network.device)
            )
        files.check_tensors(model, each.folder, each.name)
        network = fold(model, torch.float64)
        # peft would take the model for one that has an adapter.
        vars(network).pop("peft_config", None)
    return network


def fold(model: Any, compute: torch.dtype = torch.float32) -> Any:
    """Merge the update of an adapter into the weights of its base, layer by layer and in place.

    Each weight is computed in float32 and rounded once to the type of the base: adding in bfloat16
    would round the update, and then the sum.

    Args:
        model: peft's.
        compute: the type it is computed in, if not float32.

    Raises:
        TrainingError: a merged weight is not finite.
    """
    for parameter in model.parameters():
        # Memory-mapped weights would stay in memory next to merged ones, as long as one tensor of
        # a file is left: they leave it file by file.
        parameter.data = parameter.data.clone()
    types = {_own(name): tensor.dtype for name, tensor in model.get_base_model().named_parameters()}
    try:
        with warnings.catch_warnings():
            # peft warns that each layer is merged already.
            warnings.simplefilter("ignore")
            _merge_layers(model, compute)
            whole = model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise TrainingError(
            "the merged weights are not finite",
            str(error),
            "export only the adapter (export.formats: adapter), or lower train.learning_rate",
        ) from error
    # What an adapter replaces, such as a trained layer norm, is still float32.
    for name, tensor in whole.named_parameters():
        tensor.data = tensor.data.to(types.get(name, tensor.dtype))
    return whole


def _merge_layers(model: Any, compute: torch.dtype) -> None:
    """Merge the layers whose weights are of a lower precision than `compute`, each in that one."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    lower = _REDUCED if compute == torch.float32 else (*_REDUCED, torch.float32)
    for layer in model.modules():
        # Rows and layers that are replaced as a whole are not computed.
        if not isinstance(layer, BaseTunerLayer) or type(layer).__name__ in _REPLACED:
            continue
        module: Any = layer
        parts = list(module.parameters())
        before = [(part, part.dtype) for part in parts if part.dtype in lower]
        if not before:
            continue
        for part, _ in before:
            part.data = part.data.to(compute)
        layer.merge(safe_merge=True)
        for part, dtype in before:
            part.data = part.data.to(dtype)


def _own(name: str) -> str:
    """Return the name of a base's parameter without peft's wrappers."""
    wrappers = ("base_layer", "original_module", "token_adapter")
    return ".".join(part for part in name.split(".") if part not in wrappers)
