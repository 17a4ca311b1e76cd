"""Reward models as rewards: a trained run, an adapter or a whole model that scores answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuner.inference.scores import TOKENS_PER_BATCH, open_scorer, scores
from tuner.rewards import Term, compose
from tuner.rewards.code import load as load_function
from tuner.rewards.options import FunctionReward, ModelReward
from tuner.rewards.response import Response, Scorer, Scores

if TYPE_CHECKING:
    from tuner.model.adapters.saved_models import SavedModel
    from tuner.plan.plan import Plan

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RewardModel:
    """A loaded reward model, frozen, in evaluation mode.

    Attributes:
        network: a sequence classifier with one label, peft's or transformers' own.
        pad_id: fills padded rows; never ends one.
        tokens: what goes through it at once.
    """

    network: Any
    pad_id: int
    tokens: int

    def score(self, answers: Sequence[Response]) -> list[float]:
        """Return the scores of prompt and answer together, read at the answer's last token.

        Nothing after the stop token is ever seen: an answer is cut there when it is sampled.
        """
        rows = [[*answer.prompt_ids, *answer.response_ids] for answer in answers]
        return scores(self.network, rows, self.pad_id, tokens=self.tokens)


@dataclass(frozen=True)
class Judge:
    """The rewards of a recipe, loaded.

    Attributes:
        score: from answers to the weighted sum and its parts.
        models: the reward models among them.
    """

    score: Callable[[Sequence[Response]], Scores]
    models: tuple[RewardModel, ...]


def load(plan: Plan) -> Judge:
    """Load what `rlhf.reward` names.

    Raises:
        ModelError: a reward model does not load, or is not one.
        IntegrityError: its files were changed after they were sealed.
        SafetyError: a reward is a function, and the recipe does not allow code.
    """
    parts, models = list[Term](), list[RewardModel]()
    scorer: Scorer
    for part in plan.rlhf.reward:
        if isinstance(part, ModelReward):
            found = open_model(plan, plan.parties.judges[part.model])
            models.append(found)
            scorer = found.score
        elif isinstance(part, FunctionReward):
            scorer = load_function(part.function, plan.loaded.folder, plan.rlhf.allow_code)
        else:
            scorer = part.scorer()
        parts.append(Term(part.title, part.weight, scorer))
    return Judge(compose(parts), tuple(models))


def open_model(plan: Plan, source: SavedModel) -> RewardModel:
    """Load one reward model, and check that it is one and that its files are intact.

    Raises:
        ModelError: it has another number of labels, another base than it was trained on, or
            tensors that match no module.
        IntegrityError: a file was changed after it was sealed.
    """
    found = source.opened_with(plan.base)
    section = source.section or plan.recipe.model
    network = open_scorer(source, found, section, plan.dtype, plan.device, log.warning)
    # Its tokenizer was checked against the policy's by the plan; its padding token is its own.
    pad = plan.parties.pads[source.name]
    network.config.pad_token_id = pad
    return RewardModel(network, pad, plan.tokens_at_once(TOKENS_PER_BATCH))
