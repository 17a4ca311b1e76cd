"""A row of training data for people: who speaks, what is learned and at which weight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from tuner.console import formatting

LEGEND = (
    "⟦ ⟧ is trained on, ⟦0.5: ⟧ at that weight; ‹reasoning: ›, ‹tools: ›, ‹call: ›; ‹special: › is "
    "a special token that the row's text spells out, and the tokens that it becomes"
)
_COLOURS = {"system": "magenta", "user": "cyan", "assistant": "green", "tool": "yellow"}
_NAMED = ("reasoning", "tools", "call", "special")
_WIDTH = 10

# Text and its style.
Piece = tuple[str, str]


def pieces(parts: Iterable[Mapping[str, Any]]) -> list[Piece]:
    """Return a row as styled text, readable without the styles: a block per speaker.

    Args:
        parts: with `role`, `kind`, `text`, `learned`, `weight` and `pieces`.
    """
    shown: list[Piece] = []
    for role, of_role in groupby(parts, key=lambda part: str(part["role"])):
        colour = _COLOURS.get(role, "")
        margin = f"{role:<{_WIDTH}}│ " if role else ""
        block: list[Piece] = []
        for (learned, weight), alike in groupby(
            of_role, key=lambda part: (part["learned"], part["weight"])
        ):
            style = f"bold {colour}" if learned else colour
            block += [(_opened(weight), "bold")] if learned else []
            for part in alike:
                block += _named(part, style)
            block += [("⟧", "bold")] if learned else []
        shown += _indented(block, margin, " " * _WIDTH + "│ " if role else "")
    return shown


def _opened(weight: float) -> str:
    return "⟦" if weight == 1 else f"⟦{weight:g}: "


def _named(part: Mapping[str, Any], style: str) -> list[Piece]:
    text, kind = formatting.clean(part["text"]), part["kind"]
    if kind == "template":
        style = f"dim {style}"
    if kind not in _NAMED:
        return [(text, style)]
    style = {"reasoning": f"italic {style}", "special": "bold red"}.get(kind, style)
    tokens = [formatting.clean(piece) for piece in part.get("pieces") or ()]
    split = f" = {formatting.counted(len(tokens), 'token')}: {' '.join(tokens)}" if tokens else ""
    return [(f"‹{kind}: ", "dim"), (text, style), (f"{split}›", "dim")]


def _indented(block: Iterable[Piece], first: str, further: str) -> list[Piece]:
    """A block with a margin before each of its lines."""
    shown: list[Piece] = [(first, "bold")]
    for text, style in block:
        head, *rest = text.split("\n")
        shown.append((head, style))
        for line in rest:
            shown += [(f"\n{further}", "bold"), (line, style)]
    return [*shown, ("\n", "")]
