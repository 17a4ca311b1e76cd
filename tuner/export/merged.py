"""The whole model as plain transformers files: the adapter merged into the base, or the base itself
if its own weights were trained."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tuner.errors import TrainingError
from tuner.record import manifest

if TYPE_CHECKING:
    from tuner.export.job import Work
    from tuner.plan.plan import Plan
    from tuner.recipe.formats import ExportFormat
    from tuner.tasks.trained import Trained

# Bytes per file at most. safetensors copies a file's tensors before it writes them: this is all
# that is needed in addition to the model itself.
SHARD = 2_000_000_000


def write_again(row: ExportFormat, work: Work, folder: Path) -> None:
    """Write the merged model that other formats are made from."""
    ignored = shutil.ignore_patterns(manifest.MANIFEST)
    shutil.copytree(work.merged, folder, dirs_exist_ok=True, ignore=ignored)


def write_merged(plan: Plan, trained: Trained, folder: Path) -> None:
    """Merge into the live model and save it with its tokenizer and chat template.

    Raises:
        TrainingError: a merged weight is not finite.
    """
    if plan.method.adapter:
        trained.model = fold(trained.model)
    stops = plan.stop_ids if plan.head.name == "language" else None
    save(trained.model, folder, plan.base.name, plan.tokenizer, stops)


def fold(model: Any) -> Any:
    """Merge the update of an adapter into the weights of its base, layer by layer and in place.

    Each weight is computed in float32 and rounded once to the type of the base: adding in bfloat16
    would round the update, and then the sum.

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
            _merge_layers(model)
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


def _merge_layers(model: Any) -> None:
    """Merge the layers whose weights are not float32, each in float32."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in model.modules():
        # Rows and layers that are replaced as a whole are not computed.
        if not isinstance(layer, BaseTunerLayer) or type(layer).__name__ in _REPLACED:
            continue
        module: Any = layer
        parts = list(module.parameters())
        before = [(part, part.dtype) for part in parts if part.dtype in _REDUCED]
        if not before:
            continue
        for part, _ in before:
            part.data = part.data.float()
        layer.merge(safe_merge=True)
        for part, dtype in before:
            part.data = part.data.to(dtype)


_REPLACED = ("TrainableTokensLayer", "LNTuningLayer")
_REDUCED = (torch.bfloat16, torch.float16)


def _own(name: str) -> str:
    """Return the name of a base's parameter without peft's wrappers."""
    wrappers = ("base_layer", "original_module", "token_adapter")
    return ".".join(part for part in name.split(".") if part not in wrappers)


def save(model: Any, folder: Path, name: str, tokenizer: Any, stops: Sequence[int] | None) -> None:
    """Write a whole model with what is needed to use it.

    Args:
        model: plain transformers.
        folder: takes the files.
        name: of the base; no path of this machine goes into the files.
        tokenizer: with its chat template.
        stops: ids that end an answer, besides the tokenizer's; None: it does not generate.
    """
    model.config._name_or_path = name
    if stops is not None:
        # The end token that the answers were trained with, first, and the base's further ones.
        ends = list(dict.fromkeys([tokenizer.eos_token_id, *stops]))
        model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
    model.save_pretrained(folder, max_shard_size=SHARD)
    tokenizer.save_pretrained(folder)
