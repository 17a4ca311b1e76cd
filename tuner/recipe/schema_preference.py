"""The recipe's sections for losses of preferences: `dpo`, `kto`, `simpo` and `cpo`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from tuner.schema.fields import Flag, NotNegative, Positive, Section, auto_or_number

# Algorithms that learn from answers in the rows.
OF_ROWS = ("dpo", "kto", "orpo", "simpo", "cpo")
# Those of them that compare with no reference policy.
REFERENCE_FREE = ("orpo", "simpo", "cpo")
# Those of them whose loss depends on which rows share a forward pass, since trl takes a mean over
# it: the KL of kto, the cross-entropy of orpo.
BY_FORWARD_PASS = ("kto", "orpo")


class DpoSection(Section):
    """Direct preference optimisation, and losses of the same shape."""

    loss: Annotated[
        Literal[
            "sigmoid",
            "ipo",
            "hinge",
            "robust",
            "apo_zero",
            "apo_down",
            "exo_pair",
            "nca_pair",
            "bco_pair",
            "sppo_hard",
            "discopop",
        ],
        Field(description="loss of a pair, by its name in trl"),
    ] = "sigmoid"
    label_smoothing: Annotated[
        Annotated[float, Field(ge=0, lt=0.5)] | Literal["auto"],
        BeforeValidator(auto_or_number),
        Field(
            description="share of pairs expected to be in the wrong order, for the losses robust "
            "and exo_pair; auto: as in their papers"
        ),
    ] = "auto"
    sft_weight: Annotated[
        NotNegative,
        Field(description="weight of the cross-entropy of the better answers' tokens (RPO)"),
    ] = 0.0
    normalize_length: Annotated[
        Flag,
        Field(description="divide the log-ratio of an answer by its tokens (loss: sigmoid)"),
    ] = False


class KtoSection(Section):
    """Kahneman-Tversky optimisation."""

    desirable_weight: Annotated[
        Positive, Field(description="weight of the loss of liked answers")
    ] = 1.0
    undesirable_weight: Annotated[
        Positive, Field(description="weight of the loss of disliked answers")
    ] = 1.0


class SimpoSection(Section):
    """Simple preference optimisation."""

    margin: Annotated[
        NotNegative,
        Field(description="by how much the better answer's reward shall be higher: gamma"),
    ] = 1.0
    sft_weight: Annotated[
        NotNegative, Field(description="weight of the cross-entropy of the better answers' tokens")
    ] = 0.0


class CpoSection(Section):
    """Contrastive preference optimisation."""

    sft_weight: Annotated[
        NotNegative, Field(description="weight of the cross-entropy of the better answers' tokens")
    ] = 1.0
