"""The scale of the loss in float16, where small gradients round to zero and large ones overflow.

accelerate's scaler finds the scale by overflowing. A step that did is repeated with half of it, so
that every step makes its update; what the scale has come to is part of a checkpoint.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from tuner.errors import TrainingError

# Halvings in a row after which the gradients themselves must be wrong.
_MOST = 20

log = logging.getLogger(__name__)


class Overflow(Exception):
    """The gradients of a step do not fit into float16: it is to be repeated."""


@dataclass
class LossScale:
    """The scale from one Trainer to the next.

    Attributes:
        state: of the scaler after the last whole step; None: there was none, or no scaler.
        overflows: repetitions of the current step.
        scaler: of the current Trainer; None in other types than float16.
    """

    state: dict[str, Any] | None = None
    overflows: int = 0
    scaler: Any = None

    @property
    def metrics(self) -> dict[str, float]:
        """The scale of the current step, for its line of metrics; empty without one."""
        return {} if self.scaler is None else {"loss_scale": float(self.scaler.get_scale())}

    def begin(self, scaler: Any) -> None:
        """Continue with the scaler of a new Trainer."""
        self.scaler = scaler
        if scaler is not None and self.state is not None:
            scaler.load_state_dict(self.state)

    def keep(self) -> None:
        """Remember the scale after a whole step."""
        if self.scaler is not None:
            self.state, self.overflows = self.scaler.state_dict(), 0

    def overflow(self, step: int, norm: float) -> None:
        """Halve the scale for a step whose gradient norm is not finite; nothing without a scaler.

        Args:
            step: from 1.
            norm: of its gradients.

        Raises:
            Overflow: the step is to be repeated.
            TrainingError: it was, too often.
        """
        if self.scaler is None:
            return
        before = self.scaler.state_dict()
        scale = before["scale"] * before["backoff_factor"]
        self.state = {**before, "scale": scale, "_growth_tracker": 0}
        self.overflows += 1
        if self.overflows >= _MOST or scale < 1:
            raise TrainingError(
                f"the gradients of step {step} do not fit into float16",
                f"their norm was {norm} {self.overflows} times in a row, at last with a loss scale "
                f"of {before['scale']:g}",
                "use model.dtype: float32, or bfloat16 where the GPU has it; or lower "
                "train.learning_rate",
            )
        log.info("step %d overflows float16: it is repeated with a loss scale of %g", step, scale)
        raise Overflow
