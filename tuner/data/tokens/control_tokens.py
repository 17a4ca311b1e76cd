"""Control tokens written in the text of rows: found, and kept literal.

Control tokens are the tokenizer's special tokens and those added tokens that occur in the chat
template. Only those that the template wrote itself may become control ids. To keep the others
literal without changing how the rest is tokenized, a copy of the tokenizer is used in which every
control token is spelled in private-use characters, as many as it had before.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from tuner.data.bad_rows import BadRow
from tuner.data.rows.rendered import Rendered, Span
from tuner.errors import ModelError

PRIVATE = 0x100000
FILLER = chr(0x10FFFD)
_PRIVATE_TEXT = re.compile(f"[{chr(PRIVATE)}-{FILLER}]")


class ControlTokens:
    """The control tokens of a tokenizer with its chat template (None where there is none)."""

    def __init__(self, tokenizer: Any, chat_template: str | None) -> None:
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self.words = [
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if token.special
            or (chat_template and token.content.strip() and token.content in chat_template)
        ]
        longest = sorted(self.words, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest)) or r"(?!)")

    def foreign(self, example: Rendered) -> int:
        """Count the control tokens in the text that the template did not write.

        Zero means that tokenizing the text as it is makes control ids only of the template's own.

        Raises:
            BadRow: there are some, but their place is unknown.
        """
        if any(self._pattern.search(text) for text in example.unlocated):
            raise BadRow(
                "the text contains special tokens where they cannot be kept literal"
                " (remove them, or set data.special_tokens_in_text: allow)"
            )
        everywhere = [match.span() for match in self._pattern.finditer(example.text)]
        if example.pattern is not None:
            self._compare(example.text, example.pattern)
            return 0
        if not everywhere:
            return 0
        own = set(self._written(example))
        return len(set(everywhere) - own) or int(len(own) != len(everywhere))

    def literal(self, example: Rendered) -> str:
        """Return the text for `private`: the same length, the template's control tokens respelled.

        Raises:
            BadRow: the text holds characters that are needed to respell them.
        """
        if _PRIVATE_TEXT.search(example.text):
            raise BadRow("the text has both special tokens and characters of private use area B")
        parts, position = [], 0
        for start, end in self._written(example):
            parts += [example.text[position:start], self._respelled(example.text[start:end])]
            position = end
        return "".join([*parts, example.text[position:]])

    @cached_property
    def private(self) -> Tokenizer:
        """The tokenizer with every control token respelled; same ids."""
        document = json.loads(self._backend.to_str())
        names = {word: self._respelled(word) for word in self.words}
        for token in document["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        _rename_vocabulary(document["model"], names)
        copy = Tokenizer.from_str(json.dumps(document))
        old_id, new_id = self._backend.token_to_id, copy.token_to_id
        if any(new_id(new) != old_id(old) for old, new in names.items()):
            raise ModelError(
                "this tokenizer cannot keep special tokens in text literal",
                "its special tokens cannot be renamed",
                "set data.special_tokens_in_text: error or allow",
            )
        return copy

    def _respelled(self, word: str) -> str:
        return chr(PRIVATE + self.words.index(word)) + FILLER * (len(word) - 1)

    def _written(self, example: Rendered) -> list[Span]:
        return [
            (start + match.start(), start + match.end())
            for start, end in example.structure
            for match in self._pattern.finditer(example.text[start:end])
        ]

    def _compare(self, text: str, pattern: str) -> None:
        if Counter(self._pattern.findall(text)) != Counter(self._pattern.findall(pattern)):
            raise BadRow("the chat template makes special tokens out of the row's text")


def _rename_vocabulary(model: dict[str, Any], names: dict[str, str]) -> None:
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(word, word): index for word, index in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(word, word), score] for word, score in vocabulary]
    if "merges" in model:
        model["merges"] = [
            merge
            for merge in model["merges"]
            if "".join(merge.split(" ") if isinstance(merge, str) else merge) not in names
        ]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
