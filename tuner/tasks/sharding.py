"""The frozen base sharded across processes (FSDP2), with the whole adapter on each.

Only frozen weights are sharded, by torch's `fully_shard`, layer by layer: a layer is gathered when
it is computed and freed after that. Every machine holds the base once, among its own processes, so
that no frozen weight travels between machines. One process of each machine reads it from the disk
and sends the others their shares, tensor by tensor: main memory needs to hold it once. The adapter
is small, so it stays whole on every process, its gradients are summed as usual, and optimizer and
checkpoints are unaffected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tuner.machine import ranks

if TYPE_CHECKING:
    from tuner.plan.plan import Plan


def reads(plan: Plan) -> bool:
    """Return whether this process reads the base; the others only know the shapes of its tensors.

    Starts that are computed from the base (PiSSA, OLoRA, EVA, LoftQ) need it whole everywhere.
    """
    computed = getattr(plan.recipe.method, "init", "default") != "default"
    return computed or ranks.place().local_rank == 0


def shard(plan: Plan, live: Any) -> None:
    """Keep this process's share of the frozen weights, on the plan's device.

    Args:
        plan: has the processes.
        live: the model, on the CPU, or on torch's meta device where this process does not read.
    """
    # The disk may take longer than `run.timeout`.
    ranks.await_all()
    trained = {parameter for parameter in live.parameters() if parameter.requires_grad}
    whole = {name: tensor.detach() for name, tensor in _tensors(live) if not tensor.is_meta}
    for parameter in trained:
        if not parameter.is_meta:
            parameter.data = parameter.data.to(plan.device)
    shape = (plan.devices.nodes, plan.devices.per_node)
    mesh = init_device_mesh(plan.device, shape, mesh_dim_names=("machines", "processes"))
    how: dict[str, Any] = {"mesh": mesh["processes"], "ignored_params": trained}
    network = live.get_base_model()
    kinds = set(network._no_split_modules or ())
    for module in network.modules():
        if type(module).__name__ in kinds:
            fully_shard(module, **how)
    # Scoring calls the network itself, the Trainer the model around it.
    fully_shard(network, **how)
    fully_shard(live, **how)
    if not whole:
        _materialise(live, plan.device)
    if any(ranks.gather(not whole)):
        _deal(live, whole, mesh["processes"], plan.device)


def _tensors(live: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield parameters and buffers, each once."""
    yield from live.named_parameters()
    yield from live.named_buffers()


def _materialise(live: Any, device: str) -> None:
    """Give every tensor of a model memory without content; what modules share stays shared."""
    places: dict[int, list[tuple[torch.nn.Module, str]]] = {}
    for module in live.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            places.setdefault(id(parameter), []).append((module, name))
    live.to_empty(device=device)
    for (first, name), *others in places.values():
        for module, other in others:
            module._parameters[other] = first._parameters[name]


@torch.no_grad()
def _deal(live: Any, whole: Mapping[str, torch.Tensor], mesh: DeviceMesh, device: str) -> None:
    """Give all processes of a machine their parts of what the first of them has read.

    Args:
        live: the sharded model.
        whole: its tensors by name; empty in the other processes.
        mesh: the processes of this machine.
        device: where the parts are.
    """
    for name, tensor in _tensors(live):
        if whole:
            given = whole[name].to(device)
        else:
            given = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        if isinstance(tensor, DTensor):
            part = distribute_tensor(given, mesh, tensor.placements)
            tensor.to_local().copy_(part.to_local())
        else:
            torch.distributed.broadcast(given, group=mesh.get_group(), group_src=0)
            tensor.copy_(given)


class AdapterForTrainer(torch.nn.Module):
    """The adapter alone, as the Trainer's model: it computes as the whole model does.

    accelerate wraps it for data-parallel training, which sums the gradients of the adapter; the
    sharded weights behind it must not be sent, and DDP could not send them.

    Args:
        live: the model; `shard` has been called.
    """

    def __init__(self, live: Any) -> None:
        super().__init__()
        # Not as a module: its frozen parameters would count as parts of this one.
        object.__setattr__(self, "live", live)
        for name, parameter in live.named_parameters():
            if parameter.requires_grad:
                self.register_parameter(name.replace(".", "/"), parameter)

    def forward(self, **inputs: Any) -> Any:
        """Return the output of the whole model."""
        return self.live(**inputs)

    def train(self, mode: bool = True) -> AdapterForTrainer:
        """Switch the mode of the whole model."""
        self.live.train(mode)
        return super().train(mode)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.live, name)
