"""The wiring of PPO on a tiny policy, against naive loops."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tasks.policies import (
    EOS,
    POLICIES,
    STOPS,
    answered,
    learner,
    make,
    near,
    stages,
    started,
    trained_tensors,
    under,
)
from tuner.data.tokens.order import position
from tuner.rewards.response import Scores
from tuner.run import build
from tuner.tasks import rollouts
from tuner.tasks.ppo import Ppo, Rollout
from tuner.tasks.ppo_math import (
    kl_k1,
    token_rewards,
    value_losses,
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, bases: Callable[[str], Path]) -> Path:
    return stages(tmp_path_factory.mktemp("ppo"), bases("llama"))


def test_an_answer_is_cut_behind_its_first_stop_token(work: Path, tmp_path: Path) -> None:
    """R09, R10: the end of turn or a token that generation_config.json names."""
    made = make(work, tmp_path)
    assert rollouts.stops(made) == STOPS
    whole = [90, 91, 92]
    drawn = [[90, EOS, 0, 0], [90, 120, 91, EOS], whole, [EOS, EOS], [130, 90]]
    found = answered(made, *drawn)
    assert [answer.response_ids for answer in found] == [
        (90, EOS),
        (90, 120),
        (90, 91, 92),
        (EOS,),
        (130,),
    ]
    assert [answer.ended for answer in found] == [True, True, False, True, True]
    assert [answer.num_tokens for answer in found] == [1, 1, 3, 0, 0]
    assert found[2].text == made.tokenizer.decode(whole)
    assert found[3].text == found[4].text == ""
    lengths = [len(answer.response_ids) for answer in found]
    scores = torch.arange(1.0, 6.0)
    rewards = token_rewards(scores, torch.zeros(sum(lengths)), 1.0, lengths)
    assert rewards.tolist() == [0, 1, 0, 2, 0, 0, 3, 4, 5]


def test_the_reward_model_reads_nothing_behind_the_stop(work: Path, tmp_path: Path) -> None:
    """R10, R15: the very ids of the prompt and the answer, seen by a hook on the reward model."""
    made = make(work, tmp_path, train={"batch_size": 32}, rlhf={"max_new_tokens": 12})
    (source,) = made.parties.judges.values()
    from tuner.tasks.judges import open_model

    seen: list[tuple[int, ...]] = []

    def keep(module: Any, args: Any, given: dict[str, Any]) -> None:
        for ids, mask in zip(given["input_ids"], given["attention_mask"], strict=True):
            seen.append(tuple(ids[mask.bool()].tolist()))

    judge = open_model(made, source)
    with learner(made) as ppo:
        rollout = ppo.collect(0)
    judge.network.register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad():
        scores = judge.score(rollout.answers)
    assert scores == near(rollout.scores.parts["reward"])
    texts = [(*answer.prompt_ids, *answer.response_ids) for answer in rollout.answers]
    assert sorted(seen) == sorted(texts)
    ends = [any(token in STOPS for token in answer.response_ids) for answer in rollout.answers]
    assert 4 < sum(ends) < 32
    for answer in rollout.answers:
        assert not set(answer.response_ids[:-1]) & set(STOPS)
        assert answer.ended == (answer.response_ids[-1] in STOPS)
        assert answer.ended or len(answer.response_ids) == 12


@POLICIES
def test_policy_and_reference_begin_as_one(start: str, work: Path, tmp_path: Path) -> None:
    """R06: KL 0 and ratio 1 before any update."""
    ppo_section = {"epochs": 1, "minibatches": 1}
    made = make(work, tmp_path, rlhf=started(work, start), ppo=ppo_section)
    with learner(made) as ppo:
        rollout = ppo.collect(0)
        torch.testing.assert_close(rollout.old, rollout.reference, rtol=0, atol=1e-5)
        assert float(kl_k1(rollout.old, rollout.reference).sum()) == pytest.approx(0, abs=1e-4)
        learned = ppo.updates.learn(rollout, 0)
        # The ratio is 1: nothing is cut, and the loss is the mean advantage.
        assert learned["clip_share"] == 0
        assert learned["step_kl"] == pytest.approx(0, abs=1e-6)
        assert learned["policy_loss"] == pytest.approx(-float(rollout.advantages.mean()), abs=1e-6)
        tokens = under(ppo, rollout.answers, start=False)
        assert (tokens - rollout.old).abs().max() > 1e-3
    if start == "sft":
        with learner(make(work, tmp_path)) as bare:
            other = under(bare, rollout.answers, start=True)
        assert (other - rollout.reference).abs().max() > 1e-3


def test_settings_of_the_base_do_not_change_what_is_drawn(work: Path, tmp_path: Path) -> None:
    """R06: top_k, repetition_penalty and min_new_tokens of its generation_config.json."""
    plain = tmp_path / "base"
    shutil.copytree(work / "base", plain)
    (plain / "generation_config.json").write_text(json.dumps({"eos_token_id": STOPS}))
    rlhf = {"temperature": 0.7, "reward": [{"rule": "length", "max": 6}]}
    made = make(work, tmp_path, rlhf=rlhf)
    prompts = made.prepared.train[:6]
    network = build.load(made).eval()
    drawn = rollouts.draw(made, network, prompts, 11)
    assert network.generation_config.top_k == 5
    other = make(work, tmp_path, rlhf=rlhf, model={"base": str(plain)})
    again = rollouts.draw(other, build.load(other).eval(), prompts, 11)
    assert [answer.response_ids for answer in drawn] == [answer.response_ids for answer in again]

    many = make(work, tmp_path, rlhf={**rlhf, "max_new_tokens": 1})
    first = rollouts.draw(many, network, [prompts[0]] * 2048, 5)
    with torch.no_grad():
        logits = network(input_ids=torch.tensor([prompts[0].input_ids])).logits[0, -1]
    known = (logits / 0.7).log_softmax(dim=0)
    chosen = known[[answer.response_ids[0] for answer in first]]
    entropy = -float((known.exp() * known).sum())
    spread = float(chosen.std()) / math.sqrt(len(first))
    assert float(chosen.mean()) == pytest.approx(-entropy, abs=4 * spread)
    share = float(known[STOPS].exp().sum())
    ended = sum(answer.ended for answer in first) / len(first)
    assert ended == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / len(first)))


def test_packed_and_padded_rows_have_the_same_log_probabilities(work: Path, tmp_path: Path) -> None:
    """Packed, padded on the right, padded on the left as they are drawn, and each alone."""
    settings: dict[str, Any] = {"rlhf": {"temperature": 0.8}}
    packed = make(work, tmp_path, **settings, data={"packing": True})
    padded = make(work, tmp_path, **settings, data={"packing": False})
    assert (packed.packing, padded.packing) == (True, False)
    with learner(packed) as ppo, torch.no_grad():
        answers = ppo.collect(0).answers
        assert len({len(answer.prompt_ids) + len(answer.response_ids) for answer in answers}) > 2
        found, spread, hidden = rollouts.token_scores(packed, ppo.model, answers, True)
        right = rollouts.token_scores(padded, ppo.model, answers, True)
        rows = [[*answer.prompt_ids, *answer.response_ids] for answer in answers]
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        places = (mask.cumsum(1) - 1).clamp(min=0)
        logits = ppo.model(input_ids=ids, attention_mask=mask, position_ids=places).logits
        left, alone, entropies = [], [], []
        for answer, row, seen in zip(answers, rows, logits, strict=True):
            count = len(answer.response_ids)
            target = torch.tensor(answer.response_ids)[:, None]
            left.append((seen[-count - 1 : -1] / 0.8).log_softmax(-1).gather(1, target)[:, 0])
            own = ppo.model(input_ids=torch.tensor([row])).logits[0, -count - 1 : -1] / 0.8
            alone.append(own.log_softmax(-1).gather(1, target)[:, 0])
            entropies.append(torch.distributions.Categorical(logits=own).entropy())
    for other in (right[0], torch.cat(left), torch.cat(alone)):
        torch.testing.assert_close(other, found, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.cat(entropies), spread, rtol=0, atol=1e-5)
    torch.testing.assert_close(right[2], hidden, rtol=0, atol=1e-4)


@POLICIES
def test_the_reference_never_moves(start: str, work: Path, tmp_path: Path) -> None:
    """R07: bit for bit after 20 steps, while the policy moves."""
    train = {"max_steps": 20, "batch_size": 4, "learning_rate": 0.002}
    made = make(work, tmp_path, rlhf=started(work, start), train=train)
    with learner(made) as ppo:
        answers = answered(made, [90, 91, 92, EOS], [93, 94], [95, EOS])
        first, policy_first = under(ppo, answers, True), under(ppo, answers, False)
        ppo.train()
        assert torch.equal(under(ppo, answers, True), first)
        assert (under(ppo, answers, False) - policy_first).abs().max() > 1e-2


@pytest.mark.parametrize("trunk", ["policy", "reward"])
@POLICIES
def test_nothing_is_dropped_out(start: str, trunk: str, work: Path, tmp_path: Path) -> None:
    """R05: every dropout that a step passes through is off; scores repeat exactly."""
    method = {} if start == "sft" else {"method": {"name": "lora", "r": 4, "dropout": 0.5}}
    ppo_section = {"value_trunk": trunk}
    made = make(work, tmp_path, rlhf=started(work, start), ppo=ppo_section, **method)
    modes: list[bool] = []

    def look(module: Any, inputs: Any) -> None:
        if isinstance(module, torch.nn.Dropout):
            modes.append(module.training)

    handle = torch.nn.modules.module.register_module_forward_pre_hook(look)
    try:
        with learner(made) as ppo:
            ppo.train()
            answers = answered(made, [90, 91, EOS], [93, 94])
            for each in (
                lambda: under(ppo, answers, True).tolist(),
                lambda: under(ppo, answers, False).tolist(),
                lambda: ppo.judge(answers).total,
                lambda: ppo.read(answers)[2].tolist(),
            ):
                assert each() == each() == each()
    finally:
        handle.remove()
    assert len(modes) > 20
    assert not any(modes)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_value_head_starts_at_zero_in_float32(dtype: str, work: Path, tmp_path: Path) -> None:
    """R12: it expects nothing of anything, whatever the base computes in."""
    with learner(make(work, tmp_path, model={"dtype": dtype})) as ppo:
        head = ppo.model.value_head
        assert head.weight.shape == (1, 64)
        assert head.weight.dtype == head.bias.dtype == torch.float32
        assert not head.weight.any()
        assert not head.bias.any()
        rollout = ppo.collect(0)
        assert not rollout.values.any()
        assert rollout.values.dtype == torch.float32


@pytest.mark.parametrize("share", [False, True])
def test_the_value_loss_reaches_the_policy_only_if_shared(
    share: bool, work: Path, tmp_path: Path
) -> None:
    """R12: its gradient on the policy's adapter, and what an update by it alone moves."""
    made = make(work, tmp_path, ppo={"share_trunk": share, "epochs": 3})
    with learner(made) as ppo:
        rollout = ppo.collect(0)
        torch.nn.init.normal_(ppo.model.value_head.weight)
        _, _, hidden = rollouts.token_scores(made, ppo.model, rollout.answers)
        values = ppo.model.value_head.values(rollout.answers, hidden)
        value_losses(values, rollout.values, rollout.returns, 0.2).sum().backward()
        adapter = [p for name, p in ppo.leg.parameters if "value_head" not in name]
        assert any(p.grad is not None and bool(p.grad.any()) for p in adapter) == share
        assert ppo.model.value_head.weight.grad.any()
        ppo.leg.optimizer.zero_grad(set_to_none=True)
        rollout.advantages.zero_()
        before = trained_tensors(ppo, critic=False)
        ppo.updates.learn(rollout, 0)
        after = trained_tensors(ppo, critic=False)
        assert any(not torch.equal(after[name], before[name]) for name in before) == share


def test_a_critic_on_the_reward_model_leaves_its_scores_alone(work: Path, tmp_path: Path) -> None:
    """R12: it begins as the score of what has been written so far; its own copy learns."""
    made = make(work, tmp_path, ppo={"value_trunk": "reward"}, train={"max_steps": 4})
    with learner(made) as ppo:
        answers = answered(made, [90, 91, 92, EOS], [93, 94], [95, EOS])
        scores = ppo.judge(answers).parts["reward"]
        _, _, values = ppo.read(answers)
        cut = [
            replace(answer, response_ids=answer.response_ids[:number])
            for answer in answers
            for number in range(len(answer.response_ids))
        ]
        assert values.tolist() == pytest.approx(ppo.judge(cut).parts["reward"], abs=1e-5)
        before = trained_tensors(ppo, critic=True)
        assert any(
            "lora" in name for name, _ in ppo.model.value_head._source.network.named_modules()
        )
        assert len(before) > 2
        ppo.train()
        after = trained_tensors(ppo, critic=True)
        assert all(not torch.equal(after[name], before[name]) for name in before)
        assert ppo.judge(answers).parts["reward"] == scores
        assert (ppo.read(answers)[2] - values).abs().max() > 1e-3


def naive_gradients(ppo: Ppo, rollout: Rollout) -> dict[str, torch.Tensor]:
    """Of one update over all answers, one answer after the other, in plain torch."""
    options, rlhf = ppo.plan.ppo, ppo.plan.rlhf
    tokens, place = sum(rollout.lengths), 0
    loss = torch.zeros(())
    for answer, length in zip(rollout.answers, rollout.lengths, strict=True):
        ids = torch.tensor([[*answer.prompt_ids, *answer.response_ids]])
        outputs = ppo.model(input_ids=ids, output_hidden_states=True)
        known = (outputs.logits[0, -length - 1 : -1] / rlhf.temperature).log_softmax(-1)
        states = outputs.hidden_states[-1][0, -length - 1 : -1].detach()
        head = ppo.model.value_head
        for number, token in enumerate(answer.response_ids):
            ratio = (known[number, token] - rollout.old[place]).exp()
            gain = rollout.advantages[place]
            cut = min(max(float(ratio.detach()), 1 - options.clip), 1 + options.clip)
            worse = (
                cut * gain if float(cut * gain) < float((ratio * gain).detach()) else ratio * gain
            )
            value = head.weight[0] @ states[number] + head.bias[0]
            target, old = rollout.returns[place], rollout.values[place]
            shift = min(max(float((value - old).detach()), -options.value_clip), options.value_clip)
            clipped = (old + shift - target) ** 2
            plain = (value - target) ** 2
            error = clipped if float(clipped) > float(plain.detach()) else plain
            loss = loss + (-worse + options.value_coefficient * 0.5 * error) / tokens
            place += 1
    places = range(len(rollout.answers))
    rows = [ppo.plan.ptx[position(n, len(ppo.plan.ptx), ppo.plan.recipe.run.seed)] for n in places]
    targets = sum(row.num_targets for row in rows)
    for row in rows:
        logits = ppo.model(input_ids=torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
        for number, token in enumerate(row.input_ids):
            if row.supervised[number]:
                loss = loss - options.ptx_coefficient * logits[number - 1, token] / targets
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in ppo.leg.parameters}
    ppo.leg.optimizer.zero_grad(set_to_none=True)
    return gradients


def test_an_update_is_that_of_a_naive_loop_however_it_is_accumulated(
    work: Path, tmp_path: Path
) -> None:
    """Micro-batches of 1, of 4 and of the whole batch; with clipping, value loss and PPO-ptx."""
    results, grads = [], []
    for micro in (1, 4, 8):
        made = make(
            work,
            tmp_path,
            rlhf={**started(work, "sft"), "temperature": 0.9},
            ppo={
                "epochs": 1,
                "minibatches": 1,
                "ptx_coefficient": 0.3,
                "ptx_data": str(work / "sft.jsonl"),
            },
            train={"micro_batch_size": micro, "max_grad_norm": 1e6},
        )
        with learner(made) as ppo:
            torch.manual_seed(0)
            torch.nn.init.normal_(ppo.model.value_head.weight, std=0.1)
            rollout = ppo.collect(0)
            # As if some updates had been made: ratios and values within and beyond the clipping.
            rollout.old += 0.3 * torch.randn(rollout.old.shape)
            rollout.values += 0.3 * torch.randn(rollout.values.shape)
            expected = naive_gradients(ppo, rollout)
            found: dict[str, torch.Tensor] = {}

            def keep(
                optimizer: Any, args: Any, given: Any, ppo: Any = ppo, to: Any = found
            ) -> None:
                to.update({name: p.grad.clone() for name, p in ppo.leg.parameters})

            ppo.leg.optimizer.register_step_pre_hook(keep)
            learned = ppo.updates.learn(rollout, 0)
            assert 0 < learned["clip_share"] < 1
            for name, gradient in expected.items():
                torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
            results.append(dict(trained_tensors(ppo, False), **trained_tensors(ppo, True)))
            grads.append(found)
    for other, gradient in zip(results[1:], grads[1:], strict=True):
        for name, tensor in results[0].items():
            torch.testing.assert_close(gradient[name], grads[0][name], rtol=0, atol=1e-6)
            torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-6)


def test_only_an_answer_that_does_not_end_pays_for_it(work: Path, tmp_path: Path) -> None:
    """R09: exactly the penalty, on its last token; an end in the prompt is none of the answer."""
    found = []
    for penalty in (0.0, 0.75):
        ppo_section = {"whiten_advantages": False, "gae_lambda": 1.0}
        rlhf = {"missing_eos_penalty": penalty, "max_new_tokens": 5}
        made = make(work, tmp_path, rlhf=rlhf, ppo=ppo_section, train={"batch_size": 16})
        with learner(made) as ppo:
            found.append(ppo.collect(0))
    free, priced = found
    assert [a.response_ids for a in free.answers] == [a.response_ids for a in priced.answers]
    assert free.scores == priced.scores
    ended = [answer.ended for answer in free.answers]
    assert 0 < sum(ended) < 16
    custom = [a.response_ids[-1] for a in free.answers if a.ended and a.response_ids[-1] != EOS]
    assert custom
    assert all(EOS in answer.prompt_ids for answer in free.answers)
    lower = (free.returns - priced.returns).split(free.lengths)
    for answer, paid in zip(free.answers, lower, strict=True):
        assert paid.tolist() == near([0.0 if answer.ended else 0.75] * len(paid))


def test_scores_are_scaled_then_cut_then_priced(work: Path, tmp_path: Path) -> None:
    made = make(
        work,
        tmp_path,
        rlhf={"missing_eos_penalty": 0.5},
        ppo={"normalize_scores": True, "score_clip": 1.2},
    )
    with learner(made) as ppo:
        answers = answered(made, [90, EOS], [91, EOS], [92], [93])
        for scores in ([4.0, -1.0, 0.5, -8.0], [3.0, 3.0, -3.0, 1.0]):
            seen = [4.0, -1.0, 0.5, -8.0] + ([] if scores[0] == 4 else scores)
            scaled = np.clip(np.array(scores) / np.std(seen), -1.2, 1.2)
            found = ppo.earned(answers, Scores(scores, {}))
            assert found.tolist() == near(scaled - np.array([0, 0, 0.5, 0.5]))


def test_nothing_to_learn_from_stays_finite(work: Path, tmp_path: Path) -> None:
    """R16: equal rewards, answers that end at once, and both; counted, and no NaN."""
    silent = tmp_path / "base"
    shutil.copytree(work / "base", silent)
    (silent / "generation_config.json").write_text(json.dumps({"eos_token_id": [*range(1, 512)]}))
    equal = {"reward": [{"rule": "forbidden", "words": ["xyzzy"]}]}
    for base, rlhf in ((work / "base", equal), (silent, equal), (silent, {})):
        if base == silent and not rlhf:
            rlhf = {"reward": [{"rule": "length", "min": 0, "max": 3, "unit": "tokens"}]}
        whitened = {"whiten_rewards": True, "normalize_scores": True}
        made = make(work, tmp_path, model={"base": str(base)}, rlhf=rlhf, ppo=whitened)
        with learner(made) as ppo:
            ppo.train()
            assert all(bool(p.isfinite().all()) for _, p in ppo.leg.parameters)
            lines = (ppo.leg.folder.path / "metrics.jsonl").read_text().splitlines()
        for line in map(json.loads, lines):
            assert all(math.isfinite(value) for value in line.values())
            if base == silent:
                assert line["length"] == 1
                assert line["ended"] == 1
