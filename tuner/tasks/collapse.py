"""Policy collapse: too far from the reference policy, identical answers, or endless ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tuner.errors import TrainingError

if TYPE_CHECKING:
    from tuner.plan.plan import Plan
    from tuner.rewards.response import Response
    from tuner.tasks.watch import Watch

# Steps without a single answer that ends, after which training is hopeless.
_ENDLESS_STEPS = 5


def refuse_collapse(
    plan: Plan,
    answers: Sequence[Response],
    mean_kl: float,
    endless: int,
    step: int,
    watch: Watch,
) -> None:
    """Stop if the policy has collapsed.

    Args:
        plan: has the limits.
        answers: of the step.
        mean_kl: mean KL per answer from the reference policy, in nats.
        endless: consecutive steps up to this one in which no answer ended.
        step: from 1.
        watch: knows the last good checkpoint.

    Raises:
        TrainingError: it has; with what was seen.
    """
    same = len(answers) > 3 and len({answer.response_ids for answer in answers}) == 1
    if mean_kl > plan.rlhf.kl_limit:
        what = f"the KL per answer from the reference policy is {mean_kl:.3g} at step {step}"
        fix = "raise rlhf.kl_coefficient, lower train.learning_rate, or raise rlhf.kl_limit"
    elif same:
        what = f"all {len(answers)} answers of step {step} are identical"
        fix = "raise rlhf.kl_coefficient, lower train.learning_rate, or check the rewards"
    elif endless >= _ENDLESS_STEPS:
        what = f"no answer ended in the last {endless} steps, up to step {step}"
        fix = (
            "raise rlhf.max_new_tokens or rlhf.missing_eos_penalty, or start from a policy "
            "that was fine-tuned on answers (rlhf.policy)"
        )
    else:
        return
    shown = f"it generates {answers[0].text[:80]!r}; {watch.last_good()}"
    raise TrainingError(f"the policy has collapsed: {what}", shown, fix)
