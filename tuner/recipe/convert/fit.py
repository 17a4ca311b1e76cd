"""Keys that the method or the task of a conversion does not have, and what no recipe trains."""

from __future__ import annotations

from typing import Any

from tuner.methods import METHODS
from tuner.recipe.convert.conversion import Conversion, Setting, shown
from tuner.recipe.schema import keys_of
from tuner.recipe.schema_train import ADAM_KEYS, OF_SCHEDULE, WITHOUT_ADAM
from tuner.recipe.verbs import ALGORITHM_SECTIONS

_OF_TURNS = ("data.cut", "data.long", "data.learn")
_OF_SCORES = ("every", "stop", "keep")
# Keys of the loss and the inputs, with the tasks that have no such thing.
_UNREAD = (
    *(("label_smoothing", task) for task in ("reward", "rlhf")),
    ("embedding_noise", "rlhf"),
)


def leave_out(made: Conversion) -> None:
    """Leave out keys that have no place next to the others, each with its reason."""
    for key in list(made.keys):
        section, dot, name = key.partition(".")
        own = {"data": _data, "train": _train}.get(section)
        why = own(made, key) if own else _other(made, section, name if dot else "")
        if why:
            value = made.keys.pop(key)
            if key not in made.defaults:
                origin = made.origins.get(key, key)
                made.left_out.append(Setting(origin, shown(origin, value), why))


def _data(made: Conversion, key: str) -> str:
    if _task(made) != "sft":
        if key in _OF_TURNS:
            return "preferences are never cut, and their answers are learned"
        return "the columns decide" if key == "data.template" else ""
    plain = key in _OF_TURNS and _plain_text(made)
    return "all of plain text is learned, in pieces" if plain else ""


def _train(made: Conversion, key: str) -> str:
    name, optimizer = key.partition(".")[2], str(made.keys.get("train.optimizer", "adamw"))
    schedule = str(made.keys.get("train.scheduler", "linear"))
    free = optimizer == "schedule_free"
    if name in ADAM_KEYS and optimizer in WITHOUT_ADAM:
        return f"{optimizer} has no moments of Adam"
    if name == "scheduler" and free and schedule != "constant":
        return "schedule_free averages the weights in place of a schedule"
    if name == "floor" and (free or schedule == "constant"):
        return "a constant rate has no floor"
    if name in OF_SCHEDULE and schedule != OF_SCHEDULE[name]:
        return f"only train.scheduler: {OF_SCHEDULE[name]} reads it"
    if (name, _task(made)) in _UNREAD:
        return "only supervised training has it"
    return ""


def _other(made: Conversion, section: str, name: str) -> str:
    method, task = _method(made), _task(made)
    if section == "method" and name not in keys_of("method", method):
        return f"{method} has no such option"
    if (section, name) == ("run", "strategy") and not METHODS[method].adapter:
        return f"fsdp shards a frozen base, and {method} trains it"
    if name and (section, task) in (("rlhf", "sft"), ("rlhf", "reward"), ("reward", "sft")):
        return "nothing learns from preferences"
    if section == "eval" and name in _OF_SCORES:
        if made.keys.get("data.eval") == 0:
            return "no rows are held out"
        return "" if "eval.every" in made.keys else "nothing is scored while it trains"
    if section in ALGORITHM_SECTIONS and made.keys.get("rlhf.algorithm") != section:
        return f"it is of {section.upper()}"
    return ""


def refuse(made: Conversion) -> None:
    """Block what no recipe can train: a method that the task or a quantized base does not take."""
    method = METHODS[_method(made)]
    if _task(made) == "rlhf" and not method.rlhf:
        said = f"it is not trained with {method.name} here, only with an adapter such as lora"
        _block(made, "rlhf.algorithm", said)
    quantize = made.keys.get("model.quantize", "none")
    if quantize != "none" and quantize not in method.quantized:
        said = f"{method.name} does not train on a base with model.quantize: {quantize}"
        _block(made, "model.quantize", said)


def _block(made: Conversion, key: str, said: str) -> None:
    origin = made.origins[key]
    made.blocked.append(Setting(origin, shown(origin, made.keys[key]), said))


def _method(made: Conversion) -> str:
    return str(made.keys.get("method.name", "lora"))


def _task(made: Conversion) -> str:
    return "reward" if "reward" in made.keys else "rlhf" if "rlhf.algorithm" in made.keys else "sft"


def _plain_text(made: Conversion) -> bool:
    """Return whether no row has turns."""
    whole, train = made.keys.get("data.template"), made.keys.get("data.train")
    items: list[Any] = train if isinstance(train, list) else [train]
    own = [each.get("template") if isinstance(each, dict) else None for each in items]
    return all((name or whole) == "text" for name in own)
