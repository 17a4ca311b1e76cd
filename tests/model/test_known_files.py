"""What a folder from elsewhere may hold besides its model: links, foreign files, other places."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from tests.export.exporting import command, names
from tests.model.loading import resolve
from tuner.errors import SafetyError
from tuner.export import adapter
from tuner.model import known_files

SECRET = "the secret of this machine"
QUICK: dict[str, Any] = {
    "train": {"max_steps": 1},
    "eval": {"samples": 0, "enabled": False},
    "method": {"name": "lora", "r": 2},
}


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file outside of every model's folder."""
    file = tmp_path / "private" / "secret.txt"
    file.parent.mkdir()
    file.write_text(SECRET)
    return file


@pytest.fixture
def run(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], in_process: None, secret: Path
) -> Path:
    """A run whose adapter has got company: a link, foreign files, a known name that is none."""
    recipe = make_recipe(**QUICK)
    run_recipe(recipe)
    folder = recipe.parent / "run" / "adapter"
    (folder / "notes.txt").symlink_to(secret)
    (folder / "passwords.json").write_text(json.dumps({"password": SECRET}))
    (folder / "diary.txt").write_text(SECRET)
    return recipe.parent / "run"


def test_foreign_files_and_links_stay_where_they_are(run: Path, tmp_path: Path) -> None:
    """In what is exported from a run and in a combination; the manifests name none of them."""
    more = str(run)
    for given in ([more], ["--adapters", f"{more},{more}"]):
        out = tmp_path / f"out{len(given)}"
        assert command("export", *given, "--format", "adapter", "--output", out)[0] == 0
        wanted = {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"}
        wanted |= {"tokenizer_config.json", "chat_template.jinja", "MANIFEST.json"}
        found = names(out / "adapter")
        assert wanted <= found
        assert found - wanted <= {"README.md"}
        texts = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
        assert not any(SECRET.encode() in text for text in texts)


def test_a_known_name_that_leads_out_is_refused(secret: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "adapter", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "vocab.txt").symlink_to(secret)
    with pytest.raises(SafetyError, match="link out of its folder") as caught:
        adapter.copy(folder, out, "base", portable=False)
    assert (caught.value.exit_code, names(out)) == (8, set())
    # One that stays inside is a file like any other.
    (folder / "vocab.txt").unlink()
    (folder / "own").write_text("a b")
    (folder / "vocab.txt").symlink_to("own")
    adapter.copy(folder, out, "base", portable=False)
    assert (out / "vocab.txt").read_text() == "a b"


def sharded(bases: Callable[..., Path], folder: Path) -> Path:
    """The tiny base in several files with an index."""
    shutil.copytree(bases("llama"), folder)
    network = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    network.save_pretrained(folder, max_shard_size="100KB")
    assert (folder / "model.safetensors.index.json").is_file()
    return folder


@pytest.mark.parametrize("where", ["up", "absolute", "linked"])
def test_an_index_that_names_a_file_outside_is_refused(
    where: str, bases: Callable[..., Path], make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """I06: refused as a base and as an artefact, before anything is loaded."""
    base = sharded(bases, tmp_path / "base")
    aside = tmp_path / "aside"
    aside.mkdir()
    index = base / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    moved = sorted(set(content["weight_map"].values()))[0]
    shutil.move(base / moved, aside / moved)
    (base / "linked").symlink_to(aside)
    name = {"up": f"../aside/{moved}", "absolute": str(aside / moved), "linked": f"linked/{moved}"}
    content["weight_map"] = {
        tensor: name[where] if file == moved else file
        for tensor, file in content["weight_map"].items()
    }
    index.write_text(json.dumps(content))
    with pytest.raises(SafetyError, match="outside its folder") as caught:
        resolve(str(base), tmp_path)
    assert caught.value.exit_code == 8
    assert name[where] in caught.value.why
    recipe = make_recipe(model={"base": str(base)})
    for words in (
        ("plan", "--recipe", recipe),
        ("export", base, "--format", "int8", "--output", tmp_path / "out"),
        ("chat", "--base", base),
    ):
        code, events = command(*words)
        assert (code, events[-1]["error"]["kind"]) == (8, "safety")


def test_a_snapshot_of_the_hubs_cache_is_a_base(bases: Callable[..., Path], tmp_path: Path) -> None:
    """All its files are links to blobs of the same repository; elsewhere they would be refused."""
    blobs, snapshot = tmp_path / "models--a--b/blobs", tmp_path / "models--a--b/snapshots/main"
    sharded(bases, blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    found = resolve(str(snapshot), tmp_path)
    assert len(found.shapes()) > 10
    assert "tokenizer.json" in known_files.present(snapshot)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "tokenizer.json").symlink_to(bases("llama") / "tokenizer.json")
    with pytest.raises(SafetyError):
        known_files.present(elsewhere)
