"""trl's trainers as we call them: losses and gradients by hand, the reference, resuming, a run.

The contract tests fail in seconds where an upgrade of trl changes what is relied on.
"""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import TrainerCallback

from tests.conftest import WORDS, write_rows
from tuner import evaluate
from tuner.console.console import Console
from tuner.errors import Interrupted, RecipeError, TrainingError
from tuner.evaluate import implicit
from tuner.machine import hardware
from tuner.machine.signals import StopRequest
from tuner.plan import make as plan_make
from tuner.plan import plan
from tuner.recipe import load as recipe_load
from tuner.record.run_folder import RunFolder
from tuner.rewards.response import Response, Scores
from tuner.run import build, spine
from tuner.run import resume as training
from tuner.tasks import TASKS, leg, rollouts
from tuner.tasks.trained import Trained, trainable
from tuner.tasks.trl_lending import TrlRun
from tuner.tasks.watch import HeldOut

pytestmark = pytest.mark.usefixtures("in_process")

ALGORITHMS = ("dpo", "grpo", "rloo")
BETA = 0.1


def prompts(count: int) -> list[dict[str, str]]:
    """The first holds a control token as plain text, which a rendered prompt would not keep."""
    marks = ["<|im_end|>", *WORDS]
    return [{"prompt": f"Say {marks[n % 26]} {WORDS[n // 26]}."} for n in range(count)]


def preferences(count: int) -> list[dict[str, str]]:
    """The better answer is the one with the word great; lengths differ."""
    return [
        {
            **row,
            "chosen": " ".join(["great", *WORDS[: n % 4]]),
            "rejected": " ".join(["terrible", *WORDS[: n % 3]]),
        }
        for n, row in enumerate(prompts(count))
    ]


@pytest.fixture
def rlhf_recipe(make_recipe: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A recipe of an algorithm; sections are merged into small ones."""

    def make(algorithm: str, name: str = "r.yaml", **sections: Any) -> Path:
        rows: list[dict[str, Any]] = (preferences if algorithm == "dpo" else prompts)(24)
        write_rows(tmp_path / "held.jsonl", rows[20:])
        rlhf: dict[str, Any] = {"algorithm": algorithm, "kl_coefficient": BETA}
        if algorithm != "dpo":
            parts = [{"rule": "length", "max": 2}, {"rule": "forbidden", "words": WORDS}]
            rlhf |= {"reward": parts, "max_new_tokens": 6, "missing_eos_penalty": 0.25}
        return make_recipe(
            name=name,
            data_rows=sections.pop("data_rows", rows[:20]),
            data={"eval": "held.jsonl", "template": "auto", **sections.pop("data", {})},
            rlhf={**rlhf, **sections.pop("rlhf", {})},
            train={
                **{"batch_size": 8, "micro_batch_size": 2, "epochs": 2, "max_steps": 4},
                **{"learning_rate": 0.01, "logging_steps": 1, "save_steps": 2},
                **sections.pop("train", {}),
            },
            eval={"max_new_tokens": 4},
            export={"formats": ["adapter"]},
            **sections,
        )

    return make


def make(recipe: Path, out: str = "run") -> plan.Plan:
    loaded = recipe_load.load(recipe, verb="rlhf")
    return plan_make.make(loaded, hardware.detect(), output=recipe.parent / out)


def start(made: plan.Plan, moved: bool = False) -> Trained:
    """A policy; `moved`: away from its start, as a resumed one is."""
    trained = build.start(made, build.load(made))
    if moved:
        torch.manual_seed(3)
        with torch.no_grad():
            for name, tensor in trained.model.named_parameters():
                if tensor.requires_grad and "lora_B" in name:
                    tensor.add_(torch.randn_like(tensor) * 0.1)
    return trained


def lend(made: plan.Plan, trained: Trained, folder: Any, stop: Any) -> TrlRun:
    """The trainer of the first step."""
    console = Console(quiet=True)
    lent = TASKS["rlhf"].trainer(leg.begin(made, trained, made.stages[0], folder, stop, console))
    assert isinstance(lent, TrlRun)
    return lent


def train(
    made: plan.Plan, stop_at: int = 0, resume: bool = False, trained: Trained | None = None
) -> dict[str, torch.Tensor]:
    """The steps of a run alone, ended by a signal in step `stop_at`; the tensors it leaves."""
    trained = trained or start(made)
    resumed = training.newest_checkpoint(made, made.output)[0] if resume else None

    class Stopping(Console):
        def progress(self, step: int, total: int, metrics: Any) -> None:
            if step == stop_at:
                signal.raise_signal(signal.SIGTERM)

    with StopRequest() as stop, RunFolder.open(made.output, resume=resume) as folder:
        folder.truncate_metrics(resumed.step if resumed else 0)
        reporter = Stopping(quiet=True)
        spine.train(made, trained, folder, stop, reporter, HeldOut(), resumed)
    own = trained.model.named_parameters()
    return {name: p.detach().clone() for name, p in own if p.requires_grad}


def stopped_and_resumed(recipe: Path) -> tuple[plan.Plan, plan.Plan]:
    """A run of four steps, and one that is stopped in step 2 and goes on: both leave the same
    weights and metrics."""
    whole, parts = make(recipe, "whole"), make(recipe, "parts")
    wanted = train(whole)
    with pytest.raises(Interrupted):
        train(parts, stop_at=2)
    assert [line["step"] for line in lines(parts)] == [1, 2]
    found = train(parts, resume=True)
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name
    assert lines(parts) == lines(whole)
    assert [line["step"] for line in lines(whole)] == [1, 2, 3, 4]
    return whole, parts


def lines(made: plan.Plan, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
    read = map(json.loads, (made.output / file).read_text("utf-8").splitlines())
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read]


def start_adapter(rlhf_recipe: Callable[..., Path]) -> str:
    """The folder of an adapter that is away from the bare base, to start from."""
    recipe = rlhf_recipe("dpo")
    folder = recipe.parent / "begun"
    start(make(recipe), moved=True).model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("with_policy", [False, True])
def test_the_loss_of_dpo_is_the_papers_to_the_policys_start(
    with_policy: bool, rlhf_recipe: Callable[..., Path]
) -> None:
    """R07, R04: constructor, token ids, formula; the reference is no copy of what is trained."""
    begun = {"policy": start_adapter(rlhf_recipe)} if with_policy else {}
    made = make(rlhf_recipe("dpo", rlhf=begun))
    trained = start(made, moved=True)
    before = {name: p.detach().clone() for name, p in trained.model.named_parameters()}
    adapters = set(trained.model.peft_config)
    base = trained.model.get_base_model()
    config, generation, own = base.config.to_dict(), base.generation_config, set(base.__dict__)
    with StopRequest() as stop, RunFolder.open(made.output, resume=False) as folder:
        lent = lend(made, trained, folder, stop)
        with lent.lending() as trainer:
            first = [trainer.train_dataset[number] for number in range(3)]
            batch = trainer.data_collator(first)
            with torch.no_grad():
                loss = float(trainer.compute_loss(trainer.model, dict(batch)))
    pairs = [made.prepared.train[row["row"]] for row in first]
    sides = [pair.answers[side] for side in (0, 1) for pair in pairs]
    for ids, row, mask, answer in zip(
        batch["input_ids"].tolist(),
        batch["attention_mask"].tolist(),
        batch["completion_mask"].tolist(),
        sides,
        strict=True,
    ):
        prompt = _prompt_length(pairs, answer)
        assert ids[: len(answer)] == answer
        assert row == [1] * len(answer) + [0] * (len(ids) - len(answer))
        assert mask[: len(answer)] == [0] * prompt + [1] * (len(answer) - prompt)
        assert not any(mask[len(answer) :])
    with torch.no_grad():
        now = [_log_probability(trained.model, pair) for pair in pairs]
        with rollouts.reference(trained.model):
            then = [_log_probability(trained.model, pair) for pair in pairs]
    moved = (torch.stack(now) - torch.stack(then)).double()
    assert moved.abs().min() > 1e-3
    wanted = -functional.logsigmoid(BETA * (moved[:, 0] - moved[:, 1])).mean()
    assert loss == pytest.approx(float(wanted), abs=2e-5)
    # What was lent is given back as it was.
    assert set(trained.model.peft_config) == adapters
    assert base.config.to_dict() == config
    assert base.generation_config is generation
    assert set(base.__dict__) == own
    for name, tensor in trained.model.named_parameters():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def _prompt_length(pairs: Any, answer: list[int]) -> int:
    return next(len(pair.prompt_ids) for pair in pairs if answer in pair.answers)


def _log_probability(network: Any, pair: Any) -> torch.Tensor:
    """(2,) of the better and the worse answer, each run alone."""
    found = []
    for ids in pair.answers:
        scores = network(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        places = range(len(pair.prompt_ids), len(ids))
        found.append(torch.stack([scores[place - 1, ids[place]] for place in places]).sum())
    return torch.stack(found)


class Gradients(TrainerCallback):
    """Keeps the gradients of the first step."""

    def __init__(self, parameters: Any) -> None:
        self.parameters, self.found = dict(parameters), dict[str, torch.Tensor]()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.found:
            self.found = {
                name: p.grad.clone() for name, p in self.parameters.items() if p.grad is not None
            }


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_the_gradient_of_a_step_is_the_papers(
    algorithm: str, rlhf_recipe: Callable[..., Path]
) -> None:
    """R07, R09: prompts, drawn tokens, penalty, advantages, KL to the start, accumulation."""
    train_section = {"max_grad_norm": 1e9, "max_steps": 1}
    made = make(rlhf_recipe(algorithm, train=train_section, rlhf={"temperature": 0.7}))
    trained = start(made, moved=True)
    drawn: list[Response] = []

    def judge(answers: list[Response]) -> Scores:
        drawn[:] = answers
        return Scores(known := [float(sum(a.response_ids) % 7) for a in answers], {"sum": known})

    trained.judge = judge
    parameters = trainable(trained.model)
    wanted = start(made, moved=True)
    with StopRequest() as stop, RunFolder.open(made.output, resume=False) as folder:
        lent = lend(made, trained, folder, stop)
        with lent.lending() as trainer:
            kept = Gradients(parameters)
            trainer.add_callback(kept)
            trainer.train()
    assert len(drawn) == 8
    groups = [drawn[place : place + 4] for place in (0, 4)]
    assert all(len({answer.prompt_ids for answer in group}) == 1 for group in groups)
    known = {tuple(prompt.input_ids) for prompt in made.prepared.train}
    assert {answer.prompt_ids for answer in drawn} <= known
    _by_formula(made, wanted.model, groups, algorithm)
    for name, parameter in trainable(wanted.model):
        torch.testing.assert_close(kept.found[name], parameter.grad, rtol=1e-3, atol=1e-6)
    (line,) = lines(made)
    assert line["reward"] == pytest.approx(sum(sum(a.response_ids) % 7 for a in drawn) / 8)
    assert line["reward_sum"] == line["reward"]
    assert line["ended"] == sum(answer.ended for answer in drawn) / 8


def _by_formula(made: plan.Plan, network: Any, groups: Any, algorithm: str) -> None:
    """Leaves the gradient of the step's loss in the parameters."""
    tokens = sum(len(answer.response_ids) for group in groups for answer in group)
    losses = []
    for group in groups:
        new = [rollouts.token_scores(made, network, [answer])[0] for answer in group]
        with torch.no_grad(), rollouts.reference(network):
            then = [rollouts.token_scores(made, network, [answer])[0] for answer in group]
        penalty = made.rlhf.missing_eos_penalty
        scores = [sum(a.response_ids) % 7 - (0 if a.ended else penalty) for a in group]
        rewards = torch.tensor(scores, dtype=torch.float32)
        if algorithm == "rloo":
            kl = torch.stack([(n - t).sum().detach() for n, t in zip(new, then, strict=True)])
            rewards = rewards - BETA * kl
            others = (rewards.sum() - rewards) / (len(group) - 1)
            parts = [
                -(a * torch.exp(n.sum() - n.sum().detach()))
                for a, n in zip(rewards - others, new, strict=True)
            ]
            losses.append(torch.stack(parts).sum() / 8)
            continue
        advantage = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        for value, n, t in zip(advantage, new, then, strict=True):
            ratio = torch.exp(n - n.detach())
            k3 = (torch.exp(t - n) - (t - n) - 1) * ratio
            losses.append((-(ratio * value) + BETA * k3).sum() / tokens)
    torch.stack(losses).sum().backward()


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_the_kl_is_measured_to_the_policy_that_was_given(
    algorithm: str, rlhf_recipe: Callable[..., Path]
) -> None:
    """R06: 0 in the first step, whatever the policy starts from; and then not 0."""
    begun = start_adapter(rlhf_recipe)
    made = make(rlhf_recipe(algorithm, rlhf={"policy": begun}, train={"max_steps": 2}))
    trained = start(made)
    names = set(trained.model.peft_config)
    train(made, trained=trained)
    kl = [line["kl"] for line in lines(made)]
    assert abs(kl[0]) < 1e-5
    assert abs(kl[1]) > 1e-4
    assert set(trained.model.peft_config) == names


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_stopped_run_resumes_exactly(algorithm: str, rlhf_recipe: Callable[..., Path]) -> None:
    """R14, C03: weights, metrics and drawn answers, with the reference at the start."""
    method = {"name": "lora", "r": 4, "dropout": 0.1}
    sections = {"rlhf": {"sample_steps": 1}} if algorithm != "dpo" else {}
    recipe = rlhf_recipe(algorithm, method=method, train={"save_steps": 3}, **sections)
    whole, parts = stopped_and_resumed(recipe)
    if algorithm != "dpo":
        assert lines(parts, "samples.jsonl") == lines(whole, "samples.jsonl")
        assert len(lines(whole, "samples.jsonl")) == 4 * 8


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_recipe_becomes_a_verified_adapter(
    algorithm: str,
    rlhf_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """R13: an ordinary adapter, with nothing of trl's in it."""
    from safetensors.torch import load_file

    found = run_recipe(rlhf_recipe(algorithm), verb="rlhf")
    assert found["status"] == "done"
    assert not found["unmoved_tensors"]
    (artefact,) = found["artefacts"]
    assert artefact["verified"]
    saved = load_file(tmp_path / "run/adapter/adapter_model.safetensors")
    assert all("lora_" in name and ".ref" not in name for name in saved)
    before, after = found["scores"]["before"], found["scores"]["after"]
    if algorithm != "dpo":
        assert before["kl"] == 0.0
        assert {"reward", "reward_length", "reward_forbidden"} <= set(after)
        return
    assert before == {"pair_loss": pytest.approx(math.log(2)), "pair_accuracy": 0.5, "margin": 0}
    assert after["pair_accuracy"] == 1.0
    assert after["margin"] > 0
    assert found["samples"][0]["reference"].startswith("great")


def test_the_implicit_rewards_are_those_of_the_formula(rlhf_recipe: Callable[..., Path]) -> None:
    made = make(rlhf_recipe("dpo"))
    trained = start(made, moved=True)
    rows, tick = evaluate.rows(made), lambda done, total: None
    judged = implicit.observe(made, trained.model.eval(), rows, tick)
    for item in judged:
        with torch.no_grad():
            now = _log_probability(trained.model, item.ranking)
            with trained.model.disable_adapter():
                then = _log_probability(trained.model, item.ranking)
        assert item.scores == pytest.approx((BETA * (now - then)).tolist(), abs=1e-5)
    assert set(evaluate.values(made.metrics, judged)) == {"pair_loss", "pair_accuracy", "margin"}


def test_every_pair_of_a_ranking_is_a_row_of_dpo(rlhf_recipe: Callable[..., Path]) -> None:
    rows = [{"prompt": f"Say {word}.", "answers": ["foo", "bar", "text"]} for word in WORDS[:4]]
    made = make(rlhf_recipe("dpo", data_rows=rows, data={"eval": 0}))
    assert len(made.prepared.train) == 4 * 3
    assert {pair.texts for pair in made.prepared.train} == {
        ("foo", "bar"),
        ("foo", "text"),
        ("bar", "text"),
    }
    assert all(
        [ids[len(pair.prompt_ids) :] for ids in pair.answers]
        == [
            [*made.tokenizer(text)["input_ids"], made.tokenizer.eos_token_id] for text in pair.texts
        ]
        for pair in made.prepared.train
    )


def test_a_reward_that_says_nothing_stops_the_run(rlhf_recipe: Callable[..., Path]) -> None:
    constant = {"reward": [{"rule": "format", "pattern": "never", "name": "shape"}]}
    more = {"max_steps": 6, "epochs": 3}
    made = make(rlhf_recipe("grpo", rlhf={**constant, "missing_eos_penalty": 0}, train=more))
    with pytest.raises(TrainingError) as caught:
        train(made)
    assert "'shape' was 0 for every response in 5 steps" in str(caught.value)
    assert [line["step"] for line in lines(made)] == [1, 2, 3, 4]


def test_a_policy_too_far_away_stops_the_run(rlhf_recipe: Callable[..., Path]) -> None:
    made = make(rlhf_recipe("rloo", rlhf={"kl_limit": 1e-6}, train={"save_steps": 1}))
    with pytest.raises(TrainingError) as caught:
        train(made)
    assert "collapsed: the KL per answer from the reference policy is" in str(caught.value)
    assert "step-1" in str(caught.value)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("dpo", {"reward": [{"rule": "length", "max": 2}]}, "rlhf.reward and rlhf.algorithm: dpo"),
    ("dpo", {"temperature": 0.5}, "rlhf.temperature and rlhf.algorithm: dpo"),
    ("dpo", {"max_new_tokens": 9}, "rlhf.max_new_tokens and rlhf.algorithm: dpo"),
    ("grpo", {"responses_per_prompt": 1}, "grpo compares the answers to a prompt"),
    ("rloo", {"responses_per_prompt": 3}, "rlhf.responses_per_prompt: 3 does not divide"),
    ("grpo", {"vllm": "colocate"}, "rlhf.vllm: colocate, but "),
    ("rloo", {"reward": []}, "rlhf.reward is empty, but rloo learns from rewards"),
]


@pytest.mark.parametrize(("algorithm", "section", "words"), REFUSED)
def test_what_an_algorithm_cannot_use_is_refused(
    algorithm: str, section: dict[str, Any], words: str, rlhf_recipe: Callable[..., Path]
) -> None:
    with pytest.raises(RecipeError) as caught:
        make(rlhf_recipe(algorithm, rlhf=section))
    assert words in str(caught.value)
