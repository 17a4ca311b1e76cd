"""Runs whose answers are labels, used: by `tuner chat`, after export, and over HTTP."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fastapi.testclient import TestClient

from tests.inference.conversation import Done, chat
from tests.tokenizers import make_tokenizer
from tuner.console.console import Console
from tuner.data.bad_rows import BadRow
from tuner.data.classifier import Classifier
from tuner.data.sft import SftData
from tuner.data.tokens.prepared import Inputs
from tuner.export import adapter, origin
from tuner.export.proof import fresh_process, reload
from tuner.inference import labels, load, open_model
from tuner.inference.serve import app, models, protocol
from tuner.inference.serve.admission import Admission, Limits
from tuner.inference.serve.guard import Gate, Guard
from tuner.inference.serve.worker import Worker
from tuner.machine import hardware
from tuner.model.adapters.saved_models import SavedModel
from tuner.model.base import Base
from tuner.plan import make as plan_make
from tuner.recipe import load as recipe_load
from tuner.recipe.schema import DataSection
from tuner.record import seal
from tuner.run import build, spine

WORDS = ["iron", "ice", "wax", "cork", "salt", "lead"]
ROWS = [
    {"text": f"The {word} price {['rose', 'fell'][n % 2]}.", "label": ["up", "down"][n % 2]}
    for n, word in enumerate(WORDS * 2)
]
TEXT = "The salt price rose."


def planned(folder: Path, base: Path, task: str, **sections: Any) -> Any:
    """The plan of a short run on the rows."""
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    recipe = {
        "model": {"base": str(base), "task": task},
        "data": {"train": "rows.jsonl", "eval": 4},
        "train": {"max_steps": 2, "batch_size": 4, "learning_rate": 0.01},
        "eval": {"enabled": False, "samples": 0},
        **sections,
    }
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe))
    loaded = recipe_load.load(folder / "r.yaml", verb="sft")
    return plan_make.make(loaded, hardware.detect(), output=folder / "run")


@pytest.fixture(scope="module")
def tuned(
    bases: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], tuple[Path, Any]]:
    """An adapter away from its start, sealed as a run seals it, and its plan."""
    root = tmp_path_factory.mktemp("classifiers")

    @cache
    def make(kind: str, task: str) -> tuple[Path, Any]:
        folder = root / f"{kind}-{task}"
        made = planned(folder, bases(kind), task)
        trained = build.start(made, build.load(made))
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in trained.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        facts = fresh_process.facts_of(made)
        extra = {"facts": facts, "base_fingerprint": made.base.fingerprint()}
        with seal.seal(folder / "adapter", extra=extra) as staging:
            adapter.write_adapter(made, trained, staging)
        return folder / "adapter", made

    return make


def answers(folder: Path, made: Any, *arguments: object, typed: str = TEXT) -> list[dict[str, Any]]:
    named = ("--base", made.base.folder, "--adapter", folder, "--json")
    done: Done = chat(*named, *arguments, typed=typed)
    assert (done.returncode, done.stderr) == (0, "")
    return done.events


def opened(folder: Path, made: Any) -> Any:
    source = open_model.model_to_open(
        None, str(made.base.folder), [str(folder)], hardware.detect(), "chat"
    )
    return open_model.load(source, Console())


KINDS = [("llama", "generation"), ("bert", "classification")]


@pytest.mark.parametrize(("kind", "task"), KINDS)
def test_labels_are_answered_as_they_are_scored(
    kind: str, task: str, tuned: Callable[..., Any]
) -> None:
    """An input has the very tokens of the held-out row, and the probabilities that the row has."""
    folder, made = tuned(kind, task)
    held = made.prepared.eval
    model = opened(folder, made)
    classifier = model.classifiers[model.active.name]
    for row in held:
        wanted = row.options or [row.example]
        asked = classifier.asked(row.prompt_text).examples
        assert [each.input_ids for each in asked] == [each.input_ids for each in wanted]
        assert [each.supervised for each in asked] == [each.supervised for each in wanted]
    typed = "".join(json.dumps({"text": row.prompt_text}) + "\n" for row in held)
    for row, event in zip(held, answers(folder, made, typed=typed), strict=True):
        shares = event["probabilities"]
        assert math.isclose(sum(shares.values()), 1)
        assert event["question"] == {"text": row.prompt_text}
        assert event["label"] == event["text"] == max(shares, key=shares.__getitem__)
        with torch.no_grad():
            expected = _alone(model.active.network, row)
        found = torch.tensor([shares[label] for label in made.prepared.labels])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_run_and_its_merged_model_answer_alike(
    kind: str, bases: Callable[..., Path], tmp_path: Path
) -> None:
    """Labels and template go with each artefact."""
    export = {"formats": ["adapter", "merged"]}
    made = planned(tmp_path / "x", bases(kind), "classification", export=export)
    spine.run(made, resume=False, console=Console(quiet=True))
    (own,), (merged,) = (
        chat(folder, "--json", typed=TEXT).events
        for folder in (made.output, made.output / "merged")
    )
    assert own["label"] == merged["label"]
    assert own["probabilities"] == pytest.approx(merged["probabilities"], abs=1e-4)


def _alone(network: Any, row: Any) -> torch.Tensor:
    """The probabilities of a held-out row's labels, each computed on its own, by hand."""
    if not row.options:
        logits = network(input_ids=torch.tensor([row.example.input_ids])).logits[0]
        return torch.softmax(logits, 0)
    scores = []
    for option in row.options:
        logits = network(input_ids=torch.tensor([option.input_ids])).logits[0].log_softmax(-1)
        places = [place for place, learned in enumerate(option.supervised) if learned]
        scores.append(sum(logits[place - 1, option.input_ids[place]] for place in places))
    return torch.softmax(torch.stack(scores), 0)


def test_labels_at_a_pipe(tuned: Callable[..., Any]) -> None:
    """People see the likeliest label first; text is one input, whatever its lines."""
    folder, made = tuned("llama", "generation")
    named = ("--base", made.base.folder, "--adapter", folder)
    done = chat(*named, typed="The salt price rose.\n\nIt fell before.\n")
    first, second = done.stdout.strip().split(", ")
    assert {first.split()[0], second.split()[0]} == {"up", "down"}
    assert float(first.split()[1]) >= float(second.split()[1])
    assert (done.returncode, done.stderr) == (0, "")
    by_line = answers(folder, made, "--lines", typed="a\n\nb\n/base\nc\n")
    assert [event["question"] for event in by_line] == ["a", "b", "c"]
    assert ["probabilities" in event for event in by_line] == [True, True, False]
    typed = json.dumps({"messages": [{"role": "user", "content": TEXT}]})
    assert answers(folder, made, typed=typed) == answers(folder, made)
    (written,) = answers(folder, made, "--generate")
    assert "probabilities" not in written
    odd = chat(*named, typed='{"text": "a", "colour": "red"}')
    assert odd.returncode == 3
    assert "unknown column colour; it reads text" in odd.stderr


def test_a_head_cannot_write(tuned: Callable[..., Any]) -> None:
    folder, made = tuned("bert", "classification")
    done = chat("--base", made.base.folder, "--adapter", folder, "--generate")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--generate: this model cannot write" in done.stderr


def test_a_head_of_an_earlier_version(tuned: Callable[..., Any], tmp_path: Path) -> None:
    """Its classes are in the record of its run, its prompts are not, and that is said."""
    folder, made = tuned("bert", "classification")
    old = tmp_path / "adapter"
    shutil.copytree(folder, old)
    (old / "MANIFEST.json").unlink()
    assert labels.kept_with(old) == (None, "")
    values = {"data.labels": {"value": ["down", "up"]}}
    (tmp_path / "run.json").write_text(json.dumps({"plan": {"values": values}}))
    kept, doubt = labels.kept_with(old)
    assert kept is not None
    assert (kept["labels"], kept["head"]) == (["down", "up"], "classes")
    assert "not recorded how its prompts" in doubt
    named = ("--base", made.base.folder, "--adapter", old, "--json")
    *warnings, event = chat(*named, typed=TEXT).events
    assert any("not recorded how its prompts" in warning["text"] for warning in warnings)
    assert event["probabilities"] == answers(folder, made)[0]["probabilities"]


def classifier_of(folder: Path, rows: list[dict[str, Any]], **keys: Any) -> tuple[Any, Classifier]:
    """Rows prepared for a model that writes, and what asks inputs from what is kept of them."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    data = DataSection(**({"train": ["rows.jsonl"], "eval": 0.5} | keys))
    tokenizer = make_tokenizer("chatml")
    prepared = SftData(Inputs(data, tokenizer, folder, 7, 512)).prepare()
    # As it comes back from a manifest.
    kept = json.loads(json.dumps(prepared.classifier, sort_keys=True))
    return prepared, Classifier(kept, make_tokenizer("chatml"), 512, ())


PAIR = """
name: pair
description: two texts, and whether one follows
columns: {required: [premise, hypothesis, label], optional: [hint]}
label: label
turns:
  - {role: user, content: "{{ premise }} So: {{ hypothesis }}{% if hint %} ({{ hint }}){% endif %}"}
  - {role: assistant, content: "Answer: {{ label }}"}
"""


@pytest.mark.parametrize(
    ("keys", "needed"),
    [
        ({"template": "pair.yaml", "columns": {"premise": "first"}}, ("premise", "hypothesis")),
        ({"template": "cloze", "columns": {"text": "first"}}, ("text",)),
        ({"template": "classification", "columns": {"text": "first"}, "system": "Be short."}, None),
        ({"template": "classification", "columns": {"text": "first"}, "render": "raw"}, ("text",)),
    ],
)
def test_an_input_is_read_as_the_row_that_it_is(
    tmp_path: Path, keys: dict[str, Any], needed: tuple[str, ...] | None
) -> None:
    """By the columns of the file or of the template; several, or a text where one is enough."""
    (tmp_path / "pair.yaml").write_text(PAIR)
    names = ["positive", "negative"]
    rows = [
        {"first": f"Part {n}.", "hypothesis": f"It is {n}.", "label": names[n % 2]}
        for n in range(8)
    ]
    if keys["template"] == "pair.yaml":
        keys = {**keys, "labels": [f"Answer: {name}" for name in names]}
    prepared, classifier = classifier_of(tmp_path, rows, **keys)
    assert classifier.needed == (needed or ("text",))
    by_row = {f"rows.jsonl:{n + 1}": row for n, row in enumerate(rows)}
    read = ["first", "hypothesis"] if len(classifier.needed) == 2 else ["first"]
    for held in prepared.eval:
        given = {name: by_row[held.example.row][name] for name in read}
        asked = classifier.asked(given).examples
        assert [each.input_ids for each in asked] == [each.input_ids for each in held.options]
        if len(read) == 1:
            assert classifier.asked(given["first"]).examples == asked


def test_a_text_of_several_columns_is_asked_as_one_or_by_its_parts(tmp_path: Path) -> None:
    rows = [{"head": f"Part {n}", "body": f"It is {n}.", "label": "xy"[n % 2]} for n in range(8)]
    keys = {"template": "classification", "columns": {"text": "head + body"}}
    prepared, classifier = classifier_of(tmp_path, rows, **keys)
    for held in prepared.eval:
        row = rows[int(held.example.row.partition(":")[2]) - 1]
        text = f"{row['head']}\n\n{row['body']}"
        for given in (text, {"head": row["head"], "body": row["body"]}, {"text": text}):
            asked = classifier.asked(given).examples
            assert [each.input_ids for each in asked] == [each.input_ids for each in held.options]
    with pytest.raises(BadRow, match=r"it reads text \(head \+ body\)"):
        classifier.asked({"heed": "x"})


def test_a_gguf_file_has_the_labels_of_the_artefact_that_it_lies_in(tmp_path: Path) -> None:
    base = Base("x", "gguf", tmp_path / "copy", {})
    folder = tmp_path / "runs/one/gguf"
    folder.mkdir(parents=True)
    (folder / "x.gguf").write_bytes(b"GGUF")
    assert load._artefact(base, "runs/one/gguf/x.gguf", tmp_path) == folder
    assert load._artefact(base, str(folder / "x.gguf"), Path("/")) == folder
    assert load._artefact(replace(base, kind="folder"), "x", tmp_path) == base.folder


def test_a_head_that_is_merged_later_has_the_names_of_its_classes(
    bases: Callable[..., Path],
) -> None:
    """The merged model's config comes from the base that the export loads."""
    job: dict[str, Any] = {"base": str(bases("llama")), "device": "cpu", "dtype": "float32"}
    job |= {"auto_class": "AutoModelForSequenceClassification", "trust_remote_code": False}
    job |= {"quantize": "none", "num_labels": 3, "head": "classes"}
    names = {0: "late", 1: "lost", 2: "paid"}
    config = reload.base({**job, "classifier": {"labels": [*names.values()]}}).config
    assert (config.id2label, config.label2id["paid"], config.num_labels) == (names, 2, 3)
    assert reload.base(job).config.num_labels == 3
    assert reload.base({**job, "labels": [*names.values()]}).config.id2label == names
    assert reload.base({**job, "labels": ["late"]}).config.id2label[0] == "LABEL_0"


def test_an_adapter_of_an_earlier_version_has_the_names_of_its_classes_in_its_run(
    tmp_path: Path,
) -> None:
    """Its manifest has none; a merged model that is made of it gets these."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"task_type": "SEQ_CLS"}')
    values = {"data.labels": {"value": ["late", "lost"]}}
    (tmp_path / "run.json").write_text(json.dumps({"plan": {"values": values}}))
    known = {"head": "classes", "num_labels": 2, "trust_remote_code": False}
    saved = SavedModel("run", tmp_path / "adapter", tmp_path, sealed={"facts": known})
    assert origin.facts(saved, None) == {"qat": "none", **known, "labels": ["late", "lost"]}
    named = {**known, "classifier": {"labels": ["a", "b"]}}
    assert "labels" not in origin.facts(replace(saved, sealed={"facts": named}), None)
    for other in ({**known, "head": "language"}, {**known, "head": "reward"}):
        assert "labels" not in origin.facts(replace(saved, sealed={"facts": other}), None)


def test_rows_of_free_texts_are_no_classifier(tmp_path: Path) -> None:
    """One answer that is no label is enough; so are several questions in a row."""
    rows = [{"prompt": f"a {n}", "completion": ["x", "y"][n % 2]} for n in range(8)]
    assert classifier_of(tmp_path, rows, labels=["x", "y"])[0].classifier["labels"] == ["x", "y"]
    rows[0]["completion"] = "free"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    data = DataSection(train=("rows.jsonl",), eval=0, labels=("x", "y"))
    assert SftData(Inputs(data, make_tokenizer(), tmp_path, 7, 512)).prepare().classifier is None


@pytest.fixture
def served(tuned: Callable[..., Any]) -> Callable[..., TestClient]:
    """A client of the endpoints over an open run, with its worker, in this process."""
    failures: list[Exception] = []

    def make(kind: str, task: str) -> TestClient:
        model = opened(*tuned(kind, task))
        worker = Worker(model, failures.append)
        worker.start()
        admission = Admission(4)
        endpoints = app.Endpoints(
            models.name_all(model), worker, admission, Limits(), 0, ThreadPoolExecutor(1)
        )
        built, door = app.build(endpoints, None), Gate(None, None, 1 << 20)
        return TestClient(Guard(built, door, admission, lambda line: None, failures.append))

    return make


@pytest.mark.parametrize(("kind", "task"), KINDS)
def test_classify_over_http(kind: str, task: str, served: Callable[..., TestClient]) -> None:
    """One input or several, in one batch; each as if alone, and as `tuner chat` answers."""
    client = served(kind, task)
    name = f"{kind}-{task}"
    texts = [row["text"] for row in ROWS[:5]]
    several = client.post("/v1/classify", json={"model": name, "input": texts}).json()
    assert (several["object"], several["model"]) == ("list", name)
    assert [each["index"] for each in several["data"]] == list(range(5))
    for text, each in zip(texts, several["data"], strict=True):
        assert each["truncated"] is False
        assert math.isclose(sum(each["probabilities"].values()), 1)
        assert each["label"] == max(each["probabilities"], key=each["probabilities"].__getitem__)
        for given in (text, {"text": text}):
            # The one model that classifies needs no name.
            (alone,) = client.post("/v1/classify", json={"input": given}).json()["data"]
            assert alone["label"] == each["label"]
            assert alone["probabilities"] == pytest.approx(each["probabilities"], abs=1e-5)
    assert several["usage"]["prompt_tokens"] == several["usage"]["total_tokens"] > 0


def test_the_request_of_the_docs(served: Callable[..., TestClient]) -> None:
    page = (Path(__file__).parents[2] / "docs/serving.md").read_text("utf-8")
    (body,) = re.findall(r"^curl \S+/v1/classify .*?-d '(.*?)'", page, re.MULTILINE | re.DOTALL)
    asked = json.loads(body) | {"model": "bert-classification"}
    reply = served("bert", "classification").post("/v1/classify", json=asked).json()
    assert reply.keys() == {"id", "object", "created", "model", "data", "usage"}
    for number, item in enumerate(reply["data"]):
        assert item.keys() == {"index", "label", "probabilities", "truncated"}
        assert item["index"] == number


WRONG: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({"input": TEXT, "model": "green"}, 404, "model_not_found", "model"),
    ({"model": "NAME"}, 400, "missing_required_parameter", "input"),
    ({"input": []}, 400, "invalid_value", "input"),
    ({"input": 7}, 400, "invalid_value", "input"),
    ({"input": [TEXT] * (protocol.MAX_INPUTS + 1)}, 400, "invalid_value", "input"),
    ({"input": TEXT, "temperature": 0}, 400, "unknown_parameter", "temperature"),
    ({"input": {"words": TEXT}}, 400, "invalid_input", "input"),
    ({"input": {}}, 400, "invalid_input", "input"),
    ({"input": "\ud800"}, 400, "invalid_value", "input"),
]


def test_what_is_wrong_with_a_classification(served: Callable[..., TestClient]) -> None:
    """Errors are the server's others; a head writes no text, and its bare base is no model."""
    client = served("bert", "classification")
    name = "bert-classification"
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [name]
    for body, status, code, parameter in WRONG:
        body = {**body, "model": name} if body.get("model") == "NAME" else body
        raw = json.dumps(body).encode()
        answer = client.post(
            "/v1/classify", content=raw, headers={"Content-Type": "application/json"}
        )
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, code, parameter)
    asked = {"model": name, "messages": [{"role": "user", "content": TEXT}]}
    answer = client.post("/v1/chat/completions", json=asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "only_classifies")
    assert "/v1/classify" in answer.json()["error"]["message"]


def test_a_model_without_labels_does_not_classify(served: Callable[..., TestClient]) -> None:
    """The base of a run whose answers are labels writes, and so does the run."""
    client = served("llama", "generation")
    base = client.get("/v1/models").json()["data"][-1]["id"]
    answer = client.post("/v1/classify", json={"model": base, "input": TEXT})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_a_classifier")
    asked = {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 2}
    for name in (base, "llama-generation"):
        assert client.post("/v1/chat/completions", json={"model": name, **asked}).status_code == 200
