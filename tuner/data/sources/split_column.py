"""A column that says which rows are for training and which for testing: both would be trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from tuner.data.columns.ways import KEPT, OF_SOURCES, flow, recipe_line, where_line
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


class TrainedTests(DataError):
    """Some training rows are for testing; `keys` name the file so that they are not trained."""

    keys: Mapping[str, str] = {}


def refuse_trained_tests(source: Source, data: DataSection) -> None:
    """Refuse training rows of which a column says that they are for testing.

    Args:
        source: of `data.train`; one whose rows are chosen by the column is not looked at, nor one
            that leaves the column out.
        data: the recipe's data section.

    Raises:
        TrainedTests: with the recipe that trains the rest and scores these, and the one that trains
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
        error = TrainedTests(
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
        error.keys = _keys(source, name, train, held, data)
        raise error


def _keys(
    source: Source, name: str, train: list[str], held: list[str], data: DataSection
) -> dict[str, str]:
    """The keys of a recipe that trains some rows and, without an eval file, scores others."""
    (key, file), *others = source.given.items()
    keys = {key: file, **dict(others), "where": where_line({name: train})}
    if data.eval_file is None and key == "train":
        read = {n: flow(each) for n, each in others if n in OF_SOURCES - {"where"}}
        values = {"source": flow(file), **read, "where": where_line({name: held[:1]})}
        keys[f"{KEPT}eval"] = f"{{{', '.join(f'{n}: {each}' for n, each in values.items())}}}"
    return keys


def _line(source: Source, name: str, train: list[str], held: list[str], data: DataSection) -> str:
    named = {} if source.data.template == AUTO else {"template": source.data.template}
    keys = {**_keys(source, name, train, held, data), **named}
    line = recipe_line(keys, source.data.columns)
    if "source" in source.given and data.eval_file is None:
        (_, file), *_ = source.given.items()
        scored = {"eval": file, "where": where_line({name: held[:1]}), **named}
        return f"{line}, and {recipe_line(scored, source.data.columns)}"
    return line
