"""A fake GPU: `cuda` devices whose tensors are in main memory, for builds of torch without CUDA.

Whole programs run on it, values included. It proves devices, types and control flow, not CUDA's
kernels, their speed or their rounding. To be loaded before torch, therefore in a process of its
own: `on_fake` (tests/gpu/forked.py) runs a test in one, `python tests/gpu/child.py MODULE
ARGUMENTS` a module (`tuner lora --recipe r.yaml`).

    gpu = fake.install(devices=2, capability=(9, 0), memory=80 << 30)
    with gpu.on():                        # this thread, and its backward passes, see the devices
        with gpu.watch() as seen:         # of device 0
            model(**batch).loss.backward()
        seen.launches                     # Counter: kernels by operator, without views and empty
        seen.count                        # their sum
        seen.syncs                        # [Sync(kind, where, launch)]: where the CPU waited
        seen.peak, seen.extra             # bytes that lived at once; less those from before
    gpu.launched                          # kernels so far, for a hook that marks a layer
    gpu.live()                            # bytes alive now

It refuses what a real one refuses: operands on different devices, `.numpy()`, an allocation beyond
`memory` (OutOfMemoryError). A `Sync` is a copy to the CPU, `.item()`, `.tolist()`, a boolean index
or another size that depends on values ("read"), or a copy to the device that waits ("write");
`where` has the lines of tuner or of a library that led there, `launch` the number of kernels before
it. `torch.cuda` gives the figures that it would give on a real one, its allocator's rounding and
`empty_cache` included.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.gpu import guard

GIB = 1 << 30
# Results without a kernel: views, and memory that is not written.
_FREE = {
    *("detach", "alias", "lift_fresh", "view", "_unsafe_view", "_reshape_alias", "as_strided"),
    *("t", "transpose", "permute", "unsqueeze", "squeeze", "expand", "select", "slice", "diagonal"),
    *("split", "split_with_sizes", "unbind", "unfold", "view_as_real", "view_as_complex", "real"),
    *("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"),
    *("_local_scalar_dense", "_fused_sdp_choice", "is_same_size"),
}
# The CPU needs the result, or its size.
_READ = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2"}
_COPY = {"_to_copy", "copy_", "_foreach_copy_"}
_INDEX = {"index", "index_put", "index_put_", "_index_put_impl_"}
_LIBRARIES = ("transformers", "peft", "accelerate", "trl", "bitsandbytes")
_ROOT = Path(__file__).parents[2]
_installed: list[Fake] = []


class Sync(NamedTuple):
    """A place where the CPU waits for the GPU."""

    kind: str
    where: str
    launch: int


@dataclass
class Seen:
    """What happened between the beginning and the end of `Fake.watch`."""

    launches: Counter[str] = field(default_factory=Counter)
    syncs: list[Sync] = field(default_factory=list)
    count: int = 0
    before: int = 0
    peak: int = 0

    @property
    def extra(self) -> int:
        """The bytes at the peak that were not there at the beginning."""
        return self.peak - self.before


class _Operator:
    """What the dispatcher needs to know of an operator, looked up once."""

    def __init__(self, func: Any) -> None:
        from tests.gpu.kernels import KERNELS

        self.name = str(func)
        self.short = self.name.split(".")[1]
        self.kernel = KERNELS.get(self.name) or KERNELS.get(self.name.rsplit(".", 1)[0])
        self.free = self.short in _FREE
        self.mutable = bool(func._schema.is_mutable)
        # For each result the argument that it is, if any.
        self.same: list[tuple[int, str] | None] = []
        for made in func._schema.returns:
            same = None
            if made.alias_info is not None and made.alias_info.is_write:
                same = next(
                    (number, each.name)
                    for number, each in enumerate(func._schema.arguments)
                    if each.alias_info is not None
                    and each.alias_info.before_set == made.alias_info.before_set
                )
            self.same.append(same)


class Block:
    """Memory of a device, alive as long as a tensor on it is."""

    __slots__ = ("__weakref__", "gpu", "index", "size")

    def __init__(self, gpu: Fake, index: int, size: int) -> None:
        self.gpu, self.index, self.size = gpu, index, 0
        # As CUDA's allocator rounds.
        rounded = (size + 511) // 512 * 512
        gpu._allocate(index, rounded)
        self.size = rounded

    def __del__(self) -> None:
        self.gpu.used[self.index] -= self.size


class Fake:
    """The fake devices of this process; made by `install`.

    Attributes:
        used, peaks, reserved, most_reserved: bytes of each device.
        launched: kernels so far.
    """

    def __init__(self, devices: int, capability: tuple[int, int], memory: int) -> None:
        self.devices, self.capability, self.memory = devices, capability, memory
        self.used, self.peaks = [0] * devices, [0] * devices
        self.reserved, self.most_reserved = [0] * devices, [0] * devices
        self.launched = 0
        self.library: Any = None
        self._watching: list[Seen] = []
        self._blocks: weakref.WeakValueDictionary[int, Block] = weakref.WeakValueDictionary()
        self._operators: dict[Any, _Operator] = {}

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Let this thread, and the backward passes that it starts, use the devices."""
        from tests.gpu.tensor import Functions, Mode

        with Mode(), Functions():
            yield

    @contextlib.contextmanager
    def watch(self) -> Iterator[Seen]:
        """Yield what happens until the end of the block, bytes of device 0; may be nested."""
        seen = Seen(before=self.used[0], peak=self.used[0])
        start = self.launched
        self._watching.append(seen)
        try:
            yield seen
        finally:
            # By identity: two watches may have seen the same.
            self._watching = [each for each in self._watching if each is not seen]
            seen.count = self.launched - start

    def live(self, index: int = 0) -> int:
        """Return the bytes of a device that tensors hold now."""
        return self.used[index]

    def block(self, real: Any, index: int) -> Block:
        """Return the memory of a real tensor: that of the tensors that share its storage."""
        storage = real.untyped_storage()
        block = self._blocks.get(storage._cdata)
        if block is None or block.index != index:
            block = self._blocks[storage._cdata] = Block(self, index, storage.nbytes())
        return block

    def _allocate(self, index: int, size: int) -> None:
        """Take bytes of a device.

        Raises:
            OutOfMemoryError: it has less.
        """
        import torch

        if self.used[index] + size > self.memory:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {size / GIB:.3f} GiB. GPU {index} has a "
                f"total capacity of {self.memory / GIB:.3f} GiB of which "
                f"{(self.memory - self.used[index]) / GIB:.3f} GiB is free."
            )
        self.used[index] += size
        used = self.used[index]
        self.peaks[index] = max(self.peaks[index], used)
        self.reserved[index] = max(self.reserved[index], used)
        self.most_reserved[index] = max(self.most_reserved[index], used)
        if index == 0:
            for seen in self._watching:
                seen.peak = max(seen.peak, used)

    def waited(self, kind: str) -> None:
        """Note that the CPU waited."""
        if self._watching:
            sync = Sync(kind, _where(), self.launched)
            for seen in self._watching:
                seen.syncs.append(sync)

    def dispatch(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Carry out an operator in main memory; its result is on the device that it would be on."""
        from tests.gpu.tensor import Gpu

        operator = self._operators.get(func)
        if operator is None:
            operator = self._operators[func] = _Operator(func)
        inputs: list[Any] = []
        _each_tensor(inputs.append, (args, kwargs))
        on_gpu = [each for each in inputs if isinstance(each, Gpu)]
        index = self._device_of_result(operator, inputs, args, kwargs)
        if (index is not None or on_gpu) and not operator.free:
            self.launched += 1
            for seen in self._watching:
                seen.launches[operator.name] += 1
        real_args, real_kwargs = _each_tensor(
            lambda each: each._real if isinstance(each, Gpu) else each, (args, kwargs)
        )
        if is_cuda(real_kwargs.get("device")):
            real_kwargs = {**real_kwargs, "device": "cpu"}
        if real_kwargs.get("pin_memory"):
            real_kwargs = {**real_kwargs, "pin_memory": False}
        if operator.name.startswith("aten._pin_memory"):
            return args[0]
        call = operator.kernel if operator.kernel and on_gpu else func
        result = call(*real_args, **real_kwargs)
        if operator.mutable:
            for each in on_gpu:
                each.check()
        return self._results(operator, result, index, (args, kwargs), on_gpu)

    def _results(
        self, operator: _Operator, result: Any, index: int | None, given: Any, on_gpu: list[Any]
    ) -> Any:
        """Return results as the caller knows them: its own tensors, or new ones on the device."""
        from tests.gpu.tensor import Gpu

        args, kwargs = given
        known = {id(each._real): each for each in on_gpu}

        def known_or_new(each: Any) -> Any:
            if index is None or isinstance(each, Gpu):
                return each
            mine = known.get(id(each))
            return Gpu(each, index) if mine is None else mine

        def one(made: Any, same: tuple[int, str] | None) -> Any:
            if same is not None:
                return args[same[0]] if same[0] < len(args) else kwargs[same[1]]
            return _each_tensor(known_or_new, made)

        if not operator.same:
            return None
        if len(operator.same) == 1:
            return one(result, operator.same[0])
        return tuple(one(*pair) for pair in zip(result, operator.same, strict=True))

    def _device_of_result(
        self, operator: _Operator, inputs: list[Any], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> int | None:
        """Return the index of the device, None for the CPU. Note waits, refuse mixed devices."""
        target = kwargs.get("device")
        if operator.short in _COPY:
            return self._copied(operator, args, kwargs)
        places = {each.device for each in inputs if each.is_cuda}
        if not places:
            return device_index(target) if is_cuda(target) else None
        strangers = [each for each in inputs if not each.is_cuda and each.ndim]
        if operator.short in _INDEX and args[0].is_cuda:
            if strangers:
                # Indices may be on the CPU: they are copied, and the CPU waits for that.
                self.waited("write")
            indices, strangers = strangers, []
            if operator.short != "index" and any(each is args[2] for each in indices):
                strangers.append(args[2])
            if any(_mask(each) for each in inputs[1:]):
                self.waited("read")
        places |= {each.device for each in strangers}
        if len(places) > 1:
            raise RuntimeError(
                f"{operator.name}: expected all tensors to be on the same device, but found "
                f"{' and '.join(sorted(map(str, places)))} at {_where()}"
            )
        if operator.short in _READ or (
            operator.short == "repeat_interleave" and kwargs.get("output_size") is None
        ):
            self.waited("read")
        if target is not None and not is_cuda(target):
            return None
        return device_index(target) if target is not None else places.pop().index

    def _copied(
        self, operator: _Operator, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> int | None:
        if operator.short == "_to_copy":
            source = args[0].device
            target = kwargs.get("device")
            index = device_index(target) if is_cuda(target) else None
            if target is None:
                index = source.index if source.type == "cuda" else None
        else:
            into, out_of = args[:2]
            if operator.short == "_foreach_copy_":
                into, out_of = into[0], out_of[0]
            source, index = out_of.device, into.device.index if into.is_cuda else None
        blocking = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
        if blocking and (source.type == "cuda") != (index is not None):
            self.waited("read" if index is None else "write")
        return index


def _each_tensor(call: Callable[[Any], Any], given: Any) -> Any:
    """Return `given`, nested tuples, lists and dicts, with the results of its tensors."""
    from torch import Tensor

    if isinstance(given, Tensor):
        return call(given)
    if isinstance(given, tuple | list):
        return type(given)([_each_tensor(call, each) for each in given])
    if isinstance(given, dict):
        return {key: _each_tensor(call, each) for key, each in given.items()}
    return given


def _mask(each: Any) -> bool:
    return str(each.dtype) in ("torch.bool", "torch.uint8")


def _where() -> str:
    """Return the two innermost lines of tuner or of a library on it, innermost first."""
    names: list[str] = []
    frame: Any = sys._getframe(2)
    while frame is not None and len(names) < 2:
        path = Path(frame.f_code.co_filename)
        if "tuner" in path.parts and path.is_relative_to(_ROOT / "tuner"):
            names.append(f"{path.relative_to(_ROOT)}:{frame.f_lineno}")
        elif "site-packages" in path.parts:
            inside = path.parts[path.parts.index("site-packages") + 1 :]
            if inside[0] in _LIBRARIES:
                names.append(f"{'/'.join(inside)}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(names)


def is_cuda(device: Any) -> bool:
    """Return whether a device, its name, its index or None is one of CUDA."""
    if device is None:
        return False
    return isinstance(device, int) or str(device).split(":")[0] == "cuda"


def device_index(device: Any) -> int:
    """Return the index of a device of CUDA; without one, that of the current device."""
    import torch

    index = device if isinstance(device, int) else torch.device(device).index
    index = torch.cuda.current_device() if index is None else index
    if index >= current().devices:
        raise RuntimeError(f"CUDA error: invalid device ordinal ({index})")
    return int(index)


def current() -> Fake:
    """Return the fake that is installed."""
    return _installed[0]


def install(devices: int = 1, capability: tuple[int, int] = (9, 0), memory: int = 80 * GIB) -> Fake:
    """Load the guard, import torch and let `torch.cuda` tell of devices; a later call sets anew.

    Args:
        devices: how many.
        capability: their compute capability.
        memory: bytes of each.
    """
    fake = Fake(devices, capability, memory)
    fake.library = _installed[0].library if _installed else guard.load()
    fake.library.fake_gpu_count(devices)
    fake.library.fake_gpu_select(0)
    _installed[:] = [fake]
    # It chooses its kernels when it is imported: those of the CPU.
    with contextlib.suppress(ImportError):
        import bitsandbytes  # noqa: F401

    from tests.gpu import cuda

    cuda.patch(fake)
    return fake
