"""A plan on the screen: what matters first, and no more than a screen of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import tuner
from tuner.cli import show_plan
from tuner.console.console import Console
from tuner.machine import hardware
from tuner.plan import make
from tuner.plan.plan import Plan
from tuner.recipe import load as recipe_load


def planned(recipe: Path, *overrides: str, verb: str | None = None) -> Plan:
    loaded = recipe_load.load(recipe, overrides, verb)
    return make.make(loaded, hardware.detect(), output=Path("out"))


@pytest.mark.parametrize("name", ["legal", "sentiment-sft", "reward"])
def test_a_plan_of_a_common_recipe_is_one_screen(name: str, base: Path, tmp_path: Path) -> None:
    given = ["--set", f"model.base={base}"]
    # Times that another test has measured would be a line more.
    done = tuner("plan", name, *given, cwd=tmp_path, TUNER_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    assert len(shown) + len(done.stderr.splitlines()) <= 42
    assert max(map(len, shown)) <= 100
    understood = [text for text in shown[1:3] if text.startswith("understood  ")]
    assert len(understood) == 1
    assert shown[1 + len(understood)].startswith("summary     trains ")
    folded = ("memory      process", "parameters  total", "disk        checkpoints", "adam_beta1")
    assert not any(each in done.stdout for each in folded)
    if name == "reward":
        whole = tuner("plan", name, *given, "--verbose", cwd=tmp_path).stdout
        assert all(each in whole for each in folded)


def test_warnings_and_what_was_understood_come_first(
    make_recipe: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [{"instruction": f"Say {n}.", "output": "So.", "mood": "calm"} for n in range(9)]
    rows.append({"instruction": "Say it.", "output": ""})
    made = planned(make_recipe(data_rows=rows, data={"max_bad_rows": 1, "columns": {}}))
    assert made.warnings[0] == "1 bad row left out: train.jsonl:10"
    data = {**made.facts["data"], "understood": "instructions with answers; English"}
    capfd.readouterr()

    class Both(Console):
        """Warnings among the rest, as on a terminal."""

        def warn(self, text: str) -> None:
            self.text(f"warning: {text}")

    show_plan.plan(replace(made, facts={**made.facts, "data": data}), Both())
    shown = capfd.readouterr().out.splitlines()
    first = [line.split()[0] for line in shown if line and not line.startswith(" ")]
    count = len(made.warnings)
    assert first[:count] == ["warning:"] * count
    assert first[count : count + 2] == ["understood", "summary"]
    assert sum("instructions with answers" in line for line in shown) == 1
    assert any("rows_in 14;  bad_rows 1;" in line for line in shown)


@pytest.mark.parametrize(
    ("verb", "keys", "said"),
    [
        ("sft", [], ["trains llama-chatml-0 with lora: ", ", on 16 rows in 4 steps of 4"]),
        ("sft", ["eval.enabled=false"], ["on the CPU", "; takes about "]),
        ("sft", ["export.formats=[adapter]"], ["scores 4 held-out rows", "writes adapter to out"]),
        ("reward", [], ["a reward model on llama-chatml-0", ", on 16 comparisons in "]),
        ("rlhf", ["rlhf.algorithm=dpo"], ["a policy (dpo) on ", ", on 16 pairs in "]),
    ],
)
def test_the_summary_says_what_will_happen(
    verb: str, keys: list[str], said: list[str], make_recipe: Callable[..., Path]
) -> None:
    changes: dict[str, Any] = {}
    if verb != "sft":
        rows = [{"prompt": f"Say {n}.", "chosen": "So.", "rejected": "No."} for n in range(16)]
        changes = {"data_rows": rows, "data": {"template": "auto", "eval": 0}}
    made = planned(make_recipe(**changes), *keys, verb=verb)
    for part in said:
        assert part in made.summary
    assert ("scores " in made.summary) == bool(made.prepared.eval and made.recipe.eval.enabled)
    assert made.as_dict()["summary"] == made.summary
    total, trained = (made.facts["parameters"][key] for key in ("total", "trainable"))
    assert f"{trained:,} of {total:,} parameters ({100 * trained / total:.3g} %)" in made.summary
