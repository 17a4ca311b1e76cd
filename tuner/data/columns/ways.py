"""Ways to read a source, as lines of a recipe that can be pasted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tuner.data.reading.table_guess import abbreviated
from tuner.data.templates.template import Template
from tuner.errors import DataError
from tuner.recipe.schema_source import SourceSection
from tuner.schema import strict_yaml

MOST = 3
# No column is called like a sentence.
_NO_NAME, _ENDS, _WORDS = 40, (".", "?", ":", "。", "？"), 5
# Keys that only one of the sources can have.
OF_SOURCES = frozenset(("encoding", "separator", "header", "quotes", "where"))


class Unsure(DataError):
    """How a source is to be read cannot be seen; `ways` are those in question."""

    ways: Sequence[Alternative] = ()


@dataclass(frozen=True)
class Alternative:
    """A way to read a source.

    Attributes:
        template: the data template.
        columns: the recipe's `columns`: the template's name and the file's, and what is left out.
        read: how many of the task's columns it reads.
        keys: further keys of the data section.
        called: what the rows are taken for, if it is not what the template says.
    """

    template: Template
    columns: Mapping[str, str]
    read: int
    keys: Mapping[str, str | int] = field(default_factory=dict)
    called: str = ""

    @property
    def task(self) -> str:
        """What the rows are taken for."""
        return self.called or self.template.task or self.template.name.replace("_", " ")

    def line(self, given: Mapping[str, str]) -> str:
        """Return it as a line of a recipe; see `recipe_line`."""
        return recipe_line({**given, "template": self.template.name, **self.keys}, self.columns)


@dataclass(frozen=True)
class Line:
    """A way to read a source that is more than a template: a line of a recipe.

    Attributes:
        task: what it does.
        recipe: the line.
        compares: whether it compares answers, which a reward model learns.
    """

    task: str
    recipe: str
    compares: bool = False

    def line(self, given: Mapping[str, str]) -> str:
        """Return it as a line of a recipe; `given` is in it."""
        return self.recipe


def recipe_line(keys: Mapping[str, str | int], columns: Mapping[str, str]) -> str:
    """Return a line of a recipe that reads a file.

    Args:
        keys: the file by its key (train, eval or, as one of several, source), then others.
        columns: the recipe's `columns`.
    """
    (key, file), *others = keys.items()
    parts = [f"{name}: {value if name == 'where' else flow(value)}" for name, value in others]
    if columns:
        pairs = ", ".join(f"{flow(name)}: {flow(value)}" for name, value in columns.items())
        parts.append(f"columns: {{{pairs}}}")
    if key == "source":
        return f"- {{{', '.join([f'source: {flow(file)}', *parts])}}}"
    if OF_SOURCES & {*keys}:
        return f"data: {{{key}: {{{', '.join([f'source: {flow(file)}', *parts])}}}}}"
    return f"data: {{{', '.join([f'{key}: {flow(file)}', *parts])}}}"


def flow(text: str | int) -> str:
    """Return a text, a name or a label, or a number, as a line of a recipe has it."""
    if isinstance(text, int):
        return str(text)
    return text if text in ("true", "false") else strict_yaml.flow(text)


def given_keys(item: SourceSection, key: str, count: int) -> dict[str, str]:
    """Return the keys by which a recipe names a source and says how its file is read.

    Args:
        item: the source.
        key: `data.train` or `data.eval`.
        count: how many sources the key has.
    """
    named = "source" if count > 1 else key.removeprefix("data.")
    keys = {name: getattr(item, name) for name in sorted(OF_SOURCES - {"where"})}
    said = {n: str(each).lower() if each in (True, False) else each for n, each in keys.items()}
    where = {"where": where_line(item.where)} if item.where else {}
    return {
        named: item.source,
        **{n: each for n, each in said.items() if each is not None},
        **where,
    }


def written_keys(item: SourceSection) -> dict[str, str]:
    """Return the keys that say how a source's file is read, as a recipe writes them."""
    _, *keys = given_keys(item, "", 1).items()
    return {name: each if name == "where" else flow(each) for name, each in keys}


def where_line(where: Mapping[str, Sequence[str]]) -> str:
    """Return the values that a source's rows must have one of, as a recipe writes them."""
    pairs = []
    for name, values in where.items():
        each = [flow(value) for value in values]
        pairs.append(f"{flow(name)}: {each[0] if len(each) == 1 else '[' + ', '.join(each) + ']'}")
    return f"{{{', '.join(pairs)}}}"


def without_header(path: Path, columns: Sequence[str], given: Mapping[str, str]) -> list[str]:
    """Return lines for an error about a table whose first row reads like a row, not like names;
    none for other files, and where the recipe says whether there is a header."""
    table = path.suffix.lower() in (".csv", ".tsv") and "header" not in given
    if not table or not any(map(_is_sentence, columns)):
        return []
    line = recipe_line({**given, "header": "false"}, {})
    return ["if the first row is no header:", f"    {line}"]


def _is_sentence(name: str) -> bool:
    """Whether no column is called so; "Is it enforceable?" may well be the name of one."""
    asks = name.endswith(("?", "？")) and len(name.split()) <= _WORDS and len(name) < _NO_NAME
    named = asks or abbreviated(name)
    return not named and (len(name) >= _NO_NAME or name.endswith(_ENDS))


def shown(ways: Sequence[Alternative], given: Mapping[str, str]) -> list[str]:
    """Return lines for an error: what each way takes the rows for, and its line of recipe."""
    lines: list[str] = []
    if "source" in given:
        # A source of several has no such key.
        ways = [way for way in ways if "reasoning_column" not in way.keys]
    for way in ways[:MOST]:
        lines += [f"  {way.task}:", f"    {way.line(given)}"]
    return lines
