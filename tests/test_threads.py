"""Threads: how many and how they wait is chosen before torch is loaded, in every process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuner import launch, machine, threads

OPEN = {
    name: value
    for name, value in os.environ.items()
    if name not in (threads.WAIT, threads.SPIN, threads.COUNT, "TUNER_THREADS")
}
# Python runs it at the start of every process: at the end it says how torch's threads were set.
NOTE = """
import atexit, os, sys
def note():
    torch = sys.modules.get("torch")
    if torch:
        with open(os.environ["NOTES"], "a") as file:
            file.write(f"{torch.get_num_threads()} {os.environ.get('GOMP_SPINCOUNT')}\\n")
atexit.register(note)
"""


def test_every_process_of_a_run_waits_as_chosen(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """The one that trains and the one that verifies its export; and run.json says so."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NOTE)
    environment = {
        **OPEN,
        "PYTHONPATH": str(tmp_path / "site"),
        "NOTES": str(tmp_path / "notes"),
    }
    recipe = make_recipe(
        train={"max_steps": 1}, eval={"enabled": False}, export={"formats": ["adapter"]}
    )
    command = [sys.executable, "-m", "tuner", "lora", "--recipe", str(recipe), "--json"]
    command += ["--output", str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    notes = (tmp_path / "notes").read_text().splitlines()
    assert len(notes) == 2
    assert {note.split()[1] for note in notes} == {str(threads.SPINS)}
    said = json.loads((tmp_path / "run" / "run.json").read_text())["threads"]
    assert {said["count"]} == {int(note.split()[0]) for note in notes}
    assert said["variables"][threads.SPIN] == {"value": str(threads.SPINS), "set_by": "tuner"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {threads.SPIN: (str(threads.SPINS), "tuner")}),
        ({threads.WAIT: "ACTIVE"}, {threads.WAIT: ("ACTIVE", "environment")}),
        ({threads.SPIN: "7"}, {threads.SPIN: ("7", "environment")}),
        (
            {threads.COUNT: "3"},
            {threads.COUNT: ("3", "environment"), threads.SPIN: (str(threads.SPINS), "tuner")},
        ),
    ],
    ids=str,
)
def test_the_users_own_setting_wins_and_doctor_says_whose_it_is(
    given: dict[str, str], expected: dict[str, tuple[str, str]]
) -> None:
    command = [sys.executable, "-m", "tuner", "doctor", "--json"]
    done = subprocess.run(command, env=OPEN | given, capture_output=True, text=True, check=True)
    (found,) = [json.loads(line) for line in done.stdout.splitlines()]
    variables: dict[str, Any] = found["threads"]["variables"]
    assert {name: (each["value"], each["set_by"]) for name, each in variables.items()} == expected


@pytest.mark.parametrize(("before", "count"), [({}, 1), ({threads.COUNT: "2"}, 2)], ids=str)
def test_torch_has_as_many_threads_as_the_quota_allows(before: dict[str, str], count: int) -> None:
    """Which torch itself does not ask for; and libgomp reads the spins that were chosen."""
    program = (
        "import os; from tuner import threads; threads.quota = lambda: 0.5; "
        "os.sched_getaffinity = lambda _: {0, 1}; threads.choose(); "
        "import torch; print(torch.get_num_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**OPEN, **before, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    # MKL takes no more than there are.
    assert done.stdout.split() == [str(min(count, len(os.sched_getaffinity(0))))]
    assert f"GOMP_SPINCOUNT = '{threads.SPINS}'" in done.stderr


def test_a_processor_is_counted_once_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    for allowed, count in ((None, 4), (0.2, 1), (1.0, 1), (1.5, 2), (3.0, 3), (64.0, 4)):
        monkeypatch.setattr(threads, "quota", lambda allowed=allowed: allowed)
        assert threads.processors() == machine.detect().cpu_count == count


def test_ranks_share_the_processors_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the parent has set the number for itself, by a quota."""
    for name in (threads.COUNT, threads.WAIT, threads.SPIN, "TUNER_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(threads, "quota", lambda: 4.0)
    group = launch.Group(2, 1, 0, cpu=True)
    threads.choose()
    assert os.environ[threads.COUNT] == "4"
    assert group.environment(0, 1)[threads.COUNT] == "2"
    threads.leave_count_open()
    assert threads.COUNT not in os.environ
    assert threads.SPIN in os.environ
    monkeypatch.setenv(threads.COUNT, "4")
    assert group.environment(0, 1)[threads.COUNT] == "4"


@pytest.mark.parametrize(
    ("places", "files", "allowed"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        # The smallest of all levels; a place of the host's, which is not mounted here.
        ("0::/a/b\n", {"a/cpu.max": "50000 100000\n", "a/b/cpu.max": "max 100000\n"}, 0.5),
        ("0::/host/pod\n", {"cpu.max": "200000 100000\n"}, 2.0),
        (
            "4:memory:/m\n3:cpu,cpuacct:/c\n0::/\n",
            {"cpu,cpuacct/c/cpu.cfs_quota_us": "25000", "cpu,cpuacct/c/cpu.cfs_period_us": "50000"},
            0.5,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("1:memory:/\n", {"cpu.max": "100000 100000\n"}, None),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "nonsense"}, None),
    ],
    ids=range(8),
)
def test_the_quota_is_the_least_that_a_cgroup_allows(
    tmp_path: Path, places: str, files: dict[str, str], allowed: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "own").write_text(places)
    assert threads.quota(tmp_path, tmp_path / "own") == allowed
    assert threads.quota(tmp_path, tmp_path / "missing") is None
