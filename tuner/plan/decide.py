"""What a plan decides: each `auto` of the recipe becomes a value with a reason."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuner.console.formatting import counted
from tuner.data.rows import reasoned
from tuner.data.tokens.prepared import Prepared
from tuner.errors import RecipeError
from tuner.methods.full import StagedOptions
from tuner.methods.method import Method
from tuner.model.base import Base
from tuner.plan import contradictions_train, optimizers
from tuner.plan.values import PlanValue, Stage, Values
from tuner.recipe.history_rows import BEGUN
from tuner.recipe.schema import Recipe

if TYPE_CHECKING:
    from tuner.machine.hardware import Machine
    from tuner.methods.options import Setting
    from tuner.model.layers import Skeleton
    from tuner.plan.devices import Devices

# Families whose packed rows are proven isolated by tests/model/test_packing.py: what a row says
# changes no bit of the others' results. Mixtures of experts are not among them: the content of a
# row sets the size of the matrix products that it shares with the others.
PACKED_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gpt2"})


@dataclass(frozen=True)
class Decided:
    """Device, type and steps of a run, and what it trains.

    Attributes:
        device: cpu or cuda.
        dtype: the type it computes in.
        processes: their number and placement.
        attention: sdpa or eager.
        packing: whether the rows of a micro-batch are one sequence.
        stages: the steps.
        setting: what the method's configuration is made from.
    """

    device: str
    dtype: str
    processes: Devices
    attention: str
    packing: bool
    stages: tuple[Stage, ...]
    setting: Setting


def place(recipe: Recipe, method: Method, machine: Machine, values: Values) -> tuple[str, str]:
    """Decide the device, and the type that a run computes in."""
    device = values.set_auto(
        "run.device",
        "cuda" if machine.gpus else "cpu",
        machine.gpus[0].name if machine.gpus else machine.gpu_note or "no GPU on this machine",
    )
    if device == "cpu":
        why = "this processor has no bf16 instructions: bf16 would be several times slower"
        if machine.cpu_bf16:
            why = "full precision; this CPU has bf16 instructions: model.dtype: bfloat16 is faster"
        return device, values.set_auto("model.dtype", "float32", why)
    if all(gpu.bf16 for gpu in machine.gpus):
        return device, values.set_auto("model.dtype", "bfloat16", "the GPU supports bf16")
    why, unscaled = "the GPU has no native bf16", recipe.rlhf and recipe.rlhf.algorithm == "ppo"
    if method.adapter and not unscaled and recipe.train.qat == "none":
        why += "; the adapter is float32"
        return device, values.set_auto("model.dtype", "float16", why)
    return device, values.set_auto("model.dtype", "float32", why)


def attention(recipe: Recipe, skeleton: Skeleton, base: Base, values: Values) -> str:
    """Decide how attention is computed when rows are not packed: sdpa or eager.

    Raises:
        RecipeError: the recipe asks for sdpa, and the base has only eager.
    """
    model_type = str(base.config.get("model_type"))
    why = f"{model_type} has fused attention"
    if skeleton.attention != "sdpa":
        why = f"transformers has no fused attention for {model_type}"
        if recipe.model.attention == "sdpa":
            raise RecipeError(
                "model.attention: sdpa, but the base has only eager",
                f"{base.name}: {why}",
                "set model.attention: auto",
            )
    return str(values.set_auto("model.attention", skeleton.attention, why))


def packing(recipe: Recipe, method: Method, base: Base, head: str, values: Values) -> bool:
    model_type = str(base.config.get("model_type"))
    why = ""
    if head != "language":
        why = "only a causal language model can keep packed rows apart"
    elif model_type not in PACKED_FAMILIES:
        known = ", ".join(sorted(PACKED_FAMILIES))
        why = f"packed rows are not proven isolated in {model_type} (only in {known})"
    elif recipe.model.attention == "eager":
        why = "packed rows are kept apart by fused attention, and model.attention is eager"
    elif not method.packing:
        why = f"packed rows would attend to each other with {method.name}"
    if recipe.data.packing is True and why:
        raise RecipeError(
            "data.packing: true, but packed rows of this model are not isolated",
            why,
            "set data.packing: auto; rows are then padded in groups of similar length",
        )
    said = (
        f"{why}: rows are padded, grouped by length"
        if why
        else f"packed rows stay isolated in {model_type}"
    )
    return bool(values.set_auto("data.packing", not why, said))


def shares(recipe: Recipe, method: Method, base: Base) -> bool:
    """Return whether packed rows may share the tokens they begin with: the forward pass has no
    dropout and no noise, and no virtual tokens come before the rows."""
    rates = [value for key, value in base.config.items() if "drop" in key]
    never_drops = not any(isinstance(value, (int, float)) and value for value in rates)
    never_drops = never_drops and not recipe.train.embedding_noise
    return never_drops and not method.virtual_tokens and not getattr(recipe.method, "dropout", 0.0)


def stages(recipe: Recipe, method: Method, rows: int, values: Values) -> tuple[Stage, ...]:
    train, rlhf = recipe.train, recipe.rlhf
    optimizers.scheduler(train, values)
    if rlhf is not None and rlhf.draws:
        why = f"the default of {rlhf.algorithm}"
        rows *= int(values.set_auto("rlhf.responses_per_prompt", rlhf.copies, why))
    if isinstance(recipe.method, StagedOptions):
        asked: list[tuple[str, float, float]] = [
            (s.train, optimizers.of_stage(train, recipe.method, s.learning_rate), s.epochs)
            for s in recipe.method.stages
        ]
        values.table["train.epochs"] = PlanValue(
            sum(epochs for _, _, epochs in asked), "the sum of method.stages"
        )
        values.table["train.learning_rate"] = PlanValue(asked[0][1], "the first of method.stages")
    else:
        which = "last_layer" if method.name == "last_layer" else "all"
        usual = recipe.method.own_learning_rate or method.learning_rate
        rate = values.set_auto("train.learning_rate", *optimizers.rate(train, usual, method.name))
        asked = [(which, rate, train.epochs)]
    stages: list[Stage] = []
    for name, rate, epochs in asked:
        start = stages[-1].stop if stages else 0
        steps = max(1, math.ceil(round(epochs * rows, 6) / train.batch_size))
        if train.max_steps is not None:
            steps = min(steps, train.max_steps - start)
        if steps > 0:
            warmup = train.warmup if train.warmup >= 1 else math.ceil(train.warmup * steps)
            stages.append(Stage(name, rate, start, start + steps, int(min(warmup, steps - 1))))
    contradictions_train.refuse_decay(train, stages)
    values.table["train.max_steps"] = PlanValue(
        stages[-1].stop,
        values.table["train.max_steps"].origin
        if train.max_steps == stages[-1].stop
        else "auto: epochs x rows / batch_size, rounded up",
    )
    return tuple(stages)


def unreached(recipe: Recipe, stages: Sequence[Stage], rows: int) -> list[str]:
    """Return a warning if the epochs end before the steps that the recipe names."""
    train, rlhf, stop = recipe.train, recipe.rlhf, stages[-1].stop
    if train.max_steps is None or train.max_steps <= stop:
        return []
    said = f"train.max_steps: {train.max_steps} is more than the epochs have: the run ends after "
    if isinstance(recipe.method, StagedOptions):
        return [f"{said}{stop} (method.stages)"]
    rows *= rlhf.copies if rlhf is not None and rlhf.draws else 1
    needed = math.ceil(train.max_steps * train.batch_size / rows)
    return [
        f"{said}{stop}, train.epochs: {train.epochs:g}; for all of them, train.epochs: {needed}"
    ]


def defaults(recipe: Recipe, prepared: Prepared, base: Base, head: str, values: Values) -> None:
    room = prepared.report["max_length"]
    whole = "the model's context length"
    generates = recipe.rlhf is not None and recipe.rlhf.draws
    kept = "tokens to generate" if generates else "virtual tokens"
    own = f"{whole} minus {base.context_length - room} {kept}"
    why = prepared.report["fitting"]["max_length"] or (
        whole if room == base.context_length else own
    )
    given = recipe.data.max_length
    if isinstance(given, str) and given != "auto":
        values.table["data.max_length"] = PlanValue(room, f"{given}: {why}")
    values.set_auto("data.max_length", room, why)
    task = "classification" if head == "classes" else "generation"
    values.set_auto("model.task", task, f"what {base.config.get('model_type')} models are for")
    values.set_auto("data.template", prepared.template, "detected from the columns")
    _cut(prepared, values)
    if found_labels := prepared.report.get("labels"):
        values.table["data.labels"] = PlanValue(found_labels, "auto: the labels found in the rows")
    _conversation(prepared, values)
    values.set_auto(
        "data.render",
        "chat" if prepared.chat_template else "raw",
        "the template has chat turns"
        if prepared.chat_template
        else "no chat turns, or the base has no chat template",
    )


def _cut(prepared: Prepared, values: Values) -> None:
    """Say what rows lose that are too long."""
    fitting = prepared.report["fitting"]
    if "long" in fitting:
        values.set_auto("data.long", fitting["long"], fitting["long_why"])
    values.set_auto("data.cut", fitting["cut"], fitting["cut_why"])


def _conversation(prepared: Prepared, values: Values) -> None:
    """Say what becomes of reasoning, which date prompts show, and how answers are asked for."""
    report = prepared.report
    share, said = reasoned.share(report), report.get(reasoned.WITH, 0)
    if said:
        rows, answers = report["rows_train"], report[reasoned.ANSWERS]
        why = f"{report[reasoned.ROWS]} of {counted(rows, 'row')} have some"
        why += "" if rows == answers else f", in {share}"
        if said < answers and prepared.sent.quiet:
            ((name, value),) = prepared.sent.quiet.items()
            why += f"; {answers - said} without: {name}={json.dumps(value)} when sampling"
        values.set_auto("data.reasoning", "learn", why)
    if date := report.get("chat_date"):
        values.set_auto("model.chat_date", date, "today; the chat template writes the date")
    elif values.table["model.chat_date"].origin == BEGUN:
        values.table["model.chat_date"] = PlanValue("auto", BEGUN)
    if prepared.sent.arguments:
        those = (
            f"{share} have reasoning; asked for so" if share else "as most answers are asked for"
        )
        values.set_auto("model.chat_arguments", prepared.sent.arguments, those)
