"""The models of a server: the base and its adapters, each with a name and prompts of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuner.data.bad_rows import BadRow
from tuner.data.classifier import Asked, Classifier, Given
from tuner.data.rows.check_row import check_systems
from tuner.data.tokens.conversation import Prompts
from tuner.data.turns import reasoning
from tuner.errors import RecipeError
from tuner.inference import call_forms
from tuner.inference.begun_calls import Begun, begin
from tuner.inference.call_forms import has_channels
from tuner.inference.open_model import free_name
from tuner.inference.reading import Reader
from tuner.inference.serve.protocol import ChatAsk, CompletionAsk
from tuner.inference.serve.refusal import Refused
from tuner.inference.serve.tools import in_order

if TYPE_CHECKING:
    from transformers.utils.chat_parsing.response_templates import ResponseTemplate

    from tuner.inference.engine import Inference, Variant


# Tokens that hold the end of a prompt.
_END = 16


@dataclass(frozen=True)
class ServedModel:
    """What answers under a model name.

    Attributes:
        variant: the base itself, or with an adapter.
        prompts: makes its prompts from turns.
        form: how it writes tool calls; None: not known.
        classifier: makes what is classified of inputs, if the answers are labels.
        writes: whether it generates text.
    """

    variant: Variant
    prompts: Prompts
    form: ResponseTemplate | None
    classifier: Classifier | None = None
    writes: bool = True

    @property
    def classes(self) -> tuple[Sequence[str], float | None]:
        """The labels of its classifier, and its threshold (see `Classifier`)."""
        found = self.classifier
        return (found.labels, found.threshold) if found else ((), None)

    def asked(self, given: Sequence[Given]) -> list[Asked]:
        """Return what the model reads of inputs, to classify them.

        Raises:
            Refused: the answers are no labels, or an input cannot be read.
        """
        if self.classifier is None:
            raise Refused(
                400,
                "this model answers with text, not with labels: POST /v1/chat/completions",
                "not_a_classifier",
                "model",
            )
        asked = []
        for number, each in enumerate(given):
            try:
                asked.append(self.classifier.asked(each))
            except BadRow as error:
                raise Refused(400, f"input {number}: {error}", "invalid_input", "input") from None
        return asked

    def ids(self, ask: ChatAsk | CompletionAsk) -> list[list[int]]:
        """Return the token ids of each prompt of a request.

        Raises:
            Refused: the model only classifies, or the turns or the text cannot be encoded, or leave
                no room for an answer.
        """
        if not self.writes:
            raise Refused(
                400,
                "this model answers with a label and writes no text: POST /v1/classify with "
                '{"model": ..., "input": ...}',
                "only_classifies",
                "model",
            )
        if isinstance(ask, ChatAsk):
            prompts, name = [self._chat(ask)], "messages"
        else:
            prompts, name = [self._plain(prompt) for prompt in ask.prompts], "prompt"
        room, further = self.variant.room, len(self.begun(ask).ids)
        for prompt in prompts:
            if not prompt:
                raise Refused(400, "the prompt is empty", "empty_prompt", name)
            if len(prompt) + further >= room:
                raise Refused(
                    400,
                    f"the prompt has {len(prompt) + further} tokens; this model takes {room} "
                    "tokens, answer included",
                    "context_length_exceeded",
                    name,
                )
        return prompts

    def begun(self, ask: ChatAsk | CompletionAsk) -> Begun:
        """Return what the answer to a request has to begin with: a call, if it must have one.

        Raises:
            Refused: how the chat template begins a call cannot be seen.
        """
        template = self.prompts.template
        if not isinstance(ask, ChatAsk) or not ask.wanted or template is None:
            return Begun()
        given = ask.chat_template_kwargs or {}
        found = begin(self.variant.tokenizer, template, ask.shown_tools, ask.wanted, given)
        if found is None:
            raise Refused(
                400,
                "the model cannot be made to call a function: its chat template does not show a "
                "call right behind the prompt; 'auto' lets the model call",
                "unsupported_parameter",
                "tool_choice",
            )
        return found

    def reader(self, ask: ChatAsk | CompletionAsk, prompt: list[int], begun: str = "") -> Reader:
        """Return what reads the answer to a prompt of a request, which begins with `begun`."""
        if not isinstance(ask, ChatAsk):
            return Reader()
        opened = reasoning.opens(str(self.variant.tokenizer.decode(prompt[-_END:])))
        tools = ask.shown_tools
        form = self.form if tools or has_channels(self.form) else None
        template = self.prompts.template
        # More than the template shows could not be sent back.
        several = ask.parallel_tool_calls and bool(template and template.abilities.parallel)
        return Reader(opened, form, tools, single=not several, begun=begun)

    def _chat(self, ask: ChatAsk) -> list[int]:
        """Return the token ids of a conversation.

        Raises:
            Refused: it cannot be encoded, or the chat template does not show what it is given.
        """
        given, tools = ask.chat_template_kwargs or {}, ask.shown_tools
        template = self.prompts.template
        reads = template.abilities.arguments if template else ()
        if unread := sorted(given.keys() - set(reads)):
            raise Refused(
                400,
                f"the chat template does not read {', '.join(unread)}; it reads: "
                f"{', '.join(reads) or 'none'}",
                "invalid_value",
                "chat_template_kwargs",
            )
        try:
            for name in given:
                assert template is not None
                template.refuse_half_switch(name, given[name], name)
        except RecipeError as error:
            why = f"{error.what}: {error.why}; {error.fix}"
            raise Refused(400, why, "invalid_value", "chat_template_kwargs") from None
        called = template is None and any(turn.tool_calls for turn in ask.messages)
        if tools or called:
            self._require_tools()
        try:
            check_systems(message.role for message in ask.messages)
            turns = in_order([message.turn() for message in ask.messages])
            return self.prompts.ids(turns, tools or None, arguments=given)
        except BadRow as error:
            raise Refused(400, str(error), "invalid_messages", "messages") from None

    def _require_tools(self) -> None:
        template = self.prompts.template
        if template is None or not (template.abilities.tools and template.abilities.calls):
            why = "the model's chat template cannot show tools and calls"
        elif self.form is None:
            why = (
                "the model's chat template writes calls in a form that this server cannot read; a "
                "response_template in tokenizer_config.json would describe it"
            )
        else:
            return
        raise Refused(400, why, "unsupported_parameter", "tools")

    def _plain(self, prompt: str | list[int]) -> list[int]:
        """Encode a text, control tokens included; return ids as they are."""
        if isinstance(prompt, str):
            # Of the backend, which encodes without changing its settings.
            return list(self.variant.tokenizer.backend_tokenizer.encode(prompt).ids)
        rows = self.variant.rows
        if max(prompt) >= rows:
            raise Refused(
                400,
                f"the prompt has the token id {max(prompt)}; this model has {rows} ids",
                "invalid_value",
                "prompt",
            )
        return prompt


def name_all(opened: Inference, base_name: str = "") -> dict[str, ServedModel]:
    """Return the models of an open base by name, the base itself last; it is none if it has a head
    that only adapters have trained.

    Args:
        opened: the base with its adapters.
        base_name: name for the base; empty: its own.

    Raises:
        ModelError: a chat template is broken.
        SafetyError: a chat template is not safe to run.
    """
    variants, writes = dict(opened.adapters), opened.head.name != "classes"
    if writes or None in opened.classifiers:
        variants[free_name(base_name or opened.base.name, variants)] = opened.bare
    models = {}
    for name, variant in variants.items():
        prompts = opened.prompts_of(variant)
        form = call_forms.find(variant.tokenizer, prompts.template) if prompts.template else None
        classifier = opened.classifiers.get(variant.name)
        models[name] = ServedModel(variant, prompts, form, classifier, writes)
    return models
