"""Ways to read a source, as lines of a recipe that can be pasted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner.data.reading.table_guess import abbreviated
from tuner.data.templates.template import Template
from tuner.errors import DataError
from tuner.recipe.schema import DataSection
from tuner.recipe.schema_source import SourceSection
from tuner.schema import strict_yaml

MOST = 3
# No column is called like a sentence.
_NO_NAME, _ENDS, _WORDS = 40, (".", "?", ":", "。", "？"), 5
# Keys that only one of the sources can have.
OF_SOURCES = frozenset(("encoding", "separator", "header", "quotes", "where"))
# How the keys begin that a recipe has, and that a line has as well: the file of the other split.
KEPT = "+"
_ALSO = ("labels", "label_names", "reasoning_column", "max_bad_rows", "instruction", "system")


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
        head: whether only a classification head learns it.
    """

    task: str
    recipe: str
    compares: bool = False
    head: bool = False

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
    own = {name: value for name, value in others if not name.startswith(KEPT)}
    written = {n: str(each) if n == "where" else flow(each) for n, each in own.items()}
    if columns:
        pairs = ", ".join(f"{flow(name)}: {flow(value)}" for name, value in columns.items())
        written["columns"] = f"{{{pairs}}}"
    if key == "source":
        return f"- {{{_pairs({'source': flow(file), **written})}}}"
    kept = {n[1:]: str(each) for n, each in others if n.startswith(KEPT) and n[1:] not in written}
    # Held-out rows of another file are read in the same way.
    inner = (
        OF_SOURCES if key == "train" and "eval" in kept else OF_SOURCES | {"template", "columns"}
    )
    if OF_SOURCES & {*written}:
        source = {name: each for name, each in written.items() if name in inner}
        first = f"{{{_pairs({'source': flow(file), **source})}}}"
        written = {name: each for name, each in written.items() if name not in inner}
    else:
        first = flow(file)
    return f"data: {{{_pairs({key: first, **written, **kept})}}}"


def _pairs(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items())


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


def kept_keys(data: DataSection, key: str) -> dict[str, str]:
    """Return the keys that a line which reads a file in another way has from the recipe, written:
    the files of the other split, and what rows become; each begins with `KEPT`.

    Args:
        data: the recipe's data section.
        key: `data.train` or `data.eval`, which names the file.
    """
    found = {n: getattr(data, n) for n in _ALSO if n in data.model_fields_set}
    if found.get("labels") == ("auto",):
        found["labels"] = "auto"
    files = [each if isinstance(each, str) else _of(each) for each in data.train]
    if key == "data.eval":
        found["train"] = files if len(files) > 1 else files[0]
    elif data.eval_file is not None:
        held = data.eval_file
        found["eval"] = held if isinstance(held, str) else _of(held)
    elif "eval" in data.model_fields_set and data.eval:
        found["eval"] = data.eval
    return {f"{KEPT}{name}": strict_yaml.flow(each) for name, each in found.items()}


def _of(source: SourceSection) -> dict[str, Any]:
    return source.model_dump(exclude_none=True)


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
