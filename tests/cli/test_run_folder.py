"""Which folder a run gets, and what `--resume` does where there is nothing to resume."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from tests.cli.command import Done, tuner
from tuner.cli import run_folder
from tuner.recipe import load as recipe_load
from tuner.record.runs import RUNS
from tuner.run import content

RECIPE = {"data": {"train": "rows.jsonl"}, "train": {"batch_size": 2}}
COMMAND = ("lora", "--recipe", "r.yaml", "--dry-run")


@pytest.fixture
def work(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `r.yaml` and rows; the current one."""
    tree = {"model": {"base": str(base)}, **RECIPE}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    rows = [{"instruction": f"Say {n}.", "output": f"{n}."} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begin(folder: Path, status: str = "interrupted", *overrides: str, lock: bool = False) -> Path:
    """Write the record of a run of `r.yaml`; `lock`: with its lock, too."""
    loaded = recipe_load.load(Path("r.yaml"), overrides, "lora")
    folder.mkdir(parents=True)
    record = {
        "format": 1,
        "tuner": "0.1.0",
        "status": status,
        "recipe_sha256": loaded.sha256,
        "content_sha256": content.content_sha256(loaded),
    }
    (folder / "run.json").write_text(json.dumps(record))
    if lock:
        tree = yaml.safe_load(Path("r.yaml").read_text()) | {"run": {"output": str(folder)}}
        tree["data"] = {"train": str(Path("rows.jsonl").resolve())}
        (folder / "recipe.lock.yaml").write_text(yaml.safe_dump(tree))
    return folder


def resumed(output: str, *options: str) -> Done:
    return tuner(*COMMAND, "--output", output, "--resume", *options, cwd=Path.cwd())


@pytest.mark.parametrize("typo", ["runs/lgeal", "runs/legal_", "legal"])
def test_a_slip_in_the_folder_does_not_begin_another_run(work: Path, typo: str) -> None:
    begin(RUNS / "legal")
    said = resumed(typo)
    assert said.returncode == 2
    assert f"error: nothing to resume in {typo}" in said.stderr
    assert "runs/legal holds an unfinished run of this recipe" in said.stderr
    commands = [shlex.split(each) for each in re.findall(r"tuner ([^;\n]+)", said.stderr)]
    assert [words[-3:] for words in commands] == [
        ["--output", "runs/legal", "--resume"],
        ["r.yaml", "--output", typo],
    ]
    assert tuner(*commands[1], "--dry-run", cwd=work).returncode == 0


def test_the_commands_of_a_slip_keep_what_was_set(work: Path) -> None:
    begin(RUNS / "legal", "failed", "train.epochs=2")
    said = tuner(
        *COMMAND, "--set", "train.epochs=2", "--set", "run.output=runs/lgal", "--resume", cwd=work
    )
    assert "--set train.epochs=2 --output runs/legal --resume; to begin" in said.stderr
    assert "--set train.epochs=2 --output runs/lgal\n" in said.stderr


@pytest.mark.parametrize(
    ("status", "overrides", "said"),
    [
        ("done", (), "runs/legal is done"),
        ("interrupted", ("train.epochs=2",), "runs/legal is interrupted, and of another recipe"),
    ],
)
def test_a_script_that_always_resumes_begins_its_run(
    work: Path, status: str, overrides: tuple[str, ...], said: str
) -> None:
    """docs/several-gpus.md: the first start has `--resume`, too; it says so before all else."""
    first = resumed("runs/night")
    assert first.returncode == 0, first.stderr
    warnings = first.stderr.splitlines()
    assert warnings[0] == ("warning: nothing to resume in runs/night, so a NEW run begins there")
    begin(RUNS / "legal", status, *overrides)
    near = resumed("runs/legal-2", "--json")
    assert near.returncode == 0, near.stderr
    event = json.loads(near.stdout.splitlines()[0])
    assert event["event"] == "warning"
    assert said in event["text"]


def test_an_unfinished_run_of_another_name_is_named(work: Path) -> None:
    begin(RUNS / "legal")
    assert "; runs/legal is an unfinished run of this recipe" in resumed("runs/other").stderr


def test_a_lock_repeats_its_run_in_a_folder_of_its_own(work: Path) -> None:
    """It has the folder of its run, which is taken."""
    lock = begin(Path("out/legal"), "done", lock=True) / "recipe.lock.yaml"
    begin(RUNS / "legal", "done")
    plan = tuner("plan", str(lock), cwd=work)
    assert plan.returncode == 0, plan.stderr
    assert "already holds a run" not in plan.stderr
    assert plan.stdout.splitlines()[-1] == "run folder  runs/legal-2"
    assert tuner("plan", str(lock), "--output", "x", cwd=work).stdout.endswith("run folder  x\n")
    copied = work / "recipe.lock.yaml"
    copied.write_bytes(lock.read_bytes())
    assert "out/legal already holds a run" in tuner("plan", str(copied), cwd=work).stderr


def test_a_lock_continues_its_run(work: Path) -> None:
    def found(resume: bool) -> str:
        loaded = run_folder.as_repeated(recipe_load.load(lock, (), "lora"))
        return str(run_folder.find(loaded, resume))

    lock = begin(Path("out/legal"), lock=True) / "recipe.lock.yaml"
    assert (found(True), found(False)) == ("out/legal", "runs/legal")
    said = tuner("lora", str(lock), "--dry-run", "--resume", "--output", "out/lgeal", cwd=work)
    assert "continue it: tuner lora --recipe out/legal/recipe.lock.yaml" in said.stderr


def test_a_folder_that_is_taken_is_refused_before_the_plan(work: Path) -> None:
    begin(RUNS / "legal", "done")
    said = tuner("lora", "r.yaml", "--output", "runs/legal", cwd=work)
    assert (said.returncode, said.stderr.splitlines()) == (
        2,
        [
            "error: runs/legal already holds a run",
            "  its status is done",
            "fix: choose another folder: --output runs/legal-2",
        ],
    )


def test_a_comparison_that_is_not_there_is_not_resumed(work: Path) -> None:
    tree = yaml.safe_load((work / "r.yaml").read_text())
    tree["compare"] = {"methods": [{"name": "lora"}, {"name": "ia3"}]}
    (work / "c.yaml").write_text(yaml.safe_dump(tree))
    sha = recipe_load.read(Path("c.yaml"), (), None).sha256
    (RUNS / "both").mkdir(parents=True)
    record = {"format": 1, "tuner": "0.1.0", "status": "interrupted", "recipe_sha256": sha}
    (RUNS / "both/compare.json").write_text(json.dumps(record))
    words = ("compare", "c.yaml", "--output", "runs/bohts", "--resume", "--dry-run")
    said = tuner(*words, cwd=work)
    assert said.returncode == 2
    assert "--recipe c.yaml --output runs/both --resume; to begin a new run" in said.stderr


def test_a_damaged_record_of_a_lock_is_no_run_to_continue(work: Path) -> None:
    lock = begin(Path("out/legal"), lock=True) / "recipe.lock.yaml"
    Path("out/legal/run.json").write_text("{")
    loaded = run_folder.as_repeated(recipe_load.load(lock, (), "lora"))
    assert str(run_folder.find(loaded, True)) == "runs/legal"


@pytest.mark.parametrize(
    ("command", "output", "said"),
    [
        (COMMAND, "afile", "afile cannot be a run's folder: .*afile is a file"),
        (COMMAND[:-1], "afile/run", "afile/run cannot be a run's folder: .*afile is a file"),
        (("plan", "r.yaml"), "other", "other is not empty and holds no run"),
    ],
)
def test_a_plan_refuses_the_folder_that_its_run_would(
    work: Path, command: tuple[str, ...], output: str, said: str
) -> None:
    (work / "afile").write_text("")
    (work / "other").mkdir()
    (work / "other/notes").write_text("")
    done = tuner(*command, "--output", output, cwd=work)
    assert (done.returncode, done.stdout.count("summary")) == (2, 0)
    assert re.search(f"error: .*{said}", done.stderr)
    assert "choose another folder with --output" in done.stderr


def test_a_dry_run_refuses_the_folder_of_a_run_and_a_plan_says_that_it_will_be(work: Path) -> None:
    begin(RUNS / "legal", "done")
    done = tuner(*COMMAND, "--output", "runs/legal", cwd=work)
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        2,
        "error: runs/legal already holds a run",
    )
    assert tuner(*COMMAND, "--output", "runs/legal-2", cwd=work).returncode == 0
    done = tuner("plan", "r.yaml", "--output", "runs/legal", cwd=work)
    assert done.returncode == 0
    assert "runs/legal already holds a run, and a new one there is refused" in done.stderr
