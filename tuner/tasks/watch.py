"""Watch: the evaluations of a run while it trains, the best one, and when to stop."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel

from tuner.console import formatting
from tuner.errors import TrainingError

if TYPE_CHECKING:
    from tuner.plan.evaluations import Evaluations
    from tuner.plan.plan import Plan

Scores = dict[str, float]
# Prompt, reference and answer of each sample.
Answer = Callable[["Plan"], list[dict[str, str]]]
# What accelerate puts on a model to compute in half precision.
_AUTOCAST = ("forward", "_original_forward")


class Watch:
    """What the evaluations of a run have shown so far.

    Args:
        asked: what the plan says of them; None: there are none.
        score: returns the scores of the model as it is.
        saved: `state` of the checkpoint that the run continues from; empty without one.
        scored: what the scores depend on besides the model: those of others are not compared.
        answer: returns answers of the model as it is to held-out prompts.

    Attributes:
        best: the best evaluation: its step and its scores; None: none yet.
        last: the last one.
        waited: evaluations since the last gain.
        outdated: whether the checkpoint has evaluations of other rows or metrics.
    """

    def __init__(
        self,
        asked: Evaluations | None,
        score: Callable[[Plan], Scores] = lambda plan: {},
        saved: Mapping[str, Any] | None = None,
        scored: Mapping[str, Any] | None = None,
        answer: Answer = lambda plan: [],
    ) -> None:
        self.asked, self.score, self._scored = asked, score, dict(scored or {})
        self.answer = answer
        known = dict(saved or {})
        self.outdated = bool(known) and known["scored"] != self._scored
        if self.outdated:
            known = {}
        self.best: dict[str, Any] | None = known.get("best")
        self.last: dict[str, Any] | None = known.get("last")
        self.waited: int = known.get("waited", 0)
        self._mark: float | None = known.get("mark")

    @property
    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "best": self.best,
            "last": self.last,
            "waited": self.waited,
            "mark": self._mark,
            "scored": self._scored,
        }

    @property
    def stopped(self) -> bool:
        """Whether training ends here: no gain for as many evaluations as the recipe waits."""
        patience = self.asked.patience if self.asked else None
        return patience is not None and self.waited >= patience

    @property
    def keeps_best(self) -> bool:
        """Whether the run ends with the weights of its best evaluation."""
        return self.asked is not None and self.asked.keep_best

    @property
    def kept(self) -> dict[str, Any] | None:
        """The evaluation of the weights that the run ends with; None: they were not scored."""
        return self.best if self.keeps_best else self.last

    def forget_best(self) -> None:
        """Begin to choose again: the weights of the best evaluation are lost."""
        self.best, self._mark, self.waited = None, None, 0

    def due(self, step: int) -> bool:
        """Return whether rows are scored after a step and have not been."""
        seen = self.last["step"] if self.last else 0
        return self.asked is not None and step in self.asked.steps and step > seen

    def see(self, step: int, scores: Scores) -> bool:
        """Take the scores after a step; return whether they are the best so far.

        Raises:
            TrainingError: the metric to go by is not finite.
        """
        assert self.asked is not None
        asked = self.asked
        value = scores.get(asked.metric, math.nan)
        if asked.selects and not math.isfinite(value):
            raise TrainingError(
                f"{asked.metric} of the held-out rows is not finite",
                f"it is {value} after step {step}, and the best weights are chosen by it",
                "lower train.learning_rate; or leave out eval.stop and eval.keep",
            )
        best = self.best["scores"][asked.metric] if self.best else None
        better = math.isfinite(value) and asked.better(value, best)
        self.last = {"step": step, "scores": scores}
        if better:
            self.best = self.last
        if asked.gains(value, self._mark):
            self._mark, self.waited = value, 0
        else:
            self.waited += 1
        return better

    def said(self) -> str:
        """Return in words what the last evaluation has shown."""
        assert self.asked is not None
        assert self.last is not None
        name, at = self.asked.metric, self.last["step"]
        text = f"step {at}: held-out {name} {formatting.value(self.last['scores'].get(name))}"
        if self.best and self.best["step"] < at:
            best = formatting.value(self.best["scores"][name])
            text += f" (best: {best} after step {self.best['step']})"
        elif self.best:
            text += " (the best so far)"
        if self.stopped:
            count = formatting.counted(self.waited, "evaluation")
            text += f"; training stops: no gain in {count}"
        return text

    def record(self, steps: int, tested: bool = False) -> dict[str, Any]:
        """Return what run.json says of the evaluations of a finished run; empty without any.

        Args:
            steps: of the plan.
            tested: whether there are scores of test rows, which have chosen nothing.
        """
        if self.asked is None or self.last is None or self.kept is None:
            return {}
        asked = self.asked
        found: dict[str, Any] = {
            "metric": asked.metric,
            "better": "higher" if asked.higher else "lower",
            "keep": "best" if asked.keep_best else "last",
            "kept_step": self.kept["step"],
            "best": self.best,
            "last": self.last,
            "stopped_early": self.last["step"] < steps,
            "planned_steps": steps,
            "selected_on_held_out_rows": asked.selects,
            **({"tested": True} if tested else {}),
        }
        return {"evaluation": found}


@dataclass(frozen=True)
class HeldOut:
    """How a run that trains scores held-out rows.

    Attributes:
        between: called with the number, from 1, of each finished stage except the last.
        score: returns the scores of the model as it is, with the micro-batches of a plan.
        scored: what scores depend on besides the model.
        answer: returns answers of the model as it is to held-out prompts.
    """

    between: Callable[[int], None] = lambda number: None
    score: Callable[[Plan], Scores] = lambda plan: {}
    scored: Mapping[str, Any] = field(default_factory=dict)
    answer: Answer = lambda plan: []


@contextlib.contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Let the model be scored in the midst of training: afterwards modes and random numbers are
    what they were.

    It computes without the autocast that training puts around it, as before and after training.
    """
    modes = [(module, module.training) for module in model.modules()]
    around = {name: vars(model)[name] for name in _AUTOCAST if name in vars(model)}
    extract_model_from_parallel(model, keep_fp32_wrapper=False)
    plain, drawn = random.getstate(), np.random.get_state()
    device = next(model.parameters()).device
    gpus = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(gpus):
            yield
    finally:
        random.setstate(plain)
        np.random.set_state(drawn)
        vars(model).update(around)
        for module, training in modes:
            module.training = training
