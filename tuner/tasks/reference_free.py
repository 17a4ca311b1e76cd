"""Losses of preferences that need no reference policy, by trl's experimental trainers.

ORPO (Hong et al. 2024) by `ORPOTrainer`; CPO (Xu et al. 2024) and SimPO (Meng et al. 2024), which
is one of its losses, by `CPOTrainer`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence

from tuner.data.tokens.example import IGNORED
from tuner.recipe.schema_preference import CpoSection, SimpoSection
from tuner.tasks import trl_lending
from tuner.tasks.pairs import Pairs, TokenShares
from tuner.tasks.trl_lending import TrlRun

if TYPE_CHECKING:
    from tuner.plan.plan import Plan
    from tuner.tasks.leg import Leg

SHOWN = ("loss", "pair_accuracy", "margin", "grad_norm")


def trainer(leg: Leg) -> TrlRun:
    """Return the trainer of a leg.

    A step has `train.batch_size` pairs; the last one is filled with rows of the next epoch.
    """
    plan, pairs = leg.plan, Pairs(leg)
    weight = _sft_weight(plan)

    def collate(chosen: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate our own token ids: trl would tokenize texts, control tokens in them included."""
        parts = pairs.parts(chosen)
        prompts = [prompt for prompt, _, _ in parts]
        batch: dict[str, torch.Tensor] = {}
        for side, number in (("chosen", 1), ("rejected", 2)):
            answers = [part[number] for part in parts]
            batch |= _side(side, prompts, answers, plan.tokenizer.pad_token_id)
        return batch

    def build() -> Any:
        kind, config = _kinds(plan)
        made: Any = kind(
            model=leg.trained.model,
            args=trl_lending.arguments(
                config, plan, leg.steps, max_length=plan.max_length, **_options(plan)
            ),
            data_collator=collate,
            train_dataset=pairs.dataset(),
            processing_class=plan.tokenizer,
            callbacks=[pairs.callback(figures, SHOWN)],
            optimizers=(leg.optimizer, leg.schedule),
        )
        if weight:

            def weigh(share: float) -> None:
                made.cpo_alpha = weight * share

            made.add_callback(TokenShares(pairs, weigh))
        return made

    def figures(logs: Mapping[str, float]) -> dict[str, Any]:
        return {**_figures(logs), "tokens": pairs.tokens}

    return TrlRun(plan, leg.trained.model, build)


def _figures(logs: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of a step; `margin` is the mean of what the loss compares."""
    return {
        "pair_accuracy": logs["rewards/accuracies"],
        "margin": logs.get("log_odds_chosen", logs["rewards/margins"]),
        "logp_better": logs["logps/chosen"],
        "logp_worse": logs["logps/rejected"],
        "cross_entropy": logs["nll_loss"],
    }


def _kinds(plan: Plan) -> tuple[Any, Any]:
    """Return trl's trainer and its configuration."""
    # Imported here: it takes seconds, and no other task needs it.
    with warnings.catch_warnings():
        # trl says of each that it may change; tests compare their losses with the papers'.
        warnings.simplefilter("ignore")
        if plan.rlhf.algorithm == "orpo":
            from trl.experimental.orpo import ORPOConfig, ORPOTrainer

            return ORPOTrainer, ORPOConfig
        from trl.experimental.cpo import CPOConfig, CPOTrainer

        return CPOTrainer, CPOConfig


def _options(plan: Plan) -> dict[str, Any]:
    """Return trl's arguments of a plan's loss."""
    if plan.rlhf.algorithm == "orpo":
        return {"beta": plan.beta}
    if plan.rlhf.algorithm == "cpo":
        return {"beta": plan.beta, "cpo_alpha": _sft_weight(plan)}
    margin = (plan.recipe.simpo or SimpoSection()).margin
    given = {"loss_type": "simpo", "simpo_gamma": margin, "cpo_alpha": _sft_weight(plan)}
    return {"beta": plan.beta, **given}


def _sft_weight(plan: Plan) -> float:
    """Return the weight of the cross-entropy, where there is one."""
    if plan.rlhf.algorithm == "cpo":
        return (plan.recipe.cpo or CpoSection()).sft_weight
    simpo = plan.rlhf.algorithm == "simpo"
    return (plan.recipe.simpo or SimpoSection()).sft_weight if simpo else 0.0


def _side(
    side: str, prompts: Sequence[list[int]], answers: Sequence[list[int]], pad_id: int
) -> dict[str, torch.Tensor]:
    """Return the tensors (rows, tokens) that trl expects of the better or the worse answers."""
    both = list(zip(prompts, answers, strict=True))
    ids = [torch.tensor(prompt + answer) for prompt, answer in both]
    labels = [torch.tensor([IGNORED] * len(prompt) + answer) for prompt, answer in both]
    masks = [torch.ones_like(each) for each in ids]
    return {
        f"{side}_input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_id),
        f"{side}_attention_mask": pad_sequence(masks, batch_first=True),
        f"{side}_labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }
