"""Between torch tensors and the flat float32 vector, one tensor at a time.

A contiguous float32 tensor in host memory is seen through a view; any
other (float64, bfloat16, a transposed weight, a CUDA tensor) is converted alone, when it is asked for, and
dropped after use. What goes to a device and comes from there does so with the functions of this module only.

A copy to or from a GPU happens in the stream that is current there. Where nobody waits for it, it goes through memory
that is pinned; PyTorch gives that to nobody else before the copy is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rowcast.rows import Layout
from rowcast.rows.layout import TensorSpec

__all__ = [
    "Proposal",
    "addresses",
    "fetched",
    "first_nonfinite",
    "from_host_",
    "in_place",
    "read_into",
    "rounded",
    "to_device",
    "to_host",
    "to_host_together",
]

Vector = npt.NDArray[np.float32]

_FLOAT32, _STRIDED = torch.float32, torch.strided
_TYPES = {np.dtype(kind): getattr(torch, kind) for kind in ("float32", "int64", "uint8")}


def to_host(tensor: Tensor) -> Vector:
    """A tensor's values as a flat C-contiguous float32 array [elements] in host memory.

    A contiguous float32 CPU tensor is not copied: the array is a view of it. Anything else is converted
    (and, from another device, waited for).
    """
    host = tensor.detach().to(device="cpu", dtype=torch.float32).contiguous()
    view: Vector = host.view(-1).numpy()
    return view


def to_host_together(tensors: Sequence[Tensor]) -> list[Vector]:
    """The same as :func:`to_host` of each; those on a GPU are waited for once."""
    if not any(tensor.is_cuda for tensor in tensors):
        return [to_host(tensor) for tensor in tensors]
    return [array.reshape(-1) for array in fetched(tensors, torch.float32)]


def fetched(tensors: Sequence[Tensor], dtype: torch.dtype | None = None) -> list[npt.NDArray[Any]]:
    """Copies of tensors in host memory, each an array of its own shape; those on a GPU are waited for once.

    Args:
        tensors: anywhere.
        dtype: what the arrays hold; ``None``: what the tensors do.
    """
    copies = [
        torch.empty(tensor.shape, dtype=dtype or tensor.dtype, pin_memory=tensor.is_cuda).copy_(
            tensor.detach(), non_blocking=tensor.is_cuda
        )
        for tensor in tensors
    ]
    for device in {tensor.device for tensor in tensors if tensor.is_cuda}:
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(device))
        done.synchronize()  # other threads run meanwhile
    return [np.array(copy.numpy()) if copy.is_pinned() else copy.numpy() for copy in copies]


def to_device(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """An array on a device; nobody waits, and it may change as soon as this returns."""
    return _staged(array, device).to(device, non_blocking=True)


def _staged(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """A copy of an array in host memory, to be copied to a device."""
    staged = torch.empty(array.shape, dtype=_TYPES[array.dtype], pin_memory=device.type == "cuda")
    staged.numpy()[...] = array
    return staged


def from_host_(tensor: Tensor, values: Vector, *, wait: bool = True) -> None:
    """Overwrite a tensor with flat float32 values [elements], rounding to the tensor's own type and device.

    The write goes through torch, so autograd notices a tensor that was changed between forward and backward.

    Args:
        tensor: of as many elements.
        values: flat float32.
        wait: until a GPU has them; otherwise host memory of their size is taken until then.
    """
    goes_on = not wait and tensor.is_cuda
    if goes_on:
        source = _staged(values, tensor.device)
    else:
        # torch has no read-only tensors, and says so in a warning
        source = torch.from_numpy(values if values.flags.writeable else values.copy())
    with torch.no_grad():
        tensor.copy_(source.view(tensor.shape), non_blocking=goes_on)


def rounded(values: Vector, dtype: torch.dtype) -> Vector:
    """What a tensor of a type holds where these were written into it, float32; a copy."""
    copy: Vector = torch.tensor(values).to(dtype).to(torch.float32).numpy()
    return copy


def read_into(vector: Vector, layout: Layout, tensors: Sequence[Tensor]) -> None:
    """Copy the tensors of a layout, or its first ones, into a flat float32 vector [layout.elements]."""
    for spec, tensor in zip(layout.tensors, tensors, strict=False):
        vector[spec.start : spec.stop] = to_host(tensor)


class Proposal(Sequence[Vector]):
    """What an optimizer proposes: one flat float32 array for each tensor, made when it is indexed, then those given.

    Args:
        tensors: the parameters, after the step.
        buffers: what is proposed for the buffers.
    """

    def __init__(self, tensors: Sequence[Tensor], buffers: Sequence[Vector] = ()) -> None:
        self._tensors = tensors
        self._buffers = buffers

    def __len__(self) -> int:
        return len(self._tensors) + len(self._buffers)

    @overload
    def __getitem__(self, index: int) -> Vector: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Vector]: ...

    def __getitem__(self, index: int | slice) -> Vector | Sequence[Vector]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        count = len(self._tensors)
        return to_host(self._tensors[index]) if index < count else self._buffers[index - count]


def in_place(tensor: Tensor, elements: int) -> bool:
    """Whether a tensor's own memory is flat float32 [elements] on the host, in order."""
    return (
        tensor.dtype is _FLOAT32  # names of this module, and no look into torch: this is for each tensor of each step
        and tensor.is_cpu
        and tensor.layout is _STRIDED
        and tensor.numel() == elements
        and tensor.is_contiguous()
    )


def addresses(tensors: Sequence[Tensor | None], specs: Sequence[TensorSpec]) -> npt.NDArray[np.int64]:
    """Where each tensor is for :class:`rowcast.rows.scattered.Scattered`, int64; 0: it is not :func:`in_place`."""
    found = [
        0 if tensor is None or not in_place(tensor, spec.stop - spec.start) else tensor.data_ptr()
        for tensor, spec in zip(tensors, specs, strict=True)
    ]
    return np.array(found, dtype=np.int64)


def first_nonfinite(gradients: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first gradient that holds NaN or Inf; None where all are finite.

    A sum is NaN or Inf whenever an element is, and costs one pass without a temporary. A sum can also overflow
    by itself, so a suspect is looked at element by element. Each device is waited for once.
    """
    names: dict[torch.device, list[tuple[str, Tensor]]] = {}
    sums: dict[torch.device, list[Tensor]] = {}
    with torch.no_grad():
        for name, gradient in gradients:
            values = gradient._values() if gradient.is_sparse else gradient
            names.setdefault(values.device, []).append((name, values))
            sums.setdefault(values.device, []).append(values.sum().to(torch.float32))
        for device, probes in sums.items():
            finite = torch.isfinite(torch.stack(probes)).tolist()
            for (name, values), passed in zip(names[device], finite, strict=True):
                if not passed and not bool(torch.isfinite(values).all()):
                    return name
    return None
