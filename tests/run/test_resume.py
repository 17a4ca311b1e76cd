"""Runs that are killed, stopped, damaged and resumed end as if nothing had happened.

C02, C03, C07, C08, C09, C16, C18 and C01 within a run, with real processes and real signals. Most
of them are forks of one process that has imported the libraries (tests/launcher.py).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import rows, write_rows
from tests.run.launched import ENVIRONMENT, ROOT, Tuner, assert_equal, command, metrics, record

# 18 rows by 4 for 2.5 epochs: 12 steps of 2 micro-batches; the epoch ends within step 5, the last
# step holds one row, every other step ends a window of the log.
LORA: dict[str, Any] = {
    "method": {"name": "lora", "dropout": 0.1, "r": 4},
    "train": {"epochs": 2.5, "learning_rate": 0.01},
    "export": {"formats": ["adapter"]},
}
STAGED: dict[str, Any] = {
    "method": {
        "name": "staged",
        "stages": [
            {"train": "last_layer", "epochs": 1, "learning_rate": 0.01},
            {"train": "all", "epochs": 1.5, "learning_rate": 0.001},
        ],
    },
    "train": {},
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, bases: Callable[[str], Path]) -> Path:
    """A folder with recipes `lora.yaml` and `staged.yaml` and their rows."""
    folder = tmp_path_factory.mktemp("resume")
    write_rows(folder / "train.jsonl", rows(18))
    write_rows(folder / "eval.jsonl", rows(4, start=100))
    for name, sections in (("lora", LORA), ("staged", STAGED)):
        train = {"batch_size": 4, "micro_batch_size": 2, "logging_steps": 2, "save_steps": 1}
        recipe = {
            "model": {"base": str(bases("llama"))},
            "data": {"train": "train.jsonl", "eval": "eval.jsonl", "template": "instruction"},
            **sections,
            "train": {**train, **sections["train"]},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture(scope="module")
def reference(tuner: Tuner, work: Path) -> dict[str, Path]:
    """Runs that nothing ever stopped."""
    folders = {}
    for name in ("lora", "staged"):
        folders[name] = work / f"{name}-reference"
        assert tuner(work / f"{name}.yaml", folders[name]) == 0, tuner.said()
    return folders


def test_the_reference_steps_are_those_the_other_tests_rely_on(reference: dict[str, Path]) -> None:
    assert [line["step"] for line in metrics(reference["lora"])] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in metrics(reference["staged"])] == [2, 4, 5, 6, 8, 10, 12]
    assert metrics(reference["lora"])[-1]["epoch"] == 2.5
    assert list(record(reference["staged"])["scores"]) == ["before", "stage_1", "after"]


KILLS: list[tuple[str, str, int, int]] = [
    ("lora", "sealed", 1, 1),
    ("lora", "sealed", 3, 1),
    ("lora", "sealed", 5, 1),
    ("lora", "logged", 6, 1),
    ("lora", "logged", 8, 3),
    ("lora", "logged", 2, 3),
    ("lora", "sealing", 7, 1),
    ("lora", "sealing", 8, 1),
    ("lora", "sealed", 11, 1),
    ("lora", "sealed", 12, 1),
    ("lora", "scoring", 1, 1),
    ("lora", "scoring", 2, 1),
    ("lora", "verifying", 1, 1),
    ("staged", "sealed", 1, 1),
    ("staged", "sealed", 5, 1),
    ("staged", "scoring", 2, 1),
    ("staged", "sealed", 6, 1),
    ("staged", "logged", 8, 3),
    ("staged", "sealed", 11, 1),
    ("staged", "scoring", 3, 1),
    ("staged", "verifying", 1, 1),
]


@pytest.mark.parametrize(("name", "place", "number", "save_steps"), KILLS)
def test_a_killed_run_resumes_exactly(
    name: str,
    place: str,
    number: int,
    save_steps: int,
    tuner: Tuner,
    work: Path,
    reference: dict[str, Path],
    tmp_path: Path,
) -> None:
    """C03: early, in mid-epoch, at an epoch's or a stage's edge, last but one; while sealing (C01),
    scoring and exporting; from the step before or from up to three steps back."""
    recipe, folder = work / f"{name}.yaml", tmp_path / "run"
    options = ("--set", f"train.save_steps={save_steps}")
    at = (place, number, signal.SIGKILL)
    assert tuner(recipe, folder, *options, at=at) == -signal.SIGKILL
    assert record(folder)["status"] == "running"
    assert tuner(recipe, folder, *options, resume=True) == 0, tuner.said()
    assert_equal(folder, reference[name])
    (resume,) = record(folder)["resumes"]
    done = {"sealed": number, "logged": (number - 1) // save_steps * save_steps}
    if place in done:
        assert resume["from_step"] == done[place] // save_steps * save_steps


def test_a_run_killed_again_and_again_resumes_exactly(
    tuner: Tuner, work: Path, reference: dict[str, Path], tmp_path: Path
) -> None:
    """C03"""
    for name in ("lora", "staged"):
        recipe, folder = work / f"{name}.yaml", tmp_path / name
        for number in (1, 2, 4, 5, 9, 12):
            at = ("sealed", number, signal.SIGKILL)
            assert tuner(recipe, folder, at=at, resume=True) == -signal.SIGKILL
        assert tuner(recipe, folder, resume=True) == 0, tuner.said()
        assert_equal(folder, reference[name])


@pytest.mark.parametrize("name", ["lora", "staged"])
def test_a_signal_ends_the_step_and_seals_it(
    name: str, tuner: Tuner, work: Path, reference: dict[str, Path], tmp_path: Path
) -> None:
    """C08, C09: SIGTERM is 143, Ctrl-C is 130; the step's checkpoint is there though none was
    due."""
    recipe, folder = work / f"{name}.yaml", tmp_path / "run"
    options = ("--set", "train.save_steps=100")
    for number, sent, code in ((4, signal.SIGTERM, 143), (8, signal.SIGINT, 130)):
        at = ("logged", number, sent)
        assert tuner(recipe, folder, *options, at=at, resume=True) == code
        assert (folder / "checkpoints" / f"step-{number}" / "MANIFEST.json").exists()
        found = record(folder)
        assert (found["status"], found["error"]["exit_code"]) == ("interrupted", code)
        assert "--resume" in tuner.said()
        assert "Traceback" not in tuner.said()
        assert metrics(folder) == [
            line for line in metrics(reference[name]) if line["step"] <= number
        ]
    assert tuner(recipe, folder, *options, resume=True) == 0, tuner.said()
    assert_equal(folder, reference[name])
    assert [each["from_step"] for each in record(folder)["resumes"]] == [4, 8]


@pytest.mark.parametrize(
    ("place", "number"), [("loading", 1), ("scoring", 1), ("scoring", 2), ("verifying", 1)]
)
def test_a_signal_outside_the_steps_stops_at_once(
    place: str,
    number: int,
    tuner: Tuner,
    work: Path,
    reference: dict[str, Path],
    tmp_path: Path,
) -> None:
    """C08: before the first step nothing is left but the record and its log; no half artefact
    ever."""
    recipe, folder = work / "lora.yaml", tmp_path / "run"
    assert tuner(recipe, folder, at=(place, number, signal.SIGTERM)) == 143
    assert record(folder)["status"] == "interrupted"
    names = {path.name for path in folder.iterdir()}
    trained = {"recipe.lock.yaml", "data_report.json", "metrics.jsonl", "checkpoints"}
    late = (place, number) in (("scoring", 2), ("verifying", 1))
    rows = {"rows.json"} if place == "verifying" else set()
    assert names == {"run.json", "run.log"} | (trained if late else set()) | rows
    assert tuner(recipe, folder, resume=True) == 0, tuner.said()
    assert_equal(folder, reference["lora"])


def test_a_damaged_checkpoint_is_passed_over_by_name(
    tuner: Tuner, work: Path, reference: dict[str, Path], tmp_path: Path
) -> None:
    """C02"""
    recipe, folder = work / "lora.yaml", tmp_path / "run"
    assert tuner(recipe, folder, at=("sealed", 6, signal.SIGKILL)) == -signal.SIGKILL
    file = folder / "checkpoints" / "step-6" / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    assert tuner(recipe, folder, resume=True) == 0, tuner.said()
    assert "warning: skipped step-6: optimizer.safetensors" in tuner.said()
    assert "skipped step-6" in (folder / "run.log").read_text()
    (resume,) = record(folder)["resumes"]
    assert resume["from_step"] == 5
    assert len(resume["skipped"]) == 1
    assert_equal(folder, reference["lora"])


def test_without_an_intact_checkpoint_nothing_is_resumed(
    tuner: Tuner, work: Path, tmp_path: Path
) -> None:
    """C02"""
    recipe, folder = work / "lora.yaml", tmp_path / "run"
    assert tuner(recipe, folder, at=("sealed", 2, signal.SIGKILL)) == -signal.SIGKILL
    for step in (1, 2):
        (folder / "checkpoints" / f"step-{step}" / "state.json").unlink()
    before = snapshot(folder)
    assert tuner(recipe, folder, resume=True) == 6
    assert all(f"step-{step}" in tuner.said() for step in (1, 2))
    assert snapshot(folder) == before


def test_another_recipe_cannot_continue_a_run(
    tuner: Tuner, work: Path, reference: dict[str, Path], tmp_path: Path
) -> None:
    """C07: exit 6 field by field, and the run stays as it was; what leaves the updates alone may be
    another."""
    recipe, folder = work / "lora.yaml", tmp_path / "run"
    assert tuner(recipe, folder, at=("sealed", 3, signal.SIGKILL)) == -signal.SIGKILL
    before = snapshot(folder)
    changes = {
        "train.learning_rate": "0.02",
        "train.batch_size": "6",
        "train.max_steps": "5",
        "method.r": "8",
        "data.max_length": "40",
        "run.seed": "7",
    }
    options = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    assert tuner(recipe, folder, *options, resume=True) == 6
    for key in changes:
        assert f"{key}: " in tuner.said()
    assert "train.learning_rate: 0.01 in the checkpoint, 0.02 now" in tuner.said()
    assert snapshot(folder) == before
    rows_before = (work / "train.jsonl").read_text()
    try:
        (work / "train.jsonl").write_text(rows_before.replace("Say number 3.", "Say number 33."))
        assert tuner(recipe, folder, resume=True) == 6
        assert "train.jsonl has changed: 18 rows of sha256" in tuner.said()
        assert "fix: put back the files as they were, or start a new run" in tuner.said()
    finally:
        (work / "train.jsonl").write_text(rows_before)
    allowed = ("--set", "train.save_steps=4", "--set", "eval.samples=2", "--set", "eval.max_rows=3")
    assert tuner(recipe, folder, *allowed, resume=True) == 0, tuner.said()
    assert metrics(folder) == metrics(reference["lora"])
    digests = [record(each)["artefacts"][0]["sha256"] for each in (folder, reference["lora"])]
    assert digests[0] == digests[1]
    found = record(folder)
    assert len(found["samples"]) == 2
    # Scored again on the same rows, so that before and after can be compared.
    assert found["scores"]["before"] != record(reference["lora"])["scores"]["before"]


def test_other_weights_of_the_base_cannot_continue_a_run(
    tuner: Tuner, work: Path, bases: Callable[..., Path], tmp_path: Path
) -> None:
    """C07"""
    base, recipe = tmp_path / "base", tmp_path / "r.yaml"
    shutil.copytree(bases("llama"), base)
    content = yaml.safe_load((work / "lora.yaml").read_text())
    content["model"]["base"] = str(base)
    for key in ("train", "eval"):
        content["data"][key] = str(work / f"{key}.jsonl")
    recipe.write_text(yaml.safe_dump(content))
    folder = tmp_path / "run"
    assert tuner(recipe, folder, at=("sealed", 3, signal.SIGKILL)) == -signal.SIGKILL
    shutil.copy(bases("llama", seed=1) / "model.safetensors", base)
    assert tuner(recipe, folder, resume=True) == 6
    assert "the base model is not the one" in tuner.said()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("run.lock", "run.log")
    }


def test_a_run_folder_may_be_moved(
    tuner: Tuner,
    work: Path,
    bases: Callable[[str], Path],
    reference: dict[str, Path],
    tmp_path: Path,
) -> None:
    """C18: with its base and its data."""
    recipe, folder = work / "lora.yaml", tmp_path / "here"
    assert tuner(recipe, folder, at=("sealed", 6, signal.SIGKILL)) == -signal.SIGKILL
    moved = folder.rename(tmp_path / "there")
    base = shutil.copytree(bases("llama"), tmp_path / "base")
    data = shutil.copy(work / "train.jsonl", tmp_path / "rows.jsonl")
    options = ("--set", f"model.base={base}", "--set", f"data.train={data}")
    assert tuner(recipe, moved, *options, resume=True) == 0, tuner.said()
    assert_equal(moved, reference["lora"])
    assert record(moved)["output"] == str(moved)


def test_a_run_that_lives_is_not_touched(tuner: Tuner, work: Path, tmp_path: Path) -> None:
    """C16"""
    recipe, folder = work / "lora.yaml", tmp_path / "run"
    pid = tuner.stopped(recipe, folder, ("logged", 4, signal.SIGSTOP))
    before = snapshot(folder)
    for resume in (False, True):
        assert tuner(recipe, folder, resume=resume) == 2
        assert f"process {pid}" in tuner.said()
    assert snapshot(folder) == before
    tuner.kill(pid)
    assert tuner(recipe, folder, resume=True) == 0
    assert f"took over the lock of process {pid}" in tuner.said()


def test_a_finished_run_is_neither_overwritten_nor_trained_again(
    tuner: Tuner, work: Path, reference: dict[str, Path], tmp_path: Path
) -> None:
    recipe, folder = work / "lora.yaml", tmp_path / "run"
    assert tuner(recipe, folder) == 0
    before, first = snapshot(folder), record(folder)
    assert tuner(recipe, folder) == 2
    assert "already holds a run" in tuner.said()
    assert snapshot(folder) == before
    assert tuner(recipe, folder, resume=True) == 0, tuner.said()
    after, second = snapshot(folder), record(folder)
    changing = {"run.json", "report.html"}
    assert {k: v for k, v in after.items() if k not in changing} == {
        k: v for k, v in before.items() if k not in changing
    }
    assert second["artefacts"] == first["artefacts"]
    assert_equal(folder, reference["lora"])
    assert tuner(recipe, folder, "--set", "train.learning_rate=0.5", resume=True) == 6
    assert record(folder) == second


def test_a_run_that_fails_before_training_leaves_its_record_and_log(
    tuner: Tuner, work: Path, bases: Callable[[str], Path], tmp_path: Path
) -> None:
    """The base has no weights for one of its layers, which is seen when they are loaded."""
    base = tmp_path / "base"
    shutil.copytree(bases("llama"), base)
    config = json.loads((base / "config.json").read_text("utf-8"))
    config["num_hidden_layers"] += 1
    (base / "config.json").write_text(json.dumps(config), "utf-8")
    folder = tmp_path / "run"
    assert tuner(work / "lora.yaml", folder, "--set", f"model.base={base}") == 4, tuner.said()
    assert "Traceback" not in tuner.said()
    assert {path.name for path in folder.iterdir()} == {"run.json", "run.log"}
    found = record(folder)
    assert (found["status"], found["error"]["exit_code"]) == ("failed", 4)


def wait_for_lines(process: subprocess.Popen[bytes], folder: Path, count: int) -> None:
    """Until the run has logged so many lines; it must live until then."""
    end = time.monotonic() + 60
    file = folder / "metrics.jsonl"
    while time.monotonic() < end and process.poll() is None:
        if file.exists() and file.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.002)
    raise AssertionError(f"ended with {process.poll()} before {count} lines")


def descendants(pid: int) -> Sequence[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            group = int((entry / "stat").read_text().rpartition(")")[2].split()[2])
        except (OSError, ValueError, IndexError):
            continue
        if group == pid:
            found.append(int(entry.name))
    return found


def test_the_command_itself_stopped_and_killed_from_outside(
    tuner: Tuner, work: Path, tmp_path: Path
) -> None:
    """C03, C09: `python -m tuner`: Ctrl-C to its whole group, then SIGKILL, then on to the end."""
    recipe, folder = work / "lora.yaml", tmp_path / "run"
    options = ["train.epochs=24", "train.logging_steps=1", "train.save_steps=7"]
    options = [part for each in options for part in ("--set", each)]
    assert tuner(recipe, tmp_path / "reference", *options) == 0, tuner.said()
    for lines, sent, code in ((20, signal.SIGINT, 130), (60, signal.SIGKILL, -9)):
        process = subprocess.Popen(
            [sys.executable, "-m", "tuner", *command(recipe, folder, *options, resume=True)],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        wait_for_lines(process, folder, lines)
        os.killpg(process.pid, sent)
        said = process.communicate(timeout=20)[0].decode()
        assert process.returncode == code, said
        assert descendants(process.pid) == []
        if sent == signal.SIGINT:
            last = metrics(folder)[-1]["step"]
            assert (folder / "checkpoints" / f"step-{last}" / "MANIFEST.json").exists()
            assert "stopped by SIGINT" in said
    assert len(metrics(folder)) < len(metrics(tmp_path / "reference"))
    assert tuner(recipe, folder, *options, resume=True) == 0, tuner.said()
    assert_equal(folder, tmp_path / "reference")
