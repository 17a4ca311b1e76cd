"""The vocabulary of a model: its tokenizer, tokens that a recipe adds, the rows they need.

Added tokens are ordinary ones that are never split, not special ones: special tokens in the text of
a row are kept literal, and are left out when an answer is shown.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tuner.errors import ModelError, RecipeError, first_line
from tuner.model import conversation, own_code
from tuner.model.base import Base
from tuner.model.heads import family
from tuner.recipe.schema_model import ModelSection

# Ends of the names of modules with a row for every token.
MATRICES = ("lm_head", "embed_tokens", "wte", "shared", "embed_out")

# peft's configuration key for the tokens whose rows an adapter trains.
TRAINED = "trainable_token_indices"


def open_tokenizer(section: ModelSection, base: Base, folder: Path) -> tuple[Any, tuple[int, ...]]:
    """Load the tokenizer that a recipe trains with, and add its tokens; also return their ids.

    Args:
        section: the recipe's `model` section.
        base: its base.
        folder: where the path of a chat template starts.

    Raises:
        ModelError: there is no usable tokenizer, or it does not fit the base.
        RecipeError: a token of `model.new_tokens` cannot be added, or the chat template cannot be
            used.
    """
    tokenizer = load_tokenizer(base)
    check(tokenizer, base.vocabulary_rows, base)
    ids = add(tokenizer, section.new_tokens)
    conversation.settle(tokenizer, section, folder)
    return tokenizer, ids


def add(tokenizer: Any, tokens: Sequence[str]) -> tuple[int, ...]:
    """Add tokens to a tokenizer, and return their ids, the first free ones.

    Raises:
        RecipeError: a token is listed twice, exists already, or begins or ends with a space.
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
                "leave it out, or spell it differently",
            )
    taken = set(tokenizer.get_vocab().values())
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in tokens])
    ids = tuple(int(tokenizer.convert_tokens_to_ids(token)) for token in tokens)
    if taken & set(ids) or len(set(ids)) < len(ids):
        raise ModelError(
            "model.new_tokens cannot be added to this tokenizer",
            "its ids have gaps: a new token would get an id that is already used",
            "use a base whose tokenizer numbers its tokens without gaps",
        )
    return ids


def _problem(tokenizer: Any, token: str, before: Sequence[str]) -> str:
    """Return why a token cannot be added; empty where it can."""
    if token in before:
        return "it is listed twice"
    if token != token.strip():
        return "it begins or ends with a space"
    vocabulary = tokenizer.get_vocab()
    found = [[vocabulary[token]]] if token in vocabulary else []
    # The token of a word often includes the space before it.
    found += [tokenizer(t, add_special_tokens=False)["input_ids"] for t in (token, f" {token}")]
    single = [ids[0] for ids in found if len(ids) == 1]
    return f"the tokenizer already has it as one token, {single[0]}" if single else ""


def check(tokenizer: Any, rows: int, base: Base) -> None:
    """Refuse a tokenizer whose ids do not fit the embedding rows (exit 4).

    Args:
        tokenizer: the one to use.
        rows: of the embeddings; 0: unknown.
        base: the base, for messages.

    Raises:
        ModelError: names the first id without a row.
    """
    largest, token = max((number, text) for text, number in tokenizer.get_vocab().items())
    if rows and largest >= rows:
        first = min((n, t) for t, n in tokenizer.get_vocab().items() if n >= rows)
        raise ModelError(
            "tokenizer and model do not match",
            f"{base.folder}: the tokenizer has ids up to {largest} ({token!r}), the model has "
            f"{rows} embedding rows; the first id without a row is {first[0]} ({first[1]!r})",
            "use the tokenizer that belongs to this model",
        )


def rows_for(rows: int, ids: Sequence[int]) -> int:
    """Return the embedding rows of a base of `rows` once these token ids have theirs; padding rows
    are used before any are added, and none are removed."""
    return max([rows, *(number + 1 for number in ids)])


def trained_ids(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the ids whose rows an adapter has trained, sorted, by its adapter_config.json."""
    entry = config.get(TRAINED) or ()
    lists = entry.values() if isinstance(entry, Mapping) else [entry]
    return tuple(sorted({int(number) for numbers in lists for number in numbers}))


def pad_for_scores(tokenizer: Any, name: str) -> int:
    """Return the padding token of a reward model's tokenizer: one that is not an end token.

    transformers reads a score at the last token that is not padding, so it would not see an end
    token that is also the padding token.

    Raises:
        ModelError: it is an end token.
    """
    pad = tokenizer.pad_token_id
    if pad is None or pad == tokenizer.eos_token_id:
        raise ModelError(
            f"the tokenizer of {name} pads with its end token",
            f"token {pad}: the score of an answer would be read before its end",
            "train it with `tuner reward`, which chooses another padding token",
        )
    return int(pad)


def choose_pad(tokenizer: Any, stop_ids: Collection[int]) -> None:
    """Give the tokenizer of a reward model a padding token that is not an end token.

    Its own if possible, else its unknown token, another special one, or the last of all.
    """
    ends = {tokenizer.eos_token_id, *stop_ids}
    special = [token for token in tokenizer.added_tokens_decoder.values() if token.special]
    ids = [tokenizer.pad_token_id, tokenizer.unk_token_id]
    ids += [tokenizer.convert_tokens_to_ids(token.content) for token in special]
    ids += sorted(tokenizer.get_vocab().values(), reverse=True)
    chosen = next(number for number in ids if number is not None and number not in ends)
    if chosen != tokenizer.pad_token_id:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(chosen)


# Tokenizer classes with nothing beyond tokenizer.json: they load without torch.
_GENERIC_TOKENIZERS = ("PreTrainedTokenizerFast", "TokenizersBackend")


def tokenizer_at(base: Base, folder: Path) -> Any:
    """Return the tokenizer in an adapter's folder; its code runs only if it is the base's.

    Raises:
        ModelError: there is no usable tokenizer.
        SafetyError: it has other code.
    """
    trusted = base.trusted and own_code.same(folder, base.folder)
    return load_tokenizer(replace(base, folder=folder, trusted=trusted))


def load_tokenizer(base: Base) -> Any:
    """Load the tokenizer of a base; without importing torch where tokenizer.json is enough.

    Raises:
        ModelError: there is no usable tokenizer.
    """
    folder = base.folder
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        config = {}
    from huggingface_hub.errors import StrictDataclassError

    generic = config.get("tokenizer_class") in _GENERIC_TOKENIZERS
    try:
        if generic and (folder / "tokenizer.json").is_file():
            from transformers import PreTrainedTokenizerFast

            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        else:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=base.trusted, local_files_only=True
            )
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        if "trust_remote_code" in str(error):
            raise own_code.refusal(base.name, folder, "tokenizer of") from error
        raise ModelError(
            "the base model has no usable tokenizer",
            f"{folder}: {first_line(error)}",
            "use a base with tokenizer.json next to config.json",
        ) from error
    tokenizer = with_offsets(tokenizer, folder)
    if tokenizer.eos_token_id is None and family(base.config) == "encoder":
        # An encoder generates nothing that would have to end.
        tokenizer.eos_token = tokenizer.sep_token
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has no end-of-sequence token",
            f"{folder}: eos_token is not set, so the model could never learn to end an answer",
            "set eos_token in tokenizer_config.json",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def with_offsets(tokenizer: Any, folder: Path) -> Any:
    """Return a fast tokenizer: only those say which characters a token is.

    Raises:
        ModelError: there is none.
    """
    if tokenizer.is_fast:
        return tokenizer
    kind = type(tokenizer).__name__
    if kind == "ByT5Tokenizer":
        from tuner.model import byte_tokenizer

        return byte_tokenizer.fast(tokenizer)
    raise ModelError(
        "the base model has no fast tokenizer",
        f"{folder}: {kind} does not say which characters a token is, so answers cannot be told "
        "from prompts",
        "put a tokenizer.json next to config.json, or use another base",
    )


def stop_ids(folder: Path) -> tuple[int, ...]:
    """Return the ids that end a generation, by generation_config.json and config.json."""
    found: list[int] = []
    for file in ("generation_config.json", "config.json"):
        try:
            value = json.loads((folder / file).read_text("utf-8")).get("eos_token_id")
        except (OSError, ValueError):
            continue
        found += value if isinstance(value, list) else [value] if isinstance(value, int) else []
    return tuple(dict.fromkeys(found))
