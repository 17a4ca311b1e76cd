"""Four bits per weight in groups, packed by compressed-tensors for transformers and vLLM.

Calibrated by GPTQ on rows that the run was trained on; a run with `train.qat: int4` is rounded to
the grid it was trained with instead, which gives exactly the weights that training saw.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn

from tuner.errors import ModelError
from tuner.export import gptq
from tuner.export.proof import measure, reload
from tuner.methods import qat

if TYPE_CHECKING:
    from tuner.export.job import Work
    from tuner.recipe.formats import ExportFormat

_PER_WORD = 8


def write_int4(row: ExportFormat, work: Work, folder: Path) -> None:
    """Quantize the weights of every linear layer except the output head.

    Raises:
        ModelError: there is no such layer whose inputs are a multiple of 32.
    """
    model = reload.whole(work.job, "merged", work.merged).eval()
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    linear = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and "score" not in name
    ]
    fitting = [(name, layer) for name, layer in linear if layer.in_features % qat.GROUPS[-1] == 0]
    size = qat.group_size({name: layer.in_features for name, layer in fitting})
    if not fitting or size is None:
        raise ModelError(
            "nothing in this model can be quantized to int4",
            f"{type(model).__name__} has no linear layer whose inputs are a multiple of 32",
            "choose int8 or gguf-q4_0",
        )
    state = _quantized(work, model, fitting, size)
    left = {name for name, _ in linear} - {name for name, _ in fitting}
    ignored = sorted(left | {name for name, module in model.named_modules() if module is head})
    packed = {f"{name}.weight" for name, _ in fitting}
    # A tied head is written once, under the embedding's name.
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if name not in packed and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            state[name] = tensor.contiguous()
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["quantization_config"] = _scheme(size, ignored)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True), "utf-8")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    work.save_tokenizer(folder)


def _quantized(
    work: Work, model: Any, layers: list[tuple[str, nn.Linear]], size: int
) -> dict[str, torch.Tensor]:
    """Return packed weights and scales by name; the model is left with the rounded weights."""
    state: dict[str, torch.Tensor] = {}
    calibrate = work.calibration.rows and work.facts["qat"] != "int4"
    work.notes["int4"] = (
        f"GPTQ on {len(work.calibration.rows)} training rows" if calibrate else "rounded to nearest"
    )
    calibrating = partial(measure.run_through, held=work.calibration)
    for batch in gptq.batches(layers) if calibrate else [layers]:
        moments = gptq.second_moments(model, batch, calibrating) if calibrate else {}
        for name, layer in batch:
            weight = layer.weight.data
            points, scales = (
                gptq.quantize(weight, moments.pop(name), size)
                if calibrate
                else gptq.rounded(weight, size)
            )
            scales = scales.to(weight.dtype)
            grid = points.unflatten(1, (-1, size)).to(weight.dtype) * scales[..., None]
            layer.weight.data = grid.flatten(1)
            state[f"{name}.weight_packed"] = pack(points.cpu())
            state[f"{name}.weight_scale"] = scales.cpu().contiguous()
            state[f"{name}.weight_shape"] = torch.tensor(weight.shape)
    return state


def pack(points: torch.Tensor) -> torch.Tensor:
    """Pack eight 4-bit points, each offset by 8, into a 32-bit word, the first one lowest.

    Args:
        points: int8 (outputs, inputs), from -8 to 7; inputs a multiple of 8.

    Returns:
        int32 (outputs, inputs / 8).
    """
    nibbles = points.to(torch.int32) - gptq.LOWEST
    words = torch.zeros(len(points), points.shape[1] // _PER_WORD, dtype=torch.int32)
    for place in range(_PER_WORD):
        words |= nibbles[:, place::_PER_WORD] << (4 * place)
    return words


def _scheme(size: int, ignored: list[str]) -> dict[str, Any]:
    weights = {
        "num_bits": 4,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": size,
        "dynamic": False,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": ignored,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
