"""Recipes that would read a source in another way, each tried on its first rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from tuner.data import accounting, joined
from tuner.data.column_names import called, suits
from tuner.data.evidence import FEW, Evidence
from tuner.data.evidence import MOST as MOST_ROWS
from tuner.data.nameless import by_position
from tuner.data.template import Template, all_templates, variables
from tuner.data.template_match import NONE, Fit
from tuner.data.ways import Alternative
from tuner.schema.suggest import plain

# Templates that columns of any name may be given to.
_GENERAL = ("classification", "prompt_completion", "instruction", "qa_with_context", "qa_zh")
# What they are called inside lists of mappings.
_SHORT = {"question": "q", "prompt": "q", "answer": "a", "completion": "a"}
# What heads a text is no text of its own next to it.
_HEADS = frozenset(("title", "headline", "subject", "heading", "标题"))
# Columns that say why, or say the label again: a model that reads them need not read the text.
_TELLING = ("label", "rationale", "reason", "explanation", "output", "response", "answer", "target")


def alternatives(evidence: Evidence, keep: Mapping[str, str]) -> list[Alternative]:
    """Return ways to read a source, those that read most of its columns first.

    A column is taken by its names or, where none is left, by what it holds. The paths into lists
    and mappings count as columns.

    Args:
        evidence: what the columns hold, with those that are left out taken away.
        keep: the recipe's own `columns`.
    """
    language = evidence.language
    whole = Evidence([{**row, **_leaves(row)} for row in evidence.rows[:50]])
    found = [
        each
        for template in all_templates()
        if template.by_columns and template.language in (None, language or "en")
        if (each := _way(template, whole, evidence, keep)) is not None and _readable(each)
    ]
    best: dict[tuple[str, ...], Alternative] = {}
    for way in sorted(found, key=_order):
        # Of several that read the same columns as the same task, one.
        best.setdefault((way.template.task or way.template.name,), way)
    return list(best.values()) or list(filter(_readable, _last_resort(whole, evidence)))


def _last_resort(whole: Evidence, evidence: Evidence) -> list[Alternative]:
    """The longest texts that there are, as plain text."""
    texts = {name: whole.texts(name) for name in whole.columns if whole.holds(name, ("text",))}
    lengths = {name: sum(map(len, each)) for name, each in texts.items() if each}
    if not lengths:
        return []
    longest = max(lengths, key=lambda name: lengths[name])
    task = _task(evidence)
    left = {name: NONE for name in task if name != _root(longest, evidence.columns)}
    template = next(each for each in all_templates() if each.name == "text")
    return [Alternative(template, {"text": longest, **left}, 1)]


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


def _task(evidence: Evidence) -> list[str]:
    """The columns that look like part of the task, or may hold classes."""
    looks = (accounting.of_task, accounting.may_label)
    return [name for name in evidence.columns if any(look(evidence, name) for look in looks)]


def _free(template: Template, evidence: Evidence, task: list[str]) -> list[str]:
    """The columns that a template may be given; next to a lone text, what repeats are its classes,
    whatever it is called."""
    if template.label is None or sum(plain(name) not in _HEADS for name in task) > 1:
        return task
    classes = [n for n in evidence.columns if evidence.values(n) and evidence.repeats(n)]
    return [name for name in evidence.columns if name in task or name in classes]


def _readable(way: Alternative) -> bool:
    """Whether paths into lists go through one list only."""
    stars = [file.split(".*", 1) for file in way.columns.values() if ".*" in file]
    return len({first for first, _ in stars}) < 2 and not any("*" in rest for _, rest in stars)


def _order(way: Alternative) -> tuple[int, int, int]:
    guessed = sum(
        file != NONE
        and plain(file.partition(".")[0]) not in map(plain, called(way.template, {}, name))
        for name, file in way.columns.items()
    )
    name = way.template.name
    guessed -= way.template.language == "zh"
    general = _GENERAL.index(name) if name in _GENERAL else len(_GENERAL)
    return (-way.read, guessed, general)


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
        free = _free(template, evidence, task)
        free = sorted(free, key=lambda name: _late(evidence, name, labels))
        _guess(template, whole, (evidence.columns, free), used)
    if not template.complete(used):
        return None
    if template.name == "classification" and "text" not in keep:
        _join(evidence, task, used)
    roots = [file for each in used.values() for file in joined.parts(each) or [each]]
    taken = {_root(file, evidence.columns) for file in roots}
    own = {name: used[name] for name in template.columns.names if name in used}
    columns = {name: file for name, file in own.items() if name != file}
    columns |= {name: NONE for name in task if name not in taken and name not in columns}
    return Alternative(template, columns, len(taken.intersection(evidence.columns)))


def _late(evidence: Evidence, name: str, labels: bool) -> tuple[int, bool, int]:
    """What puts columns that may be labels behind texts; where a template has labels, of several
    first what is true or false, then the last one, and last what never changes."""
    values = evidence.values(name)
    if not (evidence.repeats(name) and len(values) >= FEW):
        return (0, False, 0)
    constant = len(set(map(str, values))) == 1
    place = -evidence.columns.index(name)
    return (
        (1 + constant, not evidence.holds(name, ("boolean",)), place) if labels else (1, False, 0)
    )


def _join(evidence: Evidence, task: Sequence[str], used: dict[str, str]) -> None:
    """Give what is left of the task to the text that is classified: short parts first, since a row
    that is too long loses its end. No list, no constant, nor what gives the label away."""
    text, label = used["text"], used["label"]
    more = [
        name
        for name in task
        if name not in used.values()
        and accounting.of_task(evidence, name)
        and len(evidence.texts(name)) == len(evidence.values(name))
        and not evidence.holds(name, ("json",))
        and not any(word in plain(name) for word in _TELLING)
        and len(set(evidence.texts(name))) > 1
        and not evidence.decides(name, label)
    ]
    if more and text in evidence.columns:
        names = [name for name in evidence.columns if name in (text, *more)]
        used["text"] = joined.together(sorted(names, key=lambda n: not evidence.brief(n)))


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
    free = [n for n in task if n not in {_root(file, every) for file in used.values()}]
    odd = [name for name in free if not accounting.known(name)]
    sure = len(missing) == len(free) == 1 and whole.holds(free[0], ("text",))
    classes = [_late(whole, name, True)[:2] for name in free if template.label]
    # The label is the one column that repeats, or of several the one that is true or false.
    label = 1 in (sum(each[0] == 1 for each in classes), classes.count((1, False)))
    many = len(missing) > 1 and len(free) > len(missing) and not label
    if missing and not sure and (len(odd) < len(missing) or many):
        # Nobody could say which is which.
        return
    free = [*odd, *(name for name in free if name not in odd)] if missing else free
    # What is inside a list is only taken where something must be, and no column is left for it.
    inside = [(c, path) for c in free for path in whole.columns if _root(path, every) == c != path]
    given = set()
    for column, path in [*((column, column) for column in free), *inside]:
        names = open_ones if path == column else [n for n in open_ones if n in missing]
        name = next((n for n in names if suits(template, n, path, whole)), None)
        if column not in given and name is not None and _filled(template, name, path, whole):
            open_ones.remove(name)
            used[name] = path
            given.add(column)


def _named(
    template: Template, name: str, whole: Evidence, columns: tuple[Sequence[str], Collection[str]]
) -> str | None:
    """The column, or the path into one, that is called like a template's column and suits it."""
    every, taken = columns
    short = _SHORT.get(name)
    for other in [*called(template, {}, name), *([short] if short else [])]:
        for column in whole.columns:
            root = _root(column, every)
            if {column, root} & {*taken} or not _filled(template, name, column, whole):
                continue
            ends = {plain(root), plain(column.rpartition(".")[2])}
            if plain(other) in ends and suits(template, name, column, whole):
                return column
    return None


def _filled(template: Template, name: str, column: str, whole: Evidence) -> bool:
    """Whether a column has values; one that the template needs, in nearly every row."""
    count = len(whole.values(column))
    if accounting.identify(whole.values(column)):
        return False
    needed = name in template.columns.required and name not in template.columns.blank
    return count >= MOST_ROWS * len(whole.rows) if needed else count > 0


def _of_turns(template: Template) -> list[str]:
    """The template's columns that a question or an answer reads, required ones first."""
    turns = [turn.content or "" for turn in template.turns if turn.role in ("user", "assistant")]
    read: set[str] = set().union(*(variables(each) for each in [*turns, template.text or ""]))
    return [name for name in template.columns.names if name in read]


def _root(path: str, columns: Collection[str]) -> str:
    """The column that a path begins in; columns may have dots in their names."""
    return path if path in columns else path.partition(".")[0]


def _leaves(row: Mapping[str, Any]) -> dict[str, Any]:
    """The values inside a row's lists and mappings, by their paths: answer.0, questions.*.q."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        for path, leaf in _inside(name, value):
            found.setdefault(path, leaf)
    return found


def _inside(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, each in value.items():
            if isinstance(key, str) and "." not in key:
                yield from _inner(f"{path}.{key}", each)
    elif isinstance(value, list) and value:
        if all(isinstance(each, dict) for each in value):
            for key in value[0]:
                yield from _inner(f"{path}.*.{key}", value[0][key])
        elif all(isinstance(each, str) for each in value):
            yield f"{path}.0", value[0]


def _inner(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        yield from _inside(path, value)
    else:
        yield path, value
