"""Two processes with a fake GPU each, which send each other what NCCL would by gloo."""

from __future__ import annotations

import math
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from tests.gpu import runs
from tests.gpu.fake import Fake
from tests.gpu.forked import on_fake, own_pool
from tuner.machine import cuda_driver, ranks
from tuner.record import checkpoint
from tuner.record.run_json import read_metrics
from tuner.tasks.callbacks import StepLoss

SHORT: dict[str, Any] = {
    "method": {"name": "lora", "r": 4},
    "eval": {"enabled": False, "samples": 0},
    "export": {"formats": []},
}


def on_two(work: Callable[[], Any]) -> None:
    """Do the same in two processes, as a launcher starts them."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    true = torch.distributed.init_process_group

    def init(backend: str, **given: Any) -> None:
        assert backend == "cpu:gloo,cuda:nccl"
        true(backend="cpu:gloo,cuda:gloo", **given)

    pid = os.fork()
    place = {"RANK": int(not pid), "LOCAL_RANK": int(not pid), "WORLD_SIZE": 2}
    place |= {"LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    given = {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
    given["GLOO_SOCKET_IFNAME"] = "lo"
    devices = tuple(
        cuda_driver.Device("fake", 80 << 30, (9, 0), False, (0, bus, 0)) for bus in range(2)
    )
    own_pool()
    try:
        with (
            mock.patch.dict(os.environ, given),
            mock.patch.object(torch.distributed, "init_process_group", init),
            # It takes times by events of CUDA, which this build has none of.
            mock.patch.object(torch.distributed.Logger, "set_runtime_stats_and_log"),
            mock.patch.object(cuda_driver, "ask", return_value=cuda_driver.Answer(devices)),
        ):
            work()
    except BaseException:
        if not pid:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        raise
    if not pid:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def trained(run: Path) -> dict[str, torch.Tensor]:
    """The tensors after the second step."""
    return load_file(run / "checkpoints" / "step-2" / "model.safetensors")


@on_fake(devices=2)
def test_each_has_its_gpu_and_the_updates_are_those_of_one(gpu: Fake, tmp_path: Path) -> None:
    # Adam's first steps are as long as the rate, also where a gradient is little but rounding.
    given = {**SHORT, "model": {"dtype": "float32"}, "train": {"learning_rate": 1e-4}}
    # The same rows share a forward pass.
    given["train"]["micro_batch_size"] = 1
    recipe = runs.write(tmp_path, **given)

    def both() -> None:
        runs.train(recipe, folder="two")
        mine = ranks_of[0]
        assert gpu.peaks[mine] > 0
        assert gpu.peaks[1 - mine] == 0

    ranks_of: list[int] = []
    true = ranks.join

    def join(*given: Any) -> None:
        true(*given)
        ranks_of.append(ranks.place().rank)

    with mock.patch.object(ranks, "join", join):
        on_two(both)
    runs.train(runs.write(tmp_path, run={"devices": 1}, **given), folder="one")
    expected, found = trained(tmp_path / "one"), trained(tmp_path / "two")
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert float((found[name] - tensor).abs().max()) < 1e-5, name
    for line, other in zip(*(read_metrics(tmp_path / run) for run in ("one", "two")), strict=True):
        assert other["loss"] == pytest.approx(line["loss"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-4)


@on_fake(devices=2, capability=(7, 5))
def test_what_overflows_in_one_is_repeated_by_both(tmp_path: Path) -> None:
    """The gradients that they exchange are scaled; both find them infinite, and halve alike."""
    recipe = runs.write(tmp_path, **SHORT)
    true = StepLoss.__call__

    def loss(self: StepLoss, *given: Any, **named: Any) -> torch.Tensor:
        value, leg = true(self, *given, **named), self.leg
        again = leg.step.number != 1 or leg.loss_scale.overflows
        return value if again or ranks.place().main else value * math.inf

    with mock.patch.object(StepLoss, "__call__", loss):
        on_two(lambda: runs.train(recipe))
    assert [line["loss_scale"] for line in read_metrics(tmp_path / "run")] == [2.0**16, 2.0**15]
    sealed = checkpoint.load(tmp_path / "run" / "checkpoints" / "step-2")
    assert sealed.state["loss_scale"]["scale"] == 2.0**15
    assert sealed.state["processes"] == 2
    assert all(tensor.isfinite().all() for tensor in sealed.tensors.values())
