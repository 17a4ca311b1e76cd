"""What `model.new_tokens` requires of a recipe and its base."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from tuner.data import bundled_chats
from tuner.data.chat.chat_shapes import TAGS
from tuner.data.tokens.example import Example
from tuner.errors import RecipeError
from tuner.methods import METHODS, lora
from tuner.methods.lora import LoraOptions
from tuner.methods.method import DECODER, Method
from tuner.methods.targets import ends
from tuner.model.heads import HEADS, family
from tuner.model.tokenizer import MATRICES, rows_for

if TYPE_CHECKING:
    from tuner.data.tokens.prepared import Prepared
    from tuner.model.base import Base
    from tuner.recipe.schema import Recipe


def contradictions(recipe: Recipe, method: Method, cpu: bool) -> Iterator[str]:
    """Yield what contradicts `model.new_tokens`, one problem per line."""
    if not recipe.model.new_tokens:
        return
    options = recipe.method
    if not method.new_tokens:
        able = ", ".join(row.name for row in METHODS.values() if row.new_tokens)
        yield (
            f"model.new_tokens and method.name: {method.name}, which does not train their rows "
            f"(supported: {able})"
        )
    if lora.moves_base(options) and isinstance(options, LoraOptions):
        yield (
            f"model.new_tokens and method.init: {options.init}, whose conversion to a plain LoRA "
            "does not support token rows"
        )
    if isinstance(options, LoraOptions):
        whole = [name for name in options.modules_to_save if ends(name, MATRICES)]
        if whole:
            yield (
                f"model.new_tokens and method.modules_to_save: {whole[0]}, which trains every "
                "row; new rows are trained without it"
            )
    if recipe.rlhf is not None:
        yield "model.new_tokens and tuner rlhf; train them with tuner sft and merge that run first"
    if recipe.train.qat != "none":
        yield f"model.new_tokens and train.qat: {recipe.train.qat}; not supported together"


def refuse_base(recipe: Recipe, base: Base, head: str) -> None:
    """Refuse to add tokens to a base that is not a generative decoder.

    Raises:
        RecipeError: it is another family, or gets a new head.
    """
    if recipe.model.new_tokens and HEADS[head].added:
        raise RecipeError(
            "model.new_tokens are not supported with a new head",
            "model.task: classification" if head == "classes" else "tuner reward",
            "train them with `tuner sft`, and use its merged model as model.base",
        )
    kind = family(base.config)
    if recipe.model.new_tokens and kind != DECODER:
        raise RecipeError(
            f"model.new_tokens and a base of the family {kind}",
            f"{base.name} is one; new tokens are supported for decoders only",
            "use a decoder, or write them with tokens that the base has",
        )


def facts(recipe: Recipe, ids: Sequence[int], base: Base) -> dict[str, dict[str, Any]]:
    """Return the ids of added tokens, and the rows they need; empty where none are added."""
    if not ids:
        return {}
    rows = {"rows_of_the_base": base.vocabulary_rows, "rows": rows_for(base.vocabulary_rows, ids)}
    return {"vocabulary": {**dict(zip(recipe.model.new_tokens, ids, strict=True)), **rows}}


def doubts(recipe: Recipe, ids: Sequence[int], base: Base, prepared: Prepared) -> list[str]:
    """Return warnings: tokens that no training row has, rows that are not trained."""
    if not ids:
        return []
    tokens = recipe.model.new_tokens
    said = []
    examples = [row for row in prepared.train if isinstance(row, Example)]
    if examples:
        seen = set(chain.from_iterable(row.input_ids for row in examples))
        absent = [token for token, number in zip(tokens, ids, strict=True) if number not in seen]
        if absent:
            said.append(
                f"model.new_tokens: {', '.join(absent)} is in no training row, so it is not learned"
            )
    if recipe.method.name == "last_layer" and not base.tied:
        said.append("method.name: last_layer trains the new tokens' rows only in the head")
    return said


def wanted(
    recipe: Recipe, method: Method, head: str, tokenizer: Any, written: Collection[str]
) -> list[str]:
    """Return a warning if the chat template that a recipe names writes what the base splits, and
    families of such templates have tokens for.

    Args:
        recipe: of supervised rows.
        method: its method.
        head: on top of the base.
        tokenizer: with the tokens that the recipe adds.
        written: those of `TAGS` that the template has written in the rows.
    """
    words = bundled_chats.split(tokenizer, [tag for tag in TAGS if tag in written])
    if recipe.model.chat_template == "auto" or not words:
        return []
    tokens = (*recipe.model.new_tokens, *words)
    model = recipe.model.model_copy(update={"new_tokens": tokens})
    changed = recipe.model_copy(update={"model": model})
    text = (
        f"model.chat_template: '{recipe.model.chat_template}' writes {', '.join(words)}, and the "
        "base makes several tokens of each"
    )
    if HEADS[head].added or [*contradictions(changed, method, cpu=False)]:
        return [text]
    return [f"{text}; add them: model.new_tokens: {json.dumps(tokens)}"]
