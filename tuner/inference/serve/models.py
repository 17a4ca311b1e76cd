"""The models of a server: the base and its adapters, each with a name and prompts of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuner.data.bad_rows import BadRow
from tuner.data.conversation import Prompts
from tuner.inference.open_model import free_name
from tuner.inference.serve.protocol import ChatAsk, CompletionAsk
from tuner.inference.serve.refusal import Refused
from tuner.model import tokenizer as model_tokenizer

if TYPE_CHECKING:
    from tuner.inference.engine import Inference


@dataclass(frozen=True)
class Voice:
    """A model name.

    Attributes:
        name: as in requests.
        adapter: the one that answers; None: the base itself.
        room: tokens that prompt and answer may have together.
        tokenizer: for an adapter, the one it was trained with.
        prompts: makes prompts from turns.
        rows: of the embeddings; token ids are below.
    """

    name: str
    adapter: str | None
    room: int
    tokenizer: Any
    prompts: Prompts
    rows: int

    def ids(self, ask: ChatAsk | CompletionAsk) -> list[list[int]]:
        """Return the token ids of each prompt of a request.

        Raises:
            Refused: the turns or the text cannot be encoded, or leave no room for an answer.
        """
        if isinstance(ask, ChatAsk):
            turns: Any = [message.turn() for message in ask.messages]
            try:
                prompts = [self.prompts.ids(turns)]
            except BadRow as error:
                raise Refused(400, str(error), "invalid_messages", "messages") from None
            name = "messages"
        else:
            prompts, name = [self._plain(prompt) for prompt in ask.prompts], "prompt"
        for prompt in prompts:
            if not prompt:
                raise Refused(400, "the prompt is empty", "empty_prompt", name)
            if len(prompt) >= self.room:
                raise Refused(
                    400,
                    f"the prompt has {len(prompt)} tokens; this model takes {self.room} tokens, "
                    "answer included",
                    "context_length_exceeded",
                    name,
                )
        return prompts

    def _plain(self, prompt: str | list[int]) -> list[int]:
        """Encode a text, control tokens included; return ids as they are."""
        if isinstance(prompt, str):
            # Of the backend, which encodes without changing its settings.
            return list(self.tokenizer.backend_tokenizer.encode(prompt).ids)
        if max(prompt) >= self.rows:
            raise Refused(
                400,
                f"the prompt has the token id {max(prompt)}; this model has {self.rows} ids",
                "invalid_value",
                "prompt",
            )
        return prompt


def name_all(model: Inference, base_name: str = "") -> dict[str, Voice]:
    """Return the models of an open base by name, the base itself last.

    Args:
        model: the base with its adapters.
        base_name: name for the base; empty: its own.

    Raises:
        ModelError: an adapter's tokenizer does not match.
    """
    plain = model.head.name == "sequence"

    def voice(name: str, adapter: str | None, tokenizer: Any) -> Voice:
        prompts = Prompts(tokenizer, model.stops, plain=plain)
        room = model.room_of(adapter)
        return Voice(name, adapter, room, tokenizer, prompts, model.rows_of(adapter))

    voices = {}
    for name, adapter in model.adapters.items():
        tokenizer = model.tokenizer_of(name)
        if (adapter.folder / "tokenizer_config.json").is_file():
            tokenizer = model_tokenizer.tokenizer_at(model.base, adapter.folder)
            model_tokenizer.check(tokenizer, model.rows_of(name), model.base)
        voices[name] = voice(name, name, tokenizer)
    name = free_name(base_name or model.base.name, voices)
    return {**voices, name: voice(name, None, model.tokenizer_of(None))}
