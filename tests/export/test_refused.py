"""Exports that are refused, and artefacts that are no longer what was written: E12, E16."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.export.exporting import command, exported, names
from tuner.errors import IntegrityError, ModelError
from tuner.machine.imports import function
from tuner.recipe.formats import FORMATS

# Where llama.cpp is installed, it runs every GGUF file.
pytestmark = pytest.mark.llama


@pytest.mark.usefixtures("in_process")
def test_another_base_is_refused(
    trained: Callable[..., Path], bases: Callable[..., Path], tmp_path: Path
) -> None:
    """E12"""
    run, other = trained("llama"), bases("llama", "chatml", 1)
    with pytest.raises(ModelError, match="another base") as caught:
        exported(run, "merged", base=str(other))
    assert caught.value.exit_code == 4
    assert not (run / "merged").exists()
    exported(run, "merged", base=str(other), force_base=True, output=tmp_path / "forced")
    assert command("verify", run / "adapter", "--base", other)[0] == 4


def tamper(monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[Path], None]) -> None:
    """Let a converter write something else."""
    original = function(FORMATS[name].write)

    def write(row: Any, work: Any, folder: Path) -> None:
        original(row, work, folder)
        change(folder)

    monkeypatch.setitem(FORMATS, name, replace(FORMATS[name], write=write))


@pytest.mark.usefixtures("in_process")
def test_an_artefact_that_equals_the_base_is_refused(
    trained: Callable[..., Path],
    bases: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing merged, and not seen by its KL alone: exit 6, nothing under the name."""
    run = trained("llama", train={"epochs": 1, "learning_rate": 1e-3})

    def as_base(row: Any, work: Any, folder: Path) -> None:
        merged, work.merged = work.merged, bases("llama")
        original(row, work, folder)
        work.merged = merged

    original = function(FORMATS["int8"].write)
    monkeypatch.setitem(FORMATS, "int8", replace(FORMATS["int8"], write=as_base))
    before = names(run)
    with pytest.raises(IntegrityError, match=r"is the base|than the base is") as caught:
        exported(run, "int8")
    assert caught.value.exit_code == 6
    assert names(run) == before


@pytest.mark.usefixtures("in_process")
def test_an_artefact_that_was_never_quantized_is_refused(
    trained: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained("llama")

    def plain(row: Any, work: Any, folder: Path) -> None:
        shutil.copytree(work.merged, folder, dirs_exist_ok=True)

    monkeypatch.setitem(FORMATS, "nf4", replace(FORMATS["nf4"], write=plain))
    with pytest.raises(IntegrityError, match="never quantized"):
        exported(run, "nf4")
    assert not (run / "nf4").exists()


@pytest.mark.usefixtures("in_process")
def test_an_artefact_beyond_its_limit_is_refused(trained: Callable[..., Path]) -> None:
    run = trained("llama")
    with pytest.raises(IntegrityError, match="too far") as caught:
        exported(run, "nf4", max_kl=1e-6)
    assert "--max-kl" in caught.value.fix
    assert not (run / "nf4").exists()
    assert exported(run, "nf4", max_kl=10.0)["nf4"]["limit"] == 10.0


@pytest.mark.usefixtures("in_process")
def test_verify_finds_what_changed(trained: Callable[..., Path]) -> None:
    """A byte is seen by its sha256; other weights behind a matching manifest by their logits."""
    run = trained("llama")
    exported(run, "int8")
    file = run / "int8/config.json"
    good = file.read_bytes()
    file.write_bytes(good.replace(b"silu", b"gelu"))
    assert command("verify", run / "int8")[0] == 6
    file.write_bytes(good)
    assert command("verify", run / "int8")[0] == 0
    weights = run / "adapter/adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor * 1.5 for name, tensor in tensors.items()}, weights)
    manifest = run / "adapter/MANIFEST.json"
    content = json.loads(manifest.read_text())
    content.pop("sha256")
    content["files"][weights.name] = {
        "bytes": weights.stat().st_size,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    own = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    manifest.write_text(json.dumps(content | {"sha256": own}, indent=1, sort_keys=True) + "\n")
    code, (event,) = command("verify", run / "adapter")
    assert code == 6
    assert "no longer computes" in event["error"]["what"]


@pytest.mark.usefixtures("in_process")
def test_killed_while_exporting(trained: Callable[..., Path]) -> None:
    """E16: kill -9 at any moment leaves the name free; the next export clears what was left."""
    run = trained("llama")
    command_line = [sys.executable, "-m", "tuner", "export", str(run), "--format", "merged"]
    child = subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for _ in range(2400):
        if list(run.glob(".staging-merged-*")) or child.poll() is not None:
            break
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert list(run.glob(".staging-*"))
    assert not (run / "merged").exists()
    code, events = command("export", run, "--format", "merged")
    assert code == 0, events
    assert not list(run.glob(".*"))


@pytest.mark.usefixtures("in_process")
def test_names_that_are_not_there(trained: Callable[..., Path], tmp_path: Path) -> None:
    for arguments, word in (
        (["nowhere", "--format", "merged"], "no run, adapter or model"),
        ([tmp_path, "--format", "ggfu"], "no format"),
        ([tmp_path], "no format to export to"),
        ([tmp_path, "--format", "merged", "--onto", "moon"], "onto"),
        ([tmp_path, "--check", "tgi"], "check"),
    ):
        code, events = command("export", *arguments)
        assert code == 2
        assert word in events[-1]["error"]["what"]
    code, (event,) = command("export", "--formats")
    assert {item["name"] for item in event["items"]} == set(FORMATS)
