"""`tuner data preview`: rendered rows with the supervised spans marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.data.prepared import Preview
    from tuner.model.heads import Head
    from tuner.recipe.load import LoadedRecipe

app = group("Show the data as the model sees it.")


@app.command("preview")
def data_preview(
    recipe: RecipeArgument = None,
    option: RecipeOption = None,
    rows: Annotated[int, typer.Option("-n", "--rows", min=1, help="Number of rows to show.")] = 3,
    overrides: Overrides = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show rendered rows with the supervised spans marked."""
    named = one_recipe("data preview", recipe, option)
    preview(named, overrides or (), rows, console(json, False, verbose))


def preview(recipe: str, overrides: Sequence[str], rows: int, console: Console) -> None:
    """Render the first training rows through the base's tokenizer and chat template."""
    from tuner.data import sft
    from tuner.model import base
    from tuner.model import tokenizer as tokenizers
    from tuner.model.heads import head_for
    from tuner.recipe import load as recipe_load

    loaded = recipe_load.load(Path(recipe), overrides, None)
    found = base.resolve(loaded.recipe.model, loaded.folder, console.note)
    tokenizer, new_ids = tokenizers.open_tokenizer(loaded.recipe.model, found, loaded.folder)
    stops = tokenizers.stop_ids(found.folder)
    head = head_for(loaded.recipe.model.task, found.config, loaded.task)
    section = loaded.recipe.data
    most = rows if section.max_rows is None else min(rows, section.max_rows)
    few = section.model_copy(update={"max_rows": most, "eval": 0})
    if loaded.task == "sft":
        legend = "⟦ ⟧ marks the tokens that are trained on\n"
        shown, warnings = sft.preview(
            few,
            tokenizer,
            folder=loaded.folder,
            seed=loaded.recipe.run.seed,
            context_length=found.context_length,
            stop_ids=stops,
            head=head.name,
        )
        for text in warnings:
            console.warn(text)
    else:
        legend = "⟦ ⟧ marks the answers; without them, the policy samples its own\n"
        shortened = loaded.recipe.model_copy(update={"data": few, "ppo": None})
        of_few = replace(loaded, recipe=shortened)
        shown = list(_compared(of_few, tokenizer, found.context_length, stops, head))
    console.text(legend)
    for row in shown:
        cut = ", truncated" if row.truncated else ""
        new = ""
        if new_ids:
            pieces = tokenizer.convert_ids_to_tokens([n for n in row.ids if n in new_ids])
            new = f", new: {' '.join(pieces) or 'none'}"
        console.row(f"{row.row} ({row.tokens} tokens{new}{cut})", row.spans)


def _compared(
    loaded: LoadedRecipe,
    tokenizer: Any,
    room: int,
    stops: Sequence[int],
    head: Head,
) -> Iterator[Preview]:
    """Yield the prompts, and their answers where the rows have them, better ones first."""
    from tuner.data.preferences import Ranking
    from tuner.data.prepared import Preview
    from tuner.plan import data as plan_data

    prepared, _ = plan_data.prepare(loaded, tokenizer, room, stops, head)
    for row in prepared.train:
        prompt = str(tokenizer.decode(row.prompt_ids))
        if not isinstance(row, Ranking):
            ids = list(row.prompt_ids)
            yield Preview(row.row, [(prompt, False)], len(ids), False, ids)
            continue
        for number, ids in enumerate(row.answers, 1):
            answer = str(tokenizer.decode(ids[len(row.prompt_ids) :]))
            name = f"{row.row}, answer {number}"
            yield Preview(name, [(prompt, False), (answer, True)], len(ids), False, list(ids))
