"""Weights quantized by torchao: int8, one scale per output, in plain safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tuner.errors import ModelError
from tuner.export.proof import reload
from tuner.methods import qat

if TYPE_CHECKING:
    from tuner.export.job import Work
    from tuner.recipe.formats import ExportFormat


def write_torchao_int8(row: ExportFormat, work: Work, folder: Path) -> None:
    """Quantize the weights of every nn.Linear except the output head; activations stay as they are.

    Raises:
        ModelError: the model has none (GPT-2 keeps its layers as Conv1D).
    """
    from torch import nn
    from transformers import TorchAoConfig

    scheme = TorchAoConfig(qat.scheme("int8", None))
    model = reload.whole(work.job, "merged", work.merged, quantization_config=scheme)
    plain = nn.Parameter
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if all(type(module.weight) is plain for module in linear):
        raise ModelError(
            "torchao finds nothing to quantize in this model",
            f"{type(model).__name__} has no nn.Linear except its head",
            "choose int8 or gguf-q8_0",
        )
    model.save_pretrained(folder)
    work.save_tokenizer(folder)
