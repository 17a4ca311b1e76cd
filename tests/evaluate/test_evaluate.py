"""Scores and answers: M01, M13, and every figure against a count by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import oracle
from tests.conftest import rows as instruction_rows
from tests.conftest import write_rows
from tests.tiny import KINDS
from tuner import evaluate
from tuner.data.tokens.example import Example
from tuner.data.tokens.prepared import EvalRow
from tuner.evaluate import generation, likelihood
from tuner.evaluate.likelihood import Observation
from tuner.export import run_end
from tuner.machine import hardware
from tuner.plan import make as plan_make
from tuner.plan import plan
from tuner.recipe import load as recipe_load
from tuner.run import build

pytestmark = pytest.mark.usefixtures("in_process")

# Of different lengths in tokens, and beginnings of each other.
LABELS = ["no", "no change", "no change at all", "yes", "yes, the tenant shall pay"]


def make(recipe: Path) -> plan.Plan:
    loaded = recipe_load.load(recipe)
    return plan_make.make(loaded, hardware.detect(), output=recipe.parent / "unused")


def labelled(number: int) -> list[dict[str, str]]:
    return [
        {
            "instruction": "Say which, " + "and again " * (n % 4),
            "input": f"case {n}",
            "output": label,
        }
        for n, label in enumerate((LABELS * number)[:number])
    ]


@pytest.fixture
def labels_plan(make_recipe: Callable[..., Path], tmp_path: Path) -> Callable[..., plan.Plan]:
    """A plan whose held-out rows carry one of LABELS each."""

    def make_it(kind: str = "llama", **sections: Any) -> plan.Plan:
        recipe = make_recipe(kind, data={"labels": LABELS}, **sections)
        write_rows(tmp_path / "eval.jsonl", labelled(7))
        return make(recipe)

    return make_it


@torch.no_grad()
def alone(network: Any, example: Example) -> tuple[float, int]:
    """Negative log-likelihood of the supervised tokens of one row run alone, and the hits."""
    scores = network(input_ids=torch.tensor([example.input_ids]), use_cache=False).logits[0]
    total, hits = 0.0, 0
    for place, wanted in enumerate(example.supervised):
        if wanted and place > 0:
            token = example.input_ids[place]
            total -= float(torch.log_softmax(scores[place - 1].double(), 0)[token])
            hits += int(scores[place - 1].argmax()) == token
    return total, hits


@pytest.mark.parametrize("kind", KINDS)
def test_every_label_is_scored_as_if_alone(
    kind: str, labels_plan: Callable[..., plan.Plan]
) -> None:
    """All labels of several prompts in one pass, or one by one where rows cannot be packed."""
    made = labels_plan(kind)
    network = build.load(made)
    rows = made.prepared.eval
    assert [len(row.options) for row in rows] == [len(LABELS)] * 7
    lengths = {len(option.input_ids) for option in rows[0].options}
    assert len(lengths) > 2
    wanted = [[alone(network, option)[0] for option in row.options] for row in rows]
    for gold in range(len(LABELS)):
        asked = [replace(row, gold=gold) for row in rows]
        observed = likelihood.observe(made, network, asked, lambda done, total: None)
        for item, losses in zip(observed, wanted, strict=True):
            assert item.loss_sum == pytest.approx(losses[gold], rel=1e-5)
            assert item.choice == min(range(len(losses)), key=losses.__getitem__)
            assert item.tokens == sum(item.row.options[gold].supervised)
            assert item.correct == alone(network, item.row.options[gold])[1]


def test_the_prompt_of_the_labels_is_computed_once(
    labels_plan: Callable[..., plan.Plan],
) -> None:
    made = labels_plan("llama")
    network = build.load(made)
    counted = []
    network.model.layers[0].register_forward_pre_hook(
        lambda module, arguments: counted.append(arguments[0].shape[1])
    )
    row = made.prepared.eval[0]
    likelihood.observe(made, network, [row], lambda done, total: None)
    assert sum(counted) < len(row.prompt_ids) + sum(
        len(option.input_ids) - len(row.prompt_ids) for option in row.options
    )


@pytest.mark.parametrize("kind", KINDS)
def test_loss_perplexity_and_token_accuracy_against_the_oracle(
    kind: str, make_recipe: Callable[..., Path]
) -> None:
    made = make(make_recipe(kind))
    network = build.load(made)
    examples = [row.example for row in made.prepared.eval]
    counts = [sum(example.supervised[1:]) for example in examples]
    assert len({*counts}) > 1  # else a mean of means would do
    scores = evaluate.score(made, network)
    loss = oracle.mean_loss(network, examples)
    hits = sum(alone(network, example)[1] for example in examples)
    assert scores == {
        "loss": pytest.approx(loss, rel=1e-6),
        "perplexity": pytest.approx(math.exp(loss), rel=1e-5),
        "token_accuracy": hits / sum(counts),
    }


def test_the_size_of_a_batch_changes_nothing(
    labels_plan: Callable[..., plan.Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = labels_plan("llama")
    network = build.load(made)
    found = []
    for size in (1, 100, 100_000):
        monkeypatch.setattr(likelihood, "TOKENS_PER_BATCH", size)
        found.append(evaluate.score(made, network))
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert found[0] == pytest.approx(found[2], rel=1e-6)
    assert {"loss", "label_accuracy"} <= found[0].keys()


def test_scoring_leaves_the_model_in_its_mode(make_recipe: Callable[..., Path]) -> None:
    """Dropout is off while scoring, and on again afterwards."""
    from tuner.run import build

    made = make(make_recipe(method={"dropout": 0.5}, eval={"samples": 1}))
    network = build.start(made, build.load(made)).model
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    network.train()
    assert evaluate.score(made, network) == evaluate.score(made, network)
    assert evaluate.samples(made, network) == evaluate.samples(made, network)
    assert network.training
    network.eval()
    evaluate.score(made, network)
    assert not network.training


ROW = EvalRow(Example("row:1", [1, 2, 3], [False, False, True]), [1, 2], "prompt", "", [], None)


def seen(
    choice: int | None, gold: int | None, answer: str | None = None, reference: str = ""
) -> Any:
    row = replace(ROW, gold=gold, reference=reference)
    return Observation(row, 1.0, 1, 1, choice, answer)


def test_label_accuracy_counts_rows_with_labels_only() -> None:
    observed = [seen(0, 0), seen(1, 0), seen(2, 2), seen(0, 2), seen(None, None)]
    assert likelihood.label_accuracy(observed) == 0.5
    assert likelihood.label_accuracy([seen(0, 0)]) == 1.0
    assert likelihood.label_accuracy([seen(None, None)]) is None
    assert likelihood.label_accuracy([]) is None


def test_means_are_over_tokens_not_rows() -> None:
    observed = [Observation(ROW, 8.0, 4, 1), Observation(ROW, 4.0, 1, 1)]
    assert likelihood.mean_loss(observed) == 2.4
    assert likelihood.perplexity(observed) == math.exp(2.4)
    assert likelihood.token_accuracy(observed) == 0.4
    assert likelihood.perplexity([Observation(ROW, 1e9, 1, 0)]) < math.inf
    assert likelihood.mean_loss([]) is None


def test_exact_match_forgives_case_width_and_white_space() -> None:
    pairs = [
        ("The  Answer\n", "the answer"),
        ("ＡＢＣ１", "abc1"),
        ("Straße", "STRASSE"),
        ("answer.", "answer"),
        ("", "answer"),
    ]
    observed = [seen(None, None, answer, reference) for answer, reference in pairs]
    assert generation.exact_match(observed) == 0.6
    assert generation.exact_match([seen(None, None)]) is None


def test_exact_match_is_scored_where_asked(make_recipe: Callable[..., Path]) -> None:
    made = make(make_recipe(eval={"metrics": ["loss", "exact_match"], "max_new_tokens": 4}))
    scores = evaluate.score(made, build.load(made))
    assert scores.keys() == {"loss", "exact_match"}
    assert scores["exact_match"] == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_answers_as_each_prompt_alone(
    kind: str, make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """M13"""
    recipe = make_recipe(kind, eval={"max_new_tokens": 12})
    write_rows(
        tmp_path / "eval.jsonl",
        [
            {"instruction": "Say " + "the rent of each month " * n + ".", "output": f"x {n}"}
            for n in range(5)
        ],
    )
    made = make(recipe)
    network = build.load(made)
    rows = made.prepared.eval
    assert len({len(row.prompt_ids) for row in rows}) == 5
    together = generation.answer(made, network, rows)
    assert together == [generation.answer(made, network, [row])[0] for row in rows]
    assert together == [text(made, greedy(made, network, row, 12)) for row in rows]
    assert len({*together}) > 1


def text(made: plan.Plan, ids: list[int]) -> str:
    return str(made.tokenizer.decode(ids)).strip()


@torch.no_grad()
def greedy(made: plan.Plan, network: Any, row: EvalRow, most: int) -> list[int]:
    """Greedy decoding without a cache, padding or a batch."""
    ids = list(row.prompt_ids)
    for _ in range(most):
        logits = network(input_ids=torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] in {made.tokenizer.eos_token_id, *made.stop_ids}:
            ids.pop()
            break
    return ids[len(row.prompt_ids) :]


def test_an_answer_ends_at_any_stop_token(make_recipe: Callable[..., Path]) -> None:
    """The base's further stop tokens count, at a place of its own in each row of the batch."""
    made = make(make_recipe(eval={"max_new_tokens": 10}))
    network = build.load(made)
    rows = made.prepared.eval
    whole = [greedy(made, network, row, 10) for row in rows]
    cut = replace(made, stop_ids=(*made.stop_ids, whole[0][3], whole[1][5]))
    ends = [greedy(cut, network, row, 10) for row in rows]
    assert len({len(end) for end in ends}) > 1
    assert min(len(end) for end in ends) < 5
    assert generation.answer(cut, network, rows) == [text(cut, end) for end in ends]


@pytest.mark.parametrize("tokenizer", ["eospad", "chatml"])
def test_a_model_that_was_taught_stops(
    tokenizer: str,
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """M01: overfitted on four rows it gives their answers and ends, though pad may be eos."""
    kept: list[Any] = []
    monkeypatch.setattr(
        run_end, "export_run", lambda made, trained, _: kept.extend([made, trained.model]) or []
    )
    four = instruction_rows(4, shortest=2, longest=9)
    recipe = make_recipe(
        tokenizer=tokenizer,
        data_rows=four,
        train={"epochs": 80, "batch_size": 4, "learning_rate": 0.01, "scheduler": "constant"},
        eval={"enabled": False, "samples": 0, "max_new_tokens": 64},
    )
    run_recipe(recipe)
    made, network = kept
    asked = make_recipe(tokenizer=tokenizer, data_rows=instruction_rows(4, start=50))
    write_rows(tmp_path / "eval.jsonl", four)
    rows = make(asked).prepared.eval
    assert [row.reference for row in rows] == [row["output"] for row in four]
    assert generation.answer(made, network.eval(), rows) == [row["output"] for row in four]


def test_other_held_out_rows_are_known_by_their_digest(make_recipe: Callable[..., Path]) -> None:
    """Scores before training are those of the rows that are scored after it."""
    recipe = make_recipe()

    def digest(*changes: str) -> str:
        loaded = recipe_load.load(recipe, changes)
        return evaluate.rows_sha256(plan_make.make(loaded, hardware.detect(), output=Path("none")))

    first = digest()
    assert digest("eval.samples=2") == first
    assert digest("eval.max_rows=3") != first
    rows = recipe.with_name("eval.jsonl").read_text()
    recipe.with_name("other.jsonl").write_text(rows.replace("number 101", "number 102."))
    assert digest("data.eval=other.jsonl") != first
