"""From a loaded base to a trained model: building, resuming, the stages, and what moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import extract_model_from_parallel

from tuner import adapters, checkpoint, out_of_memory, ranks, recipe_history, sharding
from tuner.errors import IntegrityError, TrainingError
from tuner.methods import full, lora
from tuner.tasks import TASKS
from tuner.tasks.sft import optimizer_and_schedule
from tuner.tasks.watch import Watch

if TYPE_CHECKING:
    from pathlib import Path

    from tuner.decide import Stage
    from tuner.plan import Plan
    from tuner.record import RunFolder
    from tuner.signals import StopRequest

# What a plan decides anew for another number of processes.
RECUT = ("train.micro_batch_size", "train.gradient_checkpointing")


@dataclass
class Trained:
    """A live model and where its training started.

    Attributes:
        model: what is trained; replaced by the merged model when that is exported.
        start: sha256 of every tensor that any stage trains, before the first step.
        start_state: the adapter's tensors before the first step, where the export needs them.
        judge: scores answers, where a policy learns from rewards.
        scores: of the held-out rows, before and after; the card beside an artefact says them.
        unmoved: names of trained tensors that are still where they started.
    """

    model: Any
    start: dict[str, str]
    start_state: dict[str, torch.Tensor] = field(default_factory=dict)
    unmoved: list[str] = field(default_factory=list)
    judge: Any = None
    scores: Mapping[str, Any] = field(default_factory=dict)


def start(plan: Plan, base: Any) -> Trained:
    """Put the method on the base, seeded, so that every process starts from the same tensors."""
    if not plan.method.adapter:
        # In bfloat16 most updates of a weight would round to nothing; autocast computes in it.
        base.float()
    torch.manual_seed(plan.recipe.run.seed)
    model = adapters.build(base, plan, plan.prepared.train)
    judge = TASKS[plan.task].prepare(plan, model)
    model.config.use_cache = False
    if plan.gradient_checkpointing:
        model.enable_input_require_grads()
    digests: dict[str, str] = {}
    for stage in plan.stages:
        set_stage(plan, model, stage)
        for name, parameter in trainable(model):
            digests.setdefault(name, ranks.digest(parameter))
    ranks.check_replicas(trainable(model), "at the start")
    set_stage(plan, model, plan.stages[0])
    state: dict[str, torch.Tensor] = {}
    if lora.moves_base(plan.recipe.method):
        from peft import get_peft_model_state_dict

        state = {k: v.detach().clone() for k, v in get_peft_model_state_dict(model).items()}
    if plan.devices.sharded:
        sharding.shard(plan, model)
    return Trained(model, digests, state, judge=judge)


def train(
    plan: Plan,
    trained: Trained,
    folder: RunFolder,
    stop: StopRequest,
    progress: Callable[[int, int, Mapping[str, Any]], None],
    between: Callable[[int], None],
    resumed: checkpoint.Checkpoint | None,
    tell: Callable[[str], None] = lambda text: None,
    warn: Callable[[str], None] = lambda text: None,
) -> None:
    """Run the stages that remain.

    Args:
        plan: the plan.
        trained: updated in place.
        folder: takes metrics and checkpoints.
        stop: the run's signal handling; a signal during a step is honoured after it.
        progress: told (step, total, metrics).
        between: called with the number, from 1, of each finished stage but the last.
        resumed: the checkpoint to go on from.
        tell: given a line for people.
        warn: given a warning for them.

    Raises:
        Interrupted: a signal asked to stop; a checkpoint of the last step is sealed.
        TrainingError: a loss or gradient is not finite, or nothing moved.
        ResourceError: the disk is full, or memory does not do for one row a forward pass.
    """
    plan = out_of_memory.as_found(plan, folder.record)
    watch = Watch(plan, folder, stop, progress, tell)
    done = resumed.step if resumed else 0
    for number, stage in enumerate(plan.stages):
        set_stage(plan, trained.model, stage)
        watch.follow(trained.model, trainable(trained.model))
        in_stage = resumed is not None and resumed.state["stage"] == number
        if done >= stage.stop:
            if resumed is not None and in_stage:
                checkpoint.restore_tensors(resumed, dict(watch.parameters))
                plan.method.hooks.restore(trained.model, resumed.state["method"])
                if number < len(plan.stages) - 1:
                    between(number + 1)
            continue
        optimizers = optimizer_and_schedule(watch.parameters, plan, stage)
        if resumed is not None and in_stage:
            checkpoint.restore(resumed, dict(watch.parameters), *optimizers)
            watch.resume(resumed.state["window"])
            plan.method.hooks.restore(trained.model, resumed.state["method"])
        task_state = resumed.state["task"] if resumed is not None and in_stage else {}
        first = max(done, stage.start)
        with stop.deferred():
            plan = _carry_out(plan, trained, stage, first, watch, optimizers, task_state, warn)
        stop.check()
        trained.model.eval()
        if number < len(plan.stages) - 1:
            between(number + 1)
    trained.model.zero_grad(set_to_none=True)
    trained.unmoved = _unmoved(trained)
    with torch.no_grad():
        plan.method.hooks.finish(trained.model)


def gather(plan: Plan, trained: Trained) -> Plan:
    """Put the model back into one piece, for rank 0 alone; the plan to export it by."""
    if plan.devices.sharded and ranks.place().main:
        plan, trained.model = sharding.whole(plan, trainable(trained.model))
    return plan


def newest_checkpoint(plan: Plan, folder: Path) -> tuple[checkpoint.Checkpoint | None, list[str]]:
    """The checkpoint a resumed run goes on from, or None; and what had to be skipped.

    Args:
        plan: of the run that resumes.
        folder: the run folder.

    Raises:
        IntegrityError: it was written under another recipe or data; or all are damaged.
    """
    path, skipped = checkpoint.newest(folder / "checkpoints")
    if path is None:
        if skipped:
            raise IntegrityError(
                "no intact checkpoint is left",
                problems=skipped,
                fix="start again with another --output",
            )
        return None, []
    found = checkpoint.load(path, verified=True)
    before = found.state.get("processes", 1)
    # The same rows in the same order, cut otherwise: the update is the same but for rounding.
    allowed = RECUT if before != plan.devices.world else ()
    current = plan.identity()
    saved = recipe_history.identity(found.state["identity"], current)
    checkpoint.check_identity(saved, current, allowed)
    return found, skipped


def _carry_out(
    plan: Plan,
    trained: Trained,
    stage: Stage,
    first: int,
    watch: Watch,
    optimizers: tuple[torch.optim.Optimizer, Any],
    task_state: dict[str, Any],
    warn: Callable[[str], None],
) -> Plan:
    """The steps of a stage that remain; the plan with the micro-batch that memory has allowed.

    A step in which memory ran out is done anew, in smaller parts, as if it had never begun.
    """
    while True:
        watch.expect(plan, first, task_state)
        try:
            make = TASKS[plan.task].trainer
            make(plan, trained, stage, first, watch, optimizers, task_state).train()
            return plan
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory.ran_out(error):
                raise
            first, task_state = watch.number, watch.state_before
            plan = out_of_memory.shrink(plan, error, watch, warn)
        finally:
            # Off comes the autocast that training put around the forward pass: what follows
            # computes as it did before training, and as the exported model will.
            trained.model = extract_model_from_parallel(trained.model, keep_fp32_wrapper=False)
        # Only here nothing refers to the error any more, whose frames hold the activations.
        out_of_memory.let_go(trained.model)


def set_stage(plan: Plan, model: Any, stage: Stage) -> None:
    if not plan.method.adapter:
        full.set_trainable(model, stage.train)


def trainable(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _unmoved(trained: Trained) -> list[str]:
    parameters = dict(trained.model.named_parameters())
    unmoved = [
        name for name, digest in trained.start.items() if ranks.digest(parameters[name]) == digest
    ]
    if len(unmoved) == len(trained.start):
        raise TrainingError(
            "nothing was learned",
            "every trained tensor is still where it started",
            "check train.learning_rate and that the data has supervised tokens",
        )
    return unmoved
