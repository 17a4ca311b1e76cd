"""The rows that all contenders train on: of Alpaca's shape, in the order of tuner's own run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

# Tokens of instruction and answer: log-normal, as in Alpaca's answers by GPT-4; about 1.33 tokens
# a word. The longest are cut so that a row with its template stays below 512 tokens.
_INSTRUCTION, _WHOLE, _MOST = (22, 0.6), (195, 0.75), 470
_TOKENS_A_WORD = 1.33
_SYNTHETIC = "the party shall give notice of each claim within thirty days and pay what is due"
_REAL = "gpteacher-roleplay/roleplay.jsonl"


def alpaca_like(count: int, seed: int = 7) -> list[dict[str, str]]:
    """Instruction rows with Alpaca's lengths; words from the test data where it is there."""
    words = _words()
    generator = np.random.default_rng(seed)
    made, at = [], 0
    for _ in range(count):
        prompt = int(np.clip(generator.lognormal(np.log(_INSTRUCTION[0]), _INSTRUCTION[1]), 5, 120))
        whole = np.clip(generator.lognormal(np.log(_WHOLE[0]), _WHOLE[1]), 30, _MOST)
        answer = max(3, int(whole / _TOKENS_A_WORD) - prompt)
        taken = [words[(at + k) % len(words)] for k in range(prompt + answer)]
        made.append({"instruction": " ".join(taken[:prompt]), "output": " ".join(taken[prompt:])})
        at += prompt + answer
    return made


def _words() -> list[str]:
    folder = os.environ.get("TUNER_TEST_DATA")
    file = Path(folder) / _REAL if folder else None
    if file is None or not file.is_file():
        return _SYNTHETIC.split()
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return " ".join(row["output"] for row in rows).split()


def prepare(recipe: Path, tokens: Path) -> dict[str, Any]:
    """Write the token ids and labels of the run's steps, one line a row, in their order.

    Returns:
        What the contenders and the table need to know of the run.
    """
    from tuner.data.tokens.example import IGNORED
    from tuner.data.tokens.order import position
    from tuner.machine import hardware
    from tuner.plan import make
    from tuner.recipe import load as recipe_load

    loaded = recipe_load.load(recipe, verb="sft")
    made = make.make(loaded, hardware.detect(), output=recipe.parent / "unused")
    train, rows = made.recipe.train, made.prepared.train
    order = [
        position(index, len(rows), made.recipe.run.seed)
        for index in range(made.steps * train.batch_size)
    ]
    chosen = [rows[place] for place in order]
    with open(tokens, "w", encoding="utf-8") as file:
        for row in chosen:
            learned = zip(row.input_ids, row.supervised, strict=True)
            labels = [token if wanted else IGNORED for token, wanted in learned]
            file.write(json.dumps({"input_ids": list(row.input_ids), "labels": labels}) + "\n")
    steps = [chosen[at : at + train.batch_size] for at in range(0, len(chosen), train.batch_size)]
    facts = made.facts["parameters"]
    return {
        "base": str(made.base.folder),
        "device": made.device,
        "dtype": made.dtype,
        "parameters": facts["total"],
        "trainable": facts["trainable"],
        "batch_size": train.batch_size,
        "steps": made.steps,
        "learning_rate": made.stages[0].learning_rate,
        "seed": made.recipe.run.seed,
        "rank": getattr(made.recipe.method, "r", None),
        "full": not made.method.adapter,
        "pad_id": made.tokenizer.pad_token_id,
        "tokens": [sum(len(row.input_ids) for row in step) for step in steps],
        "longest": [max(len(row.input_ids) for row in step) for step in steps],
    }
