"""The model's chat template: rendered in a sandbox, guarded, and probed for what it can do."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Mapping
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError

from tuner.data import bundled_chats
from tuner.data.bad_rows import BadRow
from tuner.data.chat import template_clock, template_probe
from tuner.data.chat.template_probe import INLINE, Abilities
from tuner.data.chat.template_safety import broken, line_of, refuse_dangers, syntax, unsafe
from tuner.data.turns import reasoning, turn_keys
from tuner.data.turns.reasoning import Message
from tuner.errors import DataError, RecipeError

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
MAX_PROBE_CHARACTERS = 10_000_000
# By source and special tokens: a plan, its gate and its artefacts ask about the same few templates.
_LEARNED: dict[tuple[str, str], Abilities] = {}


def adds_bos(tokenizer: Any) -> bool:
    """Return whether the tokenizer puts BOS before a plain text by itself."""
    ids = tokenizer("a").input_ids
    return bool(tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id])


def sends_bos(tokenizer: Any) -> bool:
    """Return whether its prompts begin with a BOS that programs put before every text: the
    tokenizer adds one to plain texts, and its chat template writes it."""
    if tokenizer.chat_template is None or not adds_bos(tokenizer):
        return adds_bos(tokenizer)
    question = [{"role": "user", "content": "question"}]
    try:
        text = str(tokenizer.apply_chat_template(question, tokenize=False))
    # A template is a program; what it raises is its own.
    except Exception:
        return True
    return text.startswith(tokenizer.bos_token)


class ChatTemplate:
    """The chat template of a tokenizer that has an eos, or a plain one of ours if it has none.

    Args:
        tokenizer: has it.
        stop_ids: further tokens that end an answer.
        date: that it writes for today's, as 2026-11-28; None: the day on which it is rendered.

    Attributes:
        dated: whether it writes today's date.

    Raises:
        ModelError: the template is not valid.
        SafetyError: the template uses what it must not, or does not terminate.
    """

    def __init__(
        self, tokenizer: Any, stop_ids: Collection[int] = (), date: str | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._date = date
        self.own = tokenizer.chat_template is None
        plain = ("{{ bos_token }}" if adds_bos(tokenizer) else "") + PLAIN_TEMPLATE
        self.source = plain if self.own else source_of(tokenizer)
        self.dated = "strftime_now" in self.source
        words = tokenizer.convert_ids_to_tokens([tokenizer.eos_token_id, *stop_ids])
        self.stops = tuple(dict.fromkeys(word for word in words if word))
        self.specials = tuple(
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special
        )
        refuse_dangers(self.source)
        self._probe()

    def render(
        self,
        messages: list[Message],
        tools: list[Any] | None = None,
        generate: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """Render messages in the form of `native`.

        Args:
            messages: the turns.
            tools: shown to the model.
            generate: end with the header of an answer.
            arguments: for the template, by name.

        Raises:
            BadRow: the template refuses these messages.
            ModelError: the template is not valid Jinja.
            SafetyError: the template broke its sandbox's rules.
        """
        try:
            with template_clock.on(self._date):
                return str(
                    self._tokenizer.apply_chat_template(
                        messages,
                        tools=tools,
                        chat_template=self.source,
                        add_generation_prompt=generate,
                        tokenize=False,
                        **(arguments or {}),
                    )
                )
        except (SecurityError, OverflowError, MemoryError) as error:
            raise unsafe(str(error)) from None
        except jinja2.TemplateSyntaxError as error:
            raise broken(syntax(error, self.source)) from None
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise self._rejected(messages, f"{error}{line_of(error, self.source)}") from None

    def native(self, message: Message) -> Message:
        """Return a turn as the template takes it, with its reasoning in the right field."""
        message = turn_keys.shown(message)
        said = message.get(reasoning.KEY)
        if not said:
            return message
        rest, field = reasoning.without(message), self.abilities.reasoning
        if field == INLINE:
            return {**rest, "content": reasoning.inline(message)}
        return {**rest, field: said} if field else rest

    def arguments(self, reasons: bool) -> dict[str, Any]:
        """Return the arguments by which the model is asked for an answer with reasoning, or
        without; none where the template has no such argument."""
        return {self.abilities.switch: reasons} if self.abilities.switch else {}

    def defaults(self, reasons: bool) -> dict[str, Any]:
        """Return the same, but nothing where the template asks so by itself."""
        wanted = self.arguments(reasons)
        question = [{"role": "user", "content": "question"}]
        same = self.render(question, generate=True) == self.render(
            question, generate=True, arguments=wanted
        )
        return {} if same else wanted

    def refuse_half_switch(self, name: str, value: Any, what: str) -> None:
        """Refuse a value other than true or false for the argument that turns reasoning off.

        Raises:
            RecipeError: it is one; to a template, the text `no` is as good as true.
        """
        if name == self.abilities.switch and not isinstance(value, bool):
            raise RecipeError(
                f"{what} is {value!r}", "it turns reasoning on or off", "use true or false"
            )

    def require_tools(self, row: str) -> None:
        """Raise unless the template shows tools to the model.

        Raises:
            DataError: its rendering is the same with and without tools.
        """
        if not self.abilities.tools:
            raise DataError(
                "the model's chat template cannot render tools",
                f"{row} has tools, but the template renders it the same without them",
                "set model.chat_template to one that renders tools, such as qwen3; or leave tools "
                "and calls out of the rows",
            )

    def _rejected(self, messages: list[Message], why: str) -> BadRow:
        """The problem of messages that the template refuses; what would do, if it is the system
        turn."""
        if len(messages) > 1 and messages[0]["role"] == "system":
            try:
                self.render(messages[1:])
            except BadRow:
                return BadRow(f"the model's chat template rejects it: {why}")
            other = next(iter(bundled_chats.suiting(self._tokenizer)), "chatml")
            return BadRow(
                f"the model's chat template has no system turn: {why}; model.chat_template: "
                f"{other} shows its text"
            )
        return BadRow(f"the model's chat template rejects it: {why}")

    def _probe(self) -> None:
        """Render with a time limit, and learn what the template can do, once for each."""
        key = self.source, repr(self._tokenizer.special_tokens_map)
        if key in _LEARNED:
            self.abilities: Abilities = _LEARNED[key]
            return
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
            raise unsafe(f"it did not finish within {PROBE_SECONDS:.0f} seconds")
        if outcome[0] is not None:
            raise outcome[0]
        _LEARNED[key] = self.abilities

    def _learn(self) -> None:
        try:
            plain = self.render([{"role": "user", "content": "question"}])
        except BadRow:
            plain = ""
        if len(plain) > MAX_PROBE_CHARACTERS:
            raise unsafe("it renders a single word to more than ten million characters")
        self.abilities = template_probe.learn(self.source, self.render)


def with_defaults(source: str, arguments: Mapping[str, Any]) -> str:
    """Return a template that takes these arguments where the caller names none.

    Whoever renders it, another program too, sends the same prompt.
    """
    lines = [
        f"{{%- if {name} is not defined %}}{{%- set {name} = {_literal(value)} %}}{{%- endif %}}"
        for name, value in arguments.items()
    ]
    # After a tag, Jinja would take away a line break that the template begins with.
    return "".join([*lines, "{{- '' }}" if lines else "", source])


def plain_template(tokenizer: Any, separator: str) -> str:
    """Return a chat template that writes turns as plain text, each followed by `separator`."""
    return (
        ("{{ bos_token }}" if adds_bos(tokenizer) else "")
        + "{% for message in messages %}{{ message['content'] }}"
        + "{% if add_generation_prompt or not loop.last %}{{ "
        + json.dumps(separator)
        + " }}{% endif %}{% endfor %}"
    )


def check_arguments(tokenizer: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the chat template does not read.

    Raises:
        RecipeError: the tokenizer has no chat template, or it does not use one of them.
    """
    if tokenizer.chat_template is None:
        raise RecipeError(
            "model.chat_arguments: the base has no chat template",
            "its tokenizer comes without one",
            "leave out model.chat_arguments",
        )
    chat = ChatTemplate(tokenizer)
    reads = ", ".join(chat.abilities.arguments) or "none"
    for name, value in arguments.items():
        if name not in chat.abilities.arguments:
            raise RecipeError(
                f"model.chat_arguments: the chat template does not use '{name}'",
                f"arguments that it reads: {reads}",
                "name one of these, or leave it out",
            )
        chat.refuse_half_switch(name, value, f"model.chat_arguments: {name}")


def _literal(value: Any) -> str:
    return "none" if value is None else json.dumps(value)


def source_of(tokenizer: Any) -> str:
    """Return the chat template of a tokenizer that has one; of several named ones, the default and,
    for chats with tools, `tool_use`, as one text.

    Raises:
        ModelError: there is no default.
    """
    named = tokenizer.chat_template
    try:
        default = str(tokenizer.get_chat_template())
    except ValueError as error:
        raise broken(str(error)) from None
    if not isinstance(named, dict) or "tool_use" not in named:
        return default
    # The empty expressions keep the white space around the tags.
    tools, plain = (text.removesuffix("\n") + "{{ '' }}" for text in (named["tool_use"], default))
    return f"{{% if tools %}}{{{{ '' }}}}{tools}{{% else %}}{{{{ '' }}}}{plain}{{% endif %}}"
