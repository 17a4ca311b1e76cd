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
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftType
from transformers import StoppingCriteriaList

from tuner import base as bases
from tuner import model, token_rows, vocabulary
from tuner.adapter_files import (
    WHOLE,
    check_base,
    check_kind,
    check_tensors,
    does_not_write,
    read,
)
from tuner.answer import Answer, Ended, Ending, Listener
from tuner.base import Base
from tuner.errors import ResourceError, first_line
from tuner.heads import HEADS, Head, family
from tuner.methods import bottleneck_peft  # noqa: F401  # makes peft know the method
from tuner.model import told
from tuner.prompt_model import PromptModel

if TYPE_CHECKING:
    from tuner.recipe import ModelSection

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
        self.stops = sorted({tokenizer.eos_token_id, *bases.stop_ids(base.folder)})
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
            rows = vocabulary.rows_for(
                self.base.vocabulary_rows, vocabulary.trained_ids(asdict(config))
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
        temperature: float = 0.0,
        show: Callable[[str], None] = lambda piece: None,
        *,
        top_p: float | None = None,
        top_k: int | None = None,
        ending: Ending | None = None,
        tokenizer: Any = None,
    ) -> Answer:
        """Continue a prompt until a stop token or `max_new_tokens`.

        Args:
            prompt: token ids.
            max_new_tokens: longest answer, in tokens.
            temperature: 0 takes the likeliest token each time; above, tokens are drawn.
            show: given the answer piece by piece, as its tokens come; the pieces make the text.
            top_p: draw from the likeliest tokens that together have this probability, 1 from all.
            top_k: draw from this many of the likeliest tokens, 0 from all. Where neither is given,
                what the base's own generation config says, and from all where it says nothing.
            ending: what else ends the answer.
            tokenizer: of the prompt, where it is not the one of the base.

        Raises:
            ResourceError: not enough memory.
        """
        tokenizer = tokenizer or self.tokenizer
        stops = sorted({*self.stops, tokenizer.eos_token_id})
        listener = Listener(tokenizer, stops, show, ending)
        ids = torch.tensor([list(prompt)], device=self._bare.device)
        how: dict[str, Any] = {"do_sample": True, "temperature": temperature}
        if not temperature:
            # None leaves out what the base's own generation config would set for drawn tokens.
            how = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        elif top_p is not None or top_k is not None:
            how |= {"top_p": 1.0 if top_p is None else top_p, "top_k": top_k or 0}
        elif self._bare.generation_config.top_k is None:
            # transformers would draw from 50.
            how["top_k"] = 0
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
                    **how,
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


def open_base(
    section: ModelSection,
    folder: Path,
    device: str,
    *,
    tokenizer_folder: Path | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Inference:
    """Load a base model and its tokenizer for answering.

    Args:
        section: which base, as in a recipe; its dtype is a name, not auto.
        folder: where a relative path of the base starts.
        device: cpu or cuda.
        tokenizer_folder: where the tokenizer lies, if not with the base.
        note: told about work that takes long.

    Raises:
        ModelError: the base cannot be had, does not load, or does not write.
        SafetyError: it brings code or pickles.
        ResourceError: not enough memory.
    """
    model.quiet_libraries()
    found = bases.with_weights(bases.resolve(section, folder, note), section.revision, note)
    head = _head(found)
    tokenizer = bases.tokenizer_at(found, tokenizer_folder or found.folder)
    if tokenizer_folder is not None and len(tokenizer) > found.vocabulary_rows > 0:
        # A run that added tokens: the base itself has no rows for them. Their adapter brings them.
        template = tokenizer.chat_template
        tokenizer = bases.load_tokenizer(found)
        tokenizer.chat_template = template
    vocabulary.check(tokenizer, found.vocabulary_rows, found)
    network = model.open_weights(found, section, head, section.dtype, device)
    return Inference(found, head, network, tokenizer)


def _head(found: Base) -> Head:
    """The head of a base that writes."""
    kind = family(found.config)
    classes = any("Classification" in name for name in found.config.get("architectures") or ())
    if kind == "encoder" or classes:
        raise does_not_write(
            f"the base model '{found.name}'",
            f"{found.folder}: " + ("it is a classifier" if classes else "an encoder reads only"),
        )
    return HEADS["sequence" if kind == "encoder-decoder" else "language"]


def attach(
    opened: Inference,
    folder: Path,
    name: str,
    *,
    force_base: bool = False,
    warn: Callable[[str], None] = lambda text: None,
) -> None:
    """Load an adapter of an open base; it does not answer before `use`.

    Args:
        opened: the base.
        folder: peft's files.
        name: what it is called from now on.
        force_base: also where it was trained on another base.
        warn: told what may be wrong.

    Raises:
        ModelError: no adapter, for another base or another kind of model, or tensors that do not
            match the modules.
        IntegrityError: a file is not the one that was sealed.
        SafetyError: it is a pickle.
    """
    config = read(folder, name)
    check_kind(config, opened.head, folder, name)
    base = opened.base.name
    check_base(folder, name, base, lambda: opened.fingerprint, force=force_base, warn=warn)
    tasks = getattr(config, "num_tasks", None)
    if config.peft_type == PeftType.MULTITASK_PROMPT_TUNING and tasks != 1:
        warn(f"the adapter '{name}' was trained on {tasks} data sets; it answers as for the first")
    config.inference_mode = True

    def wrap(bare: Any) -> Any:
        # What they warn of, tensors without a module, is refused below.
        with (
            warnings.catch_warnings(),
            told(f"the adapter '{name}' cannot be loaded", folder, WHOLE),
        ):
            warnings.simplefilter("ignore")
            device = str(bare.device)
            if config.is_prompt_learning and opened.head.name == "language":
                network: Any = PromptModel(bare, config)
                network.load_adapter(str(folder), "default", torch_device=device)
            else:
                network = token_rows.put_on(bare, folder, config, torch_device=device)
            check_tensors(network, folder, name)
        return network

    opened.add(name, folder, wrap, _own_tokenizer(opened, config, folder))


def _own_tokenizer(opened: Inference, config: Any, folder: Path) -> Any:
    """The tokenizer beside an adapter that has tokens of its own; None for any other.

    Raises:
        ModelError: it does not fit the rows that the adapter brings.
    """
    ids = vocabulary.trained_ids(asdict(config))
    if not ids or not (folder / "tokenizer_config.json").is_file():
        return None
    tokenizer = bases.tokenizer_at(opened.base, folder)
    rows = vocabulary.rows_for(opened.base.vocabulary_rows, ids)
    vocabulary.check(tokenizer, rows, opened.base)
    return tokenizer
