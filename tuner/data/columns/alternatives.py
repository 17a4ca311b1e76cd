"""Recipes that would read a source in another way, each tried on its first rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.columns import accounting, label_columns
from tuner.data.columns.choices import choosing
from tuner.data.columns.column_names import called, suits
from tuner.data.columns.evidence import FEW, Evidence
from tuner.data.columns.evidence import MOST as MOST_ROWS
from tuner.data.columns.headings import headed
from tuner.data.columns.label_studio import label_studio
from tuner.data.columns.leaves import aligned, ends_of, leaves, root_of
from tuner.data.columns.nameless import by_position
from tuner.data.columns.template_match import NONE, Fit
from tuner.data.columns.translations import translations
from tuner.data.columns.ways import Alternative
from tuner.data.fields import joined
from tuner.data.fields.addressing import STAR, Paths
from tuner.data.reading.read import Row
from tuner.data.templates.template import Template, all_templates, variables
from tuner.schema.suggest import plain

# Templates that columns of any name may be given to.
_GENERAL = ("classification", "prompt_completion", "qa_with_context", "qa_zh", "instruction")
# What columns may also be called, in a way that is only offered.
_MAY_BE = {
    "question": ("q", "问"),
    "prompt": ("q", "问"),
    "answer": ("a", "答"),
    "completion": ("a", "答"),
    "summary": ("title", "标题"),
    "rationale": (
        *("complex cot", "cot reasoning", "reasoning content", "thinking", "think"),
        *("thought process", "思考过程", "思考", "思维链"),
    ),
    "context": ("text", "content", "文本", "内容"),
}
# What heads a text is no text of its own next to it.
_HEADS = frozenset(("title", "headline", "subject", "heading", "标题"))


def alternatives(evidence: Evidence, keep: Mapping[str, str]) -> list[Alternative]:
    """Return ways to read a source, those that read most of its columns first.

    A column is taken by its names or, where none is left, by what it holds. The paths into lists
    and mappings count as columns.

    Args:
        evidence: what the columns hold, with those that are left out taken away.
        keep: the recipe's own `columns`.
    """
    language, rows = evidence.language, evidence.rows[:50]
    if tasks := [way for way in label_studio(evidence) if _readable(way, rows)]:
        return tasks
    together = aligned(rows)
    whole = Evidence([{**row, **leaves(row, together)} for row in rows])
    found = [
        each
        for template in all_templates()
        if template.by_columns and template.language in (None, language or "en")
        if (each := _way(template, whole, evidence, keep)) is not None
        and _readable(each, rows)
        and label_columns.tells(whole, each)
    ]
    best: dict[tuple[str, ...], Alternative] = {}
    for way in sorted(found, key=_order):
        # Of several that read the same columns as the same task, one.
        best.setdefault((way.template.task or way.template.name,), way)
    return [*translations(whole), *_by_label([*best.values()], whole, evidence, keep)] or [
        each for each in _last_resort(evidence) if _readable(each, rows)
    ]


def _last_resort(evidence: Evidence) -> list[Alternative]:
    """The longest texts that there are, as plain text."""
    whole = Evidence([{**row, **leaves(row, (), every=True)} for row in evidence.rows[:50]])
    texts = {name: whole.texts(name) for name in whole.columns if whole.holds(name, ("text",))}
    names = {name: each for name, each in texts.items() if each and not accounting.identify(each)}
    lengths = {name: sum(map(len, each)) for name, each in names.items()}
    if not lengths:
        return []
    longest = max(lengths, key=lambda name: lengths[name])
    task = _task(evidence)
    left = {name: NONE for name in task if name != root_of(longest, evidence.columns)}
    template = next(each for each in all_templates() if each.name == "text")
    return [Alternative(template, {"text": longest, **left}, 1)]


def _task(evidence: Evidence) -> list[str]:
    """The columns that look like part of the task, or may hold classes."""
    looks = (accounting.of_task, accounting.may_label)
    return [name for name in evidence.columns if any(look(evidence, name) for look in looks)]


def _by_label(
    ways: list[Alternative], whole: Evidence, evidence: Evidence, keep: Mapping[str, str]
) -> list[Alternative]:
    """The ways with, behind that of classification, one for each other column that may be the
    label; without those that take one of these for the answer and drop the label."""
    first = next((way for way in ways if way.template.name == "classification"), None)
    if first is None or "label" in keep:
        return ways
    label = first.columns.get("label", "label")
    free = label_columns.free(evidence, _task(evidence), _HEADS)
    others = label_columns.others(evidence, free, label)
    found = [each for each in ways if not label_columns.dropped(each, label, others)]
    place = found.index(first) + 1
    for name in others:
        way = _way(first.template, whole, evidence, {**keep, "label": name})
        if way is not None:
            found.insert(place, label_columns.as_other(way, label))
            place += 1
    return found


def _readable(way: Alternative, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether its paths go through the rows, and its answers are among the options."""
    paths, bad = Paths([file for file in way.columns.values() if file != NONE]), 0
    read: list[Mapping[str, Any]] = []
    for values in rows:
        try:
            read += [each.values for each in paths.spread(Row(Path(), 1, dict(values)))]
        except BadRow:
            bad += 1
    if bad > (1 - MOST_ROWS) * len(rows) or paths.missed:
        return False
    choice, names = way.template.choice, way.template.columns.names
    if choice is None:
        return True
    known = {name for values in read for name in values}
    columns = {n: file for n in names if (file := way.columns.get(n, n)) in known}
    found = choosing(Fit(way.template, columns, ""), read).choices
    return bool(found.several == choice.several and found.known >= MOST_ROWS * len(read))


def _names(template: Template, name: str) -> list[str]:
    """What a template's column is called, and may also be called."""
    return [*called(template, {}, name), *_MAY_BE.get(name, ())]


def _order(way: Alternative) -> tuple[bool, int, int, int]:
    """Questions whose answers are among their options come first; see `_readable`."""
    guessed = sum(
        file != NONE and ends_of(file, ()).isdisjoint(map(plain, _names(way.template, name)))
        for name, file in way.columns.items()
    )
    name = way.template.name
    guessed -= way.template.language == "zh"
    general = _GENERAL.index(name) if name in _GENERAL else len(_GENERAL)
    return (way.template.choice is None, -way.read, guessed, general)


def _way(
    template: Template, whole: Evidence, evidence: Evidence, keep: Mapping[str, str]
) -> Alternative | None:
    used = {name: file for name, file in keep.items() if name in template.columns.names}
    for name in template.columns.names:
        if name in used or (template.conversation and name == template.conversation.column):
            continue
        column = _named(template, name, whole, (evidence.columns, used.values()))
        if column is not None:
            used[name] = column
    task = _task(evidence)
    used = used or by_position(template, evidence)
    if template.name in _GENERAL:
        labels = template.label is not None
        free = label_columns.free(evidence, task, _HEADS) if labels else task
        free = sorted(free, key=lambda name: label_columns.late(evidence, name, labels))
        _guess(template, whole, (evidence.columns, free), used)
    if not template.complete(used):
        return None
    if template.name == "classification" and "text" not in keep:
        known = frozenset(map(plain, called(template, {}, "label")))
        label_columns.join(evidence, [name for name in task if plain(name) not in known], used)
    heads = [n for n in task if plain(n) in _HEADS and n not in used.values()]
    used |= headed(evidence, heads, used)
    read = {name: joined.parts(file) or [file] for name, file in used.items()}
    taken = {root_of(file, evidence.columns) for files in read.values() for file in files}
    own = {name: used[name] for name in template.columns.names if name in used}
    columns = {name: file for name, file in own.items() if name != file}
    # What is read under another name is not read under its own, too.
    columns |= {n: NONE for n in template.columns.optional if n in taken and n not in own}
    columns |= {name: NONE for name in task if name not in taken and name not in columns}
    return Alternative(template, columns, len({file for name in own for file in read[name]}))


def _guess(
    template: Template,
    whole: Evidence,
    columns: tuple[Sequence[str], Sequence[str]],
    used: dict[str, str],
) -> None:
    """Give the task's columns to those of the template that are still open, in their order."""
    every, task = columns
    open_ones = [name for name in _of_turns(template) if name not in used]
    missing = [name for name in open_ones if name in template.columns.required]
    free = [n for n in task if n not in {root_of(file, every) for file in used.values()}]
    odd = [name for name in free if not accounting.known(name)]
    sure = len(missing) == len(free) == 1 and whole.holds(free[0], ("text",))
    label = template.label is not None and label_columns.one_is_clear(whole, free)
    many = len(missing) > 1 and len(free) > len(missing) and not label
    if missing and not sure and (len(odd) < len(missing) or many):
        # Nobody could say which is which.
        return
    free = [*odd, *(name for name in free if name not in odd)] if missing else free
    # What is inside a list is only taken where something must be, and no column is left for it.
    paths = [path for path in whole.columns if path not in every]
    inside = [(c, path) for c in free for path in paths if root_of(path, every) == c]
    given = set()
    for column, path in [*((column, column) for column in free), *inside]:
        names = open_ones if path == column else [n for n in open_ones if n in missing]
        if plain(path) in _HEADS:
            names = [n for n in names if n not in ("context", *template.answer_columns)]
        names = [n for n in names if not _barred(template, n, path, whole)]
        name = next((n for n in names if suits(template, n, path, whole)), None)
        if column not in given and name is not None and _filled(template, name, path, whole):
            open_ones.remove(name)
            used[name] = path
            given.add(column)


def _barred(template: Template, name: str, column: str, whole: Evidence) -> bool:
    """Whether nothing but its name could make a column this one of a template's: what repeats asks
    nothing, and a remark answers nothing."""
    if name in ("question", "prompt", "instruction"):
        return whole.repeats(column) and len(whole.values(column)) >= FEW
    return name in template.answer_columns and accounting.remarks(column)


def _named(
    template: Template, name: str, whole: Evidence, columns: tuple[Sequence[str], Collection[str]]
) -> str | None:
    """The column, or the path into one, that is called like a template's column and suits it."""
    every, taken = columns
    for other in _names(template, name):
        for column in whole.columns:
            root = root_of(column, every)
            whole_of = column in every and any(root_of(each, every) == column for each in taken)
            if {column, root} & {*taken} or whole_of or not _filled(template, name, column, whole):
                continue
            if plain(other) in ends_of(column, every) and suits(template, name, column, whole):
                return column
    return None


def _filled(template: Template, name: str, column: str, whole: Evidence) -> bool:
    """Whether a column has values; one that the template needs, in nearly every row."""
    count = len(whole.values(column))
    if accounting.identify(whole.values(column)):
        return False
    needed = name in template.columns.required and name not in template.columns.blank
    # Of what is inside of lists, only the first of each row is counted; some rows have none.
    # Nobody has labelled some rows.
    half = name == template.label or {STAR, "0"} & {*column.split(".")}
    share = 0.5 if half else MOST_ROWS
    return count >= share * len(whole.rows) if needed else count > 0


def _of_turns(template: Template) -> list[str]:
    """The template's columns that a question or an answer reads, required ones first."""
    turns = [turn.content or "" for turn in template.turns if turn.role in ("user", "assistant")]
    read: set[str] = set().union(*(variables(each) for each in [*turns, template.text or ""]))
    return [name for name in template.columns.names if name in read]
