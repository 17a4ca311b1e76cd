"""The coefficients of losses of preferences: those that their papers use, if a recipe has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuner.plan.values import Values
    from tuner.recipe.schema import Recipe

_DRAWN = (0.05, "usual where answers are sampled")
_UNNAMED = "usual; the paper names none"
# Of an algorithm, or of a loss of dpo: `rlhf.kl_coefficient`, and where it is from.
_COEFFICIENTS: dict[str, tuple[float, str]] = {
    "sigmoid": (0.1, "beta of DPO, Rafailov et al. 2023"),
    "normalized": (5.0, "beta of length-normalised DPO, Lambert et al. 2024"),
    "ipo": (0.1, f"tau of IPO: {_UNNAMED}"),
    "hinge": (0.1, f"beta of SLiC-HF: {_UNNAMED}"),
    "robust": (0.01, "beta of robust DPO, Chowdhury et al. 2024"),
    "apo_zero": (0.1, "beta of APO-zero, D'Oosterlinck et al. 2024"),
    "apo_down": (0.1, "beta of APO-down, D'Oosterlinck et al. 2024"),
    "exo_pair": (0.1, "beta_r of EXO, Ji et al. 2024"),
    "nca_pair": (0.01, "alpha of NCA, Chen et al. 2024"),
    "bco_pair": (0.01, "beta of BCO, Jung et al. 2024"),
    "sppo_hard": (0.001, "1 / eta of SPPO, Wu et al. 2024"),
    "discopop": (0.05, "beta of DiscoPOP, Lu et al. 2024"),
    "kto": (0.1, "beta of KTO, Ethayarajh et al. 2024"),
    "orpo": (0.1, "lambda of ORPO, Hong et al. 2024"),
    "simpo": (2.0, "beta of SimPO, Meng et al. 2024"),
    "cpo": (0.1, "beta of CPO, Xu et al. 2024"),
}
_SMOOTHING = {
    "robust": (0.1, "epsilon of robust DPO, Chowdhury et al. 2024"),
    "exo_pair": (1e-3, "epsilon of EXO, Ji et al. 2024"),
}
SMOOTHED = tuple(_SMOOTHING)


def decide(recipe: Recipe, values: Values) -> None:
    """Decide `rlhf.kl_coefficient`, and `dpo.label_smoothing`."""
    if recipe.rlhf is not None:
        values.set_auto("rlhf.kl_coefficient", *_coefficient(recipe))
    if recipe.dpo is not None:
        values.set_auto("dpo.label_smoothing", *_smoothing(recipe))


def _coefficient(recipe: Recipe) -> tuple[float, str]:
    """Return `rlhf.kl_coefficient` of a recipe's algorithm, and where the number is from."""
    rlhf, dpo = recipe.rlhf, recipe.dpo
    name = rlhf.algorithm if rlhf is not None else ""
    if name == "dpo" and dpo is not None and dpo.normalize_length:
        name = "normalized"
    elif name == "dpo":
        name = dpo.loss if dpo is not None else "sigmoid"
    return _COEFFICIENTS.get(name, _DRAWN)


def _smoothing(recipe: Recipe) -> tuple[float, str]:
    """Return `dpo.label_smoothing` of a recipe's loss, and where the number is from."""
    loss = recipe.dpo.loss if recipe.dpo is not None else "sigmoid"
    return _SMOOTHING.get(loss, (0.0, f"the loss {loss} has none"))
