"""The processes of a run: their number, their placement, and what each holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tuner.console.formatting import counted
from tuner.errors import RecipeError
from tuner.machine import ranks
from tuner.machine.ranks import Place
from tuner.methods.lora import LoraOptions
from tuner.methods.method import Method
from tuner.plan.values import PlanValue

if TYPE_CHECKING:
    from tuner.machine.hardware import Machine
    from tuner.plan.values import Values
    from tuner.recipe.schema import Recipe


@dataclass(frozen=True)
class Devices:
    """The processes of a run.

    Attributes:
        per_node: on each machine, one per GPU; on a CPU they share its processors.
        nodes: machines.
        strategy: ddp, each process holds the whole model; fsdp, a shard of the frozen base.
        unfed: processes or GPUs that take no part, because a step has no row for them.
    """

    per_node: int = 1
    nodes: int = 1
    strategy: str = "ddp"
    unfed: int = 0

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.per_node * self.nodes

    @property
    def sharded(self) -> bool:
        """Whether a forward pass needs all processes."""
        return self.strategy == "fsdp" and self.world > 1

    def share(self, batch_size: int) -> int:
        """Return the most rows of an optimizer step that one process gets."""
        return math.ceil(batch_size / self.world)

    def accumulation(self, batch_size: int, micro_batch_size: int) -> int:
        """Return the micro-batches of a whole optimizer step in one process."""
        return math.ceil(batch_size / (micro_batch_size * self.world))


def decide(
    recipe: Recipe, method: Method, task: str, machine: Machine, device: str, values: Values
) -> Devices:
    """Decide how many processes there are, and what each holds.

    Raises:
        RecipeError: another number was started, there are too few GPUs, or several processes would
            not make the same updates.
    """
    here, batch = ranks.place(), recipe.train.batch_size
    vllm = recipe.rlhf.vllm if recipe.rlhf is not None else "none"
    refused = "" if vllm == "none" else f"rlhf.vllm: {vllm} may sample other answers there"
    started = _started(recipe, here)
    nodes, per_node = here.world // here.local_world, here.local_world
    asked = int(values.set_auto("run.nodes", nodes, started or "one machine"))
    if started:
        values.set_auto("run.devices", per_node, started)
    else:
        nodes = asked
        gpus = len(machine.gpus) if device == "cuda" else 1
        why = counted(gpus, "GPU") if device == "cuda" else "one process uses all CPUs"
        chosen = gpus
        if chosen * nodes > 1 and refused:
            chosen, why = 1, refused
        per_node = int(values.set_auto("run.devices", chosen, why))
        if device == "cuda" and per_node > gpus:
            raise RecipeError(
                f"run.devices: {per_node}, but this machine has {counted(gpus, 'GPU')}",
                "two processes on one GPU would only wait for each other",
                "set run.devices: auto",
            )
    found = _fed(per_node, nodes, batch, values)
    if found.world == 1:
        values.set_auto("run.strategy", "ddp", "one process holds the whole model")
        return found
    if refused:
        raise RecipeError(
            f"{found.world} processes would not make the same updates as one here",
            refused,
            "set run.devices: 1",
        )
    micro = recipe.train.micro_batch_size
    parts = found.world * (1 if micro == "auto" else micro)
    if recipe.rlhf is not None and batch % parts:
        raise RecipeError(
            f"train.batch_size: {batch} does not split evenly over {found.world} processes",
            f"rlhf.algorithm: {recipe.rlhf.algorithm} needs whole micro-batches from each",
            f"set train.batch_size: {-(-batch // parts) * parts}",
        )
    strategy = values.set_auto("run.strategy", "ddp", "only trained tensors are synchronized")
    if strategy != "ddp":
        _refuse_strategy(strategy, recipe, method, task)
    return replace(found, strategy=strategy)


def _fed(per_node: int, nodes: int, batch: int, values: Values) -> Devices:
    """Return the processes that get a row in every step: all, or as many as a batch has rows."""
    fewer, machines = per_node, nodes
    if per_node * nodes > batch:
        fewer, machines = max(1, batch // nodes), min(nodes, batch)
    for key, number in (("run.devices", fewer), ("run.nodes", machines)):
        given = values.table[key]
        if given.value != number:
            why = f"{number} of {given.value}, because every process needs a row per step"
            values.table[key] = PlanValue(number, f"{given.origin}; {why}")
    return Devices(fewer, machines, unfed=per_node * nodes - fewer * machines)


def warnings(found: Devices, batch: int) -> list[str]:
    """Return a warning if a step has too few rows for all processes of a run."""
    if not found.unfed:
        return []
    return [
        f"train.batch_size: {batch} is the rows of a step over all processes, so only "
        f"{found.world} of {found.world + found.unfed} get one: the others stay idle; raise it to "
        "use them"
    ]


def _started(recipe: Recipe, here: Place) -> str:
    """Return who started this process as one of several; empty for a lone process."""
    if here.world == 1:
        return ""
    nodes = here.world // here.local_world
    batch = recipe.train.batch_size
    for key, asked, there, fed in (
        ("devices", recipe.run.devices, here.local_world, max(1, batch // nodes)),
        ("nodes", recipe.run.nodes, nodes, batch),
    ):
        # `tuner` itself starts fewer than a recipe names where a batch has too few rows.
        if isinstance(asked, int) and asked != there and not there == fed < asked:
            raise RecipeError(
                f"run.{key}: {asked}, but the launcher started {there}",
                f"{here.world} processes, {here.local_world} on this machine",
                f"set run.{key}: auto, or start as many",
            )
    return f"the launcher started {here.world} processes"


def _refuse_strategy(strategy: str, recipe: Recipe, method: Method, task: str) -> None:
    """Refuse what a strategy does not support, by name."""
    why = ""
    if not isinstance(recipe.method, LoraOptions):
        why = f"method.name: {method.name} is not supported with it; the lora family is"
    elif recipe.model.quantize != "none":
        why = f"model.quantize: {recipe.model.quantize} cannot be sharded"
    elif recipe.model.new_tokens:
        why = "model.new_tokens: the sharded matrix would get separate rows on each process"
    elif task != "sft":
        why = f"tuner {task} is not supported with it"
    if why:
        raise RecipeError(f"run.strategy: {strategy} cannot be used here", why, "use ddp or auto")
