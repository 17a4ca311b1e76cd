"""The evaluations of every task: scored in the midst of training as after it, and disturbing
nothing; and what follows from the scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.conftest import write_rows
from tests.tasks.policies import stages, write_recipe
from tests.tasks.preferences import make as reward_plan
from tests.tasks.preferences import pairs
from tuner import evaluate
from tuner.console.console import Console
from tuner.errors import TrainingError, TunerError
from tuner.machine import hardware
from tuner.machine.signals import StopRequest
from tuner.plan import make as plan_make
from tuner.plan.evaluations import Evaluations
from tuner.plan.plan import Plan
from tuner.recipe import load as recipe_load
from tuner.record.run_folder import RunFolder
from tuner.run import build, held_out, spine
from tuner.tasks.watch import HeldOut, Watch, undisturbed

pytestmark = pytest.mark.usefixtures("in_process", "one_thread")

EVAL = {"enabled": True, "every": 1, "samples": 0}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, bases: Callable[[str], Path]) -> Path:
    return stages(tmp_path_factory.mktemp("watch"), bases("llama"))


def trained(made: Plan) -> tuple[dict[str, torch.Tensor], Watch, dict[str, float]]:
    """The tensors that the steps leave, the evaluations, and the scores afterwards."""
    with StopRequest() as stop, RunFolder.open(made.output, resume=False) as folder:
        live, console = build.start(made, build.load(made)), Console(quiet=True)
        how = held_out.while_training(made, live, console, lambda number: None)
        watch = spine.train(made, live, folder, stop, console, how, None)
    left = {name: p.detach().clone() for name, p in live.model.named_parameters()}
    return left, watch, evaluate.score(made, live.model, judge=live.judge)


def check(made: Plan) -> None:
    seen, watch, after = trained(made)
    assert watch.last is not None
    assert watch.last["step"] == made.steps
    assert watch.last["scores"] == after
    assert after
    unseen, blind, _ = trained(
        replace(made, evaluations=None, output=made.output.with_name(f"{made.output.name}-blind"))
    )
    assert blind.last is None
    assert unseen.keys() == seen.keys()
    assert all(torch.equal(unseen[name], seen[name]) for name in seen)


def test_supervised_in_half_precision(make_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """The Trainer's autocast is not around the scores: they are those of the model afterwards."""
    from tests.tasks.fitting import make_plan

    model = {"dtype": "bfloat16"}
    method = {"name": "lora", "dropout": 0.2}
    recipe = make_recipe(model=model, method=method, eval={**EVAL, "metrics": ["loss"]})
    check(make_plan(recipe, tmp_path / "run"))


@pytest.mark.slow
def test_generated_answers(make_recipe: Callable[..., Path], tmp_path: Path) -> None:
    from tests.tasks.fitting import make_plan

    asked = {**EVAL, "every": 2, "metrics": ["loss", "exact_match"], "max_new_tokens": 4}
    check(make_plan(make_recipe(eval=asked), tmp_path / "run"))


@pytest.mark.slow
def test_rewards(preferences: Callable[..., Path]) -> None:
    check(reward_plan(preferences(method={"name": "lora", "dropout": 0.2}, eval=EVAL)))


@pytest.mark.parametrize(
    ("algorithm", "start"),
    [
        ("ppo", "base"),
        pytest.param("grpo", "base", marks=pytest.mark.slow),
        pytest.param("dpo", "base", marks=pytest.mark.slow),
        ("dpo", "sft"),
    ],
)
def test_policies(algorithm: str, start: str, work: Path, tmp_path: Path) -> None:
    """Answers are sampled with seeds of their own; the model that is lent to trl is undisturbed."""
    recipe = yaml.safe_load(write_recipe(work, tmp_path / "r.yaml", eval=EVAL).read_text())
    recipe["rlhf"]["algorithm"] = algorithm
    if algorithm != "ppo":
        del recipe["ppo"]
    if algorithm == "dpo":
        write_rows(tmp_path / "pairs.jsonl", pairs(16))
        recipe["data"] = {"train": str(tmp_path / "pairs.jsonl"), "eval": 4}
        recipe["rlhf"] = {"algorithm": "dpo"}
    if start == "sft":
        recipe["rlhf"]["policy"] = str(work / "sft")
        del recipe["method"]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    loaded = recipe_load.load(tmp_path / "r.yaml", verb="rlhf")
    check(plan_make.make(loaded, hardware.detect(), output=tmp_path / "run"))


def test_a_figure_that_only_describes_is_no_aim(preferences: Callable[..., Path]) -> None:
    asked = {"every": 1, "stop": {"metric": "length_bias", "patience": 1}}
    with pytest.raises(TunerError, match="length_bias describes a model") as caught:
        reward_plan(preferences(eval=asked))
    assert "set eval.stop.metric to one of pair_loss, pair_accuracy" in str(caught.value.fix)
    with pytest.raises(TunerError, match="length_bias describes a model") as caught:
        reward_plan(preferences(eval=asked | {"metrics": ["length_bias"]}))
    assert "set eval.stop.metric to one of pair_loss, pair_accuracy" in str(caught.value.fix)


def watched(*values: float, higher: bool = False, **asked: Any) -> Watch:
    made = Evaluations(
        steps=tuple(range(1, 100)),
        metric="loss",
        higher=higher,
        **{"keep_best": True, "patience": 2, "min_change": 0.0, **asked},
    )
    watch = Watch(made)
    for step, value in enumerate(values, 1):
        watch.see(step, {"loss": value})
    return watch


@pytest.mark.parametrize(
    ("values", "asked", "stopped", "best"),
    [
        ((3, 2, 2, 2), {}, True, 2),
        ((3, 2, 2, 1.9), {}, False, 4),
        ((3, 4, 5), {}, True, 1),
        ((3, 4, 5), {"higher": True}, False, 3),
        ((-3, -2.9, -2.8), {"higher": True, "min_change": "10%"}, True, 3),
        ((3, 2.9, 2.8), {"min_change": 0.15}, False, 3),
        ((3, 2.9, 2.75), {"min_change": 0.25}, False, 3),
        ((3, 2.95, 2.9), {"min_change": 0.15}, True, 3),
        # Small gains add up: they count from the last one that was large enough.
        ((3, 2.9, 2.5, 2.4, 2.3), {"min_change": "10%"}, True, 5),
        ((3, 4, 5), {"patience": None}, False, 1),
    ],
)
def test_patience_and_the_best(
    values: tuple[float, ...], asked: dict[str, Any], stopped: bool, best: int
) -> None:
    watch = watched(*values, **asked)
    assert watch.stopped is stopped
    assert watch.best is not None
    assert watch.best["step"] == best
    again = Watch(watch.asked, saved=watch.state)
    assert again.state == watch.state
    assert again.stopped is stopped
    assert not again.due(len(values))
    assert again.due(len(values) + 1)


def test_scores_of_other_rows_are_not_compared() -> None:
    watch = watched(3, 2)
    other = Watch(watch.asked, saved=watch.state, scored={"held_out_sha256": "other"})
    assert other.outdated
    assert other.best is None
    assert other.waited == 0


def test_a_score_that_is_not_finite_chooses_nothing() -> None:
    with pytest.raises(TrainingError, match="loss of the held-out rows is not finite"):
        watched(3, math.nan)
    shown = watched(3, math.nan, 2, patience=None, keep_best=False)
    assert shown.best is not None
    assert shown.best["step"] == 3


def test_random_numbers_and_modes_are_left_alone() -> None:
    import random

    import numpy as np

    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(1, 1))
    model[0].eval()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with undisturbed(model):
        model.train()
        torch.rand(3), random.random(), np.random.rand()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    assert [module.training for module in model.modules()] == [True, False, True]


def test_nothing_is_scored_that_is_not_asked_for() -> None:
    watch = Watch(None, HeldOut().score)
    assert not watch.due(1)
    assert not watch.stopped
    assert watch.record(10) == {}
