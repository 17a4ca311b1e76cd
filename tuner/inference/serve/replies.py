"""Answers in the format of OpenAI's chat completions and completions, whole or in chunks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from tuner.data.reasoning import Splitter
from tuner.inference.listener import Answer
from tuner.inference.serve.protocol import ChatAsk, CompletionAsk

_REASONS = {"eos": "stop", "words": "stop", "length": "length"}


class Reply:
    """The reply to one request.

    Args:
        ask: the request.
        id: of the reply.
        prompt_tokens: of all prompts.
        prompts: how many there are.
        opened: whether the prompt ends inside a block of reasoning.

    Attributes:
        answers: by the number of their prompt, as they become complete.
    """

    def __init__(
        self,
        ask: ChatAsk | CompletionAsk,
        id: str,
        prompt_tokens: int,
        prompts: int,
        opened: bool = False,
    ) -> None:
        self._chat = isinstance(ask, ChatAsk)
        self._opened, self._splitter = opened, Splitter(opened)
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
        """Return why an answer ended: stop or length."""
        return _REASONS[self.answers[prompt].stopped]

    def whole(self) -> dict[str, Any]:
        """Return all answers."""
        choices = []
        for prompt in range(self._prompts):
            text = self.answers[prompt].text
            said: dict[str, Any] = {"text": text}
            if self._chat:
                thought, text = Splitter(self._opened).feed(text, end=True)
                message = {"role": "assistant", "content": text, "refusal": None}
                said = {"message": message | ({"reasoning_content": thought} if thought else {})}
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
        names = ("reasoning_content", "content")
        for name, new in zip(names, self._splitter.feed(text, end), strict=True):
            if new:
                yield self._chunk(prompt, {name: new})

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


def _choice(prompt: int, said: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": prompt, **said, "logprobs": None, "finish_reason": reason}
