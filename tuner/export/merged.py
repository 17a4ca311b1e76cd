"""The whole model as plain transformers files: the adapter folded into the base, or the base itself
where its own weights were trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tuner.errors import TrainingError

if TYPE_CHECKING:
    from tuner.plan import Plan
    from tuner.training import Trained


def write(plan: Plan, trained: Trained, folder: Path) -> None:
    """Merge into the live model and save it with its tokenizer and chat template.

    Raises:
        TrainingError: a merged weight is not finite.
    """
    model = trained.model
    if plan.method.adapter:
        try:
            model = model.merge_and_unload(safe_merge=True)
        except ValueError as error:
            raise TrainingError(
                "the merged weights are not finite",
                str(error),
                "export the adapter alone (export.formats: adapter), or train at a lower rate",
            ) from error
        trained.model = model
    model.config._name_or_path = plan.base.name
    if plan.head.name == "language":
        model.generation_config.eos_token_id = _stops(plan)
    model.save_pretrained(folder)
    plan.tokenizer.save_pretrained(folder)


def _stops(plan: Plan) -> int | list[int]:
    """The end token that the answers were trained with, first, and the base's further ones."""
    stops = list(dict.fromkeys([plan.tokenizer.eos_token_id, *plan.stop_ids]))
    return stops if len(stops) > 1 else stops[0]
