"""`tuner predict` with models that answer with labels or scores, and of other families."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests import here
from tests.conftest import write_rows
from tests.inference.conversation import Make, chat, opened
from tests.inference.test_labels import ROWS, planned
from tests.inference.test_predict import answered, lines, predict
from tests.tasks.preferences import pairs
from tuner.console.console import Console
from tuner.inference.predict import write
from tuner.inference.sampling import GREEDY
from tuner.machine import processes
from tuner.run import spine


@pytest.fixture(scope="module")
def classifier(
    bases: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """Folder of a run whose answers are labels."""
    root = tmp_path_factory.mktemp("labels")

    @cache
    def make(kind: str, task: str) -> Path:
        made = planned(root / f"{kind}-{task}", bases(kind), task, export={"formats": ["adapter"]})
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(processes, "fresh", here.fresh)
            patched.setenv("TUNER_CACHE", str(root / "cache"))
            spine.run(made, resume=False, console=Console(quiet=True))
        return Path(made.output)

    return make


@pytest.mark.parametrize(("kind", "task"), [("llama", "generation"), ("bert", "classification")])
def test_tickets_are_sorted(
    kind: str, task: str, classifier: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """Labels and probabilities are those of chat, whatever else is in the file and the batch; and a
    file that was cut off is continued byte for byte."""
    run = classifier(kind, task)
    texts = [row["text"] + " It rose again." * (n % 4) for n, row in enumerate(ROWS * 6)]
    items: list[dict[str, Any]] = [{"id": n, "text": text} for n, text in enumerate(texts)]
    items[3] |= {"text": None}
    asked = write_rows(tmp_path / "tickets.jsonl", items)
    found = answered(run, asked, "out.jsonl", "--keep", "id,text", "--max-bad-rows", 1)
    assert [line["columns"]["id"] for line in found] == list(range(72))
    assert found[3]["error"] == "the column 'text' is missing; it reads text"
    for number in (0, 2, 71):
        (event,) = chat(run, "--json", typed=json.dumps({"text": texts[number]})).events
        assert found[number]["label"] == event["label"]
        assert found[number]["probabilities"] == pytest.approx(event["probabilities"], abs=1e-5)
    whole = (tmp_path / "out.jsonl").read_bytes()
    (tmp_path / "out.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:67]) + b'{"i')
    further = ("--keep", "id,text", "--max-bad-rows", 1, "--resume")
    answered(run, asked, "out.jsonl", *further)
    assert (tmp_path / "out.jsonl").read_bytes() == whole
    named = write_rows(tmp_path / "named.jsonl", [{"body": texts[0], "label": "up"}])
    (other,) = answered(run, named, "named.out", "--column", "text=body")
    assert other["probabilities"] == pytest.approx(found[0]["probabilities"], abs=1e-5)


def test_what_a_classifier_cannot_do_is_refused(
    classifier: Callable[[str, str], Path], tmp_path: Path
) -> None:
    run = classifier("bert", "classification")
    asked = write_rows(tmp_path / "tickets.jsonl", ROWS)
    words = (run, "--data", asked, "--output", tmp_path / "out.jsonl")
    for options, said in (
        (("--generate",), "--generate: this model cannot write"),
        (("--logprobs",), "--logprobs cannot be used here"),
        (("--template", "chat"), "--template: this run answers with labels"),
        (("--column", "body=text"), "this run reads no column 'body'"),
        (("--keep", "txt"), "has no column 'txt'"),
    ):
        done = predict(*words, *options)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
        assert not (tmp_path / "out.jsonl").exists()


def test_a_reward_model_scores_answers(
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., dict[str, Any]],
    bases: Callable[..., Path],
    in_process: None,
    tmp_path: Path,
) -> None:
    """The score is that of transformers' own model, at the answer's stop token."""
    recipe = make_recipe(
        data_rows=pairs(12), data={"eval": 2, "template": "auto"}, export={"formats": ["adapter"]}
    )
    run_recipe(recipe, verb="reward")
    run = tmp_path / "run"
    items = [
        {"instruction": f"Say number {n}.", "output": row["chosen"]}
        for n, row in enumerate(pairs(5))
    ]
    asked = write_rows(tmp_path / "answers.jsonl", [*items, {"instruction": "Nothing."}])
    found = answered(run, asked, "scores.jsonl", "--max-bad-rows", 1)
    assert "error" in found.pop()
    network: Any = AutoModelForSequenceClassification.from_pretrained(
        bases("llama"), num_labels=1, dtype=torch.float32
    )
    network = PeftModel.from_pretrained(network, run / "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "adapter")
    network.config.pad_token_id = tokenizer.pad_token_id
    for line, row in zip(found, items, strict=True):
        turns = [
            {"role": "user", "content": row["instruction"]},
            {"role": "assistant", "content": row["output"]},
        ]
        text = tokenizer.apply_chat_template(turns, tokenize=False).rstrip("\n")
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert line["tokens"] == len(ids)
        with torch.no_grad():
            wanted = float(network(input_ids=torch.tensor([ids])).logits)
        assert line["score"] == pytest.approx(wanted, abs=1e-5)
    done = predict(run, "--data", asked, "--output", tmp_path / "x", "--samples", 2)
    assert done.returncode == 2


@pytest.mark.parametrize("kind", ["t5", "gpt2", "llama-prefix", "llama-prompt"])
def test_batches_of_other_families(kind: str, bases: Callable[..., Path], adapter: Make) -> None:
    """Encoder-decoders, absolute positions and virtual tokens: as alone, and as chat's engine."""
    family, _, method = kind.partition("-")
    found = opened(bases(family), *([adapter(method)] if method else []))
    found.use(next(iter(found.adapters), None))
    prompts = [
        write.Prompt(found.prompts_of(found.active).ids([{"role": "user", "content": text}]), n)
        for n, text in enumerate(["Say 1.", "Say number two, and be short.", "rent " * 20])
    ]
    how = write.Writing(8, GREEDY)
    batch = write.answers(found, prompts, how)
    for prompt, written in zip(prompts, batch, strict=True):
        own = found.answer(prompt.ids, 8)
        assert (written.text, written.stopped, len(written.ids)) == (
            own.text,
            own.stopped,
            own.tokens,
        )
    assert len({written.text for written in batch}) > 1


def test_lines_of_a_text_file_are_continued(bases: Callable[..., Path], tmp_path: Path) -> None:
    """A base without a run: plain text goes on as it is."""
    (tmp_path / "begun.txt").write_text("The tenant pays rent\nThe party\n")
    words = ("--base", bases("llama"), "--data", tmp_path / "begun.txt", "--prompt")
    done = predict(*words, "--output", tmp_path / "out.jsonl", "--max-new-tokens", 4)
    assert done.returncode == 0, done.stderr
    found = lines(tmp_path / "out.jsonl")
    assert [line["prompt"] for line in found] == ["The tenant pays rent", "The party"]
    model = opened(bases("llama"))
    for line in found:
        ids = model.active.tokenizer(line["prompt"], add_special_tokens=False)["input_ids"]
        assert line["answer"] == model.answer(ids, 4).text
