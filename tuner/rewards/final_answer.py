"""The final answer in a text, as GSM8K (`#### 42`) and MATH (`\\boxed{42}`) mark it.

Cobbe et al. 2021, Training Verifiers to Solve Math Word Problems; Hendrycks et al. 2021, Measuring
Mathematical Problem Solving With the MATH Dataset.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

_MARK = "####"
_BOX = "\\boxed{"
_BOXED_FRACTION = re.compile(r"\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}")
_FULL_WIDTH = str.maketrans("０１２３４５６７８９．，－−￥", "0123456789.,--¥")
# A minus after a digit, a letter or a bracket subtracts; a comma separates groups of three digits.
_NUMBER = re.compile(
    r"(?P<sign>(?<![0-9A-Za-z_)\]}])[-+])?[$€£¥]?"
    r"(?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+(?!,?[0-9])|[0-9]+)(?:\.[0-9]+)?"
    r"|(?<![0-9A-Za-z_.])\.[0-9]+)"
    r"(?:/(?P<divisor>[0-9]+))?"
)
# Python refuses to parse numbers with thousands of digits, and no answer needs one.
_MOST_CHARACTERS = 200


def marked(text: str) -> str | None:
    """Return the line after the last `####`, else what the last `\\boxed{}` holds, else None."""
    if _MARK in text:
        return text.rpartition(_MARK)[2].strip().partition("\n")[0].strip()
    if _BOX not in text:
        return None
    inside, depth = text.rpartition(_BOX)[2], 1
    for place, character in enumerate(inside):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return inside[:place].strip()
    return inside.strip()


def final_number(text: str) -> Fraction | None:
    """Return the first number of the marked answer, else the last number of the text, else None."""
    answer = marked(text)
    numbers = _numbers(text if answer is None else answer)
    if not numbers:
        return None
    return numbers[-1] if answer is None else numbers[0]


def final_text(text: str) -> str:
    """Return the marked answer, else the whole text: no capitals, single spaces, no full stop."""
    answer = marked(text)
    plain = unicodedata.normalize("NFC", text if answer is None else answer).casefold()
    return " ".join(plain.split()).rstrip(".。")


def is_number(reference: str) -> bool:
    """Return whether an answer is a number: the whole marked answer, else any of the text."""
    answer = marked(reference)
    if answer is None:
        return bool(_numbers(reference))
    plain = _plain(answer).strip().rstrip(".%").rstrip()
    return bool(_NUMBER.fullmatch(plain)) and bool(_numbers(plain))


def _numbers(text: str) -> list[Fraction]:
    """Every number of a text, in order: 1,000 and 1000.0 are the same, 3/4 is 0.75."""
    found = []
    for match in _NUMBER.finditer(_plain(text)):
        if len(match[0]) > _MOST_CHARACTERS:
            continue
        divisor = int(match["divisor"] or 1)
        if divisor:
            number = Fraction(match["number"].replace(",", "")) / divisor
            found.append(-number if match["sign"] == "-" else number)
    return found


def _plain(text: str) -> str:
    return _BOXED_FRACTION.sub(r"\1/\2", text.translate(_FULL_WIDTH))
