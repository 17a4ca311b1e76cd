"""`tuner data preview`: rows as they are learned, in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.cli.options import (
    Json,
    Overrides,
    RecipeArgument,
    RecipeOption,
    Verbose,
    console,
    group,
    one_recipe,
)
from tuner.cli.recognise import data_recognise

if TYPE_CHECKING:
    from tuner.console.console import Console

app = group("Show the data as the model sees it.")
app.command("recognise")(data_recognise)


@app.command("preview")
def data_preview(
    recipe: RecipeArgument = None,
    option: RecipeOption = None,
    rows: Annotated[int, typer.Option("-n", "--rows", min=1, help="Number of rows to show.")] = 3,
    overrides: Overrides = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show rows as the model sees them: speakers, reasoning, tools, and what is learned."""
    named = one_recipe("data preview", recipe, option)
    preview(named, overrides or (), rows, console(json, False, verbose))


def preview(recipe: str, overrides: Sequence[str], rows: int, console: Console) -> None:
    """Render the first training rows through the base's tokenizer and chat template."""
    from tuner.console.formatting import counted
    from tuner.console.rows import LEGEND
    from tuner.model import base
    from tuner.model import tokenizer as tokenizers
    from tuner.model.heads import head_for
    from tuner.plan import contradictions
    from tuner.plan import data as plan_data
    from tuner.recipe import load as recipe_load

    loaded = recipe_load.load(Path(recipe), overrides, None)
    contradictions.refuse_conversation(loaded.recipe)
    found = base.resolve(loaded.recipe.model, loaded.folder, console.note)
    tokenizer, new_ids = tokenizers.open_tokenizer(loaded.recipe.model, found, loaded.folder)
    stops = tokenizers.stop_ids(found.folder)
    head = head_for(loaded.recipe.model.task, found.config, loaded.task)
    section = loaded.recipe.data.model_copy(update={"eval": 0})
    of_few = replace(loaded, recipe=loaded.recipe.model_copy(update={"data": section}))
    pipeline = plan_data.pipeline(of_few, tokenizer, found.context_length, stops, head)
    # Of several sources, at least one row each.
    pipeline.first = -(-rows // len(section.train))
    shown, warnings = pipeline.preview()
    template = pipeline.maker.chat_template
    plan_data.settle_prompts(loaded.recipe, tokenizer, stops, pipeline.sent, template)
    for text in warnings:
        console.warn(text)
    count = len(pipeline.source.rows)
    console.event("preview", rows_checked=count)
    console.text(f"{counted(count, 'row')} read and checked; tuner plan checks all of them")
    if loaded.task != "sft":
        console.text("without answers, the policy samples its own")
    console.text(f"{LEGEND}\n")
    for row in shown:
        cut = ", truncated" if row.truncated else ""
        new = ""
        if new_ids:
            pieces = tokenizer.convert_ids_to_tokens([n for n in row.ids if n in new_ids])
            new = f", new: {' '.join(pieces) or 'none'}"
        console.row(f"{row.row} ({row.tokens} tokens{new}{cut})", [asdict(p) for p in row.parts])
