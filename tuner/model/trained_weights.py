"""Which tensors a method trains on a base, and their sizes, without loading its weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from tuner.errors import ModelError, first_line
from tuner.methods import lora
from tuner.methods.full import StagedOptions
from tuner.methods.lora import LoraOptions
from tuner.methods.method import Method
from tuner.methods.options import Setting
from tuner.model import tokenizer
from tuner.model.base import Base
from tuner.model.layers import PLAIN_FAMILIES, SCORE, WORDS, Skeleton, Weight, empty


def of(
    base: Base, head: str, skeleton: Skeleton, method: Method, setting: Setting
) -> dict[str, Weight]:
    """Return exactly which tensors a method trains, the most at one time, by a name of each.

    Those of LoRA come from a formula; any other adapter is built on a model without weights.
    """
    options = setting.options
    if isinstance(options, StagedOptions):
        stages = [skeleton.weights(stage.train) for stage in options.stages]
        return max(stages, key=numbers)
    if method.config is None:
        return skeleton.weights("last_layer" if method.name == "last_layer" else "all")
    # peft trains a classifier's new layer as a whole.
    new = {SCORE: Weight(skeleton.shapes[SCORE], "head")} if SCORE in skeleton.shapes else {}
    if (
        isinstance(options, LoraOptions)
        and (head == "language" or (new and base.config.get("model_type") in PLAIN_FAMILIES))
        and not (options.modules_to_save or options.experts)
    ):
        own = {
            f"{name}.{part}": Weight(shape)
            for name in setting.targets
            for part, shape in lora.shapes(options, name, skeleton.linears[name]).items()
        }
        return own | new | _of_tokens(base, skeleton, setting.new_token_ids)
    return _of_adapter(base, head, method, setting)


def numbers(weights: Mapping[str, Weight]) -> int:
    """Return how many numbers there are in some tensors."""
    return sum(math.prod(weight.shape) for weight in weights.values())


def _of_adapter(base: Base, head: str, method: Method, setting: Setting) -> dict[str, Weight]:
    """Return what an adapter trains, by building it on torch's meta device."""
    import peft

    from tuner.model import embedding_rows, parameter_kinds

    model = empty(base, head, tokenizer.rows_for(0, setting.new_token_ids))
    try:
        with warnings.catch_warnings():
            # They are in run.log once the method is put on the base itself.
            warnings.simplefilter("ignore")
            assert method.config is not None
            config = setting.with_head(method.config(setting))
            embedding_rows.train(model, config, setting.new_token_ids)
            wrapped: Any = peft.get_peft_model(model, config)
    except (ValueError, AttributeError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"method.name: {method.name} cannot be used on this base",
            f"{base.name}: {first_line(error)}",
            "choose another method, or other modules",
        ) from error
    kinds = parameter_kinds.of(wrapped)
    # AdaLoRA keeps its ranks among the parameters, and never trains them.
    return {
        name: Weight(tuple(p.shape), kinds.get(name, "inner"))
        for name, p in wrapped.named_parameters()
        if p.requires_grad and "ranknum" not in name
    }


def _of_tokens(base: Base, skeleton: Skeleton, ids: Sequence[int]) -> dict[str, Weight]:
    """Return the rows of some tokens, in embedding and head."""
    rows = tokenizer.rows_for(base.vocabulary_rows, ids) if ids else 0
    return {
        name: Weight((len(ids), skeleton.sizes[name] // rows), "embedding")
        for name in skeleton.shapes
        if ids and f".{name}".endswith(WORDS)
    }
