"""Label Studio's tasks, as it exports them: texts under `data`, choices under `annotations`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tuner.data.columns.evidence import Evidence
from tuner.data.columns.ways import Alternative
from tuner.data.templates.template import all_templates

_DATA, _ANNOTATIONS = "data", "annotations"


def label_studio(evidence: Evidence) -> list[Alternative]:
    """Return how to classify the texts of tasks: a way for each question that was asked of them.

    None where a question has several answers, of which all but the first would be lost.

    Args:
        evidence: what the columns hold.
    """
    asked: dict[int, set[tuple[str, str]]] = {}
    for row in evidence.rows:
        for place, result in _results(row):
            choices = _of(result.get("value")).get("choices")
            if not isinstance(choices, list) or len(choices) != 1:
                return []
            names = (str(result.get("from_name")), str(result.get("to_name")))
            asked.setdefault(place, set()).add(names)
    template = next(each for each in all_templates() if each.name == "classification")
    ways: list[Alternative] = []
    for place, ((question, text), *others) in asked.items():
        if others or not (key := _text(evidence, text)):
            # The results have no order that is the same in all tasks.
            return []
        label = f"{_ANNOTATIONS}.*.result.{place}.value.choices.0"
        columns = {"text": f"{_DATA}.{key}", "label": label}
        called = f"{template.task} ({question})" if len(asked) > 1 else ""
        ways.append(Alternative(template, columns, 2, called=called))
    return ways


def _results(row: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    annotations = row.get(_ANNOTATIONS)
    for each in annotations if isinstance(annotations, list) else ():
        results = _of(each).get("result")
        yield from enumerate(map(_of, results)) if isinstance(results, list) else ()


def _text(evidence: Evidence, name: str) -> str:
    """The text that was labelled: the one of this name or, where there is none, the longest."""
    lengths: dict[str, int] = {}
    for data in evidence.values(_DATA):
        for key, value in _of(data).items():
            if isinstance(value, str) and "." not in key:
                lengths[key] = lengths.get(key, 0) + len(value)
    return name if name in lengths else max(lengths, key=lambda key: lengths[key], default="")


def _of(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
