"""Reward models: updates against an oracle, the head, and where a score is read."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests import oracle
from tests.methods.test_capabilities import load_again
from tests.tasks.fitting import Fit, Reference, order, same, tensors
from tests.tasks.preferences import Row, make, pairs, scored_rows
from tests.tokenizers import make_tokenizer
from tuner import evaluate
from tuner.console.console import Console
from tuner.errors import ModelError
from tuner.export.proof import fresh_process
from tuner.machine.signals import StopRequest
from tuner.model import tokenizer as model_tokenizer
from tuner.recipe.schema_rlhf import RewardSection
from tuner.record.run_folder import RunFolder
from tuner.run import build, spine
from tuner.tasks import judges
from tuner.tasks.reward import RankingBatches
from tuner.tasks.watch import HeldOut

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def fit() -> Callable[..., Fit]:
    """Train a reward model as a recipe says, without scores and export."""
    numbers = itertools.count()

    def go(recipe: Path, prepare: Callable[[Any], Any] = lambda live: None) -> Fit:
        made = make(recipe, f"fit-{next(numbers)}")
        with StopRequest() as stop, RunFolder.open(made.output, resume=False) as folder:
            trained = build.start(made, build.load(made))
            prepare(trained.model)
            start = tensors(trained.model)
            spine.train(made, trained, folder, stop, Console(quiet=True), HeldOut(), None)
        lines = (made.output / "metrics.jsonl").read_text().splitlines()
        metrics = [json.loads(line) for line in lines]
        return Fit(made, trained.model, start, metrics, [], trained.unmoved, made.output)

    return go


class Comparer(Reference):
    """The oracle's reward model, under the run's names of the trained tensors."""

    def __init__(self, done: Fit, folder: Path) -> None:
        network = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=1, attn_implementation="eager", dtype=torch.float32
        )
        self.network = network.eval()
        self.train = done.plan.recipe.train
        self.section = done.plan.recipe.reward
        lead, tail = "base_model.model.", ".default.weight"
        factors = {
            key.removeprefix(lead).removesuffix(f".lora_A{tail}"): (
                value,
                done.start[key.replace("lora_A", "lora_B")],
            )
            for key, value in done.start.items()
            if "lora_A" in key
        }
        layers = oracle.put_lora(self.network, factors, 2.0)
        self.named = {}
        for name, layer in layers.items():
            self.named[f"{lead}{name}.lora_A{tail}"] = layer.a
            self.named[f"{lead}{name}.lora_B{tail}"] = layer.b
        head = f"{lead}score.modules_to_save{tail}"
        self.named[head] = network.score.weight.requires_grad_(True)
        network.score.weight.data.copy_(done.start[head])
        assert self.named.keys() == done.start.keys()
        self.optimizer = oracle.AdamW(list(self.named.values()), self.train.weight_decay)
        self.moved = 0.0

    def step(self, batch: list[Any], rate: float) -> tuple[float, float]:
        """One update over whole prompts, every answer run alone; its loss and gradient norm."""
        total = torch.zeros(())
        for row in batch:
            scores = [
                self.network(input_ids=torch.tensor([ids])).logits[0, 0] for ids in row.answers
            ]
            for better, worse, margin in row.pairs:
                first, second = scores[better], scores[worse]
                loss = torch.log1p(torch.exp(second + margin - first))
                loss = loss + self.section.centering * (first + second) ** 2
                total = total + loss / len(row.pairs) / len(batch)
        return self.update(total, rate)


@torch.no_grad()
def move(live: Any) -> None:
    """Away from B = 0, where A has no gradient, and Adam makes whole steps of B's rounding."""
    torch.manual_seed(5)
    for name, parameter in live.named_parameters():
        if "lora_B" in name:
            parameter.add_(0.02 * torch.randn_like(parameter))


@pytest.mark.parametrize("micro", [16, 4])
@pytest.mark.parametrize("count", [16, 18])
def test_updates_are_the_oracles_whatever_the_accumulation(
    count: int,
    micro: int,
    preferences: Callable[..., Path],
    bases: Callable[[str], Path],
    fit: Callable[..., Fit],
) -> None:
    """N01: accumulation 1 and 4 over prompts of 2 to 4 answers; the last step of 18 has two
    prompts."""
    train = {"batch_size": 16, "micro_batch_size": micro, "learning_rate": 1e-3, "epochs": 1}
    rows = scored_rows(count)
    data = {"template": "scores", "eval": 0}
    done = fit(preferences(rows, train=train, data=data, reward={"centering": 0.1}), move)
    reference = Comparer(done, bases("llama"))
    batches = order(done)
    assert [len(batch) for batch in batches] == [16, 2][: len(batches)]
    assert len(batches) == 1 + (count > 16)
    warmup = done.plan.stages[0].warmup_steps
    for number, batch in enumerate(batches):
        rate = oracle.linear_rate(1e-3, number, len(batches), warmup)
        loss, norm = reference.step(batch, rate)
        assert done.metrics[number]["loss"] == pytest.approx(loss, rel=1e-5)
        assert done.metrics[number]["grad_norm"] == pytest.approx(norm, rel=1e-5)
        assert done.metrics[number]["supervised_tokens"] == len(batch)
    reference.check(done, len(batches), several=len(batches) > 1)


TURNS = [
    {"role": "user", "content": "Say a word."},
    {"role": "assistant", "content": "music"},
    {"role": "user", "content": "And a number?"},
]


def chats() -> list[Row]:
    """Pairs behind a conversation, whose every turn ends with the end token."""
    return [
        row | {"prompt": [*TURNS, {"role": "assistant", "content": "rent"}, user(number)]}
        for number, row in enumerate(pairs(8))
    ]


def user(number: int) -> dict[str, str]:
    return {"role": "user", "content": f"Say number {number}."}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
@pytest.mark.parametrize("tokenizer", ["plain", "eospad", "bos", "chatml"])
def test_a_score_is_read_at_the_last_token(
    kind: str, tokenizer: str, preferences: Callable[..., Path]
) -> None:
    """R02: alone, together and padded on either side; at the last token, seen by a hook."""
    rows = chats() if tokenizer == "chatml" else pairs(8)
    made = make(preferences(rows, kind, tokenizer))
    network = build.start(made, build.load(made)).model.eval()
    answers = [ids for row in made.prepared.train for ids in row.answers]
    assert len({len(ids) for ids in answers}) > 3
    pad = made.tokenizer.pad_token_id
    assert pad not in {ids[-1] for ids in answers}
    if tokenizer == "chatml":
        end = made.tokenizer.eos_token_id
        assert min(ids.count(end) for ids in answers) > 3
    seen: list[torch.Tensor] = []
    head = network.get_base_model().score
    head.register_forward_hook(lambda _, inputs, output: seen.append(output[..., 0]))
    alone = [judges.scores(network, [ids], pad)[0] for ids in answers]
    read = [values[0, -1].item() for values in seen]
    assert alone == pytest.approx(read, abs=1e-7)
    assert judges.scores(network, answers, pad) == pytest.approx(alone, abs=1e-5)
    batch = RankingBatches(made.prepared.train, RewardSection(), pad).collate(made.prepared.train)
    batch.pop("labels")
    seen.clear()
    with torch.no_grad():
        together = network(**batch).logits[:, 0]
    last = batch["attention_mask"].sum(dim=1) - 1
    assert together.tolist() == seen[0][torch.arange(len(last)), last].tolist()
    assert together.tolist() == pytest.approx(alone, abs=1e-5)
    if kind != "gpt2":
        # GPT-2 counts positions from the first column, padding or not.
        longest = batch["input_ids"].shape[1]
        for name in ("input_ids", "attention_mask"):
            shift = longest - 1 - last
            rolled = [r.roll(int(s)) for r, s in zip(batch[name], shift, strict=True)]
            batch[name] = torch.stack(rolled)
        with torch.no_grad():
            left = network(**batch).logits[:, 0].tolist()
        assert left == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("tokenizer", ["eospad", "chatml"])
def test_the_exported_padding_token_ends_no_answer(
    tokenizer: str,
    preferences: Callable[..., Path],
    run_recipe: Callable[..., Row],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """R02"""
    monkeypatch.setattr(fresh_process, "fresh_logits", load_again)
    recipe = preferences(tokenizer=tokenizer, train={"max_steps": 1})
    run_recipe(recipe, verb="reward")
    ends = {ids[-1] for row in make(recipe).prepared.train for ids in row.answers}
    for kind in ("adapter", "merged"):
        exported = AutoTokenizer.from_pretrained(tmp_path / "run" / kind)
        assert exported.pad_token_id not in {None, exported.eos_token_id, *ends}
        assert model_tokenizer.pad_for_scores(exported, "judge") == exported.pad_token_id
    config = json.loads((tmp_path / "run/merged/config.json").read_text())
    assert config["pad_token_id"] == exported.pad_token_id


def test_a_tokenizer_that_pads_with_its_end_token_is_refused() -> None:
    """R02"""
    with pytest.raises(ModelError, match="pads with its end token") as caught:
        model_tokenizer.pad_for_scores(make_tokenizer("eospad"), "judge")
    assert caught.value.exit_code == 4
    assert "tuner reward" in caught.value.fix


def test_the_head_has_one_output_and_starts_by_the_seed(
    preferences: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    """R03: no bias; two runs of one seed are identical, another seed starts elsewhere."""
    recipe = preferences(train={"max_steps": 2})
    one, two = fit(recipe), fit(recipe)
    (head,) = [name for name in one.start if "score" in name]
    assert one.start[head].shape == (1, 64)
    assert same(one.start, two.start)
    assert same(one.tensors(), two.tensors())
    assert not same(one.start, one.tensors())
    other = make(preferences(run={"seed": 7}))
    network = build.start(other, build.load(other)).model
    assert not torch.equal(tensors(network)[head], one.start[head])


def test_a_base_that_tells_two_classes_is_refused(
    preferences: Callable[..., Path],
    run_recipe: Callable[..., Row],
    bases: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """R03: its head would be cut to one output, or a new one put in its place."""
    two = AutoModelForSequenceClassification.from_pretrained(bases("llama"), num_labels=2)
    two.save_pretrained(tmp_path / "two")
    make_tokenizer("chatml").save_pretrained(tmp_path / "two")
    with pytest.raises(ModelError, match=r"score\.weight") as caught:
        run_recipe(preferences(model={"base": str(tmp_path / "two")}), verb="reward")
    assert caught.value.exit_code == 4
    assert caught.value.fix


def test_the_chosen_answer_is_the_one_that_is_preferred(
    preferences: Callable[..., Path], fit: Callable[..., Fit]
) -> None:
    """R04: a word that only chosen answers have is learned; columns swapped, the opposite is."""
    rows, held = pairs(64), pairs(16, 100)
    swapped = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    train = {"batch_size": 16, "epochs": 10}
    one = fit(preferences(rows, held=held, train=train))
    other = fit(preferences(swapped, held=held, train=train, name="swapped"))
    scores = evaluate.score(one.plan, one.model)
    assert scores["pair_accuracy"] == 1.0
    assert scores["margin"] > 0
    turned = evaluate.score(one.plan, other.model)
    assert turned["pair_accuracy"] == 0.0
    assert turned["margin"] < 0


def test_a_pair_of_which_one_side_is_too_long_is_left_out_and_counted(
    preferences: Callable[..., Path],
) -> None:
    """R04"""
    rows = pairs(12)
    rows[2]["rejected"] = " ".join(["clause"] * 60)
    made = make(preferences(rows, data={"max_length": 60}))
    assert len(made.prepared.train) == 11
    assert made.prepared.report["pairs_too_long"] == 1
    assert any("1 pair left out" in text for text in made.warnings)
