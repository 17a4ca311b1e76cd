"""Every method and every task as a tiny run: stopped in the middle, resumed, scored, exported.

`FAMILIES` has one case of each kind of method and each task; `CASES` all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import WORDS
from tests.gpu import runs
from tests.run.launched import assert_equal
from tuner.methods import METHODS

Row = dict[str, Any]
# Options of the methods that cannot do without, or that are large without.
OPTIONS: dict[str, Row] = {
    "lora": {"r": 4},
    "rslora": {"r": 4},
    "dora": {"r": 4},
    "trainable_tokens": {"tokens": ["."]},
    "adalora": {"r": 2, "start_r": 4},
    "vera": {"r": 8},
    "bottleneck": {"size": 8},
    "prefix": {"num_virtual_tokens": 4},
    "ptuning_v2": {"num_virtual_tokens": 4},
    "ptuning": {"num_virtual_tokens": 4, "hidden_size": 16, "encoder": "mlp"},
    "prompt": {"num_virtual_tokens": 4},
    "multitask_prompt": {"num_virtual_tokens": 4},
}


@dataclass(frozen=True)
class Case:
    """A run.

    Attributes:
        name: unique.
        sections: of its recipe, beyond those of `runs.write`.
        kind: its base, see tests/tiny.py.
        verb: its command.
        rows: makes training and held-out rows; None: instructions.
        before: the name of a case whose run it needs, in a folder of that name.
        resumes: whether it is stopped and resumed; otherwise it only runs.
    """

    name: str
    sections: dict[str, Row] = field(default_factory=dict)
    kind: str = "llama"
    verb: str = "sft"
    rows: Callable[[], tuple[list[Row], list[Row]]] | None = None
    before: str = ""
    resumes: bool = True


def _prompts(count: int) -> list[Row]:
    return [{"prompt": f"Say {WORDS[n % 20]} {WORDS[n // 20]}."} for n in range(count)]


def prompts() -> tuple[list[Row], list[Row]]:
    """Prompts to answer."""
    made = _prompts(12)
    return made[:-4], made[-4:]


def preferences() -> tuple[list[Row], list[Row]]:
    """Prompts with a chosen and a rejected answer."""
    made = [
        {
            **row,
            "chosen": " ".join(["great", *WORDS[: n % 4]]),
            "rejected": " ".join(["terrible", *WORDS[: n % 3]]),
        }
        for n, row in enumerate(_prompts(12))
    ]
    return made[:-4], made[-4:]


def labelled() -> tuple[list[Row], list[Row]]:
    """Instructions whose answer is one of two labels."""
    made = [
        {"instruction": f"Say {WORDS[n % 20]}.", "output": runs.LABELS[n % 2]} for n in range(20)
    ]
    return made[:-4], made[-4:]


def _method(name: str) -> Case:
    sections: dict[str, Row] = {"method": {"name": name, **OPTIONS.get(name, {})}}
    if name == "staged":
        sections["train"] = {"learning_rate": "auto", "max_steps": 4}
    return Case(name, sections)


_REWARD = [{"rule": "length", "max": 2}, {"rule": "forbidden", "words": WORDS}]
_STEPS: Row = {"max_steps": 2, "batch_size": 8, "micro_batch_size": 4}


def _policy(algorithm: str, **rlhf: Any) -> Case:
    given = {"algorithm": algorithm, "kl_coefficient": 0.1, **rlhf}
    if algorithm != "dpo":
        given = {"reward": _REWARD, "max_new_tokens": 6, **given}
    sections = {
        "method": {"name": "lora", "r": 4},
        "rlhf": given,
        "train": _STEPS,
        "export": {"formats": ["adapter"]},
    }
    rows = preferences if algorithm == "dpo" else prompts
    return Case(algorithm, sections, verb="rlhf", rows=rows)


_TASKS = [
    Case(
        "reward",
        {"method": {"name": "lora", "r": 4}, "train": _STEPS},
        verb="reward",
        rows=preferences,
    ),
    *map(_policy, ("dpo", "grpo", "rloo", "ppo")),
    Case(
        "classification",
        {
            "model": {"task": "classification"},
            "data": {"labels": runs.LABELS, "template": "instruction"},
            "method": {"name": "ptuning_v2", "num_virtual_tokens": 4},
        },
        rows=labelled,
    ),
]
_LORA: Row = {"name": "lora", "r": 4}
_VARIANTS = [
    *(
        Case(f"lora on {kind}", {"method": _LORA}, kind)
        for kind in ("llama-tied", "qwen2", "gpt2", "gemma", "opt", "mixtral")
    ),
    *(
        Case(f"lora by {init}", {"method": {**_LORA, "init": init}})
        for init in ("pissa", "olora", "eva")
    ),
    Case("lora by loftq", {"method": {**_LORA, "init": "loftq"}, "model": {"quantize": "nf4"}}),
    Case("lora in float32", {"method": _LORA, "model": {"dtype": "float32"}}),
    Case("lora in float16", {"method": _LORA, "model": {"dtype": "float16"}}),
    Case("lora with dropout", {"method": {**_LORA, "dropout": 0.1}}),
    Case("lora with new tokens", {"method": _LORA, "model": {"new_tokens": ["<x>"]}}),
    Case("lora recomputed", {"method": _LORA, "train": {"gradient_checkpointing": True}}),
    Case("lora on nf4", {"method": _LORA, "model": {"quantize": "nf4"}}),
    Case("lora on int8", {"method": _LORA, "model": {"quantize": "int8"}}),
    Case("qat", {"method": _LORA, "train": {"qat": "int4"}}),
    Case("full in float32", {"method": {"name": "full"}, "model": {"dtype": "float32"}}),
    Case(
        "ppo with a reward model",
        {
            **_policy("ppo").sections,
            "rlhf": {
                "algorithm": "ppo",
                "kl_coefficient": 0.1,
                "reward": [{"model": "reward"}],
                "max_new_tokens": 6,
            },
            "ppo": {"value_trunk": "reward"},
        },
        verb="rlhf",
        rows=prompts,
        before="reward",
    ),
    Case(
        "lstm encoder",
        {"method": {"name": "ptuning", "num_virtual_tokens": 4, "encoder": "lstm"}},
    ),
]
CASES = {case.name: case for case in [*map(_method, METHODS), *_TASKS, *_VARIANTS]}
# For every run of the suite: what differs most between methods, and each task.
FAMILIES = (
    "lora",
    "adalora",
    "full",
    "prefix",
    "ptuning",
    "bottleneck",
    "ia3",
    "reward",
    "dpo",
    "grpo",
    "ppo",
    "classification",
)


def run(case: Case, folder: Path, compare: bool = False) -> dict[str, Any]:
    """Carry out a case and check what it leaves; return the record.

    Args:
        compare: run it without a stop, too, and expect the same bytes.
    """
    if case.before:
        run(CASES[case.before], folder)
        (folder / "run").rename(folder / case.before)
    rows = case.rows() if case.rows else None
    recipe = runs.write(folder, case.kind, rows, **case.sections)
    steps = 2 if case.name == "staged" else 1
    if case.resumes:
        runs.stop_after(steps, recipe, case.verb)
    record = runs.train(recipe, case.verb, resume=case.resumes)
    assert record["status"] == "done"
    # All moves, except rows of tokens that no text here has, and ranks that AdaLoRA takes away.
    pruned = ("trainable_tokens_delta", "lora_E")
    still = [name for name in record["unmoved_tensors"] if not any(n in name for n in pruned)]
    assert not still, still
    assert record["artefacts"], "nothing was exported"
    assert all(each["verified"] for each in record["artefacts"])
    lines = (folder / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)
    if compare:
        runs.train(recipe, case.verb, "reference")
        assert_equal(folder / "run", folder / "reference")
    return record
