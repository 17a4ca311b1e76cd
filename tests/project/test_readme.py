"""The commands of README and docs run, their tables are the program's, and every recipe plans."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.cli.command import tuner
from tests.conftest import write_rows
from tuner import errors
from tuner.machine.packages import NEEDED_BY
from tuner.methods import METHODS
from tuner.recipe.formats import FORMATS
from tuner.recipe.verbs import VERBS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
DOCS = {path.name: path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
# Pages whose commands are run by a test of their own.
OWN = ("going-on.md", "how-to.md", "predict.md", "sharing.md")
SHARED = [README, *(text for name, text in DOCS.items() if name not in OWN)]
BLOCKS = re.findall(r"```sh\n(.*?)```", "\n".join(SHARED), re.DOTALL)
LINES = list(
    dict.fromkeys(
        line for block in BLOCKS for line in block.splitlines() if line.startswith("tuner ")
    )
)
# These train, by the lines as they are shown; here they show the plan.
TRAIN = (*VERBS, "compare", "sweep")
# These want finished runs.
OF_RUNS = [line for line in LINES if line.split()[1] in ("export", "verify", "inspect")]
COMMANDS = [line for line in LINES if line not in OF_RUNS]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
# Recipes whose data the user downloads, and rows such as it has.
DOWNLOADED = {
    "rlhf-gsm8k": [
        {"question": f"What is 2 + {n}?", "answer": f"2 + {n} = {n + 2}\n#### {n + 2}"}
        for n in range(8)
    ]
}


def _slow(command: str) -> bool:
    return command.startswith("tuner compare") or "--rehearse" in command


@pytest.mark.parametrize(
    "command",
    [pytest.param(each, marks=[pytest.mark.slow] * _slow(each)) for each in COMMANDS],
)
def test_a_command_of_the_readme_runs(
    command: str, tmp_path: Path, bases: Callable[[str], Path]
) -> None:
    """Training commands as a dry run: the training itself is what other tests are for. A rehearsal
    is one of a tiny base."""
    words = shlex.split(command)[1:]
    if "--rehearse" in words:
        words += ["--set", f"model.base={bases('llama')}"]
    elif words[0] in TRAIN:
        words.append("--dry-run")
    words = [str(ROOT / word) if word.startswith("recipes/") else word for word in words]
    done = tuner(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.slow
def test_the_exports_of_the_readme_run(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    """In their order, on a tiny run under the quickstart's name: from the run to Ollama."""
    quick = {"eval": {"samples": 0, "enabled": False}, "export": {"formats": ["adapter"]}}
    for name in ("legal", "finance"):
        run_recipe(make_recipe("llama-tied", train={"epochs": 2}, **quick), f"runs/{name}")
    assert [line for line in OF_RUNS if "gguf" in line]
    for line in OF_RUNS:
        done = tuner(*shlex.split(line)[1:], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    gguf = tmp_path / "runs/legal/gguf"
    names = {path.name for path in gguf.iterdir()}
    assert names == {"MANIFEST.json", "Modelfile", "legal-f16.gguf"}
    assert (gguf / "Modelfile").read_text().startswith("FROM ./legal-f16.gguf\nTEMPLATE")


def dependencies() -> list[str]:
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    needed: list[str] = whole["project"]["dependencies"]
    return needed


def test_the_formats_are_the_programs() -> None:
    core = {Requirement(line).name for line in dependencies()}
    for row in FORMATS.values():
        names = {Requirement(text).name for each in row.packages for text in NEEDED_BY[each]}
        needs = ", ".join(f"`{name}`" for name in sorted(names - core))
        pattern = rf"^\| `{re.escape(row.name)}` \| {re.escape(row.what)} \| {re.escape(needs)} \|"
        assert re.search(pattern, DOCS["export.md"], re.MULTILINE), row.name


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_plans(recipe: Path, tmp_path: Path) -> None:
    """With the embedded base in place of a base from the Hub; each opens with its own command."""
    text = recipe.read_text("utf-8")
    verb = re.search(r"^#   tuner (\w+) --recipe recipes/(.+)$", text, re.MULTILINE)
    assert verb is not None
    assert verb[2] == recipe.name
    replaced = ["--set", "model.base=smollm2-135m"]
    if recipe.stem in DOWNLOADED:
        file = write_rows(tmp_path / "rows.jsonl", DOWNLOADED[recipe.stem])
        replaced += ["--set", f"data.train={file}", "--set", "data.eval=0.25"]
    done = tuner(verb[1], "--recipe", str(recipe), *replaced, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_tables_are_the_programs() -> None:
    for method in METHODS.values():
        rate = "per stage" if method.name == "staged" else _rate(method.learning_rate)
        merges = ("yes" if method.adapter else "is the model") if method.mergeable else "no"
        bases = ", ".join(sorted(method.quantized, reverse=True)) or "no"
        cells = (f"`{method.name}`", method.summary, f"`{method.verb}`", rate, merges, bases)
        assert f"| {' | '.join(cells)} |" in README
    rows = re.findall(r"^\| (\d+)(?:, \d+)? \|", DOCS["runs.md"], re.MULTILINE)
    codes = {int(code) for code in rows}
    defined = {kind.exit_code for kind in errors.TunerError.__subclasses__()}
    assert defined <= codes | {70}
    listed = README.partition("## Exit codes")[2].partition("##")[0]
    assert codes | {143} <= {int(code) for code in re.findall(r"\b\d+\b", listed)}


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    """At most 300 lines; every page and heading that README and docs link to is there."""
    assert len(README.splitlines()) <= 300
    for page, text in {"../README.md": README, **DOCS}.items():
        for target, anchor in re.findall(r"\]\(([^)#: ]*)(?:#([^)]+))?\)", text):
            file = (ROOT / "docs" / page).parent / target if target else ROOT / "docs" / page
            assert file.resolve().is_file(), (page, target)
            if anchor:
                titles = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
                plain = [re.sub(r"[^\w -]", "", title.lower()) for title in titles]
                assert anchor in {title.replace(" ", "-") for title in plain}, (page, anchor)


def _rate(value: float) -> str:
    """2e-4, as recipes write it."""
    digits, exponent = f"{value:.0e}".split("e")
    return f"{digits}e{int(exponent)}"
