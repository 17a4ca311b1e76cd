"""Recipes that learn from answers in the rows, on a tiny base; steps, and losses by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import write_rows
from tests.tasks.test_trl import preferences
from tuner.data.tokens.order import order
from tuner.plan import plan

LORA = {"name": "lora", "r": 4, "dropout": 0.1}


def thumbs(count: int) -> list[dict[str, Any]]:
    """Of two answers to a prompt the first is liked; every third prompt has one answer alone."""
    found = []
    for number, row in enumerate(preferences(count)):
        for side, liked in (("chosen", True), ("rejected", False)):
            if number % 3 or liked == bool(number % 2):
                found.append({"prompt": row["prompt"], "completion": row[side], "label": liked})
    return found


@pytest.fixture
def offline_recipe(make_recipe: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A recipe of an algorithm; sections are merged into small ones."""

    def make(algorithm: str, name: str = "r.yaml", **sections: Any) -> Path:
        rows: list[dict[str, Any]] = (thumbs if algorithm == "kto" else preferences)(24)
        write_rows(tmp_path / "held.jsonl", rows[-4:])
        return make_recipe(
            name=name,
            data_rows=sections.pop("data_rows", rows[:-4]),
            data={"eval": "held.jsonl", "template": "auto", **sections.pop("data", {})},
            rlhf={"algorithm": algorithm, **sections.pop("rlhf", {})},
            train={
                **{"batch_size": 4, "micro_batch_size": 2, "epochs": 2, "max_steps": 4},
                **{"learning_rate": 0.01, "logging_steps": 1, "save_steps": 2},
                **sections.pop("train", {}),
            },
            eval={"max_new_tokens": 4},
            export={"formats": ["adapter"]},
            **sections,
        )

    return make


def first_step(made: plan.Plan) -> list[list[Any]]:
    """The rows of the first step, by forward pass; pairs of similar length share one."""
    count, batch = len(made.prepared.train), made.recipe.train.batch_size
    rows = [made.prepared.train[n] for n in order(count, made.recipe.run.seed, 0, batch)]
    if made.rlhf.algorithm != "kto":
        rows.sort(key=lambda row: max(map(len, row.answers)))
    size = made.micro_batch_size
    return [rows[first : first + size] for first in range(0, batch, size)]


def log_probabilities(network: Any, prompt: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
    """(tokens,) of an answer after a prompt, run alone; of all tokens, if the prompt is one."""
    ids = torch.tensor([[*prompt, *answer]])
    scores = network(input_ids=ids).logits[0].double().log_softmax(-1)
    places = range(len(prompt), ids.shape[1])
    return torch.stack([scores[place - 1, ids[0, place]] for place in places])
