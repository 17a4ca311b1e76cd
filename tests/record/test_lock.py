"""The lock of a run folder: one owner, whoever dies, and when many start at once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.record.folders import ROOT, tree
from tuner.errors import (
    RecipeError,
)
from tuner.record import runs
from tuner.record.lock import Owner, try_flock
from tuner.record.run_folder import RunFolder
from tuner.record.run_json import LOCK

HOLD = """
import sys, time
from pathlib import Path
from tuner.record.run_folder import RunFolder
run = RunFolder.open(Path(sys.argv[1]), resume=False)
run.append_metrics({"step": 1})
print("held", flush=True)
time.sleep(60)
"""


def hold(path: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_a_second_start_is_refused_and_a_dead_ones_lock_taken_over(tmp_path: Path) -> None:
    """C16: exit 2 while the first lives; after its SIGKILL, a resume with a note."""
    path = tmp_path / "run"
    child = hold(path)
    try:
        before = tree(path)
        for resume in (False, True):
            with pytest.raises(RecipeError, match="is in use by") as caught:
                RunFolder.open(path, resume=resume)
            assert f"process {child.pid} on {socket.gethostname()}" in str(caught.value)
            assert caught.value.exit_code == 2
        assert tree(path) == before
        assert runs.list_runs(tmp_path)[0].note == ""
    finally:
        child.kill()
        child.wait()
    assert "--resume" in runs.list_runs(tmp_path)[0].note
    with RunFolder.open(path, resume=True) as run:
        assert len(run.notes) == 1
        assert f"took over the lock of process {child.pid}" in run.notes[0]
    assert not (path / LOCK).exists()


RACE = """
import sys, time
from pathlib import Path
from tuner.errors import RecipeError
from tuner.record.run_folder import RunFolder
sys.stdin.read()
try:
    run = RunFolder.open(Path(sys.argv[1]), resume=True)
    print("won", flush=True)
    time.sleep(60)
except RecipeError:
    print("lost", flush=True)
"""


def test_of_many_that_start_at_once_one_wins(tmp_path: Path) -> None:
    """C16: over a stale lock, which all of them see."""
    path = tmp_path / "run"
    child = hold(path)
    child.kill()
    child.wait()
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(5)
    ]
    try:
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.close()
        results = [racer.stdout.readline().strip() for racer in racers if racer.stdout]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    assert sorted(results) == ["lost"] * 4 + ["won"]


@pytest.mark.parametrize(
    "owner",
    [
        Owner(os.getpid(), socket.gethostname(), "another boot:1"),
        Owner(os.getppid(), "another-host", "boot:1"),
        Owner(999_999_999, socket.gethostname(), ""),
    ],
    ids=["id of a living process", "another host", "dead process"],
)
def test_a_stale_lock_is_told_from_a_living_one(tmp_path: Path, owner: Owner) -> None:
    """C16: by the kernel's lock, not by the process id alone: containers share their ids."""
    path = tmp_path / "run"
    path.mkdir()
    (path / LOCK).write_bytes(owner.encode())
    with RunFolder.open(path, resume=False) as run:
        assert run.notes == [f"took over the lock of {owner}, which is no longer running"]


def test_the_kernels_lock_holds_whatever_the_file_says(tmp_path: Path) -> None:
    """C16: the owner may live where its process id means nothing: in another container."""
    path = tmp_path / "run"
    child = hold(path)
    try:
        elsewhere = Owner(1, "another-host", "boot:1")
        (path / LOCK).write_bytes(elsewhere.encode())
        with pytest.raises(RecipeError, match=f"in use by {elsewhere}"):
            RunFolder.open(path, resume=True)
        (path / LOCK).write_bytes(b"")
        with pytest.raises(RecipeError, match="in use by another process"):
            RunFolder.open(path, resume=True)
    finally:
        child.kill()
        child.wait()


def test_a_lock_released_while_it_is_being_taken_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C16: a lock on a removed file would protect nothing."""
    lock = tmp_path / LOCK
    flock = try_flock

    def removed_meanwhile(fd: int) -> bool | None:
        monkeypatch.setattr("tuner.record.lock.try_flock", flock)
        lock.unlink()
        return flock(fd)

    monkeypatch.setattr("tuner.record.lock.try_flock", removed_meanwhile)
    with RunFolder.open(tmp_path, resume=False):
        assert Owner.parse(lock.read_text()) == Owner.this()
        with pytest.raises(RecipeError, match="in use by"):
            RunFolder.open(tmp_path, resume=True)


def test_without_kernel_locks_the_process_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C16: a file system without flock; an owner on another host may live."""
    monkeypatch.setattr("tuner.record.lock.try_flock", lambda fd: None)
    path = tmp_path / "run"
    path.mkdir()
    for owner in (Owner(os.getppid(), socket.gethostname(), ""), Owner(1, "another-host", "")):
        (path / LOCK).write_bytes(owner.encode())
        with pytest.raises(RecipeError, match=f"in use by {owner}"):
            RunFolder.open(path, resume=False)
        assert tree(path) == {LOCK: owner.encode()}
    (path / LOCK).write_bytes(Owner(999_999_999, socket.gethostname(), "").encode())
    RunFolder.open(path, resume=False).release()
