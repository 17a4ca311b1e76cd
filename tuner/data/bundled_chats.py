"""Chat templates that come with the program, and which of them suit a tokenizer.

They were written for this project, to treat turns as the families of their names do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

BUNDLED = Path(__file__).parent / "chat_templates"

# How control tokens are spelled: <|im_start|>, <|turn> and <turn|>, <start_of_turn>, [INST], and
# DeepSeek's.
_CONTROL = re.compile(
    r"<\|[^<>|\s]+\|?>|<[^<>|\s]+\|>|<｜[^<>｜\s]+｜>|<(?:start|end)_of_turn>|\[/?[A-Z_]+\]"
)


@cache
def names() -> list[str]:
    """Return their names."""
    return sorted(path.stem for path in BUNDLED.glob("*.jinja"))


def text(name: str) -> str:
    """Return one, in Jinja."""
    return (BUNDLED / f"{name}.jinja").read_text("utf-8")


def control_tokens(template: str) -> list[str]:
    """Return the control tokens that a template writes, by how they are spelled."""
    return list(dict.fromkeys(_CONTROL.findall(template)))


def missing(tokenizer: Any, template: str) -> list[str]:
    """Return the control tokens of a template that a tokenizer would split."""
    return split(tokenizer, control_tokens(template))


def split(tokenizer: Any, words: Iterable[str]) -> list[str]:
    """Return those of some words that a tokenizer makes several tokens of."""
    encode = tokenizer.backend_tokenizer.encode
    return [word for word in words if len(encode(word, add_special_tokens=False).ids) != 1]


def suiting(tokenizer: Any) -> list[str]:
    """Return the names of those whose control tokens a tokenizer has."""
    return [name for name in names() if not missing(tokenizer, text(name))]
