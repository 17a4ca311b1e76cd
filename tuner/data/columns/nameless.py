"""Tables whose columns have no names but 1, 2, ...: what they are, seen from what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuner.data.columns.evidence import FEW, MOST, Evidence
from tuner.data.columns.ways import Alternative
from tuner.data.fields.language import language_of
from tuner.data.reading.table import positions
from tuner.data.templates.template import Template

_LOOKED_AT = 50
_SHOWN = 60


def nameless(columns: Sequence[str]) -> bool:
    """Return whether columns are named by their positions."""
    return list(columns) == positions(len(columns))


def by_position(template: Template, evidence: Evidence) -> dict[str, str]:
    """Return which columns are which of a template's: a question, options and the right one's
    letter; or texts in English and in Chinese; empty, if these do not look so."""
    columns, choice = evidence.columns, template.choice
    if not nameless(columns):
        return {}
    if {*template.columns.required} == {"english", "chinese"} and len(columns) == 2:
        spoken = {_language(evidence.texts(name)): name for name in columns}
        return {"english": spoken["en"], "chinese": spoken["zh"]} if spoken.keys() == _BOTH else {}
    if choice is None:
        return {}
    asked, *options, right = columns if len(columns) > 3 else ["", "", ""]
    if len(options) > len(choice.each) or not right or not evidence.holds(right, ("letter",)):
        return {}
    question = next(name for name in template.columns.required if name != choice.answer)
    return {question: asked, choice.answer: right, **dict(zip(choice.each, options, strict=False))}


_BOTH = {"en", "zh"}


def _language(texts: Sequence[str]) -> str | None:
    found = [language_of([text]) for text in texts[:_LOOKED_AT]]
    for language in ("en", "zh"):
        if found and found.count(language) >= MOST * len(found):
            return language
    return None


def sure(ways: Sequence[Alternative], evidence: Evidence) -> list[Alternative]:
    """Return the ways that what the columns hold speaks for, options before labels; with other
    ways than options, also prompts and answers."""
    choices = [way for way in ways if way.template.choice]
    found = choices or [way for way in ways if _shows(way, evidence)]
    plain = [way for way in ways if way.template.name == "prompt_completion"]
    return [*found, *plain] if found and not choices else choices


def _shows(way: Alternative, evidence: Evidence) -> bool:
    if way.template.name == "classification":
        label = way.columns.get("label", "label")
        return evidence.repeats(label) and len(evidence.values(label)) >= FEW
    return bool(by_position(way.template, evidence))


def described(evidence: Evidence, name: str) -> str:
    """Return what a column without a name holds, with an example."""
    first: Any = next(iter(evidence.values(name)), "")
    text = str(first)
    shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
    return f"column {name}: {evidence.describe(name)}, such as {shown!r}"
