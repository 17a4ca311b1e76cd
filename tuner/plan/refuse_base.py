"""Refuse a base that a recipe cannot run on."""

from __future__ import annotations

from tuner.errors import ModelError, RecipeError
from tuner.methods import METHODS
from tuner.methods.lora import LoraOptions
from tuner.methods.method import Method
from tuner.methods.options import MethodOptions
from tuner.methods.targets import ends
from tuner.model import sizes
from tuner.model import tokenizer as vocabulary
from tuner.model.base import Base
from tuner.model.heads import HEADS, family
from tuner.recipe.schema import Recipe


def _able(kind: str, model_type: str) -> str:
    """The methods for bases of a family and a type."""
    return ", ".join(
        row.name
        for row in METHODS.values()
        if kind in row.families and model_type in (row.model_types or (model_type,))
    )


def refuse_base(recipe: Recipe, method: Method, base: Base, head: str) -> None:
    """Refuse a method that does not work on this base, before its weights are read.

    Raises:
        RecipeError: the method is not for its family or type, or would break its tied matrices.
    """
    kind, model_type = family(base.config), str(base.config.get("model_type"))
    if kind not in method.families:
        raise RecipeError(
            f"method.name: {method.name} does not support {kind} models",
            f"{base.name} is one; the method supports {', '.join(sorted(method.families))}",
            f"choose another base, or one of these methods: {_able(kind, model_type)}",
        )
    if method.model_types and model_type not in method.model_types:
        raise RecipeError(
            f"method.name: {method.name} does not support models of type {model_type}",
            f"{base.name}; the method supports {', '.join(sorted(method.model_types))}",
            f"choose another base, or one of these methods: {_able(kind, model_type)}",
        )
    if HEADS[head].added and not method.classes:
        able = ", ".join(row.name for row in METHODS.values() if row.classes)
        raise RecipeError(
            f"method.name: {method.name} is not supported with a new head",
            "model.task: classification" if head == "classes" else "tuner reward",
            f"choose one of these: {able}",
        )
    if model_type == "gpt2" and not method.conv1d:
        raise RecipeError(
            f"method.name: {method.name} cannot adapt GPT-2's layers",
            f"{base.name} stores them transposed (Conv1D); peft's {method.name} has no support",
            "use lora, or another base",
        )
    options = recipe.method
    if method.deep_prompts and getattr(options, "init", "") == "text" and kind != "decoder":
        raise RecipeError(
            f"method.init: text and a base of the family {kind}",
            "only a decoder's KV cache has the keys and values of a text",
            "leave out method.init",
        )
    if method.virtual_tokens and kind == "decoder":
        _refuse_virtual(method, base, options)
    if not isinstance(options, LoraOptions):
        return
    tied = base.tied
    matrices = [name for name in options.modules_to_save if ends(name, vocabulary.MATRICES)]
    matrices += [name for name in options.modules_to_save if name in vocabulary.MATRICES]
    if tied and matrices:
        raise RecipeError(
            f"method.modules_to_save: {matrices[0]}, but the base's head and embeddings are tied",
            f"{base.name} has tie_word_embeddings: a trained copy of one would not change the "
            "other, and a merged model cannot hold both",
            "leave it out, or use method.name: trainable_tokens for the embeddings of some tokens",
        )


def _refuse_virtual(method: Method, base: Base, options: MethodOptions) -> None:
    """Refuse virtual tokens on a decoder that has no place for them.

    Raises:
        ModelError: says why.
    """
    what = f"method.name: {method.name} cannot be used on this base"
    model = f"{base.name} is of type {base.config.get('model_type')}"
    if sizes.of_text(base.config).get("hidden_size_per_layer_input"):
        raise ModelError(
            what,
            f"{model}: its layers look up the token ids of a row, and virtual tokens have none",
            "use method.name: lora",
        )
    if not method.deep_prompts:
        return
    from tuner.model import key_values

    if why := key_values.why_no_prefix(base):
        fix = "use method.name: prompt, which learns embeddings before the first layer, or lora"
        raise ModelError(what, f"{model}: {why}", fix)
    tokens, window = int(getattr(options, "num_virtual_tokens", 0)), key_values.window(base)
    if window is not None and tokens >= window:
        raise ModelError(
            f"method.num_virtual_tokens: {tokens} do not fit this base",
            f"{model}: some of its layers see no further than {window} tokens",
            f"set method.num_virtual_tokens: {window - 1} or less",
        )
