"""The methods whose adapter stays apart, or that have none: three steps on the embedded base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import embedded


@pytest.mark.slow
@pytest.mark.parametrize("name", embedded.methods(merged=False))
def test_three_steps_end_in_proven_artefacts(
    name: str, run_recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    embedded.check(name, run_recipe, tmp_path)
