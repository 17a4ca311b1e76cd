"""Tensors of the fake GPU, and the two modes in which torch makes and uses them."""

from __future__ import annotations

from types import new_class
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.gpu import fake


class Gpu(torch.Tensor):
    """A tensor that says `cuda:N`; what it holds is `_real`, in main memory."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    _real: torch.Tensor
    _block: fake.Block

    @staticmethod
    def __new__(cls, real: torch.Tensor, index: int) -> Gpu:
        made: Gpu = torch.Tensor._make_wrapper_subclass(
            cls,
            real.shape,
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=torch.device("cuda", index),
            requires_grad=False,
        )
        made.hold(real, fake.current().block(real, index))
        return made

    def hold(self, real: torch.Tensor, block: fake.Block) -> None:
        self._real, self._block = real, block

    def check(self) -> None:
        """Refuse what an operator did to the real tensor and this one cannot follow."""
        if self._real.shape != self.shape:
            raise NotImplementedError(f"the fake GPU cannot change the shape of {self} in place")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return fake.current().dispatch(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Gpu({tuple(self.shape)}, {self.dtype}, {self.device})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Gpu:
        if id(self) in memo:
            return memo[id(self)]  # type: ignore[no-any-return]
        made = Gpu(self._real.detach().clone(), self.device.index)
        made.requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            made._is_param = True
        memo[id(self)] = made
        return made

    def tolist(self) -> Any:
        fake.current().waited("read")
        return self._real.detach().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to copy "
            "the tensor to host memory first."
        )

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy()

    def data_ptr(self) -> int:
        return self._real.data_ptr()

    def untyped_storage(self) -> Any:
        return self._real.untyped_storage()

    def is_pinned(self, *args: Any) -> bool:
        return False


class Mode(TorchDispatchMode):
    """Makes tensors on `cuda`; tensors that are there dispatch themselves."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return fake.current().dispatch(func, args, kwargs or {})


def _index(given: Any) -> Any:
    return torch.tensor(given) if isinstance(given, list | range) else given


def _indexing(func: Any, args: Any) -> Any:
    """Index with tensors only: torch would make them on the device from what it is given."""
    where = args[1]
    where = tuple(map(_index, where)) if isinstance(where, tuple) else _index(where)
    rest = [
        torch.tensor(value, dtype=args[0].dtype) if isinstance(value, int | float) else value
        for value in args[2:]
    ]
    return func(args[0], where, *rest)


def _set_data(func: Any, args: Any) -> Any:
    """Set a tensor's data; one that goes to another kind of device becomes another object."""
    mine, other = args
    if isinstance(mine, Gpu) and isinstance(other, Gpu):
        result = func(mine, other)
        mine.hold(other._real, other._block)
        return result
    if isinstance(other, Gpu):
        made = _of_kind(type(mine), other._real, other.device.index)
    else:
        made = other.detach().view_as(other)
    made.requires_grad_(mine.requires_grad)
    made._is_param = isinstance(mine, torch.nn.Parameter)
    own = {key: each for key, each in vars(mine).items() if key not in ("_real", "_block")}
    vars(made).update(own)
    torch.utils.swap_tensors(mine, made)
    return None


_kinds: dict[type, type] = {}


def _of_kind(kind: type, real: torch.Tensor, index: int) -> Gpu:
    """Return a tensor on the device that is one of `kind`, too: bitsandbytes' parameters."""
    if kind in (torch.Tensor, torch.nn.Parameter) or issubclass(kind, Gpu):
        return Gpu(real, index)
    if kind not in _kinds:
        _kinds[kind] = new_class(f"Gpu{kind.__name__}", (Gpu, kind))
    return Gpu.__new__(_kinds[kind], real, index)


_make_subclass = torch.Tensor._make_subclass


def make_subclass(kind: type, data: torch.Tensor, requires_grad: bool = False, **given: Any) -> Any:
    """`torch.Tensor._make_subclass` for data on the device, too."""
    if not isinstance(data, Gpu):
        return _make_subclass(kind, data, requires_grad, **given)
    made = _of_kind(kind, data._real.detach(), data.device.index)
    if issubclass(kind, torch.nn.Parameter):
        made._is_param = True
    return made.requires_grad_(requires_grad)


# On CUDA one kernel each way; a build without it takes the norm apart before it dispatches.
_OWN = torch.library.Library("fake_gpu", "DEF")
_OWN.define("rms_norm(Tensor x, int[] shape, Tensor? weight, float? eps) -> (Tensor, Tensor)")
_OWN.define(
    "rms_norm_backward(Tensor dy, Tensor x, int[] shape, Tensor rstd, Tensor? weight, "
    "bool[] wanted) -> (Tensor, Tensor)"
)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, shape: Any, weight: Any, eps: Any) -> Any:
        made, rstd = torch.ops.fake_gpu.rms_norm(x, shape, weight, eps)
        ctx.save_for_backward(x, rstd, weight)
        ctx.shape = shape
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, rstd, weight = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[2]]
        dx, dw = torch.ops.fake_gpu.rms_norm_backward(
            gradients[0], x, ctx.shape, rstd, weight, wanted
        )
        return dx if wanted[0] else None, None, dw if wanted[1] else None, None


def _rms_norm(x: Any, shape: Any, weight: Any = None, eps: Any = None) -> Any:
    if torch.is_autocast_enabled("cuda"):
        # One of the functions that autocast computes in float32.
        x, weight = x.float(), None if weight is None else weight.float()
    return _RmsNorm.apply(x, list(shape), weight, eps)  # type: ignore[no-untyped-call]


# Another object at each look: equal, not identical.
_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]


class Functions(TorchFunctionMode):
    """The functions of torch that look into a tensor's memory before they dispatch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(first, Gpu):
            return _indexing(func, args)
        if func == _DATA and (isinstance(first, Gpu) or isinstance(args[1], Gpu)):
            return _set_data(func, args)
        if func is torch.Tensor.new_tensor and isinstance(first, Gpu):
            made = torch.tensor(*args[1:], dtype=kwargs.get("dtype", first.dtype))
            return made.to(first.device).requires_grad_(kwargs.get("requires_grad", False))
        if func is torch.nn.functional.rms_norm and isinstance(first, Gpu):
            return _rms_norm(*args, **kwargs)
        if func is torch.Tensor.pin_memory:
            return first
        if func in (torch.tensor, torch.as_tensor) and fake.is_cuda(kwargs.get("device")):
            grad = kwargs.pop("requires_grad", False)
            device = kwargs.pop("device")
            made = func(*args, **kwargs).to(device)
            return made.requires_grad_() if grad else made
        return func(*args, **kwargs)


_run_backward = torch.autograd._engine_run_backward


def run_backward(*args: Any, **kwargs: Any) -> Any:
    """Run the engine as torch does, with `Functions` in its threads: what is recomputed there takes
    the same road. `Tensor.backward` is one of the functions, during which the mode is off."""
    with Functions():
        return _run_backward(*args, **kwargs)
