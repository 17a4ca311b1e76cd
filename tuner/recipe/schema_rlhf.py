"""The recipe's sections for learning from preferences: `reward`, `rlhf` and `ppo`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tuner.rewards.options import RewardParts
from tuner.schema.fields import (
    ADAPTER,
    FILE,
    AutoPositive,
    Count,
    CountFromZero,
    Flag,
    NotNegative,
    Positive,
    Section,
    Text,
)


class RewardSection(Section):
    """How a reward model learns from comparisons."""

    margins: Annotated[
        Flag, Field(description="ask for as much difference as a row's margin says")
    ] = True
    centering: Annotated[
        NotNegative,
        Field(description="how strongly the two scores of a pair are kept around 0"),
    ] = 0.01


class RlhfSection(Section):
    """Learning from rewards or preferences."""

    algorithm: Annotated[
        Literal["ppo", "rloo", "grpo", "dpo"], Field(description="how the policy learns")
    ] = "ppo"
    policy: Annotated[
        Text | None,
        ADAPTER,
        Field(description="what it starts from: a run, an adapter or a recipe; null: the base"),
    ] = None
    reward: Annotated[
        RewardParts,
        Field(description="what an answer earns: reward models, rules and functions, weighted"),
    ] = ()
    allow_code: Annotated[
        Flag, Field(description="run the Python functions that rlhf.reward names")
    ] = False
    responses_per_prompt: Annotated[
        Count | None,
        Field(description="answers drawn for each prompt; default 1, for rloo and grpo 4"),
    ] = None
    max_new_tokens: Annotated[Count, Field(description="longest drawn answer")] = 64
    temperature: Annotated[Positive, Field(description="of drawing answers")] = 1.0
    vllm: Annotated[
        Literal["none", "colocate", "server"],
        Field(description="draw the answers of rloo and grpo by vLLM, as trl does it; on a GPU"),
    ] = "none"
    kl_coefficient: Annotated[
        NotNegative,
        Field(description="price of moving away from the start; beta of grpo, rloo and dpo"),
    ] = 0.05
    kl_limit: Annotated[
        Positive,
        Field(description="stop when the mean KL of an answer to the start is above this, in nats"),
    ] = 50.0
    missing_eos_penalty: Annotated[
        NotNegative, Field(description="taken from the score of an answer that does not end")
    ] = 1.0
    sample_steps: Annotated[
        CountFromZero, Field(description="show drawn answers every so many steps; 0: never")
    ] = 10

    @property
    def draws(self) -> bool:
        """Whether the policy learns from answers of its own."""
        return self.algorithm != "dpo"

    @property
    def copies(self) -> int:
        """Answers drawn for each prompt; a preference is one row."""
        if not self.draws:
            return 1
        return self.responses_per_prompt or (1 if self.algorithm == "ppo" else 4)


class PpoSection(Section):
    """Proximal policy optimisation."""

    epochs: Annotated[Count, Field(description="passes over the answers of a step")] = 2
    minibatches: Annotated[Count, Field(description="updates in each of these passes")] = 2
    clip: Annotated[
        Positive, Field(description="the ratio of probabilities counts within this")
    ] = 0.2
    value_clip: Annotated[
        Positive, Field(description="a value counts within this of what it was")
    ] = 0.2
    value_coefficient: Annotated[NotNegative, Field(description="weight of the value loss")] = 0.1
    value_trunk: Annotated[
        Literal["policy", "reward"],
        Field(description="whose layers the value head reads: the policy's or the reward model's"),
    ] = "policy"
    share_trunk: Annotated[
        Flag, Field(description="let the value loss train the policy's adapter, too")
    ] = False
    value_learning_rate: Annotated[
        AutoPositive, Field(description="peak rate of the value head; auto: train.learning_rate")
    ] = "auto"
    gamma: Annotated[Positive, Field(le=1, description="discount a token")] = 1.0
    gae_lambda: Annotated[
        NotNegative, Field(le=1, description="generalised advantage estimation: bias or variance")
    ] = 0.95
    kl_estimator: Annotated[
        Literal["k1", "k3"], Field(description="of the KL penalty of a token")
    ] = "k1"
    kl_target: Annotated[
        Positive | None,
        Field(description="move rlhf.kl_coefficient until an answer's KL is this; null: fixed"),
    ] = None
    kl_horizon: Annotated[
        Count, Field(description="answers over which rlhf.kl_coefficient moves")
    ] = 1000
    kl_stop: Annotated[
        Positive | None,
        Field(description="end a step's updates when a token's KL to its start is above this"),
    ] = 0.1
    whiten_rewards: Annotated[
        Flag, Field(description="bring the rewards of a step to variance 1")
    ] = False
    whiten_advantages: Annotated[
        Flag, Field(description="bring the advantages of a step to mean 0 and variance 1")
    ] = True
    score_clip: Annotated[
        Positive | None, Field(description="cut scores to at most this much from 0")
    ] = None
    normalize_scores: Annotated[
        Flag, Field(description="divide scores by their running standard deviation")
    ] = False
    ptx_coefficient: Annotated[
        NotNegative, Field(description="weight of the language loss on ppo.ptx_data (PPO-ptx)")
    ] = 0.0
    ptx_data: Annotated[
        Text | None, FILE, Field(description="rows of supervised tuning that are mixed in")
    ] = None
