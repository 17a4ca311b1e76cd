"""A template that fits a source, as a way to read it, and with one more column of the file."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tuner.data.columns import accounting
from tuner.data.columns.column_names import called_reasoning, suits
from tuner.data.columns.evidence import Evidence
from tuner.data.columns.template_match import NONE, Fit
from tuner.data.columns.ways import Alternative
from tuner.data.templates.template import Template
from tuner.schema.suggest import plain


def as_named(
    fit: Fit[Template], evidence: Evidence, keep: Mapping[str, str] | None = None
) -> Alternative:
    """Return a fit as a recipe that names its template, and leaves out what it does not read.

    Args:
        fit: the template and its columns.
        evidence: what the columns hold.
        keep: the recipe's `columns`.
    """
    columns = {name: file for name, file in fit.columns.items() if name != file}
    left = [name for name in accounting.unread(evidence, fit.used)[0] if name not in columns]
    optional = [name for name in fit.template.columns.optional if name in evidence.columns]
    left += [name for name in optional if name not in fit.used and name not in left]
    gone = {name: file for name, file in (keep or {}).items() if file == NONE}
    return Alternative(fit.template, gone | columns | dict.fromkeys(left, NONE), len(fit.used))


def reasoned(fit: Fit[Template], evidence: Evidence, column: str) -> Alternative | None:
    """Return a fit with a column as the reasoning before its answers; None if it is called
    otherwise, or holds no texts."""
    if not called_reasoning(column) or not evidence.holds(column, ("text",)):
        return None
    way = as_named(fit, evidence)
    columns = {name: file for name, file in way.columns.items() if name != column}
    keys = {"reasoning_column": column}
    return Alternative(fit.template, columns, way.read + 1, keys, f"{way.task} with reasoning")


def before_turns(
    fit: Fit[Template], evidence: Evidence, column: str, gone: Collection[str]
) -> Alternative | None:
    """Return a fit to conversations with a column as the system turn before them, which a list of
    texts or a long text may be; None if it cannot be.

    Args:
        fit: the template and its columns.
        evidence: what the columns hold.
        column: the column.
        gone: columns that the turns repeat, left out.
    """
    conversation = fit.template.conversation
    values = evidence.values(column)
    texts = all(
        isinstance(value, str)
        or (isinstance(value, list) and all(isinstance(each, str) for each in value))
        for value in values
    )
    if conversation is None or conversation.system is None or conversation.system in fit.columns:
        return None
    if not values or not texts or evidence.repeats(column):
        return None
    way = as_named(fit, evidence)
    columns = {n: f for n, f in way.columns.items() if n not in (column, *gone)}
    columns |= {conversation.system: column, **dict.fromkeys(gone, NONE)}
    called = f"{way.task}, with '{column}' before them as a system turn"
    return Alternative(fit.template, columns, way.read + 1, called=called)


def swapped(fit: Fit[Template], evidence: Evidence, column: str) -> Alternative | None:
    """Return a fit with a column in place of the one whose name its own begins with: label_text
    for label; None if there is none."""
    for name, file in fit.columns.items():
        longer = plain(column).startswith(plain(file)) and plain(column) != plain(file)
        if longer and suits(fit.template, name, column, evidence):
            columns = {**fit.columns, name: column}
            renames = {key: value for key, value in columns.items() if key != value}
            # A column of the template that is renamed needs no `none` for the file's of its name.
            if name != file:
                renames[file] = NONE
            return Alternative(fit.template, renames, len(columns))
    return None
