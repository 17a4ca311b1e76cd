"""A finished run gets more steps; and what it had after one of them is used."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import rows
from tests.export.exporting import command
from tests.run.launched import metrics, record
from tuner import cli
from tuner.console.console import Console
from tuner.errors import IntegrityError, ModelError, RecipeError
from tuner.inference import open_model
from tuner.machine import hardware
from tuner.model.adapters import saved_models
from tuner.model.adapters.steps import at_step
from tuner.plan import make as plan_make
from tuner.recipe import load as recipe_load
from tuner.run import extend, spine
from tuner.run import resume as resumption
from tuner.tasks.optimizer import rate_share

pytestmark = pytest.mark.usefixtures("in_process")
WEIGHTS = "adapter/adapter_model.safetensors"
SECTIONS: dict[str, Any] = {
    "method": {"name": "lora", "r": 2, "dropout": 0.1},
    "eval": {"samples": 0},
    "export": {"formats": ["adapter"]},
}
CONSTANT = {"scheduler": "constant", "warmup": 0, "save_steps": 1}
Go = Callable[..., Any]


@pytest.fixture
def go(tmp_path: Path) -> Go:
    """Run a recipe with overrides, and return the record."""

    def run(recipe: Path, out: str, *overrides: str, resume: bool = False) -> Any:
        loaded = recipe_load.load(recipe, overrides)
        plan = plan_make.make(loaded, hardware.detect(), output=tmp_path / out)
        return spine.run(plan, resume=resume, console=Console(quiet=True))

    return run


@pytest.mark.slow
def test_an_epoch_more_ends_as_if_it_had_been_asked_for_at_first(
    make_recipe: Callable[..., Path], go: Go, tmp_path: Path
) -> None:
    """At a constant rate, where the schedules are the same; killed in between, it goes on, too."""
    recipe = make_recipe(**SECTIONS, train=CONSTANT)
    go(recipe, "run")
    first = (tmp_path / "run" / WEIGHTS).read_bytes()
    found = go(recipe, "run", "train.epochs=2", resume=True)
    go(recipe, "whole", "train.epochs=2")
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    assert (tmp_path / "run/until-step-4" / WEIGHTS).read_bytes() == first
    assert [line["step"] for line in metrics(tmp_path / "run") if "loss" in line] == [*range(1, 9)]
    assert found["resumes"][-1]["extended"] == {
        "from_step": 4,
        "steps": [4, 8],
        "epochs": [1.0, 2.0],
        "left_out_rows": 0,
    }
    assert found["scores"]["after"] == record(tmp_path / "whole")["scores"]["after"]
    # Resumed once more it stays as it is, and shorter it cannot get.
    assert "extended" not in go(recipe, "run", "train.epochs=2", resume=True)["resumes"][-1]
    with pytest.raises(IntegrityError, match="different run"):
        go(recipe, "run", resume=True)


def test_the_rate_follows_the_schedule_of_the_new_length(
    make_recipe: Callable[..., Path], go: Go, tmp_path: Path
) -> None:
    """By the closed form of each length: the last step of the first one has nearly no rate left."""
    recipe = make_recipe(**SECTIONS, train={"scheduler": "cosine", "warmup": 1})
    go(recipe, "run")
    go(recipe, "run", "train.epochs=2", resume=True)
    found = [line["learning_rate"] for line in metrics(tmp_path / "run") if "loss" in line]
    train = recipe_load.load(recipe).recipe.train
    shares = [rate_share("cosine", step, 4, 1, train) for step in range(4)]
    shares += [0.5 * (1 + math.cos(math.pi * (step - 1) / 7)) for step in range(4, 8)]
    assert found == pytest.approx([0.01 * share for share in shares])


def test_rows_that_the_last_step_was_short_of_are_counted(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = make_recipe(data_rows=rows(14), **SECTIONS)
    loaded = recipe_load.load(recipe, ["train.epochs=2"])
    plan = plan_make.make(loaded, hardware.detect(), output=tmp_path / "run")
    saved = {"train.max_steps": 4, "train.epochs": 1.0}
    longer = extend.found(plan, saved, {"step": 4})
    assert longer is not None
    assert (longer.now, longer.left_out) == (7, 2)
    assert "short of 2 rows" in str(longer)


def test_a_run_that_has_stopped_early_says_what_would_end_it_again(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    stop = {"every": 1, "stop": {"patience": 2}}
    recipe = make_recipe(**{**SECTIONS, "eval": {"samples": 0, **stop}})
    loaded = recipe_load.load(recipe, ["train.epochs=2"])
    plan = plan_make.make(loaded, hardware.detect(), output=tmp_path / "run")
    state = {"step": 4, "evaluation": {"waited": 2}}
    with pytest.raises(RecipeError) as caught:
        extend.found(plan, {"train.max_steps": 4, "train.epochs": 1.0}, state)
    assert "eval.stop=null" in caught.value.fix


def test_the_command_finds_the_finished_run_and_the_dry_run_says_so(
    make_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --output; a command that asks for no more than there is begins a new run."""
    recipe = make_recipe("llama", "more.yaml", **SECTIONS, train=CONSTANT)
    monkeypatch.chdir(tmp_path)
    words = ("sft", "--recipe", recipe)
    assert command(*words)[0] == 0
    more = (*words, "--resume", "--set", "train.epochs=2")
    code, events = command(*more, "--dry-run")
    assert code == 0
    assert any("had 4 steps and now has 8" in str(event) for event in events)
    assert record(Path("runs/more"))["plan"]["steps"]["total"] == 4
    assert command(*more)[0] == 0
    assert record(Path("runs/more"))["plan"]["steps"]["total"] == 8
    code, events = command(*more, "--dry-run")
    assert any("runs/more-2" in str(event) for event in events)


def test_other_keys_may_not_change_with_the_epochs(
    make_recipe: Callable[..., Path], go: Go, tmp_path: Path
) -> None:
    recipe = make_recipe(**SECTIONS)
    go(recipe, "run")
    loaded = recipe_load.load(recipe, ["train.epochs=2", "train.weight_decay=0.1"])
    plan = plan_make.make(loaded, hardware.detect(), output=tmp_path / "run")
    with pytest.raises(IntegrityError) as caught:
        resumption.newest_checkpoint(plan, tmp_path / "run")
    assert caught.value.problems == ["train.weight_decay: 0.0 in the checkpoint, 0.1 now"]


@pytest.fixture
def stepped(
    make_recipe: Callable[..., Path], go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A run with checkpoints of steps 1 to 4; the best one is not the last."""
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    train = {"save_steps": 1, "checkpoints": 4, "learning_rate": 0.5}
    keep = {"samples": 0, "every": 1, "keep": "best"}
    recipe = make_recipe(**{**SECTIONS, "eval": keep}, train=train)
    go(recipe, "run")
    return tmp_path / "run"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found = load_file(folder / "model.safetensors")
    return {name.replace(".default", ""): tensor for name, tensor in found.items()}


def test_a_checkpoint_is_an_adapter_with_its_own_tensors(stepped: Path) -> None:
    run = saved_models.find(str(stepped), Path(), "chat")
    kept = record(stepped)["evaluation"]["kept_step"]
    for step, place in (("2", "checkpoints/step-2"), ("last", "checkpoints/step-4")):
        found = at_step(run, step)
        wanted = tensors(stepped / place)
        saved = load_file(found.folder / "adapter_model.safetensors")
        assert saved.keys() == wanted.keys()
        assert all(torch.equal(saved[name], wanted[name]) for name in wanted)
    best = load_file(at_step(run, "best").folder / "adapter_model.safetensors")
    last = load_file(stepped / WEIGHTS)
    assert all(torch.equal(best[name], last[name]) for name in last)
    assert at_step(run, "best").sealed["step"] == kept


def test_chat_and_export_use_a_checkpoint(stepped: Path) -> None:
    source = open_model.model_to_open(str(stepped), None, (), hardware.detect(), "chat", "2")
    assert source.adapters[0][0] == "run-step-2"
    opened = open_model.load(source, Console(quiet=True))
    live = dict(opened.active.network.named_parameters())
    wanted = load_file(stepped / "checkpoints/step-2/model.safetensors")
    assert all(torch.equal(live[name], wanted[name]) for name in wanted)
    code, _ = command("export", stepped, "--step", "2", "--format", "adapter")
    assert code == 0
    known = json.loads((stepped / "step-2/adapter/MANIFEST.json").read_text())["extra"]
    assert (known["step"], "evaluation" in known) == (2, False)
    assert "| held-out rows |" not in (stepped / "step-2/adapter/README.md").read_text()
    saved, wanted = load_file(stepped / "step-2" / WEIGHTS), tensors(stepped / "checkpoints/step-2")
    assert all(torch.equal(saved[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("step", "said"),
    [("7", "use --step with 1, 2, 3, 4, last or best"), ("newest", "a number, best or last")],
)
def test_a_step_that_is_not_there_is_answered_with_those_that_are(
    stepped: Path, step: str, said: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        at_step(saved_models.find(str(stepped), Path(), "chat"), step)
    assert said in str(caught.value)


def test_a_damaged_checkpoint_is_not_used(stepped: Path) -> None:
    file = stepped / "checkpoints/step-2/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(IntegrityError):
        at_step(saved_models.find(str(stepped), Path(), "chat"), "2")


def test_checkpoints_of_a_whole_model_and_of_a_prefix(
    make_recipe: Callable[..., Path], go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    train = {"save_steps": 1, "checkpoints": 4}
    go(make_recipe(method={"name": "full"}, eval={"samples": 0}, train=train), "full")
    run = tmp_path / "full"
    found = at_step(saved_models.find(str(run), Path(), "chat"), "2")
    saved = load_file(found.folder / "model.safetensors")
    wanted = load_file(run / "checkpoints/step-2/model.safetensors")
    assert saved.keys() == wanted.keys()
    assert all(torch.equal(saved[name], wanted[name]) for name in wanted)
    prefix = make_recipe(**{**SECTIONS, "method": {"name": "prefix", "num_virtual_tokens": 2}})
    go(prefix, "prefix")
    with pytest.raises(ModelError, match="is no adapter"):
        at_step(saved_models.find(str(tmp_path / "prefix"), Path(), "chat"), "last")


def test_from_takes_base_template_and_tokens_of_the_run(
    make_recipe: Callable[..., Path], go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own recipe, on other rows; a recipe's own keys come before the run's."""
    monkeypatch.chdir(tmp_path)
    model = {"new_tokens": ["<law>"], "chat_template": "chatml"}
    go(make_recipe(**SECTIONS, model=model), "one")
    shutil.copy("train.jsonl", "new.jsonl")
    words = ("--from", "one", "--set", "data.train=new.jsonl", "--set", "train.max_steps=1")
    code, events = command("lora", *words, "--output", "two")
    assert code == 0, events
    two = record(Path("two"))
    values = {key: item["value"] for key, item in two["plan"]["values"].items()}
    assert values["model.new_tokens"] == ["<law>"]
    assert values["model.chat_template"] == "chatml"
    assert values["data.train"] == [str(tmp_path / "new.jsonl")]
    assert values["method.continue"] is True
    assert two["plan"]["start"]["how"] == "continued"
    other = make_recipe("llama", "other.yaml", method={"name": "lora"}, model={"base": "nowhere"})
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", str(other), "--from", "one"])
    assert ended.value.code == 4
