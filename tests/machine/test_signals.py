"""SIGTERM and Ctrl-C, sent to real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tuner.errors import Interrupted
from tuner.machine.signals import StopRequest
from tuner.record import manifest

ROOT = Path(__file__).parents[2]

START = """
import os, signal, sys, time
from pathlib import Path
from tuner.errors import Interrupted
from tuner.machine.signals import StopRequest
from tuner.record import seal

def say(word):
    print(word, flush=True)
"""

AT_ONCE = (
    START
    + """
try:
    with StopRequest():
        say("ready")
        time.sleep(60)
        say("not stopped")
except Interrupted as error:
    say(error.what)
    sys.exit(error.exit_code)
"""
)

# A training loop: the signal comes within step 3, again within the seal of its checkpoint.
DEFERRED = (
    START
    + """
folder = Path(sys.argv[1])
try:
    with StopRequest() as stop:
        with stop.deferred():
            for step in range(1, 100):
                say(f"step {step}")
                if step == 3:
                    sys.stdin.readline()
                if stop.requested or step % 2 == 0:
                    with stop.deferred(), seal.seal(folder / f"step-{step}") as staging:
                        (staging / "a").write_text("a")
                        if step == 3:
                            say("sealing")
                            sys.stdin.readline()
                        (staging / "b").write_text("b")
                if stop.requested:
                    stop.check()
            say("not stopped")
except Interrupted as error:
    say(error.what)
    sys.exit(error.exit_code)
"""
)

# The step is the last one: nobody looks at the request before the block ends.
AT_THE_END = (
    START
    + """
try:
    with StopRequest() as stop:
        with stop.deferred():
            say("ready")
            sys.stdin.readline()
            say("finished")
        say("not stopped")
except Interrupted as error:
    sys.exit(error.exit_code)
"""
)

# A worker that is told to end while its parent defers signals.
WORKER = (
    START
    + """
with StopRequest() as stop, stop.deferred():
    child = os.fork()
    if child == 0:
        say("ready")
        # Short ones: a signal just before a sleep is only handled after it.
        for _ in range(600):
            time.sleep(0.1)
        os._exit(0)
    sys.stdin.readline()
    os.kill(child, int(sys.argv[1]))
    say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    say(stop.requested)
"""
)

signals = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def read_until(child: subprocess.Popen[str], word: str) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip() == word:
            return
    pytest.fail(f"never said {word}: {child.communicate()[1]}")


def go_on(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


@signals
def test_a_signal_outside_the_loop_stops_at_once(number: signal.Signals) -> None:
    """C08, C09: model load, tokenisation, evaluation: 143 or 130, in no time."""
    child = start(AT_ONCE)
    read_until(child, "ready")
    sent = time.monotonic()
    child.send_signal(number)
    out, error = child.communicate(timeout=20)
    assert time.monotonic() - sent < 5
    assert out == f"stopped by {number.name}\n"
    assert error == ""
    assert child.returncode == 128 + number


@signals
def test_a_signal_in_the_loop_ends_the_step_and_seals(
    tmp_path: Path, number: signal.Signals
) -> None:
    """C08, C09: and a second one while it seals does not tear the checkpoint."""
    child = start(DEFERRED, tmp_path)
    read_until(child, "step 3")
    child.send_signal(number)
    go_on(child)
    read_until(child, "sealing")
    child.send_signal(number)
    child.send_signal(signal.SIGTERM)
    go_on(child)
    out, error = child.communicate(timeout=20)
    assert out == f"stopped by {number.name}\n"
    assert error == ""
    assert child.returncode == 128 + number
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-2", "step-3"]
    assert sorted(manifest.verify(tmp_path / "step-3")["files"]) == ["a", "b"]


@signals
def test_a_deferred_signal_is_not_lost_at_the_end(number: signal.Signals) -> None:
    """C08: the block itself raises when nobody checked."""
    child = start(AT_THE_END)
    read_until(child, "ready")
    child.send_signal(number)
    go_on(child)
    out, error = child.communicate(timeout=20)
    assert out == "finished\n"
    assert error == ""
    assert child.returncode == 128 + number


@signals
def test_forked_workers_die_of_the_signal(number: signal.Signals) -> None:
    """C09: a data loader ends its workers with SIGTERM and must not wait for them for ever."""
    child = start(WORKER, int(number))
    read_until(child, "ready")
    go_on(child)
    out, error = child.communicate(timeout=20)
    assert out.split() == [str(-number), "None"]
    assert error == ""


def test_old_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    stop = StopRequest()

    def stopped() -> None:
        with stop:
            assert stop.requested is None
            stop.check()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(Interrupted) as caught:
        stopped()
    assert caught.value.exit_code == 143
    assert stop.requested == signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_an_error_of_the_block_is_not_replaced() -> None:
    stop = StopRequest()

    def failing() -> None:
        with stop, stop.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            while stop.requested is None:
                time.sleep(0.01)
            raise ValueError("own")

    with pytest.raises(ValueError, match="own"):
        failing()
    with pytest.raises(Interrupted, match="SIGTERM"):
        stop.check()


def test_outside_the_main_thread_nothing_is_installed() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with StopRequest() as stop, stop.deferred():
            stop.check()
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
