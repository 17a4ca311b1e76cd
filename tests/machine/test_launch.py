"""The process that starts the others: what it does when one of them ends, or is stopped."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from tuner.errors import TunerError
from tuner.machine import launch, ranks

RANK = """#!{python}
import os, signal, sys, time
what = sys.argv[-1].split(",")[int(os.environ["RANK"])]
if what == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if what == "stops":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
if what.isdigit():
    sys.exit(int(what))
open(os.environ["MARK"] + os.environ["RANK"], "w").close()
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("ranks_do", "code", "signalled"),
    [
        ("0,0", None, False),
        ("stops,5", 5, False),
        ("deaf,3", 3, False),
        ("killed,stops", 7, False),
        ("killed,0", 7, False),
        ("stops,stops", 143, True),
    ],
)
def test_the_parent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ranks_do: str, code: int, signalled: bool
) -> None:
    """G04, G09: the exit code is that of the rank that failed, nobody is left behind, and a signal
    to the parent is one to all. The ranks are programs that do nothing but end so."""
    program = tmp_path / "rank"
    program.write_text(RANK.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("MARK", str(tmp_path / "started-"))
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(launch, "_GRACE", 1.0)
    monkeypatch.setattr(launch, "_LAST", 1.0)
    group = launch.Group(2, 1, 0)
    if signalled:
        threading.Thread(target=_signal_when, args=(tmp_path,), daemon=True).start()
    began = time.monotonic()
    if code is None:
        launch.carry_out(group, [ranks_do])
    else:
        with pytest.raises(TunerError) as caught:
            launch.carry_out(group, [ranks_do])
        assert caught.value.exit_code == code
    assert time.monotonic() - began < 30


def _signal_when(folder: Path) -> None:
    """SIGTERM to this process when both ranks are there."""
    while len(list(folder.glob("started-*"))) < 2:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


def test_who_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first processes of each machine, renumbered; a single one is alone."""

    def place_of(rank: int, per_node: int, nodes: int) -> tuple[bool, ranks.Place]:
        given = {"RANK": rank, "WORLD_SIZE": 8, "LOCAL_RANK": rank % 4, "LOCAL_WORLD_SIZE": 4}
        for name, value in given.items():
            monkeypatch.setenv(name, str(value))
        return launch.take_part(per_node, nodes), ranks.place()

    assert place_of(5, 4, 2) == (True, ranks.Place(5, 8, 1, 4))
    assert place_of(5, 2, 2) == (True, ranks.Place(3, 4, 1, 2))
    assert not place_of(6, 2, 2)[0]
    assert not place_of(4, 2, 1)[0]
    assert place_of(0, 1, 1) == (True, ranks.Place())
