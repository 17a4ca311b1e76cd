"""VERBS: the training commands, each a point in the grid of task x method.

One row is one command: `cli` makes the command from it, `recipe.load` checks the recipe's
method against it. No verb has a separate code path.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """A training command.

    Attributes:
        name: the command.
        task: what is optimised.
        family: the methods it takes, by the `verb` of their row in METHODS; None: every method.
        summary: one line of help.
    """

    name: str
    task: str
    family: str | None
    summary: str


# The recipe's sections that only one task reads.
TASK_SECTIONS = {
    **{"reward": "reward", "rlhf": "rlhf"},
    **dict.fromkeys(("ppo", "dpo", "kto", "simpo", "cpo"), "rlhf"),
}
# Those that are for the algorithm of their name.
ALGORITHM_SECTIONS = ("ppo", "dpo", "kto", "simpo", "cpo")

VERBS: dict[str, Verb] = {
    row.name: row
    for row in (
        Verb("lora", "sft", "lora", "Fine-tune with low-rank updates (LoRA, rsLoRA, DoRA)."),
        Verb(
            "prefix",
            "sft",
            "prefix",
            "Learn virtual keys and values for every layer (prefix tuning).",
        ),
        Verb("ptuning", "sft", "ptuning", "Learn virtual tokens through an encoder (p-tuning)."),
        Verb("sft", "sft", None, "Fine-tune on examples with the method named in the recipe."),
        Verb("reward", "reward", None, "Train a reward model on comparisons of answers."),
        Verb(
            "rlhf",
            "rlhf",
            None,
            "Train a policy on rewards or preferences: PPO, GRPO, DPO, KTO and others.",
        ),
    )
}
