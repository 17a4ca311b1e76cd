"""The keys of a recipe that name something on disk, as the schema marks them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tuner.recipe.schema import models_in
from tuner.schema.fields import Names, Section


@dataclass(frozen=True)
class Named:
    """A text of a recipe that may name something on disk.

    Attributes:
        key: section, key, and the place in a list.
        kind: as `Names.kind`.
        text: as the recipe has it.
    """

    key: tuple[str | int, ...]
    kind: str
    text: str

    @property
    def path(self) -> Path:
        """The path, without the name of a function."""
        return Path(self.text.rpartition(":")[0] if self.kind == "function" else self.text)

    def map(self, change: Callable[[str], str]) -> str:
        """Return the text with its path changed; the name of a function stays."""
        if self.kind != "function":
            return change(self.text)
        file, colon, name = self.text.rpartition(":")
        return f"{change(file)}{colon}{name}"

    def find(self, folder: Path) -> Path | None:
        """Return the path it names, searched in a folder and then in the current one."""
        path = self.path.expanduser()
        return next((each for each in (folder / path, path) if each.exists()), None)


def named(section: Section, at: tuple[str | int, ...] = ()) -> Iterator[Named]:
    """Yield the texts of a recipe or a section that name something on disk."""
    for name, info in type(section).model_fields.items():
        value, key = getattr(section, name), (*at, name)
        mark = next((each for each in info.metadata if isinstance(each, Names)), None)
        several = enumerate(value) if isinstance(value, list | tuple) else ()
        for number, item in several:
            if isinstance(item, Section):
                yield from named(item, (*key, number))
            elif mark is not None:
                yield Named((*key, number), mark.kind, str(item))
        if mark is not None and isinstance(value, str):
            yield Named(key, mark.kind, value)
        elif isinstance(value, Section):
            yield from named(value, key)


def keys(
    section: type[BaseModel], at: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the keys of a schema that can name something on disk, each with its kind."""
    for name, info in section.model_fields.items():
        mark = next((each for each in info.metadata if isinstance(each, Names)), None)
        if mark is not None:
            yield (*at, name), mark.kind
        for model in models_in(info.annotation):
            yield from keys(model, (*at, name))


def put(values: Any, key: Sequence[str | int], text: str) -> None:
    """Set a text at its key in the values of a dumped recipe."""
    for part in key[:-1]:
        values = values[part]
    values[key[-1]] = text
