"""Evaluation while training, as other tools name it."""

from __future__ import annotations

from tuner.recipe.other_tools.row import Given, Here, empty, flag, left_out, lost, number

SCORED = "held-out rows are scored before and after training"
_STRATEGIES = ("eval_strategy", "evaluation_strategy")
_OFF = ("no", "none", "false")
_EVERY = ("eval_steps", "eval_interval")
_PATIENCE = ("early_stopping_patience", "early_stopping_steps", "early_stopping")
# Steps between lines of the log, and between evaluations, where transformers is given neither.
_USUAL = 500
_EPOCHS = ("num_train_epochs", "num_epochs", "epochs", "max_epochs")


def every(place: str, given: Given) -> Here:
    """Steps between evaluations, or a share of the run; a strategy may say otherwise."""
    value, strategy = number(given.value, 0), _strategy(given)
    if value <= 0 or strategy in _OFF:
        return left_out(SCORED)
    if strategy == "epoch":
        return left_out("each epoch is evaluated, as the strategy says")
    if value < 1:
        return Here({place: f"{value:.6%}".rstrip("%").rstrip("0").rstrip(".") + "%"})
    return Here({place: int(value)})


def strategy(place: str, given: Given) -> Here:
    """When evaluations are made, without how often."""
    word = str(given.value).lower()
    if word == "epoch":
        return Here({place: "epoch"})
    if word == "steps" and not any(number(given.others.get(name), 0) for name in _EVERY):
        steps = number(given.others.get("logging_steps"), _USUAL)
        return Here({place: int(steps) if steps >= 1 else _USUAL}, "as often as it logs there")
    if word in _OFF:
        return left_out(SCORED)
    return left_out("the steps between evaluations say it")


def per_epoch(place: str, given: Given) -> Here:
    """Evaluations in an epoch, as a share of the run."""
    times = number(given.value, 0)
    epochs = next((number(given.others[name], 0) for name in _EPOCHS if name in given.others), 1)
    if times == 1:
        return Here({place: "epoch"})
    if times <= 0 or times * epochs <= 1:
        return left_out(SCORED)
    share = f"{100 / (times * epochs):.4f}".rstrip("0").rstrip(".")
    return Here({place: f"{share}%"}, f"{times:g} times an epoch")


def stop(place: str, given: Given) -> Here:
    """Evaluations without a gain before training ends."""
    patience = number(given.value, 0)
    if flag(given.value) is False or given.value == 0:
        return left_out("training runs to its end here, too")
    if patience < 1 or flag(given.value) is not None:
        return lost(f"{place}: {{patience: 3}} ends early where the loss no longer improves")
    found: dict[str, object] = {"patience": int(patience)}
    change = number(given.others.get("early_stopping_threshold"), 0)
    if change > 0:
        found["min_change"] = change
    return Here({place: found})


def threshold(place: str, given: Given) -> Here:
    """What counts as a gain, in other tools a key of its own."""
    patience = next((given.others[name] for name in _PATIENCE if name in given.others), 0)
    if number(patience, 0) < 1 or number(given.value, 0) <= 0:
        return left_out(f"only next to a patience it counts; {place}: {{min_change: ...}}")
    return left_out(f"{place} has it, as min_change")


def metric(place: str, given: Given) -> Here:
    """The metric that says which weights are best."""
    if empty(given.value) or str(given.value).lower() in ("loss", "eval_loss"):
        return left_out("the loss decides here, too")
    return lost("eval.stop: {metric: NAME} names one of the metrics here")


def checkpoints(place: str, given: Given) -> Here:
    """How many checkpoints stay."""
    count = number(given.value, 0)
    if count < 1:
        return left_out(f"{place} of them stay")
    return Here({place: int(count)})


def _strategy(given: Given) -> str:
    found = next((given.others[name] for name in _STRATEGIES if name in given.others), "")
    return str(found).lower()
