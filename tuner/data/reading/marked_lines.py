"""Text files whose lines say who speaks: `Q: ...`, and on the next line or behind it `A: ...`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from tuner.data.reading.json_rows import BadLine
from tuner.data.reading.lines import decode, lines
from tuner.data.reading.transcripts import NAMES, PARTNERS, ROLES

# Fewer questions and answers may be chance.
_FEW = 2
# Lines of an answer may go on without a mark, but not most of a file.
_LEAST_SHARE = 0.2
# Lines by which it is seen whether they are marked.
_EVIDENCE = 1000
_MARK = rf"({NAMES})[ \t]*\d{{0,4}}[ \t]*(?:\*\*)?[:：](?:\*\*)?"
_FIRST = re.compile(rf"\s*(?:\d{{1,4}}[.、．)）][ \t]*)?(?:\*\*)?{_MARK}", re.IGNORECASE)
_NEXT = re.compile(rf"(?:(?<=[\s/|;；。？?！!])|(?<=[。？！]))(?:\*\*)?{_MARK}", re.IGNORECASE)
# Options with letters are no answers.
_OPTION = re.compile(r"\s*[Bb][ \t]*[.、．:：)）]")
_BETWEEN = " \t/|;；"


@dataclass(frozen=True)
class _Part:
    """What someone says in a line."""

    word: str
    text: str

    @property
    def role(self) -> str:
        return ROLES[self.word]


@dataclass
class Marks:
    """The marks of a text file.

    Attributes:
        words: what the speakers are called, by role, as the first of them is.
        shown: their marks, for messages.
        apart: conversations have an empty line between them; else each question begins one.
    """

    words: dict[str, str]
    shown: Sequence[str]
    apart: bool = field(default=False)


def marks_of(texts: Sequence[str]) -> Marks | None:
    """Return the marks of lines that are questions and answers; None if they are not.

    Args:
        texts: the first lines of a file, with those that are empty.
    """
    said = [text for text in texts if text.strip()]
    first = next(iter(_parts(said[0])), None) if said else None
    if first is None or first.role != "user":
        return None
    partners = PARTNERS.get(first.word)
    found = [part for text in said for part in _parts(text)]
    answers = [p for p in found if p.role == "assistant" and (not partners or p.word in partners)]
    asked = sum(part.word == first.word for part in found)
    marked = sum(bool(_parts(text)) for text in said)
    if min(asked, len(answers)) < _FEW or len(answers) * 2 < asked:
        return None
    if marked < _LEAST_SHARE * len(said) or sum(map(bool, map(_OPTION.match, said))) * 2 > asked:
        return None
    words = {"user": first.word, "assistant": answers[0].word}
    begun = [two for two in pairwise(texts) if _begins(two[1], first.word)]
    empty = any(not before.strip() for before, _ in begun)
    shown = [_as_written(said, word) for word in words.values()]
    return Marks(words, shown, empty and partners is None)


def marks_in(path: Path, encoding: str) -> Marks | None:
    """Return the marks of the lines of a file, if they are questions and answers."""
    texts: list[str] = []
    for _, raw in lines(path, encoding):
        text = decode(raw)
        if isinstance(text, BadLine) or len(texts) == _EVIDENCE:
            break
        texts.append(text)
    return marks_of(texts)


def rows(path: Path, encoding: str) -> Iterator[tuple[int, dict[str, Any] | BadLine]]:
    """Yield the conversations in a file of marked lines, each with the line that it begins in.

    A line without a mark goes on with what the line before it says.
    """
    marks = marks_in(path, encoding)
    assert marks is not None
    turns: list[dict[str, Any]] = []
    start, empty = 0, True
    for number, raw in lines(path, encoding):
        text = decode(raw)
        if isinstance(text, BadLine):
            yield number, text
            continue
        parts = [part for part in _parts(text) if marks.words.get(part.role) == part.word]
        if parts and parts[0].role == "user" and (empty or not marks.apart):
            if turns:
                yield start, {"messages": turns}
            start, turns = number, []
        if text.strip() and not parts and not turns:
            yield number, BadLine(f"no {marks.shown[0]} before it")
        elif text.strip() and not parts:
            last = turns[-1]
            gap = ("\n\n" if empty else "\n") if last["content"] else ""
            last["content"] += gap + text.strip()
        turns += [{"role": part.role, "content": part.text} for part in parts]
        empty = not text.strip()
    if turns:
        yield start, {"messages": turns}


def _parts(text: str) -> list[_Part]:
    """What is said in a line that begins with a mark; a question's answer may be in it, too."""
    found = _FIRST.match(text)
    if found is None:
        return []
    word, rest = found[1].casefold(), text[found.end() :]
    partners = PARTNERS.get(word)
    for mark in _NEXT.finditer(rest) if ROLES[word] == "user" else ():
        other = mark[1].casefold()
        if ROLES[other] == "assistant" and (other in partners if partners else True):
            asked = rest[: mark.start()].strip().rstrip(_BETWEEN)
            return [_Part(word, asked), _Part(other, rest[mark.end() :].strip())]
    return [_Part(word, rest.strip())]


def _begins(text: str, word: str) -> bool:
    return any(part.word == word for part in _parts(text)[:1])


def _as_written(texts: Iterable[str], word: str) -> str:
    """A mark as it is first written."""
    for text in texts:
        for pattern in (_FIRST, _NEXT):
            if (found := pattern.search(text)) and found[1].casefold() == word:
                return f"{found[1]}{'：' if '：' in found[0] else ':'}"
    return f"{word}:"
