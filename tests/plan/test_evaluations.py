"""What a plan makes of `eval.every`, `eval.stop` and `eval.keep`, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuner.errors import TunerError
from tuner.machine import hardware
from tuner.plan import costs, evaluations, make, plan, rates
from tuner.recipe import load as recipe_load

Recipes = Callable[..., Path]


def planned(recipe: Path, verb: str = "sft") -> plan.Plan:
    loaded = recipe_load.load(recipe, verb=verb)
    return make.make(loaded, hardware.detect(), output=recipe.parent / "run")


@pytest.mark.parametrize(
    ("every", "epochs", "steps"),
    [
        (3, 3, (3, 6, 9, 12)),
        (5, 3, (5, 10, 12)),
        ("25%", 3, (3, 6, 9, 12)),
        ("30%", 3, (4, 7, 11, 12)),
        ("2%", 1, (1, 2, 3, 4)),
        ("epoch", 2.5, (4, 8, 10)),
        (100, 1, (4,)),
    ],
)
def test_rows_are_scored_so_often(
    every: Any, epochs: float, steps: tuple[int, ...], make_recipe: Recipes
) -> None:
    """16 rows by 4; always after the last step, too."""
    made = planned(make_recipe(train={"epochs": epochs}, eval={"every": every}))
    assert made.evaluations is not None
    assert made.evaluations.steps == steps
    assert made.facts["evaluation"]["times"] == len(steps)


def test_each_key_has_its_origin_and_the_summary_its_number(make_recipe: Recipes) -> None:
    made = planned(make_recipe(train={"epochs": 3}, eval={"every": 2, "stop": {"patience": 2}}))
    values = {key: (made.values[key].value, made.values[key].origin) for key in evaluations.WHEN}
    assert values["eval.keep"] == ("best", "auto: training stops early")
    assert values["eval.stop"][0] == {"metric": "auto", "patience": 2, "min_change": 0.0}
    assert "line" in values["eval.every"][1]
    assert "scores 4 held-out rows before, 5 times during and after" in made.summary
    assert made.facts["evaluation"] == {
        "times": 6,
        "rows_each": 4,
        "first_after_step": 2,
        "by": "loss, lower is better",
        "ends_with": "the best weights",
        "stops_after": "2 without a gain",
    }
    plain = planned(make_recipe())
    assert plain.evaluations is None
    assert "evaluation" not in plain.facts
    assert plain.values["eval.keep"].value == "auto"


def test_evaluations_have_their_price(make_recipe: Recipes) -> None:
    """Rows times the measured time of one; each may be the best, which is sealed. On the disk are
    two more checkpoints."""
    rate = rates.Rate(100.0, 1.0, 0.0, 0.5, 0.0, 3.0, 0.0, "run", "2026-01-31")
    made = {
        keep: planned(make_recipe(train={"epochs": 3}, eval={"every": 3, "keep": keep}))
        for keep in ("last", "best")
    }
    found = {keep: costs.times(each, rate).evaluating for keep, each in made.items()}
    assert found == {"last": 3 * 4 * 0.5, "best": 3 * (4 * 0.5 + 3.0)}
    plain = planned(make_recipe(train={"epochs": 3}))
    assert costs.times(plain, rate).evaluating == 0
    disk = {keep: each.facts["disk"]["checkpoints"] for keep, each in made.items()}
    assert disk["last"] == plain.facts["disk"]["checkpoints"]
    assert disk["best"] * 3 == disk["last"] * 5
    more = planned(make_recipe(train={"epochs": 3, "checkpoints": 5}))
    assert more.facts["disk"]["checkpoints"] == disk["last"] * 2


STOP = {"every": 2, "stop": {}}
REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("best without", {"eval": {"keep": "best"}}, "eval.keep: best, but nothing is scored", "10%"),
    ("stop without", {"eval": {"stop": {}}}, "eval.stop, but nothing is scored while", "10%"),
    (
        "not enabled",
        {"eval": {"every": 2, "enabled": False}},
        "eval.every: 2, but eval.enabled: false",
        "leave out one",
    ),
    (
        "no rows",
        {"eval": {"every": 2}, "data": {"eval": 0}},
        "there are no held-out rows",
        "set data.eval: 0.1",
    ),
    (
        "unknown metric",
        {"eval": {**STOP, "stop": {"metric": "los"}}},
        "eval.stop.metric: there is no metric 'los' for `tuner sft`",
        "did you mean 'loss'",
    ),
    (
        "another task's metric",
        {"eval": {**STOP, "stop": {"metric": "pair_accuracy"}}},
        "there is no metric 'pair_accuracy' for `tuner sft`",
        "set eval.stop.metric to one of loss, perplexity",
    ),
    (
        "not measured",
        {"eval": {**STOP, "stop": {"metric": "exact_match"}}},
        "eval.stop.metric: exact_match is not measured",
        "set eval.metrics: [loss, perplexity, token_accuracy, exact_match]",
    ),
    (
        "patience",
        {"eval": {"every": "25%", "stop": {"patience": 3}}},
        "eval.stop.patience: 3 can never stop this run early",
        "eval.stop.patience: 2 or less",
    ),
    (
        "one evaluation",
        {"eval": {"every": 100, "keep": "best"}},
        "eval.keep: best, but only the last step is scored",
        "smaller eval.every",
    ),
    (
        "staged",
        {
            "method": {
                "name": "staged",
                "stages": [{"train": "last_layer", "epochs": 1, "learning_rate": 0.01}],
            },
            "train": {"learning_rate": "auto"},
            "eval": {"every": 1, "keep": "best"},
        },
        "eval.keep: best and method.name: staged",
        "leave out eval.keep",
    ),
    (
        "adalora",
        {"method": {"name": "adalora"}, "eval": STOP},
        "eval.stop and method.name: adalora, whose ranks are final only towards",
        "leave out eval.stop",
    ),
    ("half a row", {"eval": {"every": 0.1}}, "a share of the run such as 10%", "'0.1'"),
    ("all of it", {"eval": {"every": "100%"}}, "a share of the run such as 10%", "'100%'"),
    ("negative", {"eval": {**STOP, "stop": {"min_change": -1}}}, "a share such as 0.1%", "'-1'"),
]


@pytest.mark.parametrize(("case", "sections", "what", "fix"), REFUSED, ids=[r[0] for r in REFUSED])
def test_what_can_have_no_effect_is_refused(
    case: str, sections: dict[str, Any], what: str, fix: str, make_recipe: Recipes
) -> None:
    with pytest.raises(TunerError) as caught:
        planned(make_recipe(**sections))
    error = caught.value
    said = "\n".join([error.what, error.why or "", error.fix or "", *(error.problems or ())])
    assert error.exit_code == 2
    assert what in said
    assert fix in said
