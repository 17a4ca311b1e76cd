"""Preference sample: of two review sentences, the one with the wanted sentiment is better.

Rows come in mirrored twos: the same two sentences about the same film, the prompt asking once for
the sentiment of the one and once for that of the other. So each sentence is chosen as often as it
is rejected: neither its length nor its wording helps unless it is compared with the prompt.
"""

from __future__ import annotations

from itertools import combinations

from make import Draw, Row
from sentiment_words import SENTIMENTS, films, prompt, review

# Mirrored twos for each two sentiments.
COUNTS = {"train": 40, "eval": 10}


def rows(split: str, draw: Draw) -> list[Row]:
    """{"prompt", "chosen", "rejected"}: each two sentiments meet equally often, both ways."""
    meetings = list(combinations(SENTIMENTS, 2))
    result: list[Row] = []
    for number, film in enumerate(films(split, COUNTS[split] * len(meetings), draw)):
        first, second = meetings[number % len(meetings)]
        left = review(split, film, first, draw)
        right = review(split, film, second, draw)
        result.append({"prompt": prompt(film, first, draw), "chosen": left, "rejected": right})
        result.append({"prompt": prompt(film, second, draw), "chosen": right, "rejected": left})
    return result
