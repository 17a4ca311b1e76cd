"""The frozen base sharded across processes (FSDP2), with the whole adapter on each.

Only frozen weights are sharded, by torch's `fully_shard`, layer by layer: a layer is gathered when
it is computed and freed after that. Every machine holds the base once, among its own processes, so
that no frozen weight travels between machines. The adapter is small, so it stays whole on every
process, its gradients are summed as usual, and optimizer and checkpoints are unaffected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

if TYPE_CHECKING:
    from tuner.plan.plan import Plan


def shard(plan: Plan, live: Any) -> None:
    """Keep this process's share of the frozen weights, on the plan's device."""
    trained = {parameter for parameter in live.parameters() if parameter.requires_grad}
    for parameter in trained:
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
