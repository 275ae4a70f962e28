"""Between torch tensors and the flat float32 vector, one tensor at a time.

A contiguous float32 tensor in host memory is seen through a view; any
other (float64, bfloat16, a transposed weight, a CUDA tensor) is converted alone, when it is asked for, and
dropped after use. :func:`to_host` and :func:`from_host_` are the only places that know about devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rowcast.rows import Layout
from rowcast.rows.layout import TensorSpec

__all__ = ["Proposal", "addresses", "first_nonfinite", "from_host_", "in_place", "read_into", "to_host"]

Vector = npt.NDArray[np.float32]

_FLOAT32, _STRIDED = torch.float32, torch.strided


def to_host(tensor: Tensor) -> Vector:
    """A tensor's values as a flat C-contiguous float32 array [elements] in host memory.

    A contiguous float32 CPU tensor is not copied: the array is a view of it. Anything else is converted
    (and, from another device, waited for).
    """
    host = tensor.detach().to(device="cpu", dtype=torch.float32).contiguous()
    view: Vector = host.view(-1).numpy()
    return view


def from_host_(tensor: Tensor, values: Vector) -> None:
    """Overwrite a tensor with flat float32 values [elements], rounding to the tensor's own type and device.

    The write goes through torch, so autograd notices a tensor that was changed between forward and backward.
    """
    if not values.flags.writeable:  # torch has no read-only tensors, and says so in a warning
        values = values.copy()
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(values).view(tensor.shape))


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
