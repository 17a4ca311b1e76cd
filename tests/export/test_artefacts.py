"""What users meet beside an artefact: its card, its Modelfile, stray files, names half remembered.

I14: no path and no user's name; E02: the card says how the rows of added tokens are made.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from tests.cli.command import ROOT, tuner
from tests.export.exporting import command, exported, needs_llama
from tests.model.test_new_tokens import TOKENS, logits, marked
from tuner.errors import RecipeError
from tuner.inference import load
from tuner.inference.sampling import Sampling
from tuner.recipe.formats import FORMATS, known
from tuner.recipe.schema_model import ModelSection
from tuner.schema.suggest import suggestion

QUICK: dict[str, Any] = {
    "train": {"epochs": 2, "learning_rate": 0.02},
    "eval": {"samples": 0},
}


def code_of(card: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return str(code)


@pytest.mark.usefixtures("in_process")
def test_the_cards_say_what_it_is_and_how_it_loads(
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    bases: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """The code in them is run: it gives the tuned model, whichever the artefact."""
    run = tmp_path / "run"
    run_recipe(make_recipe("llama", data_rows=marked(), model={"new_tokens": TOKENS}, **QUICK))
    record = json.loads((run / "run.json").read_text())
    found = []
    for kind in ("adapter", "merged"):
        card = (run / kind / "README.md").read_text()
        assert "lora, r 16, alpha 32" in card
        assert "rows: 16 for training, 4 held out" in card
        assert "`<law>` (512), `<case>` (513)" in card
        for when in ("before", "after"):
            assert f"{record['scores'][when]['loss']:.4g}" in card
        assert "[More Information Needed]" not in card
        code = code_of(card)
        code = code.replace("PATH OF THE BASE", str(bases("llama")))
        space: dict[str, Any] = {}
        with contextlib.chdir(run / kind):
            exec(code, space)
        assert len(space["tokenizer"]) == 514
        found.append(logits(space["model"]))
    assert float((found[0] - found[1]).abs().max()) < 1e-4
    exported(run, "adapter", output=tmp_path / "again")
    again = (tmp_path / "again/adapter/README.md").read_text()
    assert again == (run / "adapter/README.md").read_text()
    assert str(tmp_path) not in again


@pytest.mark.slow
def test_the_readmes_lines_and_the_cards_load_a_run_on_the_embedded_base(tmp_path: Path) -> None:
    """As they are printed: from the run's folder, and from the folder of each artefact."""
    few = ("--set", "train.max_steps=1", "--set", "eval.enabled=false", "--set", "eval.samples=0")
    done = tuner("lora", str(ROOT / "recipes/legal.yaml"), *few, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (lines,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL
    )
    found = []
    for place, code in (
        (tmp_path, lines),
        *(
            (folder, code_of((folder / "README.md").read_text("utf-8")))
            for folder in (tmp_path / "runs/legal/adapter", tmp_path / "runs/legal/merged")
        ),
    ):
        space: dict[str, Any] = {}
        with contextlib.chdir(place):
            exec(code, space)
        found.append(logits(space["model"]))
    for each in found[1:]:
        assert float((found[0] - each).abs().max()) < 1e-3


@pytest.mark.usefixtures("in_process")
def test_verify_names_strays_and_repeats_the_figures(
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    run_recipe(make_recipe("llama", **QUICK))
    reports = exported(run, "int8")
    (run / "int8/notes.txt").write_text("mine")
    code, events = command("verify", run / "int8")
    assert code == 0
    assert "notes.txt" in next(e["text"] for e in events if e["event"] == "warning")
    (verified,) = (event for event in events if event["event"] == "verified")
    assert verified["stray"] == ["notes.txt"]
    assert verified["then"]["kl"] == reports["int8"]["kl"]
    (run / "int8/notes.txt").unlink()
    code, events = command("verify", run / "int8")
    assert [event for event in events if event["event"] == "warning"] == []


@pytest.mark.usefixtures("in_process")
def test_a_run_that_is_not_done_is_not_talked_to(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    """As with `tuner export`, whatever it has left so far."""
    run = tmp_path / "run"
    run_recipe(make_recipe("llama", **QUICK))
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    for verb, rest in (("chat", ()), ("serve", ()), ("export", ("--format", "merged"))):
        code, events = command(verb, run, *rest)
        assert code == 2, verb
        assert "is not finished" in events[-1]["error"]["what"], verb


@pytest.mark.usefixtures("in_process")
def test_a_refused_export_leaves_no_empty_folder(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    run_recipe(make_recipe("llama", **QUICK))
    kept = tmp_path / "kept"
    kept.mkdir()
    for output in (tmp_path / "deep/er", kept):
        given = ("--format", "int8", "--max-kl", "0.0000000001", "--output", output)
        assert command("export", tmp_path / "run", *given)[0] == 6
    assert not (tmp_path / "deep").exists()
    assert kept.is_dir()


def test_the_beginning_of_a_format_names_those_that_there_are() -> None:
    with pytest.raises(RecipeError) as caught:
        known(["gguf-q4"])
    assert caught.value.why == "did you mean 'gguf-q4_k_m', 'gguf-q4_0' or 'gguf-q4_1'"
    assert suggestion("mergd", FORMATS) == "did you mean 'merged'"
    assert suggestion("", FORMATS).startswith("known here")


@needs_llama
@pytest.mark.llama
@pytest.mark.usefixtures("in_process")
def test_a_gguf_adapter_comes_with_a_modelfile(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    run_recipe(make_recipe("llama", **QUICK))
    exported(tmp_path / "run", "gguf-adapter")
    folder = tmp_path / "run/gguf-adapter"
    lines = (folder / "Modelfile").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")][:2] == [
        "FROM ./base.gguf",
        "ADAPTER ./adapter-f32.gguf",
    ]
    assert (folder / "adapter-f32.gguf").is_file()
    assert 'PARAMETER stop "<|im_end|>"' in lines


def test_what_is_drawn_is_drawn_from_all(bases: Callable[..., Path]) -> None:
    """At a temperature that makes all tokens alike, only what somebody asks for cuts any off."""
    found = load.open_base(ModelSection(base=str(bases("llama")), dtype="float32"), Path(), "cpu")
    found.stops = [0]

    def different(**how: Any) -> int:
        drawn: set[int] = set()
        network = found.active.network
        original = network.generate

        def generate(**given: Any) -> torch.Tensor:
            result: torch.Tensor = original(**given)
            drawn.add(int(result[0, -1]))
            return result

        network.generate = generate
        try:
            for seed in range(120):
                torch.manual_seed(seed)
                found.answer([9, 30, 41], 1, Sampling(1e4, **how))
        finally:
            del network.generate
        return len(drawn)

    # Of 512, 120 draws hit 107 on average; of the 50 that transformers would leave, 45.
    assert different() > 80
    assert different(top_k=3) == 3
    assert different(top_p=0.01) < 12
    found.active.network.generation_config = GenerationConfig(top_k=4)
    assert different() == 4
    assert different(top_k=0) > 80


def test_options_that_draw_are_checked(bases: Callable[..., Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tuner", "chat", "--base", "x", "--top-p", "0"],
        input="",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--top-p" in done.stderr
