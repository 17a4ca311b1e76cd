"""What the plan refuses of optimizers, schedules and the loss, each with what to do."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.methods.test_capabilities import OPTIONS
from tuner.errors import RecipeError
from tuner.machine import hardware
from tuner.methods import METHODS
from tuner.plan import make as plan_make
from tuner.plan import plan
from tuner.recipe import load as recipe_load
from tuner.run import build
from tuner.tasks.trained import trainable


def make(recipe: Path, verb: str = "sft") -> plan.Plan:
    loaded = recipe_load.load(recipe, verb=verb)
    return plan_make.make(loaded, hardware.detect(), output=recipe.parent / "out")


def refusal(recipe: Path, verb: str = "sft") -> str:
    with pytest.raises(RecipeError) as error:
        make(recipe, verb)
    return "\n".join([*error.value.problems, str(error.value), str(error.value.fix)])


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"optimizer": "lion", "adam_beta1": 0.8}, "leave out train.adam_beta1"),
    ({"optimizer": "sgd", "adam_epsilon": 1e-6}, "leave out train.adam_epsilon"),
    ({"optimizer": "adafactor", "adam_beta2": 0.9}, "leave out train.adam_beta2"),
    ({"optimizer": "schedule_free", "scheduler": "cosine"}, "leave out train.scheduler"),
    ({"optimizer": "schedule_free", "adam_beta1": 0}, "leave out train.adam_beta1"),
    ({"optimizer": "schedule_free", "floor": 0.1}, "leave out train.floor"),
    ({"scheduler": "constant", "floor": 0.1}, "leave out train.floor"),
    ({"decay": 0.3}, "set train.scheduler: wsd, or leave out train.decay"),
    ({"scheduler": "cosine", "power": 3}, "set train.scheduler: polynomial, or leave out"),
    ({"cycles": 3}, "set train.scheduler: cosine_restarts, or leave out train.cycles"),
]


@pytest.mark.parametrize(("train", "said"), REFUSED)
def test_a_key_that_nothing_would_read_is_refused(
    train: dict[str, Any], said: str, make_recipe: Callable[..., Path]
) -> None:
    assert said in refusal(make_recipe(train=train))


VECTORS = [name for name, row in METHODS.items() if not row.matrices]


@pytest.mark.parametrize("name", VECTORS)
def test_muon_is_refused_for_methods_that_train_vectors(
    name: str, make_recipe: Callable[..., Path]
) -> None:
    method = {"name": name, **OPTIONS.get(name, {})}
    said = refusal(make_recipe(method=method, train={"optimizer": "muon"}))
    assert f"Muon updates whole matrices, and {name} also trains vectors," in said
    assert "lora, rslora, full" in said


@pytest.mark.parametrize("name", METHODS)
def test_the_table_knows_which_methods_train_matrices_alone(
    name: str, make_recipe: Callable[..., Path]
) -> None:
    """By the tensors that each trains on a tiny model; the base's own norms do not count."""
    options = {"name": name, **OPTIONS.get(name, {})}
    train = {"learning_rate": "auto"} if name == "staged" else {}
    made = make(make_recipe(method=options, train=train))
    model = build.start(made, build.load(made)).model
    embeddings = ("embed", "trainable_tokens", "oft_", "adaption_prompt")
    odd = [
        name
        for name, each in trainable(model)
        if each.ndim != 2 or 1 in each.shape or any(word in name for word in embeddings)
    ]
    if made.method.adapter:
        assert made.method.matrices == (not odd), odd[:3]
    else:
        assert made.method.matrices


def test_what_muon_leaves_to_adamw_is_said(make_recipe: Callable[..., Path]) -> None:
    full = make(make_recipe(method={"name": "full"}, train={"optimizer": "muon"}))
    # Embedding and head of 512 x 64, five norms of 64.
    (said,) = [each for each in full.warnings if "muon" in each]
    assert f"muon leaves {2 * full.vocabulary_rows * 64 + 5 * 64:,} parameters" in said
    lora = make(make_recipe(train={"optimizer": "muon"}))
    assert not [each for each in lora.warnings if "muon" in each]


def test_paged_is_said_to_be_unpaged_on_a_cpu(make_recipe: Callable[..., Path]) -> None:
    said = make(make_recipe(train={"optimizer": "paged_adamw8bit"})).warnings
    assert any("paged_adamw8bit is adamw8bit on a CPU" in each for each in said)
    plain = make(make_recipe(train={"optimizer": "adamw8bit"})).warnings
    assert not any("paged" in each for each in plain)


def test_a_package_that_is_missing_is_named(
    make_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "schedulefree" else real(name)
    )
    said = refusal(make_recipe(train={"optimizer": "schedule_free"}))
    assert "schedulefree is not installed: run " in said
    assert "install 'schedulefree>=1.4'" in said


def test_adalora_is_not_averaged(make_recipe: Callable[..., Path]) -> None:
    """Its ranks are chosen by gradients that schedule_free overwrites."""
    said = refusal(
        make_recipe(method={"name": "adalora"}, train={"optimizer": "schedule_free", "epochs": 9})
    )
    assert "adalora, whose ranks change while the weights are averaged" in said


def test_noise_is_refused_for_an_encoder_decoder(make_recipe: Callable[..., Path]) -> None:
    assert "leave out train.embedding_noise" in refusal(
        make_recipe("t5", train={"embedding_noise": 5})
    )


RLHF = {
    "rlhf": {"algorithm": "grpo", "reward": [{"rule": "length", "max": 9}], "max_new_tokens": 4},
    "data": {"eval": 0, "template": "auto"},
}


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"optimizer": "schedule_free"}, "set train.optimizer: adamw"),
        ({"label_smoothing": 0.1}, "leave out train.label_smoothing"),
        ({"embedding_noise": 5}, "leave out train.embedding_noise"),
    ],
)
def test_what_learning_from_rewards_does_not_have_is_refused_by_name(
    train: dict[str, Any], said: str, make_recipe: Callable[..., Path]
) -> None:
    rows = [{"prompt": f"Say {number}."} for number in range(8)]
    assert said in refusal(make_recipe(data_rows=rows, train=train, **RLHF), "rlhf")
