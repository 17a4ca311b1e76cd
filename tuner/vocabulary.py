"""The words of a model: its tokenizer, the tokens that a recipe adds to it, the rows they need.

Added tokens are ordinary ones that are never split, not special ones: special tokens in the text of
a row are kept literal, and are left out of what the model is shown to have written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from tuner import base as bases
from tuner.data.examples import Example
from tuner.errors import ModelError, RecipeError
from tuner.heads import HEADS, family
from tuner.methods import METHODS, Method, lora
from tuner.methods.lora import LoraOptions
from tuner.methods.method import DECODER
from tuner.methods.targets import ends

if TYPE_CHECKING:
    from tuner.base import Base
    from tuner.data import Prepared
    from tuner.recipe import ModelSection, Recipe

# Ends of the names of modules with a row for every token.
MATRICES = ("lm_head", "embed_tokens", "wte", "shared", "embed_out")
# peft's name of the tokens whose rows an adapter trains, in its configuration.
TRAINED = "trainable_token_indices"


def open_tokenizer(section: ModelSection, found: Base) -> tuple[Any, tuple[int, ...]]:
    """The tokenizer that a recipe trains with, and the ids of the tokens it adds.

    Args:
        section: the recipe's `model` section.
        found: its base.

    Raises:
        ModelError: there is no usable tokenizer, or it does not fit the base.
        RecipeError: a token of `model.new_tokens` cannot be added.
    """
    tokenizer = bases.load_tokenizer(found)
    check(tokenizer, found.vocabulary_rows, found)
    return tokenizer, add(tokenizer, section.new_tokens)


def add(tokenizer: Any, tokens: Sequence[str]) -> tuple[int, ...]:
    """Add tokens to a tokenizer; their ids, the first ones that no token had.

    Raises:
        RecipeError: a token is named twice, is one already, or is blank at an end.
        ModelError: the tokenizer numbers its tokens so that a new one would take another's place.
    """
    if not tokens:
        return ()
    from tokenizers import AddedToken

    for number, token in enumerate(tokens):
        if problem := _problem(tokenizer, token, tokens[:number]):
            raise RecipeError(
                f"model.new_tokens: '{token}' cannot be added",
                problem,
                "leave it out, or spell it otherwise",
            )
    taken = set(tokenizer.get_vocab().values())
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in tokens])
    ids = tuple(int(tokenizer.convert_tokens_to_ids(token)) for token in tokens)
    if taken & set(ids) or len(set(ids)) < len(ids):
        raise ModelError(
            "model.new_tokens cannot be added to this tokenizer",
            "its ids have gaps: a new token would get an id that another one has",
            "use a base whose tokenizer numbers its tokens without gaps",
        )
    return ids


def _problem(tokenizer: Any, token: str, before: Sequence[str]) -> str:
    """Why a token cannot be added; empty where it can."""
    if token in before:
        return "it stands there twice"
    if token != token.strip():
        return "a space at its beginning or end would belong to no word"
    vocabulary = tokenizer.get_vocab()
    found = [[vocabulary[token]]] if token in vocabulary else []
    # A word's token is often the one with the space before it.
    found += [tokenizer(t, add_special_tokens=False)["input_ids"] for t in (token, f" {token}")]
    single = [ids[0] for ids in found if len(ids) == 1]
    return f"the tokenizer has it as one token, {single[0]}, already" if single else ""


def check(tokenizer: Any, rows: int, found: Base) -> None:
    """Refuse a tokenizer whose ids do not fit the embedding rows (exit 4).

    Args:
        tokenizer: that shall be used.
        rows: of the embeddings; 0: not known.
        found: the base, for messages.

    Raises:
        ModelError: names the first id without a row.
    """
    largest, token = max((number, text) for text, number in tokenizer.get_vocab().items())
    if rows and largest >= rows:
        first = min((n, t) for t, n in tokenizer.get_vocab().items() if n >= rows)
        raise ModelError(
            "tokenizer and model do not fit together",
            f"{found.folder}: the tokenizer has ids up to {largest} ({token!r}), the model has "
            f"{rows} embedding rows; the first id without a row is {first[0]} ({first[1]!r})",
            "use the tokenizer that belongs to this model",
        )


def rows_for(rows: int, ids: Sequence[int]) -> int:
    """Embedding rows of a base of `rows` once tokens of these ids have theirs; padding is used up
    before any is added, and none is ever taken away."""
    return max([rows, *(number + 1 for number in ids)])


def trained_ids(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Ids whose rows an adapter has trained, sorted, by its adapter_config.json."""
    entry = config.get(TRAINED) or ()
    lists = entry.values() if isinstance(entry, Mapping) else [entry]
    return tuple(sorted({int(number) for numbers in lists for number in numbers}))


def contradictions(recipe: Recipe, method: Method, cpu: bool) -> Iterator[str]:
    """What cannot go together with `model.new_tokens`, one problem a line."""
    if not recipe.model.new_tokens:
        return
    options = recipe.method
    if not method.new_tokens:
        able = ", ".join(row.name for row in METHODS.values() if row.new_tokens)
        yield (
            f"model.new_tokens and method.name: {method.name}, which does not train their rows; "
            f"{able} do"
        )
    if lora.moves_base(options) and isinstance(options, LoraOptions):
        yield (
            f"model.new_tokens and method.init: {options.init}, whose conversion to a plain LoRA "
            "knows no rows of tokens"
        )
    if isinstance(options, LoraOptions):
        whole = [name for name in options.modules_to_save if ends(name, MATRICES)]
        if whole:
            yield (
                f"model.new_tokens and method.modules_to_save: {whole[0]}, which trains every row "
                "of it; the new ones are trained without it"
            )
    if recipe.rlhf is not None:
        yield "model.new_tokens and tuner rlhf; train them with tuner sft, and merge that run first"
    if recipe.train.qat != "none":
        yield f"model.new_tokens and train.qat: {recipe.train.qat}; not proven together"


def refuse_base(recipe: Recipe, found: Base, head: str) -> None:
    """Refuse to add tokens to a base whose matrices are not a decoder's, or that does not write.

    Raises:
        RecipeError: it is another family, or gets a new head.
    """
    if recipe.model.new_tokens and HEADS[head].added:
        raise RecipeError(
            "model.new_tokens are not proven under a new head",
            "model.task: classification" if head == "classes" else "tuner reward",
            "train them with `tuner sft`, and take its merged model as model.base",
        )
    kind = family(found.config)
    if recipe.model.new_tokens and kind != DECODER:
        raise RecipeError(
            f"model.new_tokens and a base of the family {kind}",
            f"{found.name} is one; rows of new tokens are proven for decoders",
            "use a decoder, or spell them with tokens that the base has",
        )


def facts(recipe: Recipe, ids: Sequence[int], found: Base) -> dict[str, dict[str, Any]]:
    """The tokens that are added, by their ids, and the rows they need; nothing where none are."""
    if not ids:
        return {}
    rows = {"rows_of_the_base": found.vocabulary_rows, "rows": rows_for(found.vocabulary_rows, ids)}
    return {"vocabulary": {**dict(zip(recipe.model.new_tokens, ids, strict=True)), **rows}}


def doubts(recipe: Recipe, ids: Sequence[int], found: Base, prepared: Prepared) -> list[str]:
    """What a plan warns of: tokens that no training row has, rows that are not trained."""
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
                f"model.new_tokens: {', '.join(absent)} stands in no training row, and is learned "
                "from none"
            )
    if recipe.method.name == "last_layer" and not found.tied:
        said.append("method.name: last_layer trains the new tokens' rows in the head alone")
    return said
