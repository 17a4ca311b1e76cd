"""What a plan says of trackers: what is missing, where a run goes, and which settings are sent."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuner.errors import RecipeError
from tuner.machine import hardware
from tuner.plan import make, track
from tuner.plan.plan import Plan
from tuner.recipe import load as recipe_load
from tuner.record.trackers.table import TRACKERS

Recipes = Callable[..., Path]
CANARY = "CANARY"


def planned(recipe: Path, *overrides: str) -> Plan:
    loaded = recipe_load.load(recipe, overrides, "sft")
    return make.make(loaded, hardware.detect(), output=recipe.parent / "runs/first")


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """All trackers seem to be there; a plan imports none."""
    true, modules = importlib.util.find_spec, {row.module for row in TRACKERS.values()}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: object() if name in modules else true(name)
    )


def test_nothing_that_the_user_wrote_is_among_the_settings(
    make_recipe: Recipes, tmp_path: Path
) -> None:
    """I08: paths, prompts, labels and columns have a word in them that must not go out."""
    (tmp_path / CANARY).mkdir()
    (tmp_path / CANARY / "rows.jsonl").write_bytes(
        b"".join(b'{"CANARY": "Say %d.", "output": "foo"}\n' % n for n in range(8))
    )
    recipe = make_recipe(
        data={
            "train": f"{CANARY}/rows.jsonl",
            "columns": {"instruction": CANARY},
            "system": f"{CANARY} is brief.",
            "instruction": f"{CANARY} first.",
            "eval": 0.25,
        },
        method={"name": "lora", "target_modules": ["q_proj"]},
        run={"track": "tensorboard", "price_per_hour": 77.5},
    )
    made = planned(recipe)
    settings = track.settings(json.loads(json.dumps(made.as_dict())))
    sent = json.dumps(settings)
    assert CANARY in json.dumps(made.as_dict())
    for word in (CANARY, str(tmp_path), made.base.name, "77.5", "q_proj"):
        assert word not in sent
    assert settings["train.learning_rate"] == 0.01
    assert settings["method.name"] == "lora"
    assert settings["data.eval"] == 0.25
    assert settings["parameters.trainable"] == made.facts["parameters"]["trainable"]


def test_labels_are_those_of_the_recipe_or_the_folder(make_recipe: Recipes) -> None:
    def labels(*overrides: str) -> Any:
        plan = json.loads(json.dumps(planned(make_recipe(), *overrides).as_dict()))
        return track.labels({"plan": plan, "started": "1970-01-01T00:00:01+00:00"}, Path("a/first"))

    plain = labels()
    assert (plain.name, plain.project, plain.tags) == ("first", "tuner", ())
    assert plain.started == 1.0
    own = labels("run.name=second try", "run.project=letters", "run.tags=[legal, short]")
    assert (own.name, own.project, own.tags) == ("second try", "letters", ("legal", "short"))


def test_the_plan_says_where_a_run_goes(
    make_recipe: Recipes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:secret@tracker.example/x")
    facts = planned(make_recipe(), "run.track=[tensorboard, mlflow]").facts["track"]
    assert facts["tensorboard"] == str(tmp_path / "runs/first/tensorboard")
    assert facts["mlflow"] == "https://tracker.example/x"
    assert "track" not in planned(make_recipe()).facts


def test_what_is_missing_stops_the_plan(
    make_recipe: Recipes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    true = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "trackio" else true(name)
    )
    with pytest.raises(RecipeError) as error:
        planned(make_recipe(), "run.track=[trackio, wandb]")
    first, second = error.value.problems
    assert "run.track: trackio, but trackio is not installed; add it with" in first
    assert "WANDB_API_KEY" in second


def test_trackers_change_neither_what_is_trained_nor_which_run_it_is(make_recipe: Recipes) -> None:
    from tuner.run import content

    recipe = make_recipe()
    more = ("run.track=tensorboard", "run.name=x", "run.project=y", "run.tags=z")
    plain, tracked = planned(recipe), planned(recipe, *more)
    assert plain.identity() == tracked.identity()
    assert content.content_sha256(plain.loaded) == content.content_sha256(tracked.loaded)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("none", ()),
        ("[]", ()),
        ("mlflow", ("mlflow",)),
        ("[mlflow, wandb, mlflow]", ("mlflow", "wandb")),
    ],
)
def test_trackers_are_named_once(given: str, names: tuple[str, ...], make_recipe: Recipes) -> None:
    assert recipe_load.load(make_recipe(), [f"run.track={given}"], "sft").recipe.run.track == names


def test_an_unknown_tracker_is_answered_with_the_one_meant(make_recipe: Recipes) -> None:
    with pytest.raises(RecipeError) as error:
        recipe_load.load(make_recipe(), ["run.track=[tensorbord]"], "sft")
    assert "there is no tracker 'tensorbord'; did you mean 'tensorboard'" in str(error.value)
