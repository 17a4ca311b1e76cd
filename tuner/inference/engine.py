"""A base model with adapters that take turns on it.

The base is loaded once and never copied or written to. Every adapter is put on the bare base alone,
by peft; the modules that peft put in place of the base's own are remembered, and switching swaps
the sets. So adapters of different methods can be loaded together, none ever meets another, and
without one the base is, module by module, the object that was loaded.
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
        network: peft's model around the base; valid only while `modules` are in place.
        modules: parent, name and module for each of the base's modules that peft replaced.
        rows: of the embeddings while they are in place.
        tokenizer: its own, if it adds tokens to the base's; None: the base's.
        virtual_tokens: virtual tokens before every prompt; they count against the context.
        arguments: further arguments of `generate`.
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
        base: where it is and what it is.
        head: what it generates with.
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
        """Return the model that answers now: the base, or peft's model around it."""
        return self.adapters[self.active].network if self.active else self._bare

    @property
    def tokenizer(self) -> Any:
        """Return the tokenizer in use: of the base or the run, or an adapter's own."""
        return self.tokenizer_of(self.active)

    def tokenizer_of(self, name: str | None) -> Any:
        """Return the tokenizer of an adapter, active or not; None: of the base itself."""
        own = self.adapters[name].tokenizer if name else None
        return own or self._tokenizer

    def rows_of(self, name: str | None) -> int:
        """Return the embedding rows with an adapter in place; None: of the base itself."""
        return self.adapters[name].rows if name else self.base.vocabulary_rows

    @property
    def room(self) -> int:
        """Return how many tokens prompt and answer may have together."""
        return self.room_of(self.active)

    def room_of(self, name: str | None) -> int:
        """Return the same for an adapter, active or not; None: for the base itself."""
        taken = self.adapters[name].virtual_tokens if name else 0
        return self.base.context_length - taken

    @cached_property
    def fingerprint(self) -> str:
        """Return the sha256 of the base's weights."""
        return self.base.fingerprint()

    def use(self, name: str | None) -> None:
        """Answer with an adapter from now on; None: with the base itself.

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
            wrap: makes peft's model of the base; if it raises, nothing is changed.
            tokenizer: its own, if it adds tokens to the base's.

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
            # Otherwise the next adapter would count as a second one of this kind.
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
            show: called with the answer piece by piece, as its tokens come.
            ending: what else ends the answer.
            tokenizer: of the prompt, if not the one in use.

        Raises:
            ResourceError: not enough memory.
        """
        tokenizer = tokenizer or self.tokenizer
        stops = sorted({*self.stops, tokenizer.eos_token_id})
        listener = Listener(tokenizer, stops, show, ending)
        ids = torch.tensor([list(prompt)], device=self._bare.device)
        try:
            with warnings.catch_warnings():
                # peft warns about positions that `PromptModel` sets correctly.
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
                "start a shorter conversation, or ask for fewer new tokens",
            ) from error
        finally:
            # peft puts its own there, and does not remove it when interrupted.
            self._bare.__dict__.pop("prepare_inputs_for_generation", None)
        return listener.answer()


def _places(network: Any) -> Iterator[tuple[Any, str, Any]]:
    for parent in network.modules():
        for name, child in parent.named_children():
            yield parent, name, child
