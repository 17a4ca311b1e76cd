"""Training against an independent oracle: G0, H08, H11, M12, N01 to N04, N06 to N08, N14, N16."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests import oracle
from tests.conftest import rows
from tuner import evaluate
from tuner.console.console import Console
from tuner.data import order as data_order
from tuner.errors import TrainingError
from tuner.evaluate import likelihood
from tuner.machine import hardware
from tuner.machine.signals import StopRequest
from tuner.plan import make
from tuner.recipe import load as recipe_load
from tuner.record import checkpoint
from tuner.record.run_folder import RunFolder
from tuner.run import build, spine
from tuner.tasks import optimizer, sft
from tuner.tasks import trained as tasks_trained

pytestmark = pytest.mark.usefixtures("in_process")

ROOT = Path(__file__).parents[2]
Tensors = dict[str, torch.Tensor]


@dataclass
class Fit:
    """What training alone left: no scores, no export.

    Attributes:
        plan: what was trained.
        model: the trained model.
        start: its trained tensors before the first step.
        metrics: the lines of metrics.jsonl.
        stages: all tensors of the model after each stage but the last.
        unmoved: as the program says.
        folder: the run folder.
    """

    plan: Any
    model: Any
    start: Tensors
    metrics: list[dict[str, Any]]
    stages: list[Tensors]
    unmoved: list[str]
    folder: Path

    def tensors(self) -> Tensors:
        return tensors(self.model)

    def sealed(self, step: int) -> checkpoint.Checkpoint:
        return checkpoint.load(self.folder / "checkpoints" / f"step-{step}")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """The models are too small for two, and sums come in one order then."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tensors(live: Any, trained: bool = True) -> Tensors:
    return {
        name: parameter.detach().clone()
        for name, parameter in live.named_parameters()
        if parameter.requires_grad or not trained
    }


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., Fit]:
    """Train as a recipe says, without scores and export."""
    numbers = itertools.count()

    def go(recipe: Path, prepare: Callable[[Any], Any] = lambda live: None) -> Fit:
        made = make_plan(recipe, tmp_path / f"fit-{next(numbers)}")
        stages: list[Tensors] = []
        with StopRequest() as stop, RunFolder.open(made.output, resume=False) as folder:
            trained = build.start(made, build.load(made))
            prepare(trained.model)
            start = tensors(trained.model)
            spine.train(
                made,
                trained,
                folder,
                stop,
                Console(quiet=True),
                lambda number: stages.append(tensors(trained.model, trained=False)),
                None,
            )
        lines = (made.output / "metrics.jsonl").read_text().splitlines()
        metrics = [json.loads(line) for line in lines]
        return Fit(made, trained.model, start, metrics, stages, trained.unmoved, made.output)

    return go


def make_plan(recipe: Path, output: Path) -> Any:
    loaded = recipe_load.load(recipe, verb="sft")
    return make.make(loaded, hardware.detect(), output=output)


class Reference:
    """The oracle's model, under the run's names of the trained tensors."""

    def __init__(self, done: Fit, folder: Path) -> None:
        self.network = AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32
        ).eval()
        self.train = done.plan.recipe.train
        name = done.plan.recipe.method.name
        if name == "full":
            self.named = dict(self.network.named_parameters())
        else:
            factors = {
                key.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight"): (
                    value,
                    done.start[key.replace("lora_A", "lora_B")],
                )
                for key, value in done.start.items()
                if "lora_A" in key
            }
            kind = oracle.DoraLinear if name == "dora" else oracle.LoraLinear
            scale = 2.0  # method.alpha is 2 x r by default
            layers = oracle.put_lora(self.network, factors, scale, kind)
            self.named = {
                f"base_model.model.{layer}.{theirs}.default.weight": parameter
                for layer, module in layers.items()
                for theirs, parameter in (
                    ("lora_A", module.a),
                    ("lora_B", module.b),
                    *([("lora_magnitude_vector", module.m)] if name == "dora" else []),
                )
            }
        assert self.named.keys() == done.start.keys()
        self.optimizer = oracle.AdamW(list(self.named.values()), self.train.weight_decay)
        self.moved = 0.0

    def step(self, batch: list[Any], rate: float) -> tuple[float, float]:
        """One update; its loss and gradient norm."""
        for parameter in self.named.values():
            parameter.grad = None
        loss = oracle.step_loss(self.network, batch)
        loss.backward()
        for parameter in self.named.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm = oracle.clip(list(self.named.values()), self.train.max_grad_norm)
        self.optimizer.step(rate)
        self.moved += rate
        return float(loss), norm

    def check(self, done: Fit, step: int, several: bool = False) -> None:
        """The run's sealed step is this reference's: moments of the gradients, and tensors.

        Over several steps rounding grows, since Adam divides by small numbers: kernels that are as
        near to float64 as each other came to 0.7e-4 to 1.1e-4 after four steps of DoRA.
        """
        limit = 2e-4 if several else 1e-5
        sealed = done.sealed(step)
        first = dict(zip(self.named, self.optimizer.first, strict=True))
        second = dict(zip(self.named, self.optimizer.second, strict=True))
        largest = max(float(value.abs().max()) for value in first.values())
        for name, wanted in self.named.items():
            moment = sealed.optimizer_tensors[f"{name}/exp_avg"]
            scale = max(float(first[name].abs().max()), 1e-4 * largest)
            assert float((moment - first[name]).abs().max()) < limit * scale, name
            # Adam divides a gradient by its own size: where that is small, so is what is certain.
            root = second[name].sqrt()
            certain = limit * root.max() / root.clamp_min(1e-12)
            value = wanted.detach()
            difference = (sealed.tensors[name] - value).abs()
            bound = self.moved * certain + 1e-6 * value.abs().max()
            assert bool((difference <= 2 * self.moved + bound).all()), name
            assert float((difference <= bound).float().mean()) >= (0.999 if several else 1.0), name
            assert float((certain[root > 0] < 0.1).float().mean()) > 0.5 or not bool(root.any())


def order(done: Fit) -> list[list[Any]]:
    """The rows of every step of a run of one stage."""
    stage = done.plan.stages[0]
    batch = done.plan.recipe.train.batch_size
    places = sft.places(done.plan, stage)
    stream = data_order.Stream(
        done.plan.prepared.train,
        done.plan.recipe.run.seed,
        places.start,
        places.stop,
        batch,
        grouped=False,
    )
    return [stream.step(number) for number in range(stage.steps)]


CASES = [
    *(("lora", kind, micro, {}) for kind in ("llama", "gpt2") for micro in (16, 8, 4)),
    ("lora", "llama-tied", 4, {}),
    ("lora", "qwen2", 4, {}),
    *(("lora", "llama", micro, {"packing": False}) for micro in (16, 4)),
    ("lora", "gpt2", 8, {"packing": False}),
    ("lora", "mixtral", 16, {}),
    ("lora", "mixtral", 4, {}),
    *(("dora", "llama", micro, {}) for micro in (16, 4)),
    *(("full", "llama", micro, {}) for micro in (16, 8, 4)),
    ("full", "llama-tied", 4, {}),
    ("full", "gpt2", 4, {}),
]


@pytest.mark.parametrize(("method", "kind", "micro", "data"), CASES)
def test_one_update_is_the_oracles(
    method: str,
    kind: str,
    micro: int,
    data: dict[str, Any],
    make_recipe: Callable[..., Path],
    bases: Callable[[str], Path],
    fit: Callable[..., Fit],
) -> None:
    """N01: accumulation 1, 2, 4: gradients, update, logged loss and norm of 16 uneven rows."""
    train = {"batch_size": 16, "micro_batch_size": micro}
    done = fit(make_recipe(kind, method={"name": method}, train=train, data=data))
    assert done.plan.gradient_accumulation_steps == 16 // micro
    reference = Reference(done, bases(kind))
    loss, norm = reference.step(done.plan.prepared.train, oracle.linear_rate(0.01, 0, 1, 0))
    (logged,) = done.metrics
    assert logged["loss"] == pytest.approx(loss, rel=1e-6)
    assert logged["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert logged["supervised_tokens"] == sum(
        sum(row.supervised) for row in done.plan.prepared.train
    )
    reference.check(done, 1)


@pytest.mark.parametrize(
    ("method", "extra"),
    [("lora", {}), ("full", {"weight_decay": 0.1}), ("dora", {"max_grad_norm": 0.25})],
)
def test_steps_in_a_row_follow_the_oracle(
    method: str,
    extra: dict[str, float],
    make_recipe: Callable[..., Path],
    bases: Callable[[str], Path],
    fit: Callable[..., Fit],
) -> None:
    """N01: four steps with warmup, decay and clipping: moments, schedule and updates go on
    rightly."""
    train = {"micro_batch_size": 2, "warmup": 2, "learning_rate": 1e-3, **extra}
    done = fit(make_recipe(method={"name": method}, train=train))
    reference = Reference(done, bases("llama"))
    for number, batch in enumerate(order(done)):
        rate = oracle.linear_rate(1e-3, number, 4, 2)
        loss, norm = reference.step(batch, rate)
        logged = done.metrics[number]
        assert logged["learning_rate"] == pytest.approx(rate, rel=1e-12)
        assert logged["loss"] == pytest.approx(loss, rel=3e-6)
        assert logged["grad_norm"] == pytest.approx(norm, rel=3e-5)
    reference.check(done, 4, several=True)


@pytest.mark.parametrize("data", [{}, {"packing": False}])
def test_the_last_step_holds_the_rows_that_are_left(
    data: dict[str, Any],
    make_recipe: Callable[..., Path],
    bases: Callable[[str], Path],
    fit: Callable[..., Fit],
) -> None:
    """N02: 18 rows by 16: the second step has 2 rows in one micro-batch, and is the oracle's."""
    train = {"batch_size": 16, "micro_batch_size": 4, "learning_rate": 1e-3}
    done = fit(make_recipe(data_rows=rows(18), train=train, data=data))
    batches = order(done)
    assert [len(batch) for batch in batches] == [16, 2]
    seen = [row.row for batch in batches for row in batch]
    assert sorted(seen) == sorted(row.row for row in done.plan.prepared.train)
    reference = Reference(done, bases("llama"))
    for number, batch in enumerate(batches):
        rate = oracle.linear_rate(1e-3, number, 2, 1)
        loss, norm = reference.step(batch, rate)
        assert done.metrics[number]["loss"] == pytest.approx(loss, rel=1e-6)
        assert done.metrics[number]["grad_norm"] == pytest.approx(norm, rel=1e-5)
        assert done.metrics[number]["tokens"] == sum(len(row.input_ids) for row in batch)
    reference.check(done, 2, several=True)
    assert done.metrics[-1]["epoch"] == 1.0


@pytest.mark.parametrize("scheduler", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(
    ("count", "train", "steps"),
    [
        (16, {}, 4),
        (18, {"epochs": 2.5}, 12),
        (18, {"epochs": 0.1}, 1),
        (16, {"epochs": 3, "max_steps": 5}, 5),
        (3, {"batch_size": 16, "epochs": 2}, 1),
    ],
)
def test_the_plan_says_the_steps_that_are_done(
    scheduler: str,
    count: int,
    train: dict[str, Any],
    steps: int,
    make_recipe: Callable[..., Path],
    fit: Callable[..., Fit],
) -> None:
    """M12: the rate ends where the schedule ends."""
    train = {"scheduler": scheduler, "warmup": 0.1, "learning_rate": 0.003, **train}
    done = fit(make_recipe(data_rows=rows(count), train=train))
    assert [line["step"] for line in done.metrics] == list(range(1, steps + 1))
    assert done.plan.steps == steps == done.plan.facts["steps"]["total"]
    warmup = done.plan.stages[0].warmup_steps
    wanted = [0.003 * optimizer.rate_share(scheduler, step, steps, warmup) for step in range(steps)]
    assert [line["learning_rate"] for line in done.metrics] == wanted
    end = 0.003 if scheduler == "constant" or warmup == steps else 0.0
    assert done.sealed(steps).scheduler["_last_lr"] == [end]


def poison(
    monkeypatch: pytest.MonkeyPatch, call: int, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Change what the loss function returns at one of its calls, counted from 1."""
    true, calls = sft.token_loss, itertools.count(1)

    def changed(*args: Any, **kwargs: Any) -> torch.Tensor:
        loss = true(*args, **kwargs)
        return change(loss) if next(calls) == call else loss

    monkeypatch.setattr(sft, "token_loss", changed)


def watch_model(monkeypatch: pytest.MonkeyPatch, use: Callable[[Any], Any]) -> None:
    """Call `use` with the model before a whole run trains it."""
    true = build.start

    def start(*args: Any) -> tasks_trained.Trained:
        trained = true(*args)
        use(trained.model)
        return trained

    monkeypatch.setattr(build, "start", start)


def infinite_gradient(call: int) -> Callable[[Any], None]:
    """Put inf into one element of one factor's gradient at a call of the backward pass."""
    calls = itertools.count(1)

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        if next(calls) == call:
            gradient = gradient.clone()
            gradient[0, 0] = float("inf")
        return gradient

    def use(live: Any) -> None:
        next(p for n, p in live.named_parameters() if "lora_B" in n).register_hook(hook)

    return use


@pytest.mark.parametrize(
    ("name", "word"), [("loss", "nan"), ("loss", "inf"), ("gradient norm", "inf")]
)
def test_a_step_that_is_not_finite_is_not_taken(
    name: str,
    word: str,
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """N03, N04: poison in the second micro-batch of step 3: exit 5, the weights and files of step
    2."""
    live: list[Any] = []
    watch_model(monkeypatch, live.append)
    if name == "loss":
        poison(monkeypatch, 6, lambda loss: loss * float(word))
    else:
        watch_model(monkeypatch, infinite_gradient(6))
    recipe = make_recipe(train={"micro_batch_size": 2, "save_steps": 1}, eval={"enabled": False})
    with pytest.raises(TrainingError) as caught:
        run_recipe(recipe)
    error = caught.value
    assert error.exit_code == 5
    # The Trainer's own norm turns inf into nan before ours is taken.
    assert error.what in (f"the {name} is {word} at step 3", "the gradient norm is nan at step 3")
    made = make_plan(recipe, tmp_path / "unused")
    stream = data_order.Stream(made.prepared.train, 42, 8, 12, 4, grouped=False)
    assert all(row.row in error.why for row in stream.step(0))
    second = tmp_path / "run" / "checkpoints" / "step-2"
    assert str(second) in error.why
    sealed = checkpoint.load(second)
    assert same(tensors(live[0]), sealed.tensors)
    assert all(bool(value.isfinite().all()) for value in sealed.optimizer_tensors.values())
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["error"]) == ("failed", error.as_dict())
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in metrics] == [1, 2]


def test_tensors_that_never_moved_are_named(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any]
) -> None:
    """G0: at a rate below what float32 can add only factors that start at 0 move."""
    recipe = make_recipe(
        train={"learning_rate": 1e-30}, eval={"enabled": False}, export={"formats": ["adapter"]}
    )
    record = run_recipe(recipe)
    named = record["unmoved_tensors"]
    assert len(named) == 14
    assert all("lora_A" in name for name in named)


def test_every_tensor_moves_at_a_sane_rate(
    make_recipe: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    """G0"""
    for method in ("lora", "dora", "full"):
        done = fit(make_recipe(method={"name": method}))
        assert done.unmoved == []
        after = done.tensors()
        assert not any(torch.equal(after[name], before) for name, before in done.start.items())


@pytest.mark.parametrize("method", ["lora", "dora", "full", "last_layer"])
def test_what_is_trained_is_float32_whatever_is_computed_in(
    method: str, make_recipe: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    """N06: at this rate bfloat16 weights would round nearly every update away."""
    recipe = make_recipe(
        method={"name": method}, model={"dtype": "bfloat16"}, train={"learning_rate": 1e-5}
    )
    done = fit(recipe)
    assert done.unmoved == []
    after = done.tensors()
    assert {value.dtype for value in after.values()} == {torch.float32}
    moved = [float((after[n] != v).float().mean()) for n, v in done.start.items()]
    assert sum(moved) / len(moved) > 0.8


def test_learning_nothing_is_an_error(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    """G0"""
    recipe = make_recipe(
        method={"name": "full"}, train={"learning_rate": 1e-30}, eval={"enabled": False}
    )
    with pytest.raises(TrainingError, match="nothing was learned"):
        run_recipe(recipe)
    assert not (tmp_path / "run" / "merged").exists()


def test_a_run_without_any_gradient_stops_at_its_first_step(
    make_recipe: Callable[..., Path], fit: Callable[..., Fit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """G0"""
    poison(monkeypatch, 1, lambda loss: loss * 0.0)
    with pytest.raises(TrainingError, match="nothing can be learned"):
        fit(make_recipe())


def command(recipe: Path, folder: Path, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tuner", "lora", "--recipe", recipe, "--output", folder],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_fresh_processes_repeat_a_run_whatever_the_environment(
    make_recipe: Callable[..., Path], fit: Callable[..., Fit], tmp_path: Path
) -> None:
    """N14, H11: the second process has another hash seed and variables that would overrule the
    recipe."""
    sections = {
        "method": {"dropout": 0.1},
        "train": {"micro_batch_size": 2},
        "export": {"formats": ["adapter"]},
    }
    recipe = make_recipe(**sections)
    hostile = {
        "ACCELERATE_MIXED_PRECISION": "fp16",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    }
    command(recipe, tmp_path / "one", PYTHONHASHSEED="1")
    command(recipe, tmp_path / "two", PYTHONHASHSEED="2", **hostile)
    lines = [without_clock(tmp_path / name) for name in ("one", "two")]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 4
    adapters = [
        tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("one", "two")
    ]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "two")]
    assert [record["ignored_environment"] for record in records] == [[], list(hostile)]
    assert records[0]["scores"] == records[1]["scores"]
    # The same in this process, and another with another seed.
    here = fit(recipe)
    adapter = {
        name.replace(".weight", ".default.weight"): value
        for name, value in load_file(adapters[0]).items()
    }
    assert same(here.tensors(), adapter)
    assert not same(fit(make_recipe(**sections, run={"seed": 43})).tensors(), adapter)


def without_clock(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if key != "seconds"}
        for line in lines
    ]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_the_held_out_loss_is_the_oracles(
    kind: str,
    make_recipe: Callable[..., Path],
    bases: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """N16: weighted by tokens, packed or padded, whatever the batch and the number of rows."""
    reference = AutoModelForCausalLM.from_pretrained(
        bases(kind), attn_implementation="eager", dtype=torch.float32
    ).eval()
    for packing in (False,) if kind == "mixtral" else (True, False):
        for count, tokens in ((None, 1024), (None, 1), (3, 90), (1, 1024)):
            data = {"packing": packing, "eval": 12}
            made = make_plan(
                make_recipe(kind, eval={"max_rows": count}, data=data), tmp_path / "unused"
            )
            scored = made.prepared.eval[:count]
            assert len(scored) == (count or 12)
            monkeypatch.setattr(likelihood, "TOKENS_PER_BATCH", tokens)
            found = evaluate.score(made, build.load(made))["loss"]
            wanted = oracle.mean_loss(reference, [row.example for row in scored])
            assert found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("method", ["lora", "dora", "full"])
def test_recomputing_activations_changes_no_gradient(
    method: str, make_recipe: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    """N07, N08: it is done when asked for, and only then."""
    passes: list[int] = []

    def count(live: Any) -> None:
        passes.append(0)
        block = next(m for n, m in live.named_modules() if n.endswith("layers.0.mlp"))
        block.register_forward_pre_hook(lambda *_: passes.__setitem__(-1, passes[-1] + 1))

    plain, recomputed = (
        fit(
            make_recipe(
                method={"name": method},
                train={"gradient_checkpointing": asked, "batch_size": 16, "micro_batch_size": 8},
            ),
            count,
        )
        for asked in (False, True)
    )
    assert passes == [2, 4]
    gradients = [
        {n: v for n, v in done.sealed(1).optimizer_tensors.items() if n.endswith("exp_avg")}
        for done in (plain, recomputed)
    ]
    for name, wanted in gradients[0].items():
        difference = float((gradients[1][name] - wanted).abs().max())
        assert difference <= 1e-6 * float(wanted.abs().max()), name
    after = [done.tensors() for done in (plain, recomputed)]
    assert all(torch.allclose(after[0][n], after[1][n], rtol=0, atol=1e-6) for n in after[0])
    if method != "full":
        assert all(float(v.norm()) > 0 for n, v in after[1].items() if "lora_B" in n)


STAGES = [
    {"train": "last_layer", "epochs": 1, "learning_rate": 0.01},
    {"train": "all", "epochs": 1.5, "learning_rate": 0.001},
]
LAST = ("model.layers.1.", "model.norm.", "lm_head.")


def changed(before: Tensors, after: Tensors) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_last_layer_changes_the_final_block_norm_and_head_alone(
    make_recipe: Callable[..., Path], bases: Callable[[str], Path], fit: Callable[..., Fit]
) -> None:
    for kind, last in (("llama", LAST), ("gpt2", ("transformer.h.1.", "transformer.ln_f."))):
        before = tensors(AutoModelForCausalLM.from_pretrained(bases(kind)), trained=False)
        done = fit(make_recipe(kind, method={"name": "last_layer"}))
        names = {name for name in before if name.startswith(last)}
        if kind == "gpt2":  # its head is the embedding matrix
            names.add("transformer.wte.weight")
        assert changed(before, tensors(done.model, trained=False)) == names


def test_staged_trains_the_last_layer_then_everything(
    make_recipe: Callable[..., Path], bases: Callable[[str], Path], fit: Callable[..., Fit]
) -> None:
    """Each stage has its own weights, rate, schedule and whole epochs; the second is partial."""
    before = tensors(AutoModelForCausalLM.from_pretrained(bases("llama")), trained=False)
    recipe = make_recipe(
        data_rows=rows(18),
        method={"name": "staged", "stages": STAGES},
        train={"learning_rate": "auto", "warmup": 0},
    )
    done = fit(recipe)
    (between,) = done.stages
    assert changed(before, between) == {name for name in before if name.startswith(LAST)}
    assert changed(between, tensors(done.model, trained=False)) == set(before)
    assert [line["stage"] for line in done.metrics] == [1] * 5 + [2] * 7
    rates = [line["learning_rate"] for line in done.metrics]
    wanted = [0.01 * (5 - n) / 5 for n in range(5)] + [0.001 * (7 - n) / 7 for n in range(7)]
    assert rates == pytest.approx(wanted, rel=1e-12)
    assert done.metrics[4]["epoch"] == 1.0
    assert done.metrics[-1]["epoch"] == 2.5
    first, second = (sft.places(done.plan, stage) for stage in done.plan.stages)
    assert (first, second) == (range(18), range(18, 45))


def test_staged_scores_after_every_stage(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any]
) -> None:
    record = run_recipe(
        make_recipe(
            method={"name": "staged", "stages": STAGES},
            train={"learning_rate": "auto"},
        )
    )
    losses = [record["scores"][when]["loss"] for when in ("before", "stage_1", "after")]
    assert len(record["scores"]) == 3
    assert losses[0] > losses[1] != losses[2]


def test_logged_figures_are_those_of_the_whole_window(
    make_recipe: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    """The last window ends with the run."""
    train = {"epochs": 2}
    each = fit(make_recipe(train=train)).metrics
    windows = fit(make_recipe(train={**train, "logging_steps": 3})).metrics
    assert [line["step"] for line in windows] == [3, 6, 8]
    for line, part in zip(windows, (each[:3], each[3:6], each[6:]), strict=True):
        losses = [step["loss"] for step in part]
        assert line["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-12)
        for key in ("tokens", "supervised_tokens"):
            assert line[key] == sum(step[key] for step in part)
        for key in ("grad_norm", "learning_rate", "epoch"):
            assert line[key] == part[-1][key]


# H08: every key that touches the update, with another value than the fixture's or the default.
LIVE: list[tuple[str, Any]] = [
    ("train.batch_size", 8),
    ("train.learning_rate", 0.02),
    ("train.scheduler", "cosine"),
    ("train.scheduler", "constant"),
    ("train.warmup", 2),
    ("train.weight_decay", 0.5),
    ("train.max_grad_norm", 0.1),
    ("train.epochs", 1.5),
    ("train.max_steps", 2),
    ("train.adam_beta1", 0.5),
    ("train.adam_beta2", 0.9),
    ("train.adam_epsilon", 0.01),
    ("run.seed", 7),
    ("data.max_length", 32),
    ("data.max_rows", 8),
    ("method.name", "rslora"),
    ("method.name", "dora"),
    ("method.r", 4),
    ("method.alpha", 5),
    ("method.dropout", 0.3),
    ("method.target_modules", ["q_proj", "v_proj"]),
    *(("method.init", name) for name in ("pissa", "olora", "eva")),
]


PLAIN: list[Tensors] = []


@pytest.mark.parametrize(("key", "value"), LIVE)
def test_every_key_of_the_update_changes_it(
    key: str, value: Any, make_recipe: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    """H08"""
    section, name = key.split(".")
    if not PLAIN:
        PLAIN.append(fit(make_recipe()).tensors())
    other = fit(make_recipe(**{section: {name: value}}))
    assert not same(PLAIN[0], other.tensors())


def test_the_same_recipe_changes_nothing(
    make_recipe: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    """H08: what the liveness tests see is the key, not chance."""
    assert same(fit(make_recipe()).tensors(), fit(make_recipe()).tensors())


def test_the_seed_decides_the_order_too(
    make_recipe: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    """H08: full weights start from no random numbers: what differs is the order of the rows."""
    full = {"method": {"name": "full"}}
    one, other = (fit(make_recipe(**full, run={"seed": seed})) for seed in (42, 7))
    assert same(one.start, other.start)
    assert [line["tokens"] for line in one.metrics] != [line["tokens"] for line in other.metrics]


def test_keys_that_leave_the_update_alone_are_alive_too(
    make_recipe: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    """H08: Micro-batches are forward passes, packing makes one row of many."""
    shapes: list[list[tuple[int, int]]] = []

    def look(live: Any) -> None:
        shapes.append([])
        live.get_input_embeddings().register_forward_hook(
            lambda module, inputs, output: shapes[-1].append(tuple(inputs[0].shape))
        )

    train = {"batch_size": 16, "micro_batch_size": 16}
    fit(make_recipe(train=train), look)
    fit(make_recipe(train={**train, "micro_batch_size": 4}), look)
    fit(make_recipe(train=train, data={"packing": False}), look)
    assert [len(passes) for passes in shapes] == [1, 4, 1]
    assert [passes[0][0] for passes in shapes] == [1, 1, 16]

    saved = fit(make_recipe(train={"save_steps": 3}))
    names = sorted(path.name for path in (saved.folder / "checkpoints").iterdir())
    assert names == ["step-3", "step-4"]
