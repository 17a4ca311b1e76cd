"""The tensors of a saved model, read one by one under the names that they have in memory.

Which stored name is which parameter, and which tensors are joined into one, is what transformers
does when anyone loads the model. The network itself is built without memory.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open


class Stored:
    """A saved model, of which one tensor at a time is in memory.

    Args:
        folder: transformers' files.
        network: its skeleton, see `skeleton`.
    """

    def __init__(self, folder: Path, network: Any) -> None:
        self.network = network
        self.wanted: Mapping[str, torch.Tensor] = network.state_dict()
        self._files: dict[str, Path] = {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, "pt") as tensors:
                self._files |= dict.fromkeys(tensors.keys(), file)
        # By the name of the parameter: the stored names and what joins them.
        self._parts: dict[str, list[tuple[str, str | None]]] = {}
        self.unknown: list[str] = []
        self._sort()

    def _sort(self) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            dot_natural_key,
            rename_source_key,
        )

        changes = get_model_conversion_mapping(self.network)
        renamings = [entry for entry in changes if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in changes if isinstance(entry, WeightConverter)]
        self._joins = {key: entry for entry in converters for key in entry.source_patterns}
        prefix = self.network.base_model_prefix
        for stored in sorted(self._files, key=dot_natural_key):
            name, pattern = rename_source_key(
                stored, renamings, converters, prefix, dict(self.wanted)
            )
            if name not in self.wanted and stored in self.wanted:
                name, pattern = stored, None
            if name in self.wanted:
                self._parts.setdefault(name, []).append((stored, pattern))
            else:
                self.unknown.append(stored)

    def names(self) -> set[str]:
        """Return the names of the parameters and buffers that are stored."""
        return set(self._parts)

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def get(self, name: str) -> torch.Tensor:
        """Return one tensor, as it is stored."""
        parts = self._parts[name]
        pattern = parts[0][1]
        if pattern is None:
            return self._read(parts[-1][0])
        join: Any = copy.deepcopy(self._joins[pattern])
        for stored, source in parts:
            tensor = self._read(stored)
            join.add_tensor(name, stored, source, lambda tensor=tensor: tensor)
        made = join.convert(name, model=self.network, config=self.network.config)
        (found,) = [made[name]] if name in made else made.values()
        joined: torch.Tensor = found[0] if isinstance(found, list) else found
        return joined

    def _read(self, stored: str) -> torch.Tensor:
        # Opened for each tensor: what stays mapped counts as memory of the process.
        with safe_open(self._files[stored], "pt") as tensors:
            found: torch.Tensor = tensors.get_tensor(stored).clone()
        return found


class Dequantized:
    """A base in memory: one that bitsandbytes has quantized, its weights read back one at a time,
    or one with adapters folded into it.

    Args:
        model: from `loading.base`, on the device of the job.
        network: its skeleton.
    """

    def __init__(self, model: Any, network: Any) -> None:
        self.network = network
        self.unknown: list[str] = []
        self._state = {name: model.get_parameter(name) for name, _ in model.named_parameters()}
        self._state |= dict(model.named_buffers())
        self._modules = dict(model.named_modules())
        self.wanted: Mapping[str, torch.Tensor] = network.state_dict()

    def __contains__(self, name: str) -> bool:
        return name in self._state

    def names(self) -> set[str]:
        """Return the names of the parameters and buffers."""
        return set(self._state) & set(self.wanted)

    def get(self, name: str) -> torch.Tensor:
        """Return one tensor; a quantized one as the numbers that the model computes with."""
        tensor: Any = self._state[name]
        found: torch.Tensor
        kind = type(tensor).__name__
        if kind in ("Params4bit", "Int8Params"):
            from bitsandbytes import functional
        if kind == "Params4bit":
            found = functional.dequantize_4bit(tensor.data, tensor.quant_state)
        elif kind == "Int8Params":
            scale = getattr(tensor, "SCB", None)
            if scale is None:
                scale = self._modules[name.rpartition(".")[0]].state.SCB
            found = functional.int8_vectorwise_dequant(tensor.data, scale)
        else:
            found = tensor.detach()
        return found.cpu()


def skeleton(auto_class: str, folder: str, trust: bool, **changes: Any) -> Any:
    """Return a network of a saved config without memory for its weights.

    Args:
        auto_class: of transformers.
        folder: holds config.json.
        trust: `model.trust_remote_code`.
        changes: of the config, such as `num_labels`.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust, **changes)
    with torch.device("meta"):
        network = getattr(transformers, auto_class).from_config(config, trust_remote_code=trust)
    network.tie_weights()
    return network


def tied(network: Any) -> dict[str, set[str]]:
    """Return, by name, all names of the same parameter, where it has several."""
    groups: dict[int, set[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), set()).add(name)
    return {name: group for group in groups.values() for name in group if len(group) > 1}
