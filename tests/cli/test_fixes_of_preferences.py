"""Errors of losses of preferences: each is provoked, its fix applied as printed, and it plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.fixes import RECIPE, Fault, follows, given, leaves_out, sets, without

PLAN = ("plan", RECIPE)
PAIRS = [{"prompt": f"Say {n}.", "chosen": f"It is {n}.", "rejected": "No."} for n in range(16)]
SAID = [{"prompt": f"Say {n}.", "completion": f"It is {n}."} for n in range(16)]
RANKED = [{"prompt": f"Say {n}.", "answers": [f"It is {n}.", f"{n}", "No."]} for n in range(16)]
KTO = {"rlhf.algorithm": "kto"}


def of_dpo(said: str, follow: Any, **keys: Any) -> Fault:
    options = {f"dpo.{name}": value for name, value in keys.items()}
    return Fault(2, said, follow, {"rlhf.algorithm": "dpo", **options}, PLAN, PAIRS)


FAULTS = {
    "no labels": Fault(
        3, "kto learns from labels, and no answer is labelled",
        without("rlhf", "answers without labels are learned with tuner lora"), KTO, PLAN, SAID,
    ),
    "labels under another name": Fault(
        3, "say which answers are liked",
        given("data.columns", r"data.columns: (\{label: \w+\})"), KTO, PLAN,
        [{**row, "verdict": n % 2 == 0} for n, row in enumerate(SAID)],
    ),
    "rankings": Fault(
        3, "these rows rank several", given("rlhf.algorithm", r"set rlhf.algorithm: (\w+)"),
        KTO, PLAN, RANKED,
    ),
    "disliked answers alone": Fault(
        3, "every answer of the train split is disliked",
        lambda work, said: (work.folder / "train.jsonl").write_text(
            (work.folder / "train.jsonl").read_text().replace("false", "true", 8)
        ) if "add the other kind" in said else None,
        KTO, PLAN, [{**row, "label": False} for row in SAID],
    ),
    "one row per forward pass": Fault(
        2, "train.micro_batch_size: 1 and rlhf.algorithm: kto", sets(),
        {**KTO, "train.micro_batch_size": 1}, PLAN, PAIRS,
    ),
    "no coefficient": Fault(
        2, "rlhf.kl_coefficient: 0 and rlhf.algorithm: orpo", leaves_out,
        {"rlhf.algorithm": "orpo", "rlhf.kl_coefficient": 0}, PLAN, PAIRS,
    ),
    "smoothing": of_dpo("dpo.label_smoothing: 0.1 and dpo.loss", sets(), label_smoothing=0.1),
    "no smoothing": of_dpo(
        "dpo.loss: exo_pair, which needs some", leaves_out, loss="exo_pair", label_smoothing=0
    ),
    "per token": of_dpo(
        "dpo.normalize_length: true and dpo.loss: ipo", leaves_out,
        loss="ipo", normalize_length=True,
    ),
    "a section of another algorithm": Fault(
        2, "the section simpo does not apply to rlhf.algorithm: cpo",
        without("simpo", "leave the section out"),
        {"rlhf.algorithm": "cpo", "simpo.margin": 1}, PLAN, PAIRS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_an_error_says_to_do_works(name: str, tmp_path: Path, base: Path) -> None:
    follows(FAULTS[name], tmp_path, base)
