"""The recipe's sections for learning from preferences: `reward`, `rlhf`, `ppo` and `grpo`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tuner.recipe.schema_preference import OF_ROWS, REFERENCE_FREE
from tuner.rewards.options import RewardParts
from tuner.schema.fields import (
    ADAPTER,
    FILE,
    AutoNotNegative,
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
    """Training a reward model on comparisons."""

    margins: Annotated[
        Flag, Field(description="require a score gap of at least the row's margin")
    ] = True
    centering: Annotated[
        NotNegative,
        Field(description="weight of the penalty that centres a pair's scores on 0"),
    ] = 0.01
    unpaired: Annotated[
        Literal["learn", "drop"],
        Field(
            description="thumbs whose prompt has no opposite one: learn them against a score of 0, "
            "or leave them out"
        ),
    ] = "learn"


class RlhfSection(Section):
    """Learning from rewards or preferences."""

    algorithm: Annotated[
        Literal["ppo", "rloo", "grpo", "dpo", "kto", "orpo", "simpo", "cpo"],
        Field(description="training algorithm"),
    ] = "ppo"
    policy: Annotated[
        Text | None,
        ADAPTER,
        Field(description="initial policy: a run, an adapter or a recipe; null: the base"),
    ] = None
    reward: Annotated[
        RewardParts,
        Field(description="weighted sum of reward models, rules and Python functions"),
    ] = ()
    allow_code: Annotated[
        Flag, Field(description="run the Python functions named in rlhf.reward")
    ] = False
    responses_per_prompt: Annotated[
        Count | None,
        Field(description="responses sampled per prompt; default 1, or 4 for rloo and grpo"),
    ] = None
    max_new_tokens: Annotated[Count, Field(description="maximum tokens per sampled response")] = 64
    temperature: Annotated[Positive, Field(description="sampling temperature")] = 1.0
    vllm: Annotated[
        Literal["none", "colocate", "server"],
        Field(description="sample for rloo and grpo with vLLM, as trl does; needs a GPU"),
    ] = "none"
    kl_coefficient: Annotated[
        AutoNotNegative,
        Field(
            description="weight of the KL to the reference policy; beta of a loss of preferences, "
            "lambda of orpo; auto: as in the algorithm's paper"
        ),
    ] = "auto"
    kl_limit: Annotated[
        Positive,
        Field(
            description="stop when the mean KL per response to the reference policy, in nats, is "
            "above this"
        ),
    ] = 50.0
    missing_eos_penalty: Annotated[
        NotNegative, Field(description="penalty for responses without a stop token")
    ] = 1.0
    sample_steps: Annotated[
        CountFromZero, Field(description="steps between sample responses shown; 0: never")
    ] = 10

    @property
    def draws(self) -> bool:
        """Whether the policy learns from responses that it samples."""
        return self.algorithm not in OF_ROWS

    @property
    def compares(self) -> bool:
        """Whether training compares the policy with a reference policy."""
        return self.algorithm not in REFERENCE_FREE

    @property
    def copies(self) -> int:
        """Responses sampled per prompt; a preference is one row."""
        if not self.draws:
            return 1
        return self.responses_per_prompt or (1 if self.algorithm == "ppo" else 4)


class PpoSection(Section):
    """Proximal policy optimisation."""

    epochs: Annotated[Count, Field(description="passes over the rollouts of a step")] = 2
    minibatches: Annotated[
        Count, Field(description="minibatches per pass, with one update each")
    ] = 2
    clip: Annotated[Positive, Field(description="clip range of the probability ratio")] = 0.2
    value_clip: Annotated[Positive, Field(description="clip range of the value")] = 0.2
    value_coefficient: Annotated[NotNegative, Field(description="weight of the value loss")] = 0.1
    value_trunk: Annotated[
        Literal["policy", "reward"],
        Field(description="layers under the value head: the policy's or the reward model's"),
    ] = "policy"
    share_trunk: Annotated[
        Flag, Field(description="let the value loss also train the policy's adapter")
    ] = False
    value_learning_rate: Annotated[
        AutoPositive,
        Field(description="peak learning rate of the value head; auto: train.learning_rate"),
    ] = "auto"
    gamma: Annotated[Positive, Field(le=1, description="discount per token")] = 1.0
    gae_lambda: Annotated[
        NotNegative,
        Field(le=1, description="lambda of GAE: lower for less variance, higher for less bias"),
    ] = 0.95
    kl_estimator: Annotated[
        Literal["k1", "k3"], Field(description="estimator of the KL penalty per token")
    ] = "k1"
    kl_target: Annotated[
        Positive | None,
        Field(description="adapt rlhf.kl_coefficient to reach this KL per response; null: fixed"),
    ] = None
    kl_horizon: Annotated[
        Count, Field(description="responses over which rlhf.kl_coefficient adapts")
    ] = 1000
    kl_stop: Annotated[
        Positive | None,
        Field(
            description="end a step's updates when the KL per token to the old policy is above this"
        ),
    ] = 0.1
    whiten_rewards: Annotated[
        Flag, Field(description="scale the rewards of a step to variance 1")
    ] = False
    whiten_advantages: Annotated[
        Flag, Field(description="normalise the advantages of a step to mean 0 and variance 1")
    ] = True
    score_clip: Annotated[
        Positive | None, Field(description="clip scores to this absolute value")
    ] = None
    normalize_scores: Annotated[
        Flag, Field(description="divide scores by their running standard deviation")
    ] = False
    ptx_coefficient: Annotated[
        NotNegative,
        Field(description="weight of the language modelling loss on ppo.ptx_data (PPO-ptx)"),
    ] = 0.0
    ptx_data: Annotated[
        Text | None, FILE, Field(description="supervised fine-tuning rows to mix in")
    ] = None


class GrpoSection(Section):
    """Group relative policy optimisation, and losses of its family."""

    loss: Annotated[
        Literal["grpo", "dr_grpo", "dapo", "bnpo"],
        Field(
            description="what a token's loss is divided by: the tokens of its answer (grpo), "
            "rlhf.max_new_tokens (dr_grpo), the tokens of the step (dapo) or of the forward pass "
            "(bnpo)"
        ),
    ] = "dapo"
    updates: Annotated[Count, Field(description="updates per sample of answers")] = 1
    clip: Annotated[
        Positive,
        Field(description="clip range of the probability ratio, from the second update on"),
    ] = 0.2
    clip_high: Annotated[
        Positive | None,
        Field(description="clip range above 1 (clip-higher); null: grpo.clip"),
    ] = None
    mask_truncated: Annotated[
        Flag,
        Field(description="learn nothing from answers without a stop token (over-long filtering)"),
    ] = False
    redraws: Annotated[
        CountFromZero,
        Field(
            description="times that the answers to a prompt are sampled again while their rewards "
            "are all equal (dynamic sampling)"
        ),
    ] = 0
