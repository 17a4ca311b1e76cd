"""Runs of tiny bases exported as the commands do it, and what llama.cpp is needed for."""

from __future__ import annotations

import io
import json
import os
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tuner import cli
from tuner.console.console import Console
from tuner.export import convert
from tuner.export import origin as export_origin
from tuner.export.gguf import llama_cpp
from tuner.export.job import Settings
from tuner.recipe.formats import known

QUICK = {
    "train": {"epochs": 2, "learning_rate": 0.02},
    "eval": {"samples": 0, "enabled": False},
    "export": {"formats": ["adapter"]},
}


HAS_LLAMA = llama_cpp.installed()
if os.environ.get("TUNER_TEST_LLAMA"):
    assert HAS_LLAMA, "llama-cpp-python is wanted and not installed"
needs_llama = pytest.mark.skipif(not HAS_LLAMA, reason="llama.cpp is not installed (make llama)")


def exported(run: Path, *formats: str, **settings: Any) -> dict[str, dict[str, Any]]:
    """Export formats of a run, as the command does it; the reports by format."""
    origin = export_origin.find(str(run))
    export_origin.refuse(origin, list(formats))
    asked = Settings(output=settings.pop("output", run), **settings)
    reports = convert.export(origin, known(formats), asked, Console(quiet=True))
    return {report["kind"]: report for report in reports}


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def command(*arguments: object) -> tuple[int, list[dict[str, Any]]]:
    """`tuner ... --json` in this process: exit code and events."""
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(SystemExit) as caught:
        cli.main([*map(str, arguments), "--json"])
    lines = [json.loads(line) for line in out.getvalue().splitlines() if line.startswith("{")]
    return int(caught.value.code or 0), lines


@torch.no_grad()
def logits(model: Any, rows: list[list[int]]) -> torch.Tensor:
    model.eval()
    return torch.cat([model(input_ids=torch.tensor([row])).logits[0].float() for row in rows])


ROWS = torch.randint(10, 400, (3, 20), generator=torch.Generator().manual_seed(1)).tolist()


def tuned(run: Path, base: Path) -> Any:
    """The tuned model as plain peft loads it."""
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run / "adapter")
