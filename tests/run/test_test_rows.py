"""`eval.test` and `eval.samples_every`: rows scored once at the end, answers while training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.conftest import rows, write_rows
from tests.run.launched import metrics
from tuner.errors import TunerError
from tuner.machine import hardware
from tuner.plan import make as plan_make
from tuner.plan.plan import Plan
from tuner.recipe import load as recipe_load
from tuner.record.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("in_process")
Recipes = Callable[..., Path]
Runs = Callable[..., dict[str, Any]]
LORA: dict[str, Any] = {
    "method": {"name": "lora", "r": 4, "dropout": 0.2},
    "train": {"epochs": 3, "learning_rate": 0.05, "scheduler": "constant", "save_steps": 5},
    "export": {"formats": ["adapter"]},
}


def planned(recipe: Path, verb: str = "sft") -> Plan:
    loaded = recipe_load.load(recipe, verb=verb)
    return plan_make.make(loaded, hardware.detect(), output=recipe.parent / "run")


def trained(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter/adapter_model.safetensors")


def same(one: Path, other: Path) -> bool:
    left, right = trained(one), trained(other)
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_test_rows_are_scored_apart_and_change_nothing(
    make_recipe: Recipes, run_recipe: Runs, bases: Callable[..., Path], tmp_path: Path
) -> None:
    """All of them, whatever eval.max_rows; the loss is that of transformers on the same tokens; the
    weights are those of a run without; rows that are also trained on are left out."""
    stop = {"every": 2, "keep": "best", "max_rows": 2, "samples": 0}
    plain = run_recipe(make_recipe(**LORA, eval=stop), "plain")
    held = rows(5, start=50)
    write_rows(tmp_path / "tests.jsonl", [*held, *rows(1)])
    recipe = make_recipe(**LORA, eval={**stop, "test": "tests.jsonl", "gate": "loss < 100"})
    found = run_recipe(recipe, "tested")
    assert same(tmp_path / "plain", tmp_path / "tested")
    scores = dict(found["scores"])
    tested = scores.pop("test")
    assert scores == plain["scores"]
    assert found["gates"][0]["rows"] == "test rows"
    assert found["gates"][0]["value"] == tested["loss"]
    report = json.loads((tmp_path / "tested/data_report.json").read_text())
    assert (report["test"]["rows"], report["test"]["left_out"]) == (5, 1)
    assert "eval.test: 1 row left out" in "".join(report["warnings"])
    network: Any = AutoModelForCausalLM.from_pretrained(bases("llama"), dtype=torch.float32)
    network = PeftModel.from_pretrained(network, tmp_path / "tested/adapter").eval()
    losses, count = 0.0, 0
    for row in planned(recipe).prepared.test:
        ids = torch.tensor([row.example.input_ids])
        labels = torch.where(torch.tensor([row.example.supervised]), ids, -100)
        with torch.no_grad():
            loss = network(input_ids=ids, labels=labels).loss
        tokens = int((labels[:, 1:] != -100).sum())
        losses, count = losses + float(loss) * tokens, count + tokens
    assert tested["loss"] == pytest.approx(losses / count, rel=1e-4)
    words = "the scores of the test rows, which have chosen nothing"
    assert words in (tmp_path / "tested/report.html").read_text()
    assert words not in (tmp_path / "plain/report.html").read_text()
    assert found["evaluation"]["tested"] is True


def test_test_rows_alone_are_enough(make_recipe: Recipes, run_recipe: Runs, tmp_path: Path) -> None:
    write_rows(tmp_path / "tests.jsonl", rows(3, start=50))
    data = {"eval": 0}
    found = run_recipe(make_recipe(data=data, **LORA, eval={"test": "tests.jsonl", "samples": 0}))
    assert set(found["scores"]["test"]) == {"loss", "perplexity", "token_accuracy"}
    assert found["scores"]["after"] == {}


@pytest.mark.parametrize(
    ("content", "keys", "code", "said"),
    [
        (None, {}, 3, "eval.test: there is no file 'tests.jsonl'"),
        ("", {}, 3, "the test split is empty"),
        ("same", {}, 3, "also in the training rows"),
        ('{"instruction": "Say.", "output": "It."}', {"enabled": False}, 2, "eval.test"),
    ],
)
def test_what_is_wrong_with_test_rows_is_said(
    content: str | None, keys: Any, code: int, said: str, make_recipe: Recipes, tmp_path: Path
) -> None:
    recipe = make_recipe(eval={"test": "tests.jsonl", **keys})
    if content == "same":
        write_rows(tmp_path / "tests.jsonl", rows(2))
    elif content is not None:
        (tmp_path / "tests.jsonl").write_text(content)
    with pytest.raises(TunerError) as caught:
        planned(recipe)
    assert (caught.value.exit_code, said in str(caught.value)) == (code, True), caught.value


def samples(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_answers_while_training_change_nothing(
    make_recipe: Recipes, run_recipe: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same bytes as without, also after a stop and a resume; each answer is that of the model as it
    was, which is seen from its checkpoint."""
    run_recipe(make_recipe(**LORA, eval={"samples": 0}), "plain")
    asked = {"samples": 2, "samples_every": 5, "max_new_tokens": 6}
    recipe = make_recipe(**LORA, eval=asked)
    assert planned(recipe).sampled == (5, 10)
    assert planned(recipe).facts["samples"] == {
        "times": 2,
        "prompts_each": 2,
        "first_after_step": 5,
    }
    run_recipe(recipe, "sampled")
    assert same(tmp_path / "plain", tmp_path / "sampled")
    assert metrics(tmp_path / "plain") == metrics(tmp_path / "sampled")
    lines = samples(tmp_path / "sampled")
    assert [line["step"] for line in lines] == [5, 5, 10, 10]
    assert all(line["held_out"] and line["prompt"] and line["reference"] for line in lines)

    logged = RunFolder.append_metrics

    def stops(self: RunFolder, values: Any) -> None:
        if values["step"] == 7:
            raise KeyboardInterrupt
        logged(self, values)

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "append_metrics", stops)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, "stopped")
    run_recipe(recipe, "stopped", resume=True)
    assert same(tmp_path / "plain", tmp_path / "stopped")
    names = ("metrics.jsonl", "samples.jsonl")
    one, other = (
        [(tmp_path / run / name).read_bytes() for name in names[1:]]
        for run in ("sampled", "stopped")
    )
    assert one == other
    # A run that ends there answers as it did there.
    ended = {**LORA, "train": {**LORA["train"], "max_steps": 5}}
    del ended["train"]["epochs"]
    found = run_recipe(make_recipe(**ended, eval={"samples": 2, "max_new_tokens": 6}), "ended")
    assert [each["after"] for each in found["samples"]] == [line["answer"] for line in lines[:2]]


def test_samples_that_cannot_be_taken_are_refused(make_recipe: Recipes) -> None:
    for sections, said in (
        ({"eval": {"samples_every": 2, "samples": 0}}, "eval.samples: 0"),
        ({"eval": {"samples_every": 2}, "data": {"eval": 0}}, "no held-out rows"),
    ):
        with pytest.raises(TunerError, match=r"eval\.samples_every: 2") as caught:
            planned(make_recipe(**sections))
        assert said in str(caught.value)
