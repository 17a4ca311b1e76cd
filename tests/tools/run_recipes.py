"""Run every bundled recipe to its end, one after the other, and write what came of each.

    nice -n 19 python -m tests.tools.run_recipes FOLDER [--gsm8k FOLDER] [NAME ...]

FOLDER gets the runs and `results.jsonl`, one object per recipe: what was changed, exit code,
seconds, scores before and after, artefacts, versions. Started again, it goes on: a recipe that has
ended well is skipped, a run that was stopped is resumed. A recipe whose base or data is not on this
machine runs on the embedded base, by the settings in `CHANGED`, which its line repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tuner.recipe import bundled

# The shortest first; the last ones have been run before and take longest.
ORDER = (
    *(
        "prompt",
        "reasoning",
        "sentiment-sft",
        "finance",
        "ptuning-v2-classification",
        "science",
        "bottleneck",
    ),
    *("medical", "ptuning", "education", "prefix", "reward-rankings", "sft-full", "qat"),
    *("sft-staged", "qlora", "legal-8b", "rlhf-gsm8k", "reward", "dpo", "kto"),
    *("legal", "rlhf-full", "rlhf", "compare"),
)
EMBEDDED = "model.base=smollm2-135m"
# What is set where a recipe names a base or data that cannot be had here.
CHANGED = {
    "legal-8b": (EMBEDDED,),
    "rlhf-gsm8k": (
        EMBEDDED,
        *("train.max_steps=4", "train.batch_size=32", "rlhf.max_new_tokens=160"),
        *("eval.max_rows=8", "eval.max_new_tokens=160", "data.max_rows=64"),
    ),
}
_VERB = re.compile(r"^#   tuner (\w+) --recipe recipes/", re.MULTILINE)


def main() -> None:
    """Run what is still to do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gsm8k", type=Path, help="holds train_sample.jsonl and test_sample.jsonl")
    parser.add_argument("names", nargs="*")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.jsonl"
    lines = results.read_text("utf-8").splitlines() if results.exists() else []
    done = {line["recipe"] for line in map(json.loads, lines) if line["exit_code"] == 0}
    recipes = bundled.files("recipes")
    for name in asked.names or unique(ORDER, recipes):
        if name not in done:
            line = run(name, recipes[name], folder, asked.gsm8k)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def unique(order: tuple[str, ...], recipes: dict[str, Path]) -> list[str]:
    """The recipes in this order, and those that it does not name."""
    return list(dict.fromkeys((*(name for name in order if name in recipes), *recipes)))


def settings(name: str, gsm8k: Path | None) -> list[str]:
    """What is set on top of the recipe."""
    found = list(CHANGED.get(name, ()))
    if name == "rlhf-gsm8k" and gsm8k is not None:
        found += [f"data.train={gsm8k / 'train_sample.jsonl'}"]
        found += [f"data.eval={gsm8k / 'test_sample.jsonl'}"]
    return found


def command(name: str, recipe: Path, folder: Path, changed: list[str]) -> list[str]:
    """The command that the recipe's own comment names."""
    verb = _VERB.search(recipe.read_text("utf-8"))
    assert verb is not None, f"{recipe} does not say how it is run"
    output = folder / name
    words = [sys.executable, "-m", "tuner", verb[1], "--recipe", str(recipe)]
    words += [word for setting in changed for word in ("--set", setting)]
    words += ["--output", str(output), "--json"]
    begun = (output / "run.json").exists() or (output / "comparison.json").exists()
    return [*words, "--resume"] if begun else words


def run(name: str, recipe: Path, folder: Path, gsm8k: Path | None) -> dict[str, Any]:
    """Run one recipe; its line."""
    changed = settings(name, gsm8k)
    words = command(name, recipe, folder, changed)
    started = time.monotonic()
    shown, said = folder / f"{name}.jsonl", folder / f"{name}.stderr"
    with shown.open("wb") as out, said.open("wb") as err:
        done = subprocess.run(words, stdout=out, stderr=err, stdin=subprocess.DEVNULL, check=False)
    seconds = round(time.monotonic() - started, 1)
    record = folder / name / "run.json"
    found = json.loads(record.read_bytes()) if record.exists() else {}
    line = {
        "recipe": name,
        "set": [setting.replace(f"{gsm8k}/", "") for setting in changed],
        "exit_code": done.returncode,
        "seconds": seconds,
        "resumed": "--resume" in words,
        "durations": found.get("durations"),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "scores": found.get("scores"),
        "artefacts": [
            {"kind": each["kind"], "verified": each.get("verified")}
            for each in found.get("artefacts") or ()
        ],
        "peak_memory_bytes": found.get("peak_memory_bytes"),
        "versions": found.get("versions"),
        "error": found.get("error") or (said.read_text("utf-8")[-2000:] if done.returncode else ""),
    }
    if done.returncode == 0:
        # They are proven, and half a gigabyte each.
        for whole in folder.glob(f"{name}/**/merged"):
            shutil.rmtree(whole)
    return line


if __name__ == "__main__":
    main()
