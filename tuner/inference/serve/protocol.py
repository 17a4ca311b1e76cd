"""Requests of OpenAI's chat completions and completions, and of classifications: what is
understood, and what is refused.

A parameter that would change the answer and is not supported is refused, unless its value has no
effect (`n: 1`, `presence_penalty: 0`, null).
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from tuner.data.turns.turn_lists import joined
from tuner.inference.serve.fields import Ids, Strict, Text, Words, unicode
from tuner.inference.serve.tools import NamedChoice, Tool, ToolCall, choice

MAX_STOPS = 4
MAX_PROMPTS = 64
MAX_INPUTS = 256
# They change no answer: who the caller is, and what OpenAI stores.
_ABOUT_THE_CALLER = frozenset(
    (
        *("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
        *("service_tier",),
    )
)
# Not supported; these values have no effect.
_SHARED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logit_bias": ({},),
}
_CHAT = _SHARED | {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "store": (False,),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
}
_COMPLETION = _SHARED | {"best_of": (1,), "echo": (False,), "logprobs": (), "suffix": ("",)}
_MESSAGE: dict[str, tuple[Any, ...]] = {
    "function_call": (),
    "refusal": (),
    "audio": (),
    "annotations": ([],),
}


def _text_only(kind: Any) -> Any:
    if kind != "text" and isinstance(kind, str):
        raise PydanticCustomError(
            "invalid_value", "this server reads text, not '{kind}'", {"kind": kind}
        )
    return kind


class ContentPart(Strict):
    """A part of a message."""

    type: Annotated[Literal["text"], BeforeValidator(_text_only)]
    text: Text


class ChatMessage(Strict):
    """A turn."""

    neutral = _MESSAGE
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[ContentPart], Field(min_length=1)] | None = None
    reasoning_content: Text | None = None
    tool_calls: list[ToolCall] = Field(default=[])
    tool_call_id: Words | None = None
    name: Words | None = None

    @model_validator(mode="after")
    def _keys_of_its_role(self) -> ChatMessage:
        if self.tool_calls and self.role != "assistant":
            raise PydanticCustomError("invalid_value", "only an assistant's turn has 'tool_calls'")
        if self.content is None and not self.tool_calls:
            raise PydanticCustomError("missing", "a turn without 'tool_calls' needs 'content'")
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise PydanticCustomError(
                "invalid_value", "a turn with the role tool, and only it, has a 'tool_call_id'"
            )
        if self.name is not None and self.role != "tool":
            raise PydanticCustomError(
                "unsupported_parameter",
                "this server does not support {parameter} with this value",
                {"parameter": "name"},
            )
        return self

    def turn(self) -> dict[str, Any]:
        """Return the turn for a chat template, its parts as one text, as in a row."""
        text = self.content
        if isinstance(text, list):
            text = joined([part.model_dump() for part in text])
        turn: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role}
        given = {"content": text, "tool_call_id": self.tool_call_id, "name": self.name}
        turn |= {key: value for key, value in given.items() if value is not None}
        if self.role == "assistant" and self.reasoning_content:
            turn["reasoning_content"] = self.reasoning_content
        if self.tool_calls:
            turn["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        return turn


class StreamOptions(Strict):
    """What a stream contains besides the answer."""

    silent = frozenset(["include_obfuscation"])
    include_usage: bool = False


class Ask(Strict):
    """What both kinds of request have in common."""

    silent = _ABOUT_THE_CALLER
    model: Annotated[Text, Field(min_length=1, max_length=1000)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: Words | Annotated[list[Words], Field(max_length=MAX_STOPS)] = Field(default=[])
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Ask:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(
                "invalid_value", "'stream_options' is only allowed with 'stream'"
            )
        return self

    @property
    def words(self) -> list[str]:
        """Return the texts that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def usage_in_stream(self) -> bool:
        """Return whether a stream ends with the number of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def longest(self) -> tuple[str, int | None]:
        """Return which parameter limits the answer, and to how many tokens."""
        return "max_tokens", self.max_tokens


class ChatAsk(Ask):
    """`POST /v1/chat/completions`."""

    neutral = _CHAT
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: list[Tool] = Field(default=[])
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | NamedChoice, BeforeValidator(choice)
    ] = "auto"
    parallel_tool_calls: bool = True
    # Not OpenAI's; the name that other servers of open models use.
    chat_template_kwargs: dict[str, bool | int | float | str | None] | None = None

    @model_validator(mode="after")
    def _a_call_needs_its_tool(self) -> ChatAsk:
        if missing := [name for name in self.wanted if name not in self._names]:
            raise PydanticCustomError(
                "invalid_value", f"'tool_choice' names {missing[0]}, which is not among 'tools'"
            )
        if self.tool_choice == "required" and not self.tools:
            raise PydanticCustomError("invalid_value", "'tool_choice' is required without 'tools'")
        return self

    @property
    def _names(self) -> list[str]:
        return [tool.function.name for tool in self.tools]

    @property
    def wanted(self) -> list[str]:
        """Return the functions of which one has to be called; none if the model may choose."""
        if isinstance(self.tool_choice, NamedChoice):
            return [self.tool_choice.function.name]
        return self._names if self.tool_choice == "required" else []

    @property
    def shown_tools(self) -> list[dict[str, Any]]:
        """Return the tools that the model is shown, as they were given."""
        return [] if self.tool_choice == "none" else [tool.given for tool in self.tools]

    def longest(self) -> tuple[str, int | None]:
        """Return the same; the newer name wins, as with OpenAI."""
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens
        return super().longest()


def _inputs(given: Any) -> list[Any]:
    """Return the inputs of a classification, one or several, as a list.

    Raises:
        PydanticCustomError: it is something else.
    """
    items = given if isinstance(given, list) else [given]
    if not 0 < len(items) <= MAX_INPUTS or not all(isinstance(each, str | dict) for each in items):
        raise PydanticCustomError(
            "invalid_value",
            "it is a text, an object, or a list of 1 to {most}",
            {"most": MAX_INPUTS},
        )
    unicode(json.dumps(items, ensure_ascii=False))
    return items


class ClassifyAsk(Strict):
    """`POST /v1/classify`, which OpenAI does not have: texts, or objects with a row's columns."""

    silent = _ABOUT_THE_CALLER
    model: Annotated[Text, Field(min_length=1, max_length=1000)] | None = None
    input: Annotated[list[str | dict[str, Any]], BeforeValidator(_inputs)]


class CompletionAsk(Ask):
    """`POST /v1/completions`: texts, or token ids."""

    neutral = _COMPLETION
    prompt: (
        Text
        | Ids
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[Ids], Field(min_length=1, max_length=MAX_PROMPTS)]
    )

    def longest(self) -> tuple[str, int | None]:
        """Return the same; 16 by default, as with OpenAI."""
        return "max_tokens", self.max_tokens or 16

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """Return the prompts, each of which is answered."""
        given: Any = self.prompt
        single = isinstance(given, str) or isinstance(given[0], int)
        return [given] if single else given
