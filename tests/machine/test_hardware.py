"""GPUs and dtypes, without torch (row N10)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import ROOT
from tuner.machine import hardware
from tuner.machine.hardware import Gpu, Machine

SMI = """0, GPU-aaaa, Tesla T4, 15360, 7.5
1, GPU-bbbb, NVIDIA H100 80GB HBM3, 81559, 9.0
2, GPU-cccc, NVIDIA A10G, 23028, 8.6
broken line
"""


def test_gpus_are_read_from_nvidia_smi() -> None:
    names = ["Tesla T4", "NVIDIA H100 80GB HBM3", "NVIDIA A10G"]
    assert [gpu.name for gpu in hardware.parse_gpus(SMI)] == names
    assert hardware.parse_gpus(SMI)[1] == Gpu(names[1], 81559 << 20, (9, 0))
    for visible, chosen in (
        ("", []),
        ("2,0", [names[2], names[0]]),
        ("GPU-bb", [names[1]]),
        ("1,7,0", [names[1]]),
        ("-1", []),
    ):
        assert [gpu.name for gpu in hardware.parse_gpus(SMI, visible)] == chosen


def test_bf16_is_for_gpus_that_have_it() -> None:
    """N10: emulation does not count."""
    t4, h100, a10g = hardware.parse_gpus(SMI)
    assert [gpu.bf16 for gpu in (t4, h100, a10g)] == [False, True, True]
    assert "bfloat16" not in Machine(2, 1 << 34, (t4,), cpu_bf16=True).dtypes
    assert "bfloat16" not in Machine(2, 1 << 34, (h100, t4)).dtypes
    assert Machine(2, 1 << 34, (h100,)).dtypes == ["float32", "float16", "bfloat16"]


def test_the_machine_is_found_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tuner.machine import hardware; m = hardware.detect()\n"
        "assert m.cpu_count >= 1 and m.memory_bytes > 1 << 28\n"
        "assert hardware.disk_free(Path('not/there')) > 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_torch_without_cuda_cannot_use_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices that nvidia-smi lists, but the installed torch cannot see, are told and not used."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{SMI}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(hardware, "_torch_has_cuda", lambda: True)
    assert len(hardware.detect().gpus) == 3
    monkeypatch.setattr(hardware, "_torch_has_cuda", lambda: False)
    found = hardware.detect()
    assert (found.gpus, found.gpu_note[:6]) == ((), "3 GPU(")
