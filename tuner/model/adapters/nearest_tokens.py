"""The base of an adapter, if it is on this machine, and the vocabulary tokens that are nearest to
learned embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.errors import TunerError
from tuner.machine import cache
from tuner.model import base as bases
from tuner.model import sizes
from tuner.model import tokenizer as model_tokenizer
from tuner.model.adapters.norms import PROMPT, PROMPTS
from tuner.model.base import Base
from tuner.recipe import aliases
from tuner.recipe.schema_model import ModelSection

# Their virtual tokens are embeddings; a prefix is keys and values, comparable to no token.
EMBEDDING_TYPES = tuple(kind for kind in PROMPTS if kind != "PREFIX_TUNING")
NEAREST = 3
_EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "shared.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
)
# Embedding rows compared at a time: 8,192 rows of 4,096 in float32 are 128 MiB.
_ROWS = 8192


def find_base(name: str, run: Mapping[str, Any]) -> Base | None:
    """Find the base of an adapter on this machine; nothing is downloaded or converted.

    Args:
        name: from the adapter's configuration: an alias, a Hub id or a folder.
        run: the record of the run, which has the folder; {} without one.
    """
    model = (run.get("plan") or {}).get("model") or {}
    places = [str(model.get("folder") or ""), _folder_of(name)]
    for place in places:
        if place and (Path(place) / "config.json").is_file():
            try:
                section = ModelSection(base=str(Path(place).resolve()))
                return bases.resolve(section, Path.cwd(), lambda text: None)
            except TunerError:
                continue
    return None


def _folder_of(name: str) -> str:
    """Return the folder of a base by its name; "" if it is not on this machine."""
    if name in aliases.ALIASES:
        return str(cache.cache_folder() / "bases" / name)
    if not name or Path(name).is_dir():
        return name
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        return ""


def num_layers(
    base: Base | None, config: Mapping[str, Any], planned: Mapping[str, Any]
) -> int | None:
    """Return the number of layers, from the base, the adapter or the run's plan."""
    if base is not None:
        own = base.config
        if own.get("is_encoder_decoder"):
            encoder = own.get("encoder_layers") or own.get("num_layers") or 0
            return (
                encoder + (own.get("decoder_layers") or own.get("num_decoder_layers") or 0)
            ) or None
        return sizes.Sizes.of(own).layers or None
    known = config.get("num_layers") or (planned.get("adapted") or {}).get("of_layers")
    return int(known) if known else None


def virtual_tokens(weights: Path, config: Mapping[str, Any], base: Base | None) -> dict[str, Any]:
    """Return each learned embedding with its norm and nearest tokens, by cosine similarity.

    Args:
        weights: the adapter's safetensors file.
        config: its configuration.
        base: None where it is not on this machine.

    Returns:
        `virtual_tokens`, one entry each, and `not_compared`, why there are no nearest tokens; empty
        for a method without embeddings. For a multitask prompt it is the shared part.
    """
    if config["peft_type"] not in EMBEDDING_TYPES:
        return {}
    import torch
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        learned = file.get_tensor(PROMPT).float()
    norms = torch.linalg.vector_norm(learned, dim=1).tolist()
    entries: list[dict[str, Any]] = [
        {"token": number, "norm": norm, "nearest": []} for number, norm in enumerate(norms)
    ]
    if base is None:
        reason = f"the base {config.get('base_model_name_or_path')} is not on this machine"
        return {"virtual_tokens": entries, "not_compared": reason}
    place = _embedding(base)
    if place is None:
        reason = f"no token embeddings found in {base.folder}"
        return {"virtual_tokens": entries, "not_compared": reason}
    if place[2] != learned.shape[1]:
        reason = f"the base has embeddings of size {place[2]}, the adapter of {learned.shape[1]}"
        return {"virtual_tokens": entries, "not_compared": reason}
    names = _names(base)
    for entry, found in zip(entries, _compare(learned, place[0], place[1]), strict=True):
        entry["nearest"] = [
            {"id": number, "text": names(number), "similarity": similarity}
            for number, similarity in found
        ]
    return {"virtual_tokens": entries, "not_compared": None}


def _embedding(base: Base) -> tuple[Path, str, int] | None:
    """Return file, name and width of the token embedding matrix."""
    from safetensors import SafetensorError, safe_open

    for file in base.weight_files():
        try:
            with safe_open(file, "pt") as tensors:
                shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            continue
        for ending in _EMBEDDINGS:
            for name, shape in shapes.items():
                if (name == ending or name.endswith("." + ending)) and len(shape) == 2:
                    return file, name, int(shape[1])
    return None


def _compare(learned: Any, file: Path, name: str) -> list[list[tuple[int, float]]]:
    """Return for each row of `learned` (tokens, size) the nearest stored rows, best first."""
    import torch
    from safetensors import safe_open

    usable = (torch.isfinite(learned).all(dim=1) & (learned != 0).any(dim=1)).tolist()
    wanted = torch.nn.functional.normalize(learned, dim=1)
    best, ids = torch.zeros(len(learned), 0), torch.zeros(len(learned), 0, dtype=torch.long)
    with safe_open(file, "pt") as tensors:
        matrix = tensors.get_slice(name)
        rows = matrix.get_shape()[0]
        for first in range(0, rows, _ROWS):
            part = matrix[first : first + _ROWS].float()
            similarity = wanted @ torch.nn.functional.normalize(part, dim=1).T
            numbers = torch.arange(first, first + len(part)).expand(len(learned), -1)
            best, ids = torch.cat([best, similarity], dim=1), torch.cat([ids, numbers], dim=1)
            best, order = best.topk(min(NEAREST, best.shape[1]), dim=1)
            ids = ids.gather(1, order)
    return [
        list(zip(numbers, values, strict=True)) if good else []
        for good, numbers, values in zip(usable, ids.tolist(), best.tolist(), strict=True)
    ]


def _names(base: Base) -> Any:
    """Return a function from token id to text, or to None where the base has no tokenizer."""
    try:
        tokenizer = model_tokenizer.load_tokenizer(base)
    except TunerError:
        return lambda number: None
    return lambda number: str(tokenizer.decode([number]))
