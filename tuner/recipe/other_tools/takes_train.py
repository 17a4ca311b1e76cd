"""Settings of other tools about optimizers, schedules and clipping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.recipe.other_tools.row import Given, Here, left_out, lost, number

_ADAMW = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_anyprecision", "adamw_apex_fused")
_OPTIMIZERS: dict[str, str] = {
    **dict.fromkeys(("adamw", "adam", *_ADAMW), "adamw"),
    **dict.fromkeys(("paged_adamw", "paged_adamw_32bit"), "adamw"),
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "adamw8bit", "adam_8bit"), "adamw8bit"),
    **dict.fromkeys(("paged_adamw_8bit", "paged_adamw8bit"), "paged_adamw8bit"),
    **dict.fromkeys(("lion", "lion_32bit", "paged_lion_32bit"), "lion"),
    "adafactor": "adafactor",
    "muon": "muon",
    **dict.fromkeys(("schedule_free_adamw", "schedule_free", "schedulefree"), "schedule_free"),
    "sgd": "sgd",
}
_SAID = {
    "paged_adamw": "states of 32 bits, not paged",
    "paged_adamw_32bit": "states of 32 bits, not paged",
    "paged_lion_32bit": "not paged",
    "sgd": "with a momentum of 0.9",
    "muon": "its updates have the size of AdamW's",
}
NONE = "train.optimizer has " + ", ".join(dict.fromkeys(_OPTIMIZERS.values()))
_SCHEDULES: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("linear", "cosine", "polynomial", "inverse_sqrt", "cosine_restarts")},
    "constant_with_warmup": {"train.scheduler": "constant"},
    "constant": {"train.warmup": 0},
    "cosine_with_restarts": {"train.scheduler": "cosine_restarts"},
    "cosine_with_min_lr": {"train.scheduler": "cosine"},
    "cosine_warmup_with_min_lr": {"train.scheduler": "cosine"},
    "warmup_stable_decay": {"train.scheduler": "wsd"},
    "wsd": {},
}
_REMARKS = {
    "constant_with_warmup": "with train.warmup",
    "constant": "train.warmup: 0, as it has none there",
    "polynomial": "train.power is its exponent, 2 if it is not set",
    "warmup_stable_decay": "train.decay says how long it falls",
    "cosine_with_min_lr": "train.floor is where it ends",
    "cosine_warmup_with_min_lr": "train.floor is where it ends",
}
# What `lr_scheduler_kwargs` of transformers has.
_ARGUMENTS = {
    **dict.fromkeys(("min_lr_ratio", "min_lr_rate"), "train.floor"),
    "num_decay_steps": "train.decay",
    "num_cycles": "train.cycles",
    "power": "train.power",
}


def optimizer(place: str, given: Given) -> Here:
    """The optimizer."""
    word = str(given.value).lower().removeprefix("optimizernames.")
    if word not in _OPTIMIZERS:
        return lost(f"no optimizer '{given.value}' here; {NONE}")
    return Here({place: _OPTIMIZERS[word]}, _SAID.get(word, ""))


def norm(place: str, given: Given) -> Here:
    """The norm that gradients are clipped to; 0 is none at all."""
    off = number(given.value, 1.0) <= 0
    return Here({place: "none"}, "0 clips nothing there") if off else Here({place: given.value})


def floor(place: str, given: Given) -> Here:
    """Where the rate ends: a rate there, a share of the peak here."""
    peak = number(given.others.get("learning_rate", given.others.get("lr")), 0.0)
    least = number(given.value, -1.0)
    if peak <= 0 or not 0 <= least < peak:
        return lost("a share of the peak learning rate here: train.floor")
    return Here({place: float(f"{least / peak:.6g}")}, f"{least:g} of {peak:g}")


def schedule(place: str, given: Given) -> Here:
    """The arguments of a schedule of transformers."""
    arguments = given.value if isinstance(given.value, Mapping) else {}
    known = {_ARGUMENTS[key]: value for key, value in arguments.items() if key in _ARGUMENTS}
    for key in ("min_lr", "lr_end"):
        if key in arguments:
            known |= floor(place, Given(key, arguments[key], given.others)).keys
    if _ends_of_cosine(given) and "train.cycles" in known:
        known.pop("train.cycles")
    left = [key for key in arguments if key not in (*_ARGUMENTS, "min_lr", "lr_end")]
    if not known:
        said = f"of these, only {', '.join([*_ARGUMENTS, 'min_lr'])} have a key here"
        return lost(said) if arguments else left_out("it says nothing")
    return Here(known, f"without {', '.join(left)}" if left else "")


def _ends_of_cosine(given: Given) -> bool:
    """Return whether the cycles are those of a cosine without restarts, a half of one."""
    kind = str(given.others.get("lr_scheduler_type", given.others.get("lr_scheduler"))).lower()
    return "restarts" not in kind


def warmup(place: str, given: Given) -> Here:
    """Steps come before a fraction, and a constant rate has no warmup."""
    scheduler = given.others.get("lr_scheduler_type", given.others.get("lr_scheduler"))
    if scheduler == "constant":
        return Here({place: 0}, "a constant schedule has no warmup there")
    steps = number(given.others.get("warmup_steps"), 0)
    if "ratio" in given.name and steps > 0:
        return left_out("warmup_steps comes first")
    value = number(given.value, 0)
    if "ratio" not in given.name and value == 0 and "warmup_ratio" in given.others:
        return left_out("warmup_ratio says it")
    return Here({place: int(value) if value >= 1 or value == 0 else value})


def scheduler(place: str, given: Given) -> Here:
    """The schedule of the learning rate."""
    word = str(given.value).lower()
    if word not in _SCHEDULES:
        return lost(f"no schedule '{given.value}' here; there are {', '.join(_SCHEDULES)}")
    return Here({place: word, **_SCHEDULES[word]}, _REMARKS.get(word, ""))
