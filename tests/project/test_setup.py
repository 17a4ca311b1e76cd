"""Setting up: what a missing part is answered with, llama.cpp's converter, and the make targets."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.export.exporting import command
from tests.project.test_packaging import ROOT, pins, project
from tuner.errors import IntegrityError, ResourceError
from tuner.machine import converter, packages

SHIPPED = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "pyproject.toml", "Makefile")),
    *(ROOT / "docs").glob("*.md"),
    *(
        file
        for folder in ("tuner", "recipes")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".py", ".yaml")
    ),
]


def test_what_a_module_needs_is_what_the_project_says() -> None:
    extras = project()["project"]["optional-dependencies"]
    needed = {line for name, lines in extras.items() if name != "dev" for line in lines}
    core = set(project()["project"]["dependencies"])
    named = {line for lines in packages.NEEDED_BY.values() for line in lines}
    assert named - core == needed
    assert named & core == {"bitsandbytes>=0.46"}


@pytest.mark.parametrize("module", packages.NEEDED_BY)
def test_the_command_that_adds_a_package_runs_as_printed(module: str, tmp_path: Path) -> None:
    """In a shell, away from the checkout. Nothing is downloaded: what is not here is asked for
    from a folder in which pip finds it."""
    index = tmp_path / "index"
    for text in packages.NEEDED_BY[module]:
        wanted = Requirement(text)
        try:
            metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            (lowest,) = (each.version for each in wanted.specifier)
            make_sdist(index, wanted.name, pins().get(wanted.name, lowest))
    line = f"{packages.add(module)} --dry-run --no-deps --no-index --no-build-isolation"
    index.mkdir(exist_ok=True)
    done = subprocess.run(
        ["sh", "-c", f"{line} --find-links {shlex.quote(str(index))}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for text in packages.NEEDED_BY[module]:
        name = re.escape(Requirement(text).name)
        assert re.search(f"(already satisfied: |Would install .*){name}", done.stdout)


def make_sdist(index: Path, name: str, version: str) -> None:
    """A package of this name that pip can read and that holds nothing."""
    stem = f"{name.replace('-', '_')}-{version}"
    folder = index / stem
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\n'
        "[project.optional-dependencies]\ntune = []\n"
        "[tool.hatch.build.targets.wheel]\nbypass-selection = true\n"
    )
    (folder / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    with tarfile.open(index / f"{stem}.tar.gz", "w:gz") as tar:
        tar.add(folder, stem)


def test_an_environment_without_pip_is_answered_with_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    words = shlex.split(packages.add("ray"))
    assert words == ["uv", "pip", "install", "--python", sys.executable, "ray[tune]>=2.50"]


def test_no_text_asks_the_index_for_this_program() -> None:
    """Its name there is another program's, and ours is not on it."""
    for file in SHIPPED:
        text = file.read_text("utf-8")
        assert "tuner[" not in text, file
        assert not re.search(r"pip3? install[^\n`]*[ '\"](recipe-)?tuner\b(?!\.)", text), file


def test_what_the_readme_installs_is_known_here() -> None:
    pages = (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    text = "\n".join(page.read_text("utf-8") for page in pages)
    found = re.findall(r"pip install ([^`#\n]+)", text)
    assert found
    for line in found:
        words = shlex.split(line)
        if "-c" in words:
            at = words.index("-c")
            assert words[at : at + 2] == ["-c", "constraints.txt"]
            del words[at : at + 2]
        for word in words:
            if not word.startswith("-") and word not in (".", ".[dev]"):
                wanted = Requirement(word)
                # swanlab is not pinned: see tests/project/test_packaging.py.
                if wanted.name != "swanlab":
                    assert wanted.specifier.contains(pins()[wanted.name]), word


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_gguf_without_the_converter_is_refused_before_anything_is_read(cache: Path) -> None:
    """The run that is named does not even exist."""
    code, events = command("export", "nowhere", "--format", "gguf")
    error = events[-1]["error"]
    assert code == 4
    assert (error["what"], error["fix"].partition("   ")[0]) == (
        "a GGUF file needs llama.cpp's converter",
        converter.command(),
    )
    assert str(cache) in error["why"]
    code, events = command("doctor")
    (part,) = (item for item in events[-1]["optional"] if "converter" in item["part"])
    assert (part["package"], part["version"]) == ("llama.cpp", None)
    assert part["add"] == converter.command()


def test_the_converter_is_of_the_pinned_version() -> None:
    assert pins()["llama-cpp-python"] == converter.VERSION


def archive(path: Path) -> Path:
    """A source distribution with the converter's files and others."""
    root = path / f"llama_cpp_python-{converter.VERSION}"
    names = (
        "PKG-INFO",
        "vendor/llama.cpp/convert_hf_to_gguf.py",
        "vendor/llama.cpp/convert_lora_to_gguf.py",
        "vendor/llama.cpp/conversion/base.py",
        "vendor/llama.cpp/gguf-py/gguf/constants.py",
        "vendor/llama.cpp/src/llama.cpp",
        "vendor/llama.cpp/LICENSE",
        "vendor/other/conversion/base.py",
    )
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    with tarfile.open(path / converter.ARCHIVE, "w:gz") as tar:
        tar.add(root, root.name)
    return path / converter.ARCHIVE


def test_only_the_converter_is_kept(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where pip cannot download, the command that is then named works."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(ResourceError) as caught:
        converter.fetch()
    assert caught.value.fix.endswith(converter.command(converter.ARCHIVE))
    assert list(cache.iterdir()) == []
    file = archive(tmp_path)
    monkeypatch.setattr(converter, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    place = converter.fetch(file)
    assert place == cache / f"llama.cpp-{converter.VERSION}"
    assert list(cache.iterdir()) == [place]
    assert {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()} == {
        "convert_hf_to_gguf.py",
        "conversion/base.py",
        "gguf-py/gguf/constants.py",
        "LICENSE",
    }
    converter.require()
    monkeypatch.setattr(converter, "SHA256", "")
    assert converter.fetch(file) == place, "it is there"


def test_another_archive_is_refused(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="is not the archive"):
        converter.fetch(archive(tmp_path))
    assert list(cache.iterdir()) == []


def make(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
        | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("target", "brought", "used"),
    [
        ("quickstart", "-e .", "tuner lora"),
        ("compare", "-e .", "tuner compare"),
        ("test", "'.[dev]'", "-m pytest"),
        ("lint", "'.[dev]'", "ruff check"),
        ("bench", "'.[dev]'", "-m tests.bench"),
        ("llama", "-e .", "llama-cpp-python"),
        ("test-all", "'.[sweep]'", "--slow"),
    ],
)
def test_a_target_sets_up_what_it_needs(
    target: str, brought: str, used: str, tmp_path: Path
) -> None:
    said = make("-n", target, f"VENV={tmp_path}/new")
    places = [said.index(words) for words in (f"-m venv {tmp_path}/new", brought, used)]
    assert places == sorted(places)
    assert said.count("-m venv") == 1


def test_torch_comes_from_the_index_that_is_given(tmp_path: Path) -> None:
    said = make("-n", "install", f"VENV={tmp_path}/new", "TORCH_INDEX=https://example.invalid/cpu")
    (line,) = (line for line in said.splitlines() if "--index-url" in line)
    assert line.endswith("--no-deps --index-url https://example.invalid/cpu torch")
    assert said.index(line) < said.index("-e .")
    assert "--index-url" not in make("-n", "install", f"VENV={tmp_path}/new")


def test_an_environment_keeps_the_torch_that_it_brings(tmp_path: Path) -> None:
    """And where it brought none, ours follows constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    for name, before, after in (("own", "2.9.1+cu128", "2.9.1+cu128"), ("new", "", "2.12.0")):
        python = tmp_path / name / "bin/python"
        python.parent.mkdir(parents=True)
        python.touch(mode=0o755)
        file = tmp_path / name / ".constraints.txt"
        for version in (before, after):
            python.write_text(f"#!/bin/sh\necho {version}\n")
            # Older than constraints.txt, as after an update.
            if file.exists():
                os.utime(file, (0, 0))
            make(str(file), f"VENV={tmp_path / name}")
            kept = "2.9.1+cu128" if name == "own" else "2.13.0"
            wanted = [f"torch=={kept}" if each[:7] == "torch==" else each for each in lines]
            assert file.read_text("utf-8").splitlines() == wanted


@pytest.mark.parametrize(("options", "outcome"), [((), "1 skipped"), (("--slow",), "2 passed")])
def test_slow_tests_are_left_out_by_name(
    options: tuple[str, ...], outcome: str, tmp_path: Path
) -> None:
    (tmp_path / "test_two.py").write_text(
        "import pytest\n@pytest.mark.slow\ndef test_slow(): pass\ndef test_quick(): pass\n"
    )
    settings = ("-c", str(ROOT / "pyproject.toml"), "-p", "tests.slow", "-p", "no:cacheprovider")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *settings, *options, str(tmp_path / "test_two.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert outcome in done.stdout, done.stdout + done.stderr
    assert ("slow (make test-all)" in done.stdout) is not bool(options)
