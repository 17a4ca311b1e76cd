"""The prompt that a request sends is the prompt that is trained, in every family, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient
from transformers import LlamaConfig, LlamaForCausalLM

from tests.chat_templates import FAMILIES
from tests.data.test_conversations import REFUSED, RENAMED, ROWS, Row, state
from tests.data.test_masks import prepared
from tests.inference.conversation import opened
from tests.tiny import ROPE
from tuner.console.console import Console
from tuner.data.chat.chat_template import ChatTemplate
from tuner.inference.chat import Chat
from tuner.inference.engine import Answer
from tuner.inference.serve import app, models
from tuner.inference.serve.admission import Admission, Limits
from tuner.inference.serve.guard import Gate, Guard
from tuner.inference.serve.worker import Job, Worker


class Listening(Worker):
    """A worker that keeps what it is asked."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, lambda error: None)
        self.asked: list[Job] = []

    def submit(self, job: Job) -> None:
        self.asked.append(job)
        super().submit(job)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with rows for the tokens of any family."""
    folder = tmp_path_factory.mktemp("network")
    size = max(len(family.tokenizer()) for family in FAMILIES.values())
    config = LlamaConfig(**{**ROPE, "vocab_size": size, "max_position_embeddings": 2048})
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def made_base(folder: Path, network: Path, tokenizer: Any) -> Path:
    folder.mkdir()
    for file in network.iterdir():
        (folder / file.name).symlink_to(file)
    tokenizer.save_pretrained(folder)
    return folder


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[TestClient, Listening]]:
    """The application of `tuner serve` in this process."""
    model = opened(folder)
    worker, admission = Listening(model), Admission(4)
    limits = Limits(max_queue=4)

    @contextlib.asynccontextmanager
    async def life(_: Any) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.stop, 10)

    with ThreadPoolExecutor(1) as encoding:
        endpoints = app.Endpoints(models.name_all(model), worker, admission, limits, 0, encoding)
        built: Any = app.build(endpoints, life)
        door = Gate(None, None, 1_000_000)
        guarded = Guard(built, door, admission, lambda line: None, lambda error: None)
        with TestClient(guarded) as client:
            yield client, worker


def request(row: Row, arguments: dict[str, Any]) -> dict[str, Any]:
    """What a client of OpenAI's sends for the last answer of a row."""
    turns = [dict(turn) for turn in row["messages"][:-1]]
    for turn in turns:
        if calls := turn.get("tool_calls"):
            call = calls[0]["function"]
            written = {**call, "arguments": json.dumps(call["arguments"])}
            turn["tool_calls"] = [{"id": "call00001", "type": "function", "function": written}]
        if turn["role"] == "tool":
            turn["tool_call_id"] = "call00001"
    tools = {"tools": row["tools"]} if "tools" in row else {}
    kwargs = {"chat_template_kwargs": arguments} if arguments else {}
    return {"model": "base", "max_tokens": 1, "messages": turns, **tools, **kwargs}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_prompt_of_a_request_is_the_trained_prompt(
    tmp_path: Path, network: Path, name: str
) -> None:
    """Token by token, for every kind of row that the family can show; the others are refused."""
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    stops = family.stop_ids(tokenizer)
    base = made_base(tmp_path / "base", network, tokenizer)
    chat = ChatTemplate(tokenizer, stops)
    shown = {kind: row for kind, row in ROWS.items() if (name, kind) not in REFUSED}
    held = [json.dumps(row) for row in shown.values()]
    (tmp_path / "held.jsonl").write_text("\n".join(held), "utf-8")
    others = [json.loads(text.replace(*RENAMED)) for text in held]
    keys: dict[str, Any] = {"stop_ids": stops, "eval": "held.jsonl"}
    made = prepared(tmp_path, others, tokenizer, **keys).eval
    # Of a row with several answers, the last one.
    trained = {each.example.row: each.prompt_ids for each in made}
    with serving(base) as (client, worker):
        for kind, row in ROWS.items():
            body = request(row, chat.arguments(state(row)))
            reply = client.post("/v1/chat/completions", json=body)
            if (name, kind) in REFUSED:
                if name.startswith("llama"):
                    continue  # Its answers are: a prompt drops the reasoning of earlier turns.
                named = "tools" if "tools" in row else "messages"
                assert (reply.status_code, reply.json()["error"]["param"]) == (400, named)
                continue
            assert reply.status_code == 200, reply.text
            number = [*shown].index(kind) + 1
            assert worker.asked[-1].prompts == [trained[f"held.jsonl:{number}"]], kind


@pytest.mark.parametrize("name", FAMILIES)
def test_the_prompt_of_chat_is_the_trained_prompt(
    tmp_path: Path, network: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it comes in a pipe, with `--tools` and `--chat-argument`."""
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    stops = family.stop_ids(tokenizer)
    model = opened(made_base(tmp_path / "base", network, tokenizer))
    asked: list[list[int]] = []

    def answer(prompt: list[int], *_: Any, **__: Any) -> Answer:
        asked.append(prompt)
        return Answer("", "eos", 0)

    monkeypatch.setattr(model, "answer", answer)
    chat = ChatTemplate(tokenizer, stops)
    for kind, row in ROWS.items():
        if (name, kind) in REFUSED:
            continue
        made = prepared(tmp_path, [row], tokenizer, stop_ids=stops).train[-1]
        talk = Chat(
            model,
            Console(quiet=True),
            arguments=chat.arguments(state(row)),
            tools=row.get("tools", ()),
        )
        talk.answer_all(json.dumps({"messages": row["messages"][:-1]}))
        assert made.input_ids[: len(asked[-1])] == asked[-1], kind
        assert made.supervised[len(asked[-1])], kind


def test_the_parts_of_a_message_are_one_text_as_in_a_row(tmp_path: Path, network: Path) -> None:
    """OpenAI's list of parts, with nothing between them."""
    tokenizer = FAMILIES["qwen2.5"].tokenizer()
    texts = [{"type": "text", "text": text} for text in ("Du", "e?")]
    row = json.loads(json.dumps(ROWS["plain"]))
    row["messages"][0]["content"] = texts
    (example,) = prepared(tmp_path, [row], tokenizer).train
    with serving(made_base(tmp_path / "base", network, tokenizer)) as (client, worker):
        for each in (row, ROWS["plain"]):
            assert client.post("/v1/chat/completions", json=request(each, {})).status_code == 200
    one, other = (job.prompts[0] for job in worker.asked)
    assert one == other == example.input_ids[: len(one)]
