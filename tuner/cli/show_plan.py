"""Show a recipe and its plan before a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuner import __version__
from tuner.console import formatting
from tuner.console.console import Console
from tuner.plan.plan import Plan
from tuner.recipe.load import LoadedRecipe

# Labels that are shown with their rows; of more, the most frequent ones and the rarest.
_LABELS = 12


def header(loaded: LoadedRecipe, console: Console) -> None:
    """Show the command and the recipe."""
    console.text(f"tuner {__version__}  {loaded.verb}  {loaded.path} ({loaded.sha256[:12]})")


def plan(made: Plan, console: Console) -> None:
    """Show a plan: facts, every value with its origin, warnings."""
    console.event("plan", plan=made.as_dict())
    for name, facts in made.facts.items():
        console.text(formatting.paragraph(name, formatting.facts(name, facts, console.verbose)))
        if name == "data":
            _sources(facts["files"], console)
            _labels(facts, console)
    values = {key: (formatting.value(item.value), item.origin) for key, item in made.values.items()}
    shown = {key: pair for key, pair in values.items() if console.verbose or pair[1] != "default"}
    console.text()
    console.table(("key", "value", "from"), [(key, *pair) for key, pair in shown.items()])
    rest = [f"{key}={pair[0]}" for key, pair in values.items() if key not in shown]
    if rest:
        set_ones = [item for item in rest if not item.endswith("=-")]
        console.text(formatting.paragraph("by default", set_ones))
    console.text(f"\nrun folder  {made.output}")
    for warning in made.warnings:
        console.warn(warning)


def _sources(files: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Show a line for each source, where they are mixed or drawn from."""
    if len(files) < 2 and not any("drawn_from" in file for file in files):
        return
    for file in files:
        rows = formatting.counted(file["rows"], "row")
        if "drawn_from" in file:
            rows = f"{rows} of {file['drawn_from']:,}, drawn by seed"
        if "template" in file:
            rows += f"; template {file['template']}; columns {', '.join(file['columns'])}"
        console.text(formatting.paragraph("source", [f"{file['name']}: {rows}"]))


def _labels(facts: Mapping[str, Any], console: Console) -> None:
    """Show how often each label occurs, and what is right without reading a text."""
    counts: Mapping[str, int] = facts.get("label_counts", {})
    if not counts:
        return
    order = sorted(counts, key=lambda label: -counts[label])
    shown = order if len(order) <= _LABELS else [*order[: _LABELS - 2], order[-1]]
    listed = [f"{label} {counts[label]:,}" for label in shown]
    if len(order) > len(shown):
        listed.insert(-1, f"and {len(order) - len(shown)} more")
    where = "held-out" if any(facts["eval_label_counts"].values()) else "training"
    rarest = facts["rarest_label"]
    said = (
        f"{', '.join(listed)}; always answering '{facts['majority_label']}' is right in "
        f"{100 * facts['majority_baseline']:.1f} % of the {where} rows; rarest: '{rarest}' "
        f"({formatting.counted(counts[rarest], 'row')})"
    )
    console.text(formatting.paragraph("labels", [said]))
