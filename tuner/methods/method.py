"""Method: a row of METHODS, what a way of training is and what it can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tuner.methods.options import MethodOptions, Setting

DECODER, ENCODER, SEQ2SEQ = "decoder", "encoder", "encoder-decoder"
EVERY = frozenset({DECODER, ENCODER, SEQ2SEQ})
QUANTIZED = frozenset({"nf4", "int8"})


class Hooks:
    """What a method does while a model is trained, besides having parameters: nothing."""

    def penalty(self, model: Any, options: Any) -> Callable[[], Any] | None:
        """Return what is added to the loss of each step; None for nothing.

        Args:
            model: the live model.
            options: the recipe's `method` section.
        """
        return None

    def after_update(self, model: Any, step: int) -> None:
        """Act after update number `step`, while the gradients are still there."""

    def finish(self, model: Any) -> None:
        """Give a trained model the shape that is saved."""

    def state(self, model: Any) -> dict[str, Any]:
        """Return what the method knows besides its tensors, for checkpoints."""
        return {}

    def restore(self, model: Any, saved: dict[str, Any]) -> None:
        """Put back what `state` returned."""


NO_HOOKS = Hooks()


@dataclass(frozen=True)
class Method:
    """What a method is and what it can do; `tests/methods/test_capabilities.py` probes every cell.

    Attributes:
        name: `method.name` in the recipe.
        verb: the most specific verb that runs it besides the task verbs.
        summary: one line for help and tables.
        options: the keys of the recipe's `method` section.
        config: makes peft's configuration; None where the base's own weights are trained.
        learning_rate: the default rate; see the family's docstring for the evidence.
        mergeable: whether it can be folded into the base weights.
        quantized: the kinds of quantized base that it can be put on.
        gradient_checkpointing: whether activations may be recomputed.
        packing: whether rows packed into one sequence stay isolated.
        families: the kinds of base it is for.
        classes: whether it can be put under a new head that tells classes.
        merges_classes: whether it can be merged there, too.
        conv1d: whether it can change GPT-2's transposed layers.
        model_types: the only model types it is for; empty: every one of the families.
        virtual_tokens: whether it learns tokens that stand before every row.
        deep_prompts: whether these are keys and values of every layer.
        rlhf: whether a policy of rewards can learn by it.
        new_tokens: whether it trains the rows of tokens that the recipe adds.
        hooks: what it does while a model is trained.
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
    merges_classes: bool = True
    conv1d: bool = True
    model_types: frozenset[str] = frozenset()
    virtual_tokens: bool = False
    deep_prompts: bool = False
    rlhf: bool = False
    new_tokens: bool = False
    hooks: Hooks = NO_HOOKS

    @property
    def adapter(self) -> bool:
        """Whether the result is an adapter beside an untouched base."""
        return self.config is not None
