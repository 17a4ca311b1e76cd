"""Reward models as rewards: a trained run, an adapter or a whole model that scores answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuner import adapter_files, model, token_rows
from tuner.adapter_files import WHOLE
from tuner.errors import ModelError
from tuner.evaluate.preference import scores
from tuner.heads import HEADS
from tuner.rewards import Part, compose, part_name
from tuner.rewards.code import load as load_function
from tuner.rewards.options import FunctionReward, ModelReward
from tuner.rewards.response import Response, Scorer, Scores
from tuner.rewards.rules import RULES

if TYPE_CHECKING:
    from tuner.plan import Plan
    from tuner.sources import Source

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RewardModel:
    """A loaded reward model, frozen, in evaluation mode.

    Attributes:
        network: a sequence classifier with one label, peft's or transformers' own.
        pad_id: fills padded rows; ends none.
    """

    network: Any
    pad_id: int

    def score(self, answers: Sequence[Response]) -> list[float]:
        """The scores of prompt and answer together, read at the answer's last token.

        Nothing behind the stop token is ever seen: an answer is cut there when it is drawn.
        """
        rows = [[*answer.prompt_ids, *answer.response_ids] for answer in answers]
        return scores(self.network, rows, self.pad_id)


@dataclass(frozen=True)
class Judge:
    """The rewards of a recipe, loaded.

    Attributes:
        score: answers to the weighted sum and its parts.
        models: the reward models among them.
    """

    score: Callable[[Sequence[Response]], Scores]
    models: tuple[RewardModel, ...]


def load(plan: Plan) -> Judge:
    """Load what `rlhf.reward` names.

    Raises:
        ModelError: a reward model does not load, or is none.
        IntegrityError: its files are not those that were sealed.
        SafetyError: a function, and the recipe does not allow code.
    """
    parts, models = list[Part](), list[RewardModel]()
    scorer: Scorer
    for part in plan.rlhf.reward:
        if isinstance(part, ModelReward):
            found = open_model(plan, plan.parties.judges[part.model])
            models.append(found)
            scorer = found.score
        elif isinstance(part, FunctionReward):
            scorer = load_function(part.function, plan.loaded.folder, plan.rlhf.allow_code)
        else:
            scorer = RULES[part.rule](part)
        parts.append(Part(part_name(part), part.weight, scorer))
    return Judge(compose(parts), tuple(models))


def open_model(plan: Plan, source: Source) -> RewardModel:
    """Load one reward model, and check that it is one and that its files are whole.

    Raises:
        ModelError: it has another number of labels, another base than it was trained on, or
            tensors that match nothing.
        IntegrityError: a file is not the one that was sealed.
    """
    found = source.base(plan.base)
    section = source.section or plan.recipe.model
    head = HEADS["reward"]
    network = model.open_weights(found, section, head, plan.dtype, plan.device, num_labels=1)
    if not source.whole:
        config = adapter_files.read(source.folder, source.name)
        task = getattr(config.task_type, "value", config.task_type)
        if task != head.task_type:
            raise ModelError(
                f"{source.name} is no reward model",
                f"{source.folder}: task_type {task}",
                "name a run of `tuner reward`",
            )
        adapter_files.check_base(
            source.folder,
            source.name,
            found.name,
            found.fingerprint,
            force=False,
            warn=log.warning,
        )
        with model.told(f"the adapter '{source.name}' cannot be loaded", source.folder, WHOLE):
            network = token_rows.put_on(network, source.folder)
        adapter_files.check_tensors(network, source.folder, source.name)
    # Its tokenizer was checked against the policy's by the plan; its padding token is its own.
    pad = plan.parties.pads[source.name]
    network.config.pad_token_id = pad
    network.requires_grad_(False)
    return RewardModel(network.eval(), pad)
