"""Pairs, rankings with scores, and the plan of a reward model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.conftest import WORDS
from tuner.machine import hardware
from tuner.plan import make as plan_make
from tuner.plan import plan
from tuner.recipe import load as recipe_load

Row = dict[str, Any]


def pairs(count: int, start: int = 0, word: str = "great") -> list[Row]:
    """Uneven pairs; the chosen answer has `word` somewhere, and the rejected one never."""
    plain = [each for each in WORDS if each != word]
    made = []
    for number in range(start, start + count):
        texts = []
        for answer in (0, 1):
            length = 2 + (number * 5 + answer * 3) % 7
            texts.append([plain[(number * 3 + answer * 11 + k * 5) % 24] for k in range(length)])
        texts[0].insert(number % (len(texts[0]) + 1), word)
        chosen, rejected = map(" ".join, texts)
        made.append({"prompt": f"Say number {number}.", "chosen": chosen, "rejected": rejected})
    return made


def make(recipe: Path, output: str = "unused") -> plan.Plan:
    loaded = recipe_load.load(recipe, verb="reward")
    return plan_make.make(loaded, hardware.detect(), output=recipe.parent / output)


def scored_rows(count: int) -> list[Row]:
    """Prompts with two to four answers, each with a score, some of them equal."""
    return [
        {
            "prompt": f"Say number {number}.",
            "answers": [
                " ".join(WORDS[(number + k * 7 + j) % 25] for j in range(2 + (number + k) % 5))
                for k in range(2 + number % 3)
            ],
            "scores": [(number + k * 2) % 4 for k in range(2 + number % 3)],
        }
        for number in range(count)
    ]
