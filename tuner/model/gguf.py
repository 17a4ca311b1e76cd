"""Dequantize a GGUF file into a folder of safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuner.errors import ModelError, first_line
from tuner.model.transformers_errors import quiet_libraries
from tuner.record import seal


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Dequantize a GGUF file into a sealed folder of safetensors, tokenizer and chat template.

    Raises:
        ModelError: transformers cannot read the file.
    """
    quiet_libraries()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            gguf.parent, gguf_file=gguf.name, trust_remote_code=False
        )
        model: Any = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
        )
    except Exception as error:
        raise ModelError(
            f"{gguf.name} cannot be converted",
            f"{gguf}: {type(error).__name__}: {first_line(error)}",
            "check that the file is complete, or use the model's safetensors",
        ) from error
    # The tensors are plain floats by now; the rest of the quantization only prevents saving.
    model.hf_quantizer = None
    model.is_quantized = False
    del model.config.quantization_config
    model.config._name_or_path = gguf.stem
    with seal.seal(folder, keep_existing=True) as staging:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
