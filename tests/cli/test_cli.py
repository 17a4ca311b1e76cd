"""The command line: options, exit codes, what is printed where (rows H06, H10)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cli.command import ROOT, params, process, tuner
from tuner import cli, errors
from tuner.cli import train
from tuner.console.console import Console
from tuner.machine import failure
from tuner.recipe.verbs import VERBS

ERRORS = {
    errors.RecipeError: 2,
    errors.DataError: 3,
    errors.ModelError: 4,
    errors.TrainingError: 5,
    errors.IntegrityError: 6,
    errors.ResourceError: 7,
    errors.SafetyError: 8,
}


def test_every_training_verb_has_the_same_options() -> None:
    shapes = {
        verb: [
            (name, each.opts, each.required, each.default, each.multiple, each.help)
            for name, each in params(verb).items()
        ]
        for verb in VERBS
    }
    assert len({repr(shape) for shape in shapes.values()}) == 1
    options = [each.opts[0] for each in params("lora").values()]
    assert options == [
        "recipe",
        "--recipe",
        "--set",
        "--from",
        "--output",
        "--resume",
        "--dry-run",
        "--rehearse",
        "--json",
        "--quiet",
        "--verbose",
    ]
    missing = set(params("lora")) - set(params("plan"))
    assert missing == {"dry_run"}


@pytest.mark.parametrize("kind", ERRORS)
def test_each_error_has_its_exit_code_and_three_lines(
    kind: type[errors.TunerError],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*arguments: object) -> None:
        raise kind("what", "why", "how")

    monkeypatch.setattr(train, "train", fail)
    with pytest.raises(SystemExit) as stop:
        cli.main(["lora", "--recipe", "x"])
    assert stop.value.code == ERRORS[kind]
    assert capsys.readouterr() == ("", "error: what\n  why\nfix: how\n")

    with pytest.raises(SystemExit):
        cli.main(["sft", "--recipe", "x", "--json"])
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {
        "event": "error",
        "error": kind("what", "why", "how").as_dict(),
    }

    with pytest.raises(SystemExit):
        cli.main(["sft", "--recipe", "x", "--verbose"])
    assert "Traceback" in capsys.readouterr().err


def test_every_error_has_an_exit_code_of_its_own() -> None:
    # An error that another process has shown goes by that one's code.
    leaves = set(errors.TunerError.__subclasses__()) - {failure.FailedElsewhere}
    assert leaves == {*ERRORS, errors.Interrupted}


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_a_lack_of_memory_is_no_bug(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """N15: in any command."""
    import torch  # noqa: F401  # as the commands have that run out of it

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(train, "train", fail)
    with pytest.raises(SystemExit) as stop:
        cli.main(["lora", "--recipe", "x"])
    assert stop.value.code == 7
    assert capsys.readouterr().err.startswith("error: out of memory\n")


def test_a_bug_is_three_lines_and_70(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise ValueError("oh\nno hf_CANARYcanary0123456789")

    monkeypatch.setattr(train, "train", fail)
    with pytest.raises(SystemExit) as stop:
        cli.main(["lora", "--recipe", "x"])
    assert stop.value.code == 70
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: a bug in tuner: ValueError: oh"
    assert re.fullmatch(r"  in fail, test_cli.py:\d+", lines[1])
    assert lines[2].startswith("fix: report it")
    assert len(lines) == 3
    with pytest.raises(SystemExit):
        cli.main(["lora", "--recipe", "x", "--verbose"])
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "in fail" in said
    assert "CANARY" not in said


@pytest.mark.parametrize(
    ("stop", "code"),
    [
        (KeyboardInterrupt(), 130),
        (errors.Interrupted(15, "stopped"), 143),
        (errors.Interrupted(2, "stopped"), 130),
    ],
)
def test_a_signal_has_its_exit_code(
    stop: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*arguments: object) -> None:
        raise stop

    monkeypatch.setattr(train, "train", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main(["lora", "--recipe", "x"])
    assert ended.value.code == code
    assert capsys.readouterr().err.startswith("stopped")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lroa"], "Did you mean 'lora'"),
        (["lora"], "no recipe is given"),
        (["plan"], "tuner plan RECIPE, or tuner plan --recipe RECIPE"),
        (["data", "preview"], "tuner data preview RECIPE"),
        (["compare"], "no recipe is given"),
        (["sweep", "--set", "method.r=4,8"], "no recipe is given"),
        (["lora", "x", "--recipe", "y"], "the recipe is given twice"),
        (["lora", "x", "y"], "unexpected extra argument"),
        (["lora", "--recipes", "x"], "No such option: --recipes"),
        (["lora", "--recipe", "x", "more"], "RECIPE is more, and --recipe x"),
        (["data", "preview", "--recipe", "x", "-n", "none"], "-n"),
        (["data", "preview", "--recipe", "x", "-n", "0"], "-n"),
        (["plan", "--recipe", "x", "--verb", "y"], "one of lora, prefix, ptuning, sft"),
        (["lora", "--recipe", "no-such.yaml"], "no recipe no-such.yaml"),
        (["runs", "show", "none"], "no run 'none'"),
        (["recipes", "show", "no-such"], "no bundled recipe 'no-such'"),
        ([], "Usage: tuner"),
        (["recipes"], "Usage: tuner recipes"),
    ],
)
def test_wrong_usage_is_2_and_says_what_to_do(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = tuner(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if not said.startswith("Usage"):
        assert re.match(r"error: .*\n(  .*\n)+fix: .*\n\Z", done.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        *([verb, "--dry-run"] for verb in ("lora", "sft")),
        *(["plan"], ["data", "preview"], ["sweep", "--set", "method.r=2,4", "--dry-run"]),
    ],
    ids=" ".join,
)
def test_a_recipe_is_an_argument_or_an_option(recipe: Path, command: list[str]) -> None:
    """For every command that takes one; both ways do the same."""
    one, other = (
        tuner(*command, *words, cwd=recipe.parent)
        for words in ([recipe.name], ["--recipe", recipe.name])
    )
    assert one.returncode == 0, one.stderr
    assert (one.stdout, one.stderr) == (other.stdout, other.stderr)


def test_a_reader_that_goes_away_is_told_by_the_exit_code_only() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "tuner", "recipes", "schema"]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_dry_run_shows_the_plan_and_writes_nothing(recipe: Path) -> None:
    """H06: value and source of each; nothing but the recipe's files lies there afterwards."""
    before = sorted(recipe.parent.iterdir())
    done = tuner(
        "lora",
        "--recipe",
        recipe.name,
        "--dry-run",
        "--verbose",
        "--set",
        "train.epochs=3.0",
        "--set",
        "method.r=4",
        "--output",
        "out",
        cwd=recipe.parent,
    )
    assert done.returncode == 0, done.stderr
    lines = {tuple(line.split()[:1]): line for line in done.stdout.splitlines() if line}
    for key, value, origin in (
        ("model.base", "", "recipe line 2"),
        ("train.batch_size", "4", "recipe line 6"),
        ("train.epochs", "3", "--set"),
        ("method.r", "4", "--set"),
        ("run.output", "out", "--output"),
        ("method.name", "lora", "verb"),
        ("method.alpha", "8", "auto: 2 x r"),
        ("train.scheduler", "linear", "default"),
    ):
        assert value in lines[(key,)]
        assert lines[(key,)].endswith(origin)
    assert sorted(recipe.parent.iterdir()) == before


def test_plan_is_the_dry_run_of_the_fitting_verb(recipe: Path) -> None:
    """H10"""
    plans = [
        tuner(*arguments, "--recipe", recipe.name, "--json", cwd=recipe.parent)
        for arguments in (("plan",), ("lora", "--dry-run"), ("plan", "--verb", "lora"))
    ]
    first, *others = [json.loads(done.stdout.splitlines()[-1])["plan"] for done in plans]
    assert first["verb"] == "lora"
    first["values"]["method.name"]["origin"] = "verb"
    assert all(other == first for other in others)


JSON_COMMANDS = [
    ["plan", "--recipe", "small.yaml"],
    ["plan", "--recipe", "small.yaml", "--quiet", "--verbose"],
    ["plan", "--recipe", "small.yaml", "--set", "nope=1"],
    ["lora", "--recipe", "none.yaml"],
    ["lora"],
    ["lroa"],
    ["data", "preview", "--recipe", "small.yaml"],
    ["recipes", "list"],
    ["recipes", "schema"],
    ["recipes", "show", "none"],
    ["templates", "list"],
    ["templates", "show", "chat"],
    ["runs", "list"],
    ["doctor"],
]


@pytest.mark.parametrize("arguments", JSON_COMMANDS, ids=" ".join)
def test_json_prints_json_and_nothing_else(recipe: Path, arguments: list[str]) -> None:
    done = tuner(*arguments, "--json", cwd=recipe.parent)
    lines = done.stdout.splitlines()
    assert lines
    for line in lines:
        value = json.loads(line, parse_constant=pytest.fail)
        assert arguments[:2] == ["recipes", "schema"] or isinstance(value["event"], str)
    if done.returncode:
        assert json.loads(lines[-1])["error"]["exit_code"] == done.returncode


def test_what_libraries_print_stays_off_stdout(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainers print a summary of their own; with --json that would not be JSON."""

    def chatty(plan: Any, resume: bool, console: Console) -> None:
        sys.stdout.write("{'train_runtime': 1}\n")
        console.done({"output": str(plan.output), "status": "done"})

    # As an attribute of the package, so that the heavy module itself is not imported.
    stand_in = SimpleNamespace(run=chatty)
    monkeypatch.setitem(sys.modules, "tuner.run.spine", stand_in)
    monkeypatch.setattr("tuner.run.spine", stand_in, raising=False)
    done = tuner("lora", "--recipe", recipe.name, "--json", cwd=recipe.parent)
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()][-1] == "done"
    assert "train_runtime" in done.stderr


def test_quiet_prints_nothing_of_a_plan(recipe: Path) -> None:
    done = tuner("plan", "--recipe", recipe.name, "--quiet", cwd=recipe.parent)
    assert (done.returncode, done.stdout) == (0, "")


def test_preview_marks_what_is_learned(recipe: Path) -> None:
    done = tuner("data", "preview", "--recipe", recipe.name, "-n", "2", cwd=recipe.parent)
    assert len(re.findall(r"⟦It is \d+\.", done.stdout)) == 2
    assert "rows.jsonl:" in done.stdout
    narrow = process(
        "data", "preview", "--recipe", recipe.name, cwd=recipe.parent, PYTHONIOENCODING="ascii"
    )
    assert narrow.returncode == 0
    assert r"\u27e6It is" in narrow.stdout
