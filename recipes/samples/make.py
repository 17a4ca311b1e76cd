"""Write the sample data of the recipes: `python recipes/samples/make.py [FOLDER]`.

Every text is written for this project. A domain module holds sentence patterns and facts, kept
apart for train and eval, so that no held-out row is a near-copy of a training row. The output is
the same on every machine: one fixed seed for each domain and split.
"""

from __future__ import annotations

import importlib
import json
import random
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

DOMAINS = (
    "legal",
    "medical",
    "finance",
    "education",
    "science",
    "reviews",
    "sentiment",
    "preferences",
    "rankings",
    "prompts",
    "reasoning",
)
# Domains whose module has another name.
MODULES = {"prompts": "sentiment_prompts"}
SPLITS = ("train", "eval")
SEED = 2024

Row = dict[str, Any]
T = TypeVar("T")


class Draw:
    """Seeded choices: the same split of the same domain always draws the same rows."""

    def __init__(self, domain: str, split: str) -> None:
        self.random = random.Random(f"{SEED}-{domain}-{split}")

    def pick(self, options: Sequence[T]) -> T:
        return self.random.choice(options)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def fill(self, pattern: str, *slots: Mapping[str, str | Sequence[str]]) -> str:
        """Replace each {name}: a str is used as it is, from a list one entry is drawn."""
        values: dict[str, str] = {}
        for group in slots:
            for name, options in group.items():
                values[name] = options if isinstance(options, str) else self.pick(options)
        return pattern.format(**values)

    def shuffled(self, items: Sequence[T]) -> list[T]:
        result = list(items)
        self.random.shuffle(result)
        return result

    def distinct(self, count: int, items: Sequence[T], write: Callable[[T], str]) -> list[str]:
        """`count` different texts, the items taken in turn so that each is used equally often."""
        texts: list[str] = []
        for _ in range(count * 50):
            if len(texts) == count:
                return texts
            text = write(items[len(texts) % len(items)])
            if text not in texts:
                texts.append(text)
        raise ValueError(f"too little variety for {count} texts like {items[0]!r}")


def patterns(block: str, joint: str = " ") -> list[str]:
    """The entries of a text block: each starts with "- " and may go on over several lines."""
    entries = re.split(r"^- ", block.strip(), flags=re.MULTILINE)[1:]
    return [joint.join(line.strip() for line in entry.strip().splitlines()) for entry in entries]


def facts(block: str, joint: str = " ") -> list[tuple[str, ...]]:
    """Like `patterns`, each entry cut at "|" into its parts."""
    return [tuple(re.split(r"\s*\|\s*", entry)) for entry in patterns(block, joint)]


def write(folder: Path) -> None:
    """Write DOMAIN-SPLIT.jsonl for every domain and split."""
    for domain in DOMAINS:
        module = importlib.import_module(MODULES.get(domain, domain))
        for split in SPLITS:
            draw = Draw(domain, split)
            rows = draw.shuffled(module.rows(split, draw))
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            path = folder / f"{domain}-{split}.jsonl"
            path.write_text("".join(lines), encoding="utf-8", newline="\n")
            sys.stdout.write(f"{path}: {len(rows)} rows\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
