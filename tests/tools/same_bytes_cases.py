"""The cases of `same_bytes`: the files of each, and its commands.

A case has a folder of its own. `{base}` in a recipe is a tiny base by its kind. Recipes are merged
into `SMALL`; what a method needs to be small stands in `OPTIONS`.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BASES = ("llama", "gpt2", "bert", "t5", "bart", "mixtral", "qwen2", "noisy")
WORDS = ("tenant", "rent", "month", "notice", "party", "clause", "film", "music", "great", "foo")
METHODS = (
    *("lora", "rslora", "dora", "full", "last_layer", "staged", "prefix", "ptuning_v2", "ptuning"),
    *("prompt", "multitask_prompt", "bottleneck", "ia3", "adalora", "vera", "oft", "boft", "lokr"),
    *("loha", "layernorm", "trainable_tokens", "fourierft", "adaption_prompt"),
)
OPTIONS: dict[str, dict[str, Any]] = {
    "trainable_tokens": {"tokens": ["."]},
    "vera": {"r": 8},
    "fourierft": {"coefficients": 50},
    "oft": {"block_size": 8},
    **{name: {"r": 4} for name in ("lora", "rslora", "dora")},
    **{
        name: {"num_virtual_tokens": 5}
        for name in ("prefix", "ptuning_v2", "ptuning", "prompt", "multitask_prompt")
    },
}
SMALL: dict[str, Any] = {
    "model": {"base": "{llama}"},
    "data": {"train": "train.jsonl", "eval": "eval.jsonl"},
    "train": {"max_steps": 4, "batch_size": 4, "learning_rate": 0.01, "save_steps": 2},
    "eval": {"samples": 2, "max_new_tokens": 4},
}
LABELS = ("good", "bad", "fine")


@dataclass(frozen=True)
class Command:
    """A call of `tuner`.

    Attributes:
        line: its words after `tuner`.
        stdin: what it reads.
        kill_at: a pattern; the command is killed when such a file is there.
    """

    line: str
    stdin: str = ""
    kill_at: str = ""


@dataclass(frozen=True)
class Case:
    """Files, and the commands that run among them.

    Attributes:
        commands: in their order.
        files: by name: rows, a recipe, or a text.
    """

    commands: tuple[Command, ...]
    files: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path, bases: Path) -> None:
        """Write the files into a folder; YAML is JSON."""
        folder.mkdir(parents=True)
        for name, content in self.files.items():
            if isinstance(content, list):
                text = "".join(json.dumps(row) + "\n" for row in content)
            elif isinstance(content, dict):
                text = json.dumps(content, indent=1)
                for kind in BASES:
                    text = text.replace(f"{{{kind}}}", str(bases / kind))
            else:
                text = content
            (folder / name).write_text(text, "utf-8")


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Instructions with answers of several lengths."""
    made = []
    for number in range(start, start + count):
        words = [WORDS[(number * 3 + k * 7) % 10] for k in range(2 + number * 5 % 8)]
        made.append({"instruction": f"Say number {number}.", "output": " ".join(words)})
    return made


def labelled(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Texts with one of three labels."""
    return [
        {"text": f"Number {n} of {LABELS[n % 3]} music.", "label": LABELS[n % 3]}
        for n in range(start, start + count)
    ]


def prompts(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Prompts without answers."""
    return [
        {"prompt": f"Say {WORDS[n % 10]} {WORDS[n // 10 % 10]} {n}."}
        for n in range(start, start + count)
    ]


def pairs(count: int, start: int = 0) -> list[dict[str, Any]]:
    """A better and a worse answer to each prompt."""
    return [
        row | {"chosen": f"great {WORDS[n % 10]}", "rejected": f"{WORDS[n % 7]} foo"}
        for n, row in enumerate(prompts(count, start))
    ]


def rankings(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Three answers to each prompt, the best first."""
    return [
        row | {"responses": [f"great {WORDS[n % 10]}", WORDS[n % 7], "foo foo"], "ranks": [1, 2, 3]}
        for n, row in enumerate(prompts(count, start))
    ]


def recipe(**sections: Any) -> dict[str, Any]:
    """A recipe: sections merged into small ones; None takes a key away."""
    made = copy.deepcopy(SMALL)
    for name, section in sections.items():
        merged = {**made.get(name, {}), **section} if isinstance(section, dict) else section
        made[name] = (
            {key: value for key, value in merged.items() if value is not None}
            if isinstance(merged, dict)
            else merged
        )
    return made


def one(verb: str, made: dict[str, Any], train: Any = None, held: Any = None, *after: str) -> Case:
    """A case of one recipe that is run, and what follows."""
    files = {
        "train.jsonl": rows(16) if train is None else train,
        "eval.jsonl": rows(4, 100) if held is None else held,
        "r.yaml": made,
    }
    lines = (f"{verb} --recipe r.yaml --output runs/r", *after)
    return Case(tuple(Command(line) for line in lines), files)


def method(name: str) -> dict[str, Any]:
    """The section of a method."""
    return {"name": name, **OPTIONS.get(name, {})}


def cases() -> dict[str, Case]:
    """Return all cases by name."""
    from tests.tools import same_bytes_more as more

    made = {f"method-{name}": of_method(name) for name in METHODS}
    return made | more.of_bases() | more.of_preferences() | more.of_runs() | more.of_looking()


def of_method(name: str) -> Case:
    """A run of a method, in half precision for one."""
    train: dict[str, Any] = {"learning_rate": "auto"} if name == "staged" else {}
    train |= {"save_steps": None} if name == "multitask_prompt" else {}
    data: dict[str, Any] = {}
    if name == "multitask_prompt":
        data = {"train": ["train.jsonl", "eval.jsonl"], "eval": 0.25}
    return one("sft", recipe(method=method(name), train=train, data=data))
