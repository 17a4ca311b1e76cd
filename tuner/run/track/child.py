"""The process that sends a run to one tracker while it trains: `child.py FOLDER TRACKER SECONDS`.

Whatever a tracker's library does, block, fail or end the process, the run does not notice. It ends
by itself some seconds after the run has, with or without everything sent.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
import time
from pathlib import Path

from tuner.errors import first_line
from tuner.record.trackers.send import Sender, alone
from tuner.run.track.sending import sender

log = logging.getLogger("tuner.run.track")

# Seconds between looks at the metrics, and after failures in a row.
PAUSE, LONGEST_PAUSE = 1.0, 60.0
UNSENT = 3
_NICE = 10


class RunEnd:
    """Notices the end of the run: its end of our standard input closes, or its process is gone.

    Args:
        seconds: from then on until this process ends, whatever it is at.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._parent = seconds, os.getppid()
        self.seen = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not select.select([sys.stdin], [], [], PAUSE)[0]:
            if os.getppid() != self._parent:
                break
        self.seen.set()
        time.sleep(self._seconds)
        # The library may be waiting for the network, and would wait on at exit.
        os._exit(UNSENT)


def follow(sends: Sender, over: threading.Event) -> None:
    """Send what is new until the run is over, then the rest; try again after a failure."""
    failures = 0
    while True:
        last = over.is_set()
        try:
            if last:
                sends.close()
                return
            sends.send()
            failures = 0
        except Exception as error:
            log.warning("%s", sends.tracker, exc_info=True)
            failures += 1
            sends.failed(f"{type(error).__name__}: {first_line(error)}")
        if last:
            time.sleep(PAUSE)
        else:
            over.wait(min(LONGEST_PAUSE, PAUSE * 2**failures))


def main(arguments: list[str]) -> None:
    """Follow the run in a folder."""
    folder, tracker, seconds = Path(arguments[0]), arguments[1], float(arguments[2])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.nice(_NICE)
    end = RunEnd(seconds)
    with alone(folder, tracker):
        follow(sender(folder, tracker), end.seen)
    # Libraries register work for the exit; all is sent.
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
