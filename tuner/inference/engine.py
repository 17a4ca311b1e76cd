"""A base model with adapters that take turns on it.

The base is loaded once and never copied or written to. Every adapter is put on the bare base alone,
by peft; the modules that peft put in place of the base's own are remembered, and switching swaps
the sets. So adapters of different methods can be loaded together, none ever meets another, and
without one the base is, module by module, the object that was loaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftType
from transformers import LogitsProcessorList, StoppingCriteriaList

from tuner.data.classifier import Classifier
from tuner.data.tokens.conversation import Prompts
from tuner.errors import ResourceError, first_line
from tuner.inference.listener import Answer, Ended, Ending, Listener
from tuner.inference.sampling import GREEDY, FirstScores, Sampling
from tuner.methods import bottleneck_layers as bottleneck_peft  # noqa: F401  # makes peft know the method
from tuner.model import tokenizer as model_tokenizer
from tuner.model.base import Base
from tuner.model.heads import Head

Modules = list[tuple[Any, str, Any]]


@dataclass(frozen=True)
class Variant:
    """The base with one of its adapters, or with none.

    Attributes:
        name: of the adapter; None: the base itself.
        folder: where it was read from.
        network: the base, or peft's model around it; valid only while `modules` are in place.
        modules: parent, name and module for each of the base's modules that peft replaced.
        rows: of the embeddings while they are in place; token ids are below.
        room: tokens that prompt and answer may have together.
        tokenizer: the base's, or the adapter's own.
        arguments: further arguments of `generate`.
    """

    name: str | None
    folder: Path
    network: Any
    modules: Modules
    rows: int
    room: int
    tokenizer: Any
    arguments: dict[str, Any] = field(default_factory=dict)


class Inference:
    """An open base model; made by `open_base`.

    Attributes:
        base: where it is and what it is.
        head: what it generates with.
        stops: token ids that end an answer, sorted.
        bare: the base without an adapter.
        adapters: by name; `attach` adds them.
        classifiers: of those whose answers are labels, by name; None: of the base itself.
        active: what answers.
    """

    def __init__(self, base: Base, head: Head, network: Any, tokenizer: Any) -> None:
        self.base = base
        self.head = head
        self.stops = sorted({tokenizer.eos_token_id, *model_tokenizer.stop_ids(base.folder)})
        self.bare = self.active = Variant(
            None,
            base.folder,
            network,
            list(_places(network)),
            base.vocabulary_rows,
            base.context_length,
            tokenizer,
        )
        self.adapters: dict[str, Variant] = {}
        self.classifiers: dict[str | None, Classifier] = {}
        self._prompts: dict[int, Prompts] = {}

    def prompts_of(self, variant: Variant) -> Prompts:
        """Return what makes a variant's prompts; it is shared by those with the same tokenizer.

        Raises:
            ModelError: the chat template is broken.
            SafetyError: the chat template is not safe to run.
        """
        tokenizer = variant.tokenizer
        if id(tokenizer) not in self._prompts:
            plain = self.head.name != "language"
            self._prompts[id(tokenizer)] = Prompts(tokenizer, self.stops, plain=plain)
        return self._prompts[id(tokenizer)]

    @cached_property
    def fingerprint(self) -> str:
        """Return the sha256 of the base's weights."""
        return self.base.fingerprint()

    def classify_with(self, variant: Variant, kept: Mapping[str, Any]) -> None:
        """Let a variant answer with labels, by what was kept with it (see `classifier.record`)."""
        found = Classifier(kept, variant.tokenizer, variant.room, self.stops)
        self.classifiers[variant.name] = found

    def use(self, name: str | None) -> None:
        """Answer with an adapter from now on; None: with the base itself.

        Raises:
            KeyError: there is no adapter of this name.
        """
        variant = self.bare if name is None else self.adapters[name]
        for parent, place, module in [*self.bare.modules, *variant.modules]:
            setattr(parent, place, module)
        if self.base.vocabulary_rows:
            self.bare.network.config.get_text_config().vocab_size = variant.rows
        self.active = variant

    def add(
        self, name: str, folder: Path, wrap: Callable[[Any], Any], tokenizer: Any = None
    ) -> None:
        """Put an adapter on the bare base, remember how, and take it off again.

        Args:
            name: of the new adapter.
            folder: where it comes from.
            wrap: makes peft's model of the base; if it raises, nothing is changed.
            tokenizer: its own; None: the base's.
        """
        active, bare = self.active, self.bare.network
        self.use(None)
        try:
            network = wrap(bare).eval()
            config = network.peft_config["default"]
            put = [
                (parent, place, now)
                for parent, place, module in self.bare.modules
                if (now := parent.get_submodule(place)) is not module
            ]
            arguments: dict[str, Any] = {}
            if config.peft_type == PeftType.MULTITASK_PROMPT_TUNING:
                arguments["task_ids"] = torch.tensor([0], device=bare.device)
            self.adapters[name] = Variant(
                name,
                folder,
                network,
                put,
                model_tokenizer.rows_for(
                    self.bare.rows, model_tokenizer.trained_ids(asdict(config))
                ),
                self.bare.room - (getattr(config, "num_virtual_tokens", None) or 0),
                tokenizer or self.bare.tokenizer,
                arguments,
            )
        finally:
            # Otherwise the next adapter would count as a second one of this kind.
            bare.__dict__.pop("peft_config", None)
            self.use(active.name)

    @torch.no_grad()
    def answer(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        show: Callable[[str], None] = lambda piece: None,
        *,
        ending: Ending | None = None,
    ) -> Answer:
        """Continue a prompt until a stop token or `max_new_tokens`.

        Args:
            prompt: token ids.
            max_new_tokens: longest answer, in tokens.
            sampling: how each token is chosen.
            show: called with the answer piece by piece, as its tokens come.
            ending: what else ends the answer.

        Raises:
            ResourceError: not enough memory.
            ModelError: the model's scores are not finite.
        """
        tokenizer, bare = self.active.tokenizer, self.bare.network
        stops = sorted({*self.stops, tokenizer.eos_token_id})
        listener = Listener(tokenizer, stops, show, ending)
        ids = torch.tensor([list(prompt)], device=bare.device)
        try:
            with warnings.catch_warnings():
                # peft warns about positions that `PromptModel` sets correctly.
                warnings.simplefilter("ignore")
                self.active.network.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=max_new_tokens,
                    num_beams=1,
                    eos_token_id=stops,
                    pad_token_id=tokenizer.pad_token_id,
                    streamer=listener,
                    stopping_criteria=StoppingCriteriaList([Ended(listener)]),
                    logits_processor=LogitsProcessorList([FirstScores(bare.dtype)]),
                    **sampling.arguments(bare.generation_config),
                    **self.active.arguments,
                )
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                "the answer does not fit into memory",
                first_line(error),
                "start a shorter conversation, or ask for fewer new tokens",
            ) from error
        finally:
            # peft puts its own there, and does not remove it when interrupted.
            bare.__dict__.pop("prepare_inputs_for_generation", None)
        return listener.answer()


def _places(network: Any) -> Iterator[tuple[Any, str, Any]]:
    for parent in network.modules():
        for name, child in parent.named_children():
            yield parent, name, child
