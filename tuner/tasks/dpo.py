"""Direct preference optimisation (Rafailov et al. 2023) and its kin, by trl's `DPOTrainer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tuner.recipe.schema_preference import DpoSection
from tuner.tasks import trl_lending
from tuner.tasks.pairs import Pairs, TokenShares
from tuner.tasks.trl_lending import TrlRun

if TYPE_CHECKING:
    from tuner.tasks.leg import Leg

SHOWN = ("loss", "pair_accuracy", "margin", "grad_norm")


def trainer(leg: Leg) -> TrlRun:
    """Return the trainer of a leg.

    A step has `train.batch_size` pairs; the last one is filled with rows of the next epoch.
    """
    # Imported here: it takes seconds, and no other task needs it.
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

    plan = leg.plan
    pairs = Pairs(leg)
    options = plan.recipe.dpo or DpoSection()
    pad = DataCollatorForPreference(plan.tokenizer.pad_token_id)

    def collate(chosen: Sequence[Mapping[str, Any]]) -> Any:
        """Collate our own token ids: trl would tokenize texts, control tokens in them included."""
        return pad(
            [
                {"prompt_ids": prompt, "chosen_ids": better, "rejected_ids": worse}
                for prompt, better, worse in pairs.parts(chosen)
            ]
        )

    def build() -> Any:
        loss = "sigmoid_norm" if options.normalize_length else options.loss
        losses: dict[str, float] = {loss: 1.0}
        if options.sft_weight:
            losses["sft"] = options.sft_weight
        config = trl_lending.arguments(
            DPOConfig,
            plan,
            leg.steps,
            beta=plan.beta,
            loss_type=[*losses],
            loss_weights=[*losses.values()],
            label_smoothing=float(plan.values["dpo.label_smoothing"].value),
            max_length=None,
        )
        made: Any = DPOTrainer(
            model=leg.trained.model,
            args=config,
            data_collator=collate,
            train_dataset=pairs.dataset(),
            processing_class=plan.tokenizer,
            callbacks=[pairs.callback(figures, SHOWN)],
            optimizers=(leg.optimizer, leg.schedule),
        )
        if options.sft_weight:

            def weigh(share: float) -> None:
                made.loss_weights[1] = options.sft_weight * share

            made.add_callback(TokenShares(pairs, weigh))
        return made

    def figures(logs: Mapping[str, float]) -> dict[str, Any]:
        return {**_figures(logs), "tokens": pairs.tokens}

    return TrlRun(plan, leg.trained.model, build)


def _figures(logs: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of a step; `margin` and the rewards are the implicit ones."""
    return {
        "pair_accuracy": logs["rewards/accuracies"],
        "margin": logs["rewards/margins"],
        "reward_better": logs["rewards/chosen"],
        "reward_worse": logs["rewards/rejected"],
    }
