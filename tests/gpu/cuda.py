"""`torch.cuda` as it answers where there are GPUs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from tests.gpu.fake import Fake

NAME = "Fake H100"


class Event:
    """All work is done when a call returns, and no time passes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def record(self, *args: Any) -> None: ...

    def synchronize(self) -> None: ...

    def wait(self, *args: Any) -> None: ...

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: Event) -> float:
        return 1.0


class Stream(Event):
    """The only one."""

    cuda_stream = 0

    def wait_stream(self, stream: Stream) -> None: ...

    def wait_event(self, event: Event) -> None: ...

    def record_event(self, event: Event | None = None) -> Event:
        return event or Event()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *args: object) -> None: ...


class Device:
    """`with torch.cuda.device(1):`"""

    def __init__(self, device: Any) -> None:
        self.device = device

    def __enter__(self) -> None:
        self.before = torch.cuda.current_device()
        torch.cuda.set_device(self.device)

    def __exit__(self, *args: object) -> None:
        torch.cuda.set_device(self.before)


class Answers:
    """The functions of `torch.cuda` that depend on the devices, by their names there."""

    def __init__(self, fake: Fake) -> None:
        self.fake = fake

    def current_device(self) -> int:
        return int(self.fake.library.fake_gpu_selected())

    def set_device(self, device: Any) -> None:
        self.fake.library.fake_gpu_select(self._number(device))

    def _exchange_device(self, device: int) -> int:
        before = self.current_device()
        if device >= 0:
            self.fake.library.fake_gpu_select(device)
        return before

    def device_count(self) -> int:
        return self.fake.devices

    def get_device_capability(self, device: Any = None) -> tuple[int, int]:
        return self.fake.capability

    def get_device_properties(self, device: Any = None) -> Any:
        return SimpleNamespace(
            name=NAME,
            major=self.fake.capability[0],
            minor=self.fake.capability[1],
            total_memory=self.fake.memory,
            multi_processor_count=132,
        )

    def get_arch_list(self) -> list[str]:
        return ["sm_{}{}".format(*self.fake.capability)]

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return including_emulation or self.fake.capability >= (8, 0)

    def empty_cache(self) -> None:
        self.fake.reserved[:] = self.fake.used

    def synchronize(self, device: Any = None) -> None:
        self.fake.waited("read")

    def memory_allocated(self, device: Any = None) -> int:
        return self.fake.used[self._number(device)]

    def max_memory_allocated(self, device: Any = None) -> int:
        return self.fake.peaks[self._number(device)]

    def memory_reserved(self, device: Any = None) -> int:
        return self.fake.reserved[self._number(device)]

    def max_memory_reserved(self, device: Any = None) -> int:
        return self.fake.most_reserved[self._number(device)]

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        index = self._number(device)
        self.fake.peaks[index] = self.fake.used[index]
        self.fake.most_reserved[index] = self.fake.reserved[index]

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        return self.fake.memory - self.memory_reserved(device), self.fake.memory

    def memory_stats(self, device: Any = None) -> dict[str, int]:
        return {
            "allocated_bytes.all.current": self.memory_allocated(device),
            "allocated_bytes.all.peak": self.max_memory_allocated(device),
            "reserved_bytes.all.current": self.memory_reserved(device),
            "reserved_bytes.all.peak": self.max_memory_reserved(device),
            "num_alloc_retries": 0,
        }

    def get_rng_state_all(self) -> list[torch.Tensor]:
        return [torch.get_rng_state() for _ in range(self.fake.devices)]

    def _number(self, device: Any) -> int:
        from tests.gpu.fake import device_index

        return self.current_device() if device is None else device_index(device)


def _nothing(*args: Any, **kwargs: Any) -> None: ...


# What is the same for all devices. torch's one generator gives the numbers of every device.
_SAME: dict[str, Any] = {
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "init": _nothing,
    "_lazy_init": _nothing,
    "_is_in_bad_fork": lambda: False,
    "device": Device,
    "get_device_name": lambda device=None: NAME,
    "is_current_stream_capturing": lambda: False,
    "ipc_collect": _nothing,
    "manual_seed": _nothing,
    "manual_seed_all": _nothing,
    "seed": _nothing,
    "seed_all": _nothing,
    "get_rng_state": lambda device="cuda": torch.get_rng_state(),
    "set_rng_state": lambda state, device="cuda": torch.set_rng_state(state),
    "set_rng_state_all": lambda states: torch.set_rng_state(states[0]),
    "current_stream": lambda device=None: Stream(),
    "default_stream": lambda device=None: Stream(),
    "stream": lambda stream: Stream(),
    "Stream": Stream,
    "Event": Event,
}


def patch(fake: Fake) -> None:
    """Replace what asks CUDA; nothing is put back, the process is the fake's own."""
    from tests.gpu import tensor

    own = Answers(fake)
    names = [name for name in vars(Answers) if not name.startswith("__") and name != "_number"]
    answers = {**_SAME, **{name: getattr(own, name) for name in names}}
    answers["_maybe_exchange_device"] = own._exchange_device
    answers["reset_max_memory_allocated"] = own.reset_peak_memory_stats
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    for name in ("get_rng_state", "set_rng_state", "get_rng_state_all", "set_rng_state_all"):
        setattr(torch.cuda.random, name, answers[name])
    torch.accelerator.empty_cache = own.empty_cache
    torch.accelerator.synchronize = own.synchronize
    torch.autograd._engine_run_backward = tensor.run_backward
    torch.Tensor._make_subclass = staticmethod(tensor.make_subclass)
