"""`tuner predict`: a file answered as `tuner chat` answers its prompts, whole and in order."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import here
from tests.conftest import write_rows
from tests.inference.conversation import Done, alone, chat, opened, recipe_for
from tuner import cli
from tuner.console.console import Console
from tuner.inference.predict import write
from tuner.inference.predict.lines import Lines as Output
from tuner.inference.sampling import GREEDY, Sampling
from tuner.machine import hardware, processes
from tuner.plan import make as plan_make
from tuner.recipe import load as recipe_load
from tuner.run import spine

Lines = list[dict[str, Any]]


def predict(*arguments: object) -> Done:
    """`tuner predict` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        cli.main(["predict", *map(str, arguments)])
    return Done(int(stop.value.code or 0), out.getvalue(), err.getvalue())


def lines(path: Path) -> Lines:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def answered(folder: Path, file: Path, name: str, *arguments: object) -> Lines:
    output = file.with_name(name)
    done = predict(folder, "--data", file, "--output", output, "--max-new-tokens", 6, *arguments)
    assert done.returncode == 0, done.stderr
    return lines(output)


@pytest.fixture(scope="module")
def run(bases: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run on tiny rows; its proofs ran in this process."""
    root = tmp_path_factory.mktemp("run")
    recipe = recipe_for(root, bases("llama"), {"name": "lora"}, export={"formats": ["adapter"]})
    loaded = recipe_load.load(recipe, ["train.learning_rate=0.01"], "sft")
    made = plan_make.make(loaded, hardware.detect(), output=root / "run")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(processes, "fresh", here.fresh)
        patched.setenv("TUNER_CACHE", str(root / "cache"))
        spine.run(made, resume=False, console=Console(quiet=True))
    return root / "run"


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """Rows without answers, of different lengths."""
    texts = [f"Say number {n}." + " Be short, please." * (n % 3) for n in range(7)]
    items = [{"id": f"a{n}", "instruction": text} for n, text in enumerate(texts)]
    return write_rows(tmp_path / "asked.jsonl", items)


def test_every_row_is_answered_as_chat_answers_it(run: Path, asked: Path) -> None:
    found = answered(run, asked, "out.jsonl", "--keep", "id", "--batch-size", 4)
    assert [line["index"] for line in found] == list(range(7))
    assert [line["line"] for line in found] == list(range(1, 8))
    assert [line["columns"] for line in found] == [{"id": f"a{n}"} for n in range(7)]
    for line, row in zip(found, lines(asked), strict=True):
        (event,) = chat(run, "--json", typed=row["instruction"]).events
        assert (line["answer"], line["tokens"]) == (event["text"], event["tokens"])
        assert line["stopped"] == event["stopped"]


def test_no_batch_changes_an_answer(run: Path, asked: Path) -> None:
    """Neither a greedy nor a sampled one; log-probabilities agree to rounding."""
    for sampled in ((), ("--temperature", 1.3, "--samples", 2, "--top-k", 20, "--top-p", 0.9)):
        kind = f"{len(sampled)}-{{}}.jsonl"
        alone, *others = (
            answered(run, asked, kind.format(size), "--batch-size", size, "--logprobs", *sampled)
            for size in (1, 3, 7)
        )
        for other in others:
            assert without_logprobs(other) == without_logprobs(alone)
            for one, two in zip(logprobs(other), logprobs(alone), strict=True):
                assert one == pytest.approx(two, abs=2e-5)


def of_each(found: Lines) -> Lines:
    return [each for line in found for each in line.get("samples", [line])]


def logprobs(found: Lines) -> list[list[float]]:
    return [[each["logprob"] for each in line["logprobs"]] for line in of_each(found)]


def without_logprobs(found: Lines) -> Lines:
    for each in of_each(copied := json.loads(json.dumps(found))):
        del each["logprobs"]
    return list(copied)


def test_an_answer_that_hangs_on_the_last_digits_is_written_alone(
    bases: Callable[..., Path], tmp_path: Path, asked: Path
) -> None:
    """Every token has a twin that is exactly as likely, and batches are disturbed a little: what is
    chosen is what is chosen alone, where the first of the two is taken."""
    model = AutoModelForCausalLM.from_pretrained(bases("llama"), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(bases("llama"))
    head = model.lm_head.weight.data
    head[1::2] = head[::2]
    model.save_pretrained(tmp_path / "twins")
    tokenizer.save_pretrained(tmp_path / "twins")
    found = opened(tmp_path / "twins")
    prompts = [
        write.Prompt(tokenizer(row["instruction"])["input_ids"], n)
        for n, row in enumerate(lines(asked))
    ]
    how = write.Writing(6, GREEDY)
    alone = [write.answers(found, [prompt], how)[0].ids for prompt in prompts]

    def disturb(_: Any, __: Any, scores: torch.Tensor) -> torch.Tensor:
        return scores + 1e-4 * torch.randn_like(scores) * (len(scores) > 1)

    found.bare.network.lm_head.register_forward_hook(disturb)
    assert [written.ids for written in write.answers(found, prompts, how)] == alone
    disturbed = [written.ids for written, _ in write._batch(found, prompts, how)]
    assert disturbed != alone


def test_log_probabilities_are_those_of_the_model(
    run: Path, bases: Callable[..., Path], asked: Path
) -> None:
    """Against peft's model, run over prompt and answer at once; whatever the temperature."""
    tokenizer = AutoTokenizer.from_pretrained(run / "adapter")
    network = alone(bases("llama"), run / "adapter")
    sampled = ("--temperature", 0.7, "--samples", 2, "--logprobs", "--prompt")
    compared = 0
    for line in answered(run, asked, "out.jsonl", *sampled):
        assert len(line["samples"]) == 2
        prompt = tokenizer(line["prompt"], add_special_tokens=False)["input_ids"]
        for each in line["samples"]:
            ids = tokenizer.convert_tokens_to_ids(
                tokenizer.tokenize("".join(token["token"] for token in each["logprobs"]))
            )
            if len(ids) != each["tokens"]:
                continue  # Its text has other tokens than the model wrote.
            with torch.no_grad():
                logits = network(input_ids=torch.tensor([prompt + ids])).logits[0].double()
            wanted = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(
                1, torch.tensor(ids, dtype=torch.long)[:, None]
            )
            found = [token["logprob"] for token in each["logprobs"]]
            assert found == pytest.approx(wanted[:, 0].tolist(), abs=2e-5)
            compared += 1
    assert compared > 3


def test_tokens_are_sampled_as_often_as_they_are_likely() -> None:
    """4,000 draws from five tokens, of which top-p leaves three."""
    scores = torch.tensor([2.0, 1.5, 1.0, -1.0, -9.0]).expand(4000, 5)
    how = write.Writing(1, Sampling(2.0, top_p=0.9, top_k=0), seed=7)
    network = SimpleNamespace(
        dtype=torch.float32, generation_config=SimpleNamespace(top_k=50, top_p=1.0)
    )
    prompts = [write.Prompt([1], number) for number in range(4000)]
    chosen = write.Choice(how, prompts, network)(None, scores).argmax(-1)
    shares = torch.bincount(chosen, minlength=5) / 4000
    wanted = torch.tensor([1.0, 0.75, 0.5]).softmax(0).tolist()
    assert shares[:3].tolist() == pytest.approx(wanted, abs=0.03)
    assert shares[3:].tolist() == [0, 0]


def test_a_file_that_was_cut_off_is_continued(
    run: Path, asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte, whatever the place: in the middle of a batch, and of a line."""
    whole = asked.with_name("whole.jsonl")
    further = ("--max-new-tokens", 6, "--logprobs", "--batch-size", 3, "--max-bad-rows", 1)
    torn = lines(asked)
    write_rows(asked, [*torn[:2], {"id": "bad", "instruction": ""}, *torn[2:]])
    words = (run, "--data", asked, *further)
    assert predict(*words, "--output", whole).returncode == 0
    append = Output.append
    for at in (1, 4):
        output = asked.with_name(f"cut-{at}.jsonl")

        def stops(self: Output, line: Any, at: int = at) -> None:
            if line["index"] == at:
                raise KeyboardInterrupt
            append(self, line)

        with monkeypatch.context() as patched:
            patched.setattr(Output, "append", stops)
            assert predict(*words, "--output", output).returncode == 130
        kept = output.read_bytes()
        assert len(kept.splitlines()) == at
        output.write_bytes(kept + b'{"index": 4, "li')
        done = predict(*words, "--output", output, "--resume", "--json")
        assert done.returncode == 0, done.stderr
        assert done.events[-1]["continued_after"] == at
        assert output.read_bytes() == whole.read_bytes()
    done = predict(*words, "--output", whole, "--resume", "--json")
    assert (done.returncode, done.events[-1]["continued_after"]) == (0, 8)


def test_answers_made_in_another_way_are_not_mixed(run: Path, asked: Path) -> None:
    answered(run, asked, "out.jsonl")
    output = asked.with_name("out.jsonl")
    before = output.read_bytes()
    words = (run, "--data", asked, "--output", output, "--max-new-tokens", 6)
    done = predict(*words)
    assert (done.returncode, "is there already" in done.stderr) == (2, True)
    done = predict(*words, "--resume", "--temperature", 0.5)
    assert done.returncode == 2
    assert "temperature: 0.0 there, 0.5 now" in done.stderr
    write_rows(asked, lines(asked)[::-1])
    done = predict(*words, "--resume")
    assert (done.returncode, "data_sha256" in done.stderr) == (2, True)
    write_rows(asked, lines(asked)[::-1])
    output.write_bytes(b"".join(before.splitlines(keepends=True)[1:]))
    done = predict(*words, "--resume")
    assert (done.returncode, "line 1 is not the answer to row 0" in done.stderr) == (6, True)
    output.write_bytes(before)
    assert predict(*words, "--resume").returncode == 0
    assert output.read_bytes() == before


def test_rows_that_cannot_be_answered_keep_their_place(run: Path, tmp_path: Path) -> None:
    """Torn JSON, a missing column, a prompt without room: each is named, with its line."""
    good = {"instruction": "Say number 3."}
    long = {"instruction": "tenant rent " * 400}
    items = [json.dumps(each) for each in (good, long, {"other": 1}, good)]
    (tmp_path / "asked.jsonl").write_text("\n".join([*items[:2], "{torn", "", *items[2:]]))
    words = (run, "--data", tmp_path / "asked.jsonl", "--output", tmp_path / "out.jsonl")
    words = (*words, "--max-new-tokens", 4)
    done = predict(*words)
    assert done.returncode == 3
    assert "3 rows of 5 cannot be answered" in done.stderr
    assert "--max-bad-rows 3" in done.stderr
    assert not (tmp_path / "out.jsonl").exists()
    done = predict(*words, "--max-bad-rows", 3, "--json")
    assert done.returncode == 0, done.stderr
    assert {key: done.events[-1][key] for key in ("rows", "answered", "bad_rows")} == {
        "rows": 5,
        "answered": 2,
        "bad_rows": 3,
    }
    found = lines(tmp_path / "out.jsonl")
    assert [line["index"] for line in found] == [0, 1, 2, 3, 4]
    assert [line["line"] for line in found] == [1, 2, 3, 5, 6]
    assert ["answer" in line for line in found] == [True, False, False, False, True]
    assert "the context is 512 tokens" in found[1]["error"]
    assert "property name" in found[2]["error"]
    assert "instruction" in found[3]["error"]
    assert found[0]["answer"] == found[4]["answer"]


def test_other_columns_and_templates(run: Path, tmp_path: Path) -> None:
    """The same question in another column, as a conversation, in a table, with its answer."""
    text = "Say number 3."
    asked = write_rows(tmp_path / "plain.jsonl", [{"instruction": text}])
    (wanted,) = answered(run, asked, "plain.out")
    asked = write_rows(tmp_path / "named.jsonl", [{"q": text, "output": "Unread."}])
    assert answered(run, asked, "named.out", "--column", "instruction=q") == [wanted]
    turns = [{"role": "user", "content": text}]
    for extra in ([], [{"role": "assistant", "content": "Unread."}]):
        asked = write_rows(tmp_path / "chat.jsonl", [{"messages": [*turns, *extra]}])
        assert answered(run, asked, f"chat-{len(extra)}.out", "--template", "chat") == [wanted]
    (tmp_path / "table.csv").write_text(f"id,instruction\n7,{text}\n")
    assert answered(run, tmp_path / "table.csv", "table.out") == [{**wanted, "line": 2}]
    done = predict(run, "--data", tmp_path / "named.jsonl", "--output", tmp_path / "no.out")
    assert done.returncode == 3
    assert "--template NAME --column NAME=COLUMN" in done.stderr
