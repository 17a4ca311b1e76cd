"""Losses of preferences as trl computes them for us: values and gradients by the papers' formulas.

The whole first step is compared: its rows, its forward passes, the reference, the weights.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tasks.preference_runs import first_step, log_probabilities, offline_recipe
from tests.tasks.test_trl import Gradients, lend, lines, make, start
from tuner import evaluate
from tuner.evaluate import implicit
from tuner.machine.signals import StopRequest
from tuner.plan import plan
from tuner.record.run_folder import RunFolder
from tuner.tasks.trained import trainable

__all__ = ["offline_recipe"]
pytestmark = pytest.mark.usefixtures("in_process")

BETA, EPSILON, TAU = 0.3, 0.2, 0.05
# Losses of a pair: x and y are the log-ratios of the better and the worse answer, m and n tokens
# long, as exponents and logarithms alone.
Pair = Callable[[torch.Tensor, torch.Tensor, int, int], torch.Tensor]


def sigmoid(value: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + torch.exp(-value))


def nll(value: torch.Tensor) -> torch.Tensor:
    """Minus the logarithm of the sigmoid."""
    return torch.log(1 + torch.exp(-value))


def exo(x: torch.Tensor, y: torch.Tensor, m: int, n: int) -> torch.Tensor:
    p = sigmoid(BETA * (x - y))
    return p * torch.log(p / (1 - EPSILON)) + (1 - p) * torch.log((1 - p) / EPSILON)


def discopop(x: torch.Tensor, y: torch.Tensor, m: int, n: int) -> torch.Tensor:
    d = BETA * (x - y)
    return (1 - sigmoid(d / TAU)) * nll(d) + sigmoid(d / TAU) * torch.exp(-d)


DPO: dict[str, Pair] = {
    "sigmoid": lambda x, y, m, n: nll(BETA * (x - y)),
    "ipo": lambda x, y, m, n: (x / m - y / n - 1 / (2 * BETA)) ** 2,
    "hinge": lambda x, y, m, n: (1 - BETA * (x - y)).clamp(min=0),
    "robust": lambda x, y, m, n: (
        ((1 - EPSILON) * nll(BETA * (x - y)) - EPSILON * nll(BETA * (y - x))) / (1 - 2 * EPSILON)
    ),
    "apo_zero": lambda x, y, m, n: 1 - sigmoid(BETA * x) + sigmoid(BETA * y),
    "apo_down": lambda x, y, m, n: sigmoid(BETA * x) + 1 - sigmoid(BETA * (x - y)),
    "exo_pair": exo,
    "nca_pair": lambda x, y, m, n: nll(BETA * x) + 0.5 * nll(-BETA * x) + 0.5 * nll(-BETA * y),
    "bco_pair": lambda x, y, m, n: nll(BETA * x) + nll(-BETA * y),
    "sppo_hard": lambda x, y, m, n: (x - 0.5 / BETA) ** 2 + (y + 0.5 / BETA) ** 2,
    "discopop": discopop,
}
NORMALIZED: Pair = lambda x, y, m, n: nll(BETA * (x / m - y / n))  # noqa: E731


@contextlib.contextmanager
def beginning(network: Any) -> Any:
    with torch.no_grad(), network.disable_adapter():
        yield


def ratio(network: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """The log-ratio of an answer to the reference."""
    now = log_probabilities(network, prompt, answer).sum()
    with beginning(network):
        then = log_probabilities(network, prompt, answer).sum()
    return now - then


def sides(row: Any) -> list[list[int]]:
    return [ids[len(row.prompt_ids) :] for ids in row.answers]


def tokens_of_better(network: Any, rows: Any) -> torch.Tensor:
    return torch.cat([log_probabilities(network, r.prompt_ids, sides(r)[0]) for r in rows])


def of_pairs(made: plan.Plan, network: Any, parts: Any, loss: Pair, compares: bool) -> torch.Tensor:
    """The mean of a loss over the pairs of a step."""
    found = []
    for row in (row for part in parts for row in part):
        values = [
            ratio(network, row.prompt_ids, answer)
            if compares
            else log_probabilities(network, row.prompt_ids, answer).sum()
            for answer in sides(row)
        ]
        found.append(loss(*values, *map(len, sides(row))))
    return torch.stack(found).mean()


def kto(made: plan.Plan, network: Any, parts: Any) -> torch.Tensor:
    found = []
    for part in parts:
        answers = [sides(row)[0] for row in part]
        with torch.no_grad():
            others = [
                ratio(network, row.prompt_ids, answers[place - 1]) for place, row in enumerate(part)
            ]
        reference = torch.stack(others).mean().clamp(min=0)
        for row, answer in zip(part, answers, strict=True):
            moved = BETA * (ratio(network, row.prompt_ids, answer) - reference)
            liked = row.pairs == ((0, -1, 0.0),)
            assert liked != (row.pairs == ((-1, 0, 0.0),))
            found.append(1.5 * (1 - sigmoid(moved)) if liked else 0.5 * (1 - sigmoid(-moved)))
    return torch.stack(found).mean()


def orpo(made: plan.Plan, network: Any, parts: Any) -> torch.Tensor:
    found = []
    for part in parts:
        odds = []
        for row in part:
            means = [log_probabilities(network, row.prompt_ids, a).mean() for a in sides(row)]
            odds.append([torch.log(torch.exp(m) / (1 - torch.exp(m))) for m in means])
        wholes = [
            log_probabilities(network, row.answers[0][:1], row.answers[0][1:]) for row in part
        ]
        compared = torch.stack([nll(better - worse) for better, worse in odds])
        found.append(-torch.cat(wholes).mean() + BETA * compared.mean())
    return torch.stack(found).mean()


def with_words(loss: Pair, weight: float, compares: bool) -> Any:
    """The mean loss of the pairs, and a weighted cross-entropy over all tokens of the step."""

    def whole(made: plan.Plan, network: Any, parts: Any) -> torch.Tensor:
        rows = [row for part in parts for row in part]
        pairs = of_pairs(made, network, parts, loss, compares)
        return pairs - weight * tokens_of_better(network, rows).mean()

    return whole


CASES: dict[str, tuple[str, dict[str, Any], Any]] = {
    **{
        f"dpo {name}": (
            "dpo",
            {
                "dpo": {"loss": name}
                | ({"label_smoothing": EPSILON} if name in ("robust", "exo_pair") else {})
            },
            with_words(loss, 0.0, True),
        )
        for name, loss in DPO.items()
    },
    "dpo by length": ("dpo", {"dpo": {"normalize_length": True}}, with_words(NORMALIZED, 0, True)),
    "dpo with words": (
        "dpo", {"dpo": {"sft_weight": 0.7}}, with_words(DPO["sigmoid"], 0.7, True)
    ),
    "kto": ("kto", {"kto": {"desirable_weight": 1.5, "undesirable_weight": 0.5}}, kto),
    "orpo": ("orpo", {}, orpo),
    "simpo": (
        "simpo",
        {"simpo": {"margin": 0.4, "sft_weight": 0.3}},
        with_words(lambda x, y, m, n: nll(BETA * (x / m - y / n) - 0.4), 0.3, False),
    ),
    "cpo": ("cpo", {"cpo": {"sft_weight": 0.6}}, with_words(DPO["sigmoid"], 0.6, False)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_first_step_is_that_of_the_papers_formula(
    case: str, offline_recipe: Callable[..., Path]
) -> None:
    algorithm, sections, formula = CASES[case]
    steps = {"max_grad_norm": 1e9, "max_steps": 1}
    made = make(offline_recipe(algorithm, train=steps, rlhf={"kl_coefficient": BETA}, **sections))
    trained, wanted = start(made, moved=True), start(made, moved=True)
    with StopRequest() as stop, RunFolder.open(made.output, resume=False) as folder:
        lent = lend(made, trained, folder, stop)
        with lent.lending() as trainer:
            kept = Gradients(trainable(trained.model))
            trainer.add_callback(kept)
            trainer.train()
    loss = formula(made, wanted.model, first_step(made))
    loss.backward()
    (line,) = lines(made)
    assert line["loss"] == pytest.approx(loss.item(), rel=1e-4, abs=1e-5)
    moved = 0.0
    for name, parameter in trainable(wanted.model):
        torch.testing.assert_close(kept.found[name], parameter.grad, rtol=2e-3, atol=2e-6)
        moved = max(moved, float(parameter.grad.abs().max()))
    assert moved > 1e-4
    # What was lent is given back without anything of trl's in it.
    assert set(trained.model.peft_config) == {"default"}


REWARDS: dict[str, Callable[[float, float, int], float]] = {
    "kto": lambda now, start, n: BETA * (now - start),
    "cpo": lambda now, start, n: BETA * now,
    "simpo": lambda now, start, n: BETA * now / n,
    "orpo": lambda now, start, n: math.log(math.exp(now / n) / (1 - math.exp(now / n))),
}


@pytest.mark.parametrize("algorithm", REWARDS)
def test_held_out_answers_are_scored_with_the_reward_of_the_loss(
    algorithm: str, offline_recipe: Callable[..., Path]
) -> None:
    made = make(offline_recipe(algorithm, rlhf={"kl_coefficient": BETA}))
    model = start(made, moved=True).model.eval()
    judged = implicit.observe(made, model, evaluate.rows(made), lambda done, total: None)
    assert len(judged) == len(made.prepared.eval) > 2
    for item in judged:
        wanted = []
        for answer in sides(item.ranking):
            with torch.no_grad():
                now = log_probabilities(model, item.ranking.prompt_ids, answer)
                with model.disable_adapter():
                    then = log_probabilities(model, item.ranking.prompt_ids, answer)
            wanted.append(REWARDS[algorithm](float(now.sum()), float(then.sum()), len(answer)))
        assert item.scores == pytest.approx(wanted, abs=1e-5)
    assert set(evaluate.values(made.metrics, judged)) == {"pair_loss", "pair_accuracy", "margin"}
