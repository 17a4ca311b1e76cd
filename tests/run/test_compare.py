"""`tuner compare`: real runs in processes of their own, one table, one plot."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from tests.cli.command import Done, tuner
from tests.conftest import rows, write_rows
from tuner import methods as table
from tuner.errors import RecipeError
from tuner.recipe import comparison, dump
from tuner.recipe import load as recipe_load
from tuner.recipe.verbs import VERBS
from tuner.run.experiment import plot, report, results
from tuner.run.experiment.results import rank

METHODS = [
    {"name": "lora", "r": 4},
    {"name": "prefix", "num_virtual_tokens": 5},
    {"name": "lora", "r": 2},
]


def write(base: Path, folder: Path, **sections: Any) -> Path:
    write_rows(folder / "train.jsonl", rows(16))
    write_rows(folder / "eval.jsonl", rows(4, start=100))
    recipe: dict[str, Any] = {
        "model": {"base": str(base)},
        "data": {"train": "train.jsonl", "eval": "eval.jsonl", "template": "instruction"},
        "train": {"epochs": 1, "batch_size": 4},
        "eval": {"max_new_tokens": 2},
        "export": {"formats": ["adapter"]},
        "compare": {"methods": METHODS},
        **sections,
    }
    file = folder / "c.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), "utf-8")
    return file


def compare(recipe: Path, *arguments: str) -> Done:
    given = ("compare", "--recipe", recipe.name, "--output", "out", *arguments)
    return tuner(*given, cwd=recipe.parent, OMP_NUM_THREADS="1")


def result(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "compare.json").read_text("utf-8")))


@pytest.fixture(scope="module")
def done(
    bases: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Done]:
    """A comparison whose third run meets a loss that is not finite."""
    folder = tmp_path_factory.mktemp("compare")
    rates = {"prefix": 0.02, "lora-2": 1e30}
    recipe = write(bases("llama"), folder, compare={"methods": METHODS, "learning_rates": rates})
    return folder / "out", compare(recipe, "--json")


@pytest.mark.slow
def test_each_method_is_an_ordinary_run_at_equal_budget(done: tuple[Path, Done]) -> None:
    out, _ = done
    records = [json.loads((out / name / "run.json").read_text()) for name in ("lora", "prefix")]
    for record in records:
        assert record["status"] == "done"
        assert Path(record["plan"]["recipe"]).parent == out / "recipes"
    first, second = [record["plan"] for record in records]
    assert first["data"]["tokens_sha256"] == second["data"]["tokens_sha256"]
    assert first["steps"]["total"] == second["steps"]["total"] == 4
    assert first["values"]["run.seed"]["value"] == second["values"]["run.seed"]["value"]
    rates = [plan["values"]["train.learning_rate"]["value"] for plan in (first, second)]
    assert rates == [2e-4, 0.02]
    for name in ("lora", "prefix"):
        lines = (out / name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    assert result(out)["equal"]["rows"] == 16


@pytest.mark.slow
def test_a_row_says_what_the_runs_own_record_says(done: tuple[Path, Done]) -> None:
    out, _ = done
    found = {row["name"]: row for row in result(out)["rows"]}
    for name in ("lora", "prefix"):
        record = json.loads((out / name / "run.json").read_text())
        row = found[name]
        assert row["before"] == record["scores"]["before"]
        assert row["after"] == record["scores"]["after"]
        assert row["trainable_parameters"] == record["plan"]["parameters"]["trainable"]
        assert row["peak_memory_bytes"] == record["peak_memory_bytes"] > 1 << 26
        assert row["seconds"] == record["durations"]["total"]
        weights = out / name / "adapter" / "adapter_model.safetensors"
        assert row["weights_bytes"] == weights.stat().st_size
        # A prefix is trained through a network, and only what that gives is written.
        assert (row["weights_bytes"] >= 4 * row["trainable_parameters"]) == (name == "lora")


@pytest.mark.slow
def test_the_best_stands_first_and_the_failed_last(done: tuple[Path, Done]) -> None:
    out, _ = done
    found = result(out)
    assert found["score"] == "token_accuracy"
    *finished, last = found["rows"]
    assert last["name"] == "lora-2"
    keys = [(-row["after"]["token_accuracy"], row["after"]["loss"]) for row in finished]
    assert keys == sorted(keys)
    head, lines = report.table(found, errors=True)
    assert [line[0] for line in lines] == [row["name"] for row in found["rows"]]
    assert head[-1] == "error"


@pytest.mark.slow
def test_a_run_that_fails_stops_no_other_and_gives_the_exit_code(done: tuple[Path, Done]) -> None:
    out, shown = done
    assert shown.returncode == 5
    found = result(out)
    assert found["status"] == "failed"
    row = next(row for row in found["rows"] if row["status"] == "failed")
    assert (row["exit_code"], row["error"]["kind"]) == (5, "training")
    assert row["error"]["what"] in (out / "compare.md").read_text("utf-8")
    events = [json.loads(line) for line in shown.stdout.splitlines()]
    assert events[-1]["error"]["exit_code"] == 5
    assert row["error"]["what"] in events[-1]["error"]["problems"][0]
    steps = [
        event["content"]["step"]
        for event in events
        if event["event"] == "run"
        and event["run"] == "prefix"
        and event["content"]["event"] == "progress"
    ]
    assert steps == [1, 2, 3, 4]


@pytest.mark.slow
def test_resume_keeps_what_is_done_and_runs_the_rest(done: tuple[Path, Done]) -> None:
    out, _ = done
    recipe = out.parent / "c.yaml"
    kept = (out / "lora" / "run.json").read_bytes()
    before = {row["name"]: row for row in result(out)["rows"]}
    again = compare(recipe)
    assert again.returncode == 2
    assert "already holds a comparison" in again.stderr
    # As if it had been stopped before its end.
    file = out / "prefix" / "run.json"
    record = json.loads(file.read_text())
    scores = {"before": record["scores"]["before"]}
    file.write_text(json.dumps({**record, "status": "interrupted", "scores": scores}))
    resumed = compare(recipe, "--resume")
    assert resumed.returncode == 5
    assert (out / "lora" / "run.json").read_bytes() == kept
    after = {row["name"]: row for row in result(out)["rows"]}
    assert after["prefix"]["status"] == "done"
    assert after["prefix"]["after"] == before["prefix"]["after"]
    assert len(json.loads(file.read_text())["resumes"]) == 1
    assert "lora is done" in resumed.stdout
    # Runs of another budget may not come into the same table.
    changed = compare(recipe, "--resume", "--set", "train.max_steps=2")
    assert changed.returncode == 2
    assert "another recipe" in changed.stderr
    assert (out / "lora" / "run.json").read_bytes() == kept


@pytest.mark.slow
def test_the_page_is_one_file_with_a_point_for_each_scored_run(done: tuple[Path, Done]) -> None:
    out, _ = done
    page = (out / "compare.html").read_text("utf-8")
    assert not re.search(r"<script|<link|<img|https?://|url\(", page)
    svg = ElementTree.fromstring(re.search(r"<svg.*</svg>", page, re.DOTALL)[0])  # type: ignore[index]
    assert [text.text for text in svg if text.get("class") == "label"] == [
        row["name"] for row in result(out)["rows"] if row["after"]
    ]
    assert len([item for item in svg if item.get("class") == "point"]) == 2


@pytest.mark.slow
def test_the_markdown_is_a_table(done: tuple[Path, Done]) -> None:
    out, _ = done
    lines = [
        re.split(r"(?<!\\)\|", line)
        for line in (out / "compare.md").read_text("utf-8").splitlines()
        if line.startswith("|")
    ]
    assert len(lines) == 2 + 3
    assert len({len(line) for line in lines}) == 1


def placed(points: list[tuple[str, float, float]]) -> tuple[list[Any], list[plot.Box]]:
    svg = ElementTree.fromstring(plot.draw(points, "label_accuracy"))
    circles = [item for item in svg if item.get("class") == "point"]
    boxes = []
    for text in svg:
        if text.get("class") == "label":
            x, y = float(text.get("x", "")), float(text.get("y", ""))
            width = len(text.text or "") * plot.LETTER
            boxes.append(plot.Box(x, y + 4 - plot.LINE, x + width, y + 4))
    return circles, boxes


CROWDED = [
    ("lora", 2_442_240.0, 0.90),
    ("dora", 2_597_760.0, 0.90),
    ("bottleneck", 2_248_320.0, 0.89),
    ("oft", 2_321_280.0, 0.90),
    ("prefix", 230_400.0, 0.5),
    ("vera", 209_280.0, 0.5),
    ("lokr", 215_040.0, 0.51),
    ("fourierft", 210_000.0, 0.5),
    ("prompt", 11_520.0, 0.2),
    ("last_layer", 31_852_224.0, 0.9),
]


@pytest.mark.parametrize("points", [CROWDED, [("same", 1000.0, 0.5)] * 13, CROWDED[:1]])
def test_no_label_of_the_plot_covers_another_or_a_point(
    points: list[tuple[str, float, float]],
) -> None:
    circles, labels = placed(points)
    radius = plot.RADIUS
    dots = [
        plot.Box(x - radius, y - radius, x + radius, y + radius)
        for x, y in ((float(c.get("cx")), float(c.get("cy"))) for c in circles)
    ]
    assert len(labels) == len(dots) == len(points)
    for number, label in enumerate(labels):
        assert label.inside
        assert not any(label.overlaps(other) for other in [*labels[:number], *dots])


def test_the_plot_has_a_log_axis_and_the_better_above() -> None:
    points = [("a", 1e3, 0.2), ("b", 1e4, 0.4), ("c", 1e6, 0.8)]
    circles, _ = placed(points)
    x, y = ([float(circle.get(key)) for circle in circles] for key in ("cx", "cy"))
    assert (x[2] - x[1]) / (x[1] - x[0]) == pytest.approx(2, rel=0.01)
    assert (y[2] - y[1]) / (y[1] - y[0]) == pytest.approx(2, rel=0.01)
    assert y[0] > y[2]


def test_the_order_is_by_label_accuracy_then_by_loss() -> None:
    def row(accuracy: float, loss: float, status: str = "done") -> dict[str, Any]:
        return {"status": status, "after": {"label_accuracy": accuracy, "loss": loss}}

    best, second, third = row(0.9, 2.0), row(0.5, 0.5), row(0.5, 1.0)
    failed: dict[str, Any] = {"status": "failed", "after": None}
    mixed = [failed, third, second, best]
    assert sorted(mixed, key=lambda r: rank(r, "label_accuracy")) == [best, second, third, failed]
    assert sorted(mixed, key=lambda r: rank(r, "loss")) == [second, third, best, failed]
    assert not math.isnan(rank(failed, "loss")[3])


def test_dry_run_is_a_line_a_method_and_writes_nothing(
    bases: Callable[[str], Path], tmp_path: Path
) -> None:
    methods = [*METHODS, {"name": "last_layer"}]
    recipe = write(
        bases("llama"),
        tmp_path,
        compare={"methods": methods, "learning_rates": {"lora": 1e-3, "lora-2": 2e-3}},
    )
    before = sorted(tmp_path.iterdir())
    shown = compare(recipe, "--dry-run", "--json")
    assert shown.returncode == 0, shown.stderr
    events = [json.loads(line) for line in shown.stdout.splitlines()]
    plans = {event["name"]: event for event in events if event["event"] == "planned"}
    assert list(plans) == ["lora", "prefix", "lora-2", "last_layer"]
    assert [plan["learning_rate"] for plan in plans.values()] == [
        1e-3,
        table.METHODS["prefix"].learning_rate,
        2e-3,
        table.METHODS["last_layer"].learning_rate,
    ]
    assert plans["lora"]["trainable_parameters"] == 2 * plans["lora-2"]["trainable_parameters"]
    assert {plan["steps"] for plan in plans.values()} == {4}
    # What trains the base's own weights is a whole model, whatever the others are saved as.
    assert [plan["formats"] for plan in plans.values()] == [["adapter"]] * 3 + [["merged"]]
    lines = compare(recipe, "--dry-run").stdout.splitlines()
    assert all(any(line.startswith(f"{name} ") for line in lines) for name in plans)
    assert sorted(tmp_path.iterdir()) == before


def test_rows_that_are_the_same_run_are_named(bases: Callable[[str], Path], tmp_path: Path) -> None:
    """Before anything runs, and below the table; a rate of its own makes another run."""
    methods = [
        {"name": "ptuning_v2", "num_virtual_tokens": 5},
        {"name": "prefix", "num_virtual_tokens": 5, "projection": "none", "init": "text"},
        {"name": "prefix", "num_virtual_tokens": 5},
        {"name": "lora"},
        {"name": "lora", "r": 16, "alpha": 32},
        {"name": "lora", "r": 4},
        {"name": "rslora"},
    ]
    recipe = write(bases("llama"), tmp_path, compare={"methods": methods})
    shown = compare(recipe, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    said = [line for line in shown.stderr.splitlines() if "the same run" in line]
    pairs = [("prefix", "ptuning_v2"), ("lora-2", "lora")]
    assert [line.split(": ")[1] for line in said] == [
        f"{second} is the same run as {first}" for second, first in pairs
    ]
    rates = {"prefix": 0.02, "lora-2": 1e-3}
    recipe = write(bases("llama"), tmp_path, compare={"methods": methods, "learning_rates": rates})
    assert "the same run" not in compare(recipe, "--dry-run").stderr
    record = {"equal": defaultdict(int), "rows": [{"name": "b", "same_as": "a", "artefact": None}]}
    assert "b is the same run as a" in "\n".join(report.notes(record))


def test_all_problems_of_all_methods_come_at_once(
    bases: Callable[[str], Path], tmp_path: Path
) -> None:
    recipe = write(
        bases("llama"),
        tmp_path,
        train={"epochs": 0},
        compare={
            "methods": [
                {"name": "lora", "rr": 8},
                {"name": "prefix", "num_virtual_tokens": 0},
                {"name": "lroa"},
            ],
        },
    )
    shown = compare(recipe)
    assert shown.returncode == 2
    lines = recipe.read_text("utf-8").splitlines()

    def line(word: str) -> int:
        return next(n for n, text in enumerate(lines, 1) if word in text)

    said = [text.strip() for text in shown.stderr.splitlines()[1:-1]]
    assert said == [
        f"c.yaml:{line('epochs')}: train.epochs: expected a number, above 0, not '0'",
        f"lora: c.yaml:{line('rr')}: method.rr: unknown key; did you mean 'r'",
        f"prefix: c.yaml:{line('num_virtual')}: method.num_virtual_tokens: expected a whole "
        "number, 1 or more, not '0'",
        said[3],
    ]
    assert said[3].startswith(f"lroa: c.yaml:{line('lroa')}: method.name: no method 'lroa'; did")


def test_problems_of_plans_come_at_once_with_the_methods_name(
    bases: Callable[[str], Path], tmp_path: Path
) -> None:
    methods = [*METHODS, {"name": "lora", "init": "loftq"}]
    recipe = write(
        bases("llama"), tmp_path, compare={"methods": methods}, export={"formats": ["merged"]}
    )
    shown = compare(recipe)
    assert shown.returncode == 2
    assert "  prefix: export.formats: merged" in shown.stderr
    assert "  lora-3: method.init: loftq" in shown.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"method": {"name": "lora"}}, "lists its methods in compare.methods"),
        (
            {"compare": {"methods": METHODS, "learning_rates": {"prefx": 1.0}}},
            "compare.learning_rates.prefx: no such method is compared; did you mean 'prefix'",
        ),
        (
            {"compare": {"methods": METHODS, "learning_rates": {"lora": 0}}},
            "compare.learning_rates.lora: expected a number, above 0, not '0'",
        ),
        ({"compare": {"methods": []}}, "compare.methods: must not be empty"),
        ({"compare": {"methods": ["lora"]}}, "expected a mapping, not 'lora'"),
        ({"compare": {"methods": "lora"}}, "compare.methods: expected a list, not 'lora'"),
        ({"compare": {"method": METHODS}}, "did you mean 'methods'"),
        ({"compare": None}, "has no section compare"),
        (
            {
                "compare": {
                    "methods": [
                        *METHODS,
                        {
                            "name": "staged",
                            "stages": [{"train": "all", "epochs": 3, "learning_rate": 1e-5}],
                        },
                    ]
                }
            },
            "staged: steps 12; lora: 4",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(
    bases: Callable[[str], Path], tmp_path: Path, sections: dict[str, Any], said: str
) -> None:
    shown = compare(write(bases("llama"), tmp_path, **sections))
    assert shown.returncode == 2
    assert said in shown.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", [*VERBS, "plan"])
def test_a_training_verb_refuses_the_section(
    bases: Callable[[str], Path], tmp_path: Path, verb: str
) -> None:
    recipe = write(bases("llama"), tmp_path)
    shown = tuner(verb, "--recipe", recipe.name, cwd=tmp_path)
    assert shown.returncode == 2
    assert "fix: run: tuner compare --recipe c.yaml" in shown.stderr
    if verb in VERBS:
        with pytest.raises(RecipeError, match="for `tuner compare`"):
            recipe_load.load(recipe, verb=verb)


def test_what_reads_the_data_alone_takes_the_recipe(
    bases: Callable[[str], Path], tmp_path: Path
) -> None:
    recipe = write(bases("llama"), tmp_path)
    shown = tuner("data", "preview", "--recipe", recipe.name, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr


def test_a_recipe_of_one_method_is_a_whole_ordinary_recipe(
    bases: Callable[[str], Path], tmp_path: Path
) -> None:
    loaded = comparison.load_comparison(write(bases("llama"), tmp_path))
    assert list(loaded.runs) == ["lora", "prefix", "lora-2"]
    (tmp_path / "one.yaml").write_text(dump.dump(loaded.runs["prefix"].recipe))
    again = recipe_load.load(tmp_path / "one.yaml")
    assert again.recipe == loaded.runs["prefix"].recipe
    assert again.recipe.compare is None
    with pytest.raises(RecipeError, match="no section compare"):
        comparison.load_comparison(tmp_path / "one.yaml")


def test_a_foreign_folder_is_left_alone(bases: Callable[[str], Path], tmp_path: Path) -> None:
    recipe = write(bases("llama"), tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    shown = compare(recipe)
    assert shown.returncode == 2
    assert "holds no comparison" in shown.stderr
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_ctrl_c_ends_the_child_cleanly(bases: Callable[[str], Path], tmp_path: Path) -> None:
    recipe = write(bases("llama"), tmp_path, train={"epochs": 1000, "batch_size": 4})
    command = [sys.executable, "-m", "tuner", "compare", "--recipe", str(recipe), "--json"]
    parent = subprocess.Popen(
        [*command, "--output", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert parent.stdout is not None
    for text in parent.stdout:
        if json.loads(text).get("content", {}).get("step", 0) >= 3:
            break
    parent.send_signal(signal.SIGINT)
    _, said = parent.communicate(timeout=120)
    assert parent.returncode == 130, said
    assert "--resume" in said
    out = tmp_path / "out"
    record = json.loads((out / "lora" / "run.json").read_text())
    assert (record["status"], record["error"]["exit_code"]) == ("interrupted", 130)
    assert list((out / "lora" / "checkpoints").glob("step-*/MANIFEST.json"))
    assert not (out / "prefix").exists()
    assert result(out)["status"] == "interrupted"
    assert [row["status"] for row in result(out)["rows"]] == ["waiting"] * 3


@pytest.mark.parametrize(
    ("code", "kind"),
    [(2, "recipe"), (5, "training"), (8, "safety"), (70, "bug"), (137, "interrupted"), (1, "bug")],
)
def test_the_kind_of_an_exit_code_is_the_same_whatever_is_imported(code: int, kind: str) -> None:
    """A bug was "interrupted", or "bug" where another module had been imported."""
    row = {"name": "one", "status": "failed", "exit_code": code, "error": {"what": "it"}}
    failure = results.failure([row], "runs", "")
    assert failure is not None
    assert (failure.exit_code, failure.kind) == (code, kind)
