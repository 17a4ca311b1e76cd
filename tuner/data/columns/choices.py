"""Questions with options: the options as a row has them, and which of them its answer means.

Options are a list, a mapping, a text with a letter before each, or columns of their own. An answer
is an option's name or letter, its text, or its number, counted from 0 or from 1: the rows say which
of these it is. Several answers are a list, or letters in one text: `AC`, `A, C`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.columns.evidence import MOST
from tuner.data.fields.options import MARKED, ascii_letter, named, parsed, plain_text, unmarked
from tuner.data.fields.values import written
from tuner.data.templates.template import AUTO, load_template

_LETTER = re.compile(r"[(\[（【]?\s*([A-Za-zＡ-Ｚ])\s*[)\]）】.:：、．,]*\Z")
# Templates for one right option and for several.
_ONE, _MANY = ("multiple_choice", "multiple_choice_zh"), ("multiple_answers", "multiple_answers_zh")
_TWINS = dict(zip((*_ONE, *_MANY), (*_MANY, *_ONE), strict=True))
# Several letters, or several numbers.
_SEVERAL = re.compile(
    r"[A-ZＡ-Ｚ](?:\s*[,，、;；/|&\s]?\s*[A-ZＡ-Ｚ])+|\d+(?:\s*[,，、;；/|]\s*\d+)+"
)
_EACH = re.compile(r"[A-ZＡ-Ｚ]|\d+")


@dataclass(frozen=True)
class Option:
    """One of the options of a row.

    Attributes:
        name: what the file calls it; empty if it has no name.
        letter: what the prompt calls it.
        text: what it says.
        place: from 0, options counted that are empty.
    """

    name: str
    letter: str
    text: str
    place: int


Way = Callable[[Sequence[Option], str], Option | None]


@dataclass
class Choices:
    """Reads the options and answers of the rows of a file.

    Args:
        options: the file's column with all options of a row; None if each has a column.
        each: the file's columns with one option each.
        answer: the file's column with the answer.

    Attributes:
        way: what an answer is: a name, letter, text, `from 0` or `from 1`; see `learn`.
        unsure: answers are numbers, and no row shows whether options count from 0 or from 1.
        several: more than a few rows have several right options.
        known: rows whose answers are among their options.
    """

    options: str | None
    each: tuple[str, ...]
    answer: str
    way: str = "letter"
    unsure: bool = field(default=False)
    several: bool = field(default=False)
    known: int = field(default=0)

    def learn(self, rows: Iterable[Mapping[str, Any]]) -> Choices:
        """See from the values of rows what their answers are: what most of them can be."""
        counts: Counter[str] = Counter()
        many = 0
        for values in rows:
            with suppress(BadRow):
                options = self.options_of(values)
                answers = _answers(options, values.get(self.answer))
                ways = [n for n, way in _WAYS.items() if all(way(options, a) for a in answers)]
                counts.update(ways)
                self.known += bool(ways)
                many += len(answers) > 1
        self.several = many > (1 - MOST) * self.known
        if counts:
            self.way = max(_WAYS, key=lambda name: counts[name])
        self.unsure = self.way == "from 0" and counts["from 0"] == counts["from 1"]
        return self

    def options_of(self, values: Mapping[str, Any]) -> list[Option]:
        """Return the options of a row, without those that are empty.

        Raises:
            BadRow: there are fewer than two, or more than letters, or they cannot be read.
        """
        if self.options is not None:
            found = list(named(values.get(self.options), self.options))
        else:
            alike = takewhile(lambda letters: len({*letters}) == 1, zip(*self.each, strict=False))
            start = sum(1 for _ in alike)
            found = [(name[start:], plain_text(values.get(name), name)) for name in self.each]
        if len(found) > len(ascii_uppercase):
            raise BadRow(f"there are {len(found)} options, more than letters")
        found = unmarked(found)
        names = [name.upper() for name, _ in found]
        own = all(len(name) == 1 and name in ascii_uppercase for name in names)
        letters = names if own and len({*names}) == len(names) else ascii_uppercase
        options = [
            Option(name, letter, text, place)
            for place, ((name, text), letter) in enumerate(zip(found, letters, strict=False))
            if text.strip()
        ]
        if len(options) < 2:
            raise BadRow("there are fewer than two options")
        return options

    def letter_of(
        self, options: Sequence[Option], values: Mapping[str, Any], several: bool = False
    ) -> str:
        """Return the letter of a row's answer, or the letters if it may have several.

        Raises:
            BadRow: it is none of the options, or several.
        """
        answers = _answers(options, values.get(self.answer))
        if len(answers) > 1 and not several:
            raise BadRow(
                "an answer names several options: a question must have one (for several, "
                "data.template: multiple_answers, or multiple_answers_zh)"
            )
        found = [_WAYS[self.way](options, answer) for answer in answers]
        if found and None not in found:
            right = {option.letter for option in found if option}
            return "".join(option.letter for option in options if option.letter in right)
        how = {"from 0": ", counted from 0", "from 1": ", counted from 1"}.get(self.way, "")
        raise BadRow(f"the answer in '{self.answer}' is none of the options of its row{how}")

    def first(self, values: Mapping[str, Any]) -> str:
        """Return an answer that means the first option of a row."""
        option = self.options_of(values)[0]
        numbers = {"from 0": option.place, "from 1": option.place + 1}
        said = {"name": option.name, "letter": option.letter, "text": option.text}
        return said.get(self.way) or str(numbers[self.way])


def choosing(fit: Any, rows: Iterable[Mapping[str, Any]]) -> Any:
    """Return a fit with what reads the options of these rows, if its template has some."""
    choice = fit.template.choice
    if choice is None:
        return fit
    each = tuple(fit.columns[name] for name in choice.each if name in fit.columns)
    found = Choices(fit.columns.get(choice.options), each, fit.columns[choice.answer])
    return replace(fit, choices=found.learn(rows))


def settle(fits: Iterable[Any]) -> None:
    """Let files that do not show from where their answers count follow those that do.

    Args:
        fits: of the files; what reads their options is in `choices`.
    """
    each = [fit.choices for fit in fits if fit.choices]
    known = {one.way for one in each if one.way in ("from 0", "from 1") and not one.unsure}
    for one in each:
        if one.unsure and len(known) == 1:
            (one.way,) = known
            one.unsure = False


def as_trained(train: Sequence[Any], held: Sequence[Any]) -> None:
    """Let held-out files ask as the training files do: for one right option, or for several.

    Args:
        train: the sources of training rows, their formats found.
        held: those of held-out rows; one whose format nobody named gets its twin.
    """
    known = {source.fit.template.name for source in train if source.rows}
    for source in held:
        name = source.fit.template.name if source.rows else ""
        twin = _TWINS.get(name, "")
        if twin in known and name not in known and source.data.template == AUTO:
            source.fit = replace(source.fit, template=load_template(twin, Path()))


def unsure(fits: Iterable[Any]) -> list[str]:
    """Return the columns of answers that may count from 0 or from 1."""
    return [fit.choices.answer for fit in fits if fit.choices and fit.choices.unsure]


def _answers(options: Sequence[Option], value: Any) -> list[str]:
    """The answers in a value as texts; a number that a table holds as 2.0 is 2."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        value = parsed(value)
    if isinstance(value, list):
        return [_answer(each) for each in value]
    answer = _answer(value)
    if _SEVERAL.fullmatch(answer) and not any(way(options, answer) for way in _WAYS.values()):
        return _EACH.findall(answer)
    return [answer]


def _answer(value: Any) -> str:
    if isinstance(value, list | dict):
        raise BadRow("an answer is neither text nor a number")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return written(value).strip()


def _folded(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".。")


def _by_name(options: Sequence[Option], answer: str) -> Option | None:
    said = answer.casefold()
    return next((each for each in options if each.name and each.name.casefold() == said), None)


def _by_letter(options: Sequence[Option], answer: str) -> Option | None:
    if not (found := _LETTER.match(answer)):
        return None
    return next((each for each in options if each.letter == ascii_letter(found[1])), None)


def _by_text(options: Sequence[Option], answer: str) -> Option | None:
    """The option that says this, perhaps with its letter in front."""
    for said in (answer, MARKED.sub("", answer, count=1)):
        same = [each for each in options if _folded(each.text) == _folded(said)]
        if len(same) == 1:
            return same[0]
    return None


def _by_number(first: int) -> Way:
    def find(options: Sequence[Option], answer: str) -> Option | None:
        if not (answer.isascii() and answer.isdigit()):
            return None
        return next((each for each in options if each.place == int(answer) - first), None)

    return find


# In this order where rows can be read in several ways.
_WAYS: dict[str, Way] = {
    "name": _by_name,
    "letter": _by_letter,
    "text": _by_text,
    "from 0": _by_number(0),
    "from 1": _by_number(1),
}
