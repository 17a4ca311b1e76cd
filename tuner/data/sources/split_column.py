"""A column that says which rows are for training and which for testing: both would be trained."""

from __future__ import annotations

from collections import Counter

from tuner.data.columns.ways import recipe_line, where_line
from tuner.data.sources.source import Source
from tuner.data.templates.template import AUTO
from tuner.errors import DataError
from tuner.recipe.schema import DataSection
from tuner.schema.suggest import listed, plain

_NAMES = frozenset(
    plain(name)
    for name in (
        "split",
        "splits",
        "set",
        "subset",
        "partition",
        "fold",
        "data split",
        "semeval set",
    )
)
_TRAIN = frozenset(("train", "training", "trn"))
# The first that a file has is the one to score while training.
_HELD = (
    *("validation", "valid", "val", "dev", "development", "trial", "eval", "evaluation"),
    *("heldout", "held-out", "holdout", "test", "testing", "tst"),
)


def refuse_trained_tests(source: Source, data: DataSection) -> None:
    """Refuse training rows of which a column says that they are for testing.

    Args:
        source: of `data.train`; one whose rows are chosen by the column is not looked at, nor one
            that leaves the column out.
        data: the recipe's data section.

    Raises:
        DataError: with the recipe that trains the rest and scores these, and the one that trains
            all of them.
    """
    asked = {*source.file.where, *source.data.columns}
    for name in [n for n in source.columns if plain(n) in _NAMES and n not in asked]:
        values = [row.values.get(name) for row in source.rows]
        counts = Counter(value.strip() for value in values if isinstance(value, str))
        train = [value for value in counts if value.casefold() in _TRAIN]
        held = [value for value in counts if value.casefold() in _HELD]
        if not train or not held or len(train) + len(held) < len(counts):
            continue
        held.sort(key=lambda value: _HELD.index(value.casefold()))
        rows = listed([f"'{value}' ({counts[value]:,})" for value in [*train, *held]])
        raise DataError(
            f"the column '{name}' of {source.name} says which rows are for testing, and all would "
            "be trained",
            f"rows: {rows}",
            "\n".join(
                [
                    f"train on '{train[0]}' and score on '{held[0]}':",
                    f"    {_line(source, name, train, held, data)}",
                    "or train on all of them:",
                    f"    {recipe_line(source.given, {**source.data.columns, name: 'none'})}",
                ]
            ),
        )


def _line(source: Source, name: str, train: list[str], held: list[str], data: DataSection) -> str:
    (key, file), *others = source.given.items()
    named = {} if source.data.template == AUTO else {"template": source.data.template}

    def chosen(by: str, values: list[str]) -> str:
        keys = {by: file, **dict(others), "where": where_line({name: values}), **named}
        return recipe_line(keys, source.data.columns)

    trained, scored = chosen(key, train), chosen("eval", held[:1])
    if data.eval_file is not None:
        return trained
    if key == "source":
        return f"{trained}, and {scored}"
    return f"{trained.removesuffix('}')}, {scored.removeprefix('data: {')}"
