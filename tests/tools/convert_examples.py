"""Try `tuner recipes convert` on a folder of YAMLs, and plan what comes of each.

    python -m tests.tools.convert_examples FOLDER [BASE]

Base and data of the examples cannot be had here: each recipe gets BASE (default: the embedded one;
with its own revision and chat template, which belong to a base) and a few rows with the columns
that the example names. Nothing else is changed.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tuner.cli.convert import converted as convert
from tuner.cli.convert import tree_of
from tuner.errors import TunerError
from tuner.machine import hardware
from tuner.plan import make
from tuner.recipe import load
from tuner.recipe.aliases import ALIASES
from tuner.recipe.convert import write
from tuner.recipe.convert.conversion import Conversion

ROWS = 64
_NO_TRAINING = "no configuration that can be converted"


@dataclass(frozen=True)
class Outcome:
    """What came of one file: other, refused, failed or plans; and why."""

    kind: str
    why: str = ""


def rows_like(given: dict[str, Any], made: Conversion) -> list[dict[str, Any]]:
    """Return rows with the columns that a configuration says its files have."""
    keys, train = made.keys, made.keys["data.train"]
    first = train[0] if isinstance(train, list) else train
    own = first if isinstance(first, dict) else {}
    columns = own.get("columns") or keys.get("data.columns") or {}
    template = own.get("template") or keys.get("data.template")
    sets = given.get("datasets") or given.get("pretraining_dataset") or [{}]
    kind = str(sets[0].get("type", "")) if isinstance(sets[0], dict) else ""
    chat = template == "chat" or kind.startswith(("chat_template", "sharegpt"))
    rows = []
    for n in range(ROWS):
        ask, good, bad = f"What is {n} plus 1?", f"It is {n + 1}.", "I do not know."
        if "reward" in keys or "rlhf.algorithm" in keys:
            row: dict[str, Any] = {"prompt": ask, "chosen": good, "rejected": bad}
        elif template == "text":
            row = {"text": f"{ask} {good}"}
        elif chat:
            turns = [{"role": "user", "content": ask}, {"role": "assistant", "content": good}]
            row = {"messages": turns}
        else:
            row = {"instruction": ask, "input": "", "output": good}
        rows.append({columns.get(name, name): value for name, value in row.items()})
    return rows


def tried(file: Path, base: str, folder: Path) -> Outcome:
    """Convert a file, give the recipe a base and rows, and plan it."""
    try:
        tool, made = convert(file, None)
    except TunerError as error:
        other = _NO_TRAINING in error.what or "not a valid recipe" in error.what
        return Outcome("other" if other else "refused", "; ".join(error.problems) or error.what)
    # What is written is what is planned.
    tree = yaml.safe_load(write.text(made, tool, file.name))
    assert tree == tree_of(made.keys), file
    given = yaml.safe_load(file.read_text("utf-8"))
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in rows_like(given, made)), "utf-8")
    tree["model"] = {**tree["model"], "base": base}
    for key in ("revision", "chat_template"):
        tree["model"].pop(key, None)
    for key in ("train", "eval"):
        tree["data"][key] = _with_rows(tree["data"][key], rows)
    recipe = folder / "r.yaml"
    recipe.write_text(yaml.safe_dump(tree), "utf-8")
    try:
        make.make(load.load(recipe, verb=None), hardware.detect(), output=folder / "run")
    except TunerError as error:
        return Outcome("failed", "; ".join([error.what, *error.problems]))
    return Outcome("plans")


def _with_rows(value: Any, rows: Path) -> Any:
    if isinstance(value, list):
        return [_with_rows(each, rows) for each in value]
    if isinstance(value, dict):
        return {**value, "source": str(rows)}
    return value if isinstance(value, int | float) else str(rows)


def main(folder: Path, base: str) -> None:
    """Show what came of each file, and the counts."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        for file in sorted(each for each in folder.rglob("*") if each.suffix in (".yaml", ".yml")):
            found = tried(file, base, Path(scratch))
            counts[found.kind] += 1
            why = re.sub(rf"{re.escape(str(file))}(:\d+)?: ", "", found.why)
            sys.stdout.write(f"{found.kind:<8} {file.relative_to(folder)}  {why}\n")
    sys.stdout.write(f"\n{dict(counts)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else next(iter(ALIASES)))
