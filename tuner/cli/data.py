"""`tuner data preview`: rows as they are learned, in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
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
    refuse_unknown_verb,
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
    verb: Annotated[
        str | None, typer.Option("--verb", help="Training command whose rows to show.")
    ] = None,
    rows: Annotated[int, typer.Option("-n", "--rows", min=1, help="Number of rows to show.")] = 3,
    overrides: Overrides = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Check all rows, and show the first as the model sees them, with what is learned."""
    refuse_unknown_verb(verb)
    named = one_recipe("data preview", recipe, option)
    preview(named, overrides or (), rows, console(json, False, verbose), verb)


def preview(
    recipe: str, overrides: Sequence[str], rows: int, console: Console, verb: str | None = None
) -> None:
    """Prepare the data as a plan does, and show the first training rows in parts."""
    from tuner.cli import run_folder
    from tuner.plan import contradictions, ground
    from tuner.plan import data as plan_data
    from tuner.plan import rlhf as plan_rlhf
    from tuner.recipe import load as recipe_load
    from tuner.run import chain

    loaded = recipe_load.load(Path(recipe), overrides, verb)
    contradictions.refuse_conversation(loaded.recipe)
    links = chain.links(loaded, run_folder.find(loaded, resume=False))
    loaded, _ = plan_rlhf.adopt(loaded, {link.name: link.source() for link in links})
    base = ground.open_recipe_and_base(loaded, console.note, None)
    prepared, shown = plan_data.preview(base, ground.room(base), rows)
    report = prepared.report
    console.event(
        "preview",
        rows_checked=report["rows_in"],
        data={key: value for key, value in report.items() if key != "warnings"},
    )
    for text in report["warnings"]:
        console.warn(text)
    _checked(report, loaded.task, console)
    for row in shown:
        cut = ", truncated" if row.truncated else ""
        pieces = base.tokenizer.convert_ids_to_tokens([n for n in row.ids if n in base.new_ids])
        new = f", new: {' '.join(pieces) or 'none'}" if base.new_ids else ""
        name = f"{row.row} ({row.tokens} tokens{new}{cut})"
        facts = {"row": row.row, "tokens": row.tokens, "new": pieces, "truncated": row.truncated}
        console.row(name, [asdict(p) for p in row.parts], **facts)


def _checked(report: Mapping[str, Any], task: str, console: Console) -> None:
    """Show what was understood, and what became of the rows."""
    from tuner.console import formatting
    from tuner.console.rows import LEGEND

    if understood := report.get("understood"):
        console.text(formatting.paragraph("understood", [understood]))
    read = formatting.counted(report["rows_in"], "row")
    bad = formatting.counted(report["bad_rows"], "bad row")
    console.text(
        f"{read} read and checked, as in a plan: {report['rows_train']:,} to train on, "
        f"{report['rows_eval']:,} held out, {bad}; template {report['template']}"
    )
    if task == "rlhf":
        console.text("without answers, the policy samples its own")
    console.text(f"{LEGEND}\n")
