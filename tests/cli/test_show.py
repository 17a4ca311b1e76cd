"""What looks at runs, recipes and the machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.command import tuner
from tuner import errors
from tuner.cli import recipes
from tuner.cli import run_folder as folders
from tuner.machine import cuda_driver, hardware
from tuner.recipe import bundled
from tuner.recipe.load import load
from tuner.record import run_folder


def test_a_run_folder_that_is_taken_gives_a_numbered_one(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    loaded = load(recipe)
    assert folders.find(loaded, resume=False) == Path("runs/small")
    start = {"recipe_sha256": loaded.sha256}
    with run_folder.RunFolder.open(Path("runs/small"), resume=False, initial=start):
        pass
    assert folders.find(loaded, resume=False) == Path("runs/small-2")
    assert folders.find(loaded, resume=True) == Path("runs/small")
    with run_folder.RunFolder.open(Path("runs/small"), resume=True) as folder:
        folder.finish()
    assert folders.find(loaded, resume=True) == Path("runs/small-2")
    asked = load(recipe, ["run.output=mine"])
    assert folders.find(asked, resume=False) == Path("mine")


def test_runs_are_listed_and_shown(tmp_path: Path) -> None:
    with run_folder.RunFolder.open(tmp_path / "runs" / "one", resume=False) as folder:
        folder.finish(scores={"before": {"loss": 3.25}, "after": {"loss": 1.5}})
    (tmp_path / "runs" / "two").mkdir()
    (tmp_path / "runs" / "two" / "run.json").write_text("{")
    listed = tuner("runs", "list", cwd=tmp_path).stdout
    assert re.search(r"^one +done +3.25 +1.5$", listed, re.MULTILINE)
    assert re.search(r"^two +damaged +- +-", listed, re.MULTILINE)
    shown = json.loads(tuner("runs", "show", "one", cwd=tmp_path).stdout)
    assert shown["status"] == "done"
    assert tuner("runs", "show", "runs/one", cwd=tmp_path).returncode == 0
    assert "did you mean 'one'" in tuner("runs", "show", "onne", cwd=tmp_path).stderr


@pytest.fixture
def library_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundled recipe with its data file."""
    folder = tmp_path / "bundled"
    (folder / "samples").mkdir(parents=True)
    (folder / "samples" / "rows.jsonl").write_text('{"text": "a"}\n')
    (folder / "one.yaml").write_text(
        "# tuner lora --recipe one: an example\n"
        "data: {train: samples/rows.jsonl, eval: samples/none.jsonl}\n"
    )
    monkeypatch.setattr(bundled, "folder", lambda kind: folder)
    return folder


def test_recipes_are_listed_shown_and_copied(
    library_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipes.list_all()
    assert "tuner lora --recipe one: an example" in capsys.readouterr().out
    recipes.show("one")
    assert capsys.readouterr().out == (library_folder / "one.yaml").read_text()

    recipes.copy("one", tmp_path / "new")
    copied = sorted(
        str(file.relative_to(tmp_path / "new")) for file in (tmp_path / "new").rglob("*")
    )
    assert copied == ["one.yaml", "samples", "samples/rows.jsonl"]
    assert load(tmp_path / "new" / "one.yaml").recipe == load(library_folder / "one.yaml").recipe
    recipes.copy("one", tmp_path / "other" / "mine.yaml")
    assert (tmp_path / "other" / "mine.yaml").is_file()


def test_recipes_are_listed_in_whole_sentences(tmp_path: Path) -> None:
    said = tuner("recipes", "list", cwd=tmp_path).stdout
    assert max(map(len, said.splitlines())) <= 100
    width = said.index("what it is")
    listed = " ".join(line[width:].strip() for line in said.splitlines())
    for name, file in bundled.files("recipes").items():
        comment = file.read_text("utf-8").partition("\n#   tuner")[0]
        sentences = " ".join(line.removeprefix("#").strip() for line in comment.splitlines())
        assert sentences.endswith((".", "?")), name
        assert sentences in listed, name


@pytest.mark.parametrize("there", ["one.yaml", "samples/rows.jsonl"])
def test_copying_a_recipe_overwrites_nothing(
    library_folder: Path, tmp_path: Path, there: str
) -> None:
    target = tmp_path / "new" / there
    target.parent.mkdir(parents=True)
    target.write_text("mine")
    with pytest.raises(errors.RecipeError, match="would overwrite"):
        recipes.copy("one", tmp_path / "new")
    files = [file for file in (tmp_path / "new").rglob("*") if file.is_file()]
    assert files == [target]
    assert target.read_text() == "mine"


def test_doctor_says_what_to_install_where_torch_cannot_use_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container the device may be there and the driver not."""
    monkeypatch.setattr(hardware, "_DEVICES", tmp_path)
    monkeypatch.setattr(cuda_driver, "LIBRARY", str(tmp_path / "nothing"))
    monkeypatch.setattr(hardware, "torch_cuda", tuple)
    assert "GPU(s)" not in tuner("doctor", cwd=tmp_path).stderr
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    said = tuner("doctor", cwd=tmp_path)
    assert said.returncode == 0
    first = tuner("doctor", "--json", cwd=tmp_path).stdout.splitlines()[0]
    version = json.loads(first)["libraries"]["torch"]
    assert "2 GPU(s) present, but the installed torch is built without CUDA" in said.stderr
    assert f"install a CUDA build in place of torch {version}" in said.stderr
    assert "https://pytorch.org/get-started/locally" in said.stderr
    monkeypatch.setattr(hardware, "torch_cuda", lambda: (13, 0))
    said = tuner("doctor", cwd=tmp_path)
    assert "2 GPU(s) present, but cannot be used: NVIDIA's driver is not installed" in said.stderr
    assert "install a CUDA build" not in said.stderr


def test_doctor_reports_versions_and_what_is_missing(tmp_path: Path) -> None:
    done = tuner("doctor", "--json", cwd=tmp_path, TUNER_CACHE=str(tmp_path / "cache"))
    found = json.loads(done.stdout)
    assert found["libraries"]["torch"]
    assert found["machine"]["dtypes"][0] == "float32"
    assert found["cache"]["folder"] == str(tmp_path / "cache")
    assert found["bases"][0]["converted"] is False
    assert {part["part"] for part in found["optional"]}
    text = tuner("doctor", cwd=tmp_path).stdout
    assert re.search(
        rf"^transformers +{re.escape(found['libraries']['transformers'])}$", text, re.M
    )
    assert not list(tmp_path.iterdir())
