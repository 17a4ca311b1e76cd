"""The only module that prints.

People read stdout and see progress on stderr; with `json` stdout has one object per line and
nothing else. All output passes through `redact`. rich is imported when the first table or bar is
drawn, not before.
"""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tuner.console import entry, formatting, rows
from tuner.console.progress import Bar
from tuner.console.redact import redact

if TYPE_CHECKING:
    from tuner.errors import TunerError

# A word that may go on: access tokens are made of such characters.
_OPEN_WORD = re.compile(r"[!-~]*\Z")
# The rest is in metrics.jsonl.
_SHOWN_METRICS = (
    *("loss", "grad_norm", "learning_rate"),
    *("reward", "kl", "length", "ended", "explained_variance", "seconds"),
)


class Console:
    """The output of a command.

    Args:
        json: one JSON object per line on stdout, nothing else.
        quiet: only warnings, errors and the closing line.
        verbose: every value of the plan; tracebacks with errors.
        muted: only errors: another process of the run shows the rest.
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
        # Kept, so that a run can redirect what libraries print.
        self._out = sys.stdout
        self._bar = Bar()
        self._held = ""
        # The phase of the run, in words.
        self.doing = "starting"

    def options(self) -> list[str]:
        """Return the options with which another process shows things the same way."""
        flags = {"--json": self.json, "--quiet": self.quiet, "--verbose": self.verbose}
        return [name for name, given in flags.items() if given]

    @property
    def interactive(self) -> bool:
        """Whether the input is a terminal."""
        return sys.stdin.isatty() and not self.json

    def ask(self, prompt: str) -> str | None:
        """Return the next line of the input, after a prompt on a terminal; None at its end.

        Raises:
            DataError: the line is not UTF-8.
        """
        return entry.line(prompt, self.interactive)

    @property
    def piped(self) -> bool:
        """Whether the input is a file or a pipe."""
        return not sys.stdin.isatty()

    def read(self) -> str:
        """Return all that is left of the input.

        Raises:
            DataError: it is not UTF-8.
        """
        return entry.rest()

    def stream(self, piece: str) -> None:
        """Show a piece of a text; `finish_stream` ends the text. Nothing with `json`."""
        if self.json:
            return
        self._bar.stop()
        text = self._held + piece
        # A secret is not recognised in pieces: a word is shown once it is complete.
        whole = _OPEN_WORD.sub("", text)
        self._held = text[len(whole) :]
        self._out.write(redact(formatting.clean(whole)))
        self._out.flush()

    def finish_stream(self) -> None:
        """End a text that was shown in pieces."""
        if not self.json:
            rest, self._held = self._held, ""
            _write(self._out, redact(formatting.clean(rest)))

    def event(self, name: str, /, **content: Any) -> None:
        """Write a JSON line; nothing without `json`."""
        if self.json and not self.muted:
            line = json.dumps(formatting.plain({"event": name, **content}), ensure_ascii=False)
            _write(self._out, redact(line))

    def text(self, text: str = "") -> None:
        """Show a line, or lines, for people."""
        self._bar.stop()
        if not self._silent:
            _write(self._out, redact(text))

    def phase(self, name: str) -> None:
        """Show that the next phase of the run begins."""
        self.doing = name
        self._bar.restart()
        self.event("phase", name=name)
        self.text(f"\n{name}")

    def note(self, text: str) -> None:
        """Show something worth knowing."""
        self.event("note", text=text)
        self.text(f"  {text}")

    def warn(self, text: str) -> None:
        """Warn that something may be wrong, on stderr and even when quiet."""
        self.event("warning", text=text)
        self._bar.stop()
        if not self.json and not self.muted:
            _write(sys.stderr, redact(f"warning: {text}"))

    def evaluation(self, step: int, scores: Mapping[str, float], text: str) -> None:
        """Show the scores of held-out rows while training."""
        self.event("evaluation", step=step, scores=dict(scores))
        self.text(f"  {text}")

    def progress(self, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        """Show training progress: a bar on a terminal, else a line every 10 % or 10 seconds."""
        self.event("progress", step=step, total=total, metrics=dict(metrics))
        self._progress(step, total, metrics)

    def _progress(self, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        shown = "  ".join(
            f"{name} {formatting.value(metrics[name])}"
            for name in _SHOWN_METRICS
            if name in metrics
        )
        if not self._silent:
            self._bar.show("step", step, total, shown, self._line)

    @property
    def _silent(self) -> bool:
        """Whether people see only warnings, errors and the last line."""
        return self.json or self.quiet or self.muted

    def _line(self, text: str) -> None:
        _write(self._out, redact(text))

    def tick(self, done: int, total: int) -> None:
        """Show scoring progress in rows: a bar on a terminal, else a line every 10 seconds."""
        if not self._silent:
            self._bar.show("row", done, total, "", self._line, every_tenth=False)

    def scores(
        self,
        before: Mapping[str, float],
        after: Mapping[str, float],
        **others: Mapping[str, float] | None,
    ) -> None:
        """Show scores on held-out rows, before and after; and others, where there are some: of
        unquantized weights with the same adapter, of the last step."""
        more = {name: scores for name, scores in others.items() if scores is not None}
        columns = {"before": before, "after": after, **more}
        self.event("scores", **{when: dict(scores) for when, scores in columns.items()})
        if not before and not after:
            self.text("no row is held out, so there are no scores")
            return
        rows = [
            (name, *(formatting.value(scores.get(name)) for scores in columns.values()))
            for name in dict.fromkeys((*before, *after))
        ]
        self.table(("held-out rows", *columns), rows)

    def sample(self, prompt: str, reference: str, before: str, after: str) -> None:
        """Show a held-out prompt with the expected answer and the model's, before and after."""
        self.event("sample", prompt=prompt, reference=reference, before=before, after=after)
        self.text()
        for name, text in (
            ("prompt", prompt),
            ("expected", reference),
            ("before", before),
            ("after", after),
        ):
            self.text(formatting.paragraph(name, [formatting.clean(text)]))

    def row(self, name: str, parts: Sequence[Mapping[str, Any]], **facts: Any) -> None:
        """Show a row in parts (see `rows.pieces`), on a terminal in colours; facts only as JSON."""
        self.event("row", name=name, **facts, parts=[dict(part) for part in parts])
        pieces = rows.pieces(parts)
        text = "".join(piece for piece, _ in pieces)
        if not self._silent and self._out.isatty() and redact(text) == text:
            from rich.console import Console as RichConsole
            from rich.text import Text

            self.text(name)
            RichConsole(file=self._out, highlight=False).print(Text.assemble(*pieces))
        else:
            self.text(f"{name}\n{text}")

    def relay(self, run: str, event: Mapping[str, Any]) -> None:
        """Show an event of a run in another process."""
        self.event("run", run=run, content=event)
        if event.get("event") == "progress":
            # Its JSON is out already.
            self._progress(event["step"], event["total"], event["metrics"])
        elif event.get("event") == "warning" and not self.json:
            self.warn(f"{run}: {event['text']}")

    def done(self, record: Mapping[str, Any]) -> None:
        """Show the closing line, even when quiet."""
        self.event("done", record=dict(record))
        seconds = (record.get("durations") or {}).get("total")
        took = f" in {formatting.duration(seconds)}" if seconds is not None else ""
        cost = record.get("cost")
        price = "" if cost is None else f" for {formatting.money(cost)}"
        self.closing(f"done{took}{price}: {record.get('output', '')}")

    def closing(self, text: str) -> None:
        """Show the last line of a command, for people, even when quiet."""
        self._bar.stop()
        if not self.json and not self.muted:
            _write(self._out, redact(f"\n{text}"))

    def error(self, error: TunerError) -> None:
        """Show what went wrong, where and why, and what to do, on stderr in every mode."""
        from tuner.errors import Interrupted

        self.muted = False
        self.event("error", error=error.as_dict())
        self._bar.stop()
        body = error.problems or ([error.why] if error.why else [])
        # Stopping on a signal is not an error.
        head = error.what if isinstance(error, Interrupted) else f"error: {error.what}"
        lines = [head, *(f"  {line}" for line in body)]
        if error.fix:
            lines.append(f"fix: {error.fix}")
        _write(sys.stderr, redact("\n".join(lines)))
        if self.verbose:
            _write(sys.stderr, redact("".join(traceback.format_exception(error)).rstrip()))

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Show a table for people."""
        if self._silent:
            return
        self._bar.stop()
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
        """Write a file's text unchanged; the whole output of a `show` command."""
        self._out.write(redact(text))
        self._out.flush()


def _write(stream: Any, text: str) -> None:
    stream.write(text + "\n")
    stream.flush()
