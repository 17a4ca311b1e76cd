"""Everything that is shown: the only module that prints.

People read stdout and see progress on stderr; with `json` stdout carries one object a line and
nothing else. Everything passes through `redact` on its way out. rich is imported when a table or a
bar is drawn, not before.
"""

from __future__ import annotations

import json
import re
import sys
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tuner.console import formatting
from tuner.console.redact import redact

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from tuner.errors import TunerError

_LINE_SECONDS = 10.0
# A word that may go on: access tokens are made of such characters.
_OPEN_WORD = re.compile(r"[!-~]*\Z")
# The rest stands in metrics.jsonl.
_SHOWN_METRICS = (
    *("loss", "grad_norm", "learning_rate"),
    *("reward", "kl", "length", "ended", "explained_variance", "seconds"),
)


class Console:
    """Where a command shows what it does.

    Args:
        json: one JSON object a line on stdout, nothing else.
        quiet: only warnings, errors and the closing line.
        verbose: every value of the plan; tracebacks with errors.
        muted: nothing but errors: another process of the run shows the rest.
    """

    def __init__(
        self,
        json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        muted: bool = False,
    ) -> None:
        self.json = json
        self.quiet = quiet
        self.verbose = verbose
        self.muted = muted
        # Kept, so that a run can send what libraries print elsewhere.
        self._out = sys.stdout
        self._bar: tuple[Progress, TaskID] | None = None
        self._last_line = (time.monotonic(), 0.0)
        self._held = ""

    def options(self) -> list[str]:
        """The options by which another process shows things the same way."""
        flags = {"--json": self.json, "--quiet": self.quiet, "--verbose": self.verbose}
        return [name for name, given in flags.items() if given]

    @property
    def interactive(self) -> bool:
        """Whether somebody types at a terminal."""
        return sys.stdin.isatty() and not self.json

    def ask(self, prompt: str) -> str | None:
        """The next line of the input, after a prompt on a terminal; None at its end.

        Raises:
            DataError: the line is not UTF-8.
        """
        from tuner.errors import DataError

        try:
            if self.interactive:
                import readline  # noqa: F401  # gives `input` a history and editing

                line = input(prompt)
            elif not (line := sys.stdin.readline()):
                return None
            # Where the locale names no encoding, Python lets broken bytes through as surrogates.
            line.encode()
        except EOFError:
            return None
        except UnicodeError as error:
            raise DataError(
                "the input cannot be read", f"it is not UTF-8: {error}", "send it as UTF-8"
            ) from None
        return line.rstrip("\r\n")

    def stream(self, piece: str) -> None:
        """A piece of a text that is being written; `finish_stream` ends it. Nothing with `json`."""
        if self.json:
            return
        self._stop_bar()
        text = self._held + piece
        # A token could be told in none of the pieces it comes in: a word is shown when it is whole.
        whole = _OPEN_WORD.sub("", text)
        self._held = text[len(whole) :]
        self._out.write(redact(formatting.clean(whole)))
        self._out.flush()

    def finish_stream(self) -> None:
        """The end of a text that was written in pieces."""
        if not self.json:
            rest, self._held = self._held, ""
            _write(self._out, redact(formatting.clean(rest)))

    def event(self, name: str, /, **content: Any) -> None:
        """One JSON line; nothing without `json`."""
        if self.json and not self.muted:
            line = json.dumps(formatting.plain({"event": name, **content}), ensure_ascii=False)
            _write(self._out, redact(line))

    def text(self, text: str = "") -> None:
        """A line, or lines, for people."""
        self._stop_bar()
        if not (self.json or self.quiet or self.muted):
            _write(self._out, redact(text))

    def phase(self, name: str) -> None:
        """The next step of the run begins."""
        self._last_line = (time.monotonic(), 0.0)
        self.event("phase", name=name)
        self.text(f"\n{name}")

    def note(self, text: str) -> None:
        """Something worth knowing."""
        self.event("note", text=text)
        self.text(f"  {text}")

    def warn(self, text: str) -> None:
        """Something that may be wrong; shown on stderr even when quiet."""
        self.event("warning", text=text)
        self._stop_bar()
        if not self.json and not self.muted:
            _write(sys.stderr, redact(f"warning: {text}"))

    def progress(self, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        """How far training is: a bar on a terminal, else a line every 10 % or 10 seconds."""
        self.event("progress", step=step, total=total, metrics=dict(metrics))
        self._progress(step, total, metrics)

    def _progress(self, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        shown = "  ".join(
            f"{name} {formatting.value(metrics[name])}"
            for name in _SHOWN_METRICS
            if name in metrics
        )
        last, share = self._last_line[1], step / max(total, 1)
        due = step == 1 or step >= total or not 0 <= share - last < 0.1
        self._advance("step", step, total, shown, due)

    def tick(self, done: int, total: int) -> None:
        """How far scoring is, in rows: a bar on a terminal, else a line every 10 seconds."""
        self._advance("row", done, total, "", due=False)

    def scores(
        self,
        before: Mapping[str, float],
        after: Mapping[str, float],
        unquantized: Mapping[str, float] | None = None,
    ) -> None:
        """Scores on held-out rows, before and after; where both are of quantized weights, also
        those of the same adapter on weights that are not."""
        columns = {"before": before, "after": after}
        if unquantized is not None:
            columns["unquantized"] = unquantized
        self.event("scores", **{when: dict(scores) for when, scores in columns.items()})
        rows = [
            (name, *(formatting.value(scores.get(name)) for scores in columns.values()))
            for name in dict.fromkeys((*before, *after))
        ]
        self.table(("held-out rows", *columns), rows)

    def sample(self, prompt: str, reference: str, before: str, after: str) -> None:
        """One held-out prompt with the expected answer and the model's, before and after."""
        self.event("sample", prompt=prompt, reference=reference, before=before, after=after)
        self.text()
        for name, text in (
            ("prompt", prompt),
            ("expected", reference),
            ("before", before),
            ("after", after),
        ):
            self.text(formatting.paragraph(name, [formatting.clean(text)]))

    def row(self, name: str, spans: Iterable[tuple[str, bool]]) -> None:
        """A rendered row; what is supervised stands in marks."""
        spans = list(spans)
        self.event("row", name=name, spans=[{"text": t, "supervised": s} for t, s in spans])
        marked = "".join(f"⟦{text}⟧" if learned else text for text, learned in spans)
        self.text(f"{name}\n{formatting.clean(marked)}\n")

    def relay(self, run: str, event: Mapping[str, Any]) -> None:
        """An event of a run that another process carries out."""
        self.event("run", run=run, content=event)
        if event.get("event") == "progress":
            # Its JSON is out already.
            self._progress(event["step"], event["total"], event["metrics"])
        elif event.get("event") == "warning" and not self.json:
            self.warn(f"{run}: {event['text']}")

    def comparison(
        self,
        record: Mapping[str, Any],
        head: Sequence[str],
        rows: Iterable[Sequence[str]],
        notes: Iterable[str],
    ) -> None:
        """What came of several runs: a row each, and what the table does not say."""
        self.event("comparison", comparison=dict(record))
        self.text()
        self.table(head, rows)
        for note in notes:
            self.text(note)

    def done(self, record: Mapping[str, Any]) -> None:
        """The closing line, shown even when quiet."""
        self.event("done", record=dict(record))
        seconds = (record.get("durations") or {}).get("total")
        took = f" in {formatting.duration(seconds)}" if seconds is not None else ""
        cost = record.get("cost")
        price = "" if cost is None else f" for {formatting.money(cost)}"
        self.closing(f"done{took}{price}: {record.get('output', '')}")

    def closing(self, text: str) -> None:
        """The last line of a command, for people; shown even when quiet."""
        self._stop_bar()
        if not self.json and not self.muted:
            _write(self._out, redact(f"\n{text}"))

    def error(self, error: TunerError) -> None:
        """What went wrong, where and why, what to do: on stderr, whatever the mode."""
        from tuner.errors import Interrupted

        self.muted = False
        self.event("error", error=error.as_dict())
        self._stop_bar()
        body = error.problems or ([error.why] if error.why else [])
        # A signal that was obeyed is no error.
        head = error.what if isinstance(error, Interrupted) else f"error: {error.what}"
        lines = [head, *(f"  {line}" for line in body)]
        if error.fix:
            lines.append(f"fix: {error.fix}")
        _write(sys.stderr, redact("\n".join(lines)))
        if self.verbose:
            _write(sys.stderr, redact("".join(traceback.format_exception(error)).rstrip()))

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table for people."""
        if self.json or self.quiet or self.muted:
            return
        self._stop_bar()
        from rich.console import Console as RichConsole
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=any(head), header_style="bold")
        for name in head:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*(Text(redact(formatting.clean(cell))) for cell in row))
        wide = None if self._out.isatty() else formatting.WIDTH
        console = RichConsole(file=self._out, width=wide, highlight=False)
        with console.capture() as drawn:
            console.print(table)
        _write(self._out, "\n".join(line.rstrip() for line in drawn.get().splitlines()))

    def document(self, text: str) -> None:
        """A file's text, exactly as it is; the whole output of a `show` command."""
        self._out.write(redact(text))
        self._out.flush()

    def _advance(self, unit: str, done: int, total: int, shown: str, due: bool) -> None:
        if self.json or self.quiet or self.muted:
            return
        if sys.stderr.isatty():
            self._draw_bar(done, total, shown)
            return
        now = time.monotonic()
        if due or now - self._last_line[0] >= _LINE_SECONDS:
            self._last_line = (now, done / max(total, 1))
            self.text(f"  {unit} {done}/{total}  {shown}".rstrip())

    def _draw_bar(self, step: int, total: int, shown: str) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        if self._bar is None:
            bar = Progress(
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}", markup=False),
                console=RichConsole(file=sys.stderr),
                transient=True,
            )
            bar.start()
            self._bar = bar, bar.add_task("", total=total)
        bar, task = self._bar
        bar.update(task, completed=step, total=total, description=redact(shown))
        if step >= total:
            self._stop_bar()

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None


def _write(stream: Any, text: str) -> None:
    stream.write(text + "\n")
    stream.flush()
