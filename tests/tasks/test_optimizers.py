"""Each optimizer: the update is the library's own, the state is foreseen, resuming is exact."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import optimizer as torch_optimizer

from tests.run.launched import metrics, record
from tests.tasks.fitting import Fit, Tensors, make_plan, same
from tuner.recipe.schema_train import OPTIMIZER_NAMES
from tuner.record import checkpoint
from tuner.record.run_folder import RunFolder
from tuner.tasks import averaged

pytestmark = pytest.mark.usefixtures("in_process", "one_thread")

RATE = 0.004
# Decay, a warmup and a rate that falls; 16 rows by 4.
TRAIN: dict[str, Any] = {
    "batch_size": 4,
    "learning_rate": RATE,
    "warmup": 1,
    "weight_decay": 0.1,
    "save_steps": 1,
    "checkpoints": 9,
}
METHODS = ("lora", "full")


def sections(name: str, method: str, **train: Any) -> dict[str, Any]:
    return {"method": {"name": method}, "train": {**TRAIN, "optimizer": name, **train}}


Step = dict[int, torch.Tensor]


@pytest.fixture
def gradients() -> Iterator[list[Step]]:
    """The gradients that each step of a run was made with, by the id of the parameter."""
    steps: list[Step] = []
    inside: list[int] = []

    def see(optimizer: Any, *_: Any) -> None:
        # Optimizers that make one step together are each called in it.
        if not inside:
            every = (p for group in optimizer.param_groups for p in group["params"])
            steps.append({id(p): p.grad.clone() for p in every if p.grad is not None})
        inside.append(1)

    before = torch_optimizer.register_optimizer_step_pre_hook(see)
    after = torch_optimizer.register_optimizer_step_post_hook(lambda *_: inside.pop() and None)
    yield steps
    before.remove()
    after.remove()


def theirs(name: str, weights: Tensors) -> list[torch.optim.Optimizer]:
    """The libraries' optimizers, as their documents say, over copies of the trained tensors."""
    import bitsandbytes
    import schedulefree

    words = [n for n in weights if "embed_tokens" in n or "wte" in n]
    outer = [*words, *(n for n in weights if "lm_head" in n or weights[n].ndim != 2)]
    apart = {"muon": outer, "adamw8bit": words, "paged_adamw8bit": words}.get(name, [])

    def groups(names: list[str]) -> list[dict[str, Any]]:
        made = [
            {"params": [weights[n] for n in names if (weights[n].ndim > 1) == wide],
             "weight_decay": decay}
            for wide, decay in ((True, 0.1), (False, 0.0))
        ]  # fmt: skip
        return [group for group in made if group["params"]]

    own = groups([n for n in weights if n not in apart])
    adam = {"lr": RATE, "betas": (0.9, 0.999), "eps": 1e-8}
    make: dict[str, Callable[[], Any]] = {
        "adamw": lambda: torch.optim.AdamW(own, **adam),
        "adamw8bit": lambda: bitsandbytes.optim.AdamW8bit(own, **adam),
        "paged_adamw8bit": lambda: bitsandbytes.optim.AdamW8bit(own, **adam),
        "adafactor": lambda: torch.optim.Adafactor(own, lr=RATE),
        "lion": lambda: bitsandbytes.optim.Lion(own, lr=RATE, betas=(0.9, 0.99)),
        "muon": lambda: torch.optim.Muon(own, lr=RATE, adjust_lr_fn="match_rms_adamw"),
        "schedule_free": lambda: schedulefree.AdamWScheduleFree(own, **adam),
        "sgd": lambda: torch.optim.SGD(own, lr=RATE, momentum=0.9),
    }
    made = [make[name]()]
    if apart:
        made.append(torch.optim.AdamW(groups(apart), **adam))
    return made


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", OPTIMIZER_NAMES)
def test_the_update_is_the_librarys_own(
    name: str,
    method: str,
    gradients: list[Step],
    make_recipe: Callable[..., Path],
    fit: Callable[..., Fit],
) -> None:
    """Four steps with the run's gradients: every tensor is the same to the last bit."""
    done = fit(make_recipe(**sections(name, method)))
    ids = {n: id(p) for n, p in done.model.named_parameters() if n in done.start}
    weights = {n: value.clone().requires_grad_() for n, value in done.start.items()}
    own = theirs(name, weights)
    free = name == "schedule_free"
    if free:
        own[0].train()  # type: ignore[attr-defined]
    assert len(gradients) == 4
    # Those of this test are seen as well.
    for number, step in enumerate(list(gradients)):
        falls = 1.0 if free else (4 - number) / 3
        for optimizer in own:
            for group in optimizer.param_groups:
                group["lr"] = RATE * (0.5 if number == 0 else falls)
        for n, value in weights.items():
            value.grad = step[ids[n]].clone()
        for optimizer in own:
            optimizer.step()
    if free:
        own[0].eval()  # type: ignore[attr-defined]
    assert same(done.tensors(), {n: value.detach() for n, value in weights.items()})
    assert not same(done.tensors(), done.start)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", OPTIMIZER_NAMES)
def test_the_plan_counts_its_bytes(
    name: str, method: str, make_recipe: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    """What the plan says of the optimizer is what its tensors take, except for counters and the
    tables of 256 codes."""
    done = fit(make_recipe(**sections(name, method, epochs=0.25)))
    kept = {
        key: value
        for key, value in done.sealed(1).optimizer_tensors.items()
        if "qmap" not in key and value.ndim > 0 and not key.endswith("/training")
    }
    found = sum(value.numel() * value.element_size() for value in kept.values())
    assert found == done.plan.facts["memory"]["optimizer"] > 0
    size = sum(value.numel() for value in done.start.values())
    saved = done.plan.facts["disk"]["checkpoints"] / 10 - (1 << 20)
    assert saved == 4 * size * (2 if name == "schedule_free" else 1) + found


class Killed(Exception):
    """What a process that is killed leaves behind is left behind here."""


def quick(name: str, method: str) -> dict[str, Any]:
    """A recipe of six steps that only trains."""
    made = sections(name, method, epochs=1.5, save_steps=2)
    dropout = {"dropout": 0.2} if method == "lora" else {}
    return {
        **made,
        "method": {**made["method"], **dropout},
        "eval": {"enabled": False, "samples": 0},
        "export": {"formats": []},
    }


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((name, "full") for name in OPTIMIZER_NAMES if name != "lion"),
        *((name, "lora") for name in ("lion", "muon", "schedule_free")),
    ],
)
def test_a_run_that_was_killed_ends_the_same(
    name: str,
    method: str,
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed after step 5: from the checkpoint of step 4 every byte of the last one is the same."""
    recipe = make_recipe(**quick(name, method))
    run_recipe(recipe, "whole")
    append = RunFolder.append_metrics

    def dies(folder: RunFolder, line: dict[str, Any]) -> None:
        append(folder, line)
        if line["step"] == 5:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_metrics", dies)
        with pytest.raises(Killed):
            run_recipe(recipe, "run")
    run_recipe(recipe, "run", resume=True)
    assert [each["from_step"] for each in record(tmp_path / "run")["resumes"]] == [4]
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    for file in ("model.safetensors", "optimizer.safetensors", "state.json"):
        one, other = (tmp_path / each / "checkpoints/step-6" / file for each in ("run", "whole"))
        assert one.read_bytes() == other.read_bytes(), file


@pytest.mark.parametrize("method", METHODS)
def test_schedule_free_keeps_the_average_and_trains_what_it_averages(
    method: str, make_recipe: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    """Checkpoints have the average of what training went through, weighed by squared rates; how
    often they are written changes no bit."""
    often = fit(make_recipe(**sections("schedule_free", method)))
    seldom = fit(make_recipe(**sections("schedule_free", method, save_steps=50)))
    assert same(often.tensors(), seldom.tensors())
    assert same(often.tensors(), often.sealed(4).tensors)
    for n, start in often.start.items():
        average, weight = torch.zeros_like(start, dtype=torch.float64), 0.0
        for step in range(1, 5):
            sealed = often.sealed(step)
            own = (0.5 if step == 1 else 1.0) * RATE
            average += sealed.optimizer_tensors[f"{n}/z"].double() * own**2
            weight += own**2
            wanted = (average / weight).float()
            torch.testing.assert_close(sealed.tensors[n], wanted, rtol=2e-5, atol=2e-6)
            kept = sealed.optimizer_tensors[f"{n}/training"]
            assert step == 1 or not torch.equal(kept, sealed.tensors[n])


def test_schedule_free_is_scored_by_its_average(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    """The scores while training are those of the model that is kept, and scoring changes no bit."""
    asked = {"samples": 0, "metrics": ["loss"]}
    plain = {**sections("schedule_free", "lora"), "export": {"formats": []}}
    run_recipe(make_recipe(**plain, eval=asked), "plain")
    found = run_recipe(make_recipe(**plain, eval={**asked, "every": 2}), "scored")
    assert found["scores"] == record(tmp_path / "plain")["scores"]
    assert found["scores"]["after"] == found["evaluation"]["last"]["scores"]
    lines = {line["step"]: line for line in metrics(tmp_path / "scored") if "eval_loss" in line}
    assert lines[4]["eval_loss"] == found["scores"]["after"]["loss"] != lines[2]["eval_loss"]
    one, other = (checkpoint.load(tmp_path / each / "checkpoints/step-4") for each in RUNS)
    assert same(one.tensors, other.tensors)
    assert same(one.optimizer_tensors, other.optimizer_tensors)


RUNS = ("plain", "scored")


def test_an_error_while_the_average_is_in_place_restores_the_weights() -> None:
    """Out of memory in an evaluation: the run goes on with the weights in training."""
    import schedulefree

    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = schedulefree.AdamWScheduleFree([weight], lr=0.1)
    optimizer.train()
    for number in range(3):
        weight.grad = torch.full((3,), number - 1.5)
        optimizer.step()
    before = weight.detach().clone()

    def scored() -> None:
        with averaged.averaged(optimizer):
            assert not torch.equal(weight, before)
            raise MemoryError

    with pytest.raises(MemoryError):
        scored()
    assert torch.equal(weight, before)
    assert optimizer.param_groups[0]["train_mode"]


def test_no_limit_leaves_gradients_as_they_are(
    gradients: list[Step], make_recipe: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    """train.max_grad_norm: none; the norm is still in the metrics."""
    rate = {"learning_rate": 0.05, "epochs": 0.25}
    free = fit(make_recipe(train={"max_grad_norm": "none", **rate}))
    clipped = fit(make_recipe(train={"max_grad_norm": 0.01, **rate}))
    norms = [math.sqrt(sum(float(g.pow(2).sum()) for g in step.values())) for step in gradients]
    assert norms[0] == pytest.approx(free.metrics[0]["grad_norm"], rel=1e-6)
    assert norms[1] == pytest.approx(0.01, rel=1e-3)
    assert free.metrics[0]["grad_norm"] == clipped.metrics[0]["grad_norm"] > 1.0


def test_each_has_a_rate_of_its_own(make_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """The plan says whose default it is, and what the optimizer makes of it."""
    rates = {}
    for name in OPTIMIZER_NAMES:
        train = {"optimizer": name, "learning_rate": "auto"}
        value = make_plan(make_recipe(train=train), tmp_path / "out").values["train.learning_rate"]
        assert value.origin.startswith("auto: the default of lora")
        assert (f"for {name}" in value.origin) == (value.value != 2e-4)
        rates[name] = value.value
    assert rates == {
        "adamw": 2e-4, "adamw8bit": 2e-4, "paged_adamw8bit": 2e-4, "adafactor": 1e-2,
        "lion": 4e-5, "muon": 2e-4, "schedule_free": 4e-4, "sgd": 0.1,
    }  # fmt: skip
    made = make_plan(
        make_recipe(
            method={"name": "staged"}, train={"optimizer": "lion", "learning_rate": "auto"}
        ),
        tmp_path / "out",
    )
    assert [stage.learning_rate for stage in made.stages] == [4e-5, 4e-6]
