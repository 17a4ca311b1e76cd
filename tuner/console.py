"""Everything that is shown: the only module that prints.

People read stdout and see progress on stderr; with `json` stdout carries one object a line and
nothing else. Everything passes through `redact` on its way out. rich is imported when a table or a
bar is drawn, not before.
"""

from __future__ import annotations

import json
import math
import re
import sys
import textwrap
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tuner import __version__
from tuner.redact import redact

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from tuner.errors import TunerError
    from tuner.plan import Plan
    from tuner.recipe_load import LoadedRecipe

_WIDTH = 100
_LINE_SECONDS = 10.0
# Escape sequences in a model's answer or a row's text must not reach the terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Console:
    """Where a command shows what it does.

    Args:
        json: one JSON object a line on stdout, nothing else.
        quiet: only warnings, errors and the closing line.
        verbose: every value of the plan; tracebacks with errors.
    """

    def __init__(self, json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.json = json
        self.quiet = quiet
        self.verbose = verbose
        self._bar: tuple[Progress, TaskID] | None = None
        self._last_line = (-_LINE_SECONDS, 0.0)

    def event(self, name: str, /, **content: Any) -> None:
        """One JSON line; nothing without `json`."""
        if self.json:
            line = json.dumps(_plain({"event": name, **content}), ensure_ascii=False)
            _write(sys.stdout, redact(line))

    def text(self, text: str = "") -> None:
        """A line, or lines, for people."""
        self._stop_bar()
        if not self.json and not self.quiet:
            _write(sys.stdout, redact(text))

    def header(self, loaded: LoadedRecipe) -> None:
        """What is about to happen, with which recipe."""
        self.text(f"tuner {__version__}  {loaded.verb}  {loaded.path} ({loaded.sha256[:12]})")

    def plan(self, plan: Plan) -> None:
        """The plan: facts, each value with its origin, warnings."""
        self.event("plan", plan=plan.as_dict())
        for name, facts in plan.facts.items():
            self.text(_paragraph(name, _facts(name, facts)))
        values = {key: (_value(item.value), item.origin) for key, item in plan.values.items()}
        shown = {key: pair for key, pair in values.items() if self.verbose or pair[1] != "default"}
        self.text()
        self.table(("key", "value", "from"), [(key, *pair) for key, pair in shown.items()])
        rest = [f"{key} {pair[0]}" for key, pair in values.items() if key not in shown]
        if rest:
            self.text(_paragraph("default", rest))
        self.text(f"\nrun folder  {plan.output}")
        for warning in plan.warnings:
            self.warn(warning)

    def phase(self, name: str) -> None:
        """The next step of the run begins."""
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
        if not self.json:
            _write(sys.stderr, redact(f"warning: {text}"))

    def progress(self, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        """How far training is: a bar on a terminal, else a line every 10 % or 10 seconds."""
        self.event("progress", step=step, total=total, metrics=dict(metrics))
        if self.json or self.quiet:
            return
        shown = "  ".join(f"{name} {_value(value)}" for name, value in metrics.items())
        if sys.stderr.isatty():
            self._draw_bar(step, total, shown)
            return
        now, share = time.monotonic(), step / max(total, 1)
        last, last_share = self._last_line
        if step >= total or now - last >= _LINE_SECONDS or share - last_share >= 0.1:
            self._last_line = (now, share)
            self.text(f"  step {step}/{total}  {shown}")

    def scores(self, before: Mapping[str, float], after: Mapping[str, float]) -> None:
        """Scores on held-out rows, before and after."""
        self.event("scores", before=dict(before), after=dict(after))
        rows = [
            (name, _value(before.get(name)), _value(after.get(name)))
            for name in dict.fromkeys((*before, *after))
        ]
        self.table(("held-out rows", "before", "after"), rows)

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
            self.text(_paragraph(name, [_clean(text)]))

    def artefacts(self, artefacts: Iterable[Mapping[str, Any]]) -> None:
        """What was written, each with its size and whether it was re-read and verified."""
        for artefact in artefacts:
            self.event("artefact", **artefact)
            size = _bytes(int(artefact.get("bytes", 0)))
            proof = "verified" if artefact.get("verified") else "not verified"
            self.text(f"  {artefact.get('kind', '')}  {artefact.get('path', '')}  {size}  {proof}")

    def done(self, record: Mapping[str, Any]) -> None:
        """The closing line, shown even when quiet."""
        self.event("done", record=dict(record))
        self._stop_bar()
        seconds = dict(record.get("durations") or {}).get("total")
        took = f" in {_duration(float(seconds))}" if seconds is not None else ""
        folder = dict(record.get("plan") or {}).get("output") or record.get("output", "")
        if not self.json:
            _write(sys.stdout, redact(f"\ndone{took}: {folder}"))

    def error(self, error: TunerError) -> None:
        """What went wrong, where and why, what to do: on stderr, whatever the mode."""
        self.event("error", error=error.as_dict())
        self._stop_bar()
        body = error.problems or ([error.why] if error.why else [])
        lines = [f"error: {error.what}", *(f"  {line}" for line in body)]
        if error.fix:
            lines.append(f"fix: {error.fix}")
        _write(sys.stderr, redact("\n".join(lines)))
        if self.verbose:
            _write(sys.stderr, redact("".join(traceback.format_exception(error)).rstrip()))

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table for people."""
        if self.json or self.quiet:
            return
        self._stop_bar()
        from rich.console import Console as RichConsole
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=any(head), header_style="bold")
        for name in head:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*(Text(redact(_clean(cell))) for cell in row))
        wide = None if sys.stdout.isatty() else _WIDTH
        console = RichConsole(file=sys.stdout, width=wide, highlight=False)
        with console.capture() as drawn:
            console.print(table)
        _write(sys.stdout, "\n".join(line.rstrip() for line in drawn.get().splitlines()))

    def document(self, text: str) -> None:
        """A file's text, exactly as it is; the whole output of a `show` command."""
        sys.stdout.write(redact(text))
        sys.stdout.flush()

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


def _plain(value: Any) -> Any:
    """The value as JSON has it: no NaN, text for what JSON does not know."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def _clean(text: str) -> str:
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _paragraph(name: str, items: Iterable[str]) -> str:
    """`name    items`, wrapped with the text hanging in its column."""
    lines = "  ".join(items).splitlines() or [""]
    first, indent = f"{name:<12}", " " * 12
    wrapped = [textwrap.wrap(line, _WIDTH - 12, break_on_hyphens=False) or [""] for line in lines]
    return first + f"\n{indent}".join(piece for pieces in wrapped for piece in pieces)


def _facts(group: str, facts: Mapping[str, Any]) -> list[str]:
    """The facts that fit on a line; lists and mappings stand in run.json."""
    return [
        f"{key} {_bytes(value) if group == 'memory' else _fact(key, value)};"
        for key, value in facts.items()
        if not isinstance(value, list | tuple | Mapping)
    ]


def _fact(key: str, value: Any) -> str:
    if isinstance(value, float) and key.endswith("share"):
        return f"{100 * value:.3g} %"
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return value[:12]
    return _value(value)


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value) or "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_value(item)}" for key, item in value.items()) or "-"
    return str(value)


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def tolerate_narrow_streams() -> None:
    """A terminal that cannot encode a character gets its escape instead of a crash."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
