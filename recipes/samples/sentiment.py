"""Sentiment sample for supervised tuning: review sentences, on purpose only partly as asked.

In train 35 of 60 completions have the sentiment that the prompt asks for, the others one of the
two other sentiments. A policy tuned on them writes fluent sentences and ends them, but heeds the
wanted sentiment only in part: room that reinforcement learning can fill. In eval every completion
is as asked, since it is what a good policy should say.
"""

from __future__ import annotations

from make import Draw, Row
from sentiment_words import SENTIMENTS, films, others, prompt, review

# Rows for each wanted sentiment, and how many of them are written as asked.
COUNTS = {"train": (60, 35), "eval": (15, 15)}


def rows(split: str, draw: Draw) -> list[Row]:
    """{"prompt", "completion"}: every sentiment is wanted equally often, each film once."""
    num_rows, num_faithful = COUNTS[split]
    chosen_films = films(split, num_rows * len(SENTIMENTS), draw)
    result: list[Row] = []
    for number, film in enumerate(chosen_films):
        wanted = SENTIMENTS[number // num_rows]
        position = number % num_rows
        written = wanted if position < num_faithful else others(wanted)[position % 2]
        completion = review(split, film, written, draw)
        result.append({"prompt": prompt(film, wanted, draw), "completion": completion})
    return result
