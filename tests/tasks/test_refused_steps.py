"""Steps that are not finite, and runs that move nothing: G0, N03, N04, N06."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tasks.fitting import Fit, make_plan, same, tensors
from tuner.data.tokens import order as data_order
from tuner.errors import TrainingError
from tuner.methods import METHODS
from tuner.record import checkpoint
from tuner.run import build
from tuner.tasks import sft
from tuner.tasks import trained as tasks_trained

pytestmark = pytest.mark.usefixtures("in_process", "one_thread")


def poison(
    monkeypatch: pytest.MonkeyPatch, call: int, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Change what the loss function returns at one of its calls, counted from 1."""
    true, calls = sft.token_loss, itertools.count(1)

    def changed(*args: Any, **kwargs: Any) -> torch.Tensor:
        loss = true(*args, **kwargs)
        return change(loss) if next(calls) == call else loss

    monkeypatch.setattr(sft, "token_loss", changed)


def watch_model(monkeypatch: pytest.MonkeyPatch, use: Callable[[Any], Any]) -> None:
    """Call `use` with the model before a whole run trains it."""
    true = build.start

    def start(*args: Any) -> tasks_trained.Trained:
        trained = true(*args)
        use(trained.model)
        return trained

    monkeypatch.setattr(build, "start", start)


def infinite_gradient(call: int) -> Callable[[Any], None]:
    """Put inf into one element of one factor's gradient at a call of the backward pass."""
    calls = itertools.count(1)

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        if next(calls) == call:
            gradient = gradient.clone()
            gradient[0, 0] = float("inf")
        return gradient

    def use(live: Any) -> None:
        next(p for n, p in live.named_parameters() if "lora_B" in n).register_hook(hook)

    return use


@pytest.mark.parametrize(
    ("name", "word"), [("loss", "nan"), ("loss", "inf"), ("gradient norm", "inf")]
)
def test_a_step_that_is_not_finite_is_not_taken(
    name: str,
    word: str,
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """N03, N04: poison in the second micro-batch of step 3: exit 5, the weights and files of step
    2."""
    live: list[Any] = []
    watch_model(monkeypatch, live.append)
    if name == "loss":
        poison(monkeypatch, 6, lambda loss: loss * float(word))
    else:
        watch_model(monkeypatch, infinite_gradient(6))
    recipe = make_recipe(train={"micro_batch_size": 2, "save_steps": 1}, eval={"enabled": False})
    with pytest.raises(TrainingError) as caught:
        run_recipe(recipe)
    error = caught.value
    assert error.exit_code == 5
    # The Trainer's own norm turns inf into nan before ours is taken.
    assert error.what in (f"the {name} is {word} at step 3", "the gradient norm is nan at step 3")
    made = make_plan(recipe, tmp_path / "unused")
    stream = data_order.Stream(made.prepared.train, 42, 8, 12, 4, grouped=False)
    assert all(row.row in error.why for row in stream.step(0))
    second = tmp_path / "run" / "checkpoints" / "step-2"
    assert str(second) in error.why
    sealed = checkpoint.load(second)
    assert same(tensors(live[0]), sealed.tensors)
    assert all(bool(value.isfinite().all()) for value in sealed.optimizer_tensors.values())
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["error"]) == ("failed", error.as_dict())
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in metrics] == [1, 2]


def test_tensors_that_never_moved_are_named(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any]
) -> None:
    """G0: at a rate below what float32 can add only factors that start at 0 move."""
    recipe = make_recipe(
        train={"learning_rate": 1e-30}, eval={"enabled": False}, export={"formats": ["adapter"]}
    )
    record = run_recipe(recipe)
    named = record["unmoved_tensors"]
    assert len(named) == 14
    assert all("lora_A" in name for name in named)


def test_every_tensor_moves_at_a_sane_rate(
    make_recipe: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    """G0"""
    for method in ("lora", "dora", "full"):
        done = fit(make_recipe(method={"name": method}))
        assert done.unmoved == []
        after = done.tensors()
        assert not any(torch.equal(after[name], before) for name, before in done.start.items())


@pytest.mark.parametrize("method", ["lora", "dora", "full", "last_layer"])
def test_what_is_trained_is_float32_whatever_is_computed_in(
    method: str, make_recipe: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    """N06: at this rate bfloat16 weights would round nearly every update away."""
    recipe = make_recipe(
        method={"name": method}, model={"dtype": "bfloat16"}, train={"learning_rate": 1e-5}
    )
    done = fit(recipe)
    assert done.unmoved == []
    after = done.tensors()
    assert {value.dtype for value in after.values()} == {torch.float32}
    moved = [float((after[n] != v).float().mean()) for n, v in done.start.items()]
    assert sum(moved) / len(moved) > 0.8


def test_learning_nothing_is_an_error(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    """G0"""
    recipe = make_recipe(
        method={"name": "full"}, train={"learning_rate": 1e-30}, eval={"enabled": False}
    )
    with pytest.raises(TrainingError, match="nothing was learned") as caught:
        run_recipe(recipe)
    usual = METHODS["full"].learning_rate
    assert caught.value.fix.startswith(f"set train.learning_rate: {usual:g} (it is 1e-30)")
    assert not (tmp_path / "run" / "merged").exists()


def test_a_run_without_any_gradient_stops_at_its_first_step(
    make_recipe: Callable[..., Path], fit: Callable[..., Fit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """G0"""
    poison(monkeypatch, 1, lambda loss: loss * 0.0)
    with pytest.raises(TrainingError, match="nothing can be learned"):
        fit(make_recipe())
