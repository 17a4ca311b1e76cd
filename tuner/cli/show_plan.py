"""Show a recipe and its plan before a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuner import __version__
from tuner.console import formatting
from tuner.console.console import Console
from tuner.plan import track
from tuner.plan.plan import Plan
from tuner.recipe.load import LoadedRecipe

# Shown with `--verbose`; what matters of them is in the summary.
_TECHNICAL = ("parameters", "steps", "memory", "gpus", "adapted", "disk")
_PROCESSES = ("run.devices", "run.nodes", "run.strategy")
# What is decided in the same way for most recipes, and seen in the facts or a warning otherwise.
_USUAL = {"model.attention": "sdpa", "data.long": None, "data.cut": None}
_AUTO = "auto: "
# Labels that are shown with their rows; of more, the most frequent ones and the rarest.
_LABELS = 12
# The fact of the data that says in words what was recognised.
_UNDERSTOOD = "understood"
_SHOWN_APART = (_UNDERSTOOD, "majority_label", "majority_baseline", "rarest_label")


def header(loaded: LoadedRecipe, console: Console) -> None:
    """Show the command and the recipe."""
    console.text(f"tuner {__version__}  {loaded.verb}  {loaded.path} ({loaded.sha256[:12]})")


def plan(made: Plan, console: Console) -> None:
    """Show a plan: warnings, what will happen, facts, and every value with its origin.

    Without `--verbose` only what was given or decided, without the technical details.
    """
    console.event("plan", plan=made.as_dict())
    for warning in made.warnings:
        console.warn(warning)
    # In words, what was recognised in the data.
    if understood := made.facts["data"].get(_UNDERSTOOD):
        console.text(formatting.paragraph(_UNDERSTOOD, [understood]))
    console.text(formatting.paragraph("summary", [made.summary]))
    console.text()
    for name, facts in made.facts.items():
        if name in _TECHNICAL and not console.verbose:
            continue
        others = {key: item for key, item in facts.items() if key not in _SHOWN_APART}
        shown = formatting.facts(name, others, console.verbose)
        console.text(formatting.paragraph(name, shown))
        if name == "data":
            _sources(facts["files"], console)
            _labels(facts, console)
            _held_out(facts, console)
    if made.recipe.run.track and console.verbose:
        listed = [f"{key}={item};" for key, item in track.settings(made.as_dict()).items()]
        console.text(formatting.paragraph("sent", listed))
    _values(made, console)
    console.text(f"\nrun folder  {made.output}")


def _values(made: Plan, console: Console) -> None:
    """Show every value with its origin; without `--verbose` those that were given in paragraphs,
    those that were decided in a table with the reasons, and no defaults."""
    values = {key: (formatting.value(item.value), item.origin) for key, item in made.values.items()}
    if console.verbose:
        console.text()
        console.table(("key", "value", "from"), [(key, *pair) for key, pair in values.items()])
        return
    given: dict[str, list[str]] = {}
    decided = []
    for key, (text, origin) in values.items():
        if origin.startswith(_AUTO):
            usual = key in _USUAL and _USUAL[key] in (None, text)
            if not usual and (made.devices.world > 1 or key not in _PROCESSES):
                decided.append((key, text, origin.removeprefix(_AUTO)))
        elif origin != "default":
            origin = "recipe" if origin.startswith("recipe line") else origin
            given.setdefault(origin, []).append(f"{key}={text};")
    for origin, items in given.items():
        console.text(formatting.paragraph(origin, items))
    console.text()
    console.table(("decided", "value", "because"), decided)
    console.text("\n--verbose shows memory, disk and devices in parts, and every default")


def _held_out(facts: Mapping[str, Any], console: Console) -> None:
    """Show how many rows of each label are held out."""
    held = facts.get("labels_eval", {})
    if 0 < len(held) <= _LABELS:
        train = facts["labels_train"]
        said = [f"{name}: {count:,} of {count + train[name]:,}" for name, count in held.items()]
        console.text(formatting.paragraph("held out", ["; ".join(said)]))


def _sources(files: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Show a line for each source, where they are read in different ways or drawn from."""
    ways = {(file.get("template"), tuple(file.get("columns", ()))) for file in files}
    if len(ways) < 2 and not any("drawn_from" in file for file in files):
        return
    for file in files:
        rows = formatting.counted(file["rows"], "row")
        if "drawn_from" in file:
            drawn = [f"{count:,} {label}" for label, count in file["drawn_labels"].items()]
            by = f"by label ({', '.join(drawn)})" if drawn else "by seed"
            rows = f"{rows} of {file['drawn_from']:,}, drawn {by}"
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
    if "labels_per_row" in facts:
        rarest, none = facts["rarest_label"], facts["rows_without_labels"]
        without = f"; {formatting.counted(none, 'row')} without any" if none else ""
        said = f"{', '.join(listed)}; {facts['labels_per_row']:g} per row{without}"
        console.text(formatting.paragraph("labels", [said]))
        return
    where = "held-out" if any(facts["eval_label_counts"].values()) else "training"
    rarest, rows = facts["rarest_label"], formatting.counted
    said = (
        f"always answering '{facts['majority_label']}' is right in "
        f"{100 * facts['majority_baseline']:.1f} % of the {where} rows"
    )
    if len({*counts.values()}) == 1:
        said = f"{len(counts)} with {rows(counts[rarest], 'row')} each; {said}"
    else:
        said = f"{', '.join(listed)}; {said}; rarest: '{rarest}' ({rows(counts[rarest], 'row')})"
    console.text(formatting.paragraph("labels", [said]))
