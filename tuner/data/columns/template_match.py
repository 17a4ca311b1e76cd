"""Which template or format fits the columns of the data, and which column is which."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from tuner.data.bad_rows import BadRow, refuse_unreadable
from tuner.data.columns import accounting
from tuner.data.columns.choices import Choices, choosing
from tuner.data.columns.column_names import by_other_names, distance, narrow, suits, truthful
from tuner.data.columns.evidence import Evidence
from tuner.data.reading.read import Row
from tuner.data.templates.template import AUTO, Template, all_templates, load_template
from tuner.errors import DataError, RecipeError
from tuner.recipe.schema import DataSection

NONE = "none"
# A template, or a format of preference data.
Kind = TypeVar("Kind", bound=Any)


@dataclass(frozen=True)
class Fit(Generic[Kind]):
    """A template or format and, for each of its columns that the data has, the data's name.

    `spoken` are columns of the template that hold turns in place of a text; `choices` reads the
    options of a template that has some.
    """

    template: Kind
    columns: Mapping[str, str]
    origin: str
    spoken: frozenset[str] = frozenset()
    choices: Choices | None = None

    @property
    def used(self) -> frozenset[str]:
        """The data's columns that are read."""
        return frozenset(self.columns.values())

    def value(self, row: Row, name: str) -> Any:
        """Return the row's value of one of the columns; None if it has none.

        Raises:
            BadRow: it could not be read.
        """
        if (file_name := self.columns.get(name)) is None:
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


class SeveralFit(DataError):
    """Several templates read these columns; `fits` says how."""

    fits: Sequence[Fit[Any]] = ()


def only(fits: Sequence[Fit[Kind]], kind: str) -> Fit[Kind] | None:
    """Return the one that fits; None if none does.

    Raises:
        DataError: several do.
    """
    if len(fits) > 1:
        error = SeveralFit(
            f"the columns fit more than one {kind}",
            fix="name the one you mean: data.template (and data.columns)",
            problems=[f"{fit.template.name}: {', '.join(sorted(fit.used))}" for fit in fits],
        )
        error.fits = fits
        raise error
    return fits[0] if fits else None


def choose(
    data: DataSection,
    present: Iterable[str],
    folder: Path,
    accept: Callable[[Fit[Template]], bool] | None = None,
    evidence: Evidence | None = None,
) -> Fit[Template]:
    """Find the template for these columns; a named one is only fitted to them.

    A template that leaves fewer columns of the task unread wins; of those that read the same ones,
    the one that expects most of what they hold, then the one for the language of the rows, then
    the one whose own names they have.

    Args:
        data: `template` and `columns` are read.
        present: the columns.
        folder: where a template's file is looked up first.
        accept: says of a fitting template whether the rows agree with it; by default, those of a
            conversation must be in the column of its own name.
        evidence: what the columns hold; by default, only their names say something.

    Raises:
        DataError: no template fits, or several do.
        RecipeError: `data.columns` names something that does not exist.
    """
    found = [name for name in present if name not in left_out(data.columns)]
    named = data.template != AUTO
    templates = [load_template(data.template, folder)] if named else list(all_templates())
    known = {name for each in templates for name in each.columns.names}
    check_renames(data.columns, known, list(present))
    seen = Evidence(
        [{name: row.get(name) for name in found} for row in evidence.rows]
        if evidence
        else [dict.fromkeys(found)]
    )
    fits = [fit for each in templates for fit in _fits(each, data.columns, seen, named)]
    if not named:
        fits = [fit for fit in fits if _may_be_chosen(fit, seen)]
        fits = [fit for fit in fits if (accept or partial(_by_name, data))(fit)]
        fits = _best(fits, data, seen)
    if fit := only(fits, "data template"):
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


def left_out(renames: Mapping[str, str]) -> frozenset[str]:
    """Return the columns of the file that the recipe leaves out: `columns: {hints: none}`."""
    return frozenset(name for name, file in renames.items() if file == NONE) - {*renames.values()}


def _fits(
    template: Template, renames: Mapping[str, str], seen: Evidence, named: bool
) -> list[Fit[Template]]:
    """How a template fits. One that the recipe names gets its required columns alone by what
    else they may be called, and only if the names that are exactly its own do not fit."""
    fits: dict[frozenset[tuple[str, str]], Fit[Template]] = {}
    names = template.needed if named else template.columns.names
    for exact in (True, False) if named else (False,):
        for alias in ({}, *template.columns.aliases):
            used = _exactly(template, alias, renames, seen, named)
            if not exact:
                missing = [name for name in names if name not in used and name not in renames]
                used |= by_other_names(template, alias, used, missing, seen)
            if not template.complete(used):
                continue
            used = {name: used[name] for name in template.columns.names if name in used}
            origin = "recipe" if named else f"columns {', '.join(used.values())}"
            fit = choosing(Fit(template, used, origin), seen.rows)
            fits.setdefault(frozenset(used.items()), fit)
            if named and (template.conversation or not exact):
                # The column's own name comes before others that it may have.
                break
        if fits:
            break
    return list(fits.values())


def _exactly(
    template: Template,
    alias: Mapping[str, str],
    renames: Mapping[str, str],
    seen: Evidence,
    named: bool,
) -> dict[str, str]:
    """The template's columns that the file has under these names; unless the template is named or
    the recipe names the column, those that also hold what they must."""
    mapping = {name: renames.get(name, alias.get(name, name)) for name in template.columns.names}
    return {
        name: file
        for name, file in mapping.items()
        if file in seen.columns and (named or name in renames or suits(template, name, file, seen))
    }


def _may_be_chosen(fit: Fit[Template], seen: Evidence) -> bool:
    """Whether a template may be chosen without being named: one that shares another's columns, by
    its aliases; one for a language, by the rows' or these; one for some answers, by the rows."""
    language, choice = fit.template.language, fit.template.choice
    other = choice and fit.choices and choice.several != fit.choices.several
    if other or not truthful(fit.template, fit.columns, seen):
        return False
    if not fit.template.by_columns or (language == "zh" and seen.language != "zh"):
        return _aliased(fit)
    return not (language == "en" and seen.language == "zh")


def _best(fits: list[Fit[Template]], data: DataSection, seen: Evidence) -> list[Fit[Template]]:
    """The fits that read what the recipe's `columns` names and leave fewest columns of the task
    unread; of each set of columns, one."""
    wanted = {name for name, file in data.columns.items() if file not in (NONE, name)}
    fits = [fit for fit in fits if wanted <= {*fit.columns}]
    fits = [fit for fit in fits if not any(fit.used < other.used for other in fits)]
    left = [len(accounting.unread(seen, fit.used)[0]) for fit in fits]
    best: dict[frozenset[str], list[tuple[tuple[int, bool, int], Fit[Template]]]] = {}
    for fit, count in zip(fits, left, strict=True):
        if count == min(left):
            key = (
                -narrow(fit.template, fit.columns, seen),
                fit.template.language is None or fit.template.language != seen.language,
                distance(fit.template, fit.columns),
            )
            best.setdefault(fit.used, []).append((key, fit))
    return [
        fit for each in best.values() for key, fit in each if key == min(key for key, _ in each)
    ]


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
        if name not in known and not (file_name == NONE and name in found):
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
