"""The GPUs that CUDA shows to this process, asked of NVIDIA's driver itself.

It answers as torch will see it: in CUDA's order, after CUDA_VISIBLE_DEVICES, with the slices of a
card that is cut by MIG, with memory that a GPU shares with the processor, and in containers without
nvidia-smi. It takes no memory of a GPU: only a context would.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

LIBRARY = "libcuda.so.1"
# Numbers of attributes and of an error in cuda.h.
_MAJOR, _MINOR, _INTEGRATED, _DOMAIN, _BUS, _SLOT = 75, 76, 18, 50, 33, 34
_NO_DEVICE = 100


@dataclass(frozen=True)
class Device:
    """One GPU; `integrated` ones use the machine's main memory.

    `place` is its domain, bus and slot, the same for all slices of a card.
    """

    name: str
    memory_bytes: int
    capability: tuple[int, int]
    integrated: bool
    place: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class Answer:
    """What the driver says.

    Attributes:
        devices: in CUDA's order.
        version: the newest CUDA that it supports, such as (13, 0); (0, 0) without a driver.
        error: why CUDA cannot use any device; empty if it can, if there is none, and without a
            driver.
    """

    devices: tuple[Device, ...] = ()
    version: tuple[int, int] = (0, 0)
    error: str = ""


def ask() -> Answer:
    """Return what the driver says of this machine."""
    try:
        driver = ctypes.CDLL(LIBRARY)
    except OSError:
        return Answer()
    number = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(number))
    version = (number.value // 1000, number.value % 1000 // 10)
    code = driver.cuInit(0)
    if code:
        return Answer((), version, "" if code == _NO_DEVICE else _error(driver, code))
    driver.cuDeviceGetCount(ctypes.byref(number))
    return Answer(tuple(_device(driver, each) for each in range(number.value)), version)


def _device(driver: ctypes.CDLL, number: int) -> Device:
    handle, name, total = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(handle), number)
    driver.cuDeviceGetName(name, len(name), handle)
    driver.cuDeviceTotalMem_v2(ctypes.byref(total), handle)
    values = []
    for attribute in (_MAJOR, _MINOR, _INTEGRATED, _DOMAIN, _BUS, _SLOT):
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
        values.append(value.value)
    major, minor, integrated, *place = values
    text = name.value.decode("utf-8", "replace")
    capability, where = (major, minor), (place[0], place[1], place[2])
    return Device(text, total.value, capability, bool(integrated), where)


def _error(driver: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    driver.cuGetErrorString(code, ctypes.byref(text))
    said = (text.value or b"unknown error").decode("utf-8", "replace")
    return f"the CUDA driver says: {said} (error {code})"
