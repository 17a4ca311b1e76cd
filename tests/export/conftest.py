"""Short runs to export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.export.exporting import QUICK


@pytest.fixture
def trained(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any], tmp_path: Path
) -> Callable[..., Path]:
    """The folder of a short run on a tiny base."""

    def train(kind: str = "llama", out: str = "run", **sections: Any) -> Path:
        tokenizer = sections.pop("tokenizer", "chatml")
        run_recipe(make_recipe(kind, tokenizer=tokenizer, **QUICK | sections), out)
        return tmp_path / out

    return train
