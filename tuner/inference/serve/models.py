"""The models of a server: the base and its adapters, each with a name and prompts of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuner.data import reasoning
from tuner.data.bad_rows import BadRow
from tuner.data.conversation import Prompts
from tuner.inference.open_model import free_name
from tuner.inference.serve.protocol import ChatAsk, CompletionAsk
from tuner.inference.serve.refusal import Refused

if TYPE_CHECKING:
    from tuner.inference.engine import Inference, Variant


# Tokens that hold the end of a prompt.
_END = 16


@dataclass(frozen=True)
class ServedModel:
    """What answers under a model name.

    Attributes:
        variant: the base itself, or with an adapter.
        prompts: makes its prompts from turns.
    """

    variant: Variant
    prompts: Prompts

    def ids(self, ask: ChatAsk | CompletionAsk) -> list[list[int]]:
        """Return the token ids of each prompt of a request.

        Raises:
            Refused: the turns or the text cannot be encoded, or leave no room for an answer.
        """
        if isinstance(ask, ChatAsk):
            turns: Any = [message.turn() for message in ask.messages]
            given = ask.chat_template_kwargs or {}
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
                prompts = [self.prompts.ids(turns, arguments=given)]
            except BadRow as error:
                raise Refused(400, str(error), "invalid_messages", "messages") from None
            name = "messages"
        else:
            prompts, name = [self._plain(prompt) for prompt in ask.prompts], "prompt"
        room = self.variant.room
        for prompt in prompts:
            if not prompt:
                raise Refused(400, "the prompt is empty", "empty_prompt", name)
            if len(prompt) >= room:
                raise Refused(
                    400,
                    f"the prompt has {len(prompt)} tokens; this model takes {room} tokens, "
                    "answer included",
                    "context_length_exceeded",
                    name,
                )
        return prompts

    def reasons(self, prompt: list[int]) -> bool:
        """Return whether a prompt ends inside a block of reasoning."""
        return reasoning.opens(str(self.variant.tokenizer.decode(prompt[-_END:])))

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
    """Return the models of an open base by name, the base itself last.

    Args:
        opened: the base with its adapters.
        base_name: name for the base; empty: its own.

    Raises:
        ModelError: a chat template is broken.
        SafetyError: a chat template is not safe to run.
    """
    name = free_name(base_name or opened.base.name, opened.adapters)
    variants = {**opened.adapters, name: opened.bare}
    return {
        name: ServedModel(variant, opened.prompts_of(variant)) for name, variant in variants.items()
    }
