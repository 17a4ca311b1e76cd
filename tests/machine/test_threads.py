"""Threads: how many compute, and that they sleep while others need the processors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuner.machine import hardware, launch, threads, waiting

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
            import threading
            names = [thread.name for thread in threading.enumerate()]
            file.write(f"{torch.get_num_threads()} {'tuner-waiting' in names}\\n")
atexit.register(note)
"""


@pytest.mark.slow
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
    assert {note.split()[1] for note in notes} == {"True"}
    said = json.loads((tmp_path / "run" / "run.json").read_text())["threads"]
    assert {said["count"]} == {int(note.split()[0]) for note in notes}
    assert said["sleep_while_shared"] is True


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({threads.WAIT: "ACTIVE"}, {threads.WAIT: ("ACTIVE", "environment")}),
        ({threads.SPIN: "7"}, {threads.SPIN: ("7", "environment")}),
        ({threads.COUNT: "3"}, {threads.COUNT: ("3", "environment")}),
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
    own = expected.keys() & {threads.WAIT, threads.SPIN}
    assert found["threads"]["sleep_while_shared"] is not bool(own)


@pytest.mark.parametrize(("before", "count"), [({}, 1), ({threads.COUNT: "2"}, 2)], ids=str)
def test_torch_has_as_many_threads_as_the_quota_allows(before: dict[str, str], count: int) -> None:
    """Which torch itself does not ask for."""
    program = (
        "import os; from tuner.machine import threads; threads.quota = lambda: 0.5; "
        "os.sched_getaffinity = lambda _: {0, 1}; threads.choose(); "
        "import torch; print(torch.get_num_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**OPEN, **before},
        capture_output=True,
        text=True,
        check=True,
    )
    # MKL takes no more than there are.
    assert done.stdout.split() == [str(min(count, len(os.sched_getaffinity(0))))]


def test_a_processor_is_counted_once_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    for allowed, count in ((None, 4), (0.2, 1), (1.0, 1), (1.5, 2), (3.0, 3), (64.0, 4)):
        monkeypatch.setattr(threads, "quota", lambda allowed=allowed: allowed)
        assert threads.processors() == hardware.detect().cpu_count == count


def test_ranks_share_the_processors_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the parent has set the number for itself, by a quota."""
    for name in (threads.COUNT, threads.WAIT, threads.SPIN, "TUNER_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(threads, "quota", lambda: 4.0)
    group = launch.Group(2, 1, 0)
    threads.choose()
    assert os.environ[threads.COUNT] == "4"
    assert group.environment(0, 1)[threads.COUNT] == "2"
    threads.leave_count_open()
    assert threads.COUNT not in os.environ
    monkeypatch.setenv(threads.COUNT, "4")
    assert group.environment(0, 1)[threads.COUNT] == "4"


# What it prints: OpenMP threads without neighbours, next to them, and whether the product is the
# same. Torch's own are there from the first product on.
CROWDED = """
import os, subprocess, sys, time
import torch
from tuner.machine import waiting

one, other = torch.randn(300, 300), torch.randn(300, 300)
first = one @ other
before = len(os.listdir("/proc/self/task"))
busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
waiting.begin()
end = time.monotonic() + 60
try:
    while time.monotonic() < end and len(os.listdir("/proc/self/task")) < before + 3:
        again = one @ other
finally:
    for each in busy:
        each.kill()
added = len(os.listdir("/proc/self/task")) - before
print(added, torch.get_num_threads(), torch.equal(first, again))
"""


def test_next_to_busy_processes_threads_outnumber_the_processors() -> None:
    """By as many as make libgomp send those that wait to sleep; what is computed stays the same."""
    done = subprocess.run(
        [sys.executable, "-c", CROWDED], env=OPEN, capture_output=True, text=True, check=True
    )
    added, computing, same = done.stdout.split()
    # The watcher, the holder of the team, and its other members.
    assert int(added) == 2 + len(os.sched_getaffinity(0)) + 1 - int(computing)
    assert same == "True"


def test_the_machine_counts_as_shared_at_once_and_as_free_when_that_lasts() -> None:
    crowd, step = waiting.CpuContention(), waiting.SECONDS
    readings = [(2 * step, 0.0, False), (step, step, True), (2 * step, 0.0, True)]
    # A process that computes nothing says nothing about the others.
    readings += [(0.0, 0.01 * step, True)] * waiting.CALM
    readings += [(2 * step, 0.05 * step, True), (2 * step, 0.2 * step, True)]
    readings += [(2 * step, 0.0, True)] * (waiting.CALM - 1) + [(2 * step, 0.0, False)]
    for number, (computed, in_line, shared) in enumerate(readings):
        crowd.note(computed, in_line)
        assert crowd.shared is shared, number


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
