"""A metric, a format and a method, added by a row each: `python -m tests.project.toys ARGUMENTS`
is `tuner ARGUMENTS` with them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from tuner.methods import METHODS
from tuner.methods.method import Method
from tuner.methods.options import Setting, TargetedOptions
from tuner.recipe.formats import FORMATS, ExportFormat
from tuner.schema.fields import Count


def rows_scored(observed: Sequence[Any]) -> float | None:
    """The metric: how many rows were scored."""
    return float(len(observed))


def write_copy(row: ExportFormat, work: Any, folder: Path) -> None:
    """The format: the merged model under another name."""
    ignored = shutil.ignore_patterns("MANIFEST.json", "README.md")
    shutil.copytree(work.merged, folder, dirs_exist_ok=True, ignore=ignored)


class ToyOptions(TargetedOptions):
    """A LoRA with a rank and nothing else."""

    name: Literal["toy"] = "toy"
    rank: Annotated[Count, Field(description="rank of the update")] = 2


def config(setting: Setting) -> Any:
    """Return peft's configuration."""
    import peft

    return peft.LoraConfig(
        task_type=setting.task_type,
        r=setting.options.rank,
        target_modules=list(setting.targets),
    )


def main() -> None:
    METHODS["toy"] = Method("toy", "sft", "a toy", ToyOptions, config, 1e-2, mergeable=True)
    FORMATS["copy"] = ExportFormat(
        "copy", "the merged model once more", divergence=1e-3, write="tests.project.toys:write_copy"
    )
    # Only now: the schema of a recipe is made of the tables.
    from tests import here
    from tuner import cli
    from tuner.machine import processes
    from tuner.plan.metrics import METRICS

    METRICS["rows_scored"] = replace(
        METRICS["loss"], name="rows_scored", function="tests.project.toys:rows_scored"
    )
    processes.fresh = here.fresh
    cli.main()


if __name__ == "__main__":
    main()
