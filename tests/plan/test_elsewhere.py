"""Plans for another machine's GPUs, and dry runs of a resumption."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cli.command import tuner
from tests.plan.test_memory import GIB, eight_billion, make
from tuner.cli.make_plan import as_begun
from tuner.errors import RecipeError, ResourceError
from tuner.machine import hardware
from tuner.plan import cards
from tuner.plan import make as plan_make
from tuner.plan.memory import estimate, fit
from tuner.recipe import load as recipe_load

__all__ = ["eight_billion"]
HERE = hardware.Machine(cpu_count=2, memory_bytes=24 * GIB)
LONG = [{"instruction": "Say.", "output": "rent " * 1900} for _ in range(8)]


@pytest.fixture
def eight_billion_recipe(eight_billion: Path, make_recipe: Callable[..., Path]) -> Path:
    return make_recipe(
        model={"base": str(eight_billion)},
        data_rows=LONG,
        method={"name": "lora"},
        export={"formats": []},
    )


def planned(recipe: Path, *options: str) -> dict[str, Any]:
    done = tuner("plan", "--recipe", str(recipe), "--json", *options, cwd=recipe.parent)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return next(line["plan"] for line in lines if line["event"] == "plan")


def test_a_run_on_gpus_is_planned_where_there_are_none(eight_billion_recipe: Path) -> None:
    """Type, processes and memory are those of the GPUs that --for names."""
    plan = planned(eight_billion_recipe, "--for", "H100", "--devices", "2")
    values = {key: item["value"] for key, item in plan["values"].items()}
    assert (values["run.device"], values["model.dtype"]) == ("cuda", "bfloat16")
    assert values["run.devices"] == 2
    assert "H100" in plan["values"]["run.device"]["origin"]
    assert plan["memory"]["process"] == estimate.CONTEXT
    older = planned(eight_billion_recipe, "--for", "t4", "--set", "model.quantize=nf4")
    assert older["values"]["model.dtype"]["value"] == "float16"
    by_size = planned(eight_billion_recipe, "--for", "24GiB")
    assert by_size["memory"]["total"] <= fit.budget("cuda", 24 * GIB)


def test_a_batch_smaller_than_the_gpus(make_recipe: Callable[..., Path]) -> None:
    """Eight GPUs and four rows a step: four of them, whether the recipe names them or not."""
    for run in ({}, {"devices": 8}):
        plan = make(make_recipe(run=run), cards.machine_with(HERE, "h100", 8))
        assert (plan.devices.per_node, plan.devices.unfed) == (4, 4)
        assert plan.values["run.devices"].value == 4
        origin = plan.values["train.micro_batch_size"].origin
        assert origin.startswith("auto: a GPU's share of a step fits into 7")
        assert [text for text in plan.warnings if "only 4 of 8 get one" in text]
    with pytest.raises(RecipeError, match="this machine has 8 GPUs"):
        make(make_recipe(run={"devices": 16}), cards.machine_with(HERE, "h100", 8))


def test_the_disk_here_does_not_limit_a_plan_for_elsewhere(
    eight_billion: Path, make_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(model={"base": str(eight_billion)}, method={"name": "lora"})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(ResourceError, match="disk"):
        make(recipe, replace(HERE, memory_bytes=64 * GIB))
    assert planned(recipe, "--for", "h100")["disk"]["total"] > 16e9


def test_advice_on_a_cpu_counts_as_a_gpu_does(eight_billion_recipe: Path) -> None:
    """8B with LoRA on 24 GB of main memory: the sizes that are named are enough, and nearly the
    smallest that are."""
    with pytest.raises(ResourceError) as caught:
        make(eight_billion_recipe, HERE)
    found = re.search(r"at least (\d+) GiB in bfloat16, or (\d+) GiB with", caught.value.fix)
    assert found, caught.value.fix
    whole, quantized = (int(number) for number in found.groups())
    assert 18 <= whole <= 24
    assert 7 <= quantized <= 16
    for size, options in ((whole, ()), (quantized, ("--set", "model.quantize=nf4"))):
        planned(eight_billion_recipe, "--for", f"{size}GiB", *options)
        smaller = tuner(
            *("plan", "--recipe", str(eight_billion_recipe), "--for", f"{size - 1}GiB", *options),
            cwd=eight_billion_recipe.parent,
        )
        assert smaller.returncode == 7


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--for", "rtx9999"), "known GPUs: t4"),
        (("--for", "24GB"), "--for 24GiB"),
        (("--devices", "2"), "--for h100"),
        (("--for", "h100", "--rehearse"), "a rehearsal runs on this machine"),
        (("--for", "h100", "--set", "run.device=cpu"), "run.device: cpu"),
    ],
)
def test_what_cannot_be_planned_for_is_refused(
    make_recipe: Callable[..., Path], options: tuple[str, ...], words: str
) -> None:
    done = tuner("plan", "--recipe", str(make_recipe()), *options, cwd=Path.cwd())
    assert done.returncode == RecipeError.exit_code
    assert words in done.stderr


def test_every_card_has_a_plan(make_recipe: Callable[..., Path]) -> None:
    for name, card in cards.CARDS.items():
        made = make(make_recipe(), cards.machine_with(HERE, name, 1))
        assert made.device == "cuda"
        assert made.dtype == ("bfloat16" if card.bf16 else "float16")


@pytest.mark.usefixtures("in_process")
def test_a_dry_run_refuses_what_resuming_refuses(
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    bases: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Other options, a damaged checkpoint, another base: each with the resumption's own words, and
    nothing in the folder changes."""
    recipe = make_recipe(train={"save_steps": 2}, eval={"enabled": False, "samples": 0})
    run_recipe(recipe)
    run = tmp_path / "run"

    def resume(*options: str) -> tuple[int, str]:
        words = ("sft", "--recipe", str(recipe), "--output", str(run), "--resume", *options)
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        done = tuner(*words, "--dry-run", cwd=tmp_path)
        after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        assert after == before
        if done.returncode:
            again = tuner(*words, cwd=tmp_path)
            assert again.returncode == done.returncode
            assert again.stderr.splitlines()[-3:] == done.stderr.splitlines()[-3:]
        return done.returncode, done.stdout + done.stderr

    code, said = resume()
    assert code == 0, said
    assert "resumes after step 4" in said
    code, said = resume("--set", "train.learning_rate=0.02")
    assert code == 6
    assert "train.learning_rate" in said
    code, said = resume("--set", f"model.base={bases('llama', seed=1)}")
    assert code == 6
    assert "the base model is not the one" in said
    code, said = resume("--set", "data.eval=0.25")
    assert code == 6
    assert "the training rows differ: data.eval: eval.jsonl in the run, 0.25 now" in said
    flags = said.partition("\nfix: resume with ")[2].partition(", or start a new run")[0].split()
    assert "data.eval=eval.jsonl" in flags
    assert resume(*flags)[0] == 0
    # Other held-out rows change no update, but what the scores mean.
    (tmp_path / "eval.jsonl").write_text('{"instruction": "Say 7.", "output": "foo bar"}\n')
    code, said = resume()
    assert code == 0, said
    assert "warning: other rows are held out than when the run began, so both scores are" in said
    assert "(eval.jsonl has changed: 4 rows of sha256" in said


@pytest.mark.parametrize(("device", "dtype"), [("cuda", "float32"), ("cpu", "auto")])
def test_a_run_goes_on_in_the_type_that_auto_once_meant(
    device: str, dtype: str, make_recipe: Callable[..., Path]
) -> None:
    """On a GPU without bfloat16 that was float32, whatever the method."""
    recipe = make_recipe()
    folder = recipe.parent / "run"
    folder.mkdir()
    said = {"run.device": device, "model.dtype": "float32"}
    values = {key: {"value": value, "origin": "auto: x"} for key, value in said.items()}
    record = {"format": 1, "tuner": "0.1.0", "status": "stopped", "plan": {"values": values}}
    (folder / "run.json").write_text(json.dumps(record), "utf-8")
    begun = as_begun(recipe_load.load(recipe, verb="sft"), folder)
    assert begun.recipe.model.dtype == dtype
    t4 = cards.machine_with(HERE, "t4", None)
    made = plan_make.make(begun, t4, output=folder)
    assert made.dtype == ("float32" if device == "cuda" else "float16")
