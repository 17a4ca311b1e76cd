"""The chat template that a recipe chooses, and the arguments that it gives it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.data import bundled_chats
from tuner.data.bad_rows import BadRow
from tuner.data.chat import chat_template
from tuner.data.chat.chat_template import ChatTemplate
from tuner.data.turns.reasoning import CLOSE, OPEN, Message
from tuner.errors import ModelError, RecipeError, SafetyError, TunerError
from tuner.recipe.other_tools import answer as other_tools
from tuner.recipe.paths import Named
from tuner.schema.suggest import suggestion

if TYPE_CHECKING:
    from tuner.recipe.schema_model import ModelSection

_SAID = "Xqsaid0qX"


def settle(tokenizer: Any, section: ModelSection, folder: Path) -> None:
    """Give a tokenizer the chat template of a recipe, with its arguments as defaults.

    The token by which the template ends an answer becomes the tokenizer's end-of-sequence token, so
    generation stops there.

    Args:
        tokenizer: with the tokens that the recipe adds.
        section: the recipe's `model` section.
        folder: where a relative path starts.

    Raises:
        RecipeError: there is no such template, the tokenizer lacks tokens that it needs, or it does
            not use an argument.
        ModelError, SafetyError: it is not valid, or not safe to run.
    """
    if section.chat_template != "auto":
        tokenizer.chat_template = _source(section.chat_template, folder)
        _refuse_missing(tokenizer, section)
        try:
            take_end(tokenizer)
        except BadRow as problem:
            raise _unusable(ModelError, section, str(problem)) from None
        except (ModelError, SafetyError) as error:
            raise _unusable(type(error), section, f"{error.what}: {error.why}") from None
    if section.chat_arguments:
        chat_template.check_arguments(tokenizer, section.chat_arguments)
        tokenizer.chat_template = chat_template.with_defaults(
            chat_template.source_of(tokenizer), section.chat_arguments
        )


def _unusable(kind: type[TunerError], section: ModelSection, why: str) -> TunerError:
    return kind(
        f"model.chat_template: {section.chat_template} cannot be used",
        why,
        f"correct the template, or name another one: {', '.join(bundled_chats.names())}",
    )


def _source(name: str, folder: Path) -> str:
    if name in bundled_chats.names():
        return bundled_chats.text(name)
    found = Named(("model", "chat_template"), "file", name).find(folder)
    if found is None:
        raise RecipeError(
            f"model.chat_template: there is no template '{name}'",
            "it is neither a file nor the name of a bundled one; "
            f"{suggestion(name, bundled_chats.names())}",
            other_tools.instead("model.chat_template", name)
            or "name a file with a Jinja template, or one of these",
        )
    try:
        text = found.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"model.chat_template: {found} cannot be read",
            str(error),
            "name a text file in UTF-8",
        ) from None
    if not text.strip():
        raise RecipeError(
            f"model.chat_template: {found} is empty",
            "it would make an empty prompt of every chat",
            "write a Jinja template into it, or name a bundled one: "
            f"{', '.join(bundled_chats.names())}",
        )
    return text


def _refuse_missing(tokenizer: Any, section: ModelSection) -> None:
    """Refuse a template whose control tokens the tokenizer would split."""
    missing = bundled_chats.missing(tokenizer, tokenizer.chat_template)
    if missing:
        missing += bundled_chats.split(tokenizer, _reasoning_tags(tokenizer))
        tokens = ", ".join(f'"{word}"' for word in (*section.new_tokens, *missing))
        raise RecipeError(
            f"model.chat_template: '{section.chat_template}' needs tokens that the base does not "
            "have",
            f"its tokenizer would split {', '.join(missing)}",
            f"add them: model.new_tokens: [{tokens}]",
        )


def _reasoning_tags(tokenizer: Any) -> tuple[str, ...]:
    """What a template writes around reasoning, if it writes that in a chat without tools."""
    asked: Message = {"role": "user", "content": "question"}
    texts = []
    with suppress(BadRow, TunerError):
        chat = ChatTemplate(tokenizer)
        texts.append(chat.render([asked], generate=True))
        texts.append(chat.render([asked, {"role": "assistant", "content": _SAID}]))
    return (OPEN, CLOSE) if any(OPEN in text for text in texts) else ()


def take_end(tokenizer: Any) -> None:
    """Make the token by which the template ends an answer the one that ends a sequence."""
    chat = ChatTemplate(tokenizer)
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _SAID}]
    _, found, after = chat.render(turns).partition(_SAID)
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    ends = [word for word in added if after.lstrip().startswith(word)]
    if found and ends:
        tokenizer.eos_token = max(ends, key=len)
