"""Errors of rows with several labels: each is provoked, its fix followed as printed; it plans."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.fixes import RECIPE, Fault, Work, fix, follows, leaves_out, sets

PLAN = ("plan", RECIPE)
OWN = [["late"], ["lost"], [], ["late", "lost"]]
LISTS = [{"text": f"Letter {n}.", "labels": OWN[n % 4]} for n in range(16)]
CELLS = [{"text": f"Letter {n}.", "label": ";".join(OWN[n % 4]) or "lost"} for n in range(16)]
FLAGS = [
    {"text": f"Letter {n}.", **{name: int(name in OWN[n % 4]) for name in ("late", "lost")}}
    for n in range(16)
]
CLASSES = {"model.task": "classification"}
SEVERAL = {**CLASSES, "data.multi_label": True}


def both(work: Work, said: str) -> None:
    """Set the two keys that the fix begins with."""
    sets(0)(work, said)
    sets(1)(work, said)


def pastes(work: Work, said: str) -> None:
    """Take the first line of a recipe."""
    found = re.search(r"^ *(data: \{.*\})$", fix(said), re.MULTILINE)
    assert found, said
    data: dict[str, Any] = yaml.safe_load(found[1])["data"]
    for key, value in data.items():
        work.put(f"data.{key}", value)


FAULTS = {
    "no head": Fault(
        2, "the model has no classification head", sets(), {"data.multi_label": True}, PLAN, LISTS
    ),
    "several in a cell": Fault(3, "several labels in one cell", both, CLASSES, PLAN, CELLS),
    "lists": Fault(3, "column 'labels' looks like part", pastes, CLASSES, PLAN, LISTS),
    "columns": Fault(3, "'late' and 'lost' look like part", pastes, CLASSES, PLAN, FLAGS),
    "smoothing": Fault(
        2,
        "train.label_smoothing: 0.1 and data.multi_label",
        leaves_out,
        {**SEVERAL, "train.label_smoothing": 0.1},
        PLAN,
        LISTS,
    ),
    "columns without names": Fault(3, "may be columns of 0 and 1", pastes, SEVERAL, PLAN, FLAGS),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_an_error_says_to_do_works(name: str, tmp_path: Path, base: Path) -> None:
    follows(FAULTS[name], tmp_path, base)
