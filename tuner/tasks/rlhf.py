"""Reinforcement learning from rewards: the reference, the critic, and the choice of trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from tuner.recipe.schema_preference import REFERENCE_FREE
from tuner.rewards.response import Response, Scores
from tuner.tasks import dpo, judges, kto, online, ppo, reference_free, rollouts
from tuner.tasks.value import PolicyValue, RewardValue

if TYPE_CHECKING:
    from tuner.plan.plan import Plan
    from tuner.tasks.leg import Leg
    from tuner.tasks.trained import Trained


def prepare(plan: Plan, model: Any) -> Callable[[Sequence[Response]], Scores]:
    """Load the rewards, put reference and critic on a new policy, and return what scores answers.

    Raises:
        ModelError, IntegrityError: a reward model cannot be used.
        SafetyError: a reward is a Python function, and the recipe does not allow it.
    """
    judge = judges.load(plan)
    if plan.parties.policy is not None and plan.rlhf.compares:
        # A second copy of the adapter; both share one base.
        start = str(plan.parties.policy.folder)
        model.load_adapter(start, rollouts.REFERENCE, is_trainable=False)
        model.set_adapter("default")
    if plan.rlhf.algorithm == "ppo":
        options = plan.ppo
        if options.value_trunk == "reward":
            model.value_head = RewardValue(judge.models[0], plan)
        else:
            network = model.get_base_model()
            size = network.get_output_embeddings().weight.shape[-1]
            head = PolicyValue(size, options.share_trunk)
            model.value_head = head.to(device=model.device, dtype=torch.float32)
    return judge.score


def finish(plan: Plan, trained: Trained) -> None:
    """Remove all but the policy: an ordinary adapter on the base."""
    model = trained.model
    if plan.rlhf.algorithm == "ppo":
        del model.value_head
    if rollouts.REFERENCE in model.peft_config:
        model.delete_adapter(rollouts.REFERENCE)
    trained.judge = None


def trainer(leg: Leg) -> Any:
    """Return the trainer of the recipe's algorithm for a leg."""
    return _TRAINERS[leg.plan.rlhf.algorithm](leg)


_TRAINERS: dict[str, Callable[[Leg], Any]] = {
    "ppo": ppo.Ppo,
    "rloo": online.trainer,
    "grpo": online.trainer,
    "dpo": dpo.trainer,
    "kto": kto.trainer,
    **dict.fromkeys(REFERENCE_FREE, reference_free.trainer),
}
