"""Training the base's own weights: all, the last layer, or first the one and then the other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from tuner.methods.method import DECODER, Method
from tuner.methods.options import MethodOptions
from tuner.schema.fields import Positive, Section

_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|norm|ln_f|final_layernorm|final_layer_norm)\.")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte)\.")


class FullOptions(MethodOptions):
    """All weights; no options."""

    name: Literal["full"] = "full"


class LastLayerOptions(MethodOptions):
    """The final block, norm and head; no options."""

    name: Literal["last_layer"] = "last_layer"


class StageOptions(Section):
    """One stage of a staged run."""

    train: Annotated[
        Literal["last_layer", "all"], Field(description="which weights this stage trains")
    ]
    epochs: Annotated[Positive, Field(description="passes over the training rows")] = 1.0
    learning_rate: Annotated[Positive, Field(description="peak learning rate of this stage")]


class StagedOptions(MethodOptions):
    """Train only the last layer, then unfreeze everything and continue at a lower rate."""

    name: Literal["staged"] = "staged"
    stages: Annotated[
        tuple[StageOptions, ...], Field(min_length=1, description="the stages, in order")
    ] = (
        StageOptions(train="last_layer", epochs=1.0, learning_rate=2e-4),
        StageOptions(train="all", epochs=1.0, learning_rate=2e-5),
    )


def last_layer(names: Iterable[str], tied: bool) -> set[str]:
    """Return the parameter names of the final block, the final norm and the head.

    Args:
        names: all parameter names of the model.
        tied: whether the head is the embedding matrix; then that matrix is the head.
    """
    blocks = {name: int(match[1]) for name in names if (match := _BLOCK.search(name))}
    last = max(blocks.values(), default=-1)
    chosen = {name for name, number in blocks.items() if number == last}
    for name in names:
        if name not in blocks and (_HEAD.search(name) or (tied and _EMBEDDING.search(name))):
            chosen.add(name)
    return chosen


def set_trainable(model: Any, which: str) -> None:
    """Freeze or unfreeze the base's own weights for `which` = all or last_layer."""
    names = [name for name, _ in model.named_parameters()]
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    chosen = set(names) if which == "all" else last_layer(names, tied)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)


FULL = Method(
    "full",
    "sft",
    "all weights",
    FullOptions,
    None,
    2e-5,
    mergeable=True,
    merges_classes=True,
    new_tokens=True,
    # But for the vectors of its norms, which are not its main part.
    matrices=True,
)
LAST_LAYER = replace(
    FULL,
    name="last_layer",
    summary="the final block, norm and head",
    options=LastLayerOptions,
    learning_rate=2e-4,
    families=frozenset({DECODER}),
)
STAGED = replace(
    FULL,
    name="staged",
    summary="the last layer first, then everything at a lower rate",
    options=StagedOptions,
    learning_rate=2e-4,
    families=frozenset({DECODER}),
)
