"""The loss of a reward model, against trl and by hand, and what it is scored by."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.tasks.preferences import make, pairs
from tuner.data.preferences import Ranking
from tuner.evaluate import preference
from tuner.evaluate.preference import Judged
from tuner.plan import plan
from tuner.recipe.schema_rlhf import RewardSection
from tuner.run import build
from tuner.tasks.reward import RankingBatches, pair_losses

pytestmark = pytest.mark.usefixtures("one_thread")


def learn(network: Any, made: plan.Plan, rows: Sequence[Ranking]) -> tuple[float, torch.Tensor]:
    """Loss of one batch of prompts, and the gradient of the head's weights."""
    options = made.recipe.reward or RewardSection()
    batches = RankingBatches(rows, options, made.tokenizer.pad_token_id)
    batch = batches.collate(rows)
    labels = batch.pop("labels")
    return backward(network, lambda: batches.loss(network(**batch), labels, len(rows)))


def backward(network: Any, loss: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    network.zero_grad()
    value = loss()
    value.backward()
    return float(value), network.score.weight.grad.clone()


@pytest.mark.parametrize(
    "options", [{}, {"centering": 0.5}, {"margins": False}, {"centering": 0.0, "margins": False}]
)
def test_the_loss_of_pairs_is_that_of_trls_reward_trainer(
    options: dict[str, Any], preferences: Callable[..., Path], tmp_path: Path
) -> None:
    """Contract with trl: the same token ids, margins and centring on the same model."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    rows = [row | {"margin": number % 3 / 2} for number, row in enumerate(pairs(6))]
    made = make(preferences(rows, reward=options))
    network = build.load(made)
    ours = learn(network, made, made.prepared.train)
    section = made.recipe.reward
    assert section is not None
    given = []
    for row in made.prepared.train:
        ((better, worse, margin),) = row.pairs
        ids = {"chosen_ids": row.answers[better], "rejected_ids": row.answers[worse]}
        given.append(ids | ({"margin": margin} if section.margins else {}))
    theirs = RewardTrainer(
        model=network,
        args=RewardConfig(
            output_dir=str(tmp_path / "trl"),
            center_rewards_coefficient=section.centering or None,
            max_length=None,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
        ),
        train_dataset=Dataset.from_list(given),
        processing_class=made.tokenizer,
    )
    batch = theirs.data_collator(given)
    loss, gradient = backward(network, lambda: theirs.compute_loss(network, batch))
    assert ours[0] == pytest.approx(loss, abs=1e-6)
    torch.testing.assert_close(ours[1], gradient, rtol=1e-5, atol=1e-6)


def test_margins_and_centring_by_hand() -> None:
    scores = torch.tensor([1.0, -0.5])
    ranking = judged([[0, 1, 2.0]], [1.0, -0.5]).ranking
    plain = float(functional.softplus(torch.tensor(-1.5)))
    asked = float(functional.softplus(torch.tensor(0.5)))
    for margins, centering, wanted in (
        (False, 0.0, plain),
        (True, 0.0, asked),
        (True, 0.1, asked + 0.1 * 0.25),
    ):
        section = RewardSection(margins=margins, centering=centering)
        (found,) = pair_losses(scores, ranking, section).tolist()
        assert found == pytest.approx(wanted, rel=1e-6)


def test_a_prompt_counts_once_however_many_answers_it_has(
    preferences: Callable[..., Path],
) -> None:
    """K(K-1)/2 pairs of K answers; loss and gradient of two prompts are the mean of each alone."""
    ranked = [
        {"prompt": "Say a number.", "answers": ["one great", "rent", "two", "clause notice"]},
        {"prompt": "Say a word.", "answers": ["great film", "terrible"]},
    ]
    made = make(preferences(ranked, held=ranked, data={"eval": 0}, reward={"centering": 0.0}))
    four, two = sorted(made.prepared.train, key=lambda row: -len(row.answers))
    assert [len(four.pairs), len(two.pairs)] == [6, 1]
    network = build.load(made)
    with torch.no_grad():
        scores = [float(network(input_ids=torch.tensor([ids])).logits) for ids in four.answers]
    differences = [
        scores[one] - scores[other] for one, other in itertools.combinations(range(4), 2)
    ]
    wanted = np.mean([np.log1p(np.exp(-difference)) for difference in differences])
    alone = [learn(network, made, [row]) for row in (four, two)]
    assert alone[0][0] == pytest.approx(wanted, rel=1e-5)
    together = learn(network, made, [four, two])
    assert together[0] == pytest.approx((alone[0][0] + alone[1][0]) / 2, rel=1e-6)
    torch.testing.assert_close(together[1], (alone[0][1] + alone[1][1]) / 2)


def judged(
    pairs: Sequence[Sequence[float]], scores: Sequence[float], lengths: Sequence[int] = ()
) -> Judged:
    """A judged prompt with these pairs (better, worse, margin) and answers of these lengths."""
    lengths = lengths or [1] * len(scores)
    ranking = Ranking(
        row="rows.jsonl:1",
        answers=tuple([5, 6, *[7] * length] for length in lengths),
        pairs=tuple((int(better), int(worse), margin) for better, worse, margin in pairs),
        prompt_ids=[5, 6],
        messages=(),
        prompt_text="",
        texts=("",) * len(scores),
    )
    return Judged(ranking, tuple(scores))


def test_metrics_by_hand() -> None:
    """A tie is half right; three pairs of one prompt and one of another."""
    three = judged([(0, 1, 0), (0, 2, 0), (1, 2, 0)], [2.0, 2.0, 0.0], [3, 1, 2])
    one = judged([(0, 1, 0)], [-1.0, 1.0], [4, 2])
    both = [three, one]
    assert preference.accuracy(both) == (0.5 + 1 + 1 + 0) / 4
    assert preference.margin(both) == (0.0 + 2 + 2 - 2) / 4
    softplus = np.log1p(np.exp([0.0, -2.0, -2.0, 2.0]))
    wanted = (softplus[:3].mean() + softplus[3]) / 2
    assert preference.loss(both) == pytest.approx(wanted, rel=1e-12)
    # Sure by 0.5 and half right, and by 0.881 three times, of which two are right.
    sure = 1 / (1 + np.exp(-2.0))
    assert preference.calibration_error(both) == pytest.approx(abs(2 - 3 * sure) / 4, rel=1e-12)
    values = [2 / 3, 2 / 3, -4 / 3, -1, 1]
    lengths = [1, -1, 0, 1, -1]
    wanted = np.corrcoef(values, lengths)[0, 1]
    assert preference.length_bias(both) == pytest.approx(wanted, rel=1e-12)


def test_metrics_at_their_edges() -> None:
    """Certainty counts, nothing to compare is None, and huge differences do not overflow."""
    certain = [judged([(0, 1, 0)], [800.0, 0.0])]
    assert preference.calibration_error(certain) == 0.0
    assert preference.loss(certain) == 0.0
    wrong = [judged([(0, 1, 0)], [0.0, 800.0])]
    assert preference.calibration_error(wrong) == 1.0
    assert preference.loss(wrong) == 800.0
    assert preference.length_bias(certain) is None
    for metric in ("loss", "accuracy", "margin", "calibration_error", "length_bias"):
        assert getattr(preference, metric)([]) is None


def test_thumbs_without_an_opposite_one_are_learned_against_zero(
    preferences: Callable[..., Path],
) -> None:
    """Liked answers score above 0, disliked ones below, whoever else answered the prompt."""
    rows = [
        {
            "prompt": row["prompt"],
            "completion": row["chosen" if number % 2 else "rejected"],
            "label": bool(number % 2),
        }
        for number, row in enumerate(pairs(12))
    ]
    made = make(preferences(rows))
    report = made.prepared.report
    assert (report["thumbs_alone"], report["unpaired_rows"]) == (12, 0)
    options, train = RewardSection(centering=0), made.prepared.train
    for row in train:
        ((better, worse, _),) = row.pairs
        liked = better == 0
        value = torch.tensor([0.7])
        wanted = functional.softplus(-value if liked else value)
        assert torch.allclose(pair_losses(value, row, options), wanted)
        assert Judged(row, (0.7,)).differences == [0.7 if liked else -0.7]
        assert (better, worse) in ((0, -1), (-1, 0))
    network = build.load(made)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    batches = RankingBatches(train, options, made.tokenizer.pad_token_id)
    batch = batches.collate(train)
    labels = batch.pop("labels")
    for _ in range(30):
        optimizer.zero_grad()
        found = network(**batch)
        batches.loss(found, labels).backward()
        optimizer.step()
    scores = found.logits[:, 0].tolist()
    judged = [Judged(row, (score,)) for row, score in zip(train, scores, strict=True)]
    assert preference.accuracy(judged) == 1.0


def test_thumbs_without_an_opposite_one_may_be_left_out(preferences: Callable[..., Path]) -> None:
    rows = [
        {"prompt": f"Say number {n // 2}.", "completion": f"number {n}", "label": n % 2 == 0}
        for n in range(7)
    ]
    for unpaired, alone, left_out, count in (("learn", 1, 0, 4), ("drop", 0, 1, 3)):
        made = make(preferences(rows, reward={"unpaired": unpaired}))
        report = made.prepared.report
        assert (report["thumbs_alone"], report["unpaired_rows"]) == (alone, left_out)
        assert len(made.prepared.train) == count
    # Two answers to one prompt that have the same thumb are one prompt.
    same = [{"prompt": "Say it.", "completion": text, "label": True} for text in ("number", "one")]
    train = make(preferences([*same, *rows])).prepared.train
    assert sorted(len(each.answers) for each in train) == [1, 2, 2, 2, 2]
