"""The answers to choose from: the recipe's or the template's, else those that the rows have."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from tuner.data.dialogue import Dialogue
from tuner.data.template import Template
from tuner.errors import DataError, RecipeError
from tuner.recipe.schema import DataSection

# Every label is scored for every held-out row: with more, only if the recipe lists them.
MOST_LABELS = 64
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


def labels_of(
    data: DataSection, templates: Sequence[Template], rows: Iterable[Dialogue], head: str
) -> tuple[str, ...]:
    """Return the labels, in the order of a head's classes.

    Where neither recipe nor template names them, they are the distinct labels of the rows of a
    template that has a label: sorted, numbers by size.

    Args:
        data: the recipe's data section.
        templates: of the rows.
        rows: of the training files, held-out ones included, as far as their templates have labels.
        head: what the examples are for: language, sequence or classes.

    Raises:
        RecipeError: a label appears twice or has no word in the template, or a classification head
            has fewer than two, or rows without any.
        DataError: the model would have to write class numbers that no recipe asks for.
    """
    answers = [row.answer.strip() for row in rows]
    named: dict[str, None] = {}
    for template in templates:
        if head == "classes" and template.text is not None:
            raise RecipeError(
                "model.task: classification needs labels, but the rows have none",
                f"the data template '{template.name}' reads only a text",
                "name the column of the labels: data.columns: {label: its name in the file}",
            )
        _refuse_unfit(data, template)
        found = () if data.labels else _named(template)
        if not found and template.label and not data.labels:
            found = _found(answers, head)
        named |= dict.fromkeys(found)
    labels = tuple(data.labels) or tuple(named)
    if head == "classes" and len(labels) < 2:
        raise RecipeError(
            "model.task: classification needs to know the classes",
            f"data.labels is empty, and the rows have one label only: {labels[0]}"
            if labels
            else "data.labels is empty, and neither template nor rows name any",
            "list all the classes in data.labels",
        )
    return labels


def _named(template: Template) -> tuple[str, ...]:
    return tuple(template.labels) or tuple(template.cloze.verbalizer if template.cloze else ())


def _refuse_unfit(data: DataSection, template: Template) -> None:
    """Refuse labels that are there twice, or that have no word in the template."""
    labels = tuple(data.labels) or _named(template)
    if len(set(labels)) != len(labels):
        once = ", ".join(dict.fromkeys(labels))
        raise RecipeError(
            "data.labels: a label appears twice",
            f"labels: {', '.join(labels)}",
            f"name each once: data.labels: [{once}]",
        )
    words = template.cloze.verbalizer if template.cloze else {}
    if words and (unknown := [label for label in labels if label not in words]):
        raise RecipeError(
            f"data.labels: the template '{template.name}' has no word for {', '.join(unknown)}",
            f"its labels: {', '.join(words)}",
            f"set data.template: classification, which learns the labels themselves; or use a "
            f"template of your own with words for them (tuner templates show {template.name})",
        )


def _found(answers: Collection[str], head: str) -> tuple[str, ...]:
    different = set(answers)
    numbers = all(_NUMBER.fullmatch(answer) for answer in different)
    order = sorted(different, key=lambda text: (float(text) if numbers else 0.0, text))
    if head == "classes":
        return tuple(order)
    if numbers and order:
        shown = ", ".join(order[:10]) + (", ..." if len(order) > 10 else "")
        raise DataError(
            f"the labels are numbers, not words: {shown}",
            "the model would learn to write class numbers, and could not use what it knows about "
            "the classes' names",
            "name a column with the classes' names (data.columns: {label: its name in the file}); "
            "or set model.task: classification, whose classes may be numbers; or list the numbers "
            "in data.labels to have them written",
        )
    # Texts that hardly ever repeat are free answers, not labels.
    return tuple(order) if 1 < len(order) <= min(MOST_LABELS, max(2, len(answers) // 2)) else ()
