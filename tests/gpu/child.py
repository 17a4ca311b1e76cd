"""A process that has a fake GPU: `python child.py MODULE ARGUMENTS` runs a module in it.

`prepare` makes tuner find the GPU. TUNER_FAKE_GPU has devices, capability and memory as JSON, for
children of children.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.gpu.fake import Fake

SETTINGS = "TUNER_FAKE_GPU"
ROOT = Path(__file__).parents[2]


def prepare(gpu: Fake, real_children: bool = False) -> None:
    """Let tuner find the devices, and its fresh processes have them, too.

    Args:
        real_children: start processes that prove an artefact; otherwise their work is done here.
    """
    from tests import here
    from tests.gpu.cuda import NAME
    from tuner.machine import hardware, processes

    # transformers otherwise moves a base's tensors in threads, which do not have the devices.
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    found = hardware.Gpu(NAME, gpu.memory, gpu.capability)
    machine = hardware.Machine(
        cpu_count=2, memory_bytes=24 << 30, gpus=tuple([found] * gpu.devices)
    )
    hardware.detect = lambda: machine
    if not real_children:
        processes.fresh = here.fresh
        return
    os.environ[SETTINGS] = json.dumps([gpu.devices, gpu.capability, gpu.memory])
    command = [sys.executable, "-P", str(Path(__file__).resolve())]
    processes._ours = lambda module, *arguments: [*command, module, *arguments]


def main() -> None:
    """Run the module that the command line names on the fake GPU."""
    sys.path.insert(0, str(ROOT))
    from tests.gpu import fake

    given: Any = json.loads(os.environ.get(SETTINGS, "[]"))
    gpu = fake.install(*(tuple(each) if isinstance(each, list) else each for each in given))
    prepare(gpu, real_children=True)
    del sys.argv[0]
    with gpu.on():
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
