"""A tiny base that learned to reason: by default, and at once where it is asked so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from transformers import AutoTokenizer

from tests.conftest import write_rows
from tests.inference.conversation import ROOT, chat
from tests.inference.serving import KEY, Running, post
from tuner.console.console import Console
from tuner.machine import hardware
from tuner.plan import make as plan_make
from tuner.recipe import load as recipe_load
from tuner.run import spine

THOUGHT, ANSWER = "Three it is.", "Number 3."
ASKED: Any = [{"role": "user", "content": "Say number 3."}]
OFF: Any = {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.fixture(scope="module")
def run(bases: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that knows both answers by heart."""
    folder = tmp_path_factory.mktemp("reasoning")
    plain = {"role": "assistant", "content": ANSWER}
    rows = [{"messages": [*ASKED, {**plain, "reasoning_content": THOUGHT}]}] * 2
    write_rows(folder / "train.jsonl", [*rows, {"messages": [*ASKED, plain]}])
    recipe = {
        "model": {"base": str(bases("llama")), "chat_template": "qwen3"},
        "data": {"train": "train.jsonl", "eval": 0},
        "method": {"name": "full"},
        "train": {"max_steps": 60, "epochs": 60, "batch_size": 3, "learning_rate": 0.01},
        "eval": {"enabled": False, "samples": 0},
    }
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe))
    loaded = recipe_load.load(folder / "r.yaml", verb="sft")
    made = plan_make.make(loaded, hardware.detect(), output=folder / "run")
    assert made.values["model.chat_arguments"].value is None  # the template reasons by itself
    spine.run(made, resume=False, console=Console(quiet=True))
    return folder / "run"


LONG = ("--max-new-tokens", "60", "--json")


def test_chat_reasons_unless_it_is_asked_not_to(run: Path) -> None:
    done = chat(run, *LONG)
    (answer,) = [event for event in done.events if event["event"] == "answer"]
    assert (answer["reasoning"], answer["text"], answer["stopped"]) == (THOUGHT, ANSWER, "eos")
    done = chat(run, *LONG, "--chat-argument", "enable_thinking=false")
    (answer,) = [event for event in done.events if event["event"] == "answer"]
    assert (answer["text"], answer["stopped"]) == (ANSWER, "eos")
    assert "reasoning" not in answer


@pytest.mark.parametrize(
    ("given", "fix"),
    [
        ("enable_thoughts=false", "use NAME=VALUE with one of: enable_thinking"),
        ("enable_thinking", "use NAME=VALUE with one of: enable_thinking"),
        ("enable_thinking=False", "use true or false"),
        ("enable_thinking=no", "use true or false"),
    ],
)
def test_an_argument_without_effect_is_refused(run: Path, given: str, fix: str) -> None:
    done = chat(run, "--chat-argument", given)
    assert done.returncode == 2
    assert fix in done.stderr


def test_what_chat_saves_is_trained_as_it_was_said(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "said.jsonl"
    chat(run, "--lines", "--max-new-tokens", "60", typed=f"{ASKED[0]['content']}\n/save {file}\n")
    assert yaml.safe_load(file.read_text())["messages"] == [
        *ASKED,
        {"role": "assistant", "content": ANSWER, "reasoning_content": THOUGHT},
    ]


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[Running]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tuner", "serve", str(run), "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TUNER_API_KEY": KEY},
    )
    yield Running(process)
    process.kill()
    process.wait()


def ask(server: Running, **further: Any) -> Any:
    client: openai.OpenAI = server.client()
    return client.chat.completions.create(
        model="run", messages=ASKED, max_tokens=60, temperature=0, **further
    )


def test_served_reasoning_is_a_field_of_its_own(server: Running) -> None:
    message = ask(server).choices[0].message
    assert (message.content, message.reasoning_content) == (ANSWER, THOUGHT)
    message = ask(server, extra_body=OFF).choices[0].message
    assert message.content == ANSWER
    assert not hasattr(message, "reasoning_content")


def test_served_reasoning_is_streamed_apart(server: Running) -> None:
    deltas = [chunk.choices[0].delta for chunk in ask(server, stream=True)]
    assert "".join(each.content or "" for each in deltas) == ANSWER
    thoughts = [getattr(each, "reasoning_content", None) or "" for each in deltas]
    assert "".join(thoughts) == THOUGHT
    assert sum(map(bool, thoughts)) > 2
    deltas = [chunk.choices[0].delta for chunk in ask(server, stream=True, extra_body=OFF)]
    assert "".join(each.content or "" for each in deltas) == ANSWER


def test_earlier_reasoning_may_be_sent_back(server: Running) -> None:
    """The template drops it from turns before the last question, as in training."""
    said = {"role": "assistant", "content": ANSWER}
    body = {"model": "run", "max_tokens": 1, "temperature": 0}
    used = []
    for turn in (said, {**said, "reasoning_content": THOUGHT}):
        status, _, found = post(server, {**body, "messages": [*ASKED, turn, *ASKED]})
        assert status == 200
        used.append(found["usage"]["prompt_tokens"])
    assert used[0] == used[1]


def test_unknown_arguments_are_refused_by_name(server: Running) -> None:
    body = {"model": "run", "messages": ASKED, "chat_template_kwargs": {"thinking": False}}
    status, _, found = post(server, body)
    assert status == 400
    assert found["error"]["param"] == "chat_template_kwargs"
    assert "it reads: enable_thinking" in found["error"]["message"]


@pytest.mark.parametrize("value", ["false", 0, None])
def test_reasoning_is_turned_on_or_off_by_true_or_false(server: Running, value: Any) -> None:
    """To a template, any text is as good as true; recipes refuse it, too."""
    body = {"model": "run", "messages": ASKED, "chat_template_kwargs": {"enable_thinking": value}}
    status, _, found = post(server, body)
    assert (status, found["error"]["param"]) == (400, "chat_template_kwargs")
    assert found["error"]["message"] == (
        f"enable_thinking is {value!r}: it turns reasoning on or off; use true or false"
    )


def test_the_exported_template_is_the_trained_one(run: Path) -> None:
    exported = AutoTokenizer.from_pretrained(run / "merged")
    text = exported.apply_chat_template(ASKED, add_generation_prompt=True, tokenize=False)
    assert text == "<|im_start|>user\nSay number 3.<|im_end|>\n<|im_start|>assistant\n"
