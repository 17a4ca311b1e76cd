"""Run folders of earlier versions verify, export, talk and resume (tests/old_runs/make.py)."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tuner import cli
from tuner.model.base import resolve
from tuner.recipe import load as recipe_load
from tuner.recipe.schema_model import ModelSection
from tuner.run import content

PROJECT = Path(__file__).parents[1] / "old_runs/project"
BASE = "54ada890cd0f894961a11298dec4f1923194fe1962d06db768bff857eafcf4f1"
Command = Callable[..., str]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The folder as a user finds it who has installed this version over that one."""
    folder = shutil.copytree(PROJECT, tmp_path / "project")
    for path in folder.glob("out/*/*"):
        if path.name in ("run.json", "recipe.lock.yaml"):
            path.write_text(path.read_text().replace("@PROJECT@", str(folder)))
    return folder


@pytest.fixture
def tuner(project: Path, in_process: None, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command in the project, and return what it showed."""

    def go(*arguments: str, code: int = 0, stdin: str = "") -> str:
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            contextlib.chdir(project),
            pytest.raises(SystemExit) as stop,
        ):
            cli.main([*arguments])
        assert int(stop.value.code or 0) == code, err.getvalue()
        return out.getvalue() + err.getvalue()

    return go


def record(project: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project / "out" / name / "run.json").read_text())
    return found


def assert_finished(project: Path, name: str) -> None:
    """The resumed run has the adapter and the scores of one that nothing stopped then."""
    found = record(project, name)
    assert found["status"] == "done"
    assert [each["from_step"] for each in found["resumes"]] == [3]
    got = load_file(project / "out" / name / "adapter/adapter_model.safetensors")
    wanted = load_file(PROJECT / "expected" / f"{name}.safetensors")
    assert got.keys() == wanted.keys()
    for key, tensor in wanted.items():
        torch.testing.assert_close(got[key], tensor, rtol=1e-3, atol=1e-5)
    scores = json.loads((PROJECT / "expected" / f"{name}.json").read_text())
    for when in ("before", "after"):
        assert found["scores"][when]["loss"] == pytest.approx(scores[when]["loss"], rel=1e-4)


def test_the_base_is_the_one_that_they_were_trained_on() -> None:
    found = resolve(ModelSection(base=str(PROJECT / "base")), Path(), lambda text: None)
    assert found.fingerprint() == BASE


@pytest.mark.parametrize(
    "path",
    ["done", "done/adapter", "done/merged", "prefix-done/adapter", "prefix-done/virtual_tokens"],
)
def test_an_old_artefact_verifies(path: str, tuner: Command) -> None:
    assert "files unchanged" in tuner("verify", f"out/{path}", "--base", "base")


def test_an_old_run_verifies_on_the_base_of_its_lock(tuner: Command) -> None:
    assert "files unchanged" in tuner("verify", "out/done")


def test_an_old_artefact_that_was_changed_does_not(project: Path, tuner: Command) -> None:
    file = project / "out/done/merged/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    tuner("verify", "out/done/merged", code=6)


@pytest.mark.parametrize("origin", ["done", "done/adapter"])
def test_an_old_run_is_merged_again(origin: str, project: Path, tuner: Command) -> None:
    tuner("export", f"out/{origin}", "--format", "merged", "--output", "again")
    again, then = (
        load_file(project / folder / "merged/model.safetensors") for folder in ("again", "out/done")
    )
    base = load_file(project / "base/model.safetensors")
    adapter = load_file(project / "out/done/adapter/adapter_model.safetensors")
    assert again.keys() == then.keys() == base.keys()
    changed = {name for name in base if f"base_model.model.{name[:-7]}.lora_A.weight" in adapter}
    assert len(changed) == 4
    for name, tensor in again.items():
        if name not in changed:
            assert torch.equal(tensor, base[name])
            continue
        a, b = (
            adapter[f"base_model.model.{name[:-7]}.lora_{part}.weight"].double() for part in "AB"
        )
        # By the adapter itself: alpha is twice the rank. That version rounded the update as well.
        merged = base[name].double() + 2.0 * b @ a
        torch.testing.assert_close(tensor.double(), merged, rtol=2**-8, atol=1e-6)
        torch.testing.assert_close(tensor, then[name], rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize("run", ["done", "done/merged", "prefix-done"])
def test_an_old_run_answers(run: str, tuner: Command) -> None:
    said = tuner("chat", f"out/{run}", "--json", "--max-new-tokens", "2", stdin="Say 3.\n")
    assert any("answer" in json.loads(line)["event"] for line in said.splitlines() if line)


def test_an_old_adapter_is_inspected(tuner: Command) -> None:
    assert "q_proj" in tuner("inspect", "out/done")


def test_an_old_recipe_resumes_its_run(project: Path, tuner: Command) -> None:
    tuner("lora", "--recipe", "stopped.yaml", "--output", "out/stopped", "--resume")
    assert_finished(project, "stopped")


@pytest.mark.parametrize(
    ("name", "verb"), [("stopped", "lora"), ("adam", "lora"), ("prefix", "prefix")]
)
def test_an_old_lock_resumes_its_run(name: str, verb: str, project: Path, tuner: Command) -> None:
    lock = f"out/{name}/recipe.lock.yaml"
    tuner(verb, "--recipe", lock, "--output", f"out/{name}", "--resume")
    assert_finished(project, name)
    tuner("verify", f"out/{name}")


def test_a_lock_with_values_that_are_gone_is_read(project: Path, tuner: Command) -> None:
    """What they say is said otherwise now, so nobody has to edit a finished run."""
    lock = project / "out/done/recipe.lock.yaml"
    text = lock.read_text()
    assert "  trl: {}\n" in text
    assert '  strategy: "auto"\n' in text
    text = text.replace("  trl: {}\n", "  trl:\n    adam_beta2: 0.95\n")
    lock.write_text(text.replace('strategy: "auto"', 'strategy: "deepspeed"'))
    tuner("verify", "out/done")
    loaded = recipe_load.load(lock, (), None)
    assert (loaded.recipe.train.adam_beta2, loaded.recipe.run.strategy) == (0.95, "auto")
    line = text.splitlines().index("    adam_beta2: 0.95") + 1
    assert loaded.origins["train.adam_beta2"] == f"recipe line {line}"


def test_a_recipe_with_an_old_key_resumes_once_it_has_the_new_one(
    project: Path, tuner: Command
) -> None:
    command = ("lora", "--recipe", "adam.yaml", "--output", "out/adam", "--resume")
    said = tuner(*command, code=2)
    assert "train.trl: unknown key; it is now train.adam_beta1 and train.adam_epsilon" in said
    recipe = project / "adam.yaml"
    text = recipe.read_text()
    assert "  trl:\n    adam_beta1: 0.8\n    adam_epsilon: 1.0e-06\n" in text
    recipe.write_text(text.replace("  trl:\n", "").replace("    adam", "  adam"))
    tuner(*command)
    assert_finished(project, "adam")


def test_an_old_run_with_another_setting_is_still_refused(tuner: Command) -> None:
    """What the checkpoint calls train.trl is compared under its new name."""
    command = ("lora", "--recipe", "stopped.yaml", "--output", "out/stopped", "--resume")
    said = tuner(*command, "--set", "train.adam_beta2=0.9", code=6)
    assert "train.adam_beta2: 0.999 in the checkpoint, 0.9 now" in said


def test_old_stages_are_found_again(project: Path) -> None:
    """A chain finds its stages by `content_sha256`, which new keys leave as it was."""
    # Without its network, which was the default then, prefix-tuning is what it was.
    for name, verb, meant in (
        ("done", "lora", "method.r=2"),
        ("stopped", "lora", "method.r=2"),
        ("prefix", "prefix", "method.projection=none"),
    ):
        wanted = record(project, name)["content_sha256"]
        for change, same in ((meant, True), ("train.adam_beta2=0.9", False)):
            loaded = recipe_load.load(project / f"{name}.yaml", [change], verb)
            assert (content.content_sha256(loaded) == wanted) is same, (name, change)
    other = recipe_load.load(project / "prefix.yaml", (), "prefix")
    assert content.content_sha256(other) != wanted
