"""Policy collapse: too far from the reference policy, identical answers, or endless ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tuner.errors import TrainingError
from tuner.rewards.constant import ConstantGuard
from tuner.tasks.gradients import last_good

if TYPE_CHECKING:
    from tuner.rewards.response import Response, Scores
    from tuner.tasks.leg import Leg

# Steps without a single answer that ends, after which training is hopeless.
_ENDLESS_STEPS = 5


class Collapse:
    """Stops a run whose policy has collapsed, or whose rewards carry no signal.

    Args:
        leg: the steps; the state of its task has what the steps before them showed.
    """

    def __init__(self, leg: Leg) -> None:
        self._leg = leg
        self._guard = ConstantGuard()
        seen = leg.step.task_state
        if "guard" in seen:
            self._guard.restore(seen["guard"])
        # Consecutive steps in which no answer ended.
        self._endless = int(seen.get("endless", 0))

    def state(self) -> dict[str, Any]:
        """Return what the steps so far showed, as JSON values."""
        return {"guard": self._guard.state(), "endless": self._endless}

    def refuse_constant(self, scores: Scores) -> None:
        """Stop if all answers get the same reward step after step; warn of a part that does."""
        if warning := self._guard.update(scores):
            self._leg.reporter.note(f"warning: {warning}")

    def refuse(self, answers: Sequence[Response], mean_kl: float) -> None:
        """Stop if the policy has collapsed by the current step.

        Args:
            answers: of the step.
            mean_kl: mean KL per answer from the reference policy, in nats.

        Raises:
            TrainingError: it has; with what was seen.
        """
        plan, step = self._leg.plan, self._leg.step.number + 1
        self._endless = 0 if any(answer.ended for answer in answers) else self._endless + 1
        same = len(answers) > 3 and len({answer.response_ids for answer in answers}) == 1
        if mean_kl > plan.rlhf.kl_limit:
            what = f"the KL per answer from the reference policy is {mean_kl:.3g} at step {step}"
            fix = "raise rlhf.kl_coefficient, lower train.learning_rate, or raise rlhf.kl_limit"
        elif same:
            what = f"all {len(answers)} answers of step {step} are identical"
            fix = "raise rlhf.kl_coefficient, lower train.learning_rate, or check the rewards"
        elif self._endless >= _ENDLESS_STEPS:
            what = f"no answer ended in the last {self._endless} steps, up to step {step}"
            fix = (
                "raise rlhf.max_new_tokens or rlhf.missing_eos_penalty, or start from a policy "
                "that was fine-tuned on answers (rlhf.policy)"
            )
        else:
            return
        shown = f"it generates {answers[0].text[:80]!r}; {last_good(self._leg.folder)}"
        raise TrainingError(f"the policy has collapsed: {what}", shown, fix)
