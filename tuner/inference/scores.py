"""Reward models: a run, an adapter or a whole model that scores answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tuner.data.tokens.collate import collate_read, placed
from tuner.errors import IntegrityError, ModelError
from tuner.model import embedding_rows, transformers_errors, weights
from tuner.model.adapters import files
from tuner.model.adapters.files import WHOLE
from tuner.model.heads import HEADS
from tuner.record import manifest

if TYPE_CHECKING:
    from tuner.model.adapters.saved_models import SavedModel
    from tuner.model.base import Base
    from tuner.recipe.schema_model import ModelSection

TOKENS_PER_BATCH = 2048


def open_scorer(
    source: SavedModel,
    found: Base,
    section: ModelSection,
    dtype: str,
    device: str,
    warn: Callable[[str], None],
) -> Any:
    """Load a reward model, frozen and in evaluation mode, and check that it is one.

    Args:
        source: what is loaded.
        found: its base, or itself where it is whole.
        section: how the base is quantized.
        dtype: of the weights.
        device: cpu or cuda.
        warn: called with what may be wrong.

    Raises:
        ModelError: it has another number of labels, another base than it was trained on, or
            tensors that match no module.
        IntegrityError: a file was changed after it was sealed.
    """
    head = HEADS["reward"]
    network = weights.open_weights(found, section, head, dtype, device, num_labels=1)
    if not source.whole:
        config = files.read(source.folder, source.name)
        task = getattr(config.task_type, "value", config.task_type)
        if task != head.task_type:
            raise ModelError(
                f"{source.name} is not a reward model",
                f"{source.folder}: task_type {task}",
                "name a run of `tuner reward`",
            )
        source.check_base(found.name, found.fingerprint, warn)
        with transformers_errors.as_model_error(
            f"the adapter '{source.name}' cannot be loaded", source.folder, WHOLE
        ):
            network = embedding_rows.load_adapter_onto(network, source.folder)
        files.check_tensors(network, source.folder, source.name)
    network.requires_grad_(False)
    return network.eval()


@torch.no_grad()
def scores(
    model: Any,
    answers: Sequence[Sequence[int]],
    pad_id: int,
    tick: Callable[[int], None] = lambda done: None,
    tokens: int = TOKENS_PER_BATCH,
) -> list[float]:
    """Return the score of each sequence of token ids, read at its last token.

    Sequences of similar length share a forward pass; that changes a score by no more than
    rounding.

    Args:
        model: a sequence classifier with one label.
        answers: token ids.
        pad_id: the model's own, which must end no sequence.
        tick: called with the number of finished ones.
        tokens: at most so many go through the model at once, or one sequence.
    """
    order = sorted(range(len(answers)), key=lambda number: len(answers[number]))
    found: dict[int, float] = {}
    rest = iter(order)
    while first := list(islice(rest, 1)):
        size = max(1, tokens // (len(answers[first[0]]) * 2))
        chosen = first + list(islice(rest, size - 1))
        batch = collate_read([answers[number] for number in chosen], pad_id)
        logits = model(**placed(batch, model.device)).logits
        found.update(zip(chosen, logits[:, 0].double().tolist(), strict=True))
        tick(len(found))
    return [found[number] for number in range(len(answers))]


def is_scorer(folder: Path) -> bool:
    """Return whether a folder holds a reward model, by its manifest."""
    try:
        facts = manifest.read_manifest(folder)["extra"].get("facts", {})
    except IntegrityError:
        return False
    return bool(facts.get("head") == HEADS["reward"].name)
