"""Whole runs of `tuner reward`: scores in a fresh process, resumed, refused, every family."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.methods.test_capabilities import load_again
from tests.run.launched import Tuner, assert_equal, record
from tests.tasks.preferences import Row, make, scored_rows
from tuner.errors import RecipeError
from tuner.export import run_end
from tuner.export.proof import fresh_process
from tuner.plan import plan
from tuner.recipe import load as recipe_load
from tuner.tasks import judges
from tuner.tasks import trained as tasks_trained

pytestmark = pytest.mark.usefixtures("one_thread")


FRESH = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification as Judge, AutoTokenizer
torch.manual_seed(4711)
torch.set_num_threads(1)
base, run, rows = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
found = {}
for kind in ("adapter", "merged"):
    if kind == "adapter":
        network = Judge.from_pretrained(base, num_labels=1, dtype=torch.float32)
        network = PeftModel.from_pretrained(network, run + "/adapter")
    else:
        network = Judge.from_pretrained(run + "/merged", dtype=torch.float32)
    network.config.pad_token_id = AutoTokenizer.from_pretrained(run + "/" + kind).pad_token_id
    with torch.no_grad():
        found[kind] = [float(network.eval()(input_ids=torch.tensor([r])).logits) for r in rows]
print(json.dumps(found))
"""


def test_a_fresh_process_gives_the_same_scores(
    preferences: Callable[..., Path],
    run_recipe: Callable[..., Row],
    bases: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """R01: the head is in the adapter's file; another seed scores as the live model did."""
    from safetensors.torch import load_file

    live: dict[str, Any] = {}
    true = run_end.export_run

    def write(made: plan.Plan, trained: tasks_trained.Trained, fingerprint: str) -> Any:
        rows = [ids for row in made.prepared.eval for ids in row.answers][:8]
        scores = judges.scores(trained.model, rows, made.tokenizer.pad_token_id)
        live.update(rows=rows, scores=scores)
        return true(made, trained, fingerprint)

    monkeypatch.setattr(run_end, "export_run", write)
    # The process below loads both again, and knows nothing of this one.
    monkeypatch.setattr(fresh_process, "fresh_logits", load_again)
    found = run_recipe(preferences(), verb="reward")
    assert found["status"] == "done"
    assert found["unmoved_tensors"] == []
    assert [(a["kind"], a["verified"]) for a in found["artefacts"]] == [
        ("adapter", True),
        ("merged", True),
    ]
    saved = load_file(tmp_path / "run/adapter/adapter_model.safetensors")
    (head,) = [value for name, value in saved.items() if name.endswith("score.weight")]
    assert head.shape == (1, 64)
    arguments = [str(bases("llama")), str(tmp_path / "run"), json.dumps(live["rows"])]
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    fresh = json.loads(done.stdout.splitlines()[-1])
    assert len(set(live["scores"])) == 8
    assert fresh["adapter"] == pytest.approx(live["scores"], abs=1e-6)
    assert fresh["merged"] == pytest.approx(live["scores"], abs=1e-6)


def test_a_stopped_run_resumes_exactly(
    tuner: Tuner, preferences: Callable[..., Path], tmp_path: Path
) -> None:
    """C03: SIGTERM within an epoch, then SIGKILL between two checkpoints; with dropout."""
    recipe = preferences(
        scored_rows(18),
        held=scored_rows(24)[18:],
        data={"template": "scores"},
        method={"name": "lora", "r": 4, "dropout": 0.1},
        train={"epochs": 2.5, "micro_batch_size": 2, "save_steps": 2, "logging_steps": 1},
        export={"formats": ["adapter"]},
    )
    reference, folder = tmp_path / "reference", tmp_path / "run"
    assert tuner(recipe, reference, verb="reward") == 0, tuner.said()
    assert tuner(recipe, folder, at=("logged", 3, signal.SIGTERM), verb="reward") == 143
    assert record(folder)["status"] == "interrupted"
    assert (folder / "checkpoints/step-3/MANIFEST.json").exists()
    at = ("logged", 8, signal.SIGKILL)
    assert tuner(recipe, folder, at=at, resume=True, verb="reward") == -signal.SIGKILL
    assert tuner(recipe, folder, resume=True, verb="reward") == 0, tuner.said()
    assert_equal(folder, reference)
    assert [each["from_step"] for each in record(folder)["resumes"]] == [3, 6]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"kind": "bert", "tokenizer": "plain"}, "needs a decoder"),
    ({"kind": "t5", "tokenizer": "plain"}, "needs a decoder"),
    ({"model": {"task": "classification"}}, "model.task"),
    ({"eval": {"metrics": ["perplexity"]}}, "there is no metric 'perplexity' for `tuner reward`"),
]


@pytest.mark.parametrize(("how", "words"), REFUSED)
def test_what_cannot_judge_is_refused_before_a_model_is_loaded(
    how: dict[str, Any], words: str, preferences: Callable[..., Path]
) -> None:
    with pytest.raises(RecipeError) as caught:
        make(preferences(**how))
    assert words in str(caught.value)
    assert caught.value.exit_code == 2
    assert caught.value.fix


def test_the_section_reward_under_another_verb_names_the_verb_that_fits(
    preferences: Callable[..., Path],
) -> None:
    recipe = preferences(reward={"centering": 0.1})
    for verb in ("sft", "lora", "rlhf"):
        with pytest.raises(RecipeError, match="section reward") as caught:
            recipe_load.load(recipe, verb=verb)
        assert caught.value.exit_code == 2
        assert "tuner reward --recipe" in caught.value.fix
    assert recipe_load.load(recipe, verb=None).verb == "reward"


METHODS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("gpt2", {"name": "lora"}, ["adapter", "merged"]),
    ("qwen2", {"name": "lora"}, ["adapter", "merged"]),
    ("llama-tied", {"name": "dora"}, ["adapter", "merged"]),
    ("llama", {"name": "prefix", "num_virtual_tokens": 4}, ["adapter"]),
    ("llama", {"name": "prompt", "num_virtual_tokens": 4}, ["adapter"]),
    ("llama", {"name": "full"}, ["merged"]),
]


@pytest.mark.parametrize(("kind", "method", "kinds"), METHODS)
def test_families_and_methods_train_save_and_load(
    kind: str,
    method: dict[str, Any],
    kinds: list[str],
    preferences: Callable[..., Path],
    run_recipe: Callable[..., Row],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """E10: from the recipe to artefacts equal to the live model; every tensor moved."""
    monkeypatch.setattr(fresh_process, "fresh_logits", load_again)
    rate = {"learning_rate": 1e-3} if method["name"] == "full" else {}
    found = run_recipe(preferences(kind=kind, method=method, train=rate), verb="reward")
    assert found["status"] == "done"
    assert found["unmoved_tensors"] == []
    assert [each["kind"] for each in found["artefacts"]] == kinds
    assert all(each["verified"] for each in found["artefacts"])
    before, after = found["scores"]["before"], found["scores"]["after"]
    assert after["pair_loss"] != before["pair_loss"]
    assert after.keys() >= {"pair_accuracy", "margin", "calibration_error", "length_bias"}
    assert found["plan"]["parameters"]["trainable"] > 0
    assert all(sample["answer"] and sample["after"] for sample in found["samples"])
