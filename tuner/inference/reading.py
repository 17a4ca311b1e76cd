"""An answer, read while it is written: its reasoning, its content, its tool calls."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from transformers.utils.chat_parsing import parse_response
from transformers.utils.chat_parsing.response_templates import (
    ResponseTemplate,
    ResponseTemplateField,
)

from tuner.data.turns import reasoning
from tuner.data.turns.reasoning import Splitter
from tuner.inference import strict

_CALLS: Final = "tool_calls"
# What may be left of a body once its arguments are taken out.
_BETWEEN = re.compile(r"(?:[\s,]|</function>)*")

Kind = Literal["reasoning_content", "content", "tool_calls"]


@dataclass(frozen=True)
class Part:
    """A part of an answer: a piece of text, or a whole call (name and arguments as JSON text)."""

    kind: Kind
    text: str = ""
    call: dict[str, str] | None = None


@dataclass(frozen=True)
class Said:
    """A whole answer in its parts."""

    reasoning: str
    content: str
    calls: list[dict[str, str]]


def whole(parts: Iterable[Part]) -> Said:
    """Return all parts of an answer as one."""
    given = list(parts)

    def text(kind: str) -> str:
        return "".join(part.text for part in given if part.kind == kind)

    calls = [part.call for part in given if part.call]
    return Said(text("reasoning_content"), text("content"), calls)


class Reader:
    """Reads one answer.

    A call that cannot be read is content, word for word.

    Args:
        opened: whether its prompt has already opened a block of reasoning.
        form: how the model writes calls; None: it writes none that can be read.
        tools: shown to the model; without any, a call is content. Their schemas give a type to
            arguments that are written without one.
        single: whether the answer ends with its first call.
        begun: how the answer begins, before the first piece.
    """

    def __init__(
        self,
        opened: bool = False,
        form: ResponseTemplate | None = None,
        tools: Sequence[Any] = (),
        single: bool = False,
        begun: str = "",
    ) -> None:
        self._before = begun
        self._splitter = Splitter(opened)
        self._form = form
        self._tools = list(tools)
        self._single = single
        self._field: ResponseTemplateField | None = None
        self._begun = ""
        self._text = ""
        self._spaces: dict[str, str] = {"reasoning_content": "", "content": ""}
        self._said: set[str] = set()
        self._outside = ""

    def feed(self, piece: str, end: bool = False) -> list[Part]:
        """Return what is new after a piece of the answer.

        Args:
            piece: the next part of its text.
            end: whether it is the last one; nothing is held back then.
        """
        piece, self._before = self._before + piece, ""
        thought, text = self._splitter.feed(piece, end)
        parts = [Part("reasoning_content", thought)] if thought else []
        if self._form is None:
            return [*parts, Part("content", text)] if text else parts
        self._text += text
        while not self.ended and self._step(self._form, parts, end):
            pass
        if end and not self._said:
            self._give("content", self._outside, parts)
        return parts

    @property
    def ended(self) -> bool:
        """Return whether nothing more is read."""
        return self._single and _CALLS in self._said

    def _step(self, form: ResponseTemplate, parts: list[Part], end: bool) -> bool:
        """Read up to the next border between fields; return whether there was one."""
        field = self._field
        if field is None:
            patterns = [(each, True) for each in form.fields.values() if each.open_re is not None]
        else:
            patterns = [(field, False)] if field.close_re is not None else []
        found, hold = _next(patterns, self._text, end)
        if field is not None and field.name == _CALLS:
            if found is None and not end:
                return False
            body, close, self._text = _cut(self._text, found, len(self._text))
            self._call(form, field, body, close, parts)
            self._field = None
            return bool(self._text)
        before, border, self._text = _cut(self._text, found, hold)
        if field is None and form.implicit is None:
            self._outside += before
        else:
            self._give(_kind(field), before, parts)
        if found is None:
            return False
        self._field, self._begun = (found[0], border) if field is None else (None, "")
        if self._field and _kind(field := self._field) in self._said and field.name != _CALLS:
            self._spaces[_kind(field)] = "\n"
        return True

    def _give(self, kind: Kind, text: str, parts: list[Part]) -> None:
        """Give a piece of text, without the spaces around all of its kind."""
        text = self._spaces[kind] + text
        if kind not in self._said:
            text = text.lstrip()
        said = text.rstrip()
        self._spaces[kind] = text[len(said) :]
        if said:
            self._said.add(kind)
            parts.append(Part(kind, said))

    def _call(
        self,
        form: ResponseTemplate,
        field: ResponseTemplateField,
        body: str,
        close: str,
        parts: list[Part],
    ) -> None:
        text = self._begun + body + close
        try:
            if field.content == "xml-inline":
                _refuse_rest(body, field.content_args["tag_pattern"])
            found = parse_response(text, form, prefix="", tools=self._tools).get(_CALLS)
            calls = [_checked(each, self._tools) for each in _flat(found)] if self._tools else []
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            calls = []
        if not calls:
            self._give("content", text, parts)
            return
        self._said.add(_CALLS)
        parts += [Part(_CALLS, call=call) for call in (calls[:1] if self._single else calls)]


Found = tuple[ResponseTemplateField, re.Match[str]]


def _next(
    patterns: Sequence[tuple[ResponseTemplateField, bool]], text: str, end: bool
) -> tuple[Found | None, int]:
    """Return the first border in a text that further text cannot change, and up to where there is
    none at all."""
    best: Found | None = None
    hold = len(text)
    for field, opens in patterns:
        pattern = field.open_re if opens else field.close_re
        match = pattern.search(text) if end else pattern.search(text, partial=True)
        # An opening without characters would open for ever.
        if match is None or (opens and not match.partial and match.start() == match.end()):
            continue
        if not end and (match.partial or _may_grow(field, opens, match, text)):
            hold = min(hold, match.start())
        elif best is None or _order(match) < _order(best[1]):
            best = field, match
    if best is not None and best[1].start() >= hold and hold < len(text):
        best = None
    return best, hold


def _may_grow(field: ResponseTemplateField, opens: bool, match: Any, text: str) -> bool:
    if match.end() < len(text):
        return False
    literals = field.open_literals if opens else field.close_literals
    longer = field.open_literal_can_extend if opens else field.close_literal_can_extend
    return literals is None or longer


def _order(match: Any) -> tuple[int, int]:
    return match.start(), match.start() - match.end()


def _cut(text: str, found: Found | None, hold: int) -> tuple[str, str, str]:
    """Return the text before a border, the border, and the rest."""
    if found is None:
        return text[:hold], "", text[hold:]
    match = found[1]
    return text[: match.start()], match.group(), text[match.end() :]


def _kind(field: ResponseTemplateField | None) -> Kind:
    thinks = field is not None and field.name in reasoning.FIELDS
    return "reasoning_content" if thinks else "content"


def _refuse_rest(body: str, pattern: str) -> None:
    rest = re.sub(pattern, "", body, flags=re.DOTALL)
    if not _BETWEEN.fullmatch(rest):
        raise ValueError("a call has more than arguments")


def _flat(found: Any) -> list[Any]:
    if isinstance(found, list):
        return [each for part in found for each in _flat(part)]
    return [] if found is None else [found]


def _checked(call: Any, tools: Sequence[Any]) -> dict[str, str]:
    """Return a call's name and arguments, as clients take them.

    Raises:
        ValueError, TypeError, KeyError: it has no name, its arguments are not an object, or not
            those of a tool that is strict.
    """
    function = call["function"]
    name, given = function["name"], function.get("arguments")
    if isinstance(given, str):
        given = json.loads(given)
    given = {} if given is None else given
    if not isinstance(name, str) or not name.strip() or not isinstance(given, dict):
        raise ValueError("no call")
    if not strict.asked(tools, name.strip(), given):
        raise ValueError("arguments that the schema does not allow")
    arguments = json.dumps(given, ensure_ascii=False, allow_nan=False)
    return {"name": name.strip(), "arguments": arguments}
