"""What a name means: a run and what it trained, or an adapter or a model from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tuner.errors import IntegrityError, ModelError, RecipeError
from tuner.model.adapters import saved_models
from tuner.record import runs

CONFIG = {"peft_type": "LORA", "r": 4}


def adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    return folder


def model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def run(folder: Path, *kinds: str, status: str = "done") -> Path:
    folder.mkdir()
    for kind in kinds:
        (adapter if kind == "adapter" else model)(folder / kind)
    (folder / "run.json").write_text(json.dumps({"format": 1, "tuner": "0", "status": status}))
    (folder / "recipe.lock.yaml").write_text(
        "model: {base: a/b}\ndata: {train: rows.jsonl}\nmethod: {name: lora, r: 4}\n"
    )
    return folder


@pytest.mark.parametrize(
    ("kinds", "inner", "whole"),
    [
        (("adapter", "merged"), "adapter", False),
        (("merged",), "merged", True),
        ((), "adapter", False),
    ],
)
def test_a_run_stands_for_what_it_trained(
    kinds: tuple[str, ...], inner: str, whole: bool, tmp_path: Path
) -> None:
    folder = run(tmp_path / "run", *kinds)
    found = saved_models.at(folder)
    assert found is not None
    assert (found.folder, found.run, found.whole) == (folder / inner, folder, whole)


def test_an_artefact_knows_its_run(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", "adapter", "merged")
    for kind, whole in (("adapter", False), ("merged", True)):
        found = saved_models.at(folder / kind)
        assert found is not None
        assert (found.folder, found.run, found.whole) == (folder / kind, folder, whole)
        assert found.config == ({} if whole else CONFIG)
    alone = saved_models.at(adapter(tmp_path / "alone"))
    assert alone is not None
    assert alone.run is None
    assert saved_models.at(tmp_path) is None


def test_a_finished_run_brings_its_recipe(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", "adapter")
    for name in ("run", "run/adapter"):
        found = saved_models.find(name, tmp_path, "key")
        assert found.folder == folder / "adapter"
        assert found.section is not None
        assert (found.section.base, found.method and found.method.name) == ("a/b", "lora")
    elsewhere = saved_models.find(str(model(tmp_path / "model")), Path(), "key")
    assert (elsewhere.whole, elsewhere.section, elsewhere.run) == (True, None, None)


def test_what_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "half", "adapter", status="interrupted")
    run(tmp_path / "empty")
    damaged = run(tmp_path / "damaged", "adapter")
    (damaged / "recipe.lock.yaml").write_text("model: [")
    for name, error, said in (
        ("half", RecipeError, "the run half is not finished"),
        ("empty", ModelError, "the run empty wrote no model"),
        ("damaged", IntegrityError, "the recipe of the run damaged cannot be read"),
        ("nothing", RecipeError, "there is no run, adapter or model nothing"),
    ):
        with pytest.raises(error, match=f"key: {said}"):
            saved_models.find(name, tmp_path, "key")


def test_a_bare_name_may_be_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that exists goes first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/sft").mkdir(parents=True)
    assert runs.named("sft") == Path("runs/sft")
    (tmp_path / "sft").mkdir()
    assert runs.named("sft") == Path("sft")
    assert runs.named("nothing") == Path("nothing")
