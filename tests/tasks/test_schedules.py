"""Learning rates: the closed form of each schedule, and transformers' own after the warmup."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.tasks.fitting import Fit, make_plan
from tuner.errors import RecipeError
from tuner.recipe.schema_train import TrainSection
from tuner.tasks.optimizer import rate_share

pytestmark = pytest.mark.usefixtures("in_process", "one_thread")

STEPS = 50
Made = Callable[[Any, int, int], Any]
# transformers' schedule of the steps after a warmup, from an optimizer, these steps and the warmup.
THEIRS: dict[str, tuple[dict[str, Any], Made]] = {
    "linear": ({}, lambda o, n, w: transformers.get_linear_schedule_with_warmup(o, 0, n)),
    "cosine": ({}, lambda o, n, w: transformers.get_cosine_schedule_with_warmup(o, 0, n)),
    "cosine floor": (
        {"floor": 0.1},
        lambda o, n, w: transformers.get_cosine_with_min_lr_schedule_with_warmup(
            o, 0, n, min_lr_rate=0.1
        ),
    ),
    "polynomial": (
        {"power": 3.0},
        lambda o, n, w: transformers.get_polynomial_decay_schedule_with_warmup(
            o, 0, n, lr_end=0.0, power=3.0
        ),
    ),
    "polynomial floor": (
        {"floor": 0.2},
        lambda o, n, w: transformers.get_polynomial_decay_schedule_with_warmup(
            o, 0, n, lr_end=0.2, power=2.0
        ),
    ),
    "wsd": (
        {"decay": 15},
        lambda o, n, w: transformers.get_wsd_schedule(o, 0, 15, n, decay_type="linear"),
    ),
    "wsd floor": (
        {"decay": 0.5, "floor": 0.25},
        lambda o, n, w: transformers.get_wsd_schedule(
            o, 0, 25, n, decay_type="linear", min_lr_ratio=0.25
        ),
    ),
    "inverse_sqrt": (
        {}, lambda o, n, w: transformers.get_inverse_sqrt_schedule(o, 0, timescale=w or None),
    ),
    "cosine_restarts": (
        {"cycles": 3},
        lambda o, n, w: transformers.get_cosine_with_hard_restarts_schedule_with_warmup(o, 0, n, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize("name", THEIRS)
def test_a_schedule_is_that_of_transformers_after_the_warmup(name: str, warmup: int) -> None:
    """The warmup is ours: it begins with a rate that has an effect."""
    options, make = THEIRS[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = make(optimizer, STEPS - warmup, warmup)
    kind, train = name.split()[0], TrainSection(**options)
    for step in range(warmup, STEPS):
        found = rate_share(kind, step, STEPS, warmup, train)
        assert found == pytest.approx(theirs.get_last_lr()[0], abs=1e-12), step
        optimizer.step()
        theirs.step()
    assert [rate_share(kind, step, STEPS, 7, train) for step in range(7)] == [
        (step + 1) / 8 for step in range(7)
    ]


def test_closed_forms_by_hand() -> None:
    """Ten steps after a warmup of two; one step after the last the floor is reached."""
    forms: dict[str, tuple[dict[str, Any], Callable[[int], float]]] = {
        "linear": ({"floor": 0.1}, lambda n: 0.1 + 0.9 * (1 - n / 10)),
        "cosine": ({}, lambda n: (1 + math.cos(math.pi * n / 10)) / 2),
        "constant": ({}, lambda n: 1.0),
        "wsd": ({"decay": 4}, lambda n: 1.0 if n < 6 else (10 - n) / 4),
        "polynomial": ({}, lambda n: (1 - n / 10) ** 2),
        "inverse_sqrt": ({}, lambda n: math.sqrt(2 / (n + 2))),
        "cosine_restarts": ({}, lambda n: (1 + math.cos(math.pi * (n % 5) / 5)) / 2 * (n < 10)),
    }
    for kind, (options, wanted) in forms.items():
        train = TrainSection(**options)
        for n in range(11):
            found = rate_share(kind, 2 + n, 12, 2, train)
            assert found == pytest.approx(wanted(n), abs=1e-12), (kind, n)
    assert rate_share("wsd", 5, 12, 2, TrainSection(decay=0)) == 1.0
    assert rate_share("wsd", 11, 12, 2, TrainSection(decay=0)) == 1.0


@pytest.mark.parametrize("name", ["wsd", "polynomial", "inverse_sqrt", "cosine_restarts"])
def test_a_run_has_the_rates_of_its_schedule(
    name: str, make_recipe: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    train = {"scheduler": name, "epochs": 2, "warmup": 2, "floor": 0.1, "learning_rate": 0.01}
    done = fit(make_recipe(train=train))
    shares = {
        "wsd": [1, 1, 1, 1, 1, 0.5],
        "polynomial": [(1 - n / 6) ** 2 for n in range(6)],
        "inverse_sqrt": [math.sqrt(2 / (n + 2)) for n in range(6)],
        "cosine_restarts": [(1 + math.cos(math.pi * (n % 3) / 3)) / 2 for n in range(6)],
    }[name]
    wanted = [0.01 / 3, 0.02 / 3, *(0.01 * (0.1 + 0.9 * share) for share in shares)]
    assert [line["learning_rate"] for line in done.metrics] == pytest.approx(wanted, rel=1e-12)


def test_the_plan_says_which_schedule_there_is(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    for optimizer, wanted in (("adamw", "linear"), ("schedule_free", "constant")):
        made = make_plan(make_recipe(train={"optimizer": optimizer}), tmp_path / "out")
        value = made.values["train.scheduler"]
        assert (value.value, value.origin[:5]) == (wanted, "auto:")
        assert made.identity()["train.scheduler"] == wanted


def test_a_decay_that_is_longer_than_the_run_is_refused(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as said:
        make_plan(make_recipe(train={"scheduler": "wsd", "decay": 9}), tmp_path / "out")
    assert "train.decay: 9 is longer than the run" in str(said.value)
    assert "set train.decay: 1" in str(said.value.fix)
