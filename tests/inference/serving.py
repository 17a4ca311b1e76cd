"""`tuner serve` in a process of its own, and requests to it."""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import peft
import torch
from transformers import AutoModelForCausalLM

KEY = "a-key-of-the-tests-0123456789"
ASKED = [{"role": "user", "content": "Say number 3."}]
LONGEST = 400


@dataclass
class Running:
    """A server in a process of its own, and what it prints."""

    process: subprocess.Popen[str]
    events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        wait_for(lambda: self._is_ready() or self.process.poll() is not None)
        assert self._is_ready(), self.process.stderr.read()  # type: ignore[union-attr]
        (self.ready,) = self._is_ready()

    def _is_ready(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == "ready"]

    def _read(self) -> None:
        for line in self.process.stdout:  # type: ignore[union-attr]
            self.events.append(json.loads(line))

    @property
    def url(self) -> str:
        return str(self.ready["url"])

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, **options: Any) -> openai.OpenAI:
        given = {"api_key": KEY, "max_retries": 0, "timeout": 60, **options}
        return openai.OpenAI(base_url=f"{self.url}/v1", **given)

    def requests(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == "request"]


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
    return found


def make_adapter(base: Path, folder: Path, seed: int) -> Path:
    """A LoRA away from its start, as peft saves it."""
    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(network, config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    wrapped.save_pretrained(folder)
    return folder


Start = Callable[..., Running]


def greedy(client: openai.OpenAI, model: str, tokens: int = 8, **further: Any) -> Any:
    asked = further.pop("messages", ASKED)
    return client.chat.completions.create(
        model=model, messages=asked, max_tokens=tokens, temperature=0, **further
    )


def post(server: Running, body: Any, path: str = "/v1/chat/completions", **headers: str) -> Any:
    """Status, headers and content of a plain request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}", **headers}
    connection.request("POST", path, raw, {k.replace("_", "-"): v for k, v in head.items() if v})
    response = connection.getresponse()
    found = response.status, dict(response.getheaders()), json.loads(response.read() or b"null")
    connection.close()
    return found


GOOD: dict[str, Any] = {"model": "red", "messages": ASKED, "max_tokens": 2, "temperature": 0}
