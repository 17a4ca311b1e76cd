"""Prompts for reinforcement learning: each asks for one review sentence of a wanted sentiment."""

from __future__ import annotations

from make import Draw, Row
from sentiment_words import SENTIMENTS, films, prompt

COUNTS = {"train": 300, "eval": 60}


def rows(split: str, draw: Draw) -> list[Row]:
    """{"prompt"}: the three sentiments are wanted equally often, each film stands once."""
    chosen_films = films(split, COUNTS[split], draw)
    return [
        {"prompt": prompt(film, SENTIMENTS[number % len(SENTIMENTS)], draw)}
        for number, film in enumerate(chosen_films)
    ]
