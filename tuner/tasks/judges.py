"""Reward models as rewards: a trained run, an adapter or a whole model that scores answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from tuner.data.tokens.collate import collate_read, placed
from tuner.errors import ModelError
from tuner.model import embedding_rows, transformers_errors, weights
from tuner.model.adapters import files
from tuner.model.adapters.files import WHOLE
from tuner.model.heads import HEADS
from tuner.rewards import Term, compose
from tuner.rewards.code import load as load_function
from tuner.rewards.options import FunctionReward, ModelReward
from tuner.rewards.response import Response, Scorer, Scores

if TYPE_CHECKING:
    from tuner.model.adapters.saved_models import SavedModel
    from tuner.plan.plan import Plan

log = logging.getLogger(__name__)

TOKENS_PER_BATCH = 2048


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
    head = HEADS["reward"]
    network = weights.open_weights(found, section, head, plan.dtype, plan.device, num_labels=1)
    if not source.whole:
        config = files.read(source.folder, source.name)
        task = getattr(config.task_type, "value", config.task_type)
        if task != head.task_type:
            raise ModelError(
                f"{source.name} is not a reward model",
                f"{source.folder}: task_type {task}",
                "name a run of `tuner reward`",
            )
        source.check_base(found.name, found.fingerprint, log.warning)
        with transformers_errors.as_model_error(
            f"the adapter '{source.name}' cannot be loaded", source.folder, WHOLE
        ):
            network = embedding_rows.load_adapter_onto(network, source.folder)
        files.check_tensors(network, source.folder, source.name)
    # Its tokenizer was checked against the policy's by the plan; its padding token is its own.
    pad = plan.parties.pads[source.name]
    network.config.pad_token_id = pad
    network.requires_grad_(False)
    return RewardModel(network.eval(), pad, plan.tokens_at_once(TOKENS_PER_BATCH))


@torch.no_grad()
def scores(
    model: Any,
    answers: Sequence[Sequence[int]],
    pad_id: int,
    tick: Callable[[int], None] = lambda done: None,
    tokens: int = TOKENS_PER_BATCH,
) -> list[float]:
    """Return the score of each sequence of token ids, read at its last token.

    Sequences of similar length share a forward pass; that changes a score by no more than
    rounding.

    Args:
        model: a sequence classifier with one label.
        answers: token ids.
        pad_id: the model's own, which must end no sequence.
        tick: called with the number of finished ones.
        tokens: at most so many go through the model at once, or one sequence.
    """
    order = sorted(range(len(answers)), key=lambda number: len(answers[number]))
    found: dict[int, float] = {}
    rest = iter(order)
    while first := list(islice(rest, 1)):
        size = max(1, tokens // (len(answers[first[0]]) * 2))
        chosen = first + list(islice(rest, size - 1))
        batch = collate_read([answers[number] for number in chosen], pad_id)
        logits = model(**placed(batch, model.device)).logits
        found.update(zip(chosen, logits[:, 0].double().tolist(), strict=True))
        tick(len(found))
    return [found[number] for number in range(len(answers))]
