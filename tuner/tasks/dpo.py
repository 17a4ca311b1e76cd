"""Direct preference optimisation (Rafailov et al. 2023), by trl's `DPOTrainer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tuner.data.tokens.order import Stream
from tuner.tasks import trl_lending
from tuner.tasks.callbacks import TrlCallback
from tuner.tasks.trl_lending import TrlRun

if TYPE_CHECKING:
    from tuner.tasks.leg import Leg

SHOWN = ("loss", "pair_accuracy", "margin", "grad_norm")


def trainer(leg: Leg) -> TrlRun:
    """Return the trainer of a leg.

    A step has `train.batch_size` pairs; the last one is filled with rows of the next epoch.
    """
    # Imported here: it takes seconds, and no other task needs it.
    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

    plan = leg.plan
    batch, rows = plan.recipe.train.batch_size, plan.prepared.train
    place, end = leg.first * batch, leg.stage.stop * batch
    stream = Stream(rows, plan.recipe.run.seed, place, end, batch, grouped=True)
    pad = DataCollatorForPreference(plan.tokenizer.pad_token_id)

    def collate(chosen: Sequence[Mapping[str, Any]]) -> Any:
        """Collate our own token ids: trl would tokenize texts, control tokens in them included."""
        pairs = [rows[each["row"]] for each in chosen]
        return pad([_pair(pair.prompt_ids, *pair.answers) for pair in pairs])

    def build() -> DPOTrainer:
        config = trl_lending.arguments(
            DPOConfig,
            plan,
            leg.steps,
            beta=plan.rlhf.kl_coefficient,
            loss_type=["sigmoid"],
            max_length=None,
        )
        # trl requires texts and tokenizes them; nothing reads the result.
        texts = {key: ["-"] * len(stream) for key in ("prompt", "chosen", "rejected")}
        return DPOTrainer(
            model=leg.trained.model,
            args=config,
            data_collator=collate,
            train_dataset=Dataset.from_dict({**texts, "row": stream.places}),
            processing_class=plan.tokenizer,
            callbacks=[TrlCallback(leg, stream, figures, SHOWN)],
            optimizers=(leg.optimizer, leg.schedule),
        )

    def figures(logs: Mapping[str, float]) -> dict[str, Any]:
        """Return the metrics of a step; `margin` and the rewards are the implicit ones."""
        pairs = stream.step(leg.step.number - leg.first)
        return {
            "pair_accuracy": logs["rewards/accuracies"],
            "margin": logs["rewards/margins"],
            "reward_better": logs["rewards/chosen"],
            "reward_worse": logs["rewards/rejected"],
            "tokens": sum(pair.num_tokens for pair in pairs),
        }

    return TrlRun(plan, leg.trained.model, build)


def _pair(prompt: list[int], better: list[int], worse: list[int]) -> dict[str, list[int]]:
    start = len(prompt)
    return {"prompt_ids": prompt, "chosen_ids": better[start:], "rejected_ids": worse[start:]}
