"""Experiment trackers, as other tools name them."""

from __future__ import annotations

from tuner.recipe.other_tools.row import Given, Here, Take, empty, flag, left_out
from tuner.recipe.tracker_names import TRACKER_NAMES

NONE = "a run has no tracker unless run.track names one"


def trackers(place: str, given: Given) -> Here:
    """Names of trackers, one or several."""
    value = given.value
    words = value if isinstance(value, list | tuple) else str(value).replace(",", " ").split()
    names = [str(word).lower() for word in words]
    known = [name for name in names if name in TRACKER_NAMES]
    others = [name for name in names if name not in (*TRACKER_NAMES, "none", "null", "~")]
    if "all" in names:
        return left_out("trackers are named one by one, not all that are installed")
    if known:
        return Here({place: known}, f"{', '.join(others)} is not there" if others else "")
    return left_out(f"{', '.join(others)} is not there" if others else NONE)


def switch(name: str) -> Take:
    """Name a tracker where its switch is on."""

    def take(place: str, given: Given) -> Here:
        if flag(given.value) is False or empty(given.value):
            return left_out(NONE)
        return Here({place: [name]})

    return take


def word(place: str, given: Given) -> Here:
    """A name of the user's own, where there is one."""
    return left_out(NONE) if empty(given.value) else Here({place: given.value})


def project_of_wandb(place: str, given: Given) -> Here:
    """A project, which turns wandb on by itself in Axolotl."""
    if empty(given.value):
        return left_out(NONE)
    return Here({place: given.value, "run.track": ["wandb"]})
