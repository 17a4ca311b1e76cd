"""Which template or format fits the columns of the data, and which column is which."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from tuner.data.bad_rows import BadRow, refuse_unreadable
from tuner.data.read import Row
from tuner.data.template import AUTO, Template, all_templates, load_template
from tuner.errors import DataError, RecipeError
from tuner.recipe.schema import DataSection

NONE = "none"


# A template, or a format of preference data; both have a name.
Kind = TypeVar("Kind", bound=Any)


@dataclass(frozen=True)
class Fit(Generic[Kind]):
    """A template or format and, for each of its columns that the data has, the data's name.

    `spoken` are columns of the template that hold turns in place of a text.
    """

    template: Kind
    columns: Mapping[str, str]
    origin: str
    spoken: frozenset[str] = frozenset()

    @property
    def used(self) -> frozenset[str]:
        """The data's columns that are read."""
        return frozenset(self.columns.values())

    def value(self, row: Row, name: str) -> Any:
        """Return the row's value of one of the columns; None if it has none.

        Raises:
            BadRow: it could not be read.
        """
        file_name = self.columns.get(name)
        if file_name is None:
            return None
        value = row.values.get(file_name)
        refuse_unreadable(value, file_name)
        return value

    def required(self, row: Row, name: str) -> Any:
        """Return the row's value of a column that it must have.

        Raises:
            BadRow: it is missing or null, or could not be read.
        """
        value = self.value(row, name)
        if value is None:
            file_name = self.columns.get(name, name)
            problem = "is null" if file_name in row.values else "is missing"
            raise BadRow(f"the column '{file_name}' {problem}")
        return value


class NoTemplateFits(DataError):
    """No data template reads these columns."""


def only(fits: Sequence[Fit[Kind]], kind: str) -> Fit[Kind] | None:
    """Return the one that fits; None if none does.

    Raises:
        DataError: several do.
    """
    if len(fits) > 1:
        raise DataError(
            f"the columns fit more than one {kind}",
            fix="name the one you mean: data.template (and data.columns)",
            problems=[f"{fit.template.name}: {', '.join(sorted(fit.used))}" for fit in fits],
        )
    return fits[0] if fits else None


def choose(
    data: DataSection,
    present: Iterable[str],
    folder: Path,
    accept: Callable[[Fit[Template]], bool] | None = None,
) -> Fit[Template]:
    """Find the template for these columns; a named one is only fitted to them.

    A template that reads more of the columns wins over one that reads a part of the same ones.

    Args:
        data: `template` and `columns` are read.
        present: the columns.
        folder: where a template's file is looked up first.
        accept: says of a fitting template whether the rows agree with it; by default, those of a
            conversation must be in the column of its own name.

    Raises:
        DataError: no template fits, or several do.
        RecipeError: `data.columns` names something that does not exist.
    """
    found = list(present)
    named = data.template != AUTO
    templates = [load_template(data.template, folder)] if named else list(all_templates())
    known = {name for each in templates for name in each.columns.names}
    check_renames(data.columns, known, found)
    fits = [fit for template in templates for fit in _fits(template, data.columns, found, named)]
    if not named:
        # Such a template shares its plain columns with another; its own aliases for them decide.
        accept = accept or partial(_by_name, data)
        fits = [fit for fit in fits if fit.template.by_columns or _aliased(fit)]
        fits = [fit for fit in fits if accept(fit)]
    best = [fit for fit in fits if not any(fit.used < other.used for other in fits)]
    if fit := only(best, "data template"):
        return fit
    raise NoTemplateFits(
        f"the columns do not fit the data template '{templates[0].name}'"
        if named
        else "no data template fits the columns",
        fix="rename columns in the file, map them: data.columns: {template's name: file's name}, "
        "or name a template: tuner templates list",
        problems=[
            f"found: {', '.join(found) or 'no columns'}",
            *(_expected(template, data.columns, found) for template in _nearest(templates, found)),
        ],
    )


def _fits(
    template: Template, renames: Mapping[str, str], found: list[str], named: bool
) -> list[Fit[Template]]:
    fits: dict[frozenset[tuple[str, str]], Fit[Template]] = {}
    for alias in ({}, *template.columns.aliases):
        mapping = {
            name: renames.get(name, alias.get(name, name)) for name in template.columns.names
        }
        if all(mapping[name] in found for name in template.columns.required):
            used = {name: file for name, file in mapping.items() if file in found}
            origin = "recipe" if named else f"columns {', '.join(used.values())}"
            fits.setdefault(frozenset(used.items()), Fit(template, used, origin))
            if template.conversation and named:
                # The column's own name comes before others that it may have.
                break
    return list(fits.values())


def _by_name(data: DataSection, fit: Fit[Template]) -> bool:
    conversation = fit.template.conversation
    if conversation is None or conversation.column in data.columns:
        return True
    return fit.columns[conversation.column] == conversation.column


def _aliased(fit: Fit[Template]) -> bool:
    aliases = [pair for alias in fit.template.columns.aliases for pair in alias.items()]
    return any(pair in aliases for pair in fit.columns.items())


def check_renames(
    renames: Mapping[str, str],
    known: Collection[str],
    found: Sequence[str],
    missing: str = "no template column",
    owner: str = "template",
) -> None:
    """Refuse `data.columns` that names something that does not exist.

    Args:
        renames: the recipe's `data.columns`.
        known: columns that can be renamed.
        found: columns of the data.
        missing: what the message calls an unknown one.
        owner: whose columns the known ones are.

    Raises:
        RecipeError: it renames a column that nothing reads.
        DataError: it renames one to a column that the data does not have.
    """
    for name, file_name in renames.items():
        if name not in known:
            near = get_close_matches(name, known)
            raise RecipeError(
                f"data.columns: {missing} is called '{name}'",
                f"the {owner}'s columns: {', '.join(sorted(known))}",
                f"did you mean {near[0]}?" if near else f"write {{{owner}'s name: file's name}}",
            )
        if file_name not in found and file_name != NONE:
            near = get_close_matches(file_name, found)
            raise DataError(
                f"data.columns: the data has no column '{file_name}'",
                f"found: {', '.join(found)}",
                f"did you mean {near[0]}?" if near else f"use one of them, or {NONE}",
            )


def _nearest(templates: list[Template], found: list[str]) -> list[Template]:
    def missing(template: Template) -> tuple[int, int]:
        near = sum(bool(get_close_matches(n, found)) for n in template.columns.required)
        return -near, len(template.columns.required) - near

    return sorted(templates, key=missing)[:3]


def _expected(template: Template, renames: Mapping[str, str], found: list[str]) -> str:
    hints = []
    for name in template.columns.required:
        near = get_close_matches(name, found)
        if near and renames.get(name, name) not in found:
            hints.append(f"'{near[0]}' is similar to '{name}'")
    hint = f" ({'; '.join(hints)})" if hints else ""
    return f"{template.name} expects: {', '.join(template.columns.required)}{hint}"
