"""Gates: exit code 5 after everything is written, the same verdict later, and who says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import tuner
from tests.run.launched import metrics, record
from tuner.console.console import Console
from tuner.errors import TrainingError, TunerError
from tuner.machine import hardware
from tuner.plan import make as plan_make
from tuner.recipe import load as recipe_load
from tuner.record import gates, runs
from tuner.run import chain
from tuner.run.experiment import results

pytestmark = pytest.mark.usefixtures("in_process")
Recipes = Callable[..., Path]


def test_a_failed_gate_ends_a_complete_run_with_code_5(
    make_recipe: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both figures are told; --resume says the same without a further step, also without the
    folder's name; what the error says to do is done."""
    recipe = make_recipe(
        export={"formats": ["adapter"]},
        eval={"gate": ["loss<=100", "token_accuracy >= 0.99"], "samples": 0},
    )
    monkeypatch.chdir(tmp_path)
    words = ("sft", recipe.name)
    done = tuner(*words, cwd=tmp_path)
    folder = tmp_path / "runs/r"
    found = record(folder)
    value = found["scores"]["after"]["token_accuracy"]
    assert done.returncode == 5
    assert f"gate FAILED: token_accuracy is {value:.4g}, and eval.gate asks for >= 0.99" in (
        done.stdout
    )
    assert "error: 1 gate of 2 failed" in done.stderr
    assert f"token_accuracy is {value:.4g}, and eval.gate asks for >= 0.99" in done.stderr
    assert found["status"] == "done"
    assert (folder / "adapter/MANIFEST.json").is_file()
    assert [(gate["gate"], gate["passed"]) for gate in found["gates"]] == [
        ("loss <= 100", True),
        ("token_accuracy >= 0.99", False),
    ]
    assert "gate FAILED" in (folder / "report.html").read_text()
    before = metrics(folder), (folder / "adapter/adapter_model.safetensors").read_bytes()
    again = tuner(*words, "--resume", cwd=tmp_path)
    assert (again.returncode, [path.name for path in (tmp_path / "runs").iterdir()]) == (5, ["r"])
    assert record(folder)["gates"] == found["gates"]
    after = metrics(folder), (folder / "adapter/adapter_model.safetensors").read_bytes()
    assert after == before
    listed = tuner("runs", "list", "--json", cwd=tmp_path)
    assert "token_accuracy" in json.loads(listed.stdout)["items"][0]["note"]
    fix = again.stderr.partition("accept these scores: tuner ")[2].split()
    accepted = tuner(*fix, cwd=tmp_path)
    assert accepted.returncode == 0, accepted.stderr
    assert record(folder)["gates"] == []
    assert (metrics(folder), (folder / "adapter/adapter_model.safetensors").read_bytes()) == before


def test_a_run_that_passes_ends_with_code_0(
    make_recipe: Recipes, run_recipe: Callable[..., dict[str, Any]]
) -> None:
    found = run_recipe(
        make_recipe(export={"formats": []}, eval={"gate": "loss < 100", "samples": 0})
    )
    assert [gate["passed"] for gate in found["gates"]] == [True]
    assert gates.failure(found) is None


FAILED = {
    "status": "done",
    "output": "runs/x",
    "scores": {"before": {}, "after": {"loss": 2.0}},
    "gates": [
        {
            "gate": "loss < 1", "metric": "loss", "asked": "< 1", "rows": "held-out rows",
            "value": 2.0, "passed": False,
        }
    ],
}  # fmt: skip


def test_experiments_count_it_as_failed_with_its_scores() -> None:
    passed = {**FAILED, "gates": []}
    rows = [
        results.row("a", {}, FAILED, None, {}),
        results.row("b", {}, {**passed, "scores": {"after": {"loss": 3.0}}}, None, {}),
    ]
    assert [(row["status"], row["exit_code"]) for row in rows] == [("failed", 5), ("done", 0)]
    assert rows[0]["after"] == {"loss": 2.0}
    assert [row["name"] for row in sorted(rows, key=lambda row: results.rank(row, "loss"))] == [
        "b",
        "a",
    ]
    error = results.failure(rows, "runs", "")
    assert error is not None
    assert error.exit_code == 5
    assert "loss is 2, and eval.gate asks for < 1" in error.problems[0]


def test_a_chain_stops_at_a_stage_that_failed_its_gate(
    make_recipe: Recipes, tmp_path: Path
) -> None:
    """Also where that stage was done before."""
    folder = tmp_path / "stage"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"format": 1, "tuner": "0", **FAILED}))
    loaded = recipe_load.load(make_recipe(), verb="sft")
    link = chain.Link("r.yaml", "rlhf.policy", loaded, folder, "done")
    with pytest.raises(TrainingError, match="1 gate of 1 failed"):
        chain.carry_out_all([link], Console(quiet=True))
    assert runs.unfinished(runs.read_run(folder))


@pytest.mark.parametrize(
    ("sections", "said", "fix"),
    [
        ({"eval": {"gate": ["label_acuracy > 0.8"]}}, "no metric 'label_acuracy'", "loss"),
        ({"eval": {"gate": ["pair_accuracy > 0.8"]}}, "for `tuner sft`", "token_accuracy"),
        ({"eval": {"gate": ["exact_match > 0.8"]}}, "is not measured", "eval.metrics: [loss"),
        ({"eval": {"gate": ["label_accuracy > 0.8"]}}, "is not measured", "set data.labels"),
        (
            {"eval": {"gate": ["loss < 1"], "metrics": ["perplexity"]}},
            "loss is not measured",
            "eval.metrics: [perplexity, loss]",
        ),
        ({"eval": {"gate": ["loss < 1"]}, "data": {"eval": 0}}, "no held-out rows", "data.eval"),
        ({"eval": {"gate": ["loss < 1"], "enabled": False}}, "nothing is scored", "enabled: true"),
        ({"eval": {"gate": ["loss is 1"]}}, "expected conditions such as", ""),
        ({"eval": {"gate": ["loss < 80%"]}}, "expected conditions such as", ""),
        ({"eval": {"gate": ["loss = 1"]}}, "expected conditions such as", ""),
    ],
)
def test_a_gate_that_cannot_be_judged_is_refused_by_the_plan(
    sections: dict[str, Any], said: str, fix: str, make_recipe: Recipes
) -> None:
    recipe = make_recipe(**sections)

    def plan() -> None:
        loaded = recipe_load.load(recipe, verb="sft")
        plan_make.make(loaded, hardware.detect(), output=Path("unused"))

    with pytest.raises(TunerError) as caught:
        plan()
    assert caught.value.exit_code == 2
    assert said in str(caught.value)
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("sign", "verdicts"),
    [(">=", (False, True, True)), (">", (False, False, True)), ("<=", (True, True, False)),
     ("<", (True, False, False))],
)  # fmt: skip
def test_signs(sign: str, verdicts: tuple[bool, ...]) -> None:
    from tuner.plan.gates import Gate

    gate = Gate.of(f"loss {sign} -1.5e-1")
    assert tuple(map(gate.passes, (-0.2, -0.15, -0.1))) == verdicts
    assert not gate.passes(None)
    assert not gate.passes(float("nan"))
