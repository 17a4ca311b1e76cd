"""BOFT's rotation without peft's products that change nothing.

With one butterfly factor a layer's input is rotated block by block. peft makes a whole matrix of
the blocks, multiplies it by two permutations and an identity matrix, none of which changes
anything, and does so in every forward pass: nearly all of a step's time on a CPU. Here a training
step rotates only the blocks, and where weights do not change the matrix is computed once.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.tuners.boft.layer import Linear

from tuner.model.kernels.replace import replace


def hold(model: torch.nn.Module) -> int:
    """Make BOFT layers that are not trained compute their rotation once; return their number."""
    return replace(model, _fits, _held)


def put(model: torch.nn.Module) -> int:
    """Replace the BOFT layers of a model that is trained; return their number."""
    return replace(model, lambda module: _fits(module) and _one_factor(module), _fused)


def _fits(module: Any) -> bool:
    return type(module) is Linear


def _one_factor(module: Any) -> bool:
    return all(blocks.shape[0] == 1 for blocks in module.boft_R.values())


def _held(module: Any) -> Any:
    module.__class__ = HeldBoft
    return module


def _fused(module: Any) -> Any:
    module.__class__ = FusedBoft
    # One factor permutes nothing, and this matrix is as large as the layer.
    del module.boft_P
    return module


class HeldBoft(Linear):
    """peft's layer, which caches its rotation while its weights are the same."""

    held: tuple[Any, torch.Tensor] | None = None

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map x (..., inputs) to (..., outputs)."""
        plain = self.disable_adapters or self.merged or len(self.active_adapters) != 1
        if plain or torch.is_grad_enabled():
            self.held = None
            result: torch.Tensor = super().forward(x, *args, **kwargs)
            return result
        return self._scaled(x @ self._rotation(x), *args, **kwargs)

    def _rotation(self, x: torch.Tensor) -> torch.Tensor:
        blocks = self.boft_R[self.active_adapters[0]]
        state = (blocks.data_ptr(), blocks._version, blocks.dtype, x.dtype, x.device)
        if self.held is None or self.held[0] != state:
            matrix: torch.Tensor = self.get_delta_weight(self.active_adapters[0])[0]
            self.held = state, matrix.to(x)
        return self.held[1]

    def _scaled(self, rotated: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the output for a rotated input; the bias is not scaled."""
        result: torch.Tensor = self.base_layer(rotated, *args, **kwargs)
        scale = self.boft_s[self.active_adapters[0]].squeeze(-1)
        bias = cast("torch.Tensor | None", self.base_layer.bias)
        result = result * scale if bias is None else (result - bias) * scale + bias
        return result.to(rotated.dtype)


class FusedBoft(HeldBoft):
    """A layer with one butterfly factor that is trained."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map x (..., inputs) to (..., outputs)."""
        if self.disable_adapters or self.merged or not torch.is_grad_enabled():
            return super().forward(x, *args, **kwargs)
        self.held = None
        (name,) = self.active_adapters
        blocks = self.boft_dropout[name](self._blocks(name)[None])[0].to(x)
        # A product for each block over all positions of x.
        parts = x.reshape(-1, *blocks.shape[:2]).transpose(0, 1)
        return self._scaled((parts @ blocks).transpose(0, 1).reshape(x.shape), *args, **kwargs)

    def get_delta_weight(self, adapter: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return, as peft does, the rotation (inputs, inputs) and the scale of each output."""
        return torch.block_diag(*self._blocks(adapter)), self.boft_s[adapter]

    def _blocks(self, adapter: str) -> torch.Tensor:
        """Return the rotated blocks, (blocks, size, size)."""
        made: torch.Tensor = self.cayley_batch(self.boft_R[adapter][0])  # type: ignore[no-untyped-call]
        return made
