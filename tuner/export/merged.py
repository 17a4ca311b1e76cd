"""The whole model as plain transformers files: the adapter merged into the base, or the base itself
if its own weights were trained."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.model.fold import fold
from tuner.record import manifest

if TYPE_CHECKING:
    from tuner.export.job import Work
    from tuner.plan.plan import Plan
    from tuner.recipe.formats import ExportFormat
    from tuner.tasks.trained import Trained

# Bytes per file at most. safetensors copies a file's tensors before it writes them: this is all
# that is needed in addition to the model itself.
SHARD = 2_000_000_000


def write_again(row: ExportFormat, work: Work, folder: Path) -> None:
    """Write the merged model that other formats are made from."""
    ignored = shutil.ignore_patterns(manifest.MANIFEST)
    shutil.copytree(work.merged, folder, dirs_exist_ok=True, ignore=ignored)


def write_merged(plan: Plan, trained: Trained, folder: Path) -> None:
    """Merge into the live model and save it with its tokenizer and chat template.

    Raises:
        TrainingError: a merged weight is not finite.
    """
    if plan.method.adapter:
        trained.model = fold(trained.model)
    stops = plan.stop_ids if plan.head.name == "language" else None
    save(trained.model, folder, plan.base.name, plan.tokenizer, stops)


def save(model: Any, folder: Path, name: str, tokenizer: Any, stops: Sequence[int] | None) -> None:
    """Write a whole model with what is needed to use it.

    Args:
        model: plain transformers.
        folder: takes the files.
        name: of the base; no path of this machine goes into the files.
        tokenizer: with its chat template.
        stops: ids that end an answer, besides the tokenizer's; None: it does not generate.
    """
    model.config._name_or_path = name
    if stops is not None:
        # The end token that the answers were trained with, first, and the base's further ones.
        ends = list(dict.fromkeys([tokenizer.eos_token_id, *stops]))
        model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
    model.save_pretrained(folder, max_shard_size=SHARD)
    tokenizer.save_pretrained(folder)
