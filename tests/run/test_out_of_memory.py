"""N15: memory that runs out in a step does not end a run, nor change what it learns."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.methods.test_capabilities import load_again
from tuner.console.console import Console
from tuner.errors import Interrupted, ResourceError
from tuner.export.proof import fresh_process
from tuner.machine import hardware
from tuner.machine.signals import StopRequest
from tuner.plan import make
from tuner.plan.devices import Devices
from tuner.recipe import load as recipe_load
from tuner.record.run_folder import RunFolder
from tuner.run import build, out_of_memory, spine
from tuner.run import resume as training
from tuner.tasks import gradients, rollouts
from tuner.tasks.callbacks import StepLoss
from tuner.tasks.leg import Leg, Step
from tuner.tasks.watch import HeldOut

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 4096 bytes. Error code 12 (Cannot allocate memory)"
)
Tensors = dict[str, torch.Tensor]
Train = Callable[..., tuple[Tensors, dict[str, Any], list[str]]]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Train as a recipe says, without scores and export: what is trained, run.json, warnings."""

    def go(recipe: Path, out: str, micro: int = 4, resume: bool = False, verb: str = "sft") -> Any:
        loaded = recipe_load.load(recipe, [f"train.micro_batch_size={micro}"], verb)
        made = make.make(loaded, hardware.detect(), output=tmp_path / out)
        warnings: list[str] = []
        with StopRequest() as stop, RunFolder.open(made.output, resume=resume) as folder:
            resumed = training.newest_checkpoint(made, made.output)[0] if resume else None
            trained = build.start(made, build.load(made))
            reporter = SimpleNamespace(
                progress=lambda *given: None, note=warnings.append, warn=warnings.append
            )
            spine.train(made, trained, folder, stop, reporter, HeldOut(), resumed)
            record = folder.record
        named = trained.model.named_parameters()
        return {n: p.detach().clone() for n, p in named if p.requires_grad}, record, warnings

    return go


def exhaust(
    monkeypatch: pytest.MonkeyPatch, step: int, most: int, error: Exception | None = None
) -> list[int]:
    """Let the second forward pass of a step, or the only one, find no memory for more rows.

    Returns:
        The sizes that failed, filled as it happens.
    """
    true, failed = StepLoss.__call__, list[int]()

    def checked(self: StepLoss, *args: Any, **kwargs: Any) -> Any:
        if self.leg.step.number + 1 == step:
            size = self.leg.plan.micro_batch_size
            if size > most and len(self.parts) + 1 == min(2, self.micro_batches()):
                failed.append(size)
                raise error or RuntimeError(CPU)
        return true(self, *args, **kwargs)

    monkeypatch.setattr(StepLoss, "__call__", checked)
    return failed


def distance(one: Tensors, other: Tensors) -> float:
    assert one.keys() == other.keys()
    return max(float((one[k] - other[k]).norm() / one[k].norm()) for k in one)


def lines(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


@pytest.mark.parametrize(
    "error", [RuntimeError(CPU), MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")]
)
def test_the_step_is_done_anew_with_the_same_update(
    error: Exception,
    make_recipe: Callable[..., Path],
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """N15: four steps of eight rows; in the third, four rows a time are too many, and so are
    two."""
    recipe = make_recipe(train={"batch_size": 8, "epochs": 2}, method={"r": 4})
    undisturbed, record, warnings = train(recipe, "undisturbed")
    assert (record.get("out_of_memory"), warnings) == (None, [])
    failed = exhaust(monkeypatch, 3, 1, error)
    found, record, warnings = train(recipe, "run")
    assert failed == [4, 2]
    assert distance(undisturbed, found) < 1e-5
    told = [(item["step"], item["from"], item["to"]) for item in record["out_of_memory"]]
    assert told == [(3, 4, 2), (3, 2, 1)]
    assert ["1 row per" in text for text in warnings] == [False, True]
    for before, now in zip(lines(tmp_path / "undisturbed"), lines(tmp_path / "run"), strict=True):
        assert now == pytest.approx(before, rel=1e-5)


def test_what_a_step_draws_is_drawn_anew(
    make_recipe: Callable[..., Path], train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """N15: with dropout, and from the first step on: bit for bit the run that began with that
    size."""
    recipe = make_recipe(
        train={"batch_size": 8, "epochs": 2}, method={"name": "dora", "r": 4, "dropout": 0.2}
    )
    wanted, _, _ = train(recipe, "small", micro=2)
    failed = exhaust(monkeypatch, 1, 2)
    found, _, _ = train(recipe, "run")
    assert failed == [4]
    assert distance(wanted, found) == 0.0
    assert lines(tmp_path / "small") == lines(tmp_path / "run")


def test_a_resumed_run_keeps_the_size_that_was_found(
    make_recipe: Callable[..., Path], train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N15"""
    recipe = make_recipe(
        train={"batch_size": 8, "epochs": 2}, method={"name": "lora", "r": 4, "dropout": 0.2}
    )
    with monkeypatch.context() as patch:
        exhaust(patch, 2, 1)
        wanted, _, _ = train(recipe, "whole")
    clip = gradients.clip

    def stopped(leg: Leg, *args: Any) -> float:
        if leg.step.number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return clip(leg, *args)

    with monkeypatch.context() as patch:
        exhaust(patch, 2, 1)
        patch.setattr(gradients, "clip", stopped)
        with pytest.raises(Interrupted):
            train(recipe, "run")
    found, record, warnings = train(recipe, "run", resume=True)
    assert distance(wanted, found) == 0.0
    assert warnings == []
    assert [item["to"] for item in record["out_of_memory"]] == [2, 1]


def test_one_row_too_many_is_told_with_what_to_do(
    make_recipe: Callable[..., Path], train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N15"""
    exhaust(monkeypatch, 2, 0)
    with pytest.raises(ResourceError, match="with one row per forward pass") as caught:
        train(make_recipe(method={"r": 4}), "run")
    assert caught.value.exit_code == 7
    for way in ("train.gradient_checkpointing: true", "method.r"):
        assert way in caught.value.fix
    # What the longest row has: less would change something.
    assert 20 < int(caught.value.fix.partition("max_length below ")[2].partition(",")[0]) < 64
    assert "step 2, train.micro_batch_size 1" in caught.value.why


def test_an_update_that_has_begun_is_not_done_twice(
    make_recipe: Callable[..., Path], train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N15: it ends the run; the resumed one has the smaller size and comes to the same."""
    recipe = make_recipe(train={"batch_size": 8, "epochs": 2, "save_steps": 1}, method={"r": 4})
    undisturbed, _, _ = train(recipe, "undisturbed")
    step = torch.optim.AdamW.step

    def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state and next(iter(self.state.values()))["step"] == 2:
            step(self, *args, **kwargs)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", broken)
        with pytest.raises(ResourceError, match="its update had begun") as caught:
            train(recipe, "run")
    assert "--resume" in caught.value.fix
    found, record, _ = train(recipe, "run", resume=True)
    assert distance(undisturbed, found) < 1e-5
    assert [(item["step"], item["to"]) for item in record["out_of_memory"]] == [(3, 2)]


def test_a_whole_run_goes_on_and_says_so(
    make_recipe: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """N15: on the screen, in run.log and in run.json."""
    exhaust(monkeypatch, 2, 2, torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"))
    monkeypatch.setattr(fresh_process, "fresh_logits", load_again)
    loaded = recipe_load.load(
        make_recipe(export={"formats": ["adapter"]}, eval={"samples": 0}), (), "sft"
    )
    made = make.make(loaded, hardware.detect(), output=tmp_path / "run")
    spine.run(made, resume=False, console=Console())
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "done"
    (told,) = record["out_of_memory"]
    assert (told["step"], told["from"], told["to"]) == (2, 4, 2)
    said = "out of memory in step 2 (CUDA out of memory. Tried 2 GiB)"
    assert f"warning: {said}" in capsys.readouterr().err
    assert said in (tmp_path / "run" / "run.log").read_text()


@pytest.mark.parametrize(
    ("place", "doing"),
    [
        ("tuner.run.build.load", "loading the base model"),
        ("tuner.evaluate.likelihood._plain", "scoring 4 held-out rows before training"),
        ("tuner.export.run_end.export_run", "exporting adapter"),
    ],
)
def test_outside_a_step_it_is_told_with_what_to_do(
    place: str,
    doing: str,
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """N15: exit code 7, with the phase; the command with --resume goes on once memory is free."""
    monkeypatch.setattr(fresh_process, "fresh_logits", load_again)
    recipe = make_recipe(export={"formats": ["adapter"]}, train={"max_steps": 1})

    def exhausted(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(CPU)

    with monkeypatch.context() as full:
        full.setattr(place, exhausted)
        with pytest.raises(ResourceError) as caught:
            run_recipe(recipe)
    assert caught.value.what.startswith(f"out of memory while {doing}")
    assert "can't allocate memory" in caught.value.why
    assert "--resume" in caught.value.fix
    assert "train.micro_batch_size below 4" in caught.value.fix
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["error"]["exit_code"]) == ("failed", 7)
    assert run_recipe(recipe, resume=True)["status"] == "done"


@pytest.mark.parametrize("algorithm", ["ppo", "rloo"])
def test_answers_are_drawn_and_judged_anew(
    algorithm: str,
    make_recipe: Callable[..., Path],
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """N15: what a task remembers of the half-done step is forgotten, too."""
    recipe = make_recipe(
        method={"name": "lora", "r": 4},
        train={"batch_size": 4, "max_steps": 3},
        rlhf={
            "algorithm": algorithm,
            "responses_per_prompt": 2,
            "reward": [{"rule": "length", "max": 4}],
            "max_new_tokens": 6,
            "missing_eos_penalty": 0,
            "kl_limit": 1000,
        },
        **({"ppo": {"normalize_scores": True}} if algorithm == "ppo" else {}),
    )
    wanted, _, _ = train(recipe, "small", micro=2, verb="rlhf")
    failed = 0
    if algorithm == "ppo":
        true = rollouts.token_scores

        def scores(made: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal failed
            if torch.is_grad_enabled() and made.micro_batch_size > 2:
                failed += 1
                raise RuntimeError(CPU)
            return true(made, *args, **kwargs)

        monkeypatch.setattr(rollouts, "token_scores", scores)
    else:
        from trl import RLOOTrainer

        loss = RLOOTrainer.compute_loss

        def compute(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal failed
            if self.args.per_device_train_batch_size > 2:
                failed += 1
                raise RuntimeError(CPU)
            return loss(self, *args, **kwargs)

        monkeypatch.setattr(RLOOTrainer, "compute_loss", compute)
    found, record, _ = train(recipe, "run", verb="rlhf")
    assert failed == 1
    assert [item["to"] for item in record["out_of_memory"]] == [2]
    assert distance(wanted, found) == 0.0
    assert lines(tmp_path / "small") == lines(tmp_path / "run")


def test_several_processes_refuse_together(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """N15: no rank can change alone what all have to cut the same way."""
    loaded = recipe_load.load(make_recipe(train={"batch_size": 8}), (), "sft")
    made = make.make(loaded, hardware.detect(), output=tmp_path / "run")
    two = replace(made, devices=Devices(2), micro_batch_size=4)
    with RunFolder.open(tmp_path / "run", resume=False) as folder:
        error = torch.OutOfMemoryError("CUDA out of memory.")
        with pytest.raises(ResourceError, match="several processes") as caught:
            out_of_memory.shrink(two, error, Step(0), folder, Console(quiet=True))
        assert "out_of_memory" not in folder.record
    assert "train.micro_batch_size: 2" in caught.value.fix


def test_sizes_divide_the_rows_of_a_step(make_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """N15"""
    loaded = recipe_load.load(make_recipe(train={"batch_size": 18}), (), "sft")
    made = make.make(loaded, hardware.detect(), output=tmp_path / "run")
    sizes = []
    size = 18
    while (smaller := out_of_memory.resized(made, size // 2)) is not None:
        size = smaller.micro_batch_size
        sizes.append((size, smaller.gradient_accumulation_steps))
    assert sizes == [(9, 2), (3, 6), (1, 18)]


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes do not fit"), ValueError("out of memory."), OSError(12, "memory")],
)
def test_other_errors_are_no_lack_of_memory(error: Exception) -> None:
    """N15"""
    assert not out_of_memory.ran_out(error)
