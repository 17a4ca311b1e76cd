"""Secrets, names and paths on the command line (rows I04, I05, I06, I08)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.command import ROOT, tuner


def test_a_secret_is_in_nothing_that_is_shown_or_written(recipe: Path) -> None:
    """I08: from the environment, the recipe, a URL and the command line."""
    token = "hf_CANARYcanary0123456789abcdefghij"
    environment = {"HF_TOKEN": token, "WANDB_API_KEY": "CANARYcanary0123456789canaryCANARY012345"}
    leaky = recipe.parent / "leaky.yaml"
    leaky.write_text(f"data: {{train: rows.jsonl}}\nmodel: {{revision: {token}}}\n")
    url = "https://me:CANARYpw@host/x"
    for arguments in (
        ["plan", "--recipe", "small.yaml"],
        ["doctor"],
        ["lora", "--recipe", "leaky.yaml"],
        ["lora", "--recipe", "small.yaml", "--set", f"model.base={token}"],
        ["lora", "--recipe", "small.yaml", "--set", f"data.train={url}"],
        ["lora", "--recipe", "small.yaml", "--output", url],
        ["lora", "--recipe", url],
        ["lora", f"--token={token}"],
        [token],
        ["runs", "show", token],
        ["recipes", "show", token],
    ):
        for flag in ("--verbose", "--json"):
            takes_it = arguments[0] in ("plan", "lora") or flag == "--json"
            done = tuner(
                *arguments, *([flag] if takes_it else []), cwd=recipe.parent, **environment
            )
            assert "CANARY" not in done.stdout + done.stderr
            assert done.returncode == (0 if arguments[0] in ("plan", "doctor") else 2)
    leaky.unlink()
    written = [file for file in recipe.parent.rglob("*") if file.is_file()]
    assert not [file for file in written if b"CANARY" in file.read_bytes()]


@pytest.mark.parametrize("name", ["x; touch canary", "$(touch canary)", "`touch canary`", "a\nb"])
def test_names_are_never_run(recipe: Path, name: str) -> None:
    """I05"""
    for arguments in (["--output", name], ["--set", f"model.base={json.dumps(name)}"]):
        tuner("lora", "--recipe", recipe.name, "--dry-run", *arguments, cwd=recipe.parent)
    assert not list(recipe.parent.rglob("*canary*"))


FORBIDDEN = (
    r"\byaml\.(unsafe_|full_)?load(_all)?\(",
    r"shell=True",
    r"\bos\.(system|popen)\(",
    r"^(import|from) (pickle|marshal|shelve|dill)\b",
)


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_nothing_in_the_tree_runs_what_it_reads(pattern: str) -> None:
    """I04, I05"""
    parts = ("tuner", "recipes", "tests")
    files = [file for part in parts for file in ROOT.glob(f"{part}/**/*.py")]
    found = [file for file in files if re.search(pattern, file.read_text("utf-8"), re.MULTILINE)]
    # Tests that forge a pickle, the tests of these words, the README's own shell line, and what a
    # test and its own process with a fake GPU say to each other.
    assert {file.name for file in found} <= {
        "test_safety.py",
        "test_checkpoint.py",
        "test_serve.py",
        "forked.py",
    }


def test_an_output_in_the_recipe_stays_below_the_current_folder(recipe: Path) -> None:
    """I06"""
    recipe.write_text(recipe.read_text() + "run: {output: ../outside}\n")
    done = tuner("plan", "--recipe", recipe.name, cwd=recipe.parent)
    assert done.returncode == 8
    assert "leaves the current directory" in done.stderr
    done = tuner("plan", "--recipe", recipe.name, "--output", "../outside", cwd=recipe.parent)
    assert done.returncode == 0
    assert not (recipe.parent.parent / "outside").exists()
