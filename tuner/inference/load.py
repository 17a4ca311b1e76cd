"""Open a base and put adapters on it, to answer with."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import PeftType

from tuner.errors import ModelError
from tuner.inference.engine import Inference
from tuner.inference.labels import kept_with
from tuner.methods import bottleneck_layers as bottleneck_peft  # noqa: F401  # makes peft know the method
from tuner.model import base as bases
from tuner.model import embedding_rows, transformers_errors, weights
from tuner.model import tokenizer as model_tokenizer
from tuner.model.adapters.files import (
    WHOLE,
    check_kind,
    check_tensors,
    does_not_write,
    read,
)
from tuner.model.adapters.saved_models import SavedModel
from tuner.model.base import Base
from tuner.model.heads import HEADS, Head, family, writer
from tuner.model.prompt_model import PromptClassifier, PromptModel
from tuner.model.transformers_errors import as_model_error

if TYPE_CHECKING:
    from tuner.model.folded import Folded
    from tuner.recipe.schema_model import ModelSection


@dataclass(frozen=True)
class BaseNeeds:
    """What adapters need of their base.

    Attributes:
        labels: the classes, if an adapter has a classification head.
        text_half: of a base that also reads images, only the part that reads text.
        below: adapters that are folded into it first.
    """

    labels: Sequence[str] = ()
    text_half: bool = False
    below: tuple[Folded, ...] = ()


def open_base(
    section: ModelSection,
    folder: Path,
    device: str,
    *,
    tokenizer_folder: Path | None = None,
    needs: BaseNeeds | None = None,
    note: Callable[[str], None] = lambda text: None,
    warn: Callable[[str], None] = lambda text: None,
) -> Inference:
    """Load a base model and its tokenizer for answering.

    Args:
        section: which base, as in a recipe; its dtype is a name, not auto.
        folder: where a relative path of the base starts.
        device: cpu or cuda.
        tokenizer_folder: where the tokenizer is, if not with the base.
        needs: what the adapters that it is opened for need of it.
        note: called with a text before work that takes long.
        warn: called with what may be wrong.

    Raises:
        ModelError: the base is not available, does not load, or does not generate.
        SafetyError: it contains code or pickles.
        ResourceError: not enough memory.
    """
    transformers_errors.quiet_libraries()
    found = bases.with_weights(bases.resolve(section, folder, note), section.revision, note)
    kept, doubt = kept_with(_artefact(found, section.base, folder))
    needs = needs or BaseNeeds()
    found = replace(found, folded=needs.below)
    labels = needs.labels
    classes = bool(labels) or (kept is not None and kept["head"] == "classes")
    head = HEADS["classes"] if classes else _head(found)
    if needs.text_half and head.name == "language":
        head = HEADS["language"]
    tokenizer = model_tokenizer.tokenizer_at(found, tokenizer_folder or found.folder)
    if tokenizer_folder is not None and len(tokenizer) > found.vocabulary_rows > 0:
        # A run that added tokens: the base itself has no rows for them. Their adapter brings them.
        template = tokenizer.chat_template
        tokenizer = model_tokenizer.load_tokenizer(found)
        tokenizer.chat_template = template
    model_tokenizer.check(tokenizer, found.vocabulary_rows, found)
    named = {"id2label": dict(enumerate(labels))} if labels else {}
    network = weights.open_weights(found, section, head, section.dtype, device, **named)
    if classes:
        network.config.pad_token_id = tokenizer.pad_token_id
    opened = Inference(found, head, network, tokenizer)
    if kept and not labels:
        if doubt:
            warn(f"'{found.name}': {doubt}")
        opened.classify_with(opened.bare, kept)
    return opened


def _artefact(base: Base, name: str, folder: Path) -> Path:
    """The folder with the manifest of a base: of a GGUF file, the one that it lies in."""
    if base.kind != "gguf":
        return base.folder
    places = [start / Path(name).expanduser() for start in (folder, Path.cwd())]
    return next((each for each in places if each.exists()), places[0]).resolve().parent


def _head(base: Base) -> Head:
    """Return the head of a base that generates."""
    kind = family(base.config)
    classes = any("Classification" in name for name in base.config.get("architectures") or ())
    if kind == "encoder" or classes:
        raise does_not_write(
            f"the base model '{base.name}'",
            f"{base.folder}: "
            + ("it is a classifier" if classes else "an encoder cannot generate"),
        )
    return writer(base.config)


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
        name: its name from now on.
        force_base: even if it was trained on another base.
        warn: called with what may be wrong.

    Raises:
        ModelError: no adapter, for another base or another kind of model, or tensors that do not
            match the modules.
        IntegrityError: a file was changed after it was sealed.
        SafetyError: it is a pickle.
    """
    config = read(folder, name)
    check_kind(config, opened.head, folder, name)
    adapter = SavedModel(name, folder)
    adapter.check_base(opened.base.name, lambda: opened.fingerprint, warn, force_base)
    tasks = getattr(config, "num_tasks", None)
    if config.peft_type == PeftType.MULTITASK_PROMPT_TUNING and tasks != 1:
        warn(f"the adapter '{name}' was trained on {tasks} data sets; it answers for the first")
    config.inference_mode = True
    kept, doubt = kept_with(folder)
    _refuse_other_classes(opened, kept, name)

    def wrap(bare: Any) -> Any:
        # Tensors without a module, which they warn about, are refused below.
        with (
            warnings.catch_warnings(),
            as_model_error(f"the adapter '{name}' cannot be loaded", folder, WHOLE),
        ):
            warnings.simplefilter("ignore")
            device = str(bare.device)
            if own := _with_tokens(config, opened):
                network: Any = own(bare, config)
                network.load_adapter(str(folder), "default", torch_device=device)
            else:
                network = embedding_rows.load_adapter_onto(
                    bare, folder, config, torch_device=device
                )
            check_tensors(network, folder, name)
        return network

    opened.add(name, folder, wrap, _tokenizer(opened, config, folder))
    if kept:
        if doubt:
            warn(f"the adapter '{name}': {doubt}")
        opened.classify_with(opened.adapters[name], kept)


def _with_tokens(config: Any, opened: Inference) -> type[Any] | None:
    """The class of ours for an adapter with virtual tokens; None: peft's own."""
    if not config.is_prompt_learning:
        return None
    if opened.head.name == "language":
        return PromptModel
    deep = config.peft_type == PeftType.PREFIX_TUNING
    decoder = family(opened.base.config) == "decoder"
    return PromptClassifier if opened.head.added and decoder and not deep else None


def _refuse_other_classes(opened: Inference, kept: dict[str, Any] | None, name: str) -> None:
    """Refuse a classifier with another number of classes than the base was opened for."""
    if opened.head.name != "classes" or kept is None:
        return
    found, room = len(kept["labels"]), opened.bare.network.config.num_labels
    if found != room:
        raise ModelError(
            f"the adapter '{name}' has {found} classes, and the first one {room}",
            "one base has a head for one number of classes",
            "open it on its own",
        )


def _tokenizer(opened: Inference, config: Any, folder: Path) -> Any:
    """Load the tokenizer next to an adapter, with the prompts that it was trained with; None if
    there is none, or it is the one that the base was opened with.

    Raises:
        ModelError: it does not match the rows of the adapter.
    """
    known = opened.bare.tokenizer.name_or_path == str(folder)
    if known or not (folder / "tokenizer_config.json").is_file():
        return None
    ids = model_tokenizer.trained_ids(asdict(config))
    tokenizer = model_tokenizer.tokenizer_at(opened.base, folder)
    rows = model_tokenizer.rows_for(opened.base.vocabulary_rows, ids)
    model_tokenizer.check(tokenizer, rows, opened.base)
    return tokenizer
