"""BOFT without peft's detours: the same numbers, at the price of the base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.boft.layer import Linear
from torch.utils.flop_counter import FlopCounterMode

from tuner.machine import hardware
from tuner.model.kernels import fused_boft
from tuner.plan import make
from tuner.recipe import load as recipe_load
from tuner.run import build

ROW = torch.tensor([[9, 30, 41, 77, 120, 6, 300]])


@pytest.fixture
def live(make_recipe: Callable[..., Path]) -> Any:
    """A model as it is trained, its rotations and scales away from their start."""
    loaded = recipe_load.load(make_recipe(method={"name": "boft"}), verb="sft")
    made = make.make(loaded, hardware.detect(), output=Path("unused"))
    network = build.start(made, build.load(made)).model
    generator = torch.Generator().manual_seed(4)
    for name, parameter in network.named_parameters():
        if "boft_" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def as_peft_has_it(network: Any) -> None:
    """Put peft's own class, and the matrix that it permutes by, back."""
    for module in network.modules():
        if isinstance(module, Linear):
            module.__class__ = Linear
            module.register_buffer("boft_P", torch.eye(module.in_features)[None])


def gradients(network: Any) -> dict[str, torch.Tensor]:
    network.zero_grad()
    network(input_ids=ROW, labels=ROW, use_cache=False).loss.backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def flops(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_forward_backward_and_merge_are_those_of_peft(live: Any) -> None:
    found = gradients(live)
    with torch.no_grad():
        logits = live(input_ids=ROW).logits
    layer = next(module for module in live.modules() if isinstance(module, Linear))
    rotation = layer.get_delta_weight("default")[0]
    as_peft_has_it(live)
    assert type(layer) is Linear
    torch.testing.assert_close(layer.get_delta_weight("default")[0], rotation, rtol=0, atol=0)
    with torch.no_grad():
        assert torch.equal(live(input_ids=ROW).logits, logits)
    wanted = gradients(live)
    assert found.keys() == wanted.keys()
    assert len(found) == 2 * 14
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_step_costs_little_more_than_the_base(live: Any) -> None:
    with live.disable_adapter():
        base = flops(lambda: live(input_ids=ROW))
    step = flops(lambda: gradients(live))
    # Forward, and backward to the inputs: the base's weights have no gradient.
    assert step < 3 * base
    as_peft_has_it(live)
    assert flops(lambda: gradients(live)) > 3 * base


def test_a_loaded_adapter_makes_its_rotation_once(live: Any, tmp_path: Path) -> None:
    """And again where its weights have changed."""
    as_peft_has_it(live)
    live.requires_grad_(False)
    live.eval()
    assert fused_boft.hold(live) == 14
    with torch.no_grad():
        first = live(input_ids=ROW).logits
        again = flops(lambda: live(input_ids=ROW))
        assert again < flops(lambda: live.double()(input_ids=ROW))
        for _, parameter in live.float().named_parameters():
            parameter.mul_(1.01)
        assert not torch.equal(live(input_ids=ROW).logits, first)
        changed = live(input_ids=ROW).logits
        as_peft_has_it(live)
        assert torch.equal(live(input_ids=ROW).logits, changed)
