"""One row means one row: a metric, a format and a method that no file of tuner knows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tuner.machine.imports import function
from tuner.plan.metrics import METRICS
from tuner.recipe.formats import FORMATS

ROOT = Path(__file__).resolve().parents[2]


def test_a_toy_metric_format_and_method_run(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """Planned, trained, scored, exported and proven like those that are there."""
    recipe = make_recipe(
        "llama",
        method={"name": "toy", "rank": 3},
        eval={"metrics": ["loss", "rows_scored"]},
        export={"formats": ["adapter", "merged", "copy"]},
        train={"max_steps": 3},
    )
    run = tmp_path / "run"
    command = [sys.executable, "-m", "tests.project.toys", "sft", "--recipe", str(recipe)]
    done = subprocess.run(
        [*command, "--output", str(run)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((run / "run.json").read_bytes())
    assert record["plan"]["values"]["method.rank"]["value"] == 3
    assert record["scores"]["after"]["rows_scored"] > 0
    assert [each["kind"] for each in record["artefacts"]] == ["adapter", "merged", "copy"]
    assert all(each["verified"] for each in record["artefacts"])


@pytest.mark.parametrize("name", METRICS)
def test_the_function_of_every_metric_is_there(name: str) -> None:
    assert callable(function(METRICS[name].function))


@pytest.mark.parametrize("name", FORMATS)
def test_the_functions_of_every_format_are_there(name: str) -> None:
    places = [place for place in (FORMATS[name].live, FORMATS[name].write) if place]
    assert places
    assert all(callable(function(place)) for place in places)
