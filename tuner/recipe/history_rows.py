"""What earlier versions did with rows and files where a recipe had no key for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from tuner.recipe.schema_source import Source, SourceSection, named

if TYPE_CHECKING:
    from tuner.recipe.schema import DataSection, Recipe

# The origin of a value that comes from such a run.
BEGUN = "the run that is resumed"
# Keys of how rows are chosen and cut, each with its default and what there was before it.
ROWS: dict[str, tuple[Any, Any]] = {
    "data.split": ("prompt", "row"),
    "data.draw": ("seed", "first"),
    "data.cut": ("auto", "answer"),
    "data.max_length": ("auto", "context"),
}
# The formats of preference data that earlier versions had.
_PREFERENCES = ("pairs", "rankings", "scores", "thumbs")
# How tables were read when nothing of that was looked for.
_THEN = {
    suffix: {"separator": separator, "header": True, "quotes": "csv"}
    for suffix, separator in ((".csv", ","), (".tsv", "\t"))
}


def rows_then(reward: Any, rlhf: Any, ppo: Any) -> dict[str, Any]:
    """Return what earlier versions did with rows; preferences and prompts they never cut."""
    mixed = ppo and dict(ppo).get("ptx_data") is not None
    then = {key.removeprefix("data."): value for key, (_, value) in ROWS.items()}
    return {**then, "cut": "drop"} if (reward or rlhf) and not mixed else then


def rows_as_begun(values: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return how the rows of a run that an earlier version began are chosen and cut, by key.

    Args:
        values: of the plan in its record.
        recipe: as it is now; keys that it sets are kept.
    """
    if values.get("data.split", {}).get("origin", BEGUN) != BEGUN or not values:
        return {}
    then = rows_then(recipe.reward, recipe.rlhf, recipe.ppo)
    return {
        key: value
        for key, value in then.items()
        if getattr(recipe.data, key) == ROWS[f"data.{key}"][0]
    }


def old_special_tokens(values: Mapping[str, Any], data: DataSection) -> dict[str, Any]:
    """Return how a run that an earlier version began keeps special tokens, by key: stop tokens at
    the end of answers were plain text, too.

    Args:
        values: of the plan in its record.
        data: the data section as it is now.
    """
    key = "special_tokens_in_text"
    known = values.get(f"data.{key}", {}).get("value")
    return {key: known} if known == "literal" and getattr(data, key) == "auto" else {}


def as_read(files: Sequence[Mapping[str, Any]], data: DataSection) -> dict[str, Any]:
    """Return the keys of a data section that say what was seen of its files when a run began.

    Earlier versions read every table as one with the separator of its kind of file, a header, and
    quotes around cells, and never asked whether lines of text are pairs.

    Args:
        files: the run's facts about the files.
        data: the section.
    """
    held = () if data.eval_file is None else (data.eval_file,)
    if len(files) != len(data.train) + len(held):
        return {}
    both = zip((*data.train, *held), files, strict=True)
    read = tuple(_read_so(source, file, data.template) for source, file in both)
    then = {"train": read[: len(data.train)], **({"eval": read[-1]} if held else {})}
    return {key: value for key, value in then.items() if value != getattr(data, key)}


def _read_so(source: Source, file: Mapping[str, Any], template: str) -> Source:
    kind = PurePath(named(source)).suffix.lower()
    then = dict(file.get("read") or _THEN.get(kind, {}))
    if kind == ".txt" and template == "auto" and file.get("template") == "text":
        then["template"] = "text"
    item = SourceSection(source=source) if isinstance(source, str) else source
    update = {key: value for key, value in then.items() if getattr(item, key) is None}
    return item.model_copy(update=update) if update else source


def old_disliked(plan: Mapping[str, Any]) -> str | None:
    """Return what an earlier version did with answers that are labelled bad: it left them out.

    Args:
        plan: of the run that is resumed, from its record.
    """
    key = plan.get("values", {}).get("data.disliked", {"origin": BEGUN})
    return "drop" if key.get("origin") == BEGUN else None


def old_unpaired(plan: Mapping[str, Any]) -> str | None:
    """Return what an earlier version did with thumbs that make no pair, if a run had some.

    Args:
        plan: of the run that is resumed, from its record.
    """
    key = plan.get("values", {}).get("reward.unpaired", {"origin": BEGUN})
    left_out = plan.get("data", {}).get("unpaired_rows")
    return "drop" if left_out and key.get("origin") == BEGUN else None


def old_preferences(plan: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Return what a data section of preferences meant to an earlier version, by key.

    It read fewer columns, and said of the others that they were not used.

    Args:
        plan: of the run that is resumed, from its record.
        columns: `data.columns` of its recipe.
    """
    values = plan.get("values", {})
    used = values.get("data.template", {}).get("value")
    if used not in _PREFERENCES:
        return {}
    if (begun := values.get("data.columns", {})).get("origin") == BEGUN:
        return {"template": used, "columns": begun["value"]}
    if "data.disliked" in values:
        return {}
    ignored = plan.get("data", {}).get("ignored_columns", ())
    # Of several files, each name comes with its file.
    left_out = {name.partition(" (")[0]: "none" for name in ignored}
    return {"template": used, "columns": {**left_out, **columns}}


def formats(plan: Mapping[str, Any]) -> tuple[tuple[str, dict[str, str] | None], ...]:
    """Return how the run of a plan reads its files: of each, the data template and its columns; an
    empty name where it had no rows, no columns where an earlier version did not record them."""
    files = plan.get("data", {}).get("files", [])
    return tuple((file.get("template", ""), file.get("mapping")) for file in files)


def earlier_turns(plan: Mapping[str, Any]) -> bool:
    """Return whether an earlier version began a run, which read turns in its own way.

    Args:
        plan: of the run that is resumed, from its record.
    """
    return bool(plan.get("values")) and bool(plan.get("data", {}).get("earlier_turns", True))


def old_chat_arguments(plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the arguments by which a run that an earlier version began is asked for answers: those
    of most last answers, not of most answers. None where the recipe said them.

    Args:
        plan: of the run that is resumed, from its record.
    """
    known = plan.get("values", {}).get("model.chat_arguments", {"value": None, "origin": BEGUN})
    if known["origin"] not in (BEGUN, "default") and not known["origin"].startswith("auto"):
        return None
    return dict(known["value"] or {})
