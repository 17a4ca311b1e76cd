"""What a configuration of another tool comes to: a recipe's keys, and lists of the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tuner.recipe.other_tools.row import Fate, Here
from tuner.schema.strict_yaml import flow


@dataclass(frozen=True)
class Setting:
    """A setting that has no key in the recipe.

    Attributes:
        name: the other tool's key.
        value: as YAML has it on a line; empty: it is not shown.
        said: why.
    """

    name: str
    value: str
    said: str


@dataclass
class Conversion:
    """What a configuration comes to.

    Attributes:
        keys: of the recipe, as `section.key`.
        origins: of each key, the other tool's key.
        remarks: on keys, how their values convert.
        defaults: keys that have the other tool's default.
        lost: settings without which the trained model differs.
        left_out: settings that it does not depend on.
        blocked: settings for which there is no recipe.
        unset: what the recipe cannot know: files of rows that are named in another way there.
    """

    keys: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)
    defaults: list[str] = field(default_factory=list)
    lost: list[Setting] = field(default_factory=list)
    left_out: list[Setting] = field(default_factory=list)
    blocked: list[Setting] = field(default_factory=list)
    unset: list[str] = field(default_factory=list)

    def put(self, name: str, value: Any, here: Here, default: bool = False) -> None:
        """Take up what a setting comes to."""
        if here.fate is not Fate.KEPT:
            lists = {Fate.LOST: self.lost, Fate.LEFT_OUT: self.left_out}
            if not default:
                lists.get(here.fate, self.blocked).append(
                    Setting(name, shown(name, value), here.said)
                )
            return
        for key, meant in here.keys.items():
            if key in self.keys and self.keys[key] != meant:
                first = self.origins[key]
                said = f"{first} says {key}: {flow(self.keys[key])}"
                self.lost.append(Setting(name, shown(name, value), said))
                continue
            if key not in self.keys:
                self.keys[key], self.origins[key] = meant, name
                if here.said and key == next(iter(here.keys)):
                    self.remarks[key] = here.said
                if default:
                    self.defaults.append(key)


def shown(name: str, value: Any) -> str:
    """Return a value for a list of settings; nothing where it may be a secret, or is long."""
    text = flow(value)
    hidden = any(word in name for word in ("token", "key", "secret", "password", "webhook"))
    return "" if hidden or len(text) > 40 else text
