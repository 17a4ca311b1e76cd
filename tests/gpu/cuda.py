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


def patch(fake: Fake) -> None:
    """Replace what asks CUDA; nothing is put back, the process is the fake's own."""
    library = fake.library

    def number(device: Any = None) -> int:
        from tests.gpu.fake import device_index

        return int(library.fake_gpu_selected()) if device is None else device_index(device)

    def set_device(device: Any) -> None:
        library.fake_gpu_select(number(device))

    def exchange(device: int) -> int:
        before = number()
        if device >= 0:
            library.fake_gpu_select(device)
        return before

    def empty_cache() -> None:
        fake.reserved[:] = fake.used

    def reset_peak(device: Any = None) -> None:
        fake.peaks[number(device)] = fake.used[number(device)]
        fake.most_reserved[number(device)] = fake.reserved[number(device)]

    def properties(device: Any = None) -> Any:
        return SimpleNamespace(
            name=NAME,
            major=fake.capability[0],
            minor=fake.capability[1],
            total_memory=fake.memory,
            multi_processor_count=132,
            uuid="fake",
            index=number(device),
        )

    def states() -> list[torch.Tensor]:
        return [torch.get_rng_state() for _ in range(fake.devices)]

    answers = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": lambda: None,
        "_lazy_init": lambda: None,
        "_is_in_bad_fork": lambda: False,
        "device_count": lambda: fake.devices,
        "current_device": number,
        "set_device": set_device,
        "_exchange_device": exchange,
        "_maybe_exchange_device": exchange,
        "device": Device,
        "get_device_capability": lambda device=None: fake.capability,
        "get_device_name": lambda device=None: NAME,
        "get_device_properties": properties,
        "is_bf16_supported": lambda *args, **kwargs: fake.capability >= (8, 0) or any(args),
        "get_arch_list": lambda: [f"sm_{fake.capability[0]}{fake.capability[1]}"],
        "is_current_stream_capturing": lambda: False,
        "empty_cache": empty_cache,
        "ipc_collect": lambda: None,
        "synchronize": lambda device=None: fake.waited("read"),
        "memory_allocated": lambda device=None: fake.used[number(device)],
        "max_memory_allocated": lambda device=None: fake.peaks[number(device)],
        "memory_reserved": lambda device=None: fake.reserved[number(device)],
        "max_memory_reserved": lambda device=None: fake.most_reserved[number(device)],
        "reset_peak_memory_stats": reset_peak,
        "reset_max_memory_allocated": reset_peak,
        "mem_get_info": lambda device=None: (
            fake.memory - fake.reserved[number(device)],
            fake.memory,
        ),
        "memory_stats": lambda device=None: {
            "allocated_bytes.all.current": fake.used[number(device)],
            "allocated_bytes.all.peak": fake.peaks[number(device)],
            "reserved_bytes.all.current": fake.reserved[number(device)],
            "reserved_bytes.all.peak": fake.most_reserved[number(device)],
        },
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "seed": lambda: None,
        "seed_all": lambda: None,
        "get_rng_state": lambda device="cuda": torch.get_rng_state(),
        "set_rng_state": lambda state, device="cuda": torch.set_rng_state(state),
        "get_rng_state_all": states,
        "set_rng_state_all": lambda given: torch.set_rng_state(given[0]),
        "current_stream": lambda device=None: Stream(),
        "default_stream": lambda device=None: Stream(),
        "stream": lambda stream: Stream(),
        "Stream": Stream,
        "Event": Event,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    for name in ("get_rng_state", "set_rng_state", "get_rng_state_all", "set_rng_state_all"):
        setattr(torch.cuda.random, name, answers[name])
    torch.accelerator.empty_cache = empty_cache
    torch.accelerator.synchronize = answers["synchronize"]
    # A module's tensors change their type when they go to the device.
    torch.__future__.set_swap_module_params_on_conversion(True)
