"""Trainable tokens: the embeddings of some tokens alone."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tuner.methods.method import QUANTIZED, Method
from tuner.methods.options import MethodOptions, Setting
from tuner.schema.fields import Words


class TrainableTokensOptions(MethodOptions):
    """The embeddings of some tokens alone."""

    name: Literal["trainable_tokens"] = "trainable_tokens"
    tokens: Annotated[
        Words, Field(min_length=1, description="the tokens to train, as the tokenizer spells them")
    ]


def config(setting: Setting) -> Any:
    """Return peft's configuration."""
    import peft

    return peft.TrainableTokensConfig(
        task_type=setting.task_type, token_indices=list(setting.token_ids)
    )


METHOD = Method(
    "trainable_tokens",
    "sft",
    "the embeddings of some tokens",
    TrainableTokensOptions,
    config,
    1e-3,
    mergeable=True,
    quantized=QUANTIZED,
    classes=False,
)
