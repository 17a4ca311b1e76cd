"""Settings of other tools for learning from rewards and preferences."""

from __future__ import annotations

from tuner.recipe.other_tools.row import (
    Given,
    Here,
    Take,
    blocks,
    empty,
    flag,
    left_out,
    number,
)

_STAGES: dict[str, Here] = {
    "sft": left_out("it is what is done with answers"),
    "pt": Here({"data.template": "text"}),
    "rm": Here({"reward": {}}),
    "dpo": Here({"rlhf.algorithm": "dpo"}),
    "ppo": Here({"rlhf.algorithm": "ppo"}, "clipping, KL and values are those of this program"),
    "grpo": Here({"rlhf.algorithm": "grpo"}),
    **{name: Here({"rlhf.algorithm": name}) for name in ("rloo", "kto", "orpo", "simpo", "cpo")},
}


_POLICIES = ("dpo", "ppo", "grpo", "rloo", "kto", "orpo", "simpo", "cpo")


# Losses of dpo under the names of other tools.
_LOSSES = {
    **dict.fromkeys(("sigmoid", "dpo"), "sigmoid"),
    **dict.fromkeys(("ipo", "hinge", "robust", "exo_pair", "nca_pair", "bco_pair"), ""),
    **dict.fromkeys(("sppo_hard", "apo_zero", "apo_down", "discopop"), ""),
}


def stage(place: str, given: Given) -> Here:
    """What is optimised, in LLaMA-Factory and ms-swift."""
    word = str(given.value).lower()
    return _STAGES.get(word) or blocks(f"there is no training '{given.value}' here")


def algorithm(place: str, given: Given) -> Here:
    """The algorithm of reinforcement or preference learning, in Axolotl and ms-swift."""
    word = str(given.value).lower()
    if word in _POLICIES:
        return Here({place: word})
    if word == "ipo":
        return Here({place: "dpo", "dpo.loss": "ipo"})
    return stage(place, given)


def reward_model(place: str, given: Given) -> Here:
    """Axolotl says by it that a reward model is trained; others name one."""
    if flag(given.value) is not None:
        return Here({"reward": {}}) if flag(given.value) else left_out("none is trained")
    return Here({place: [{"model": given.value}]}, "a run or an adapter of tuner")


def preference(place: str, given: Given) -> Here:
    """Beta: of DPO and its kin."""
    if _kind(given) not in ("", "ipo", *_POLICIES):
        return left_out("only preference learning has it")
    return Here({place: given.value})


def loss(place: str, given: Given) -> Here:
    """The loss of DPO; in LLaMA-Factory also what has an algorithm of its own here."""
    one = isinstance(given.value, list) and len(given.value) == 1
    word = str(given.value[0] if one else given.value).lower()
    if _kind(given) not in ("", "dpo"):
        return left_out("only dpo has a choice of losses")
    if word in ("orpo", "simpo"):
        return Here({"rlhf.algorithm": word})
    if word == "sigmoid_norm":
        return Here({"dpo.normalize_length": True})
    if word == "kto_pair":
        return Here({"rlhf.algorithm": "kto"}, "pairs are read as thumbs")
    if word not in _LOSSES:
        return blocks(f"there is no loss '{given.value}' here; dpo.loss has others")
    return Here({place: _LOSSES[word] or word})


def smoothing(place: str, given: Given) -> Here:
    """Labels in the wrong order; elsewhere the sigmoid has them, too."""
    if number(given.value, 0) == 0:
        return left_out("it is off here, too")
    return Here({place: given.value}, "with dpo.loss: robust or exo_pair")


def words_weight(place: str, given: Given) -> Here:
    """The weight of the cross-entropy, in the section of the algorithm."""
    kind = _kind(given) or ("cpo" if given.name == "cpo_alpha" else "dpo")
    loss = str(given.others.get("pref_loss", ""))
    kind = loss if kind == "dpo" and loss in ("orpo", "simpo") else kind
    if kind not in ("dpo", "simpo", "cpo"):
        return left_out("only dpo, simpo and cpo have it")
    return Here({f"{kind}.sft_weight": given.value})


def own(algorithm: str) -> Take:
    """A key of an algorithm's own section, which the others do not have."""

    def take(place: str, given: Given) -> Here:
        kind, loss = _kind(given), str(given.others.get("pref_loss", ""))
        if kind in ("", algorithm) or loss == algorithm:
            return Here({place: given.value})
        return left_out(f"only {algorithm} has it")

    return take


def policy(place: str, given: Given) -> Here:
    """The adapter that training starts from; further ones before it are merged there."""
    named = given.value if isinstance(given.value, list) else str(given.value).split(",")
    if len(named) > 1:
        return blocks("one adapter can be started from; merge the others into the base first")
    said = "a run or an adapter folder"
    if _kind(given) in _POLICIES:
        return Here({"rlhf.policy": named[0]}, said)
    goes_on = not flag(given.others.get("create_new_adapter"))
    return Here({place: named[0], "method.continue": goes_on}, said)


def new_adapter(place: str, given: Given) -> Here:
    """Whether the weights of an adapter are merged, or trained further."""
    if empty(given.others.get("adapter_name_or_path")):
        return left_out("there is no adapter to start from")
    if _kind(given) in _POLICIES:
        return left_out("rlhf.policy is trained further")
    return Here({place: not flag(given.value)})


def sampled(place: str, given: Given) -> Here:
    """How answers are sampled, which matters to what learns from them."""
    if _kind(given) in ("ppo", "grpo", "rloo"):
        return Here({place: given.value})
    return left_out("only what learns from its own answers has it; `tuner chat` has options")


def _kind(given: Given) -> str:
    """Return what is trained, as far as the other keys say it."""
    names = ("stage", "rl", "rlhf_type")
    return str(next((given.others[name] for name in names if name in given.others), ""))
