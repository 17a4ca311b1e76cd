"""Noise on embeddings and smoothed labels: what they are in training, and that they end there."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from tests.run.launched import record
from tests.tasks.fitting import Fit, make_plan, order, same
from tuner.run import build

pytestmark = pytest.mark.usefixtures("in_process", "one_thread")

ALPHA = 6.0


def noise_of(plan: Any, rows: list[Any], training: bool = True) -> list[torch.Tensor]:
    """What is added to the embeddings of each row, (tokens, size)."""
    model = build.start(plan, build.load(plan)).model.train(training)
    embedding = model.get_input_embeddings()
    seen: list[torch.Tensor] = []
    embedding.register_forward_hook(
        lambda _, inputs, output: seen.append(output.detach() - embedding.weight[inputs[0]])
    )
    batch = plan.training_collate(rows)
    del batch["labels"]
    torch.manual_seed(3)
    model(**batch)
    (added,) = seen
    lengths = [len(row.input_ids) for row in rows]
    if plan.packing:
        return list(added[0].split(lengths))
    return [each[:length] for each, length in zip(added, lengths, strict=True)]


@pytest.mark.parametrize("packing", [True, False])
def test_each_row_has_noise_by_its_own_length(
    packing: bool, make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """Uniform up to alpha / sqrt(tokens x size), packed or padded; rows share no tokens then."""
    recipe = make_recipe(train={"embedding_noise": ALPHA}, data={"packing": packing})
    plan = make_plan(recipe, tmp_path / "out")
    rows = sorted(plan.prepared.train, key=lambda row: row.num_tokens)[::5]
    assert len({row.num_tokens for row in rows}) == len(rows) > 2
    for row, added in zip(rows, noise_of(plan, rows), strict=True):
        most = ALPHA / math.sqrt(len(row.input_ids) * 64)
        assert added.shape == (len(row.input_ids), 64)
        largest = float(added.abs().max())
        assert 0.99 * most < largest <= most * (1 + 1e-4)
        assert float(added.std(correction=0)) == pytest.approx(most / math.sqrt(3), rel=0.05)
    for added in noise_of(plan, rows, training=False):
        assert not bool(added.any())


def test_no_noise_no_change(make_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """The check above sees the noise and nothing else."""
    plan = make_plan(make_recipe(data={"packing": False}), tmp_path / "out")
    assert all(not bool(added.any()) for added in noise_of(plan, plan.prepared.train[:3]))


def test_noise_is_of_the_seed_and_the_step(
    make_recipe: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    noisy = {"embedding_noise": ALPHA}
    one, other = fit(make_recipe(train=noisy)), fit(make_recipe(train=noisy))
    assert same(one.tensors(), other.tensors())
    # The same start and, with full weights, the same rows: what differs is the noise.
    full = {"method": {"name": "full"}, "train": {**noisy, "batch_size": 16}}
    seeds = [fit(make_recipe(**full, run={"seed": seed})) for seed in (1, 2)]
    assert same(seeds[0].start, seeds[1].start)
    assert seeds[0].metrics[0]["loss"] != pytest.approx(seeds[1].metrics[0]["loss"], rel=1e-5)


@pytest.mark.parametrize("data", [{}, {"packing": False}])
def test_the_smoothed_loss_is_torchs(
    data: dict[str, Any],
    make_recipe: Callable[..., Path],
    bases: Callable[[str], Path],
    fit: Callable[..., Fit],
) -> None:
    """Of every target of the step, each row run alone in plain torch."""
    done = fit(make_recipe(train={"label_smoothing": 0.2}, data=data))
    network = AutoModelForCausalLM.from_pretrained(bases("llama"), dtype=torch.float32).eval()
    losses = []
    for row in order(done)[0]:
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([row.input_ids])).logits[0, :-1]
        wanted = torch.tensor(row.input_ids[1:])
        wanted[~torch.tensor(row.supervised[1:], dtype=torch.bool)] = -100
        each = functional.cross_entropy(logits, wanted, label_smoothing=0.2, reduction="none")
        losses += [float(loss) for loss, target in zip(each, wanted, strict=True) if target >= 0]
    assert done.metrics[0]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_scores_are_without_noise_and_smoothing(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    """Before training both models are the same, and so are their scores."""
    quick = {"eval": {"samples": 0, "metrics": ["loss"]}, "export": {"formats": []}}
    run_recipe(make_recipe(train={"max_steps": 1}, **quick), "plain")
    loud = {"max_steps": 1, "embedding_noise": 50, "label_smoothing": 0.5}
    run_recipe(make_recipe(train=loud, **quick), "loud")
    scores = [record(tmp_path / name)["scores"] for name in ("plain", "loud")]
    assert scores[0]["before"] == scores[1]["before"]
    assert scores[0]["after"] != scores[1]["after"]
