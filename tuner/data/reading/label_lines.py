"""Text files whose lines begin with their labels, as fastText writes them: `__label__NAME text`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tuner.data.reading.json_rows import BadLine
from tuner.data.reading.lines import decode, lines

MARK = "__label__"
_FEW, _MOST = 2, 0.9
# Lines by which it is seen whether they are labelled.
_EVIDENCE = 1000
_LABELS = re.compile(rf"\s*((?:{MARK}\S+\s+)*{MARK}\S+)(?:\s+|$)")


def labelled(path: Path, encoding: str) -> bool:
    """Return whether nearly every line of a file begins with a label."""
    texts = [decode(raw) for _, raw in islice(lines(path, encoding), _EVIDENCE)]
    said = [text for text in texts if isinstance(text, str) and text.strip()]
    found = sum(bool(_LABELS.match(text)) for text in said)
    return found >= max(_FEW, _MOST * len(said))


def rows(path: Path, encoding: str) -> Iterator[tuple[int, dict[str, Any] | BadLine]]:
    """Yield the label and the text of each line, with the line's number; several labels with commas
    between them."""
    for number, raw in lines(path, encoding):
        text = decode(raw)
        if isinstance(text, BadLine):
            yield number, text
        elif text.strip():
            found = _LABELS.match(text)
            if found is None:
                yield number, BadLine(f"no {MARK}NAME at its beginning")
            else:
                names = [each.removeprefix(MARK) for each in found[1].split()]
                yield number, {"label": ", ".join(names), "text": text[found.end() :].strip()}
