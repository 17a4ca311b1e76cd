"""`tuner predict`: a file answered as `tuner chat` answers its prompts, whole and in order."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import here
from tests.conftest import write_rows
from tests.inference.conversation import Done, chat, recipe_for
from tuner import cli
from tuner.console.console import Console
from tuner.machine import hardware, processes
from tuner.plan import make as plan_make
from tuner.recipe import load as recipe_load
from tuner.run import spine

Lines = list[dict[str, Any]]


def predict(*arguments: object) -> Done:
    """`tuner predict` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        cli.main(["predict", *map(str, arguments)])
    return Done(int(stop.value.code or 0), out.getvalue(), err.getvalue())


def lines(path: Path) -> Lines:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def answered(folder: Path, file: Path, name: str, *arguments: object) -> Lines:
    output = file.with_name(name)
    done = predict(folder, "--data", file, "--output", output, "--max-new-tokens", 6, *arguments)
    assert done.returncode == 0, done.stderr
    return lines(output)


@pytest.fixture(scope="module")
def run(bases: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run on tiny rows; its proofs ran in this process."""
    root = tmp_path_factory.mktemp("run")
    recipe = recipe_for(root, bases("llama"), {"name": "lora"}, export={"formats": ["adapter"]})
    loaded = recipe_load.load(recipe, ["train.learning_rate=0.01"], "sft")
    made = plan_make.make(loaded, hardware.detect(), output=root / "run")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(processes, "fresh", here.fresh)
        patched.setenv("TUNER_CACHE", str(root / "cache"))
        spine.run(made, resume=False, console=Console(quiet=True))
    return root / "run"


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """Rows without answers, of different lengths."""
    texts = [f"Say number {n}." + " Be short, please." * (n % 3) for n in range(7)]
    items = [{"id": f"a{n}", "instruction": text} for n, text in enumerate(texts)]
    return write_rows(tmp_path / "asked.jsonl", items)


def test_every_row_is_answered_as_chat_answers_it(run: Path, asked: Path) -> None:
    found = answered(run, asked, "out.jsonl", "--keep", "id", "--batch-size", 4)
    assert [line["index"] for line in found] == list(range(7))
    assert [line["line"] for line in found] == list(range(1, 8))
    assert [line["columns"] for line in found] == [{"id": f"a{n}"} for n in range(7)]
    for line, row in zip(found, lines(asked), strict=True):
        (event,) = chat(run, "--json", typed=row["instruction"]).events
        assert (line["answer"], line["tokens"]) == (event["text"], event["tokens"])
        assert line["stopped"] == event["stopped"]
