"""Every key that touches the update changes it: H08."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.fitting import Fit, Tensors, same
from tuner.recipe.schema_train import OPTIMIZER_NAMES

pytestmark = pytest.mark.usefixtures("in_process", "one_thread")


# H08: every key that touches the update, with another value than the fixture's or the default.
LIVE: list[tuple[str, Any]] = [
    ("train.batch_size", 8),
    ("train.learning_rate", 0.02),
    ("train.scheduler", "cosine"),
    ("train.scheduler", "constant"),
    *(("train.scheduler", name) for name in ("wsd", "polynomial", "inverse_sqrt")),
    ("train.scheduler", "cosine_restarts"),
    *(("train.optimizer", name) for name in OPTIMIZER_NAMES if "adamw" not in name),
    ("train.floor", 0.3),
    ("train.embedding_noise", 5),
    ("train.label_smoothing", 0.1),
    ("train.max_grad_norm", "none"),
    ("train.warmup", 2),
    ("train.weight_decay", 0.5),
    ("train.max_grad_norm", 0.1),
    ("train.epochs", 1.5),
    ("train.max_steps", 2),
    ("train.adam_beta1", 0.5),
    ("train.adam_beta2", 0.9),
    ("train.adam_epsilon", 0.01),
    ("run.seed", 7),
    ("data.max_length", 32),
    ("data.cut", "drop"),
    ("data.max_rows", 8),
    ("data.learn", "all"),
    ("data.system", "Be brief."),
    ("data.instruction", "Sort the letter."),
    ("method.name", "rslora"),
    ("method.name", "dora"),
    ("method.r", 4),
    ("method.alpha", 5),
    ("method.dropout", 0.3),
    ("method.target_modules", ["q_proj", "v_proj"]),
    *(("method.init", name) for name in ("pissa", "olora", "eva")),
]


PLAIN: list[Tensors] = []


@pytest.mark.parametrize(("key", "value"), LIVE)
def test_every_key_of_the_update_changes_it(
    key: str, value: Any, make_recipe: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    """H08"""
    section, name = key.split(".")
    if not PLAIN:
        PLAIN.append(fit(make_recipe()).tensors())
    sections: dict[str, Any] = {section: {name: value}}
    if key == "data.max_length":
        sections["data"]["long"] = "truncate"
    if key == "data.cut":
        sections["data"]["max_length"] = 32
    other = fit(make_recipe(**sections))
    assert not same(PLAIN[0], other.tensors())


@pytest.mark.parametrize(
    ("scheduler", "key", "value"),
    [("wsd", "decay", 0.5), ("polynomial", "power", 3), ("cosine_restarts", "cycles", 3)],
)
def test_every_key_of_a_schedule_changes_it(
    scheduler: str,
    key: str,
    value: float,
    make_recipe: Callable[..., Path],
    fit: Callable[..., Fit],
) -> None:
    """H08"""
    rates = [
        [line["learning_rate"] for line in fit(make_recipe(train=train)).metrics]
        for train in ({"scheduler": scheduler}, {"scheduler": scheduler, key: value})
    ]
    assert len(rates[0]) == 4
    assert rates[0] != rates[1]


def test_the_same_recipe_changes_nothing(
    make_recipe: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    """H08: what the liveness tests see is the key, not chance."""
    assert same(fit(make_recipe()).tensors(), fit(make_recipe()).tensors())


def test_the_seed_decides_the_order_too(
    make_recipe: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    """H08: full weights start from no random numbers: what differs is the order of the rows."""
    full = {"method": {"name": "full"}}
    one, other = (fit(make_recipe(**full, run={"seed": seed})) for seed in (42, 7))
    assert same(one.start, other.start)
    assert [line["tokens"] for line in one.metrics] != [line["tokens"] for line in other.metrics]


def test_keys_that_leave_the_update_alone_are_alive_too(
    make_recipe: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    """H08: Micro-batches are forward passes, packing makes one row of many."""
    shapes: list[list[tuple[int, int]]] = []

    def look(live: Any) -> None:
        shapes.append([])
        live.get_input_embeddings().register_forward_hook(
            lambda module, inputs, output: shapes[-1].append(tuple(inputs[0].shape))
        )

    train = {"batch_size": 16, "micro_batch_size": 16}
    fit(make_recipe(train=train), look)
    fit(make_recipe(train={**train, "micro_batch_size": 4}), look)
    fit(make_recipe(train=train, data={"packing": False}), look)
    assert [len(passes) for passes in shapes] == [1, 4, 1]
    assert [passes[0][0] for passes in shapes] == [1, 1, 16]

    saved = fit(make_recipe(train={"save_steps": 3}))
    names = sorted(path.name for path in (saved.folder / "checkpoints").iterdir())
    assert names == ["step-3", "step-4"]
