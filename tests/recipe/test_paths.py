"""The keys that name something on the disk: marked once, read by all that need them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tuner.recipe import dump, load, paths, source
from tuner.recipe.schema import Recipe
from tuner.run import content

RLHF = """\
model: {{base: smollm2-135m}}
data: {{train: rows.jsonl}}
method: {{name: lora}}
rlhf:
  algorithm: {algorithm}
  policy: policy
  allow_code: true
  reward: [{{model: judge}}, {{function: "words.py:count"}}]
ppo: {{ptx_data: more.jsonl, ptx_coefficient: 1.0}}
"""
MULTITASK = """\
data: {train: [rows.jsonl, more.jsonl], template: own.yaml}
method: {name: multitask_prompt, source: policy}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("rows.jsonl", "more.jsonl", "words.py", "own.yaml"):
        (tmp_path / name).write_text("one")
    for name in ("policy", "judge"):
        (tmp_path / name / "adapter").mkdir(parents=True)
        (tmp_path / name / "adapter" / "adapter_config.json").write_text("{}")
        (tmp_path / name / "adapter" / "adapter_model.safetensors").write_text("one")
    (tmp_path / "rlhf.yaml").write_text(RLHF.format(algorithm="ppo"))
    (tmp_path / "multitask.yaml").write_text(MULTITASK)
    return tmp_path


@pytest.mark.parametrize(
    ("recipe", "changed"),
    [
        ("rlhf", "rows.jsonl"),
        ("rlhf", "more.jsonl"),
        ("rlhf", "words.py"),
        ("rlhf", "policy/adapter/adapter_model.safetensors"),
        ("rlhf", "judge/adapter/adapter_model.safetensors"),
        ("multitask", "more.jsonl"),
        ("multitask", "own.yaml"),
        ("multitask", "policy/adapter/adapter_config.json"),
    ],
)
def test_what_a_recipe_names_is_part_of_its_content(
    project: Path, recipe: str, changed: str
) -> None:
    """A chain or a sweep must not take a run on other files for done."""

    def digest() -> str:
        return content.content_sha256(load.load(project / f"{recipe}.yaml", (), None))

    before = digest()
    assert digest() == before
    (project / changed).write_text("other")
    assert digest() != before
    (project / changed).write_text("{}" if changed.endswith("_config.json") else "one")
    assert digest() == before


@pytest.mark.parametrize("recipe", ["rlhf", "multitask"])
def test_a_lock_names_the_same_files_wherever_it_is_stored(
    project: Path, tmp_path_factory: pytest.TempPathFactory, recipe: str
) -> None:
    loaded = load.load(project / f"{recipe}.yaml", (), None)
    text = dump.dump(loaded.recipe, loaded.folder)
    moved = tmp_path_factory.mktemp("elsewhere") / "recipe.yaml"
    moved.write_text(text)
    again = load.load(moved, (), None)

    def files(recipe: Recipe, folder: Path) -> dict[tuple[str | int, ...], Path | None]:
        named = [each for each in paths.named(recipe) if each.text not in ("auto", "smollm2-135m")]
        return {each.key: each.find(folder) for each in named}

    there, here = files(again.recipe, moved.parent), files(loaded.recipe, project)
    assert len(here) >= 4
    assert None not in here.values()
    assert there == here


def test_every_key_that_names_something_is_found(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the schema alone: a shell completes their values."""
    found = {".".join(key): kind for key, kind in paths.keys(Recipe)}
    assert found == {
        "model.base": "base",
        "model.adapter": "adapter",
        "model.chat_template": "file",
        "data.train": "file",
        "data.train.source": "file",
        "data.train.template": "file",
        "data.eval": "file",
        "data.eval.source": "file",
        "data.eval.template": "file",
        "eval.test": "file",
        "data.template": "file",
        "method.source": "adapter",
        "rlhf.policy": "adapter",
        "rlhf.reward.model": "adapter",
        "rlhf.reward.function": "function",
        "ppo.ptx_data": "file",
    }
    monkeypatch.chdir(project)
    loaded: Callable[..., load.LoadedRecipe] = load.load
    recipe = loaded(Path("multitask.yaml"), ["data.template=own.yaml"], None).recipe
    assert recipe.data.template == str(project / "own.yaml")
    assert source.find(Path("multitask.yaml")) == Path("multitask.yaml")
