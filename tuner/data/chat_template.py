"""The model's chat template: rendered in a sandbox, guarded, and probed for what it can do."""

from __future__ import annotations

import re
import threading
from collections.abc import Collection
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tuner.data.bad_rows import BadRow
from tuner.data.dialogue import Message
from tuner.errors import DataError, ModelError, SafetyError

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ 'Assistant:\n' + message['content'] + eos_token + '\n\n' }}"
    "{% elif message['role'] == 'tool' %}{{ 'Tool:\n' + message['content'] + '\n\n' }}"
    "{% else %}{{ 'User:\n' + message['content'] + '\n\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)
PROBE_SECONDS = 8.0
MAX_NUMBER = 1_000_000
MAX_PROBE_CHARACTERS = 10_000_000
_DUNDER = re.compile(r"__\w+__")
_NAME = "probe_of_tool"
_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "probe",
        "parameters": {"type": "object", "properties": {}},
    },
}
_CALL = {"type": "function", "id": "call00000", "function": {"name": _NAME, "arguments": {}}}
_USER = {"role": "user", "content": "question"}


def adds_bos(tokenizer: Any) -> bool:
    """Return whether the tokenizer puts BOS before a plain text by itself."""
    ids = tokenizer("a").input_ids
    return bool(tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id])


class ChatTemplate:
    """The chat template of a tokenizer that has an eos, or a plain one of ours if it has none.

    Raises:
        ModelError: the template is not valid.
        SafetyError: the template uses what it must not, or does not terminate.
    """

    def __init__(self, tokenizer: Any, stop_ids: Collection[int] = ()) -> None:
        self._tokenizer = tokenizer
        self.own = tokenizer.chat_template is None
        plain = ("{{ bos_token }}" if adds_bos(tokenizer) else "") + PLAIN_TEMPLATE
        self.source = plain if self.own else _source(tokenizer)
        words = tokenizer.convert_ids_to_tokens([tokenizer.eos_token_id, *stop_ids])
        self.stops = tuple(dict.fromkeys(word for word in words if word))
        self.specials = tuple(
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special
        )
        _refuse_dangers(self.source)
        self._probe()

    def render(
        self, messages: list[Message], tools: list[Any] | None = None, generate: bool = False
    ) -> str:
        """Render messages, with the header of the next answer if `generate`.

        Raises:
            BadRow: the template refuses these messages.
            ModelError: the template is not valid Jinja.
            SafetyError: the template broke its sandbox's rules.
        """
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages,
                    tools=tools,
                    chat_template=self.source if self.own else None,
                    add_generation_prompt=generate,
                    tokenize=False,
                )
            )
        except (SecurityError, OverflowError, MemoryError) as error:
            raise _unsafe(str(error)) from None
        except jinja2.TemplateSyntaxError as error:
            raise _broken(str(error)) from None
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise BadRow(f"the model's chat template rejects it: {error}") from None

    def require_tools(self, row: str) -> None:
        """Raise unless the template shows tools to the model.

        Raises:
            DataError: its rendering is the same with and without tools.
        """
        if not self.renders_tools:
            raise DataError(
                "the model's chat template cannot render tools",
                f"{row} has tools, but the template renders it the same without them",
                "use a base model whose template renders tools, or set data.columns: {tools: none}",
            )

    def _probe(self) -> None:
        """Render once with a time limit, and learn whether tools and tool calls are shown."""
        outcome: list[BaseException | None] = []

        def attempt() -> None:
            try:
                self._learn()
                outcome.append(None)
            except Exception as error:
                outcome.append(error)

        worker = threading.Thread(target=attempt, daemon=True)
        worker.start()
        worker.join(PROBE_SECONDS)
        if not outcome:
            raise _unsafe(f"it did not finish within {PROBE_SECONDS:.0f} seconds")
        if outcome[0] is not None:
            raise outcome[0]

    def _learn(self) -> None:
        plain = self._try([_USER])
        if plain is not None and len(plain) > MAX_PROBE_CHARACTERS:
            raise _unsafe("it renders a single word to more than ten million characters")
        self.renders_tools = self._try([_USER], [_PROBE_TOOL]) not in (None, plain)
        call = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
        self.renders_calls = _NAME in (self._try([_USER, call]) or "")

    def _try(self, messages: list[Message], tools: list[Any] | None = None) -> str | None:
        try:
            return self.render(messages, tools)
        except BadRow:
            return None


def _source(tokenizer: Any) -> str:
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise _broken(str(error)) from None


def _refuse_dangers(source: str) -> None:
    """Refuse what no honest chat template has; the sandbox stays the real guard."""
    environment = ImmutableSandboxedEnvironment()
    try:
        tokens = list(environment.lex(source))
    except jinja2.TemplateSyntaxError as error:
        raise _broken(str(error)) from None
    for _, kind, text in tokens:
        if kind in ("name", "string") and _DUNDER.search(text):
            raise _unsafe(f"it uses {text}")
        if kind == "operator" and text == "**":
            raise _unsafe("it computes powers")
        if kind == "integer" and int(text.replace("_", ""), 0) > MAX_NUMBER:
            raise _unsafe(f"it uses the number {text}")


def _unsafe(why: str) -> SafetyError:
    return SafetyError(
        "the model's chat template is not safe to run",
        why,
        "use a base model from a source you trust, or remove its chat template",
    )


def _broken(why: str) -> ModelError:
    return ModelError(
        "the model's chat template is not valid", why, "correct the tokenizer's chat_template"
    )
