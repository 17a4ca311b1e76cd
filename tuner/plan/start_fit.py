"""Whether the adapter that a run starts from fits the base."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.errors import ModelError, RecipeError
from tuner.methods.options import WEIGHTS
from tuner.model import tokenizer as vocabulary
from tuner.plan.start import FOLDS_IT, KEY

if TYPE_CHECKING:
    from tuner.model.adapters.saved_models import SavedModel
    from tuner.model.base import Base
    from tuner.model.layers import Skeleton
    from tuner.plan.start import Start


def on_base(start: Start | None, base: Base) -> Base:
    """Return the base of a run with what is folded into it.

    Raises:
        ModelError: the adapter was trained on another base.
    """
    if start is None:
        return base
    known, under = start.adapter.sealed.get("base_fingerprint"), start.adapter.below
    # A base that is only planned with has no weights here.
    if known is not None and base.weight_files():
        found = replace(base, folded=under).fingerprint()
        if found != known:
            raise _other_base(
                start.adapter, base, f"its base has sha256 {known[:12]}, this one {found[:12]}"
            )
    return replace(base, folded=start.below)


def _other_base(adapter: SavedModel, base: Base, why: str) -> ModelError:
    place = str(adapter.sealed.get("base") or adapter.config.get("base_model_name_or_path"))
    if adapter.section is not None:
        place = adapter.section.base
        here = adapter.start / place
        place = str(here) if here.exists() else place
    return ModelError(
        f"{KEY}: {adapter.name} was trained on another base",
        f"model.base is {base.name}: {why}",
        f"set model.base: {place}, or leave out {KEY}",
    )


def refuse_misfit(
    start: Start | None, base: Base, layers: Skeleton, new_ids: tuple[int, ...]
) -> None:
    """Refuse an adapter whose tensors or tokens do not fit the base.

    Raises:
        RecipeError: it has tokens that the recipe does not add.
        ModelError: its tensors do not fit.
    """
    if start is None:
        return
    source = start.adapter
    trained = vocabulary.trained_ids(source.config)
    if trained and trained != tuple(sorted(new_ids)):
        tokens = source.section.new_tokens if source.section else ()
        raise RecipeError(
            f"{KEY}: {source.name} has tokens that the recipe does not add",
            f"their rows are {trained[0]} to {trained[-1]}",
            f"set model.new_tokens: {json.dumps(list(tokens), ensure_ascii=False)}"
            if tokens
            else "set model.new_tokens to the tokens that it was trained with",
        )
    if source.config.get("peft_type") == "LORA" and layers.linears:
        for name, shape in _shapes(source.folder).items():
            _refuse_shape(source, base, layers, name, shape)


def doubts(start: Start | None) -> list[str]:
    """Return a warning if an adapter does not say which base it was trained on."""
    if start is None or "base_fingerprint" in start.adapter.sealed:
        return []
    return [
        f"{KEY}: {start.adapter.name} does not say which base it was trained on: only the names "
        "and the shapes of its tensors are compared"
    ]


def _refuse_shape(
    source: SavedModel, base: Base, layers: Skeleton, name: str, shape: tuple[int, ...]
) -> None:
    module, _, factor = name.removeprefix("base_model.model.").partition(".lora_")
    if factor not in ("A.weight", "B.weight") or ".base_layer" in module:
        return
    linear = layers.linears.get(module)
    side = 0 if factor == "A.weight" else 1
    if linear is not None and shape[-1 if side == 0 else 0] != linear[side]:
        said = f"{name} is {shape}, and the layer has {linear[side]}"
        raise _other_base(source, base, f"{said} {('inputs', 'outputs')[side]}")
    if linear is None and not any(known.startswith(module) for known in layers.sizes):
        raise _other_base(source, base, f"it has no layer {module}")


def refuse_size(start: Start | None, trainable: int) -> None:
    """Refuse to train an adapter further that has another size than its method says.

    Raises:
        ModelError: names both sizes.
    """
    if start is None or not start.continues or start.adapter.config.get("peft_type") != "LORA":
        return
    found = sum(math.prod(shape) for shape in _shapes(start.adapter.folder).values())
    if found != trainable:
        raise ModelError(
            f"{KEY}: {start.adapter.name} cannot be trained further",
            f"its files have {found:,} parameters; those of its configuration on this base are "
            f"{trainable:,}",
            FOLDS_IT,
        )


def _shapes(folder: Path) -> Mapping[str, tuple[int, ...]]:
    """Return name and shape of every tensor of an adapter."""
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, "np") as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
