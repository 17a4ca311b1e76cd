"""The machine's processors, memory, GPUs and disk, detected without importing torch."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuner.machine import processes, threads

# Below 8.0 bf16 is emulated: it trains, several times slower than fp32.
BF16_CAPABILITY = (8, 0)
_QUERY = "index,uuid,name,memory.total,compute_cap"
_DEVICES = Path("/dev")
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
        gpus: the GPUs that the installed torch can use.
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

    def as_dict(self) -> dict[str, Any]:
        """Return the machine as in `run.json` and in `tuner doctor --json`."""
        facts = {**asdict(self), "dtypes": self.dtypes}
        del facts["elsewhere"]
        return facts


def detect() -> Machine:
    """Detect the hardware of this machine."""
    present = _gpus()
    note = ""
    # Containers may have the device without the program.
    files = [] if shutil.which("nvidia-smi") else sorted(_DEVICES.glob("nvidia[0-9]*"))
    if (present or files) and not _torch_has_cuda():
        count = len(present) or len(files)
        note = f"{count} GPU(s) present, but the installed torch is built without CUDA"
    return Machine(
        cpu_count=threads.processors(),
        memory_bytes=_memory(),
        gpus=() if note else present,
        cpu_bf16=_cpu_bf16(Path("/proc/cpuinfo")),
        gpu_note=note,
    )


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


def _gpus() -> tuple[Gpu, ...]:
    answer = processes.nvidia_smi(f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits")
    return parse_gpus(answer, os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse_gpus(text: str, visible: str | None = None) -> tuple[Gpu, ...]:
    """Return the GPUs in nvidia-smi's output that CUDA_VISIBLE_DEVICES shows, in its order."""
    found: dict[str, Gpu] = {}
    for line in text.splitlines():
        fields = [item.strip() for item in line.split(",")]
        if len(fields) != 5 or not fields[3].isdigit() or not re.fullmatch(r"\d+\.\d+", fields[4]):
            continue
        major, minor = fields[4].split(".")
        gpu = Gpu(fields[2], int(fields[3]) << 20, (int(major), int(minor)))
        found[fields[0]] = found[fields[1]] = gpu
    if visible is None:
        return tuple(gpu for name, gpu in found.items() if name.isdigit())
    chosen = []
    for name in (item.strip() for item in visible.split(",")):
        match = [
            key
            for key in found
            if key == name or (name.startswith("GPU-") and key.startswith(name))
        ]
        # CUDA stops at the first name that it does not know.
        if not match:
            break
        chosen.append(found[match[0]])
    return tuple(chosen)


def _torch_has_cuda() -> bool:
    """Return whether torch was built with CUDA, by its version file: importing it is slow."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        text = Path(spec.origin).with_name("version.py").read_text("utf-8")
    except OSError:
        return False
    return re.search(r"^cuda\b[^=\n]*=\s*['\"]", text, re.MULTILINE) is not None
