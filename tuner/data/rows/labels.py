"""The answers to choose from: the recipe's or the template's, else those that the rows have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from tuner.console.formatting import counted
from tuner.data.fields import several
from tuner.data.rows.dialogue import Dialogue
from tuner.data.templates.template import AUTO, Template
from tuner.errors import DataError, RecipeError
from tuner.recipe.schema import DataSection

# Every label is scored for every held-out row: with more, only if the recipe asks for them.
MOST_LABELS = 64
_SHOWN, _LONG, _NAMED = 10, 60, 20
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


def listed(data: DataSection, names: Mapping[str, str]) -> tuple[str, ...]:
    """Return the labels that the recipe lists, by their names; empty if the rows say them.

    Args:
        data: the recipe's data section.
        names: of the labels, by their value in the rows.
    """
    if data.labels == (AUTO,):
        return ()
    if data.labels or isinstance(data.label_names, str):
        return tuple(names.get(label, label) for label in data.labels)
    return tuple(dict.fromkeys(names.values()))


def labels_of(
    data: DataSection,
    templates: Sequence[Template],
    rows: Iterable[Dialogue],
    head: str,
    names: Mapping[str, str] | None = None,
    naming: Callable[[], Sequence[str]] = tuple,
) -> tuple[str, ...]:
    """Return the labels, in the order of a head's classes.

    Where neither recipe nor template names them, they are the distinct labels of the rows of a
    template that has a label, or of all rows with `data.labels: auto`: sorted, numbers by size.

    Args:
        data: the recipe's data section.
        templates: of the rows.
        rows: of the training files, held-out ones included, as far as their templates have labels.
        head: what the examples are for: language, sequence or classes.
        names: of the labels, by their value in the rows.
        naming: returns the columns that hold a name for each label.

    Raises:
        RecipeError: a label appears twice or has no word in the template, or a classification head
            has fewer than two, or rows without any.
        DataError: the model would have to write class numbers that no recipe asks for, or
            `data.labels: auto` finds texts that hardly repeat.
    """
    answers = [label for row in rows for label in own_labels(row, data.multi_label)]
    own, asked = listed(data, names or {}), data.labels == (AUTO,)
    named: dict[str, None] = {}
    for template in templates:
        _refuse_plain(template, head, asked)
        _refuse_unfit(own, template)
        found = () if own else _named(template)
        if not found and (template.label or asked or _few(template, answers, head)) and not own:
            given = dict.fromkeys((names or {}).values())
            order = tuple(name for name in given if name in answers)
            found = order or _found(answers, head, asked, naming)
        named |= dict.fromkeys(found)
    labels = own or tuple(named)
    if head == "classes" and len(labels) < 2:
        raise RecipeError(
            "model.task: classification needs to know the classes",
            f"data.labels is empty, and the rows have one label only: {labels[0]}"
            if labels
            else "data.labels is empty, and neither template nor rows name any",
            "list all the classes in data.labels, or set data.labels: auto to take the answers; to "
            "write the answers, leave out model.task and use a base that writes text: BERT, XLNet "
            "and others that read a text both ways can only tell classes apart",
        )
    return labels


def own_labels(row: Dialogue, multi_label: bool = False) -> tuple[str, ...]:
    """Return the label of a row, or all that it has."""
    return several.of_answer(row.answer) if multi_label else (row.answer.strip(),)


def refuse_unseen(
    train: Sequence[Dialogue],
    held: Sequence[Dialogue],
    labels: Sequence[str],
    multi_label: bool = False,
) -> None:
    """Refuse labels of held-out rows that no training row has: no model could learn them.

    Args:
        train: the training rows.
        held: the held-out rows.
        labels: those that were found in the rows; empty: the answers are no labels.
        multi_label: whether a row may have several.

    Raises:
        DataError: names them, with a row of each.
    """
    first: dict[str, str] = {}
    known = {label for row in train for label in own_labels(row, multi_label)}
    for row in held if labels else ():
        for label in own_labels(row, multi_label):
            if label not in known:
                first.setdefault(label, row.row)
    if first:
        several = len(first) > 1
        shown = ", ".join(f"'{label}' ({row})" for label, row in [*first.items()][:_SHOWN])
        raise DataError(
            f"{'labels' if several else 'a label'} of the held-out rows "
            f"{'are' if several else 'is'} in no training row: {shown}",
            "it would never be learned, and would count as wrong in every score",
            "add training rows with it, take it out of the held-out rows, or list the labels in "
            "data.labels if that is meant",
        )


def facts(
    labels: Sequence[str],
    train: Sequence[Dialogue],
    held: Sequence[Dialogue],
    multi_label: bool = False,
) -> dict[str, Any]:
    """Return the report's facts about the labels; empty without labels, or without rows of them.

    `majority_baseline` is the share of held-out rows (of the training rows, if there are none) that
    have the most frequent label of the training rows: what is right without reading a text. Rows
    with any number of labels have no such share, but how many each has.

    Args:
        labels: the answers to choose from.
        train: the training rows.
        held: the held-out rows.
        multi_label: whether a row may have several.
    """
    counts, held_counts = (_counts(labels, rows, multi_label) for rows in (train, held))
    if not any(counts.values()):
        return {}
    known = {
        "label_counts": counts,
        "eval_label_counts": held_counts,
        "rarest_label": min(labels, key=lambda label: counts[label]),
        "labels_without_rows": [label for label in labels if not counts[label]],
    }
    if multi_label:
        none = sum(not own_labels(row, True) for row in train)
        each = round(sum(counts.values()) / len(train), 4)
        return {**known, "labels_per_row": each, "rows_without_labels": none}
    most = max(labels, key=lambda label: counts[label])
    scored = held_counts if any(held_counts.values()) else counts
    return {
        "majority_label": most,
        "majority_baseline": round(scored[most] / sum(scored.values()), 4),
        **known,
    }


def odd_facts(
    labels: Sequence[str], rows: Sequence[Dialogue], multi_label: bool = False
) -> dict[str, Any]:
    """Return the report's facts about answers of labelled rows that are unfit for labels: how many
    are none of them and, as a sentence, that they never or always change.

    Args:
        labels: those that were found, or that the recipe lists.
        rows: the training rows of files with labels.
        multi_label: whether a row may have several.
    """
    own = [own_labels(row, multi_label) for row in rows]
    others = sum(not set(labels).issuperset(each) for each in own if labels)
    return {"rows_with_other_answers": others, "odd_labels": _odd(labels, own)}


def _odd(labels: Sequence[str], own: Sequence[tuple[str, ...]]) -> list[str]:
    different = {tuple(sorted(each)) for each in own}
    if len(own) > 1 and len(different) == 1:
        are = "label is" if len(own[0]) == 1 else "labels are"
        return [f"the {are} the same in every training row: '{several.said(own[0])[:_LONG]}'"]
    if labels or not _free(different, own):
        return []
    return [
        f"{len(different):,} different labels in {counted(len(own), 'training row')}: they "
        "hardly repeat, so that no score by labels is made, and held-out rows may have others"
    ]


def _free(different: Collection[Any], answers: Collection[Any]) -> bool:
    """Whether answers hardly ever repeat: they are texts, not labels."""
    return len(different) > max(2, len(answers) // 2)


def _counts(labels: Sequence[str], rows: Iterable[Dialogue], multi_label: bool) -> dict[str, int]:
    found = Counter(label for row in rows for label in own_labels(row, multi_label))
    return {label: found[label] for label in labels}


def _refuse_plain(template: Template, head: str, asked: bool) -> None:
    if template.text is None or not (head == "classes" or asked):
        return
    key = "model.task: classification" if head == "classes" else "data.labels: auto"
    raise RecipeError(
        f"{key} needs labels, but the rows have none",
        f"the data template '{template.name}' reads only a text",
        "name the column of the labels: data.columns: {label: its name in the file}",
    )


def _named(template: Template) -> tuple[str, ...]:
    return tuple(template.labels) or tuple(template.cloze.verbalizer if template.cloze else ())


def _refuse_unfit(own: tuple[str, ...], template: Template) -> None:
    """Refuse labels that are there twice, or that have no word in the template."""
    labels = own or _named(template)
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


def _found(
    answers: Collection[str], head: str, asked: bool, naming: Callable[[], Sequence[str]]
) -> tuple[str, ...]:
    different = set(answers)
    numbers = all(_NUMBER.fullmatch(answer) for answer in different)
    order = sorted(different, key=lambda text: (float(text) if numbers else 0.0, text))
    if head == "classes":
        return tuple(order)
    if numbers and order:
        raise _are_numbers(order, naming())
    # Texts that hardly ever repeat are free answers, not labels.
    free = _free(order, answers)
    if asked and free:
        raise DataError(
            f"data.labels: auto found {len(order)} different answers in {len(answers)} rows",
            f"these are texts rather than labels: {', '.join(order[:3])} ...",
            "leave out data.labels, or name the column of the labels in data.columns",
        )
    few = 1 < len(order) <= MOST_LABELS
    return tuple(order) if asked or (few and not free) else ()


def _are_numbers(order: Sequence[str], columns: Sequence[str]) -> DataError:
    shown = _shown(order)
    pairs = ", ".join(f"{label}: its name" for label in order[:_NAMED])
    more = ", ..." if len(order) > _NAMED else ""
    advice = [f"data.label_names: {column}, the column with a name for each" for column in columns]
    advice += [
        f"name them: data.label_names: {{{pairs}{more}}}",
        "or set model.task: classification, whose classes may be numbers",
        "or list the numbers in data.labels to have them written",
    ]
    return DataError(
        f"the labels are numbers, not words: {shown}",
        "the model would learn to write class numbers, and could not use what it knows about "
        "the classes' names",
        "; ".join(advice),
    )


def _few(template: Template, answers: Collection[str], head: str) -> bool:
    """Whether the answers that a head learns repeat, so that they are its classes."""
    few = len(set(answers)) <= max(2, len(answers) // 2)
    return head == "classes" and template.text is None and bool(answers) and few


def _shown(order: Sequence[str]) -> str:
    return ", ".join(order[:_SHOWN]) + (", ..." if len(order) > _SHOWN else "")
