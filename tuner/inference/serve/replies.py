"""Answers in the format of OpenAI's chat completions and completions, whole or in chunks."""

from __future__ import annotations

import secrets
import string
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tuner.data.classifier import Asked
from tuner.inference.labels import answered
from tuner.inference.listener import Answer
from tuner.inference.reading import Part, Reader, whole
from tuner.inference.serve.protocol import ChatAsk, CompletionAsk

_REASONS = {"eos": "stop", "words": "stop", "length": "length"}
# Mistral's chat template takes ids of exactly nine letters and digits.
_ID = string.ascii_letters + string.digits
_ID_LENGTH = 9


class Reply:
    """The reply to one request.

    Args:
        ask: the request.
        id: of the reply.
        prompt_tokens: of all prompts.
        prompts: how many there are.
        read: makes what reads an answer.

    Attributes:
        answers: by the number of their prompt, as they become complete.
    """

    def __init__(
        self,
        ask: ChatAsk | CompletionAsk,
        id: str,
        prompt_tokens: int,
        prompts: int,
        read: Callable[[], Reader] = Reader,
    ) -> None:
        self._chat = isinstance(ask, ChatAsk)
        self._read, self._streamed, self._calls = read, read(), 0
        self._usage_in_stream = ask.usage_in_stream
        self._prompt_tokens = prompt_tokens
        self._prompts = prompts
        kind = ("chat.completion" + ".chunk" * ask.stream) if self._chat else "text_completion"
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{id}" if self._chat else f"cmpl-{id}",
            "object": kind,
            "created": int(time.time()),
            "model": ask.model,
        }
        self.answers: dict[int, Answer] = {}

    def reason(self, prompt: int) -> str:
        """Return why an answer ended: stop, tool_calls or length."""
        answer = self.answers[prompt]
        reader, reason = self._read(), _REASONS[answer.stopped]
        if not self._chat or not whole(reader.feed(answer.text, end=True)).calls:
            return reason
        return "tool_calls" if reason == "stop" or reader.ended else reason

    def whole(self) -> dict[str, Any]:
        """Return all answers."""
        choices = []
        for prompt in range(self._prompts):
            text = self.answers[prompt].text
            said: dict[str, Any] = {"text": text}
            if self._chat:
                said = {"message": _message(self._read().feed(text, end=True))}
            choices.append(_choice(prompt, said, self.reason(prompt)))
        return {**self._head, "choices": choices, "usage": self._usage()}

    def opening(self) -> Iterator[dict[str, Any]]:
        """Yield the chunks before the first piece."""
        if self._chat:
            yield self._chunk(0, {"role": "assistant", "content": ""})

    def piece(self, prompt: int, text: str, end: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the chunks for a piece of text, the last one if `end`."""
        if not self._chat:
            if text:
                yield self._chunk(prompt, text)
            return
        for part in self._streamed.feed(text, end):
            if part.call:
                call = {"index": self._calls, **_call(part.call)}
                self._calls += 1
                yield self._chunk(prompt, {"tool_calls": [call]})
            else:
                yield self._chunk(prompt, {part.kind: part.text})

    def finish(self, prompt: int) -> Iterator[dict[str, Any]]:
        """Yield the chunks that end an answer."""
        yield from self.piece(prompt, "", end=True)
        yield self._chunk(prompt, {} if self._chat else "", self.reason(prompt))

    def closing(self) -> Iterator[dict[str, Any]]:
        """Yield the chunks after the last answer."""
        if self._usage_in_stream:
            yield {**self._head, "choices": [], "usage": self._usage()}

    def _chunk(self, prompt: int, said: Any, reason: str | None = None) -> dict[str, Any]:
        choice = _choice(prompt, {"delta" if self._chat else "text": said}, reason)
        usage = {"usage": None} if self._usage_in_stream else {}
        return {**self._head, "choices": [choice], **usage}

    def _usage(self) -> dict[str, int]:
        """Return the token counts; stop tokens are not counted."""
        written = sum(answer.tokens for answer in self.answers.values())
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self._prompt_tokens + written,
        }


def labelled(
    model: str,
    id: str,
    inputs: Sequence[Asked],
    found: Sequence[dict[str, float]],
    threshold: float | None = None,
) -> dict[str, Any]:
    """Return the reply to a classification: the likeliest label, or those that reach a threshold,
    and all probabilities per input.

    Args:
        model: its name.
        id: of the reply.
        inputs: as the model read them.
        found: the probability of each label.
        threshold: of each of several labels.
    """
    tokens = sum(each.tokens for each in inputs)
    return {
        "id": f"classify-{id}",
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": [
            {
                "index": number,
                **answered(shares, threshold),
                "probabilities": shares,
                "truncated": each.truncated,
            }
            for number, (each, shares) in enumerate(zip(inputs, found, strict=True))
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _choice(prompt: int, said: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": prompt, **said, "logprobs": None, "finish_reason": reason}


def _message(parts: Iterable[Part]) -> dict[str, Any]:
    said = whole(parts)
    # As at OpenAI, null next to calls where there is no text.
    content = said.content if said.content or not said.calls else None
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if said.reasoning:
        message["reasoning_content"] = said.reasoning
    if said.calls:
        message["tool_calls"] = [_call(call) for call in said.calls]
    return message


def _call(call: dict[str, str]) -> dict[str, Any]:
    name = "".join(secrets.choice(_ID) for _ in range(_ID_LENGTH))
    return {"id": name, "type": "function", "function": call}
