"""What was understood of a source, in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tuner.data.columns.evidence import FEW, Evidence
from tuner.data.columns.preference_formats import PreferenceFormat
from tuner.data.columns.template_match import Fit
from tuner.data.sources.source import Source
from tuner.data.templates.template import Template
from tuner.schema.suggest import plain

LANGUAGES = {"en": "English", "zh": "Chinese"}
_ONE = {
    "boolean": "true or false",
    "letter": "a letter",
    "index": "an index",
    "list": "a list",
    "mapping": "a mapping",
    "objects": "a list of mappings",
    "pairs": "a list of pairs",
    "table": "a table",
    "json": "JSON",
    "number": "a number",
}
_TRUTHS = (("yes", "no"), ("是", "否"), ("是", "不是"), ("对", "错"))
# Said of answers only: the letter that a text consists of is no news.
_SHORT = frozenset(("boolean", "letter", "index", "number"))


def understood(fit: Fit[Template], evidence: Evidence, ignored: Sequence[str] = ()) -> str:
    """Return what was understood: "multiple choice: 4 options in columns A-D, answer is a letter;
    English; not used: id".

    Args:
        fit: the template and its columns.
        evidence: what the columns hold.
        ignored: columns that nothing reads.
    """
    template = fit.template
    names: dict[str, list[str]] = {}
    for name in template.columns.names:
        if name in fit.columns:
            names.setdefault(template.columns.words.get(name, _spaced(name)), []).append(name)
    answers = {template.label} if template.label else {*template.answer_columns}
    parts = []
    last = sorted(names.items(), key=lambda pair: not answers.isdisjoint(pair[1]))
    for word, group in last:
        columns = [fit.columns[name] for name in group]
        kind = _kind(template, group[0], columns[0], evidence, group[0] in answers)
        parts.append(_part(word, columns, kind))
    task = template.task or _spaced(template.name)
    return _sentence(task, parts, evidence, ignored)


def compared(fit: Fit[PreferenceFormat], evidence: Evidence, ignored: Sequence[str] = ()) -> str:
    """Return what was understood of comparisons: "comparisons of answers (pairs): prompt, chosen,
    rejected; English"; see `understood`."""
    known = [name for name in fit.template.columns if name in fit.columns]
    names = sorted(known, key=lambda name: name != "prompt")
    parts = [_part(_spaced(name), [fit.columns[name]], "") for name in names]
    thumbs = fit.template.name == "thumbs"
    what = "answers, each liked or not" if thumbs else "comparisons of answers"
    return _sentence(f"{what} ({_spaced(fit.template.name)})", parts, evidence, ignored)


def _sentence(task: str, parts: Sequence[str], evidence: Evidence, ignored: Sequence[str]) -> str:
    sentence = f"{task}: {', '.join(parts)}"
    if language := LANGUAGES.get(evidence.language or ""):
        sentence += f"; {language}"
    return sentence + (f"; not used: {', '.join(ignored)}" if ignored else "")


def of_sources(
    sources: Sequence[Source],
    used: Callable[[Source], frozenset[str]],
    say: Callable[..., str] = understood,
) -> str:
    """Return what was understood of each of several sources.

    Args:
        sources: those without rows are passed over.
        used: the columns of a source that something reads.
        say: `understood`, or `compared` for comparisons.
    """
    said = [
        (each, say(each.fit, each.evidence, sorted({*each.evidence.columns} - used(each))))
        for each in sources
        if each.rows
    ]
    if len({text for _, text in said}) == 1:
        return said[0][1]
    return "; ".join(f"{each.name}: {text}" for each, text in said)


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _part(word: str, columns: Sequence[str], kind: str) -> str:
    if kind[:1].isdigit():
        return f"{kind} {word} in column {columns[0]}"
    if len(columns) > 1:
        return f"{len(columns)} {word} in columns {_range(columns)}"
    where = "" if plain(word) == plain(columns[0]) else f" (column {columns[0]})"
    return f"{word}{f' is {kind}' if kind else ''}{where}"


def _kind(template: Template, name: str, column: str, evidence: Evidence, answer: bool) -> str:
    """What a column holds, if it is more than any text; the labels of answers are counted."""
    values = evidence.values(column)
    if not values or evidence.holds(column, ("turns",)):
        return ""
    choice = template.choice
    chosen = choice is not None and name == choice.answer
    if chosen and choice and choice.several:
        return "one or more of them"
    kinds = [kind for kind in _ONE if kind != "index" or chosen]
    kinds = kinds if answer else [kind for kind in kinds if kind not in _SHORT]
    kind = next((kind for kind in kinds if evidence.holds(column, (kind,))), "")
    sizes = [len(each) for each in values if isinstance(each, list | dict)]
    if sizes and kind in ("list", "mapping"):
        few, many = min(sizes), max(sizes)
        size = str(few) if few == many else f"{few} to {many}"
        return size if choice and name == choice.options else f"{_ONE[kind]} of {size}"
    if chosen and not kind:
        return "the text of an option"
    if answer and kind in ("", "number") and len(values) >= FEW and evidence.repeats(column):
        return evidence.constant(column) or f"one of {evidence.labels(column)} labels"
    return _truths(values) if kind == "boolean" else _ONE.get(kind, "")


def _truths(values: Sequence[Any]) -> str:
    """Return true and false as the values write them."""
    words = list(dict.fromkeys(str(value).strip().casefold() for value in values))
    known = [pair for pair in _TRUTHS if {*words} <= {*pair}]
    return " or ".join(known[0]) if known else _ONE["boolean"]


def _range(columns: Sequence[str]) -> str:
    """Columns as a list, or as their ends where they are A, B, C ... or end0, end1, end2 ..."""
    ends = [(name[:-1], ord(name[-1])) for name in columns if name]
    steps = [(head, ends[0][1] + number) for number, (head, _) in enumerate(ends)]
    if len(columns) > 2 and ends == [(ends[0][0], place) for _, place in steps]:
        return f"{columns[0]}-{columns[-1]}"
    return ", ".join(columns)
