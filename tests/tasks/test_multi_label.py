"""Rows with any number of labels: what is read, learned, scored, exported and answered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import ignore_patterns
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from fastapi.testclient import TestClient

from tests.data.test_read import write_rows
from tests.inference.conversation import chat
from tests.inference.test_predict import answered
from tuner import evaluate
from tuner.console.console import Console
from tuner.data.bad_rows import BadRow
from tuner.data.fields import several as fields
from tuner.errors import DataError, RecipeError
from tuner.evaluate import several
from tuner.inference import open_model
from tuner.inference.serve import app, models
from tuner.inference.serve.admission import Admission, Limits
from tuner.inference.serve.guard import Gate, Guard
from tuner.inference.serve.worker import Worker
from tuner.machine import hardware
from tuner.plan import make as plan_make
from tuner.recipe import load as recipe_load
from tuner.record.manifest import MANIFEST
from tuner.run import build, spine
from tuner.tasks import heads

pytestmark = pytest.mark.usefixtures("in_process")

NAMES = ["damaged", "dear", "late"]
TEXT = "The rope of order 3 was overdue and broken."


def own(number: int) -> list[str]:
    return [
        name for name, every in (("late", 2), ("damaged", 3), ("dear", 5)) if number % every < 1
    ]


def asked(number: int) -> str:
    words = {"late": "overdue", "damaged": "broken", "dear": "costly"}
    said = " and ".join(words[name] for name in own(number))
    return f"The rope of order {number} was {said or 'fine'}."


FORMS: dict[str, Callable[[int], Any]] = {
    "lists": lambda n: {"labels": own(n)},
    "text": lambda n: {"labels": "; ".join(own(n))},
    "commas": lambda n: {"labels": ",".join(own(n))},
    "JSON in text": lambda n: {"label": json.dumps(own(n))},
    "columns": lambda n: {name: int(name in own(n)) for name in NAMES},
}


def make(folder: Path, base: Path, rows: list[dict[str, Any]], **sections: Any) -> Any:
    write_rows(folder / "rows.jsonl", rows)
    recipe = {
        "model": {"base": str(base), "task": "classification", **sections.pop("model", {})},
        "data": {"train": "rows.jsonl", "eval": 6, "multi_label": True, **sections.pop("data", {})},
        "train": {"max_steps": 2, "batch_size": 8, "learning_rate": 0.01},
        **sections,
    }
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe))
    loaded = recipe_load.load(folder / "r.yaml", verb="sft")
    return plan_make.make(loaded, hardware.detect(), output=folder / "run")


def all_rows(form: str = "lists", count: int = 30) -> list[dict[str, Any]]:
    return [{"text": asked(n), **FORMS[form](n)} for n in range(count)]


@pytest.mark.parametrize("form", FORMS)
def test_every_way_to_write_labels_is_read_alike(
    form: str, bases: Callable[..., Path], tmp_path: Path
) -> None:
    data = {"template": "classification", "columns": {"label": "damaged | dear | late"}}
    made = make(tmp_path, bases("bert"), all_rows(form), data=data if form == "columns" else {})
    assert list(made.prepared.labels) == NAMES
    assert made.values["data.template"].value == "classification"
    examples = [*made.prepared.train, *(row.example for row in made.prepared.eval)]
    assert len(examples) == 30
    for example in examples:
        number = int(example.row.split(":")[-1]) - 1
        assert example.goals == tuple(float(name in own(number)) for name in NAMES)
    held = made.prepared.eval[0]
    number = int(held.example.row.split(":")[-1]) - 1
    assert {*held.reference.split("; ")} == {*(own(number) or ["(none)"])}
    report = made.prepared.report
    trained = [int(each.row.split(":")[-1]) - 1 for each in made.prepared.train]
    counts = {name: sum(name in own(n) for n in trained) for name in NAMES}
    assert report["label_counts"] == counts
    assert report["rows_without_labels"] == sum(not own(n) for n in trained) > 0
    assert report["labels_per_row"] == pytest.approx(sum(counts.values()) / 24, abs=1e-4)
    assert "majority_label" not in report


def test_labels_get_names_and_keep_marks_that_are_listed(
    bases: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [{"text": asked(n), "labels": ["0;1", "1", "", [0, 1]][n % 4]} for n in range(30)]
    data: dict[str, Any] = {"label_names": {"0": "late", "1": "lost, found"}, "eval": 0}
    made = make(tmp_path, bases("bert"), rows, data=data)
    assert list(made.prepared.labels) == ["late", "lost, found"]
    found = {int(e.row.split(":")[-1]) - 1: e.goals for e in made.prepared.train}
    wanted = [(1.0, 1.0), (0.0, 1.0), (0.0, 0.0), (1.0, 1.0)]
    assert found == {n: wanted[n % 4] for n in range(30)}
    whole = fields.in_cell("lost, found", {"lost, found"}), fields.in_cell("a ; b,a", {"x"})
    assert whole == (["lost, found"], ["a", "b"])
    with pytest.raises(BadRow, match="a label is text or a number"):
        fields.in_cell([{"a": 1}])


def test_a_label_that_is_not_listed_is_named(bases: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        make(tmp_path, bases("bert"), all_rows(), data={"labels": ["late", "dear"], "eval": 0})
    assert "'damaged' is not one of the labels" in str(caught.value)
    assert "rows.jsonl:1" in str(caught.value)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_loss_and_scores_are_those_of_transformers(
    kind: str, bases: Callable[..., Path], tmp_path: Path
) -> None:
    made = make(tmp_path, bases(kind), all_rows())
    network = build.start(made, build.load(made)).model.eval()
    assert network.config.problem_type == "multi_label_classification"
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "score" in name or "classifier" in name:
                parameter.add_(torch.randn_like(parameter))
    rows = [row.example for row in made.prepared.eval]
    goals = torch.tensor([row.goals for row in rows])
    batch = made.collate([*rows, rows[0].blank()])
    labels = batch.pop("labels")
    with torch.no_grad():
        reference = network(**made.collate(rows) | {"labels": goals})
        outputs = network(**batch)
    # The blank row adds nothing, also not to the gradient.
    logits = outputs.logits.detach().requires_grad_()
    loss = heads.head_loss(SimpleNamespace(logits=logits), labels, len(rows))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(reference.loss), rel=1e-5)
    assert logits.grad is not None
    assert logits.grad[:-1].abs().min() > 0
    assert not logits.grad[-1].any()
    scores = evaluate.score(made, network)
    assert scores["loss"] == pytest.approx(float(reference.loss), rel=1e-5)
    said = (reference.logits.sigmoid() >= 0.5).float()
    both, either = (said * goals).sum(0), (said + goals).sum(0)
    each = [float(2 * b / e) if e else 0.0 for b, e in zip(both, either, strict=True)]
    assert scores == {
        "loss": scores["loss"],
        "micro_f1": pytest.approx(float(2 * both.sum() / either.sum())),
        "macro_f1": pytest.approx(sum(each) / 3),
        "subset_accuracy": pytest.approx(float((said == goals).all(1).float().mean())),
    }
    answers = [sample["answer"] for sample in evaluate.samples(made, network)]
    named = ["; ".join(n for n, one in zip(NAMES, row, strict=True) if one) for row in said]
    assert answers == [name or "(none)" for name in named[: len(answers)]]


def test_scores_by_hand() -> None:
    """Three rows, three labels; the third is neither right nor answered anywhere."""
    outputs = [(1.0, -2.0, -1.0), (0.0, 3.0, -1.0), (-1.0, 1.0, -1.0)]
    goals = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0, 0.0)]
    observed: Any = [
        SimpleNamespace(outputs=out, row=SimpleNamespace(example=SimpleNamespace(goals=goal)))
        for out, goal in zip(outputs, goals, strict=True)
    ]
    # First label: one hit, one false alarm, one miss; second: two hits.
    assert several.micro_f1(observed) == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert several.macro_f1(observed) == pytest.approx((0.5 + 1 + 0) / 3)
    assert several.subset_accuracy(observed) == pytest.approx(1 / 3)
    assert several.micro_f1([]) is several.macro_f1([]) is several.subset_accuracy([]) is None


@pytest.mark.slow
@pytest.mark.parametrize("micro", [2, 8])
def test_the_first_step_has_the_loss_of_its_rows(
    micro: int, bases: Callable[..., Path], tmp_path: Path
) -> None:
    """Whatever the micro-batches, a step's loss is the mean over its rows, by transformers."""
    train = {"max_steps": 1, "batch_size": 8, "micro_batch_size": micro}
    rows = all_rows(count=8)
    made = make(tmp_path, bases("bert"), rows, train=train, data={"eval": 0})
    network = build.start(made, build.load(made)).model.eval()
    batch = made.collate(made.prepared.train)
    batch["labels"] = batch["labels"][:, 1:]
    with torch.no_grad():
        expected = float(network(**batch).loss)
    made = make(
        tmp_path, bases("bert"), rows, train=train, data={"eval": 0}, export={"formats": []}
    )
    spine.run(made, resume=False, console=Console(quiet=True))
    lines = (made.output / "metrics.jsonl").read_text("utf-8").splitlines()
    (first,) = [line for line in map(json.loads, lines) if "loss" in line and "step" in line]
    assert first["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_the_artefacts_are_used_as_trained(bases: Callable[..., Path], tmp_path: Path) -> None:
    """Plain transformers, `tuner chat`, `predict` and `serve` give the same probabilities."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    export = {"formats": ["adapter", "merged"]}
    train = {"max_steps": 6, "batch_size": 8, "learning_rate": 0.03}
    made = make(tmp_path, bases("bert"), all_rows(), export=export, train=train)
    spine.run(made, resume=False, console=Console(quiet=True))
    merged = made.output / "merged"
    network = AutoModelForSequenceClassification.from_pretrained(merged).eval()
    assert network.config.problem_type == "multi_label_classification"
    assert network.config.id2label == dict(enumerate(NAMES))
    tokens = AutoTokenizer.from_pretrained(merged)(TEXT, return_tensors="pt")
    with torch.no_grad():
        shares = network(**tokens).logits[0].sigmoid().tolist()
    wanted = pytest.approx(dict(zip(NAMES, shares, strict=True)), abs=1e-4)
    over = [name for name, share in zip(NAMES, shares, strict=True) if share >= 0.5]
    card = (made.output / "adapter/README.md").read_text("utf-8")
    assert 'num_labels=3, problem_type="multi_label_classification"' in card

    for folder in (made.output, merged):
        (event,) = chat(folder, "--json", typed=TEXT).events
        assert event["probabilities"] == wanted
        assert (event["labels"], event["threshold"]) == (over, 0.5)
        assert event["text"] == ("; ".join(over) or "(none)")
        assert "label" not in event
        write_rows(tmp_path / "asked.jsonl", [{"text": TEXT}])
        (line,) = answered(folder, tmp_path / "asked.jsonl", f"{folder.name}.jsonl")
        assert line["probabilities"] == wanted
        assert (line["labels"], line["threshold"]) == (over, 0.5)
        assert "label" not in line
    # A head of another program says by its config that labels do not exclude each other.
    other = shutil.copytree(merged, tmp_path / "other", ignore=ignore_patterns(MANIFEST))
    done = chat(other, "--json", typed=TEXT)
    assert done.events[-1]["probabilities"] == wanted
    assert done.events[-1]["labels"] == over

    source = open_model.model_to_open(str(made.output), None, [], hardware.detect(), "chat")
    model = open_model.load(source, Console())
    failures: list[Exception] = []
    worker = Worker(model, failures.append)
    worker.start()
    named = models.name_all(model)
    admission = Admission(4)
    endpoints = app.Endpoints(named, worker, admission, Limits(), 0, ThreadPoolExecutor(1))
    door = Gate(None, None, 1 << 20)
    guard = Guard(app.build(endpoints, None), door, admission, lambda line: None, failures.append)
    reply = TestClient(guard).post("/v1/classify", json={"input": [TEXT]})
    (item,) = reply.json()["data"]
    assert item["probabilities"] == wanted
    assert item.keys() == {"index", "labels", "threshold", "probabilities", "truncated"}
    assert (item["labels"], item["threshold"]) == (over, 0.5)
    assert not failures


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"model": {"task": "generation"}}, "the model has no classification head"),
    ("bert", {"eval": {"metrics": ["label_accuracy"]}}, "there is no metric 'label_accuracy'"),
    ("bert", {"data": {"labels": ["late"]}}, "needs to know the classes"),
]


@pytest.mark.parametrize(("kind", "sections", "words"), REFUSED)
def test_what_cannot_be_is_refused(
    kind: str, sections: dict[str, Any], words: str, bases: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [{"text": asked(n), "labels": ["late", "dear"][n % 2]} for n in range(12)]
    with pytest.raises(RecipeError) as caught:
        make(tmp_path, bases(kind), rows, **sections)
    assert words in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize("form", ["lists", "columns", "text"])
def test_files_with_several_labels_are_offered_the_recipe(
    form: str, bases: Callable[..., Path], tmp_path: Path
) -> None:
    """Without the key, the error says how all labels are learned; followed as printed, they are."""
    rows = [row for row in all_rows(form) if form != "text" or row["labels"]]
    rows = [{"label" if k == "labels" and form == "text" else k: v for k, v in row.items()}
            for row in rows]  # fmt: skip
    with pytest.raises(DataError) as caught:
        make(tmp_path, bases("bert"), rows, data={"multi_label": False})
    fix = caught.value.fix
    assert "data.multi_label: true" in fix
    given: dict[str, Any] = {}
    if form != "text":
        lines = fix.splitlines()
        place = next(n for n, line in enumerate(lines) if "data.multi_label: true" in line)
        given = yaml.safe_load(lines[place + 1])["data"]
    made = make(tmp_path, bases("bert"), rows, data=given)
    assert list(made.prepared.labels) == NAMES
    assert {len(row.goals) for row in made.prepared.train} == {3}


def test_columns_of_0_and_1_are_asked_for_by_name(
    bases: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        make(tmp_path, bases("bert"), all_rows("columns"))
    given = yaml.safe_load(caught.value.fix.splitlines()[-1])["data"]
    assert given["columns"] == {"label": "damaged | dear | late"}
    assert list(make(tmp_path, bases("bert"), all_rows("columns"), data=given).prepared.labels)
