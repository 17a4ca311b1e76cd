"""A base by its name, the plan of a recipe on it, and its refusal."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tuner.errors import TunerError
from tuner.machine import hardware
from tuner.model import base
from tuner.plan import make as plan_make
from tuner.plan import plan
from tuner.recipe import load as recipe_load
from tuner.recipe.schema_model import ModelSection
from tuner.run import build


def resolve(name: str, folder: Path, **keys: Any) -> base.Base:
    return base.resolve(ModelSection(base=name, **keys), folder, lambda text: None)


def make(recipe: Path) -> plan.Plan:
    loaded = recipe_load.load(recipe)
    return plan_make.make(loaded, hardware.detect(), output=recipe.parent / "unused")


def refused(recipe: Path, kind: type[TunerError], seconds: float = 5.0) -> TunerError:
    """The error of planning and loading, which must come soon."""
    started = time.monotonic()
    with pytest.raises(kind) as caught:
        build.load(make(recipe))
    assert time.monotonic() - started < seconds
    return caught.value
