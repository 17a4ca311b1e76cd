"""The lines of a text file as UTF-8, whatever its encoding, and which encoding it seems to have.

Lines end at `\\n`, `\\r\\n` and `\\r` only. UTF-8 is read byte by byte; any other encoding is named
in the recipe, never guessed.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from tuner.data.reading.json_rows import BadLine
from tuner.errors import DataError

UTF8 = "utf-8"
LINE_END = re.compile(rb"\r\n|\r|\n")
_SAMPLE = 1 << 16
_LFS = b"version https://git-lfs.github.com/spec/"
# Characters of another encoding's text that an error shows.
_SHOWN = 30


def lines(path: Path, encoding: str = UTF8) -> Iterator[tuple[int, bytes]]:
    """Yield number and UTF-8 bytes of every line, without its end and without a byte order mark.

    Raises:
        DataError: the file is not in the encoding, which is not UTF-8.
    """
    if _same(encoding, UTF8):
        yield from _utf8_lines(path)
        return
    number = 0
    try:
        with path.open(encoding=encoding, newline="") as file:
            for number, line in enumerate(file, 1):
                text = line.removesuffix("\n").removesuffix("\r")
                yield number, text.removeprefix("\ufeff" if number == 1 else "").encode()
    except UnicodeError as error:
        reason = str(getattr(error, "reason", error))
        raise DataError(
            f"{path} is not encoded in {encoding}",
            f"after line {number}: {reason}",
            "name another encoding, or leave it out for UTF-8",
        ) from None


def _utf8_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    with path.open("rb") as file:
        for chunk in file:
            if number == 0:
                chunk = chunk.removeprefix(codecs.BOM_UTF8)
            chunk = chunk.removesuffix(b"\n").removesuffix(b"\r")
            for line in LINE_END.split(chunk) if b"\r" in chunk else (chunk,):
                number += 1
                yield number, line


def decode(line: bytes) -> str | BadLine:
    """Return a line as text, or why it is none."""
    try:
        return line.decode(UTF8)
    except UnicodeDecodeError as error:
        return BadLine(
            f"not UTF-8 (byte 0x{line[error.start]:02x})", error.start + 1, undecodable=True
        )


def text_of(path: Path, encoding: str) -> str | BadLine:
    """Return the whole text of a file, its lines ended by a newline, or why it is none."""
    return decode(b"\n".join(line for _, line in lines(path, encoding)))


def refuse_pointer(path: Path) -> None:
    """Refuse a file that only says where Git LFS keeps the real one.

    Raises:
        DataError: it is such a pointer.
    """
    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise DataError(
                f"{path} is a pointer of Git LFS, not the file itself",
                "its repository was cloned without the large files",
                f"fetch it: git lfs pull --include {path.name}, in {path.parent}",
            )


def refuse_wide(path: Path, line: Callable[[str], str]) -> None:
    """Refuse UTF-16 and UTF-32 in a file that should be UTF-8.

    Args:
        path: the file.
        line: returns the line of a recipe that names its encoding.

    Raises:
        DataError: it has their mark, or zeros where text in them has some.
    """
    with path.open("rb") as file:
        start = file.read(4)
    name = _wide(start)
    if name:
        raise DataError(
            f"{path} is encoded in {name.upper()}",
            "UTF-8 is read unless the recipe names another encoding",
            f"name it: {line(name)}; or save the file as UTF-8",
        )


def _wide(start: bytes) -> str:
    """Return which encoding of two or four bytes per character a file begins in, if one."""
    if start.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "utf-32"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if len(start) >= 2 and (start[0] == 0) != (start[1] == 0):
        return "utf-16-le" if start[1] == 0 else "utf-16-be"
    return ""


def seen(path: Path) -> tuple[str, str]:
    """Return the encoding that a file which is not UTF-8 seems to have, and some text read by it.

    In Chinese text nearly every byte above 127 is next to another one; in Western text few are.
    """
    with path.open("rb") as file:
        sample = file.read(_SAMPLE)
    high = [byte > 0x7F for byte in sample]
    paired = sum(
        here and (high[place - 1 : place] == [True] or high[place + 1 : place + 2] == [True])
        for place, here in enumerate(high)
    )
    names = ("gb18030", "cp1252") if paired > 0.8 * sum(high) else ("cp1252", "latin-1")
    for name in names:
        try:
            text = codecs.getincrementaldecoder(name)().decode(sample)
        except UnicodeDecodeError:
            continue
        first = next((at for at, letter in enumerate(text) if ord(letter) > 0x7F), 0)
        start = max(0, first - _SHOWN // 2)
        shown = " ".join(text[start : start + _SHOWN].split())
        return name, shown
    raise AssertionError("every text is Latin-1")


def _same(one: str, other: str) -> bool:
    return codecs.lookup(one).name.removesuffix("-sig") == codecs.lookup(other).name
