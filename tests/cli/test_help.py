"""Help pages, and a shell's completion."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from tests.cli.command import ROOT, params, process, tuner
from tuner import cli


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
        summary = command.help.partition("\n\n")[0]
        assert f"{name} {' '.join(summary.split())}" in _words(said)
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
