"""`data preview`: rendered rows with the supervised spans marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tuner import base, data, recipe_load
from tuner.console import Console
from tuner.heads import head_for


def preview(recipe: str, overrides: Sequence[str], rows: int, console: Console) -> None:
    """Render the first training rows through the base's tokenizer and chat template."""
    loaded = recipe_load.load(Path(recipe), overrides, None)
    found = base.resolve(loaded.recipe.model, loaded.folder, console.note)
    tokenizer = base.load_tokenizer(found, loaded.recipe.model.trust_remote_code)
    shown = data.preview(
        loaded.recipe.data,
        tokenizer,
        folder=loaded.folder,
        seed=loaded.recipe.run.seed,
        context_length=found.context_length,
        count=rows,
        stop_ids=base.stop_ids(found.folder),
        head=head_for(loaded.recipe.model.task, found.config).name,
    )
    console.text("⟦ ⟧ marks what is learned\n")
    for row in shown:
        cut = ", truncated" if row.truncated else ""
        console.row(f"{row.row} ({row.tokens} tokens{cut})", row.spans)
