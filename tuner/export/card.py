"""The README.md of an artefact: what it is, what it was trained on, how to load it.

Names and counts only: no path, no user name and no text of the rows goes into it. Its text is in
`card.md.jinja`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from tuner import __version__
from tuner.console import formatting
from tuner.model.heads import MULTI_LABEL
from tuner.recipe.aliases import ALIASES
from tuner.recipe.formats import FORMATS
from tuner.record import selection

FILE = "README.md"
FOLDER_OF_BASE = "PATH OF THE BASE"
_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_OPTIONS = ("r", "alpha", "num_virtual_tokens")


@cache
def template(file: Path) -> jinja2.Template:
    """Return the template of a card, with `value` and `size` as filters."""
    environment = jinja2.Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.ChainableUndefined,
    )
    environment.filters["value"] = formatting.value
    environment.filters["size"] = formatting.size
    return environment.from_string(file.read_text("utf-8"))


def write_card(
    folder: Path,
    kind: str,
    base: str,
    facts: Mapping[str, Any],
    run: Any,
    chain: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the card of an artefact.

    Args:
        folder: of the artefact.
        kind: adapter, merged or a quantized format that transformers reads.
        base: name of its base.
        facts: how to load it (see `fresh_process.facts_of`).
        run: `plan`, `scores` and `evaluation` of the record of its run; empty without one.
        chain: the adapters that it comes from, as its manifest has them.
    """
    plan = run.get("plan") or {}
    values = {key: item["value"] for key, item in plan.get("values", {}).items()}
    labels = facts.get("num_labels")
    several = "threshold" in (facts.get("classifier") or {})
    problem = f', problem_type="{MULTI_LABEL}"' if several else ""
    text = template(_TEMPLATE).render(
        version=__version__,
        adapter=kind == "adapter",
        format=FORMATS[kind],
        base=base,
        embedded=ALIASES.get(base),
        place=place_of(base, plan, values),
        facts=facts,
        labels=(f", num_labels={labels}" if labels else "") + problem,
        code=", trust_remote_code=True" if facts.get("trust_remote_code") else "",
        plan=plan,
        values=values,
        chain=[(each["name"].rpartition("/")[2], each["how"]) for each in chain],
        method=method_of(values),
        scores=scores_of(run.get("scores") or {}),
        evaluation=run.get("evaluation") or {},
        chosen=selection.said(run.get("evaluation") or {}),
    )
    (folder / FILE).write_text(text, "utf-8")


def method_of(values: Mapping[str, Any]) -> list[str]:
    """Return the name of the method and its most telling options."""
    keys = {name: f"method.{name}" for name in _OPTIONS if f"method.{name}" in values}
    options = [f"{name} {formatting.value(values[key])}" for name, key in keys.items()]
    return [str(values.get("method.name")), *options]


def scores_of(scores: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return each score with its values before and after; none without those after."""
    before, after = (scores.get(when) or {} for when in ("before", "after"))
    names = dict.fromkeys((*before, *after)) if after else ()
    return [(name, before.get(name), after.get(name)) for name in names]


def place_of(base: str, plan: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Return where the base is, as the argument of `from_pretrained`."""
    if base in ALIASES:
        return f'folder_of("{base}")'
    if (plan.get("model") or {}).get("kind") == "hub":
        revision = values["model.revision"]
        return f'"{base}"' + (f', revision="{revision}"' if revision else "")
    return f'"{FOLDER_OF_BASE}"'
