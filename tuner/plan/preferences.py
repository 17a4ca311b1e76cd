"""The coefficients of losses of preferences: those that their papers use, if a recipe has none.

And what such a loss, or one of sampled answers, does otherwise than its user may expect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tuner.recipe.schema_preference import BY_FORWARD_PASS, KtoSection

if TYPE_CHECKING:
    from collections.abc import Mapping

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
_TAKEN = {"kto": "its KL", "orpo": "its cross-entropy", "bnpo": "the mean of its tokens"}
# A set of a few rows more of one kind is balanced.
_NEARLY = 0.05


def decide(recipe: Recipe, values: Values) -> None:
    """Decide `rlhf.kl_coefficient`, and `dpo.label_smoothing`."""
    if recipe.rlhf is not None:
        values.set_auto("rlhf.kl_coefficient", *_coefficient(recipe))
    if recipe.dpo is not None:
        values.set_auto("dpo.label_smoothing", *_smoothing(recipe))


def warnings(recipe: Recipe, report: Mapping[str, Any], micro_batch_size: int) -> list[str]:
    """Return what a loss of preferences does otherwise than its user may expect.

    Args:
        recipe: the recipe.
        report: of its rows.
        micro_batch_size: rows per forward pass.
    """
    rlhf, texts = recipe.rlhf, list[str]()
    split = recipe.train.micro_batch_size == "auto" and micro_batch_size < recipe.train.batch_size
    if split and (name := by_forward_pass(recipe)):
        texts.append(
            f"{name} takes {_TAKEN[name]} over the rows of a forward pass, here "
            f"{micro_batch_size}: set train.micro_batch_size: {micro_batch_size} for the same "
            "updates on other machines"
        )
    if (grpo := recipe.grpo) is not None and grpo.updates == 1:
        usual = type(grpo)()
        texts.extend(
            f"grpo.{key}: {getattr(grpo, key)} has no effect in the only update of a step, whose "
            "ratios are 1: set grpo.updates: 2 or more, or leave it out"
            for key in ("clip", "clip_high")
            if getattr(grpo, key) != getattr(usual, key)
        )
    if rlhf is not None and rlhf.algorithm == "kto":
        weights = recipe.kto or KtoSection()
        liked, others = report["liked_train"], report["disliked_train"]
        ratio = weights.desirable_weight * liked / (weights.undesirable_weight * max(1, others))
        if not 1 - _NEARLY <= ratio <= 4 / 3 + _NEARLY:
            key = "desirable" if ratio < 1 else "undesirable"
            given = getattr(weights, f"{key}_weight")
            wanted = given / ratio if ratio < 1 else given * ratio
            texts.append(
                f"{liked} liked and {others} disliked answers weigh {ratio:.2g} to 1, and the "
                f"paper wants 1 to 1.33: set kto.{key}_weight: {wanted:.3g}"
            )
    return texts


def by_forward_pass(recipe: Recipe) -> str:
    """Return the algorithm or loss of a recipe whose update depends on which rows share a forward
    pass; empty: it does not."""
    if recipe.grpo is not None and recipe.grpo.loss == "bnpo":
        return "bnpo"
    algorithm: str = recipe.rlhf.algorithm if recipe.rlhf is not None else ""
    return algorithm if algorithm in BY_FORWARD_PASS else ""


def _coefficient(recipe: Recipe) -> tuple[float, str]:
    """Return `rlhf.kl_coefficient` of a recipe's algorithm, and where the number is from."""
    rlhf, dpo = recipe.rlhf, recipe.dpo
    name: str = rlhf.algorithm if rlhf is not None else ""
    if name == "dpo" and dpo is not None and dpo.normalize_length:
        name = "normalized"
    elif name == "dpo":
        name = dpo.loss if dpo is not None else "sigmoid"
    return _COEFFICIENTS.get(name, _DRAWN)


def _smoothing(recipe: Recipe) -> tuple[float, str]:
    """Return `dpo.label_smoothing` of a recipe's loss, and where the number is from."""
    loss = recipe.dpo.loss if recipe.dpo is not None else "sigmoid"
    return _SMOOTHING.get(loss, (0.0, f"the loss {loss} has none"))
