"""What was altered after it was written is not kept: N09."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tuner.errors import IntegrityError
from tuner.export.proof import fresh_process
from tuner.machine.imports import function
from tuner.recipe.formats import FORMATS

QUICK = {"train": {"max_steps": 3}, "eval": {"samples": 0, "enabled": False}}


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the tensors of a written artefact in place."""
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    tensors = change(tensors) or tensors
    save_file(tensors, file, {"format": "pt"})


def nudge(tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name in tensors if "layers.1.self_attn.q_proj" in name)
    tensors[name] += 0.01


def zero(tensors: dict[str, torch.Tensor]) -> None:
    for name in tensors:
        if "lora_B" in name:
            tensors[name].zero_()


def prefix(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace("base_model", "_orig_mod.base_model"): t for name, t in tensors.items()}


def lose(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[next(name for name in tensors if "layers.1.self_attn.q_proj" in name)]


def other_head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 0.001


def not_a_number(tensors: dict[str, torch.Tensor]) -> None:
    # Of the four probes only later ones hold the word.
    tensors["model.embed_tokens.weight"][not_a_number.token] = float("nan")


# With what is kept: where logits differ, the artefact whose own agree; nothing else was compared
# where one cannot even be loaded.
TAMPERED = [
    ("adapter", nudge, {"merged"}),
    ("adapter", zero, {"merged"}),
    ("adapter", prefix, set()),
    ("adapter", lose, set()),
    ("merged", nudge, {"adapter"}),
    ("merged", lose, set()),
    ("merged", other_head, {"adapter"}),
    ("merged", not_a_number, {"adapter"}),
]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(("kind", "change", "kept"), TAMPERED)
def test_an_altered_artefact_is_not_kept(
    kind: str,
    change: Callable[..., Any],
    kept: set[str],
    monkeypatch: pytest.MonkeyPatch,
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """N09: the exporter writes something else than was trained: exit 6, and no such artefact; the
    run can be ended with the one that was proven."""
    original = function(FORMATS[kind].live)

    def write(plan: Any, trained: Any, folder: Path) -> None:
        original(plan, trained, folder)
        first, *_, last = (probe["input_ids"] for probe in fresh_process.probe_rows(plan))
        not_a_number.token = next(token for token in last if token not in first)
        rewrite(folder, change)

    monkeypatch.setitem(FORMATS, kind, replace(FORMATS[kind], live=write))
    with pytest.raises(IntegrityError) as caught:
        run_recipe(make_recipe("llama", **QUICK))
    assert caught.value.exit_code == 6
    refused(tmp_path / "run", "integrity", kept)
    if kept:
        formats = f"export.formats=[{','.join(kept)}]"
        assert f"--resume --set {formats} ends the run" in caught.value.fix
        ended = make_recipe("llama", **QUICK, export={"formats": sorted(kept)})
        record = run_recipe(ended, resume=True)
        assert {artefact["kind"] for artefact in record["artefacts"]} == kept
        assert record["status"] == "done"


def refused(run: Path, kind: str, kept: Iterable[str] = ()) -> None:
    """The run failed and announced no artefact; nothing half-written lies in its folder."""
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["error"]["kind"]) == ("failed", kind)
    assert not record.get("artefacts")
    left = {path.name for path in run.iterdir() if path.is_dir()}
    assert left == {"checkpoints", *kept}


@pytest.mark.usefixtures("in_process")
def test_keys_count_even_where_the_logits_agree(
    monkeypatch: pytest.MonkeyPatch,
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """N09: an adapter that hardly moved gives the base's logits: its lost tensors are missed by
    name."""
    original = function(FORMATS["adapter"].live)

    def write(plan: Any, trained: Any, folder: Path) -> None:
        original(plan, trained, folder)
        rewrite(folder, prefix)

    monkeypatch.setitem(FORMATS, "adapter", replace(FORMATS["adapter"], live=write))
    recipe = make_recipe("llama", train={"max_steps": 1, "learning_rate": 1e-9}, eval=QUICK["eval"])
    with pytest.raises(IntegrityError, match=r"tensors missing: .*, without a module"):
        run_recipe(recipe)
    refused(tmp_path / "run", "integrity")


def test_a_process_that_dies_while_verifying_is_exit_6(
    monkeypatch: pytest.MonkeyPatch,
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(IntegrityError, match="fresh process"):
        run_recipe(make_recipe("llama", **QUICK))
    refused(tmp_path / "run", "integrity")
