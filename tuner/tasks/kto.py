"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024), by trl's `KTOTrainer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tuner.data.thumbs import is_liked
from tuner.recipe.schema_preference import KtoSection
from tuner.tasks import trl_lending
from tuner.tasks.pairs import Pairs
from tuner.tasks.trl_lending import TrlRun

if TYPE_CHECKING:
    from transformers import Trainer

    from tuner.tasks.leg import Leg

SHOWN = ("loss", "kl", "grad_norm")
# trl's name, and the name in the log; a step without liked or disliked answers lacks some.
_FIGURES = {
    "rewards/chosen": "reward_liked",
    "rewards/rejected": "reward_disliked",
    "rewards/margins": "margin",
}


def trainer(leg: Leg) -> TrlRun:
    """Return the trainer of a leg.

    A step has `train.batch_size` answers; the last one is filled with rows of the next epoch. The
    KL is estimated over the answers of a forward pass, each after the prompt of the next one. Rows
    are not grouped by length: answers to one prompt are often equally long.
    """
    # Imported here: it takes seconds, and no other task needs it.
    from trl.trainer.kto_config import KTOConfig
    from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference, KTOTrainer

    plan = leg.plan
    thumbs = Pairs(leg, grouped=False)
    options = plan.recipe.kto or KtoSection()
    pad = DataCollatorForUnpairedPreference(plan.tokenizer.pad_token_id)

    def collate(chosen: Sequence[Mapping[str, Any]]) -> Any:
        """Collate our own token ids: trl would tokenize texts, control tokens in them included."""
        rows = thumbs.chosen(chosen)
        answers = [row.answers[0][len(row.prompt_ids) :] for row in rows]
        return pad(
            [
                {
                    "prompt_ids": row.prompt_ids,
                    "completion_ids": answer,
                    "KL_completion_ids": other,
                    "label": is_liked(row.pairs),
                }
                for row, answer, other in zip(
                    rows, answers, [answers[-1], *answers[:-1]], strict=True
                )
            ]
        )

    def build() -> Trainer:
        config = trl_lending.arguments(
            KTOConfig,
            plan,
            leg.steps,
            beta=plan.beta,
            desirable_weight=options.desirable_weight,
            undesirable_weight=options.undesirable_weight,
            max_length=None,
        )
        given = thumbs.dataset(("prompt", "completion"))
        # Nothing reads these labels; trl would warn of kinds that differ in number.
        labels = [place % 2 == 0 for place in range(len(given))]
        made: Trainer = KTOTrainer(
            model=leg.trained.model,
            args=config,
            data_collator=collate,
            train_dataset=given.add_column("label", labels),
            processing_class=plan.tokenizer,
            callbacks=[thumbs.callback(figures, SHOWN)],
            optimizers=(leg.optimizer, leg.schedule),
        )
        return made

    def figures(logs: Mapping[str, float]) -> dict[str, Any]:
        """Return the metrics of a step; the rewards are the implicit ones."""
        of_trl = {ours: logs[theirs] for theirs, ours in _FIGURES.items() if theirs in logs}
        return {"kl": logs["kl"], **of_trl, "tokens": thumbs.tokens}

    return TrlRun(plan, leg.trained.model, build)
