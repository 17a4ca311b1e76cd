"""What runs besides tuner itself: its own processes, and nothing from the current folder."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tuner.machine import processes
from tuner.record import git_files

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
STARTERS = {"subprocess", "multiprocessing", "pty", "asyncio.subprocess"}
CALLS = ("system", "popen", "exec", "spawn", "posix_spawn", "fork")


def starts_processes(file: Path) -> list[str]:
    """Imports and calls of a module that start a process."""
    found = []
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in STARTERS]
        elif isinstance(node, ast.ImportFrom) and node.module in {*STARTERS, "os"}:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            if node.value.id == "os" and node.attr.startswith(CALLS):
                found.append(name)
            if node.attr.startswith("create_subprocess"):
                found.append(name)
    return found


def test_one_module_starts_processes() -> None:
    """Every program that is started, and what it is given, is in one place."""
    assert starts_processes(ROOT / "tuner" / "machine" / "processes.py")
    others = {
        str(file): found
        for file in sorted((ROOT / "tuner").rglob("*.py"))
        if file.name != "processes.py" and (found := starts_processes(file))
    }
    assert not others


def test_a_child_has_no_search_path_into_the_current_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", ":here:/absolute:./there:")
    monkeypatch.setenv("LD_LIBRARY_PATH", ":")
    monkeypatch.setenv("PATH", "/usr/bin::bin:/bin")
    given = processes.environment({"RANK": "1"})
    assert given["PYTHONPATH"] == "/absolute"
    assert "LD_LIBRARY_PATH" not in given
    assert given["PATH"] == "/usr/bin:/bin"
    assert (given["PYTHONSAFEPATH"], given["RANK"]) == ("1", "1")


def test_a_child_is_of_the_package_that_started_it(tmp_path: Path) -> None:
    """Also where that package is not installed, and another one is."""
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT / "tuner", copy / "tuner")
    (copy / "tuner" / "__init__.py").write_text('__version__ = "9.9.9"\n')
    code = (
        f"import sys; sys.path.insert(0, {str(copy)!r})\n"
        "from tuner.machine import processes\n"
        "print(processes.fresh('tuner', '--version').stdout)\n"
        "print(processes.fresh('tuner', 'nothing').returncode)"
    )
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["tuner", "9.9.9", "2"]


def write_git(place: Path, head: str, files: dict[str, str]) -> Path:
    for name, text in {"HEAD": head, **files}.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text + "\n")
    return place


def test_the_commit_is_read_from_gits_files(tmp_path: Path) -> None:
    """A branch, a packed one, none, a worktree, a folder below; a link to elsewhere gives none."""
    branch = "ref: refs/heads/work/one"
    write_git(tmp_path / "a/.git", branch, {"refs/heads/work/one": COMMIT})
    packed = f"# pack-refs with: peeled\n{COMMIT} refs/heads/work/one\n{COMMIT[::-1]} refs/tags/one"
    write_git(tmp_path / "b/.git", branch, {"packed-refs": packed})
    write_git(tmp_path / "c/.git", COMMIT, {})
    write_git(tmp_path / "b/.git/worktrees/d", branch, {"commondir": "../.."})
    (tmp_path / "d").mkdir()
    (tmp_path / "d/.git").write_text(f"gitdir: {tmp_path / 'b/.git/worktrees/d'}\n")
    (tmp_path / "c/below").mkdir()
    assert {git_files.commit(tmp_path / name) for name in ("a", "b", "c", "d", "c/below")} == {
        COMMIT
    }
    write_git(tmp_path / "e/.git", "ref: refs/heads/../../../secret", {})
    (tmp_path / "secret").write_text(COMMIT)
    write_git(tmp_path / "f/.git", "ref: refs/heads/new", {})
    assert git_files.commit(tmp_path / "e") is None
    assert git_files.commit(tmp_path / "f") is None
    assert git_files.commit(Path("/")) is None


MODULES = (
    *("peft", "torch", "transformers", "datasets", "numpy", "typer", "yaml", "rich", "jinja2"),
    *("random", "json", "re", "subprocess", "tempfile", "platform", "gguf", "ray", "tuner"),
    *("safetensors", "psutil", "usercustomize", "sitecustomize", "convert_hf_to_gguf", "uvicorn"),
)
MARK = "import os\nopen(os.environ['CANARY'], 'a').write(f'{__file__} {os.getpid()}\\n')\n"
SCRIPT = "#!/bin/sh\necho $0 >> $CANARY\ncat\n"
CONFIG = """[core]
\tfsmonitor = {here}/run.sh
\thooksPath = {here}/hooks
\tpager = {here}/run.sh
\teditor = {here}/run.sh
\tsshCommand = {here}/run.sh
[filter "all"]
\tclean = {here}/run.sh
\tsmudge = {here}/run.sh
\tprocess = {here}/run.sh
[diff]
\texternal = {here}/run.sh
[alias]
\tdescribe = !{here}/run.sh
[pager]
\tdescribe = {here}/run.sh
"""


@pytest.fixture
def trapped(tmp_path: Path, make_recipe: Callable[..., Path]) -> Path:
    """A folder with a recipe, its data, and a canary in every place that may run something."""
    here = tmp_path
    small = {
        "train": {"max_steps": 1, "save_steps": 1},
        "eval": {"max_new_tokens": 2},
        "method": {"name": "lora", "r": 2},
        "export": {"formats": ["adapter"]},
    }
    recipe = yaml.safe_load(make_recipe(**small).read_text())
    compared = {**recipe, "compare": {"methods": [{"name": "lora", "r": 2}]}}
    del compared["method"]
    (here / "c.yaml").write_text(yaml.safe_dump(compared))
    for name in MODULES:
        (here / f"{name}.py").write_text(MARK)
    (here / "relative").mkdir()
    (here / "relative" / "sitecustomize.py").write_text(MARK)
    (here / ".pdbrc").write_text(MARK)
    for name in ("run.sh", "hooks/post-index-change", "hooks/pre-commit", "nvidia-smi", "less"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(SCRIPT)
        (here / name).chmod(0o755)
    (here / ".gitattributes").write_text("* filter=all diff=all\n")
    if shutil.which("git"):
        who = ("-c", "user.name=x", "-c", "user.email=x@y")
        for words in (("init", "-q"), ("add", "r.yaml"), ("commit", "-qm", "x")):
            subprocess.run(["git", *who, *words], cwd=here, check=True, capture_output=True)
        # Changed, so that git would have to look into it.
        os.utime(here / "r.yaml", (1, 1))
    else:
        write_git(here / ".git", COMMIT, {})
    (here / ".git" / "config").write_text(CONFIG.format(here=here))
    (here / ".git" / "hooks").mkdir(exist_ok=True)
    return here


# Runs commands as the installed program would, one after the other; a server until it is ready.
DRIVER = """
import contextlib, io, json, os, signal, sys, threading, time
from tuner.__main__ import main
os.environ["PYTHONPATH"] = ":relative:."
os.environ["PATH"] = ":" + os.environ["PATH"]
codes = {}
class Listens(io.StringIO):
    def write(self, text):
        if '"ready"' in text:
            os.kill(os.getpid(), signal.SIGINT)
        return super().write(text)
for words in json.loads(sys.argv[1]):
    out = Listens()
    sys.argv = ["tuner", *words]
    sys.stdin = io.StringIO("Say number 3.\\n")
    with contextlib.redirect_stdout(out):
        try:
            main()
        except SystemExit as end:
            code = end.code
    codes[" ".join(words)] = code
    if code not in (0, None, 130):
        sys.stderr.write(out.getvalue())
print(json.dumps(codes))
"""


def drive(script: Path, here: Path, canary: Path, *commands: list[str]) -> dict[str, Any]:
    script.parent.mkdir()
    script.write_text(DRIVER)
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(commands)],
        cwd=here,
        capture_output=True,
        text=True,
        env={**os.environ, "CANARY": str(canary), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    codes: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    failed = {name: code for name, code in codes.items() if code not in (0, None)}
    assert set(failed) <= {"serve run --port 0 --json"}, done.stderr[-3000:]
    return codes


@pytest.mark.slow
def test_nothing_in_the_current_folder_runs(
    trapped: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of every command, and of the processes that they start."""
    aside = tmp_path_factory.mktemp("aside")
    canary = aside / "canary"
    one, more = ["--recipe", "r.yaml"], ["--set", "train.max_steps=1"]
    codes = drive(
        aside / "bin" / "tuner",
        trapped,
        canary,
        ["doctor"],
        ["recipes", "list"],
        ["templates", "list"],
        ["plan", *one],
        ["data", "preview", *one],
        ["lora", *one, "--output", "run"],
        ["lora", *one, "--output", "run", "--resume"],
        ["lora", *one, *more, "--output", "two", "--set", "run.devices=2"],
        ["compare", "--recipe", "c.yaml", "--output", "both"],
        ["sweep", *one, "--dry-run", "--set", "method.r=2,4"],
        ["runs", "list"],
        ["inspect", "run"],
        ["export", "run", "--format", "adapter", "--output", "more"],
        ["verify", "run/adapter"],
        ["chat", "run", "--max-new-tokens", "2"],
        ["serve", "run", "--port", "0", "--json"],
    )
    assert len(codes) == 16
    assert not canary.exists(), canary.read_text()
    commit = json.loads((trapped / "run" / "run.json").read_text())["git"]
    assert commit == git_files.commit(trapped)
    assert commit is not None


@pytest.mark.parametrize("how", ["script", "module"])
@pytest.mark.parametrize("python_path", [None, ":relative"])
def test_the_program_imports_nothing_from_its_folder(
    how: str, python_path: str | None, tmp_path: Path
) -> None:
    """Python itself runs sitecustomize, and finds tuner.py, before the program can do anything."""
    here, canary = tmp_path / "here", tmp_path / "canary"
    (here / "relative").mkdir(parents=True)
    for name in ("typer", "yaml", "signal", "json", "tempfile", "difflib", "rich", "jinja2"):
        (here / f"{name}.py").write_text(MARK)
        (here / "relative" / f"{name}.py").write_text(MARK)
    script = tmp_path / "bin" / "tuner"
    script.parent.mkdir()
    script.write_text("import sys\nfrom tuner.__main__ import main\nsys.exit(main())\n")
    begin = [str(script)] if how == "script" else ["-m", "tuner"]
    given = {**os.environ, "CANARY": str(canary)}
    given.pop("PYTHONPATH", None)
    if python_path is not None:
        given["PYTHONPATH"] = python_path
    done = subprocess.run(
        [sys.executable, *begin, "templates", "list", "--json"],
        cwd=here,
        env=given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not canary.exists(), canary.read_text()


def test_the_installed_command_leaves_the_folder_first() -> None:
    """The program that pip writes begins where the module begins."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"tuner": "tuner.__main__:main"}
