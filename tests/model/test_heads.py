"""Encoder-decoders and classifiers: what they read and learn, scores by hand, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from tuner import evaluate
from tuner.errors import DataError, RecipeError
from tuner.machine import hardware
from tuner.plan import make as plan_make
from tuner.plan import plan
from tuner.recipe import load as recipe_load
from tuner.run import build

pytestmark = pytest.mark.usefixtures("in_process")

LABELS = ["good", "bad", "fine"]


def make(recipe: Path) -> plan.Plan:
    loaded = recipe_load.load(recipe, verb="sft")
    return plan_make.make(loaded, hardware.detect(), output=recipe.parent / "run")


def class_rows(count: int = 12) -> list[dict[str, str]]:
    words = ["music", "film", "great terrible ending of the film"]
    return [
        {"instruction": f"Say number {n} of {words[n % 3]}.", "output": LABELS[n % 3]}
        for n in range(count)
    ]


def classifier(make_recipe: Callable[..., Path], kind: str, **sections: Any) -> Path:
    data = {"labels": LABELS, "eval": 0.25, **sections.pop("data", {})}
    given = {"task": "classification", **sections.pop("model", {})}
    return make_recipe(kind, data=data, model=given, data_rows=class_rows(), **sections)


def test_an_encoder_decoder_reads_the_prompt_and_writes_the_answer(
    make_recipe: Callable[..., Path],
) -> None:
    made = make(make_recipe("t5"))
    row, tokenizer = made.prepared.train[0], made.tokenizer
    assert tokenizer.decode(row.input_ids).split() == ["Say", "number", "0.", "</s>"]
    assert row.target[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(row.target[:-1]) == "tenant party"
    assert not any(row.supervised)
    batch = made.collate([row])
    assert batch["decoder_input_ids"].tolist() == [[0, *row.target[:-1]]]
    assert batch["labels"].tolist() == [[-100, *row.target]]


def test_an_encoder_reads_the_prompt_between_its_marks(make_recipe: Callable[..., Path]) -> None:
    made = make(classifier(make_recipe, "bert"))
    row = made.prepared.train[0]
    text = made.tokenizer.decode(row.input_ids)
    assert text.startswith("[CLS]Say number")
    assert text.endswith("[SEP]")
    assert row.label == LABELS.index(class_rows()[int(row.row.split(":")[-1]) - 1]["output"])


@pytest.mark.parametrize("kind", ["bert", "t5", "llama"])
def test_control_tokens_in_the_text_stay_literal(
    kind: str, make_recipe: Callable[..., Path]
) -> None:
    """I11 on every kind of head."""
    mark = {"bert": "[SEP]", "t5": "</s>", "llama": "<|im_end|>"}[kind]
    rows = class_rows()
    rows[0]["instruction"] = f"Say {mark} now."
    task = "auto" if kind == "t5" else "classification"
    recipe = make_recipe(
        kind, data_rows=rows, model={"task": task}, data={"labels": LABELS, "eval": 0.25}
    )
    made = make(recipe)
    examples = [*made.prepared.train, *(row.example for row in made.prepared.eval)]
    (row,) = [row for row in examples if row.row.endswith(":1")]
    own = made.tokenizer.convert_tokens_to_ids(mark)
    inner = row.input_ids if kind == "llama" else row.input_ids[:-1]
    assert own not in inner
    assert mark in made.tokenizer.decode(inner)


@pytest.mark.parametrize(
    ("kind", "method"),
    [(kind, "lora") for kind in ("bert", "llama", "gpt2")]
    + [
        (kind, method)
        for kind in ("llama", "gpt2", "bert")
        for method in ("prompt", "ptuning", "prefix")
    ],
)
def test_scores_do_not_hang_on_the_batch(
    kind: str, method: str, make_recipe: Callable[..., Path]
) -> None:
    """R02: rows alone and together, whichever side is padded; loss and choice by hand."""
    made = make(classifier(make_recipe, kind, method={"name": method}))
    network = build.start(made, build.load(made)).model.eval()
    rows = made.prepared.eval
    alone = []
    with torch.no_grad():
        for row in rows:
            alone.append(network(input_ids=torch.tensor([row.example.input_ids])).logits[0])
        batch = made.collate([row.example for row in rows])
        labels = batch.pop("labels")[:, 1]
        together = network(**batch).logits
        torch.testing.assert_close(torch.stack(alone), together, rtol=0, atol=1e-5)
        longest = batch["input_ids"].shape[1]
        # Behind keys of a cache peft counts padding on the left; our rows are padded on the right.
        if kind == "llama" and method != "prefix":
            for name in ("input_ids", "attention_mask"):
                shift = (longest - batch["attention_mask"].sum(1)).tolist()
                rolled = [r.roll(s) for r, s in zip(batch[name], shift, strict=True)]
                batch[name] = torch.stack(rolled)
            torch.testing.assert_close(network(**batch).logits, together, rtol=0, atol=1e-5)
    scores = evaluate.score(made, network)
    assert scores["loss"] == pytest.approx(float(functional.cross_entropy(together, labels)), 1e-5)
    right = (together.argmax(1) == labels).float().mean()
    assert scores["label_accuracy"] == pytest.approx(float(right))
    assert set(scores) == {"loss", "label_accuracy"}
    (sample,) = evaluate.samples(made, network)
    assert sample["answer"] == LABELS[int(together[0].argmax())]


def test_an_encoder_decoders_loss_is_that_of_transformers(
    make_recipe: Callable[..., Path],
) -> None:
    made = make(make_recipe("bart"))
    network = build.load(made)
    scores = evaluate.score(made, network)
    total, count = 0.0, 0
    with torch.no_grad():
        for row in made.prepared.eval:
            target = torch.tensor([row.example.target])
            ids = torch.tensor([row.example.input_ids])
            total += float(network(input_ids=ids, labels=target).loss) * target.shape[1]
            count += target.shape[1]
    assert scores["loss"] == pytest.approx(total / count, rel=1e-5)
    assert scores["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_an_encoder_decoder_chooses_among_labels(
    kind: str, make_recipe: Callable[..., Path]
) -> None:
    recipe = make_recipe(kind, data_rows=class_rows(), data={"labels": LABELS, "eval": 0.25})
    made = make(recipe)
    network = build.load(made)
    observed = evaluate.score(made, network)["label_accuracy"]
    right = 0
    with torch.no_grad():
        for row in made.prepared.eval:
            losses = [
                float(
                    network(
                        input_ids=torch.tensor([option.input_ids]),
                        labels=torch.tensor([option.target]),
                    ).loss
                )
                * len(option.target)
                for option in row.options
            ]
            right += losses.index(min(losses)) == row.gold
    assert observed == pytest.approx(right / len(made.prepared.eval))


def test_the_head_and_its_classes_stand_in_the_artefacts(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    """R01: the head is trained and saved, the merged model knows its classes by name."""
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    found = run_recipe(classifier(make_recipe, "bert", train={"epochs": 20}))
    assert found["scores"]["after"]["loss"] != found["scores"]["before"]["loss"]
    saved = load_file(tmp_path / "run/adapter/adapter_model.safetensors")
    assert any("classifier" in name for name in saved)
    assert any("pooler" in name for name in saved)
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run/merged")
    assert merged.config.id2label == dict(enumerate(LABELS))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run/merged")
    assert tokenizer("a")["input_ids"][-1] == tokenizer.sep_token_id


def test_a_long_text_is_cut_and_keeps_its_closing_mark(make_recipe: Callable[..., Path]) -> None:
    made = make(classifier(make_recipe, "bert", data={"max_length": 8, "long": "truncate"}))
    assert made.prepared.report["truncated_rows"] == len(made.prepared.train)
    for row in made.prepared.train:
        assert len(row.input_ids) == 8
        assert row.input_ids[-1] == made.tokenizer.sep_token_id


def test_an_answer_that_is_no_label_is_named(make_recipe: Callable[..., Path]) -> None:
    rows = class_rows()
    rows[4]["output"] = "superb"
    recipe = make_recipe(
        "bert", data_rows=rows, data={"labels": LABELS, "eval": 0}, model={"task": "classification"}
    )
    with pytest.raises(DataError) as caught:
        make(recipe)
    assert "train.jsonl:5" in str(caught.value)
    assert "not one of the labels" in str(caught.value)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("bert", {"model": {"task": "generation"}}, "the base is an encoder"),
    ("t5", {"model": {"task": "classification"}, "data": {"labels": LABELS}}, "encoder-decoder"),
    ("bert", {"model": {"task": "classification"}}, "needs to know the classes"),
    ("t5", {"data": {"render": "chat"}}, "data.render: chat"),
    ("t5", {"data": {"packing": True}}, "packed rows of this model are not isolated"),
    ("t5", {"method": {"name": "prefix", "init": "text"}}, "method.init: text"),
    ("mixtral", {"method": {"name": "prefix"}, "train": {"gradient_checkpointing": True}}, "cache"),
]


@pytest.mark.parametrize(("kind", "sections", "words"), REFUSED)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(
    kind: str,
    sections: dict[str, Any],
    words: str,
    make_recipe: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build, "load", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(RecipeError) as caught:
        make(make_recipe(kind, **sections))
    assert words in str(caught.value)
    assert caught.value.fix
