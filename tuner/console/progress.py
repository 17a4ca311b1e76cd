"""Progress of long work: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tuner.console.redact import redact

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LINE_SECONDS = 10.0


class Bar:
    """The progress bar; one at a time. rich is imported with the first."""

    def __init__(self) -> None:
        self._drawn: tuple[Progress, TaskID] | None = None
        self.restart()

    def restart(self) -> None:
        """Count time and share from here on, for new work."""
        self._last_line = (time.monotonic(), 0.0)

    def show(
        self,
        unit: str,
        done: int,
        total: int,
        shown: str,
        write: Callable[[str], None],
        *,
        every_tenth: bool = True,
    ) -> None:
        """Show how far the work is.

        Args:
            unit: step or row.
            done: number that is done.
            total: number in all.
            shown: more text for the line.
            write: writes a line for people every 10 seconds if there is no terminal.
            every_tenth: also write one after each tenth of the work.
        """
        if sys.stderr.isatty():
            self._draw(done, total, shown)
            return
        now, share = time.monotonic(), done / max(total, 1)
        tenth = done == 1 or done >= total or not 0 <= share - self._last_line[1] < 0.1
        if (every_tenth and tenth) or now - self._last_line[0] >= _LINE_SECONDS:
            self._last_line = (now, share)
            write(f"  {unit} {done}/{total}  {shown}".rstrip())

    def stop(self) -> None:
        """Remove the bar."""
        if self._drawn is not None:
            self._drawn[0].stop()
            self._drawn = None

    def _draw(self, done: int, total: int, shown: str) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        if self._drawn is None:
            bar = Progress(
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}", markup=False),
                console=RichConsole(file=sys.stderr),
                transient=True,
            )
            bar.start()
            self._drawn = bar, bar.add_task("", total=total)
        bar, task = self._drawn
        bar.update(task, completed=done, total=total, description=redact(shown))
        if done >= total:
            self.stop()
