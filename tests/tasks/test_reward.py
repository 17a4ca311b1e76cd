"""Reward modelling: the loss against trl's and an oracle's, the head, the scores, whole runs.

R01 to R04 of the catalogue, N01, C03 and the contract with trl's RewardTrainer.
"""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests import oracle
from tests.conftest import WORDS, write_rows
from tests.methods.test_capabilities import load_again
from tests.run.test_resume import Tuner, assert_equal, record
from tests.tasks.test_training import Fit, Reference, order, same, tensors
from tests.tokenizers import make_tokenizer
from tuner import evaluate
from tuner.console.console import Console
from tuner.data.preferences import Ranking
from tuner.errors import ModelError, RecipeError
from tuner.evaluate import preference
from tuner.evaluate.preference import Judged
from tuner.export import run_end
from tuner.export.proof import fresh_process
from tuner.machine import hardware
from tuner.machine.signals import StopRequest
from tuner.model import tokenizer as model_tokenizer
from tuner.plan import make as plan_make
from tuner.plan import plan
from tuner.recipe import load as recipe_load
from tuner.recipe.schema_rlhf import RewardSection
from tuner.record.run_folder import RunFolder
from tuner.run import build, spine
from tuner.tasks import judges
from tuner.tasks import trained as tasks_trained
from tuner.tasks.reward import RankingBatches, pair_losses

Row = dict[str, Any]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """The models are too small for two, and sums come in one order then."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pairs(count: int, start: int = 0, word: str = "great") -> list[Row]:
    """Uneven pairs; the chosen answer has `word` somewhere, and the rejected one never."""
    plain = [each for each in WORDS if each != word]
    made = []
    for number in range(start, start + count):
        texts = []
        for answer in (0, 1):
            length = 2 + (number * 5 + answer * 3) % 7
            texts.append([plain[(number * 3 + answer * 11 + k * 5) % 24] for k in range(length)])
        texts[0].insert(number % (len(texts[0]) + 1), word)
        chosen, rejected = map(" ".join, texts)
        made.append({"prompt": f"Say number {number}.", "chosen": chosen, "rejected": rejected})
    return made


@pytest.fixture
def preferences(tmp_path: Path, bases: Callable[..., Path]) -> Callable[..., Path]:
    """Write a recipe for `tuner reward` with 16 pairs and 8 held-out ones."""

    def write(
        rows: Sequence[Row] | None = None,
        kind: str = "llama",
        tokenizer: str = "chatml",
        name: str = "r",
        held: Sequence[Row] | None = None,
        **sections: Any,
    ) -> Path:
        write_rows(tmp_path / f"{name}.jsonl", list(pairs(16) if rows is None else rows))
        write_rows(tmp_path / "held.jsonl", list(pairs(8, 100) if held is None else held))
        base = {"base": str(bases(kind, tokenizer))}
        data = {"train": f"{name}.jsonl", "eval": "held.jsonl"}
        train = {"batch_size": 4, "learning_rate": 0.01}
        recipe = {
            **sections,
            "model": base | sections.get("model", {}),
            "data": data | sections.get("data", {}),
            "train": train | sections.get("train", {}),
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return path

    return write


def make(recipe: Path, output: str = "unused") -> plan.Plan:
    loaded = recipe_load.load(recipe, verb="reward")
    return plan_make.make(loaded, hardware.detect(), output=recipe.parent / output)


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
            spine.train(made, trained, folder, stop, Console(quiet=True), lambda _: None, None)
        lines = (made.output / "metrics.jsonl").read_text().splitlines()
        metrics = [json.loads(line) for line in lines]
        return Fit(made, trained.model, start, metrics, [], trained.unmoved, made.output)

    return go


def learn(network: Any, made: plan.Plan, rows: Sequence[Ranking]) -> tuple[float, torch.Tensor]:
    """Loss of one batch of prompts, and the gradient of the head's weights."""
    options = made.recipe.reward or RewardSection()
    batches = RankingBatches(rows, options, made.tokenizer.pad_token_id)
    batch = batches.collate(rows)
    labels = batch.pop("labels")
    return backward(network, lambda: batches.loss(network(**batch), labels, len(rows)))


def backward(network: Any, loss: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    network.zero_grad()
    value = loss()
    value.backward()
    return float(value), network.score.weight.grad.clone()


@pytest.mark.parametrize(
    "options", [{}, {"centering": 0.5}, {"margins": False}, {"centering": 0.0, "margins": False}]
)
def test_the_loss_of_pairs_is_that_of_trls_reward_trainer(
    options: dict[str, Any], preferences: Callable[..., Path], tmp_path: Path
) -> None:
    """Contract with trl: the same token ids, margins and centring on the same model."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    rows = [row | {"margin": number % 3 / 2} for number, row in enumerate(pairs(6))]
    made = make(preferences(rows, reward=options))
    network = build.load(made)
    ours = learn(network, made, made.prepared.train)
    section = made.recipe.reward
    assert section is not None
    given = []
    for row in made.prepared.train:
        ((better, worse, margin),) = row.pairs
        ids = {"chosen_ids": row.answers[better], "rejected_ids": row.answers[worse]}
        given.append(ids | ({"margin": margin} if section.margins else {}))
    theirs = RewardTrainer(
        model=network,
        args=RewardConfig(
            output_dir=str(tmp_path / "trl"),
            center_rewards_coefficient=section.centering or None,
            max_length=None,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
        ),
        train_dataset=Dataset.from_list(given),
        processing_class=made.tokenizer,
    )
    batch = theirs.data_collator(given)
    loss, gradient = backward(network, lambda: theirs.compute_loss(network, batch))
    assert ours[0] == pytest.approx(loss, abs=1e-6)
    torch.testing.assert_close(ours[1], gradient, rtol=1e-5, atol=1e-6)


def test_margins_and_centring_by_hand() -> None:
    scores = torch.tensor([1.0, -0.5])
    ranking = judged([[0, 1, 2.0]], [1.0, -0.5]).ranking
    plain = float(functional.softplus(torch.tensor(-1.5)))
    asked = float(functional.softplus(torch.tensor(0.5)))
    for margins, centering, wanted in (
        (False, 0.0, plain),
        (True, 0.0, asked),
        (True, 0.1, asked + 0.1 * 0.25),
    ):
        section = RewardSection(margins=margins, centering=centering)
        (found,) = pair_losses(scores, ranking, section).tolist()
        assert found == pytest.approx(wanted, rel=1e-6)


def test_a_prompt_counts_once_however_many_answers_it_has(
    preferences: Callable[..., Path],
) -> None:
    """K(K-1)/2 pairs of K answers; loss and gradient of two prompts are the mean of each alone."""
    ranked = [
        {"prompt": "Say a number.", "answers": ["one great", "rent", "two", "clause notice"]},
        {"prompt": "Say a word.", "answers": ["great film", "terrible"]},
    ]
    made = make(preferences(ranked, held=ranked, data={"eval": 0}, reward={"centering": 0.0}))
    four, two = sorted(made.prepared.train, key=lambda row: -len(row.answers))
    assert [len(four.pairs), len(two.pairs)] == [6, 1]
    network = build.load(made)
    with torch.no_grad():
        scores = [float(network(input_ids=torch.tensor([ids])).logits) for ids in four.answers]
    differences = [
        scores[one] - scores[other] for one, other in itertools.combinations(range(4), 2)
    ]
    wanted = np.mean([np.log1p(np.exp(-difference)) for difference in differences])
    alone = [learn(network, made, [row]) for row in (four, two)]
    assert alone[0][0] == pytest.approx(wanted, rel=1e-5)
    together = learn(network, made, [four, two])
    assert together[0] == pytest.approx((alone[0][0] + alone[1][0]) / 2, rel=1e-6)
    torch.testing.assert_close(together[1], (alone[0][1] + alone[1][1]) / 2)


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
        for parameter in self.named.values():
            parameter.grad = None
        total.backward()
        for parameter in self.named.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm = oracle.clip(list(self.named.values()), self.train.max_grad_norm)
        self.optimizer.step(rate)
        self.moved += rate
        return float(total), norm


def scored_rows(count: int) -> list[Row]:
    """Prompts with two to four answers, each with a score, some of them equal."""
    return [
        {
            "prompt": f"Say number {number}.",
            "answers": [
                " ".join(WORDS[(number + k * 7 + j) % 25] for j in range(2 + (number + k) % 5))
                for k in range(2 + number % 3)
            ],
            "scores": [(number + k * 2) % 4 for k in range(2 + number % 3)],
        }
        for number in range(count)
    ]


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


def judged(
    pairs: Sequence[Sequence[float]], scores: Sequence[float], lengths: Sequence[int] = ()
) -> Judged:
    """A judged prompt with these pairs (better, worse, margin) and answers of these lengths."""
    lengths = lengths or [1] * len(scores)
    ranking = Ranking(
        row="rows.jsonl:1",
        answers=tuple([5, 6, *[7] * length] for length in lengths),
        pairs=tuple((int(better), int(worse), margin) for better, worse, margin in pairs),
        prompt_ids=[5, 6],
        messages=(),
        prompt_text="",
        texts=("",) * len(scores),
    )
    return Judged(ranking, tuple(scores))


def test_metrics_by_hand() -> None:
    """A tie is half right; three pairs of one prompt and one of another."""
    three = judged([(0, 1, 0), (0, 2, 0), (1, 2, 0)], [2.0, 2.0, 0.0], [3, 1, 2])
    one = judged([(0, 1, 0)], [-1.0, 1.0], [4, 2])
    both = [three, one]
    assert preference.accuracy(both) == (0.5 + 1 + 1 + 0) / 4
    assert preference.margin(both) == (0.0 + 2 + 2 - 2) / 4
    softplus = np.log1p(np.exp([0.0, -2.0, -2.0, 2.0]))
    wanted = (softplus[:3].mean() + softplus[3]) / 2
    assert preference.loss(both) == pytest.approx(wanted, rel=1e-12)
    # Sure by 0.5 and half right, and by 0.881 three times, of which two are right.
    sure = 1 / (1 + np.exp(-2.0))
    assert preference.calibration_error(both) == pytest.approx(abs(2 - 3 * sure) / 4, rel=1e-12)
    values = [2 / 3, 2 / 3, -4 / 3, -1, 1]
    lengths = [1, -1, 0, 1, -1]
    wanted = np.corrcoef(values, lengths)[0, 1]
    assert preference.length_bias(both) == pytest.approx(wanted, rel=1e-12)


def test_metrics_at_their_edges() -> None:
    """Certainty counts, nothing to compare is None, and huge differences do not overflow."""
    certain = [judged([(0, 1, 0)], [800.0, 0.0])]
    assert preference.calibration_error(certain) == 0.0
    assert preference.loss(certain) == 0.0
    wrong = [judged([(0, 1, 0)], [0.0, 800.0])]
    assert preference.calibration_error(wrong) == 1.0
    assert preference.loss(wrong) == 800.0
    assert preference.length_bias(certain) is None
    for metric in ("loss", "accuracy", "margin", "calibration_error", "length_bias"):
        assert getattr(preference, metric)([]) is None


FRESH = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification as Judge, AutoTokenizer
torch.manual_seed(4711)
torch.set_num_threads(1)
base, run, rows = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
found = {}
for kind in ("adapter", "merged"):
    if kind == "adapter":
        network = Judge.from_pretrained(base, num_labels=1, dtype=torch.float32)
        network = PeftModel.from_pretrained(network, run + "/adapter")
    else:
        network = Judge.from_pretrained(run + "/merged", dtype=torch.float32)
    network.config.pad_token_id = AutoTokenizer.from_pretrained(run + "/" + kind).pad_token_id
    with torch.no_grad():
        found[kind] = [float(network.eval()(input_ids=torch.tensor([r])).logits) for r in rows]
print(json.dumps(found))
"""


def test_a_fresh_process_gives_the_same_scores(
    preferences: Callable[..., Path],
    run_recipe: Callable[..., Row],
    bases: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """R01: the head is in the adapter's file; another seed scores as the live model did."""
    from safetensors.torch import load_file

    live: dict[str, Any] = {}
    true = run_end.write

    def write(made: plan.Plan, trained: tasks_trained.Trained, fingerprint: str) -> Any:
        rows = [ids for row in made.prepared.eval for ids in row.answers][:8]
        scores = judges.scores(trained.model, rows, made.tokenizer.pad_token_id)
        live.update(rows=rows, scores=scores)
        return true(made, trained, fingerprint)

    monkeypatch.setattr(run_end, "write", write)
    # The process below loads both again, and knows nothing of this one.
    monkeypatch.setattr(fresh_process, "fresh_logits", load_again)
    found = run_recipe(preferences(), verb="reward")
    assert found["status"] == "done"
    assert found["unmoved_tensors"] == []
    assert [(a["kind"], a["verified"]) for a in found["artefacts"]] == [
        ("adapter", True),
        ("merged", True),
    ]
    saved = load_file(tmp_path / "run/adapter/adapter_model.safetensors")
    (head,) = [value for name, value in saved.items() if name.endswith("score.weight")]
    assert head.shape == (1, 64)
    arguments = [str(bases("llama")), str(tmp_path / "run"), json.dumps(live["rows"])]
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    fresh = json.loads(done.stdout.splitlines()[-1])
    assert len(set(live["scores"])) == 8
    assert fresh["adapter"] == pytest.approx(live["scores"], abs=1e-6)
    assert fresh["merged"] == pytest.approx(live["scores"], abs=1e-6)


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
    assert any("1 pairs left out" in text for text in made.warnings)


class Judging(Tuner):
    """Starts `tuner reward`."""

    def __call__(self, recipe: Path, folder: Path, *options: str, **how: Any) -> int:
        args = ["reward", "--recipe", str(recipe), "--output", str(folder), *options]
        args += ["--resume"] if how.get("resume") else []
        return int(self._ask(args=args, log=str(self.log), at=how.get("at"))["code"])


def test_a_stopped_run_resumes_exactly(preferences: Callable[..., Path], tmp_path: Path) -> None:
    """C03: SIGTERM within an epoch, then SIGKILL between two checkpoints; with dropout."""
    recipe = preferences(
        scored_rows(18),
        held=scored_rows(24)[18:],
        data={"template": "scores"},
        method={"name": "lora", "r": 4, "dropout": 0.1},
        train={"epochs": 2.5, "micro_batch_size": 2, "save_steps": 2, "logging_steps": 1},
        export={"formats": ["adapter"]},
    )
    (tmp_path / "logs").mkdir()
    tuner = Judging(tmp_path / "logs")
    try:
        assert tuner(recipe, tmp_path / "reference") == 0, tuner.said()
        folder = tmp_path / "run"
        assert tuner(recipe, folder, at=("logged", 3, signal.SIGTERM)) == 143
        assert record(folder)["status"] == "interrupted"
        assert (folder / "checkpoints/step-3/MANIFEST.json").exists()
        at = ("logged", 8, signal.SIGKILL)
        assert tuner(recipe, folder, at=at, resume=True) == -signal.SIGKILL
        assert tuner(recipe, folder, resume=True) == 0, tuner.said()
        assert_equal(folder, tmp_path / "reference")
        assert [each["from_step"] for each in record(folder)["resumes"]] == [3, 6]
    finally:
        tuner.close()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"kind": "bert", "tokenizer": "plain"}, "needs a decoder"),
    ({"kind": "t5", "tokenizer": "plain"}, "needs a decoder"),
    ({"model": {"task": "classification"}}, "model.task"),
    ({"eval": {"metrics": ["perplexity"]}}, "perplexity is not a metric of `tuner reward`"),
]


@pytest.mark.parametrize(("how", "words"), REFUSED)
def test_what_cannot_judge_is_refused_before_a_model_is_loaded(
    how: dict[str, Any], words: str, preferences: Callable[..., Path]
) -> None:
    with pytest.raises(RecipeError) as caught:
        make(preferences(**how))
    assert words in str(caught.value)
    assert caught.value.exit_code == 2
    assert caught.value.fix


def test_the_section_reward_under_another_verb_names_the_verb_that_fits(
    preferences: Callable[..., Path],
) -> None:
    recipe = preferences(reward={"centering": 0.1})
    for verb in ("sft", "lora", "rlhf"):
        with pytest.raises(RecipeError, match="section reward") as caught:
            recipe_load.load(recipe, verb=verb)
        assert caught.value.exit_code == 2
        assert "tuner reward --recipe" in caught.value.fix
    assert recipe_load.load(recipe, verb=None).verb == "reward"


METHODS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("gpt2", {"name": "lora"}, ["adapter", "merged"]),
    ("qwen2", {"name": "lora"}, ["adapter", "merged"]),
    ("llama-tied", {"name": "dora"}, ["adapter", "merged"]),
    ("llama", {"name": "prefix", "num_virtual_tokens": 4}, ["adapter"]),
    ("llama", {"name": "prompt", "num_virtual_tokens": 4}, ["adapter"]),
    ("llama", {"name": "full"}, ["merged"]),
]


@pytest.mark.parametrize(("kind", "method", "kinds"), METHODS)
def test_families_and_methods_train_save_and_load(
    kind: str,
    method: dict[str, Any],
    kinds: list[str],
    preferences: Callable[..., Path],
    run_recipe: Callable[..., Row],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """E10: from the recipe to artefacts equal to the live model; every tensor moved."""
    monkeypatch.setattr(fresh_process, "fresh_logits", load_again)
    rate = {"learning_rate": 1e-3} if method["name"] == "full" else {}
    found = run_recipe(preferences(kind=kind, method=method, train=rate), verb="reward")
    assert found["status"] == "done"
    assert found["unmoved_tensors"] == []
    assert [each["kind"] for each in found["artefacts"]] == kinds
    assert all(each["verified"] for each in found["artefacts"])
    before, after = found["scores"]["before"], found["scores"]["after"]
    assert after["pair_loss"] != before["pair_loss"]
    assert after.keys() >= {"pair_accuracy", "margin", "calibration_error", "length_bias"}
    assert found["plan"]["parameters"]["trainable"] > 0
    assert all(sample["answer"] and sample["after"] for sample in found["samples"])
