"""Adapter tuning as a peft method: configuration, layer and model, registered on import.

A saved adapter is plain peft files of type BOTTLENECK; `import tuner.methods.bottleneck_layers`
makes `PeftModel.from_pretrained` read them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from peft import PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import register_peft_method
from torch import nn
from transformers.activations import ACT2FN

NAME = "bottleneck"


def _peft_type() -> PeftType:
    """Return the member that peft's registry needs; its enum cannot be extended from outside."""
    name = NAME.upper()
    if name not in PeftType.__members__:
        member = str.__new__(PeftType, name)
        member._name_, member._value_ = name, name
        PeftType._member_map_[name] = member
        PeftType._value2member_map_[name] = member
        PeftType._member_names_.append(name)
        type.__setattr__(PeftType, name, member)
    return PeftType[name]


PEFT_TYPE = _peft_type()


@dataclass
class BottleneckConfig(PeftConfig):
    """Configuration of adapter tuning.

    Attributes:
        target_modules: full names of the linear layers to put a bottleneck after.
        size: width of the bottleneck.
        activation: a name of transformers' activations.
        modules_to_save: names of modules to train in full and save with the adapter.
        dropout: share of the bottleneck's inner activations dropped in training.
    """

    target_modules: list[str] | str | None = field(default=None)
    size: int = field(default=32)
    activation: str = field(default="gelu")
    dropout: float = field(default=0.0)
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = PEFT_TYPE
        if isinstance(self.target_modules, list):
            # peft looks a name up in a set.
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A linear layer followed by y + up(act(down(y))), where y is its output.

    The up projection starts at zero, so that a new adapter changes nothing.
    """

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ()

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self._active_adapter = adapter_name
        self.merged_adapters: list[str] = []
        self.bottleneck_down = nn.ModuleDict({})
        self.bottleneck_up = nn.ModuleDict({})
        self.activation: dict[str, Any] = {}
        self.dropout: dict[str, float] = {}
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add a bottleneck."""
        width = _outputs(self.get_base_layer())
        down, up = nn.Linear(width, config.size), nn.Linear(config.size, width)
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        self.bottleneck_down[adapter_name] = down
        self.bottleneck_up[adapter_name] = up
        self.activation[adapter_name] = ACT2FN[config.activation]
        self.dropout[adapter_name] = config.dropout
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: a bottleneck is not linear."""
        raise NotImplementedError("a bottleneck adapter cannot be merged into the base weights")

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the base layer's output plus what the active bottlenecks add to it."""
        result: torch.Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        for name in self.active_adapters:
            if name not in self.bottleneck_down:
                continue
            down = cast("nn.Linear", self.bottleneck_down[name])
            inner = self.activation[name](down(result.to(down.weight.dtype)))
            inner = nn.functional.dropout(inner, self.dropout[name], self.training)
            result = result + self.bottleneck_up[name](inner).to(result.dtype)
        return result


def _outputs(layer: nn.Module) -> int:
    # GPT-2's Conv1D calls it nf.
    width: Any = getattr(layer, "out_features", None)
    return int(getattr(layer, "nf", 0) if width is None else width)


class BottleneckModel(BaseTuner):
    """A base model with bottlenecks after its target modules."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = BottleneckLayer(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)


register_peft_method(name=NAME, config_cls=BottleneckConfig, model_cls=BottleneckModel)
