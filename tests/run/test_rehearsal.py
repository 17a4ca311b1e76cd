"""`--rehearse`: every part of a run tried aside on a few steps; and the times that plans tell."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import rows
from tests.run.chains import write_chain
from tuner import cli
from tuner.console import formatting
from tuner.data.tokens import order
from tuner.machine import hardware
from tuner.plan import costs, make, plan, rates
from tuner.plan.devices import Devices
from tuner.plan.rates import Rate
from tuner.recipe import load as recipe_load
from tuner.record import checkpoint
from tuner.run import rehearsal_plan
from tuner.tasks import gradients, sft
from tuner.tasks.leg import Leg

RATE = Rate(100.0, 2.0, 3.0, 0.5, 0.25, 0.125, 7.0, "rehearsal", "2026-01-31")
ADAPTER = {"formats": ["adapter"]}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tuner(recipe: Path, *options: str, verb: str = "sft") -> tuple[int, list[dict[str, Any]]]:
    """Exit code and JSON events of a command in this process; its runs lie beside the recipe."""
    out = io.StringIO()
    arguments = [verb, "--recipe", str(recipe), "--json", *options]
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.chdir(recipe.parent),
        pytest.raises(SystemExit) as stop,
    ):
        cli.main(arguments)
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    return int(stop.value.code or 0), events


def only(events: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (found,) = [event for event in events if event["event"] == name]
    return found


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def make_plan(recipe: Path, *overrides: str) -> plan.Plan:
    loaded = recipe_load.load(recipe, overrides, "sft")
    return make.make(loaded, hardware.detect(), output=recipe.parent / "run")


def told_time(recipe: Path, *options: str) -> dict[str, Any] | None:
    code, events = tuner(recipe, "--dry-run", *options)
    assert code == 0
    found: dict[str, Any] | None = only(events, "plan")["plan"].get("time")
    return found


def test_all_parts_are_tried_and_nothing_stays(make_recipe: Callable[..., Path]) -> None:
    """And a later plan tells the time: of these settings, of others, and none where nothing is
    known."""
    recipe = make_recipe(method={"name": "lora", "r": 4, "dropout": 0.1}, export=ADAPTER)
    other = make_recipe("gpt2", name="other.yaml", export=ADAPTER)
    before = files(recipe.parent)
    assert told_time(recipe) is None
    code, events = tuner(recipe, "--rehearse", "--output", "deep/down/run")
    assert code == 0, events[-1]
    assert files(recipe.parent) == before
    found = only(events, "rehearsal")
    parts = {part["part"].partition(" ")[0].rstrip(",") for part in found["parts"]}
    tried = {"load", "score", "sample", "step", "training", "save", "reload", "export"}
    assert parts == tried
    assert all(part["seconds"] > 0 for part in found["parts"])
    assert len(found["steps_seconds"]) == 3
    assert found["largest_difference"] == 0.0
    assert found["memory_ratio"] == found["peak_memory_bytes"] / found["planned_memory_bytes"] > 0
    assert found["run"]["total"] == pytest.approx(
        sum(part["in_run_seconds"] or 0.0 for part in found["parts"]), abs=0.3
    )
    told = told_time(recipe)
    assert told is not None
    assert told["seconds"] == found["run"]
    assert (found["cost"], told.get("cost")) == (None, None)
    priced = told_time(recipe, "--set", "run.price_per_hour=36", "--set", "run.seed=7")
    assert priced is not None
    assert priced["cost"] == pytest.approx(priced["seconds"]["total"] / 100, rel=0.1)
    date = rates.today()
    assert told["measured"] == f"on this machine {date} (a rehearsal with these settings)"
    twice = told_time(recipe, "--set", "train.epochs=8")
    assert twice is not None
    assert twice["seconds"]["training"] > told["seconds"]["training"]
    near = told_time(recipe, "--set", "method.r=8")
    assert near is not None
    assert near["measured"].endswith("(a rehearsal with this base and method, other settings)")
    assert told_time(recipe, "--set", "method.name=dora") is None
    assert told_time(other) is None


def test_a_step_that_does_not_resume_exactly_is_told(
    make_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    true = checkpoint.restore

    def inexact(found: Any, parameters: Any, *others: Any) -> None:
        true(found, parameters, *others)
        with torch.no_grad():
            next(iter(parameters.values())).add_(1e-6)

    monkeypatch.setattr(checkpoint, "restore", inexact)
    recipe = make_recipe()
    before = files(recipe.parent)
    code, events = tuner(recipe, "--rehearse", "--output", "run")
    assert code == 6
    assert "step 3 taken from the checkpoint" in only(events, "error")["error"]["why"]
    assert files(recipe.parent) == before
    assert told_time(recipe) is None


def test_what_stops_the_run_stops_its_rehearsal(
    make_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same exit code, and a signal with its own; nothing is left."""
    recipe = make_recipe()
    before = files(recipe.parent)

    true = sft.token_loss

    def broken(*args: Any, **keys: Any) -> torch.Tensor:
        return true(*args, **keys) * math.nan

    with monkeypatch.context() as patch:
        patch.setattr(sft, "token_loss", broken)
        code, events = tuner(recipe, "--rehearse", "--output", "run")
    assert (code, only(events, "error")["error"]["kind"]) == (5, "training")
    assert files(recipe.parent) == before

    clip = gradients.clip

    def signalled(leg: Leg, *args: Any) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        return clip(leg, *args)

    monkeypatch.setattr(gradients, "clip", signalled)
    code, events = tuner(recipe, "--rehearse", "--output", "run")
    assert code == 143
    assert "--resume" not in only(events, "error")["error"]["fix"]
    assert files(recipe.parent) == before


def test_the_first_step_has_the_longest_rows(make_recipe: Callable[..., Path]) -> None:
    made = make_plan(make_recipe(data_rows=rows(30), train={"batch_size": 4}))
    moved = rehearsal_plan.longest_first(made)
    assert sorted(row.row for row in moved) == sorted(row.row for row in made.prepared.train)
    longest = sorted((row.num_tokens for row in moved), reverse=True)[:4]
    stream = order.Stream(moved, made.recipe.run.seed, 0, 8, 4, grouped=False)
    assert [row.num_tokens for row in stream.step(0)] == longest
    short = rehearsal_plan.short_of(made, made.output)
    assert [(stage.start, stage.stop) for stage in short.stages] == [(0, 3)]


def test_a_stage_that_is_not_done_is_not_run_for_a_rehearsal(
    tmp_path: Path, bases: Callable[[str], Path]
) -> None:
    recipe = write_chain(tmp_path, bases("llama"))
    before = files(tmp_path)
    code, events = tuner(recipe, "--rehearse", verb="rlhf")
    assert code == 2
    assert "--rehearse" in only(events, "error")["error"]["fix"]
    assert files(tmp_path) == before


def test_a_run_leaves_its_rate_and_tells_its_cost(
    tmp_path: Path, make_recipe: Callable[..., Path], run_recipe: Callable[..., dict[str, Any]]
) -> None:
    recipe = make_recipe(export=ADAPTER, run={"price_per_hour": 2.5})
    record = run_recipe(recipe)
    assert record["cost"] == pytest.approx(2.5 * record["durations"]["total"] / 3600)
    assert f", for {formatting.money(record['cost'])}" in (tmp_path / "run/report.html").read_text()
    told = told_time(recipe)
    assert told is not None
    assert told["measured"].endswith("(a run with these settings)")
    assert 0.2 < told["seconds"]["total"] / record["durations"]["total"] < 2


def test_times_go_by_the_tokens_of_the_rows(make_recipe: Callable[..., Path]) -> None:
    """16 rows for 2.5 epochs in steps of 4 are 10 steps, with checkpoints after 4, 8 and 10."""
    made = make_plan(
        make_recipe(train={"epochs": 2.5, "save_steps": 4}),
    )
    tokens = sum(row.num_tokens for row in made.prepared.train)
    found = costs.times(made, RATE)
    assert found.training == pytest.approx(2.5 * tokens / 100)
    assert found.scoring == 2 * (4 * 0.5 + 0.25)
    assert found.saving == 3 * 0.125
    assert found.total == pytest.approx(3 + 4.5 + 0.025 * tokens + 0.375 + 7)
    assert costs.cost(made, 7200) is None
    several = replace(
        make_plan(make_recipe(run={"price_per_hour": 3})), devices=Devices(per_node=8, nodes=4)
    )
    assert costs.cost(several, 7200) == 24.0
    cut = make_plan(make_recipe(train={"epochs": 2.5, "max_steps": 2}))
    assert costs.times(cut, RATE).training == pytest.approx(8 / 16 * tokens / 100)


def test_damaged_and_old_rates_are_passed_over(make_recipe: Callable[..., Path]) -> None:
    made, present = make_plan(make_recipe()), hardware.detect()
    path = rates.keep(made, present, RATE)
    assert path is not None
    assert rates.measured_rates(made, present) == rates.MeasuredRates(RATE, same=True)
    slower = replace(present, cpu_count=present.cpu_count + 1)
    assert rates.measured_rates(made, slower) is None or "OMP_NUM_THREADS" in os.environ
    body = json.loads(path.read_text())
    path.write_text(json.dumps({**body, "format": 0}))
    assert rates.measured_rates(made, present) is None
    path.write_text('{"format": 1, "kin"')
    assert rates.measured_rates(made, present) is None
    for number in range(300):
        (path.parent / f"{number}.json").write_text("{}")
    assert rates.keep(made, present, RATE) == path
    assert len(list(path.parent.iterdir())) == 256
    assert rates.measured_rates(made, present) is not None


@pytest.mark.parametrize("flag", ["--dry-run", "--resume"])
def test_what_a_rehearsal_is_not_is_refused(
    flag: str, make_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither flag is silently the one that counts."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["lora", "--recipe", str(make_recipe()), "--rehearse", flag])
    assert caught.value.code == 2
    assert "use one of them" in capsys.readouterr().err
