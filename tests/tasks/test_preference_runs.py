"""Runs that learn from answers in the rows: plans, rows, resuming, adapters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import WORDS, write_rows
from tests.tasks.preference_runs import LoRA, offline_recipe, thumbs
from tests.tasks.test_trl import lines, make, preferences, start, train
from tuner.errors import DataError, Interrupted, RecipeError
from tuner.recipe.schema_preference import OF_ROWS

__all__ = ["offline_recipe"]
pytestmark = pytest.mark.usefixtures("in_process")

SECTIONS: dict[str, dict[str, Any]] = {
    "dpo": {"dpo": {"loss": "robust", "sft_weight": 0.5}},
    "simpo": {"simpo": {"sft_weight": 0.5}},
}


@pytest.mark.parametrize("algorithm", OF_ROWS)
def test_a_stopped_run_resumes_exactly(
    algorithm: str, offline_recipe: Callable[..., Path]
) -> None:
    """R14, C03: weights and metrics, with the reference at the start; steps of an epoch's end."""
    sections = SECTIONS.get(algorithm, {})
    recipe = offline_recipe(algorithm, method=LoRA, train={"save_steps": 3}, **sections)
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


@pytest.mark.parametrize(
    "algorithm", ["kto", "simpo", *(pytest.param(n, marks=pytest.mark.slow) for n in ("orpo", "cpo"))]
)
def test_a_recipe_becomes_a_verified_adapter_that_ranks_right(
    algorithm: str, offline_recipe: Callable[..., Path], run_recipe: Callable[..., Any]
) -> None:
    found = run_recipe(offline_recipe(algorithm, train={"max_steps": 8}), verb="rlhf")
    assert found["status"] == "done"
    (artefact,) = found["artefacts"]
    assert artefact["verified"]
    before, after = found["scores"]["before"], found["scores"]["after"]
    if algorithm == "kto":
        # The policy is the reference then: all rewards are 0.
        assert before["pair_accuracy"] == 0.5
        assert before["margin"] == 0.0
    assert after["pair_accuracy"] >= before["pair_accuracy"]
    assert after["margin"] > before["margin"]
    assert after["pair_loss"] < before["pair_loss"]


@pytest.mark.parametrize("algorithm", ["dpo", "cpo", "simpo"])
def test_the_cross_entropy_does_not_depend_on_the_forward_passes(
    algorithm: str, offline_recipe: Callable[..., Path]
) -> None:
    """trl takes its mean over the tokens of one; better answers are 2 to 5 tokens long."""
    sections = {algorithm: {"sft_weight": 2.0}}
    steps = {"max_steps": 1, "batch_size": 8}
    found = []
    for size in (1, 8):
        split = {**steps, "micro_batch_size": size}
        found.append(train(make(offline_recipe(algorithm, train=split, **sections), f"by {size}")))
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-3, atol=1e-5)


ORIGINS = [
    ("dpo", {}, 0.1, "beta of DPO, Rafailov et al. 2023"),
    ("dpo", {"dpo": {"loss": "robust"}}, 0.01, "beta of robust DPO, Chowdhury et al. 2024"),
    ("dpo", {"dpo": {"loss": "sppo_hard"}}, 0.001, "1 / eta of SPPO, Wu et al. 2024"),
    ("dpo", {"dpo": {"normalize_length": True}}, 5.0, "length-normalised DPO"),
    ("kto", {}, 0.1, "beta of KTO, Ethayarajh et al. 2024"),
    ("orpo", {}, 0.1, "lambda of ORPO, Hong et al. 2024"),
    ("simpo", {}, 2.0, "beta of SimPO, Meng et al. 2024"),
    ("cpo", {}, 0.1, "beta of CPO, Xu et al. 2024"),
]


@pytest.mark.parametrize(("algorithm", "sections", "value", "words"), ORIGINS)
def test_the_plan_takes_the_coefficient_of_the_paper(
    algorithm: str,
    sections: dict[str, Any],
    value: float,
    words: str,
    offline_recipe: Callable[..., Path],
) -> None:
    made = make(offline_recipe(algorithm, **sections))
    decided = made.values["rlhf.kl_coefficient"]
    assert decided.value == made.beta == value
    assert words in decided.origin
    smoothed = sections.get("dpo", {}).get("loss") == "robust"
    if algorithm == "dpo":
        assert made.values["dpo.label_smoothing"].value == (0.1 if smoothed else 0.0)
    own = make(offline_recipe(algorithm, rlhf={"kl_coefficient": 0.7}, **sections))
    assert own.beta == 0.7


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("simpo", {"rlhf": {"kl_coefficient": 0}}, "rlhf.kl_coefficient: 0 and rlhf.algorithm: simpo"),
    ("orpo", {"rlhf": {"temperature": 0.5}}, "rlhf.temperature and rlhf.algorithm: orpo"),
    ("kto", {"train": {"micro_batch_size": 1}}, "train.micro_batch_size: 1 and rlhf.algorithm: kto"),
    ("kto", {"train": {"batch_size": 1}}, "train.batch_size: 1 and rlhf.algorithm: kto"),
    ("dpo", {"dpo": {"label_smoothing": 0.1}}, "dpo.label_smoothing: 0.1 and dpo.loss: sigmoid"),
    ("dpo", {"dpo": {"loss": "exo_pair", "label_smoothing": 0}}, "exo_pair, which needs some"),
    ("dpo", {"dpo": {"loss": "ipo", "normalize_length": True}}, "which is per token anyway"),
    ("dpo", {"dpo": {"loss": "hinge", "normalize_length": True}}, "which has no such form"),
    ("cpo", {"simpo": {"margin": 1}}, "the section simpo does not apply to rlhf.algorithm: cpo"),
]


@pytest.mark.parametrize(("algorithm", "sections", "words"), REFUSED)
def test_what_a_loss_cannot_use_is_refused(
    algorithm: str, sections: dict[str, Any], words: str, offline_recipe: Callable[..., Path]
) -> None:
    with pytest.raises(RecipeError) as caught:
        make(offline_recipe(algorithm, **sections))
    assert words in str(caught.value)


def test_thumbs_are_rows_of_their_own(offline_recipe: Callable[..., Path]) -> None:
    rows = thumbs(12)
    rows.append({**rows[0], "label": not rows[0]["label"]})
    made = make(offline_recipe("kto", data_rows=rows, data={"eval": 0}))
    (both,) = {rows[0]["completion"]}
    wanted = sorted((row["completion"], row["label"]) for row in rows[1:-1])
    found = sorted((row.texts[0], row.pairs[0][1] == -1) for row in made.prepared.train)
    assert found == wanted
    report = made.prepared.report
    assert report["liked_train"] == sum(label for _, label in wanted)
    assert report["liked_train"] + report["disliked_train"] == len(wanted)
    assert report["identical_answers"] == 2, both
    assert f"on {len(wanted)} rated answers" in made.summary


def test_pairs_become_two_thumbs_each_and_the_plan_says_so(
    offline_recipe: Callable[..., Path],
) -> None:
    made = make(offline_recipe("kto", data_rows=preferences(8), data={"eval": 0}))
    labels = {row.texts[0].split()[0]: row.pairs for row in made.prepared.train}
    assert labels == {"great": ((0, -1, 0.0),), "terrible": ((-1, 0, 0.0),)}
    assert len(made.prepared.train) == 16
    assert "8 pairs read as two thumbs each" in " ".join(made.warnings)


NO_THUMBS: dict[str, tuple[list[dict[str, Any]], str, str]] = {
    "no labels": (
        [{"prompt": f"Say {w}.", "completion": w} for w in WORDS],
        "no answer is labelled",
        "data.columns: {label: NAME}",
    ),
    "rankings": (
        [{"prompt": f"Say {w}.", "answers": ["foo", "bar", w]} for w in WORDS],
        "these rows rank several",
        "rlhf.algorithm: dpo",
    ),
    "one kind": (
        [{"prompt": f"Say {w}.", "completion": w, "label": True} for w in WORDS],
        "every answer of the train split is liked",
        "tuner lora",
    ),
}


@pytest.mark.parametrize("case", NO_THUMBS)
def test_rows_without_thumbs_of_both_kinds_are_refused(
    case: str, offline_recipe: Callable[..., Path]
) -> None:
    rows, what, fix = NO_THUMBS[case]
    with pytest.raises(DataError) as caught:
        make(offline_recipe("kto", data_rows=rows, data={"eval": 0}))
    assert what in caught.value.what + caught.value.why
    assert fix in caught.value.fix
