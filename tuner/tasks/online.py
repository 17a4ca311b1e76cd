"""Learning from rewards without a critic, by trl: `RLOOTrainer` and `GRPOTrainer`.

RLOO (Ahmadian et al. 2024) compares an answer with the mean of the others to its prompt, GRPO (Shao
et al. 2024) with mean and spread of all of them. A step samples answers, scores them and makes one
update, or as many as `grpo.updates` says: each is a step to trl. So a step depends only on the
weights, the optimizer and its own seed, and a checkpoint holds no answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from transformers import PreTrainedTokenizerBase

from tuner.data.tokens.order import Stream
from tuner.machine import ranks
from tuner.recipe.schema_rlhf import GrpoSection
from tuner.rewards.response import Response, Scores
from tuner.tasks import rollouts, step_end, trl_lending
from tuner.tasks.callbacks import TrlCallback
from tuner.tasks.collapse import Collapse
from tuner.tasks.redraws import Redraws
from tuner.tasks.trl_lending import TrlRun

if TYPE_CHECKING:
    from transformers import Trainer

    from tuner.data.prompts import Prompt
    from tuner.tasks.leg import Leg

Item = TypeVar("Item")

SHOWN = ("reward", "kl", "length", "ended", "seconds")
# trl's name, and the name in the log.
_FIGURES = {
    "entropy": "entropy",
    "clip_ratio/region_mean": "clip_share",
    "frac_reward_zero_std": "equal_rewards",
}


class PromptTokens(PreTrainedTokenizerBase):
    """Gives trl the token ids of our prompts: the text that trl gets for a prompt is its number.

    Rendered texts would not work: control tokens that a user wrote are plain text in ours.

    Args:
        tokenizer: the policy's.
        prompts: the training rows.
    """

    def __init__(self, tokenizer: Any, prompts: Sequence[Prompt]) -> None:
        named = {name: getattr(tokenizer, name) for name in ("pad_token", "eos_token", "bos_token")}
        super().__init__(**named)  # type: ignore[no-untyped-call]
        self.tokenizer, self.prompts = tokenizer, prompts

    def __call__(self, text: Sequence[str], **options: Any) -> dict[str, list[list[int]]]:
        """Return the ids of the prompts with these numbers."""
        return {"input_ids": [list(self.prompts[int(number)].input_ids) for number in text]}

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Convert tokens with the policy's tokenizer."""
        return self.tokenizer.convert_tokens_to_ids(tokens)

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Decode with the policy's tokenizer; the rewards get more than these texts."""
        special = skip_special_tokens
        return [str(self.tokenizer.decode(ids, skip_special_tokens=special)) for ids in sequences]


class Held:
    """A schedule as a trainer of several updates per step gets it: its callback moves it on.

    Args:
        schedule: of the learning rate, per step.
    """

    def __init__(self, schedule: Any) -> None:
        self.schedule = schedule

    def step(self) -> None:
        """Keep the rate."""

    def get_last_lr(self) -> list[float]:
        """Return the rate of each group of parameters."""
        return [float(rate) for rate in self.schedule.get_last_lr()]


class Online:
    """The callbacks of trl in the steps of a leg."""

    def __init__(self, leg: Leg) -> None:
        plan = leg.plan
        self.collapse = Collapse(leg)
        self.leg = replace(leg, task_state=self.collapse.state)
        self.plan, self.redraws = plan, Redraws(plan, leg.trained.judge)
        count = plan.recipe.train.batch_size // plan.rlhf.copies
        place, end = leg.first * count, leg.stage.stop * count
        prompts, seed = plan.prepared.train, plan.recipe.run.seed
        self.stream = Stream(prompts, seed, place, end, count, grouped=False)
        self.grpo = plan.recipe.grpo or GrpoSection()
        # The section is for grpo alone.
        self.updates = self.grpo.updates
        self.answers: list[Response] = []
        self.scores = Scores([], {})

    def build(self) -> Trainer:
        """Build trl's trainer; the model is lent to it."""
        # Imported here: it takes seconds, and no other task needs it.
        from datasets import Dataset
        from trl.trainer.grpo_config import GRPOConfig
        from trl.trainer.grpo_trainer import GRPOTrainer
        from trl.trainer.rloo_config import RLOOConfig
        from trl.trainer.rloo_trainer import RLOOTrainer

        leg, plan = self.leg, self.plan
        prompts = plan.prepared.train
        common: dict[str, Any] = {
            "model": leg.trained.model,
            "reward_funcs": self.reward,
            "train_dataset": Dataset.from_dict({"prompt": [str(n) for n in self.stream.places]}),
            "processing_class": PromptTokens(plan.tokenizer, prompts),
            "callbacks": [TrlCallback(leg, self.stream, self.figures, SHOWN, self.updates)],
            "optimizers": (leg.optimizer, Held(leg.schedule) if self.updates > 1 else leg.schedule),
        }
        kinds: tuple[Any, Any] = (RLOOTrainer, RLOOConfig)
        if plan.rlhf.algorithm == "grpo":
            kinds = (GRPOTrainer, GRPOConfig)
        steps = leg.steps * self.updates
        config = trl_lending.arguments(kinds[1], plan, steps, **self._settings())
        built: Trainer = _drawing_once(kinds[0], self.redraws)(args=config, **common)
        return built

    def _settings(self) -> dict[str, Any]:
        """Return trl's settings of the recipe's algorithm."""
        plan, rlhf = self.plan, self.plan.rlhf
        given: dict[str, Any] = {
            "beta": plan.beta,
            "num_generations": rlhf.copies,
            "max_completion_length": rlhf.max_new_tokens,
            "temperature": rlhf.temperature,
            # The answers of a step are sampled at its start and used in each of its updates.
            "steps_per_generation": plan.gradient_accumulation_steps,
            "num_iterations": self.updates,
            "shuffle_dataset": False,
            # Everything that deviates from the plain distribution is off.
            **{"top_k": 0, "top_p": 1.0, "min_p": None, "repetition_penalty": 1.0},
            # The penalty is `rlhf.missing_eos_penalty`; by itself a masked answer costs nothing.
            "mask_truncated_completions": False,
        }
        if rlhf.vllm != "none":
            given |= {"use_vllm": True, "vllm_mode": rlhf.vllm}
        if rlhf.algorithm == "grpo":
            given |= _of_grpo(self.grpo)
        return given

    def reward(
        self, prompts: Sequence[str], completion_ids: Sequence[Sequence[int]], **others: Any
    ) -> list[float]:
        """Return the rewards of this process's answers, less the penalty for a missing stop token.

        Rank 0 scores those of all, so that the rewards see the same step as in a single process.
        """
        answers = self.redraws.answers(prompts, completion_ids)
        mine = _share_of(len(answers))
        answers = _of_all(answers)
        scores = ranks.by_first(lambda: self.redraws.score(answers))
        self.answers, self.scores = answers, scores
        self.collapse.refuse_constant(scores)
        return rollouts.priced(self.plan, answers, scores.total)[mine]

    def figures(self, logs: Mapping[str, float]) -> dict[str, Any]:
        """Return the metrics of a step, log samples when due, and stop a collapsed policy."""
        found = rollouts.figures(self.answers, self.scores)
        # trl reports the mean per token, and nothing if rlhf.kl_coefficient is 0.
        kl = float(logs.get("kl", 0.0)) * found["length"]
        self.collapse.refuse(self.answers, kl)
        step_end.samples(self.leg, self.answers, self.scores)
        of_trl = {ours: logs[theirs] for theirs, ours in _FIGURES.items() if theirs in logs}
        redrawn = {"redrawn": self.redraws.count} if self.grpo.redraws else {}
        return {**found, "kl": kl, **of_trl, **redrawn}


def _of_grpo(options: GrpoSection) -> dict[str, Any]:
    """Return trl's settings for the section `grpo`."""
    return {
        "loss_type": options.loss,
        # Its paper (Liu et al. 2025) divides by no spread, which favours prompts of one outcome.
        "scale_rewards": "none" if options.loss == "dr_grpo" else "group",
        "epsilon": options.clip,
        "epsilon_high": options.clip_high,
        "mask_truncated_completions": options.mask_truncated,
    }


def _of_all(mine: Sequence[Item]) -> list[Item]:
    """Gather the items of all processes by rank, in the order that a single process has."""
    return [item for part in ranks.gather(mine) for item in part]


def _share_of(count: int) -> slice:
    """Return where this process's `count` items are among those of all."""
    first = ranks.place().rank * count
    return slice(first, first + count)


def _drawing_once(kind: type[Any], redraws: Redraws) -> type[Any]:
    """Return trl's trainer with rank 0 sampling for all: one batch, as in a single process."""

    class DrawingOnce(kind):  # type: ignore[misc]
        def _generate(self, prompts: Sequence[str], *others: Any) -> Any:
            """Return what trl returns; its texts of the prompts are their numbers."""
            self.numbers = _of_all(prompts)
            return super()._generate(prompts, *others)

        def _generate_single_turn(self, prompt_ids: Sequence[Any], *others: Any) -> Any:
            """Return token ids of the answers; in GRPO's trainer also their scores, or none."""
            own, prompts = _share_of(len(prompt_ids)), _of_all(prompt_ids)
            draw = super()._generate_single_turn
            if not redraws.limit:
                rollout = ranks.by_first(lambda: draw(prompts, *others))
            else:
                rollout = ranks.by_first(
                    lambda: redraws.sample(
                        lambda places: draw([prompts[place] for place in places], *others),
                        self.numbers,
                    )
                )
            if isinstance(rollout, tuple):
                return tuple(part and part[own] for part in rollout)
            return rollout[own]

    return DrawingOnce


def trainer(leg: Leg) -> TrlRun:
    """Return the trainer of a leg."""
    return TrlRun(leg.plan, leg.trained.model, Online(leg).build)
