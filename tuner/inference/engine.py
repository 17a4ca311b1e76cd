"""A base model with adapters that take turns on it.

The base is loaded once and never copied or written to. Every adapter is put on the bare base alone,
as peft does it; which modules peft put in place of the base's own is remembered, and switching puts
one set or the other in. So adapters of any two methods lie side by side, none ever meets another,
and without one the base is, module by module, the object that was loaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftType
from transformers import StoppingCriteriaList

from tuner.errors import ResourceError, first_line
from tuner.inference.listener import Answer, Ended, Ending, Listener
from tuner.inference.sampling import GREEDY, Sampling
from tuner.methods import bottleneck_layers as bottleneck_peft  # noqa: F401  # makes peft know the method
from tuner.model import tokenizer as model_tokenizer
from tuner.model.base import Base
from tuner.model.heads import Head

Modules = list[tuple[Any, str, Any]]


@dataclass(frozen=True)
class Adapter:
    """An adapter of an open base.

    Attributes:
        folder: where it was read from.
        network: peft's model around the base; right only while `modules` are in place.
        modules: parent, name and module for each of the base's modules that peft replaced.
        rows: of the embeddings while they are in place.
        tokenizer: its own, where it has tokens that the base has not; None: the base's.
        virtual_tokens: learned tokens before every prompt; they count against the context.
        arguments: what `generate` needs besides.
    """

    folder: Path
    network: Any
    modules: Modules
    rows: int
    tokenizer: Any = None
    virtual_tokens: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)


class Inference:
    """An open base model; made by `open_base`.

    Attributes:
        base: where it lies and what it is.
        head: what it writes with.
        stops: token ids that end an answer, sorted.
        adapters: by name; `attach` adds them.
        active: name of the adapter that answers; None: the base itself.
    """

    def __init__(self, base: Base, head: Head, network: Any, tokenizer: Any) -> None:
        self.base = base
        self.head = head
        self._tokenizer = tokenizer
        self.stops = sorted({tokenizer.eos_token_id, *model_tokenizer.stop_ids(base.folder)})
        self.adapters: dict[str, Adapter] = {}
        self.active: str | None = None
        self._bare = network
        self._own = list(_places(network))

    @property
    def network(self) -> Any:
        """The model that answers now: the base, or peft's model around it."""
        return self.adapters[self.active].network if self.active else self._bare

    @property
    def tokenizer(self) -> Any:
        """Of who answers now: of the base or the run that is talked to, or an adapter's own."""
        return self.tokenizer_of(self.active)

    def tokenizer_of(self, name: str | None) -> Any:
        """The same for an adapter, whoever answers now; None: the base itself."""
        own = self.adapters[name].tokenizer if name else None
        return own or self._tokenizer

    def rows_of(self, name: str | None) -> int:
        """Embedding rows with an adapter in place; None: of the base itself."""
        return self.adapters[name].rows if name else self.base.vocabulary_rows

    @property
    def room(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.room_of(self.active)

    def room_of(self, name: str | None) -> int:
        """The same for an adapter, whoever answers now; None: the base itself."""
        taken = self.adapters[name].virtual_tokens if name else 0
        return self.base.context_length - taken

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the base's weights."""
        return self.base.fingerprint()

    def use(self, name: str | None) -> None:
        """Let an adapter answer from now on; None: the base itself.

        Raises:
            KeyError: there is no adapter of this name.
        """
        wanted = self.adapters[name].modules if name else []
        for parent, place, module in [*self._own, *wanted]:
            setattr(parent, place, module)
        if self.base.vocabulary_rows:
            self._bare.config.get_text_config().vocab_size = self.rows_of(name)
        self.active = name

    def add(
        self, name: str, folder: Path, wrap: Callable[[Any], Any], tokenizer: Any = None
    ) -> Any:
        """Put an adapter on the bare base, remember how, and take it off again.

        Args:
            name: of the new adapter.
            folder: where it comes from.
            wrap: makes peft's model of the base; it may raise, which leaves all as it was.
            tokenizer: its own, where it has tokens that the base has not.

        Returns:
            peft's model.
        """
        active = self.active
        self.use(None)
        try:
            network = wrap(self._bare).eval()
            config = network.peft_config["default"]
            own = {(id(parent), place): module for parent, place, module in self._own}
            put = [
                (parent, place, now)
                for parent, place, _ in self._own
                if (now := parent.get_submodule(place)) is not own[id(parent), place]
            ]
            virtual = getattr(config, "num_virtual_tokens", None) or 0
            arguments: dict[str, Any] = {}
            if config.peft_type == PeftType.MULTITASK_PROMPT_TUNING:
                arguments["task_ids"] = torch.tensor([0], device=self._bare.device)
            rows = model_tokenizer.rows_for(
                self.base.vocabulary_rows, model_tokenizer.trained_ids(asdict(config))
            )
            self.adapters[name] = Adapter(
                folder, network, put, rows, tokenizer, int(virtual), arguments
            )
        finally:
            # The next adapter would be taken for a second one of this kind.
            self._bare.__dict__.pop("peft_config", None)
            self.use(active)
        return network

    @torch.no_grad()
    def answer(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        show: Callable[[str], None] = lambda piece: None,
        *,
        ending: Ending | None = None,
        tokenizer: Any = None,
    ) -> Answer:
        """Continue a prompt until a stop token or `max_new_tokens`.

        Args:
            prompt: token ids.
            max_new_tokens: longest answer, in tokens.
            sampling: how each token is chosen.
            show: called with the answer piece by piece, as its tokens come; they make the text.
            ending: what else ends the answer.
            tokenizer: of the prompt, where it is not the one of the base.

        Raises:
            ResourceError: not enough memory.
        """
        tokenizer = tokenizer or self.tokenizer
        stops = sorted({*self.stops, tokenizer.eos_token_id})
        listener = Listener(tokenizer, stops, show, ending)
        ids = torch.tensor([list(prompt)], device=self._bare.device)
        try:
            with warnings.catch_warnings():
                # peft warns of positions that `PromptModel` gives all the same.
                warnings.simplefilter("ignore")
                self.network.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=max_new_tokens,
                    num_beams=1,
                    eos_token_id=stops,
                    pad_token_id=tokenizer.pad_token_id,
                    streamer=listener,
                    stopping_criteria=StoppingCriteriaList([Ended(listener)]),
                    **sampling.arguments(self._bare.generation_config),
                    **(self.adapters[self.active].arguments if self.active else {}),
                )
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                "the answer does not fit into memory",
                first_line(error),
                "begin a shorter conversation, or ask for fewer new tokens",
            ) from error
        finally:
            # peft puts its own there, and leaves it when it is interrupted.
            self._bare.__dict__.pop("prepare_inputs_for_generation", None)
        return listener.answer()


def _places(network: Any) -> Iterator[tuple[Any, str, Any]]:
    for parent in network.modules():
        for name, child in parent.named_children():
            yield parent, name, child
