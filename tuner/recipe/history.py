"""Keys of earlier versions, and what those versions did where there was no key yet.

A recipe that still has an old key gets an error that names the new one. Runs of earlier versions
are read as they were meant: their locks, the identity in their checkpoints, and the sha256 by which
a finished stage is recognised.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tuner.recipe.history_rows import BEGUN, ROWS, rows_then
from tuner.recipe.schema_preference import OF_ROWS
from tuner.schema.strict_yaml import Path
from tuner.schema.suggest import listed

# Keys that were added later, each with the value that gives the earlier behaviour.
ADDED: dict[str, Any] = {
    "model.code_sha256": None,
    "model.adapter": None,
    "method.continue": False,
    "model.tf32": False,
    "model.attention": "auto",
    "model.chat_template": "auto",
    "model.chat_arguments": None,
    "model.chat_date": "auto",
    "data.reasoning": "auto",
    "data.reasoning_column": None,
    "data.learn": "answers",
    "data.system": None,
    "data.instruction": None,
    "data.long": "auto",
    "data.disliked": "error",
    "reward.unpaired": "learn",
    "data.label_names": None,
    "data.multi_label": False,
    "export.onto": "auto",
    "train.adam_beta1": 0.9,
    "train.adam_beta2": 0.999,
    "train.adam_epsilon": 1e-8,
    "run.deterministic": False,
    "run.track": [],
    "run.name": None,
    "run.project": "tuner",
    "run.tags": [],
    "train.checkpoints": 2,
    "train.optimizer": "adamw",
    "train.floor": 0.0,
    "train.decay": 0.2,
    "train.power": 2.0,
    "train.cycles": 2,
    "train.embedding_noise": 0.0,
    "train.label_smoothing": 0.0,
    "eval.every": None,
    "eval.stop": None,
    "eval.gate": [],
    "eval.test": None,
    "eval.samples_every": None,
    "eval.keep": "auto",
    "dpo.loss": "sigmoid",
    "dpo.label_smoothing": "auto",
    "dpo.sft_weight": 0.0,
    "dpo.normalize_length": False,
    "grpo.loss": "dapo",
    "grpo.updates": 1,
    "grpo.clip": 0.2,
    "grpo.clip_high": None,
    "grpo.mask_truncated": False,
    "grpo.redraws": 0,
}
# What `auto` of such a key was in every run, where plans now name what it comes to.
_WAS_AUTO = {"model.attention": "sdpa", "dpo.label_smoothing": 0.0}
# The default of `rlhf.kl_coefficient` then, for every algorithm.
_COEFFICIENT = 0.05
# Sections that there were not.
_NEW = ("dpo", "grpo")
# Values that mean the same; plans named the first where only last answers were looked at.
_SAME: dict[str, tuple[Any, ...]] = {
    "data.reasoning": ("auto", "learn"),
    "model.chat_arguments": (None, {}),
}
# Columns that earlier versions of these templates did not read.
_NOW_READ = {"chat": "system", "prompt_completion": "history"}
# Its default was `literal`; stop tokens at the end of answers made no difference.
_SPECIAL = "special_tokens_in_text"
# Formerly the fields of a mapping `train.trl`.
_OF_TRL = ("adam_beta1", "adam_beta2", "adam_epsilon")


def answer(path: Path, value: Any) -> str | None:
    """Return a message that names the replacement of an old key or value; None if it is not old."""
    if path == ("train", "trl"):
        fields = [name for name in _OF_TRL if isinstance(value, dict) and name in value]
        return f"unknown key; it is now {listed([f'train.{name}' for name in fields or _OF_TRL])}"
    if path == ("run", "strategy") and value == "deepspeed":
        return "deepspeed is not supported; did you mean 'fsdp'"
    return None


def renew_lock(tree: dict[str, Any], lines: dict[Path, int]) -> None:
    """Give the keys of a run's lock, and their lines, their present names."""
    _renew_rows(tree, lines)
    train, run = tree.get("train"), tree.get("run")
    if isinstance(train, dict) and isinstance(fields := train.get("trl"), dict):
        if not fields.keys() <= set(_OF_TRL):
            return
        del train["trl"]
        for name, value in fields.items():
            train[name] = value
            lines[("train", name)] = lines[("train", "trl", name)]
    if isinstance(run, dict) and run.get("strategy") == "deepspeed":
        # It was refused for several processes, and had no effect for one.
        run["strategy"] = "auto"


def _renew_rows(tree: dict[str, Any], lines: dict[Path, int]) -> None:
    """Let the rows of a lock that has no key for it be chosen and cut as they were then."""
    data = tree.get("data")
    if not isinstance(data, dict) or "split" in data:
        return
    for key, value in rows_then(*(tree.get(name) for name in ("reward", "rlhf", "ppo"))).items():
        if data.get(key, "auto") == "auto":
            data[key] = value
            lines.setdefault(("data", key), lines.get(("data",), 1))


def chat_date(record: Mapping[str, Any]) -> str:
    """Return the date that the prompts of a run show, if its chat template writes one."""
    known = record.get("plan", {}).get("values", {}).get("model.chat_date")
    if known is not None:
        return str(known["value"])
    # There was no such key: templates wrote the day on which the run was prepared.
    started = datetime.fromisoformat(record["started"]) if record.get("started") else None
    return started.astimezone().date().isoformat() if started else "auto"


def identity(saved: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity that a checkpoint keeps, under the keys of this version.

    Args:
        saved: `state["identity"]` of the checkpoint.
        current: the identity of the run that resumes.
    """
    known = dict(saved)
    fields = known.pop("train.trl", None) or {}
    known |= {f"train.{name}": float(value) for name, value in fields.items()}
    columns = current.get("data.columns") or {}
    # One that is left out now and was read then shows in the sha256 of the tokens.
    read = {name: file for name, file in columns.items() if file != "none"}
    if known.get("data.columns") == read:
        known["data.columns"] = columns
    for key, same in _SAME.items():
        if key in current and known.get(key) in same and current[key] in same:
            known[key] = current[key]
    return {key: value for key, value in (ADDED | _WAS_AUTO).items() if key in current} | known


def old_auto_values(
    plan: Mapping[str, Any], template: str, columns: Mapping[str, str], long: str
) -> dict[str, Any]:
    """Return what `auto` of the data section meant to an earlier version, by key.

    Rows with a text and a label were film reviews then, marked texts were no conversations, a few
    columns were not read, and cuts had no limit.

    Args:
        plan: of the run that is resumed, from its record.
        template: `data.template` of its recipe.
        columns: `data.columns` of its recipe.
        long: `data.long` of its recipe.
    """
    values = plan.get("values", {})
    if not values:
        return {}
    data, meant = plan.get("data", {}), dict[str, Any]()
    used = values.get("data.template", {}).get("value", "")
    old = not any("template" in file for file in data.get("files", [{"template": ""}]))
    if template == "auto" and (old or values["data.template"].get("origin") == BEGUN):
        meant["template"] = used
    unread = _NOW_READ.get(used, "")
    if old and unread in data.get("ignored_columns", ()):
        meant["columns"] = {unread: "none", **columns}
    elif (begun := values.get("data.columns", {})).get("origin") == BEGUN:
        meant["columns"] = begun["value"]
    if values.get("data.long", {}).get("origin", BEGUN) != BEGUN:
        return meant
    if template == "auto" and used == "cloze":
        meant["template"] = "cloze"
    if long == "auto":
        meant["long"] = "truncate"
    return meant


def old_dtype(values: Mapping[str, Any]) -> str | None:
    """Return what `auto` of `model.dtype` meant to an earlier version on a GPU without bf16.

    Args:
        values: of the plan in the record of the run that is resumed.
    """
    found = {key: values.get(key, {}).get("value") for key in ("run.device", "model.dtype")}
    return "float32" if tuple(found.values()) == ("cuda", "float32") else None


def old_coefficient(values: Mapping[str, Any]) -> float | None:
    """Return the default that an earlier version had for `rlhf.kl_coefficient`, if a run had it.

    Args:
        values: of the plan in the record of the run that is resumed.
    """
    known = values.get("rlhf.kl_coefficient", {})
    return float(known["value"]) if known.get("origin") in ("default", BEGUN) else None


def _name_scheduler(train: dict[str, Any]) -> None:
    """Let the schedule that `auto` comes to be named, as it was when that was the default."""
    if train["scheduler"] == "auto" and train["optimizer"] != "schedule_free":
        train["scheduler"] = "linear"


def in_first_version_form(values: dict[str, Any], origins: Mapping[str, str]) -> dict[str, Any]:
    """Return a dumped recipe in the form of the first version, as far as that had the keys.

    Args:
        values: by section and key.
        origins: of the values; one that a resumed run has from its record does not count.
    """
    then = {section: dict(keys) for section, keys in values.items()}
    begun = {f"model.{name}" for name in ("chat_date", "chat_arguments")} & {
        key for key, origin in origins.items() if origin == BEGUN
    }
    then["model"] |= {key.removeprefix("model."): ADDED[key] for key in begun}
    for key, (default, _) in ROWS.items():
        name = key.removeprefix("data.")
        if origins.get(key) == BEGUN:
            then["data"][name] = default
        if name != "max_length" and then["data"][name] == default:
            del then["data"][name]
    if then["data"][_SPECIAL] == "auto" or origins.get(f"data.{_SPECIAL}") == BEGUN:
        then["data"][_SPECIAL] = "literal"
    elif then["data"][_SPECIAL] == "literal":
        then["data"][_SPECIAL] = "literal, stop tokens too"
    _name_scheduler(then["train"])
    fields = {name: then["train"][name] for name in _OF_TRL}
    _as_ever(then.get("rlhf", {}))
    for key, value in ADDED.items():
        section, _, name = key.partition(".")
        if section in then and name in then[section] and then[section][name] == value:
            del then[section][name]
    then = {section: keys for section, keys in then.items() if keys or section not in _NEW}
    for name in _OF_TRL:
        then["train"].pop(name, None)
    then["train"]["trl"] = {
        name: value for name, value in fields.items() if value != ADDED[f"train.{name}"]
    }
    return then


def _as_ever(section: dict[str, Any]) -> None:
    """Give the coefficient of what samples answers the default that it always had."""
    if section.get("kl_coefficient") == "auto" and section["algorithm"] not in OF_ROWS:
        section["kl_coefficient"] = _COEFFICIENT
