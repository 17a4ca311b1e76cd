"""What a GPU is asked to do in a training step: few launches, no waits, the fast kernels."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from tests.conftest import rows, write_rows
from tests.gpu.fake import Fake, Seen
from tests.gpu.forked import on_fake
from tuner.data.tokens.example import Example

# A micro-batch of 8,192 tokens of a Llama-3.1-8B, three quarters supervised.
LAYERS, VOCABULARY, POSITIONS, MOST = 32, 128_256, 6_144, 6_000


def _rows(count: int, length: int, first: int, prompt: int) -> list[Example]:
    """Rows that begin with the same tokens."""
    random = np.random.default_rng(0)
    opening = random.integers(5, 500, first).tolist()
    return [
        Example(
            str(number),
            opening + random.integers(5, 500, length - first).tolist(),
            [False] * prompt + [True] * (length - prompt),
        )
        for number in range(count)
    ]


def _built(folder: Path, layers: int, **sections: Any) -> tuple[Any, Any]:
    """A plan and the model that it trains, with so many layers."""
    from tests import tiny
    from tests.gpu import runs
    from tuner.run import build

    with mock.patch.dict(tiny.ROPE, num_hidden_layers=layers):
        tiny.make_model("llama", folder / "base")
    plan = runs.plan(runs.write(folder, model={"base": str(folder / "base")}, **sections))
    return plan, build.start(plan, build.load(plan)).model.train()


def _micro_batch(plan: Any, model: Any, rows: list[Example], gpu: Fake) -> tuple[Seen, Seen, Seen]:
    """What the second micro-batch of a step does in the model, in the loss and on the way back."""
    from tuner.data.tokens.collate import placed
    from tuner.tasks.sft import token_loss

    batch = placed(plan.training_collate(rows), "cuda")
    labels, count = batch.pop("labels"), torch.tensor(100.0, device="cuda")
    for _ in range(2):
        with gpu.watch() as forward, torch.autocast("cuda", torch.bfloat16):
            outputs = model(**batch, use_cache=False)
        # As accelerate does.
        outputs.logits = outputs.logits.float()
        with gpu.watch() as loss:
            value = token_loss(outputs, labels, count)
        with gpu.watch() as backward:
            value.backward()
    return forward, loss, backward


@on_fake()
@pytest.mark.parametrize("first", [2, 24], ids=["rows", "shared"])
def test_a_layer_is_few_launches_and_no_wait(gpu: Fake, tmp_path: Path, first: int) -> None:
    seen = []
    for layers in (1, 3):
        (folder := tmp_path / str(layers)).mkdir()
        plan, model = _built(folder, layers)
        seen.append(_micro_batch(plan, model, _rows(4, 64, first, 26), gpu))
    assert [sync for one in seen for part in one[1:] for sync in part.syncs] == []
    # transformers looks once, before the first layer, whether rows are packed.
    assert [len(one[0].syncs) for one in seen] == [1, 1]
    (forward, loss, backward), (forwards, _, backwards) = seen
    a_layer = (forwards.count - forward.count) / 2, (backwards.count - backward.count) / 2
    assert a_layer[0] <= 60
    assert a_layer[1] <= 110
    with gpu.watch() as chunk:
        _loss(gpu)
    chunks = math.ceil(POSITIONS / ((1 << 28) // (4 * VOCABULARY)))
    rest = forward.count + loss.count + backward.count - sum(a_layer)
    assert LAYERS * sum(a_layer) + rest + (chunks - 1) * chunk.count <= MOST


def _loss(gpu: Fake) -> None:
    """The loss of a few positions, and its gradient: one chunk."""
    from tuner.model.kernels.cross_entropy import cross_entropies

    logits = torch.randn(6, 50, device="cuda", requires_grad=True)
    cross_entropies(logits * 1.0, torch.zeros(6, dtype=torch.long, device="cuda")).sum().backward()


@on_fake()
def test_a_loss_before_training_is_computed_as_in_training(gpu: Fake, tmp_path: Path) -> None:
    """To the bit, with an adapter that is not zero any more."""
    from tuner.data.tokens.collate import placed
    from tuner.model.kernels.cross_entropy import cross_entropies
    from tuner.tasks import precision

    plan, model = _built(tmp_path, 2)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape) * 0.1)
    batch = placed(plan.collate(_rows(2, 20, 2, 4)), "cuda")
    labels = batch.pop("labels")
    with torch.autocast("cuda", torch.bfloat16):
        trained = model(**batch, use_cache=False).logits
    model.eval()
    with torch.no_grad(), precision.as_trained(plan):
        scored = model(**batch, use_cache=False).logits
    with torch.no_grad():
        exported = model(**batch, use_cache=False).logits
    losses = [
        cross_entropies(logits.detach()[0].float(), labels[0, 1:]).cpu()
        for logits in (trained, scored, exported)
    ]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


@on_fake()
def test_scoring_reads_once_per_batch(gpu: Fake, tmp_path: Path) -> None:
    """However many rows it has; and a batch is as large as one of training."""
    from tuner import evaluate

    plan, model = _built(tmp_path, 2, eval={"metrics": ["loss"]})
    reads = []
    for count in (2, 4):
        chosen = plan.prepared.eval[:count]
        some = mock.patch.object(evaluate, "rows", lambda _, chosen=chosen: chosen)
        with some, gpu.watch() as seen:
            evaluate.score(plan, model)
        reads.append(sum(sync.kind == "read" for sync in seen.syncs))
    assert reads[0] == reads[1]
    assert plan.tokens_at_once(1) == plan.shape.rows.cut(plan.micro_batch_size)[0].max()
    assert plan.answers_at_once(1, [[0] * 3], 2) == plan.tokens_at_once(1) // 5


@on_fake()
def test_policy_updates_compute_as_training_does(gpu: Fake, tmp_path: Path) -> None:
    """Under autocast, with the fused layers; returns are added up on the CPU. A first update on
    unchanged weights is exactly on policy."""
    from tests.gpu import matrix, runs
    from tuner.record.run_json import read_metrics
    from tuner.tasks import ppo, ppo_update, rollouts

    case = matrix.CASES["ppo"]
    assert case.rows is not None
    write_rows(tmp_path / "more.jsonl", rows(4))
    more = {"ptx_data": "more.jsonl", "ptx_coefficient": 0.1}
    sections = {**case.sections, "ppo": {"epochs": 1, "minibatches": 1, **more}}
    sections["train"] = {**case.sections["train"], "max_steps": 1}
    sections["eval"] = {"enabled": False, "samples": 0}
    recipe = runs.write(tmp_path, data_rows=case.rows(), **sections)
    true, devices = ppo.advantages, set()

    def advantages(rewards: Any, values: Any, *others: Any) -> Any:
        devices.update((rewards.device.type, values.device.type))
        return true(rewards, values, *others)

    in_place: set[tuple[str, bool]] = set()

    def noted(true: Any) -> Any:
        def call(*given: Any) -> Any:
            with gpu.watch() as seen:
                made = true(*given)
            in_place.add((true.__name__, seen.launches["aten.addmm_.default"] > 0))
            return made

        return call

    with (
        mock.patch.object(ppo, "advantages", advantages),
        mock.patch.object(rollouts, "token_scores", noted(rollouts.token_scores)),
        mock.patch.object(ppo_update.Updates, "_ptx", noted(ppo_update.Updates._ptx)),
        gpu.watch() as seen,
    ):
        record = runs.train(recipe, "rlhf")
    assert devices == {"cpu"}
    # Fused layers add the low-rank product in place; peft's own add in float32.
    # The reference has no adapter.
    assert in_place == {("token_scores", True), ("token_scores", False), ("_ptx", True)}
    assert seen.launches["aten._fused_adamw_.default"] > 0
    assert record["status"] == "done"
    for line in read_metrics(tmp_path / "run"):
        assert line["step_kl"] == 0.0
        assert line["clip_share"] == 0.0


@on_fake()
def test_the_base_goes_straight_to_the_gpu(tmp_path: Path) -> None:
    """Not by way of a whole model in main memory, which `to` would move."""
    from tests.gpu import runs
    from tuner.run import build

    plan = runs.plan(runs.write(tmp_path))
    with mock.patch.object(torch.nn.Module, "to", side_effect=AssertionError("moved")):
        model = build.load(plan)
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}


@on_fake()
def test_what_the_recipe_sets_on_cuda(tmp_path: Path) -> None:
    """TF32 holds in the steps, and no longer where the artefact is proven. The memory of each
    phase is in the record."""
    from tests.gpu import runs
    from tuner.export import run_end
    from tuner.tasks.callbacks import StepLoss

    seen: dict[str, Any] = {}

    def note(when: str, true: Any) -> Any:
        def noted(*args: Any, **kwargs: Any) -> Any:
            fixed = torch.are_deterministic_algorithms_enabled()
            space = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
            seen[when] = fixed, space, torch.get_float32_matmul_precision()
            return true(*args, **kwargs)

        return noted

    settings: dict[str, Any] = {"run": {"deterministic": True}, "model": {"tf32": True}}
    recipe = runs.write(tmp_path, export={"formats": ["adapter"]}, **settings)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    with (
        mock.patch.object(StepLoss, "__call__", note("step", StepLoss.__call__)),
        mock.patch.object(run_end, "export_run", note("export", run_end.export_run)),
    ):
        record = runs.train(recipe)
    assert seen["step"] == (True, ":4096:8", "high")
    assert seen["export"] == (True, ":4096:8", "highest")
    assert not torch.are_deterministic_algorithms_enabled()
    memory = record["gpu_memory_bytes"]
    assert memory["planned"] == record["plan"]["memory"]["total"]
    assert {"load", "score_before", "train", "score_after", "export"} <= memory["peak"].keys()
    for most in memory["peak"].values():
        assert 0 < most["allocated"] <= most["reserved"]
    assert memory["peak"]["train"]["allocated"] > memory["peak"]["load"]["allocated"]


@on_fake()
def test_a_kernel_that_does_not_repeat_stops_a_deterministic_run(tmp_path: Path) -> None:
    """Exit code 5, with what torch says and a way out."""
    from tests.gpu import runs
    from tuner.errors import TrainingError
    from tuner.tasks.callbacks import StepLoss

    said = "put_ does not have a deterministic implementation, but you set ..."
    broken = mock.patch.object(StepLoss, "__call__", side_effect=RuntimeError(said))
    recipe = runs.write(tmp_path, run={"deterministic": True}, eval={"enabled": False})
    with broken, pytest.raises(TrainingError) as caught:
        runs.train(recipe)
    assert caught.value.why == said
    assert "run.deterministic: false" in caught.value.fix
