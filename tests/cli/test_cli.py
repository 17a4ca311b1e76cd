"""The command line: options, exit codes, what is printed where (rows H06, I05, I06, I08, N10)."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import typer

from tests.tiny import make_model
from tuner import cli, errors
from tuner.cli import make_plan, recipes, train
from tuner.console import console
from tuner.console.console import Console
from tuner.machine import failure, hardware
from tuner.machine.hardware import Gpu, Machine
from tuner.recipe import bundled
from tuner.recipe.load import load
from tuner.recipe.verbs import VERBS
from tuner.record import run_folder
from tuner.run.finish import show_artefacts

ROOT = Path(__file__).resolve().parents[2]
ERRORS = {
    errors.RecipeError: 2,
    errors.DataError: 3,
    errors.ModelError: 4,
    errors.TrainingError: 5,
    errors.IntegrityError: 6,
    errors.ResourceError: 7,
    errors.SafetyError: 8,
}


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def tuner(*arguments: str, cwd: Path, **environment: str) -> Done:
    """Run the command in this process, as `main` would, with streams of its own."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(cwd),
        mock.patch.dict(os.environ, environment),
        pytest.raises(SystemExit) as stop,
    ):
        cli.main(list(arguments))
    return Done(int(stop.value.code or 0), out.getvalue(), err.getvalue())


def process(*arguments: str, cwd: Path, **environment: str) -> Done:
    """Run the command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tuner", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=120,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model("llama", tmp_path_factory.mktemp("base"))


@pytest.fixture
def recipe(tmp_path: Path, base: Path) -> Path:
    rows = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    file = tmp_path / "small.yaml"
    file.write_text(
        f"model:\n  base: {base}\ndata:\n  train: rows.jsonl\ntrain:\n  batch_size: 4\n"
    )
    return file


def params(command: str) -> dict[str, Any]:
    group = typer.main.get_command(cli.app)
    return {each.name: each for each in group.commands[command].params}  # type: ignore[attr-defined]


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


def test_help_comes_at_once() -> None:
    """Within 300 ms of processor time; the least of several, since the machine may be busy."""
    command = [sys.executable, "-m", "tuner", "--help"]
    seconds = []
    for _ in range(5):
        start = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime)
    assert min(seconds) < 0.3


@pytest.mark.parametrize("arguments", [["--help"], ["lora", "-h"], ["data"]], ids=" ".join)
def test_help_imports_nothing_that_it_does_not_draw_with(arguments: list[str]) -> None:
    """rich's Markdown and tracebacks cost more than all the rest."""
    code = (
        "import sys; from tuner import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "finally: sys.stderr.write(' '.join(sys.modules))"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert "typer" in loaded
    assert not loaded & {"pygments", "markdown_it", "yaml", "torch", "numpy"}
    assert not {"rich.markdown", "rich.traceback"} & set(done.stderr.split())


def _words(panels: str) -> str:
    """The text of a help page, without the panels' borders and line breaks."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", panels).split())


@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_help_names_every_command_in_whole_sentences(tmp_path: Path, columns: str) -> None:
    program = typer.main.get_command(cli.app)
    said = tuner("--help", cwd=tmp_path, COLUMNS=columns).stdout
    assert "╭─ Train ─" in said
    for name, command in program.commands.items():  # type: ignore[attr-defined]
        assert f"{name} {' '.join(command.help.split())}" in _words(said)
    assert "..." not in said.replace("[ARGS]...", "")


@pytest.mark.parametrize("columns", ["80", "200"])
@pytest.mark.parametrize("command", ["lora", "export", "serve", "sweep"])
def test_help_of_a_command_says_all_of_every_option(
    tmp_path: Path, command: str, columns: str
) -> None:
    said = _words(tuner(command, "--help", cwd=tmp_path, COLUMNS=columns).stdout)
    for option in params(command).values():
        # A description that wraps is interrupted by nothing but its own lines.
        assert option.help.split()[-1] in said
        assert all(name in said for name in option.opts if name.startswith("-"))


def _completed(line: str, cwd: Path) -> list[str]:
    """What bash would offer for a command line that ends where the cursor is."""
    words = line.split(" ")
    done = process(
        cwd=cwd,
        _TUNER_COMPLETE="complete_bash",
        COMP_WORDS=line,
        COMP_CWORD=str(len(words) - 1),
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_a_shell_completes_commands_options_and_recipes(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder").mkdir()
    assert _completed("tuner lo", tmp_path) == ["lora"]
    assert _completed("tuner recipes s", tmp_path) == ["show", "schema"]
    assert "--resume" in _completed("tuner lora --re", tmp_path)
    assert _completed("tuner lora m", tmp_path) == ["mine.yaml", "medical"]
    assert _completed("tuner lora --recipe m", tmp_path) == ["mine.yaml", "medical"]
    assert "folder/" in _completed("tuner plan ", tmp_path)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_given_its_script(tmp_path: Path, shell: str) -> None:
    done = process(cwd=tmp_path, _TUNER_COMPLETE=f"source_{shell}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "_TUNER_COMPLETE" in done.stdout


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
    leaves = set(errors.TunerError.__subclasses__()) - {failure.Told}
    assert leaves == {*ERRORS, errors.Interrupted}


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
    ):
        assert value in lines[(key,)]
        assert lines[(key,)].endswith(origin)
    assert "train.scheduler=linear" in done.stdout
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
    # Tests that forge a pickle, the tests of these words, and the README's own shell line.
    assert {file.name for file in found} <= {"test_cli.py", "test_checkpoint.py", "test_serve.py"}


def test_an_output_in_the_recipe_stays_below_the_current_folder(recipe: Path) -> None:
    """I06"""
    recipe.write_text(recipe.read_text() + "run: {output: ../outside}\n")
    done = tuner("plan", "--recipe", recipe.name, cwd=recipe.parent)
    assert done.returncode == 8
    assert "leaves the current directory" in done.stderr
    done = tuner("plan", "--recipe", recipe.name, "--output", "../outside", cwd=recipe.parent)
    assert done.returncode == 0
    assert not (recipe.parent.parent / "outside").exists()


def test_a_run_folder_that_is_taken_gives_a_numbered_one(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    loaded = load(recipe)
    assert make_plan.run_folder(loaded, resume=False) == Path("runs/small")
    start = {"recipe_sha256": loaded.sha256}
    with run_folder.RunFolder.open(Path("runs/small"), resume=False, initial=start):
        pass
    assert make_plan.run_folder(loaded, resume=False) == Path("runs/small-2")
    assert make_plan.run_folder(loaded, resume=True) == Path("runs/small")
    with run_folder.RunFolder.open(Path("runs/small"), resume=True) as folder:
        folder.finish()
    assert make_plan.run_folder(loaded, resume=True) == Path("runs/small-2")
    asked = load(recipe, ["run.output=mine"])
    assert make_plan.run_folder(asked, resume=False) == Path("mine")


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


def test_the_console_shows_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Console()
    shown.phase("training 30 steps")
    for step in range(1, 31):
        shown.progress(step, 30, {"loss": 2 / step, "learning_rate": 1e-4})
    shown.scores({"loss": 3.0, "label_accuracy": 0.125}, {"loss": 1.0, "label_accuracy": 0.875})
    shown.sample("What?\nNow", "This.", "\x1b[31mThat\x07", "This.")
    show_artefacts([{"kind": "adapter", "path": "adapter", "bytes": 2048, "verified": True}], shown)
    shown.done({"output": "runs/x", "durations": {"train": 64.0, "total": 65.0}})
    out, err = capsys.readouterr()
    steps = re.findall(r"  step (\d+)/30  loss", out)
    assert 8 <= len(steps) <= 13
    assert steps[-1] == "30"
    assert re.search(r"^label_accuracy +0.125 +0.875$", out, re.MULTILINE)
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "adapter  adapter  2.0 KiB  verified" in out
    assert out.endswith("\ndone in 1 min 5 s: runs/x\n")
    assert err == ""


def test_the_console_is_strict_json(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Console(json=True)
    shown.phase("training")
    shown.note("note")
    shown.warn("careful")
    shown.text("not for machines")
    shown.progress(1, 2, {"loss": float("nan"), "path": Path("x"), "name": "合同"})
    shown.tick(1, 2)
    shown.scores({"loss": 1.0}, {"loss": float("inf")})
    shown.sample("a", "b", "c", "d")
    shown.row("rows:1", [("a", False), ("b", True)])
    show_artefacts(
        [{"kind": "adapter", "path": Path("adapter"), "bytes": 1, "verified": True}], shown
    )
    shown.table(("a",), [("b",)])
    shown.done({"status": "done"})
    out, err = capsys.readouterr()
    events = [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]
    assert [event["event"] for event in events] == [
        "phase",
        "note",
        "warning",
        "progress",
        "scores",
        "sample",
        "row",
        "artefact",
        "done",
    ]
    assert events[3]["metrics"] == {"loss": None, "path": "x", "name": "合同"}
    assert err == ""


def test_quiet_leaves_warnings_errors_and_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Console(quiet=True)
    shown.phase("training")
    shown.progress(1, 1, {})
    shown.scores({"loss": 1.0}, {"loss": 0.5})
    show_artefacts([{"kind": "adapter"}], shown)
    assert capsys.readouterr() == ("", "")
    shown.warn("careful")
    shown.error(errors.DataError("what", problems=["one", "two"], fix="how"))
    shown.done({"output": "runs/x"})
    assert capsys.readouterr() == (
        "\ndone: runs/x\n",
        "warning: careful\nerror: what\n  one\n  two\nfix: how\n",
    )


def test_only_the_console_prints() -> None:
    pattern = re.compile(r"\bprint\(|sys\.stdout\.write|sys\.stderr\.write|typer\.echo|\becho\(")
    for file in ROOT.glob("tuner/**/*.py"):
        if file != Path(console.__file__):
            assert not pattern.search(file.read_text("utf-8")), file


SMI = """0, GPU-aaaa, Tesla T4, 15360, 7.5
1, GPU-bbbb, NVIDIA H100 80GB HBM3, 81559, 9.0
2, GPU-cccc, NVIDIA A10G, 23028, 8.6
broken line
"""


def test_gpus_are_read_from_nvidia_smi() -> None:
    names = ["Tesla T4", "NVIDIA H100 80GB HBM3", "NVIDIA A10G"]
    assert [gpu.name for gpu in hardware.parse_gpus(SMI)] == names
    assert hardware.parse_gpus(SMI)[1] == Gpu(names[1], 81559 << 20, (9, 0))
    for visible, chosen in (
        ("", []),
        ("2,0", [names[2], names[0]]),
        ("GPU-bb", [names[1]]),
        ("1,7,0", [names[1]]),
        ("-1", []),
    ):
        assert [gpu.name for gpu in hardware.parse_gpus(SMI, visible)] == chosen


def test_bf16_is_for_gpus_that_have_it() -> None:
    """N10: emulation does not count."""
    t4, h100, a10g = hardware.parse_gpus(SMI)
    assert [gpu.bf16 for gpu in (t4, h100, a10g)] == [False, True, True]
    assert "bfloat16" not in Machine(2, 1 << 34, (t4,), cpu_bf16=True).dtypes
    assert "bfloat16" not in Machine(2, 1 << 34, (h100, t4)).dtypes
    assert Machine(2, 1 << 34, (h100,)).dtypes == ["float32", "float16", "bfloat16"]


def test_the_machine_is_found_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tuner.machine import hardware; m = hardware.detect()\n"
        "assert m.cpu_count >= 1 and m.memory_bytes > 1 << 28\n"
        "assert hardware.disk_free(Path('not/there')) > 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_torch_without_cuda_cannot_use_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices that nvidia-smi lists, but the installed torch cannot see, are told and not used."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{SMI}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(hardware, "_torch_has_cuda", lambda: True)
    assert len(hardware.detect().gpus) == 3
    monkeypatch.setattr(hardware, "_torch_has_cuda", lambda: False)
    found = hardware.detect()
    assert (found.gpus, found.gpu_note[:6]) == ((), "3 GPU(")


def test_doctor_says_what_to_install_where_torch_cannot_use_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container the device may be there and nvidia-smi not."""
    monkeypatch.setattr(hardware, "_DEVICES", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(hardware, "_torch_has_cuda", lambda: False)
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
    monkeypatch.setattr(hardware, "_torch_has_cuda", lambda: True)
    assert "GPU(s)" not in tuner("doctor", cwd=tmp_path).stderr


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
