"""Format values for people and for JSON."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

WIDTH = 100
_INDENT = 12
# Escape sequences in a model's answer or a row's text must not reach the terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(value: Any, odd: Callable[[float], str | None] = lambda number: None) -> Any:
    """Return the value for JSON: text for types that JSON does not have.

    Args:
        value: of any type.
        odd: what stands for a number that is not finite; JSON has none.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item, odd) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item, odd) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else odd(float(value))
    return value if value is None or isinstance(value, str | int) else str(value)


def clean(text: str) -> str:
    """Return the text without control characters."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def paragraph(name: str, items: Iterable[str]) -> str:
    """Return `name    items`, wrapped, with the text indented to its column."""
    lines = "  ".join(items).splitlines() or [""]
    pieces = [
        piece
        for line in lines
        for piece in textwrap.wrap(line, WIDTH - _INDENT, break_on_hyphens=False) or [""]
    ]
    return f"{name:<{_INDENT - 1}} " + f"\n{' ' * _INDENT}".join(pieces)


def facts(group: str, values: Mapping[str, Any], every: bool) -> list[str]:
    """Return the facts that fit on a line.

    Args:
        group: the name of the facts.
        values: by name.
        every: also those that few people need: counts of zero, digests, where a base lies.
    """
    colon = ":" if group == "gpus" else ""
    return [
        f"{key}{colon} {size(item) if group in ('memory', 'disk') else _fact(key, item)};"
        for key, item in values.items()
        if not isinstance(item, list | tuple | Mapping) and (every or _matters(key, item))
    ]


def _matters(key: str, item: Any) -> bool:
    if key == "bad_rows":
        return True
    return item not in (0, "", None) and not _is_digest(item) and key not in ("folder", "kind")


def _is_digest(item: Any) -> bool:
    return isinstance(item, str) and re.fullmatch(r"[0-9a-f]{64}", item) is not None


def _fact(key: str, item: Any) -> str:
    if isinstance(item, float) and key.endswith("share"):
        return f"{100 * item:.3g} %"
    return item[:12] if _is_digest(item) else value(item)


def value(item: Any) -> str:
    """Format a value of a recipe, a fact or a score."""
    if item is None:
        return "-"
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, int):
        return f"{item:,}"
    if isinstance(item, float):
        return f"{item:.4g}"
    if isinstance(item, list | tuple):
        return ", ".join(value(part) for part in item) or "-"
    if isinstance(item, Mapping):
        return ", ".join(f"{key}: {value(part)}" for key, part in item.items()) or "-"
    return str(item)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 row`, `1,024 rows`."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def size(count: float) -> str:
    """Format a number of bytes."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def about(seconds: float) -> str:
    """Format an estimated time in seconds, in few digits."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def money(amount: float) -> str:
    """Format an amount in the user's currency: with cents, or with two digits if it is less."""
    return f"{amount:,.2f}" if amount >= 0.995 else f"{amount:.2g}"


def duration(seconds: float) -> str:
    """Format a time in seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
