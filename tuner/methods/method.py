"""Method: a row of METHODS, with what a method is and what it can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tuner.methods.options import MethodOptions, Setting

DECODER, ENCODER, SEQ2SEQ = "decoder", "encoder", "encoder-decoder"
EVERY = frozenset({DECODER, ENCODER, SEQ2SEQ})
QUANTIZED = frozenset({"nf4", "int8"})


class Hooks:
    """What a method does during training besides having parameters; by default nothing."""

    def penalty(self, model: Any, options: Any) -> Callable[[], Any] | None:
        """Return a penalty to add to the loss of each step, or None.

        Args:
            model: the live model.
            options: the recipe's `method` section.
        """
        return None

    def after_update(self, model: Any, step: int) -> None:
        """Act after update number `step`, while the gradients are still there."""

    def finish(self, model: Any) -> None:
        """Turn a trained model into the form that is saved."""

    def state(self, model: Any) -> dict[str, Any]:
        """Return the method's state besides its tensors, for checkpoints."""
        return {}

    def restore(self, model: Any, saved: dict[str, Any]) -> None:
        """Restore what `state` returned."""


NO_HOOKS = Hooks()


@dataclass(frozen=True)
class Method:
    """What a method is and what it can do; `tests/methods/test_capabilities.py` probes every cell.

    Attributes:
        name: `method.name` in the recipe.
        verb: the most specific command that runs it.
        summary: one line for help and tables.
        options: the keys of the recipe's `method` section.
        config: builds peft's configuration; None where the base's own weights are trained.
        learning_rate: the default learning rate; see the family's docstring for the evidence.
        mergeable: whether it can be folded into the base weights.
        quantized: the kinds of quantized base that it works on.
        gradient_checkpointing: whether activations may be recomputed.
        packing: whether rows packed into one sequence stay isolated.
        families: the kinds of base it works on.
        classes: whether it can be combined with a new classification head.
        merges_classes: whether it can be merged in that case, too.
        conv1d: whether it can adapt GPT-2's transposed layers.
        model_types: the only model types it works on; empty: all of its families.
        virtual_tokens: whether it learns virtual tokens in front of every row.
        deep_prompts: whether these are keys and values in every layer.
        rlhf: whether a policy can be trained with it on rewards.
        new_tokens: whether it trains the rows of tokens that the recipe adds.
        matrices: whether all that it trains are matrices that multiply activations.
        whole_at_any_step: whether the weights of an earlier step are a finished result, too.
        hooks: what it does during training.
    """

    name: str
    verb: str
    summary: str
    options: type[MethodOptions]
    config: Callable[[Setting], Any] | None
    learning_rate: float
    mergeable: bool = False
    quantized: frozenset[str] = frozenset()
    gradient_checkpointing: bool = True
    packing: bool = True
    families: frozenset[str] = EVERY
    classes: bool = True
    merges_classes: bool = False
    conv1d: bool = True
    model_types: frozenset[str] = frozenset()
    virtual_tokens: bool = False
    deep_prompts: bool = False
    rlhf: bool = False
    new_tokens: bool = False
    matrices: bool = False
    whole_at_any_step: bool = True
    hooks: Hooks = NO_HOOKS

    @property
    def adapter(self) -> bool:
        """Whether the result is an adapter on an untouched base."""
        return self.config is not None
