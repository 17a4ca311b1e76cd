"""Which of several processes this is, and what they exchange.

A lone process imports nothing here: every function then returns its input. The processes of a run
are numbered by rank, from 0; only rank 0 writes, shows and exports.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tuner.errors import RecipeError, ResourceError, TrainingError, TunerError
from tuner.machine.failure import FailedElsewhere, await_keys, first_failure

Item = TypeVar("Item")
Seen = TypeVar("Seen")

# Variables that torchrun, accelerate and `tuner` itself set for a process of a group.
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_store: Any = None
# How often ranks have waited for others.
_waits = 0


@dataclass(frozen=True)
class Place:
    """The place of a process in its group, and on its machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes and shows."""
        return self.rank == 0


def place() -> Place:
    """Return the place that the environment names; that of a lone process if it names none."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world < 2 or "RANK" not in os.environ:
        return Place()
    rank = int(os.environ["RANK"])
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    return Place(rank, world, int(os.environ.get("LOCAL_RANK", rank % local_world)), local_world)


def meet() -> None:
    """Open the store that the ranks share, once; before anything that may fail on one of them."""
    global _store
    here = place()
    if here.world == 1 or _store is not None:
        return
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", here.rank, here.world))
    _store = PrefixStore("tuner", store)


def join(world: int, device: str, timeout: float, identity: Mapping[str, Any]) -> None:
    """Make the process group of a run, and check that every rank has the same plan.

    Args:
        world: processes that the plan expects.
        device: cpu or cuda.
        timeout: seconds that a rank waits for the others.
        identity: what the run depends on.

    Raises:
        ResourceError: the number of processes is not the plan's.
        RecipeError: another rank has read another recipe or other rows.
    """
    here = place()
    if here.world != world:
        raise wrong_world(world, here.world)
    if here.world == 1:
        return
    import torch
    from torch.distributed.distributed_c10d import PrefixStore

    meet()
    cuda = device == "cuda"
    if cuda:
        # Slurm may show each of its tasks only the GPU that is its own.
        torch.cuda.set_device(here.local_rank % torch.cuda.device_count())
    torch.distributed.init_process_group(
        # Agreements are in main memory; gradients go between the GPUs.
        backend="cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=PrefixStore("group", _store),
        rank=here.rank,
        world_size=here.world,
        timeout=datetime.timedelta(seconds=timeout),
    )
    agreed = json.dumps(identity, sort_keys=True)
    if not same(hashlib.sha256(agreed.encode()).hexdigest()):
        raise RecipeError(
            "the processes of this run do not have the same recipe, base or rows",
            f"each makes its own plan, and that of rank {here.rank} or of another rank differs",
            "give every node the same files",
        )


def wrong_world(planned: int, present: int) -> TunerError:
    """Return the error for another number of processes than the plan's."""
    return ResourceError(
        f"the plan expects {planned} processes, but {present} are running",
        "with fewer processes, training would silently skip part of the rows",
        f"start {planned}, or set run.devices and run.nodes to match",
    )


def leave() -> None:
    """End the group: from here on this process is alone."""
    global _store
    if place().world == 1:
        return
    import torch
    from accelerate.state import AcceleratorState

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)
    _store = None
    for name in VARIABLES:
        os.environ.pop(name, None)


def total(values: Sequence[float]) -> list[float]:
    """Return the sum of each value over all ranks, in float64."""
    if place().world == 1:
        return list(values)
    import torch

    sums = torch.tensor(list(values), dtype=torch.float64)
    torch.distributed.all_reduce(sums)
    return [float(value) for value in sums]


def sum_gradients(parameters: Sequence[Any], present: Sequence[float]) -> None:
    """Sum the gradients of some parameters over all ranks, in one message.

    Args:
        parameters: the same on every rank.
        present: on how many ranks each of them has a gradient.
    """
    if place().world == 1:
        return
    import torch

    learned = [each for each, count in zip(parameters, present, strict=True) if count]
    for each in learned:
        each.grad = torch.zeros_like(each) if each.grad is None else each.grad
    flat = torch.cat([each.grad.flatten() for each in learned])
    torch.distributed.all_reduce(flat)
    for each, part in zip(learned, flat.split([each.numel() for each in learned]), strict=True):
        each.grad.copy_(part.view_as(each))


def gather(value: Item) -> list[Item]:
    """Return the value of every rank, in rank order."""
    here = place()
    if here.world == 1:
        return [value]
    import torch

    values: list[Any] = [None] * here.world
    torch.distributed.all_gather_object(values, value)
    return values


def share(value: Item) -> Item:
    """Return the value of rank 0."""
    if place().world == 1:
        return value
    import torch

    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def by_first(make: Callable[[], Item]) -> Item:
    """Return on every rank what only rank 0 makes, however long it takes.

    Raises:
        FailedElsewhere: rank 0 has failed.
    """
    here = place()
    if here.world == 1:
        return make()
    made: Any = make() if here.main else None
    _await([0])
    shared: Item = share(made)
    return shared


def await_all() -> None:
    """Wait until all ranks are here, as long as it takes to read a large base."""
    if place().world > 1:
        _await(range(place().world))


def _await(those: Iterable[int]) -> None:
    """Wait for some ranks, each of which also calls this; a collective would give up sooner."""
    global _waits
    _waits += 1
    keys = {number: f"here/{_waits}/{number}" for number in those}
    if mine := keys.get(place().rank):
        _store.set(mine, "")
    await_keys(_store, list(keys.values()))


def same(value: str) -> bool:
    """Return whether all ranks have the same value."""
    return len(set(gather(value))) == 1


def spread(
    items: Sequence[Item],
    observe: Callable[[Sequence[Item], Callable[[int, int], None]], Sequence[Seen]],
    tick: Callable[[int, int], None],
    whole: bool = False,
) -> list[Seen]:
    """Return the results of `observe` for each item, in order; every rank handles its share.

    Args:
        items: the same on every rank.
        observe: called with items and a tick; returns one result per item.
        tick: called with (done, total).
        whole: let every rank handle all: where a forward pass needs all ranks.
    """
    here = place()
    if here.world == 1 or whole:
        return list(observe(items, tick))
    own = items[here.rank :: here.world]
    mine = observe(own, lambda done, _: tick(min(done * here.world, len(items)), len(items)))
    shares = [iter(part) for part in gather(list(mine))]
    return [next(shares[number % here.world]) for number in range(len(items))]


def digest(tensor: Any) -> str:
    """Return the sha256 of a tensor's bytes."""
    import torch

    data = tensor.detach().cpu().contiguous().view(torch.uint8)
    return hashlib.sha256(data.numpy().tobytes()).hexdigest()


def check_replicas(tensors: Iterable[tuple[str, Any]], when: str) -> None:
    """Refuse trained tensors that are not the same on every rank.

    Args:
        tensors: by name.
        when: for the message.

    Raises:
        TrainingError: names the first that differs.
    """
    if place().world == 1:
        return
    every = gather({name: digest(tensor) for name, tensor in tensors})
    differing = sorted(
        name for name in set().union(*every) if len({one.get(name) for one in every}) > 1
    )
    if differing:
        raise TrainingError(
            f"the processes of this run do not train the same tensors {when}",
            f"{len(differing)} tensors differ, the first is {differing[0]}",
            "report this with run.json; until it is fixed, train with run.devices: 1",
        )


@contextlib.contextmanager
def one_failure() -> Iterator[None]:
    """Make what fails first on any rank the failure of all, shown once.

    Raises:
        FailedElsewhere: another rank failed before this one.
    """
    try:
        yield
    except FailedElsewhere:
        raise
    except BaseException as error:
        first = first_failure(error, _store, place().rank)
        if first is None:
            raise
        raise first from error
