"""The run folder: an atomic record, whole metrics lines, nothing foreign touched."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests import faults
from tests.record.folders import ROOT, tree
from tuner.errors import (
    IntegrityError,
    Interrupted,
    RecipeError,
    ResourceError,
    SafetyError,
    TrainingError,
)
from tuner.record import runs
from tuner.record.lock import Owner
from tuner.record.log import log_to
from tuner.record.output import resolve_output
from tuner.record.run_folder import RunFolder
from tuner.record.run_json import METRICS, RUN


def record_of(path: Path) -> dict[str, Any]:
    return dict(json.loads((path / RUN).read_text()))


def finished(path: Path, **fields: Any) -> Path:
    with RunFolder.open(path, resume=False, initial=fields) as run:
        run.finish()
    return path


def test_a_run_from_start_to_end(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "legal"
    with RunFolder.open(path, resume=False, initial={"recipe_sha256": "abc"}) as run:
        assert run.path == path
        assert run.checkpoints == path / "checkpoints"
        assert not run.resumed
        assert run.notes == []
        opened = record_of(path)
        assert opened["status"] == "running"
        assert opened["recipe_sha256"] == "abc"
        run.update(scores={"before": {"loss": 2.5}}, where=path / "adapter")
        assert record_of(path) == {
            **opened,
            "scores": {"before": {"loss": 2.5}},
            "where": str(path / "adapter"),
        }
        run.finish(artefacts=[{"kind": "adapter", "loss": float("inf")}])
    done = record_of(path)
    assert done["status"] == "done"
    assert done["ended"] >= done["started"]
    assert done["artefacts"] == [{"kind": "adapter", "loss": "inf"}]
    assert list(tree(path)) == [RUN]
    run.release()


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (TrainingError("loss is not finite", "step 3", "lower the rate"), "failed", "training", 5),
        (Interrupted(15, "stopped by SIGTERM"), "interrupted", "interrupted", 143),
        (ValueError("odd"), "failed", "bug", 70),
        (KeyboardInterrupt(), "interrupted", "interrupted", 130),
    ],
)
def test_why_a_run_stopped_is_recorded(
    tmp_path: Path, error: BaseException, status: str, kind: str, code: int
) -> None:
    with pytest.raises(type(error)), RunFolder.open(tmp_path / "run", resume=False):
        raise error
    record = record_of(tmp_path / "run")
    assert record["status"] == status
    assert (record["error"]["kind"], record["error"]["exit_code"]) == (kind, code)
    if not isinstance(error, KeyboardInterrupt):
        assert str(error.args[0]) in record["error"]["what"] + record["error"]["why"]
    assert list(tree(tmp_path / "run")) == [RUN]
    with RunFolder.open(tmp_path / "run", resume=True) as run:
        assert run.resumed
        assert record_of(run.path)["error"] is None


def test_an_existing_run_is_never_overwritten(tmp_path: Path) -> None:
    """C11: without --resume a folder that holds a run is refused, and stays as it is."""
    path = finished(tmp_path / "run")
    before = tree(tmp_path)
    with pytest.raises(RecipeError, match="already holds a run") as caught:
        RunFolder.open(path, resume=False)
    # A run that is done has nothing left to resume.
    assert "--resume" not in str(caught.value)
    assert "--output" in str(caught.value)
    assert caught.value.exit_code == 2
    assert tree(tmp_path) == before
    record = json.loads((path / RUN).read_text("utf-8"))
    (path / RUN).write_text(json.dumps({**record, "status": "stopped"}), "utf-8")
    with pytest.raises(RecipeError, match="continue it with --resume"):
        RunFolder.open(path, resume=False)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["thesis.tex", "checkpoint-500", RUN])
def test_a_foreign_folder_is_refused_always(tmp_path: Path, name: str, resume: bool) -> None:
    """I06, C11: also with --resume, also with a run.json of some other program."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text('{"name": "theirs"}')
    before = tree(tmp_path)
    with pytest.raises(RecipeError, match="holds no run"):
        RunFolder.open(tmp_path / "run", resume=resume)
    assert tree(tmp_path) == before


def test_a_resume_keeps_the_record_and_says_when(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with RunFolder.open(path, resume=True, initial={"plan": {"steps": 4}}) as run:
        assert not run.resumed
        started = run.record["started"]
    with RunFolder.open(path, resume=True, initial={"plan": {"steps": 4}}) as run:
        assert run.resumed
        assert record_of(path)["started"] == started
        assert record_of(path)["plan"] == {"steps": 4}
        assert len(record_of(path)["resumes"]) == 1


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00" * 20, "[" * 100_000])
def test_a_damaged_record_is_exit_6_and_listed(tmp_path: Path, text: str) -> None:
    good = finished(tmp_path / "good", recipe_sha256="r")
    bad = finished(tmp_path / "bad", recipe_sha256="r")
    (bad / RUN).write_text(text)
    if text != "[1]":
        with pytest.raises(IntegrityError, match=r"run\.json"):
            RunFolder.open(bad, resume=True)
    assert {run.path: run.status for run in runs.list_runs(tmp_path)} == {
        good: "done",
        bad: "damaged",
    }
    assert runs.read_run(bad).status == "damaged"
    assert runs.read_run(bad).note
    assert tree(bad) == {RUN: text.encode()}


def test_a_record_of_a_later_format_is_refused_with_both_versions(tmp_path: Path) -> None:
    """C17: names formats and versions."""
    path = finished(tmp_path / "run")
    (path / RUN).write_text(json.dumps({**record_of(path), "format": 2, "tuner": "9.9.9"}))
    with pytest.raises(IntegrityError, match=r"format 2, written by tuner 9\.9\.9"):
        RunFolder.open(path, resume=True)


def test_an_output_that_is_a_file_is_exit_2(tmp_path: Path) -> None:
    """C12: a file in place of the folder, or of one above it."""
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RecipeError, match=r"cannot be a run's folder: .*file is a file"):
            RunFolder.open(path, resume=False)
    assert tree(tmp_path) == {"file": b"mine"}


def test_a_read_only_folder_is_exit_7(tmp_path: Path) -> None:
    """C12: as an ordinary user, root or not."""
    (tmp_path / "run").mkdir(mode=0o555)
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.chdir(tmp_path / "run")
            if os.geteuid() == 0:
                os.setuid(65534)
            RunFolder.open(Path("."), resume=False)
        except ResourceError as error:
            code = error.exit_code
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_recipe_cannot_lead_out_of_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I06: `..` in run.output is exit 8; on the command line it is the user's own word."""
    inside = tmp_path / "work"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path)
    monkeypatch.chdir(inside)
    for name in ("../x", "runs/../../x", "../../x", "link/../../x"):
        with pytest.raises(SafetyError) as caught:
            resolve_output(Path(name), from_recipe=True)
        assert caught.value.exit_code == 8
        assert str(Path(name).resolve()) in str(caught.value)
    assert tree(tmp_path) == {}
    assert resolve_output(Path("runs/../legal"), from_recipe=True) == inside / "legal"
    with RunFolder.open(Path("../x"), resume=False) as run:
        assert run.path == tmp_path / "x"


def test_a_linked_output_is_resolved_and_recorded(tmp_path: Path) -> None:
    """I06: the record and a note say where the run really lies."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    with RunFolder.open(tmp_path / "runs" / "legal", resume=False) as run:
        real = tmp_path / "disk" / "legal"
        assert run.path == real
        assert run.record["output"] == str(real)
        assert run.notes == [f"{tmp_path / 'runs' / 'legal'} resolves to {real}"]


def test_a_resume_clears_what_a_killed_run_left_half_written(tmp_path: Path) -> None:
    """I15: staging folders of artefacts and of checkpoints."""
    path = finished(tmp_path / "run")
    for parent in (path, path / "checkpoints"):
        staging = parent / ".staging-adapter-999999999-abcdefgh"
        staging.mkdir(parents=True)
        (staging / ".tuner-staging").write_bytes(Owner(999_999_999, "gone", "").encode())
        (staging / "adapter_model.safetensors").write_bytes(b"half")
    RunFolder.open(path, resume=True).release()
    assert list(tree(path)) == [RUN]


@pytest.mark.parametrize("level", ["python", "kernel"])
def test_a_kill_at_any_call_leaves_a_run_that_can_be_resumed(tmp_path: Path, level: str) -> None:
    """C01, I15: SIGKILL at every call, writes torn in half; the record is whole or not there."""
    *killed, whole = faults.results("tests.crash_record", tmp_path, "torn", level)
    assert whole["code"] == 0
    assert {line["code"] for line in killed} == {-9}
    assert len(killed) == len(whole["calls"])
    for line in [*killed, whole]:
        assert "resume" not in line, line
        assert line.get("status") in (None, "running", "done"), line
        assert line["steps"] in ([1, 2], [2]), line
        assert line["after"] == [METRICS, RUN], line
    assert {line.get("status") for line in killed} == {None, "running", "done"}


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    """C03: after a resume the log goes on as if nothing had happened, a torn line included."""
    path = tmp_path / "run"
    run = RunFolder.open(path, resume=False)
    run.append_metrics({"kind": "before", "loss": 0.1 + 0.2})
    for step in (1, 2, 3):
        run.append_metrics({"step": step, "loss": float("nan"), "b": "ü"})
    run.sync_metrics()
    run.release()
    file = path / METRICS
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert lines[0] == b'{"kind": "before", "loss": 0.30000000000000004}\n'
    assert lines[1] == '{"b": "ü", "loss": "nan", "step": 1}\n'.encode()

    file.write_bytes(whole + b'{"step": 4, "lo')
    run = RunFolder.open(path, resume=True)
    assert run.truncate_metrics(9) == 1
    assert file.read_bytes() == whole
    assert run.truncate_metrics(3) == 0
    assert run.truncate_metrics(1) == 2
    assert file.read_bytes() == b"".join(lines[:2])
    for step in (2, 3):
        run.append_metrics({"b": "ü", "loss": float("nan"), "step": step})
    assert file.read_bytes() == whole
    file.write_bytes(b"\x00\xff\n" + whole)
    assert run.truncate_metrics(3) == 5
    file.unlink()
    assert run.truncate_metrics(3) == 0
    run.release()


def test_metrics_on_a_full_disk_are_exit_7(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """C10: and recording that very failure does not hide it."""

    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    run = RunFolder.open(tmp_path / "run", resume=False)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ResourceError, match="No space left"), run:
        run.append_metrics({"step": 1})
    monkeypatch.undo()
    assert "could not be recorded" in caplog.text
    assert record_of(run.path)["status"] == "running"
    assert list(tree(run.path)) == [METRICS, RUN]


def test_names_and_what_to_resume(tmp_path: Path) -> None:
    base = tmp_path / "legal"
    assert runs.free_name(base) == base
    base.mkdir()
    assert runs.free_name(base) == base
    assert runs.newest_matching(base, "r") is None
    finished(base, recipe_sha256="r")
    assert runs.free_name(base) == tmp_path / "legal-2"
    assert runs.newest_matching(base, "r") is None
    for name, sha in (("legal-2", "r"), ("legal-3", "r"), ("legal-4", "s"), ("legal-x", "r")):
        RunFolder.open(tmp_path / name, resume=False, initial={"recipe_sha256": sha}).release()
    assert runs.newest_matching(base, "r") == tmp_path / "legal-3"
    assert runs.newest_matching(base, "s") == tmp_path / "legal-4"
    assert runs.newest_matching(tmp_path / "other", "r") is None
    assert runs.free_name(base) == tmp_path / "legal-5"
    (tmp_path / "legal-5").symlink_to(tmp_path / "nowhere")
    assert runs.free_name(base) == tmp_path / "legal-6"


def test_runs_are_listed_oldest_first_and_others_left_out(tmp_path: Path) -> None:
    assert runs.list_runs(tmp_path / "absent") == []
    for name in ("b", "a"):
        finished(tmp_path / name)
        record = record_of(tmp_path / name)
        started = {"b": "2020", "a": "2021"}[name]
        (tmp_path / name / RUN).write_text(json.dumps({**record, "started": started}))
    (tmp_path / "notes").mkdir()
    assert [run.path.name for run in runs.list_runs(tmp_path)] == ["b", "a"]
    assert runs.read_run(tmp_path / "a").record["started"] == "2021"
    with pytest.raises(RecipeError, match="holds no run"):
        runs.read_run(tmp_path / "notes")


def test_the_log_holds_what_libraries_and_warnings_say(tmp_path: Path) -> None:
    file = tmp_path / "run.log"
    library = logging.getLogger("transformers")
    before = library.propagate
    try:
        with log_to(file):
            for propagate in (True, False):
                library.propagate = propagate
                library.warning("library %s", propagate)
            logging.getLogger("tuner.something").info("ours")
            warnings.warn("a warning", stacklevel=1)
        logging.getLogger("tuner.something").warning("after the end")
    finally:
        library.propagate = before
    lines = [line for line in file.read_text().splitlines() if line[:2] == "20"]
    assert [line.split(" ", 2)[2] for line in lines[:3]] == [
        "WARNING transformers: library True",
        "WARNING transformers: library False",
        "INFO tuner.something: ours",
    ]
    assert "a warning" in file.read_text()
    assert "after the end" not in file.read_text()


def test_the_light_modules_stay_light() -> None:
    code = (
        "import sys, tuner.record.run_folder, tuner.record.runs, tuner.record.log, "
        "tuner.record.seal, tuner.machine.signals, tuner.record.identity; "
        "print([m for m in ('torch', 'safetensors', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr


def test_an_interrupted_opening_gives_the_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I15, C16: no lock and no temporary file is left."""

    def stop(*args: object) -> None:
        raise Interrupted(signal.SIGTERM, "stopped")

    monkeypatch.setattr("tuner.record.run_folder.write_json", stop)
    with pytest.raises(Interrupted):
        RunFolder.open(tmp_path / "run", resume=False)
    monkeypatch.undo()
    assert tree(tmp_path) == {}
    RunFolder.open(tmp_path / "run", resume=False).release()
