"""Training against an independent oracle: H11, M12, N01, N02, N07, N08, N14, N16."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests import oracle
from tests.conftest import rows
from tests.tasks.fitting import Fit, Reference, make_plan, order, same
from tuner import evaluate
from tuner.evaluate import likelihood
from tuner.run import build
from tuner.tasks import optimizer

pytestmark = pytest.mark.usefixtures("in_process", "one_thread")

ROOT = Path(__file__).parents[2]


CASES = [
    *(("lora", kind, micro, {}) for kind in ("llama", "gpt2") for micro in (16, 8, 4)),
    ("lora", "llama-tied", 4, {}),
    ("lora", "qwen2", 4, {}),
    *(("lora", "llama", micro, {"packing": False}) for micro in (16, 4)),
    ("lora", "gpt2", 8, {"packing": False}),
    ("lora", "mixtral", 16, {}),
    ("lora", "mixtral", 4, {}),
    *(("dora", "llama", micro, {}) for micro in (16, 4)),
    *(("full", "llama", micro, {}) for micro in (16, 8, 4)),
    ("full", "llama-tied", 4, {}),
    ("full", "gpt2", 4, {}),
]


@pytest.mark.parametrize(("method", "kind", "micro", "data"), CASES)
def test_one_update_is_the_oracles(
    method: str,
    kind: str,
    micro: int,
    data: dict[str, Any],
    make_recipe: Callable[..., Path],
    bases: Callable[[str], Path],
    fit: Callable[..., Fit],
) -> None:
    """N01: accumulation 1, 2, 4: gradients, update, logged loss and norm of 16 uneven rows."""
    train = {"batch_size": 16, "micro_batch_size": micro}
    done = fit(make_recipe(kind, method={"name": method}, train=train, data=data))
    assert done.plan.gradient_accumulation_steps == 16 // micro
    reference = Reference(done, bases(kind))
    loss, norm = reference.step(done.plan.prepared.train, oracle.linear_rate(0.01, 0, 1, 0))
    (logged,) = done.metrics
    assert logged["loss"] == pytest.approx(loss, rel=1e-6)
    assert logged["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert logged["supervised_tokens"] == sum(
        sum(row.supervised) for row in done.plan.prepared.train
    )
    reference.check(done, 1)


@pytest.mark.parametrize(
    ("method", "extra"),
    [("lora", {}), ("full", {"weight_decay": 0.1}), ("dora", {"max_grad_norm": 0.25})],
)
def test_steps_in_a_row_follow_the_oracle(
    method: str,
    extra: dict[str, float],
    make_recipe: Callable[..., Path],
    bases: Callable[[str], Path],
    fit: Callable[..., Fit],
) -> None:
    """N01: four steps with warmup, decay and clipping: moments, schedule and updates go on
    rightly."""
    train = {"micro_batch_size": 2, "warmup": 2, "learning_rate": 1e-3, **extra}
    done = fit(make_recipe(method={"name": method}, train=train))
    reference = Reference(done, bases("llama"))
    for number, batch in enumerate(order(done)):
        rate = oracle.linear_rate(1e-3, number, 4, 2)
        loss, norm = reference.step(batch, rate)
        logged = done.metrics[number]
        assert logged["learning_rate"] == pytest.approx(rate, rel=1e-12)
        assert logged["loss"] == pytest.approx(loss, rel=3e-6)
        assert logged["grad_norm"] == pytest.approx(norm, rel=3e-5)
    reference.check(done, 4, several=True)


@pytest.mark.parametrize("data", [{}, {"packing": False}])
def test_the_last_step_holds_the_rows_that_are_left(
    data: dict[str, Any],
    make_recipe: Callable[..., Path],
    bases: Callable[[str], Path],
    fit: Callable[..., Fit],
) -> None:
    """N02: 18 rows by 16: the second step has 2 rows in one micro-batch, and is the oracle's."""
    train = {"batch_size": 16, "micro_batch_size": 4, "learning_rate": 1e-3}
    done = fit(make_recipe(data_rows=rows(18), train=train, data=data))
    batches = order(done)
    assert [len(batch) for batch in batches] == [16, 2]
    seen = [row.row for batch in batches for row in batch]
    assert sorted(seen) == sorted(row.row for row in done.plan.prepared.train)
    reference = Reference(done, bases("llama"))
    for number, batch in enumerate(batches):
        rate = oracle.linear_rate(1e-3, number, 2, 1)
        loss, norm = reference.step(batch, rate)
        assert done.metrics[number]["loss"] == pytest.approx(loss, rel=1e-6)
        assert done.metrics[number]["grad_norm"] == pytest.approx(norm, rel=1e-5)
        assert done.metrics[number]["tokens"] == sum(len(row.input_ids) for row in batch)
    reference.check(done, 2, several=True)
    assert done.metrics[-1]["epoch"] == 1.0


@pytest.mark.parametrize("scheduler", ["linear", "cosine", "constant", "cosine_restarts"])
@pytest.mark.parametrize(
    ("count", "train", "steps"),
    [
        (16, {}, 4),
        (18, {"epochs": 2.5}, 12),
        (18, {"epochs": 0.1}, 1),
        (16, {"epochs": 3, "max_steps": 5}, 5),
        (3, {"batch_size": 16, "epochs": 2}, 1),
    ],
)
def test_the_plan_says_the_steps_that_are_done(
    scheduler: str,
    count: int,
    train: dict[str, Any],
    steps: int,
    make_recipe: Callable[..., Path],
    fit: Callable[..., Fit],
) -> None:
    """M12: the rate ends where the schedule ends."""
    train = {"scheduler": scheduler, "warmup": 0.1, "learning_rate": 0.003, **train}
    done = fit(make_recipe(data_rows=rows(count), train=train))
    assert [line["step"] for line in done.metrics] == list(range(1, steps + 1))
    assert done.plan.steps == steps == done.plan.facts["steps"]["total"]
    warmup = done.plan.stages[0].warmup_steps
    share, section = optimizer.rate_share, done.plan.recipe.train
    wanted = [0.003 * share(scheduler, step, steps, warmup, section) for step in range(steps)]
    assert [line["learning_rate"] for line in done.metrics] == wanted
    end = 0.003 if scheduler == "constant" or warmup == steps else 0.0
    assert done.sealed(steps).scheduler["_last_lr"] == [end]


def command(recipe: Path, folder: Path, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tuner", "lora", "--recipe", recipe, "--output", folder],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_fresh_processes_repeat_a_run_whatever_the_environment(
    make_recipe: Callable[..., Path], fit: Callable[..., Fit], tmp_path: Path
) -> None:
    """N14, H11: the second process has another hash seed and variables that would overrule the
    recipe."""
    sections = {
        "method": {"dropout": 0.1},
        "train": {"micro_batch_size": 2},
        "export": {"formats": ["adapter"]},
    }
    recipe = make_recipe(**sections)
    hostile = {
        "ACCELERATE_MIXED_PRECISION": "fp16",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    }
    command(recipe, tmp_path / "one", PYTHONHASHSEED="1")
    command(recipe, tmp_path / "two", PYTHONHASHSEED="2", **hostile)
    lines = [without_clock(tmp_path / name) for name in ("one", "two")]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 4
    adapters = [
        tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("one", "two")
    ]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "two")]
    assert [record["ignored_environment"] for record in records] == [[], list(hostile)]
    assert records[0]["scores"] == records[1]["scores"]
    # The same in this process, and another with another seed.
    here = fit(recipe)
    adapter = {
        name.replace(".weight", ".default.weight"): value
        for name, value in load_file(adapters[0]).items()
    }
    assert same(here.tensors(), adapter)
    assert not same(fit(make_recipe(**sections, run={"seed": 43})).tensors(), adapter)


def without_clock(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if key != "seconds"}
        for line in lines
    ]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_the_held_out_loss_is_the_oracles(
    kind: str,
    make_recipe: Callable[..., Path],
    bases: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """N16: weighted by tokens, packed or padded, whatever the batch and the number of rows."""
    reference = AutoModelForCausalLM.from_pretrained(
        bases(kind), attn_implementation="eager", dtype=torch.float32
    ).eval()
    for packing in (False,) if kind == "mixtral" else (True, False):
        for count, tokens in ((None, 1024), (None, 1), (3, 90), (1, 1024)):
            data = {"packing": packing, "eval": 12}
            made = make_plan(
                make_recipe(kind, eval={"max_rows": count}, data=data), tmp_path / "unused"
            )
            scored = made.prepared.eval[:count]
            assert len(scored) == (count or 12)
            monkeypatch.setattr(likelihood, "TOKENS_PER_BATCH", tokens)
            found = evaluate.score(made, build.load(made))["loss"]
            wanted = oracle.mean_loss(reference, [row.example for row in scored])
            assert found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("method", ["lora", "dora", "full"])
def test_recomputing_activations_changes_no_gradient(
    method: str, make_recipe: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    """N07, N08: it is done when asked for, and only then."""
    passes: list[int] = []

    def count(live: Any) -> None:
        passes.append(0)
        block = next(m for n, m in live.named_modules() if n.endswith("layers.0.mlp"))
        block.register_forward_pre_hook(lambda *_: passes.__setitem__(-1, passes[-1] + 1))

    plain, recomputed = (
        fit(
            make_recipe(
                method={"name": method},
                train={"gradient_checkpointing": asked, "batch_size": 16, "micro_batch_size": 8},
            ),
            count,
        )
        for asked in (False, True)
    )
    assert passes == [2, 4]
    gradients = [
        {n: v for n, v in done.sealed(1).optimizer_tensors.items() if n.endswith("exp_avg")}
        for done in (plain, recomputed)
    ]
    for name, wanted in gradients[0].items():
        difference = float((gradients[1][name] - wanted).abs().max())
        assert difference <= 1e-6 * float(wanted.abs().max()), name
    after = [done.tensors() for done in (plain, recomputed)]
    assert all(torch.allclose(after[0][n], after[1][n], rtol=0, atol=1e-6) for n in after[0])
    if method != "full":
        assert all(float(v.norm()) > 0 for n, v in after[1].items() if "lora_B" in n)


def test_logged_figures_are_those_of_the_whole_window(
    make_recipe: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    """The last window ends with the run."""
    train = {"epochs": 2}
    each = fit(make_recipe(train=train)).metrics
    windows = fit(make_recipe(train={**train, "logging_steps": 3})).metrics
    assert [line["step"] for line in windows] == [3, 6, 8]
    for line, part in zip(windows, (each[:3], each[3:6], each[6:]), strict=True):
        losses = [step["loss"] for step in part]
        assert line["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-12)
        for key in ("tokens", "supervised_tokens"):
            assert line[key] == sum(step[key] for step in part)
        for key in ("grad_norm", "learning_rate", "epoch"):
            assert line[key] == part[-1][key]
