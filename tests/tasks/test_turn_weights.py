"""What the turns of a conversation weigh in the loss, against a computation by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import oracle
from tests.conftest import WORDS, write_rows
from tests.tasks.fitting import Fit, Reference, make_plan
from tuner.errors import DataError, RecipeError
from tuner.evaluate import likelihood

pytestmark = pytest.mark.usefixtures("in_process", "one_thread")

# Weights of the two answers of a row.
WEIGHTS = [(0.5, 1), (1, 0.25), (True, True), (0, 0.1), (0.125, False), (1, 1)]


def weighted_rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Conversations of two answers of uneven lengths."""
    made = []
    for number in range(start, start + count):
        turns: list[dict[str, Any]] = []
        for place, weight in enumerate(WEIGHTS[number % len(WEIGHTS)]):
            said = " ".join(WORDS[(number + k * 5) % len(WORDS)] for k in range(1 + number % 7))
            turns += [
                {"role": "user", "content": f"Say number {number}."},
                {"role": "assistant", "content": said + " so" * place, "weight": weight},
            ]
        made.append({"messages": turns})
    return made


def by_hand(network: torch.nn.Module, examples: list[Any], rows: list[dict[str, Any]]) -> Any:
    """Sum of w * -log p over the tokens of all answers, divided by the sum of w.

    The weights come from the rows as they are in the file, one for each stretch of targets.
    """
    total, divisor = torch.zeros(()), 0.0
    for example in examples:
        turns = rows[int(example.row.split(":")[1]) - 1]["messages"]
        weights = [float(turn["weight"]) for turn in turns if turn.get("weight")]
        logits = network(input_ids=torch.tensor([example.input_ids]), use_cache=False).logits[0]
        place = 0
        stretches = [(flag, len([*group])) for flag, group in groupby(example.supervised)]
        learned = iter(weights)
        assert sum(flag for flag, _ in stretches) == len(weights)
        for flag, length in stretches:
            weight = next(learned) if flag else 0.0
            for target in range(place, place + length) if flag else ():
                probability = logits[target - 1].double().log_softmax(0)[example.input_ids[target]]
                total = total - weight * probability
                divisor += weight
            place += length
    return total / divisor


@pytest.mark.parametrize(("micro", "packing"), [(16, True), (4, True), (16, False), (4, False)])
def test_an_update_weighs_each_turn(
    make_recipe: Callable[..., Path],
    bases: Callable[[str], Path],
    fit: Callable[..., Fit],
    micro: int,
    packing: bool,
) -> None:
    """Packed and padded, in one micro-batch and in four: loss, gradients and update of 16 rows."""
    rows = weighted_rows(16)
    train = {"batch_size": 16, "micro_batch_size": micro}
    data = {"template": "chat", "packing": packing, "eval": 0}
    done = fit(make_recipe(data_rows=rows, train=train, data=data))
    assert done.plan.gradient_accumulation_steps == 16 // micro
    reference = Reference(done, bases("llama"))
    examples = done.plan.prepared.train
    wanted = by_hand(reference.network, examples, rows)
    assert wanted.item() != pytest.approx(oracle.mean_loss(reference.network, examples), rel=1e-4)
    loss, norm = reference.update(wanted, oracle.linear_rate(0.01, 0, 1, 0))
    (logged,) = done.metrics
    assert logged["loss"] == pytest.approx(loss, rel=1e-6)
    assert logged["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert logged["supervised_tokens"] == sum(sum(row.supervised) for row in examples)
    reference.check(done, 1)


@pytest.mark.parametrize("packing", [True, False])
def test_held_out_rows_are_weighed_alike(
    make_recipe: Callable[..., Path], bases: Callable[[str], Path], tmp_path: Path, packing: bool
) -> None:
    rows = weighted_rows(6)
    data = {"template": "chat", "packing": packing, "eval": "held.jsonl"}
    write_rows(tmp_path / "held.jsonl", rows)
    plan = make_plan(make_recipe(data_rows=weighted_rows(2, 50), data=data), tmp_path / "out")
    network: Any = AutoModelForCausalLM.from_pretrained(
        bases("llama"), attn_implementation="eager", dtype=torch.float32
    ).eval()
    if packing:
        from tuner.run import build

        network = build.start(plan, build.load(plan)).model.eval()
    with torch.no_grad():
        observed = likelihood.observe(plan, network, plan.prepared.eval, lambda done, all_: None)
        wanted = by_hand(network, [row.example for row in plan.prepared.eval], rows)
    assert likelihood.mean_loss(observed) == pytest.approx(float(wanted), rel=1e-5)
    share = likelihood.token_accuracy(observed)
    assert share is not None
    assert 0 <= share <= 1


def test_other_weights_make_another_run(make_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """A run is not resumed on the same tokens with other weights."""
    data = {"template": "chat", "eval": 0}
    rows = weighted_rows(4)
    one, other = (
        make_plan(
            make_recipe(data_rows=json.loads(json.dumps(rows).replace("0.25", said)), data=data),
            tmp_path / said,
        )
        for said in ("0.25", "0.75")
    )
    assert one.prepared.train[1].input_ids == other.prepared.train[1].input_ids
    assert one.identity() != other.identity()


PAIR = [
    {"role": "user", "content": "Now?"},
    {"role": "assistant", "content": "Yes.", "weight": 0.5},
]


def test_fractions_are_refused_where_answers_are_learned_whole(
    preferences: Callable[..., Path], make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    from tuner.machine import hardware
    from tuner.plan import make
    from tuner.recipe import load as recipe_load

    worse = [PAIR[0], {"role": "assistant", "content": "No."}]
    recipe = preferences([{"chosen": PAIR, "rejected": worse}], data={"eval": 0})
    with pytest.raises(DataError) as caught:
        make.make(recipe_load.load(recipe, verb="reward"), hardware.detect(), output=tmp_path / "o")
    assert "0.5" in str(caught.value.problems) + caught.value.why
    recipe = preferences(data={"learn": "all"})
    with pytest.raises(RecipeError, match=r"data\.learn"):
        make.make(recipe_load.load(recipe, verb="reward"), hardware.detect(), output=tmp_path / "o")
    base = make_recipe(
        "t5",
        data_rows=[{"messages": PAIR}],
        tokenizer="seq2seq",
        data={"template": "chat", "eval": 0},
    )
    with pytest.raises(DataError) as caught:
        make_plan(base, tmp_path / "p")
    assert "learns answers whole" in str(caught.value.problems) + caught.value.why
