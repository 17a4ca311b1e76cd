"""The recipe's section about scores on held-out rows."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from tuner.recipe.schema_rows import share_of
from tuner.schema import strict_yaml
from tuner.schema.fields import FILE, Count, CountFromZero, Flag, Section, Text, Words, own_words

# A metric, a comparison and a number.
GATE = r"\s*([a-z][a-z0-9_]*)\s*(>=|<=|>|<)\s*([+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*"
_GATE_SHAPE = "expected conditions such as label_accuracy >= 0.8"


def _every(value: Any) -> Any:
    number = strict_yaml.number(value) if isinstance(value, str) else value
    known = isinstance(number, int | float) and not isinstance(number, bool)
    if known and number is not None and number >= 1 and number % 1 == 0:
        return int(number)
    if value == "epoch" or share_of(value):
        return str(value)
    raise own_words(
        f"expected a number of steps, a share of the run such as 10%, or epoch, not '{value}'"
    )


def _change(value: Any) -> Any:
    if share_of(value):
        return str(value)
    number = strict_yaml.number(value) if isinstance(value, str) else value
    if isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number < 1e9:
        return float(number)
    raise own_words(f"expected a share such as 0.1%, or a number from 0 on, not '{value}'")


def _gates(value: Any) -> Any:
    given = (value,) if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise own_words(f"{_GATE_SHAPE}, not '{value}'")
    for each in given:
        if not (isinstance(each, str) and re.fullmatch(GATE, each)):
            raise own_words(f"{_GATE_SHAPE}, not '{each}'")
    return tuple(" ".join(re.sub(GATE, r"\1 \2 \3", str(each)).split()) for each in given)


Gates = Annotated[
    tuple[str, ...], BeforeValidator(_gates), PlainSerializer(list, return_type=list[str])
]


class Stop(Section):
    """When a run ends before its last step."""

    metric: Annotated[
        Text, Field(description="the metric to go by; auto: loss, pair_loss or reward, by task")
    ] = "auto"
    patience: Annotated[
        Count, Field(description="evaluations without a gain before training stops")
    ] = 3
    min_change: Annotated[
        str | float,
        BeforeValidator(_change),
        Field(description="what counts as a gain: a difference, or a share such as 0.1%"),
    ] = 0.0


class EvalSection(Section):
    """Scores on held-out rows, before, while and after training."""

    enabled: Annotated[Flag, Field(description="score before and after training")] = True
    metrics: Annotated[
        Words, Field(description="metric names; auto: those that fit the task and the data")
    ] = ("auto",)
    max_rows: Annotated[
        Count | None, Field(description="score at most this many held-out rows")
    ] = None
    samples: Annotated[
        CountFromZero, Field(description="held-out prompts to answer before and after training")
    ] = 1
    max_new_tokens: Annotated[Count, Field(description="maximum tokens per generated answer")] = 64
    every: Annotated[
        Annotated[int | str, BeforeValidator(_every)] | None,
        Field(
            description="score while training, too: every so many steps, after each such share of "
            "the run (10%) or each epoch; and after the last step"
        ),
    ] = None
    stop: Annotated[
        Stop | None,
        Field(
            description="end early where a metric no longer improves: metric, patience, min_change"
        ),
    ] = None
    keep: Annotated[
        Literal["auto", "last", "best"],
        Field(
            description="the weights that a run ends with: of its last step, or of its best "
            "evaluation; auto: best where eval.stop is set"
        ),
    ] = "auto"
    gate: Annotated[
        Gates,
        Field(
            description="what the scores after training must be: [label_accuracy >= 0.8]; a run "
            "that fails one is complete, and ends with exit code 5"
        ),
    ] = ()
    test: Annotated[
        Text | None,
        FILE,
        Field(
            description="a file of rows that are scored once, after training: they choose nothing"
        ),
    ] = None
    samples_every: Annotated[
        Annotated[int | str, BeforeValidator(_every)] | None,
        Field(
            description="answer the first held-out prompts while training, too: every so many "
            "steps, after each such share of the run (10%) or each epoch"
        ),
    ] = None
