"""The base model's weights: converted, loaded, placed.

Attention runs on `tuner_rows` (see `attention.py`), so that rows packed into one sequence never see
each other; a single row takes the same path as transformers' own SDPA.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from tuner.errors import ModelError
from tuner.machine import packages
from tuner.model import fold
from tuner.model.heads import Head, is_new
from tuner.model.kernels import attention
from tuner.model.transformers_errors import as_model_error

if TYPE_CHECKING:
    from tuner.model.base import Base
    from tuner.recipe.schema_model import ModelSection

log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def open_weights(
    base: Base, section: ModelSection, head: Head, dtype: str, device: str, **arguments: Any
) -> Any:
    """Load the weights of a base with a head, on `device`, in evaluation mode; adapters that belong
    to the base are folded into it.

    Args:
        base: the base; its folder has the weights.
        section: has their quantization.
        head: what is loaded on top.
        dtype: its name in `DTYPES`.
        device: cpu or cuda.
        arguments: further ones for transformers' `from_pretrained`.

    Raises:
        ModelError: the weights do not load or do not fit the config.
        ResourceError: not enough memory.
    """
    attention.register()
    if section.quantize != "none" or device != "cpu":
        # Shard by shard, without the whole model in main memory.
        arguments["device_map"] = {"": numbered(device)}
    if section.quantize != "none":
        arguments["quantization_config"] = _quantization(section.quantize, DTYPES[dtype])
    with as_model_error(
        f"the base model '{base.name}' cannot be loaded",
        base.folder,
        "check that the folder is complete: config.json and every safetensors file",
    ):
        loaded: Any = getattr(transformers, head.auto_class).from_pretrained(
            base.folder,
            dtype=DTYPES[dtype],
            use_safetensors=True,
            trust_remote_code=base.trusted,
            local_files_only=True,
            # So that _check_loaded names them; transformers does not.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **arguments,
        )
        model, report = loaded
        _check_loaded(report, base.folder, head.added)
    if base.folded:
        model = fold.onto(model, base.folded, head.task_type)
    return without_cpu_packing(model).eval()


def numbered(device: str) -> torch.device:
    """Return a device with its number, as a loaded model's weights name theirs.

    accelerate refuses to train quantized weights that were loaded to a `cuda` without a number.
    """
    if device != "cuda":
        return torch.device(device)
    return torch.device(device, torch.cuda.current_device())


def without_cpu_packing(model: Any) -> Any:
    """Switch off bitsandbytes' repacking of 4-bit weights for fast CPU inference; return `model`.

    The first evaluation would repack them for good, into a kernel that has no gradient: everything
    below the last such layer would then silently stop learning.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def _quantization(kind: str, compute: torch.dtype) -> Any:
    """Return bitsandbytes' configuration for `kind` = nf4 or int8, computing in `compute`.

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ModelError(
            "a quantized base needs bitsandbytes",
            f"model.quantize: {kind}, and bitsandbytes is not installed",
            packages.add("bitsandbytes"),
        ) from error
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute
    )


def _check_loaded(report: dict[str, Any], folder: Path, added: bool) -> None:
    """Refuse weights that are missing or of another shape; a new head may be missing.

    Raises:
        ModelError: names them.
    """
    missing = sorted(report.get("missing_keys") or ())
    if added:
        missing = [key for key in missing if not is_new(key)]
    mismatched = sorted(str(key) for key in report.get("mismatched_keys") or ())
    if missing or mismatched:
        raise ModelError(
            "the weights do not match the model's config",
            f"{folder}: tensors missing: {len(missing)}, of another shape: {len(mismatched)}: "
            + ", ".join([*missing, *mismatched][:4]),
            "use the weights and the config.json of the same model",
        )
