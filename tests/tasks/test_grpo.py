"""GRPO's family: losses and updates by the papers' formulas, resuming, what is masked."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from tests.tasks.test_trl import lend, lines, make, rlhf_recipe, start, stopped_and_resumed, train
from tuner.machine.signals import StopRequest
from tuner.plan import plan
from tuner.plan.memory import fit
from tuner.recipe import dump, history, load
from tuner.record.run_folder import RunFolder
from tuner.rewards.response import Response, Scores
from tuner.tasks import rollouts
from tuner.tasks.trained import trainable

__all__ = ["rlhf_recipe"]
pytestmark = pytest.mark.usefixtures("in_process")

BETA = 0.1


class Updates(TrainerCallback):
    """Keeps weights and gradients of each update."""

    def __init__(self, parameters: Any) -> None:
        self.parameters = dict(parameters)
        self.weights: list[dict[str, torch.Tensor]] = []
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        own = self.parameters.items()
        self.weights.append({name: p.detach().clone() for name, p in own})
        self.gradients.append({name: p.grad.clone() for name, p in own if p.grad is not None})


def score(answer: Response) -> float:
    return float(sum(answer.response_ids) % 7)


def first_step(made: plan.Plan) -> tuple[Updates, list[Response]]:
    """The updates of a run of one step, and the answers that they learn from."""
    trained = start(made, moved=True)
    drawn: list[Response] = []

    def judge(answers: list[Response]) -> Scores:
        drawn[:] = answers
        return Scores(known := [score(answer) for answer in answers], {"sum": known})

    trained.judge = judge
    with (
        StopRequest() as stop,
        RunFolder.open(made.output, resume=False) as folder,
        lend(made, trained, folder, stop).lending() as trainer,
    ):
        kept = Updates(trainable(trained.model))
        trainer.add_callback(kept)
        trainer.train()
    return kept, drawn


def log_probabilities(
    made: plan.Plan, network: Any, answers: Sequence[Response]
) -> list[torch.Tensor]:
    """(tokens,) of each answer, run alone."""
    return [rollouts.token_scores(made, network, [answer])[0] for answer in answers]


def advantages(made: plan.Plan, answers: Sequence[Response], scaled: bool) -> list[float]:
    found = []
    for place in range(0, len(answers), 4):
        group = answers[place : place + 4]
        penalty = made.rlhf.missing_eos_penalty
        rewards = torch.tensor([score(a) - (0.0 if a.ended else penalty) for a in group])
        centred = rewards - rewards.mean()
        found += (centred / (rewards.std() + 1e-4) if scaled else centred).tolist()
    return found


# What the summed losses of an answer's tokens are divided by: its tokens and those of all answers.
DIVISORS: dict[str, Callable[[int, int, int], float]] = {
    "grpo": lambda own, all_tokens, longest: own * 8,
    "dr_grpo": lambda own, all_tokens, longest: longest * 8,
    "dapo": lambda own, all_tokens, longest: all_tokens,
    "bnpo": lambda own, all_tokens, longest: all_tokens,
}


# So that after the first update some ratios are within the wider bound, and some beyond: where
# answers that do not end are masked, those of five tokens are left.
RATES = {"dapo": 0.01, "dr_grpo": 0.001, "grpo": 0.004, "bnpo": 0.004}


@pytest.mark.parametrize(
    ("loss", "mask"),
    [
        ("dapo", False),
        *(pytest.param(loss, True, marks=pytest.mark.slow) for loss in ("dr_grpo", "grpo", "bnpo")),
    ],
)
def test_each_update_is_that_of_the_papers_formula(
    loss: str, mask: bool, rlhf_recipe: Callable[..., Path]
) -> None:
    """Normalisation, spread, asymmetric clipping to the sampling policy, over-long answers."""
    low, high = 0.01, 0.2
    made = make(
        rlhf_recipe(
            "grpo",
            grpo={
                **{"loss": loss, "updates": 2, "clip": low, "clip_high": high},
                "mask_truncated": mask,
            },
            rlhf={"temperature": 0.7, "kl_limit": 1e6},
            # bnpo divides by the tokens of a forward pass: here those of all answers.
            train={
                **{"max_grad_norm": 1e9, "max_steps": 1, "scheduler": "constant", "warmup": 0},
                **{"micro_batch_size": 8 if loss == "bnpo" else 2, "learning_rate": RATES[loss]},
            },
        )
    )
    kept, drawn = first_step(made)
    assert len(kept.gradients) == 2
    ended = [answer.ended for answer in drawn]
    assert 0 < sum(ended) < 8
    values = advantages(made, drawn, scaled=loss != "dr_grpo")
    wanted = start(made, moved=True).model
    own = dict(trainable(wanted))
    with torch.no_grad():
        before = log_probabilities(made, wanted, drawn)
        with rollouts.reference(wanted):
            then = log_probabilities(made, wanted, drawn)
    counted = [len(a.response_ids) if a.ended or not mask else 0 for a in drawn]
    clipped = {"below": 0, "above": 0}
    between = 0
    for weights, gradients in zip(kept.weights, kept.gradients, strict=True):
        for name, parameter in own.items():
            parameter.grad = None
            with torch.no_grad():
                parameter.copy_(weights[name])
        parts = []
        for n, old, t, value, count in zip(
            log_probabilities(made, wanted, drawn), before, then, values, counted, strict=True
        ):
            ratio = torch.exp(n - old)
            bounded = ratio.clamp(1 - low, 1 + high)
            k3 = (torch.exp(t - n) - (t - n) - 1) * ratio
            clipped["below"] += int(((ratio < 1 - low) & (value < 0)).sum()) if count else 0
            clipped["above"] += int(((ratio > 1 + high) & (value > 0)).sum()) if count else 0
            raised = (ratio > 1 + low) & (ratio < 1 + high) & (value > 0)
            between += int(raised.sum()) if count else 0
            each = -torch.minimum(ratio * value, bounded * value) + BETA * k3
            if count:
                divisor = DIVISORS[loss](count, sum(counted), made.rlhf.max_new_tokens)
                parts.append(each.sum() / divisor)
        torch.stack(parts).sum().backward()
        for name, parameter in own.items():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=2e-3, atol=2e-6)
        assert max(float(g.abs().max()) for g in gradients.values()) > 1e-4
    assert between > 0
    # Few answers are left where those that do not end are masked.
    assert (max if mask else min)(clipped.values()) > 0
    (line,) = lines(made)
    assert line["step"] == 1
    assert line["clip_share"] > 0


@pytest.mark.slow
def test_a_stopped_run_of_several_updates_resumes_exactly(
    rlhf_recipe: Callable[..., Path],
) -> None:
    """R14, C03: weights and metrics; the rate and the rows are those of the step."""
    method = {"name": "lora", "r": 4, "dropout": 0.1}
    sections = {
        "grpo": {"redraws": 2, "updates": 2, "loss": "dr_grpo", "clip_high": 0.28},
        "rlhf": {"sample_steps": 1, "reward": [{"rule": "length", "max": 5}]},
    }
    recipe = rlhf_recipe("grpo", method=method, train={"save_steps": 3}, **sections)
    whole, parts = stopped_and_resumed(recipe)
    assert lines(parts, "samples.jsonl") == lines(whole, "samples.jsonl")
    assert sum(line["redrawn"] for line in lines(whole)) > 0
    once = make(rlhf_recipe("grpo", "once.yaml", method=method), "once")
    train(once)
    for key in ("learning_rate", "epoch"):
        assert [line[key] for line in lines(whole)] == [line[key] for line in lines(once)]


def test_the_plan_says_what_has_no_effect_and_what_depends_on_the_forward_passes(
    rlhf_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    clipped = " ".join(make(rlhf_recipe("grpo", grpo={"clip_high": 0.28})).warnings)
    assert "grpo.clip_high: 0.28 has no effect in the only update of a step" in clipped
    assert "grpo.clip: " not in clipped
    followed = make(rlhf_recipe("grpo", grpo={"clip_high": 0.28, "updates": 2}))
    assert "grpo." not in " ".join(followed.warnings)
    monkeypatch.setattr(fit, "fit", lambda *others: 2)
    for loss, said in (("bnpo", True), ("grpo", False)):
        split = {"micro_batch_size": "auto"}
        made = make(rlhf_recipe("grpo", grpo={"loss": loss}, train=split))
        words = "bnpo takes the mean of its tokens over the rows of a forward pass, here 2: set"
        assert (words in " ".join(made.warnings)) is said


def test_finished_stages_of_earlier_versions_are_recognised(
    rlhf_recipe: Callable[..., Path],
) -> None:
    """What identifies them has nothing of the new section, and checkpoints get its defaults."""
    recipe = rlhf_recipe("grpo")
    assert "grpo:\n" not in dump.meaning(load.load(recipe, verb="rlhf"))
    said = dump.meaning(load.load(recipe, ["grpo.updates=2"], verb="rlhf"))
    assert "grpo:\n  updates: 2\n" in said
    current = make(recipe).identity()
    assert current["grpo.updates"] == 1
    saved = {key: value for key, value in current.items() if not key.startswith("grpo.")}
    assert history.identity(saved, current) == current


def drawn_with(
    made: plan.Plan, score: Callable[[Response], float]
) -> tuple[list[list[Response]], dict[str, Any]]:
    """What the rewards see of the answers of one step, each time, and its line of metrics."""
    trained, seen = start(made, moved=True), list[list[Response]]()

    def judge(answers: list[Response]) -> Scores:
        seen.append([*answers])
        return Scores(known := [score(answer) for answer in answers], {"own": known})

    trained.judge = judge
    train(made, trained=trained)
    return seen, lines(made)[0]


def equal_groups(answers: Sequence[Response], score: Callable[[Response], float]) -> list[int]:
    groups = [answers[place : place + 4] for place in range(0, len(answers), 4)]
    return [n for n, group in enumerate(groups) if len({score(answer) for answer in group}) == 1]


def test_answers_whose_rewards_are_equal_are_sampled_again(
    rlhf_recipe: Callable[..., Path],
) -> None:
    """Others stay as they are; all are scored together each time, and none twice."""

    def rare(answer: Response) -> float:
        return float(sum(answer.response_ids) % 11 == 0)

    made = make(
        rlhf_recipe(
            "grpo",
            grpo={"redraws": 3},
            rlhf={"missing_eos_penalty": 0},
            train={"batch_size": 32, "max_steps": 1},
        )
    )
    seen, line = drawn_with(made, rare)
    redrawn = 0
    assert len(seen) == 4
    for before, after in itertools.pairwise(seen):
        again = equal_groups(before, rare)
        redrawn += len(again)
        for group in range(8):
            own = slice(4 * group, 4 * group + 4)
            assert (before[own] == after[own]) is (group not in again)
            assert [a.prompt_ids for a in before[own]] == [a.prompt_ids for a in after[own]]
    assert line["redrawn"] == redrawn > 8
    left = equal_groups(seen[-1], rare)
    assert len(left) < len(equal_groups(seen[0], rare))
    assert line["equal_rewards"] == pytest.approx(len(left) / 8)
    assert line["reward"] == pytest.approx(sum(map(rare, seen[-1])) / 32)


def test_groups_that_differ_are_sampled_once(rlhf_recipe: Callable[..., Path]) -> None:
    """And as without the key."""
    steps = {"max_steps": 1}
    found = []
    for times in (0, 3):
        made = make(rlhf_recipe("grpo", grpo={"redraws": times}, train=steps), f"by {times}")
        found.append(drawn_with(made, score))
    assert len(found[0][0]) == len(found[1][0]) == 1
    assert found[0][0] == found[1][0]
    assert found[1][1].pop("redrawn") == 0
    assert found[0][1] == found[1][1]
