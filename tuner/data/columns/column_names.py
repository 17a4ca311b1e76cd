"""Which column of a file is which column of a template: by its names, and by what it holds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tuner.data.columns.evidence import FEW, MOST, Evidence
from tuner.data.templates.template import Template, variables
from tuner.schema.suggest import plain

# What a column of turns holds where its template does not say so. A few odd values are bad rows.
DEFAULT = ("text", "number", "boolean", "turns")
_HALF = 0.5
_REASONING = re.compile("cot|reason|think|thought|rationale|explanation|思考|思维|推理|解析")


def suits(template: Template, name: str, column: str, evidence: Evidence) -> bool:
    """Return whether a column of the file holds what a template's column must hold.

    A label under its own name is one even if it does not repeat.
    """
    kinds = template.columns.contents.get(name, ())
    if "label" in kinds and plain(name) == plain(column):
        kinds = ()
    if kinds and name in template.columns.required and not evidence.values(column):
        # Nothing shows that it holds what no other template expects.
        return "text" in kinds
    if kinds:
        return evidence.holds(column, kinds, MOST)
    return name not in _written(template) or evidence.holds(column, DEFAULT, _HALF)


def _written(template: Template) -> set[str]:
    """The template's columns that become text."""
    turns = [turn.content or "" for turn in template.turns]
    names = set().union(*(variables(each) for each in [*turns, template.text or ""]))
    return names | ({template.cloze.text, template.cloze.label} if template.cloze else set())


def called(template: Template, alias: Mapping[str, str], name: str) -> list[str]:
    """Return the names of a template's column, the best first."""
    others = [names[name] for names in template.columns.aliases if name in names]
    own = alias.get(name, name)
    return list(dict.fromkeys([own, name, *others, *template.columns.other_names.get(name, ())]))


def by_other_names(
    template: Template,
    alias: Mapping[str, str],
    used: Mapping[str, str],
    open_names: Sequence[str],
    evidence: Evidence,
) -> dict[str, str]:
    """Return the columns of the file for template columns that are not found under their own name.

    Args:
        template: whose columns these are.
        alias: its names for several columns at once.
        used: the columns that are found: the template's name and the file's.
        open_names: the template's names to look for; required ones come first.
        evidence: the file's columns and what they hold.
    """
    found: dict[str, str] = {}
    free = {plain(each): each for each in reversed(evidence.columns) if each not in used.values()}
    for name in open_names:
        for other in called(template, alias, name):
            column = free.get(plain(other))
            if column is None or not suits(template, name, column, evidence):
                continue
            if evidence.values(column) or not _must_say(template, name, evidence):
                found[name] = column
                del free[plain(column)]
                break
    return found


def _must_say(template: Template, name: str, evidence: Evidence) -> bool:
    """Whether a column that is blank in every row is not the one that the template needs."""
    needed = name in template.columns.required and name not in template.columns.blank
    return needed and any(evidence.values(each) for each in evidence.columns)


def distance(template: Template, columns: Mapping[str, str]) -> int:
    """Return how far the file's names are from the template's own; 0 if all are its own."""
    total = 0
    for name, column in columns.items():
        aliases = {names[name] for names in template.columns.aliases if name in names}
        if column == name or column in aliases:
            continue
        others = [plain(each) for each in called(template, {}, name)]
        total += 1 + (others.index(plain(column)) if plain(column) in others else len(others))
    return total


def truthful(template: Template, columns: Mapping[str, str], evidence: Evidence) -> bool:
    """Return whether the answers of a template for yes and no are that; others are."""
    truths = columns.get(template.label or "") if template.booleans else None
    return truths is None or evidence.holds(truths, ("boolean",))


def narrow(template: Template, columns: Mapping[str, str], evidence: Evidence) -> int:
    """Return how many of the columns hold what the template expects, if that is not any text. Few
    short answers are no labels."""
    total = 0
    for name, column in columns.items():
        kinds, count = template.columns.contents.get(name, ()), len(evidence.values(column))
        few = "label" in kinds and count < FEW and plain(name) != plain(column)
        total += bool(kinds and count and not few and not {"text", "number"} <= {*kinds})
    return total


def called_reasoning(column: str) -> bool:
    """Return whether a column's name says that it holds reasoning."""
    return bool(_REASONING.search(plain(column)))
