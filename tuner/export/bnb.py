"""Weights quantized by bitsandbytes: LLM.int8() (Dettmers et al. 2022) and NF4 (ibid. 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tuner.errors import ModelError
from tuner.export.proof import reload

if TYPE_CHECKING:
    from tuner.export.job import Work
    from tuner.recipe.formats import ExportFormat


# What bitsandbytes puts in place of a linear layer.
_LAYERS = ("Linear8bitLt", "Linear4bit")


def write_int8(row: ExportFormat, work: Work, folder: Path) -> None:
    """Quantize to LLM.int8(): 8 bits per weight, one absolute maximum per output."""
    from transformers import BitsAndBytesConfig

    _write(work, folder, BitsAndBytesConfig(load_in_8bit=True))


def write_nf4(row: ExportFormat, work: Work, folder: Path) -> None:
    """Quantize to NF4 in blocks of 64 weights, with double-quantized scales."""
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, work.job["dtype"]),
    )
    _write(work, folder, config)


def _write(work: Work, folder: Path, config: Any) -> None:
    place = {"": work.job["device"]}
    model = reload.whole(
        work.job, "merged", work.merged, quantization_config=config, device_map=place
    )
    if not any(type(module).__name__ in _LAYERS for module in model.modules()):
        raise ModelError(
            "nothing in this model can be quantized this way",
            f"{type(model).__name__} has no linear layer that the library replaces",
            "choose another format, such as gguf-q8_0",
        )
    model.save_pretrained(folder)
    work.save_tokenizer(folder)
