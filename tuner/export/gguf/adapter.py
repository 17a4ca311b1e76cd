"""A LoRA as a GGUF adapter: llama.cpp puts it on the base's own GGUF file (`--lora`).

Tensors are named and permuted as llama.cpp's converter does it for the base's weights: a factor B
of a Llama's queries and keys has its rows in the order of llama.cpp's rotary embedding.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file

from tuner.data.chat.chat_template import adds_bos, sends_bos
from tuner.errors import IntegrityError, ModelError
from tuner.export.gguf import modelfile
from tuner.methods.options import CONFIG, WEIGHTS
from tuner.recipe.formats import ARCHITECTURES

if TYPE_CHECKING:
    from tuner.export.job import Work
    from tuner.recipe.formats import ExportFormat

_FILE, _BASE = "adapter-f32.gguf", "base.gguf"
_HEAD = (
    "# Put the GGUF file of the base, {base}, next to this one as " + _BASE + ":\n"
    "#   python convert_hf_to_gguf.py FOLDER_OF_THE_BASE --outfile " + _BASE + "\n"
)


def write_gguf_adapter(row: ExportFormat, work: Work, folder: Path) -> None:
    """Write the adapter's factors in float32, and the Modelfile that puts them on the base.

    Raises:
        ModelError: this kind of base is not supported.
        IntegrityError: the file does not read back the way it was written.
    """
    import gguf

    source = work.origin.folder
    base = json.loads((Path(work.job["base"]) / "config.json").read_text("utf-8"))
    kind = str(base.get("model_type"))
    if kind not in ARCHITECTURES:
        raise ModelError(
            f"GGUF adapters for models of type {kind} are not supported",
            f"supported types: {', '.join(ARCHITECTURES)}",
            "merge instead: tuner export RUN --format gguf",
        )
    name, permutes = ARCHITECTURES[kind]
    config = json.loads((source / CONFIG).read_text("utf-8"))
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        raise ModelError(
            "a GGUF adapter has one scale for all modules",
            f"{source / CONFIG}: rank_pattern or alpha_pattern",
            "merge instead: tuner export RUN --format gguf",
        )
    if adds_bos(work.tokenizer) and not sends_bos(work.tokenizer):
        raise ModelError(
            "a GGUF adapter would be sent another prompt than was trained",
            f"llama.cpp puts {work.tokenizer.bos_token} before every prompt, as the GGUF file of "
            "the base says; the chat template that was trained writes none",
            "merge instead: tuner export RUN --format gguf",
        )
    layers = int(base["num_hidden_layers"])
    architecture = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == name)
    names = gguf.get_tensor_name_map(architecture, layers)
    tensors = {
        place: _permuted(place, tensor, base) if permutes else tensor
        for key, tensor in load_file(source / WEIGHTS).items()
        for place in [_place(key, names)]
    }
    alpha = float(config["lora_alpha"])
    if config.get("use_rslora"):
        # llama.cpp divides by the rank.
        alpha *= float(config["r"]) ** 0.5
    file = folder / _FILE
    writer = gguf.GGUFWriter(file, name)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for place, tensor in tensors.items():
        writer.add_tensor(place, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _read_back(file, tensors)
    if modelfile.problem(work.tokenizer) is None:
        text = modelfile.text(_BASE, work.tokenizer, work.stops or (), work.context_length, _FILE)
        (folder / "Modelfile").write_text(_HEAD.format(base=work.name) + text, "utf-8")


def _place(key: str, names: Any) -> str:
    """Return llama.cpp's name of a factor: `blk.0.attn_q.weight.lora_a`."""
    module, _, factor = (
        key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
    )
    found = names.get_name(module)
    if found is None:
        raise ModelError(
            f"llama.cpp has no name for the module {module}",
            key,
            "merge instead: tuner export RUN --format gguf",
        )
    return f"{found}.weight.lora_{factor.lower()}"


def _permuted(place: str, tensor: torch.Tensor, base: dict[str, Any]) -> torch.Tensor:
    """Interleave the two halves of every head in a factor B of queries or keys."""
    heads = int(base["num_attention_heads"])
    if place.endswith("attn_k.weight.lora_b"):
        heads = int(base.get("num_key_value_heads") or heads)
    elif not place.endswith("attn_q.weight.lora_b"):
        return tensor
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape).contiguous()


def _read_back(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    from gguf import GGUFReader

    found = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    for name, tensor in tensors.items():
        there = found[name].data.reshape(tensor.shape)
        if not np.array_equal(there, tensor.float().numpy()):
            raise IntegrityError(
                "the GGUF adapter is not what was trained",
                f"{name} reads back differently; it was not kept",
                "check the disk, and try again",
            )
