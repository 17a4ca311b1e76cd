"""Ranking sample: one prompt with three or four review sentences, the best first.

The best has the wanted sentiment in full, the next has it weakly, the third lies between, the last
is the opposite. Where neutral is wanted, the third leans to a side and the last is all on a side.
"""

from __future__ import annotations

from make import Draw, Row
from sentiment_words import SENTIMENTS, Film, films, others, prompt, review

# Rows for each wanted sentiment.
COUNTS = {"train": 30, "eval": 8}


def ranked(split: str, film: Film, wanted: str, draw: Draw) -> list[str]:
    """Four sentences about the film, from the best to the worst answer."""
    # The weak one may forget the kind of film; the worse ones name it, so that naming it is not
    # what makes an answer good.
    vague = film._replace(kind="film") if draw.chance(0.5) else film
    best = review(split, film, wanted, draw)
    weak = review(split, vague, wanted, draw, strength="weak")
    if wanted == "neutral":
        sides = others(wanted)
        between = review(split, film, draw.pick(sides), draw, strength="weak")
        worst = review(split, film, draw.pick(sides), draw)
    else:
        between = review(split, film, "neutral", draw)
        worst = review(split, film, next(s for s in others(wanted) if s != "neutral"), draw)
    return [best, weak, between, worst]


def rows(split: str, draw: Draw) -> list[Row]:
    """{"prompt", "answers"}: half of the rows have all four answers, half lack one in between."""
    result: list[Row] = []
    for number, film in enumerate(films(split, COUNTS[split] * len(SENTIMENTS), draw)):
        wanted = SENTIMENTS[number % len(SENTIMENTS)]
        answers = ranked(split, film, wanted, draw)
        turn = number // len(SENTIMENTS)
        if turn % 2:
            del answers[1 + turn // 2 % 2]
        result.append({"prompt": prompt(film, wanted, draw), "answers": answers})
    return result
