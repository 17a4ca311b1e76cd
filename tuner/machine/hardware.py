"""The machine's processors, memory, GPUs and disk, detected without importing torch."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuner.machine import cuda_driver, threads

# Below 8.0 bf16 is emulated: it trains, several times slower than fp32.
BF16_CAPABILITY = (8, 0)
_DEVICES = Path("/dev")
# Set for processes of a run by their parent.
_FOUND = "TUNER_GPUS"
# What torch calls a build for GPUs that are not NVIDIA's.
_OTHER_MAKERS = {"hip": "AMD", "xpu": "Intel"}
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU. `capability` is the compute capability, such as (9, 0)."""

    name: str
    memory_bytes: int
    capability: tuple[int, int]

    @property
    def bf16(self) -> bool:
        """Whether the GPU computes bfloat16 itself; emulation does not count."""
        return self.capability >= BF16_CAPABILITY


@dataclass(frozen=True)
class Machine:
    """What a run can use.

    Attributes:
        cpu_count: processors this process may keep busy, by affinity and quota.
        memory_bytes: main memory, or the container's share of it.
        gpus: the GPUs that the installed torch can use, in CUDA's order.
        cpu_bf16: whether the processor has bf16 instructions.
        gpu_note: why present GPUs cannot be used; empty if all is well.
        elsewhere: whether this is another machine that a run is only planned for.
    """

    cpu_count: int
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()
    cpu_bf16: bool = False
    gpu_note: str = ""
    elsewhere: bool = False

    @property
    def dtypes(self) -> list[str]:
        """The types that this machine computes without emulation."""
        bf16 = all(gpu.bf16 for gpu in self.gpus) if self.gpus else self.cpu_bf16
        return ["float32", *(["float16"] if self.gpus else []), *(["bfloat16"] if bf16 else [])]

    def gpu_memory(self, count: int = 1) -> int:
        """Return the bytes of the smallest of the first `count` GPUs."""
        return min(gpu.memory_bytes for gpu in self.gpus[:count])

    def as_dict(self) -> dict[str, Any]:
        """Return the machine as in `run.json` and in `tuner doctor --json`."""
        facts = {**asdict(self), "dtypes": self.dtypes}
        del facts["elsewhere"]
        return facts


def detect() -> Machine:
    """Detect the hardware of this machine."""
    gpus, note = _told() or _gpus()
    return Machine(
        cpu_count=threads.processors(),
        memory_bytes=_memory(),
        gpus=gpus,
        cpu_bf16=_cpu_bf16(Path("/proc/cpuinfo")),
        gpu_note=note,
    )


def for_children() -> dict[str, str]:
    """Return the variable that gives processes of a run the GPUs that this one has found: a driver
    that is slow to start might not answer all of them alike."""
    gpus, note = _gpus()
    found = [[gpu.name, gpu.memory_bytes, gpu.capability] for gpu in gpus]
    return {_FOUND: json.dumps([_visible(), found, note])}


def _told() -> tuple[tuple[Gpu, ...], str] | None:
    """Return the GPUs that the parent has found, if this process was shown the same ones."""
    visible, found, note = json.loads(os.environ.get(_FOUND, "[null, null, null]"))
    if found is None or visible != _visible():
        return None
    return tuple(Gpu(name, size, (major, minor)) for name, size, (major, minor) in found), note


def _visible() -> list[str | None]:
    return [os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")]


def disk_free(path: Path) -> int:
    """Return the free bytes on the disk where `path` is or will be."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def _memory() -> int:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in _CGROUP_LIMITS:
        try:
            text = Path(file).read_text("ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def _cpu_bf16(cpuinfo: Path) -> bool:
    try:
        text = cpuinfo.read_text("utf-8", errors="replace")
    except OSError:
        return False
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return bool(flags and {"amx_bf16", "avx512_bf16", "bf16"} & set(flags[1].split()))


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    """Return the GPUs that torch can use, and why those that are there cannot be used."""
    answer, build = cuda_driver.ask(), torch_cuda()
    count = len(answer.devices) or _without_driver(answer)
    if (count or answer.error) and not build:
        return (
            (),
            f"{count or 'some'} GPU(s) present, but the installed torch is built without CUDA",
        )
    maker = next((name for kind, name in _OTHER_MAKERS.items() if _built(kind)), "")
    if not build and maker and not count:
        return (), f"the installed torch is built for {maker}'s GPUs, which are not supported"
    if answer.error:
        return (), f"a GPU is there, but cannot be used: {answer.error}"
    if count and not answer.devices:
        said = "the driver finds none" if answer.version[0] else "NVIDIA's driver is not installed"
        return (), f"{count} GPU(s) present, but cannot be used: {said} ({cuda_driver.LIBRARY})"
    if answer.devices and build[0] > answer.version[0]:
        has, needs = (".".join(map(str, each)) for each in (answer.version, build))
        why = f"the driver supports CUDA {has}, and the installed torch needs {needs}"
        return (), f"{count} GPU(s) present, but cannot be used: {why}"
    main = _memory()
    return tuple(
        Gpu(
            each.name,
            min(each.memory_bytes, main) if each.integrated else each.memory_bytes,
            each.capability,
        )
        for each in answer.devices
    ), ""


def _without_driver(answer: cuda_driver.Answer) -> int:
    """Return how many GPUs this process was given that the driver, if any, does not show it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if answer.error or visible in ("", "-1", "NoDevFiles"):
        return 0
    return len(list(_DEVICES.glob("nvidia[0-9]*")))


def torch_cuda() -> tuple[int, ...]:
    """Return the CUDA that torch was built with, such as (13, 0), by its version file: importing it
    is slow; empty if it was built without."""
    return tuple(int(part) for part in _built("cuda").split(".") if part)


def _built(kind: str) -> str:
    """Return the version of cuda, hip or xpu that torch was built with; empty if without."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    try:
        text = Path(spec.origin).with_name("version.py").read_text("utf-8")
    except OSError:
        return ""
    found = re.search(rf"^{kind}\b[^=\n]*=\s*['\"]([\d.]+)", text, re.MULTILINE)
    return found[1] if found else ""
