"""The whole model as plain transformers files: the adapter folded into the base, or the base itself
where its own weights were trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import TrainingError

if TYPE_CHECKING:
    from tuner.plan import Plan
    from tuner.training import Trained

# Bytes of a file at most. safetensors copies a file's tensors before it writes them: this is all
# that is needed beside the model itself.
SHARD = 2_000_000_000


def write(plan: Plan, trained: Trained, folder: Path) -> None:
    """Merge into the live model and save it with its tokenizer and chat template.

    Raises:
        TrainingError: a merged weight is not finite.
    """
    if plan.method.adapter:
        trained.model = fold(trained.model)
    stops = plan.stop_ids if plan.head.name == "language" else None
    save(trained.model, folder, plan.base.name, plan.tokenizer, stops)


def fold(model: Any) -> Any:
    """The base with the update of its adapter in its weights, layer by layer and in place.

    Raises:
        TrainingError: a merged weight is not finite.
    """
    try:
        return model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise TrainingError(
            "the merged weights are not finite",
            str(error),
            "export the adapter alone (export.formats: adapter), or train at a lower rate",
        ) from error


def save(model: Any, folder: Path, name: str, tokenizer: Any, stops: Sequence[int] | None) -> None:
    """Write a whole model with what is needed to use it.

    Args:
        model: plain transformers.
        folder: takes the files.
        name: of the base; no path of this machine goes into the files.
        tokenizer: with its chat template.
        stops: ids that end an answer, further to the tokenizer's; None: it does not write.
    """
    model.config._name_or_path = name
    if stops is not None:
        # The end token that the answers were trained with, first, and the base's further ones.
        ends = list(dict.fromkeys([tokenizer.eos_token_id, *stops]))
        model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
    model.save_pretrained(folder, max_shard_size=SHARD)
    tokenizer.save_pretrained(folder)
