"""Runs that learn from answers in the rows: plans, rows, resuming, adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import WORDS
from tests.tasks.preference_runs import LORA, offline_recipe, thumbs
from tests.tasks.test_trl import make, preferences, start, stopped_and_resumed, train
from tuner.cli.make_plan import as_begun
from tuner.errors import DataError, RecipeError, ResourceError
from tuner.machine import hardware
from tuner.plan import make as plan_make
from tuner.plan.memory import fit
from tuner.recipe import dump, history, load
from tuner.recipe.schema_preference import OF_ROWS
from tuner.record import disk

__all__ = ["offline_recipe"]
pytestmark = pytest.mark.usefixtures("in_process")

SECTIONS: dict[str, dict[str, Any]] = {
    "dpo": {"dpo": {"loss": "robust", "sft_weight": 0.5}},
    "simpo": {"simpo": {"sft_weight": 0.5}},
}


@pytest.mark.parametrize("algorithm", OF_ROWS)
def test_a_stopped_run_resumes_exactly(algorithm: str, offline_recipe: Callable[..., Path]) -> None:
    """R14, C03: weights and metrics, with the reference at the start; steps of an epoch's end."""
    sections = SECTIONS.get(algorithm, {})
    recipe = offline_recipe(algorithm, method=LORA, train={"save_steps": 3}, **sections)
    stopped_and_resumed(recipe)


@pytest.mark.parametrize(
    "algorithm",
    ["kto", "simpo", *(pytest.param(n, marks=pytest.mark.slow) for n in ("orpo", "cpo"))],
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
    (
        "kto",
        {"train": {"micro_batch_size": 1}},
        "train.micro_batch_size: 1 and rlhf.algorithm: kto",
    ),
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


def test_kinds_that_differ_in_number_come_with_the_weight_that_balances_them(
    offline_recipe: Callable[..., Path],
) -> None:
    rows = [
        {"prompt": f"Say {w}.", "completion": w, "label": n % 4 == 0}
        for n, w in enumerate(WORDS[:24])
    ]

    def said(**kto: float) -> list[str]:
        made = make(offline_recipe("kto", data_rows=rows, data={"eval": 0}, kto=kto))
        return [text for text in made.warnings if "weigh" in text]

    (text,) = said()
    assert "6 liked and 18 disliked answers weigh 0.33 to 1" in text
    assert text.endswith("set kto.desirable_weight: 3")
    assert said(desirable_weight=3.0) == []
    (text,) = said(desirable_weight=6.0)
    assert text.endswith("set kto.undesirable_weight: 2")


@pytest.mark.parametrize("algorithm", ["kto", "orpo"])
def test_the_plan_says_what_depends_on_the_forward_passes(
    algorithm: str, offline_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "over the rows of a forward pass, here 2: set train.micro_batch_size: 2"
    given = make(offline_recipe(algorithm))
    assert words not in " ".join(given.warnings)
    monkeypatch.setattr(fit, "fit", lambda *others: 2)
    decided = make(offline_recipe(algorithm, train={"micro_batch_size": "auto"}))
    assert words in " ".join(decided.warnings)
    monkeypatch.setattr(fit, "fit", lambda *others: 1)
    alone = offline_recipe(algorithm, train={"micro_batch_size": "auto"})
    if algorithm == "orpo":
        assert make(alone).micro_batch_size == 1
        return
    with pytest.raises(ResourceError) as caught:
        make(alone)
    assert "kto needs two rows per forward pass" in caught.value.what


def test_a_loss_without_a_reference_saves_its_memory(
    offline_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """What a policy starts from is held twice more as the reference; the base is shared."""
    begun = make(offline_recipe("dpo"))
    start(begun, moved=True).model.save_pretrained(tmp_path / "begun")
    policy = {"policy": str(tmp_path / "begun")}
    copies = 2 * 4 * begun.shape.trainable
    alone, with_policy = (
        make(offline_recipe("dpo", rlhf=given)).facts["memory"] for given in ({}, policy)
    )
    assert with_policy["weights"] - alone["weights"] == copies
    assert with_policy["reference"] - alone["reference"] == copies
    assert alone["reference"] > 0
    for algorithm in ("orpo", "simpo", "cpo"):
        free = make(offline_recipe(algorithm, rlhf=policy)).facts["memory"]
        assert free["weights"] == alone["weights"]
        assert free["reference"] == 0
        assert free["saved_without_reference"] == with_policy["reference"]
    # All logits of both answers, and not only those of their tokens.
    assert free["logits"] > alone["logits"]


@pytest.mark.parametrize("algorithm", ["simpo", "orpo"])
def test_a_policy_that_is_given_goes_on_without_a_second_copy(
    algorithm: str, offline_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    begun = start(make(offline_recipe("dpo")), moved=True)
    begun.model.save_pretrained(tmp_path / "begun")
    made = make(offline_recipe(algorithm, rlhf={"policy": str(tmp_path / "begun")}))
    trained = start(made)
    assert set(trained.model.peft_config) == {"default"}
    own = dict(begun.model.named_parameters())
    for name, tensor in trained.model.named_parameters():
        assert torch.equal(tensor, own[name]), name


def test_a_run_that_began_with_the_earlier_coefficient_goes_on_with_it(
    offline_recipe: Callable[..., Path],
) -> None:
    """As earlier versions recorded it: no section dpo, and 0.05 as the default."""
    recipe = offline_recipe("dpo")
    old = make(offline_recipe("dpo", "old.yaml", rlhf={"kl_coefficient": 0.05}), "run")
    record = old.as_dict()
    record["values"] = {
        key: value for key, value in record["values"].items() if not key.startswith("dpo.")
    }
    record["values"]["rlhf.kl_coefficient"] = {"value": 0.05, "origin": "default"}
    old.output.mkdir()
    disk.write_json(
        old.output / "run.json",
        {"format": 1, "tuner": "0.1.0", "status": "failed", "plan": record},
    )
    loaded = as_begun(load.load(recipe, verb="rlhf"), old.output)
    resumed = plan_make.make(loaded, hardware.detect(), output=old.output)
    saved = {key: value for key, value in old.identity().items() if not key.startswith("dpo.")}
    assert resumed.beta == 0.05
    assert history.identity(saved, resumed.identity()) == resumed.identity()
    assert make(recipe).beta == 0.1


def test_finished_stages_of_earlier_versions_are_recognised(
    make_recipe: Callable[..., Path], offline_recipe: Callable[..., Path]
) -> None:
    """What identifies them says 0.05 where it was the default, and nothing of dpo's new section."""
    drawn = {"algorithm": "grpo", "reward": [{"rule": "length", "max": 8}]}
    said = dump.meaning(load.load(make_recipe(rlhf=drawn), verb="rlhf"))
    assert "kl_coefficient: 0.05\n" in said
    said = dump.meaning(
        load.load(offline_recipe("dpo", rlhf={"kl_coefficient": 0.05}), verb="rlhf")
    )
    assert "kl_coefficient: 0.05\n" in said
    assert "dpo:\n" not in said
    assert "loss: " not in said
    said = dump.meaning(load.load(offline_recipe("dpo", dpo={"loss": "ipo"}), verb="rlhf"))
    assert 'kl_coefficient: "auto"\n' in said
    assert 'dpo:\n  loss: "ipo"\n' in said


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
