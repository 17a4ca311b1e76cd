"""Values: what a plan has decided, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.recipe.load import LoadedRecipe


@dataclass(frozen=True)
class PlanValue:
    """A value of the resolved recipe, and its origin."""

    value: Any
    origin: str


@dataclass(frozen=True)
class Stage:
    """Optimizer steps `start` to `stop` at one peak learning rate, over one set of weights."""

    train: str
    learning_rate: float
    start: int
    stop: int
    warmup_steps: int

    @property
    def steps(self) -> int:
        """Optimizer steps of this stage."""
        return self.stop - self.start


class Values:
    """The flat table of values that a plan decides."""

    def __init__(self, loaded: LoadedRecipe) -> None:
        self.table: dict[str, PlanValue] = {}
        for section, keys in loaded.recipe.model_dump(mode="json").items():
            for key, value in (keys or {}).items():
                name = f"{section}.{key}"
                self.table[name] = PlanValue(value, loaded.origins.get(name, "default"))

    def now(self, key: str) -> Any:
        """Return the current value of a key."""
        return self.table[key].value

    def set_auto(self, key: str, value: Any, why: str) -> Any:
        """Replace `auto` (or None) with what the plan decides; keep a value that the user gave."""
        present = self.table[key].value
        if present in ("auto", None, ["auto"]):
            self.table[key] = PlanValue(value, f"auto: {why}")
            return value
        return present
