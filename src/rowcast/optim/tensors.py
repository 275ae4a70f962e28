"""Between torch tensors and the flat float32 vector, one tensor at a time.

Nothing here copies a whole model. A contiguous float32 tensor in host memory is seen through a view; any
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

__all__ = ["Proposal", "first_nonfinite", "from_host_", "read_into", "to_host", "write_from"]

#: Types that cannot hold every float32: what they hold is a rounded image of the replica.
_NARROW = (torch.float16, torch.bfloat16)


def to_host(tensor: Tensor) -> npt.NDArray[np.float32]:
    """A tensor's values as a flat C-contiguous float32 array [elements] in host memory.

    A contiguous float32 CPU tensor is not copied: the array is a view of it. Anything else is converted
    (and, from another device, waited for).
    """
    host = tensor.detach().to(device="cpu", dtype=torch.float32).contiguous()
    view: npt.NDArray[np.float32] = host.view(-1).numpy()
    return view


def from_host_(
    tensor: Tensor,
    values: npt.NDArray[np.float32],
    minus: npt.NDArray[np.float32] | None = None,
    times: float = 1.0,
) -> None:
    """Overwrite a tensor with flat float32 values [elements], rounding to the tensor's own type and device.

    With ``minus``, of the same shape, that is subtracted ``times`` times. The write goes through torch, so autograd
    notices a tensor that was changed between forward and backward.
    """
    if not values.flags.writeable:  # torch has no read-only tensors, and says so in a warning
        values = values.copy()
    with torch.no_grad():
        source = torch.from_numpy(values)
        if minus is not None:
            source = source.sub(torch.from_numpy(minus), alpha=times)
        tensor.copy_(source.view(tensor.shape))


def read_into(vector: npt.NDArray[np.float32], layout: Layout, tensors: Sequence[Tensor]) -> None:
    """Copy the tensors of a layout into a flat float32 vector [layout.elements]."""
    for spec, tensor in zip(layout.tensors, tensors, strict=True):
        vector[spec.start : spec.stop] = to_host(tensor)


def write_from(
    vector: npt.NDArray[np.float32],
    layout: Layout,
    tensors: Sequence[Tensor],
    minus: npt.NDArray[np.float32] | None = None,
    times: float = 1.0,
) -> None:
    """Copy a flat float32 vector [layout.elements] into the first tensors of a layout, less ``times`` another."""
    for spec, tensor in zip(layout.tensors, tensors, strict=False):
        part = slice(spec.start, spec.stop)
        from_host_(tensor, vector[part], None if minus is None else minus[part], times)


class Proposal(Sequence[npt.NDArray[np.float32]]):
    """What an optimizer proposes: one flat float32 array per tensor of a layout, made when it is indexed.

    A half-precision tensor holds a rounded image of the replica. Its proposal is ``replica + (after - image)``,
    so that only the step travels, and not the rounding error again in every iteration. The same where the step was
    made from elsewhere than the replica: ``replica + (after - base)``.

    Args:
        layout: the layout.
        tensors: its tensors, after the step.
        replica: float32 [layout.elements], from which the tensors were filled before the step.
        base: float32 [layout.elements], what they held before the step, where that was not the replica.
    """

    def __init__(
        self,
        layout: Layout,
        tensors: Sequence[Tensor],
        replica: npt.NDArray[np.float32],
        base: npt.NDArray[np.float32] | None = None,
    ) -> None:
        self._layout = layout
        self._tensors = tensors
        self._replica = replica
        self._base = base

    def __len__(self) -> int:
        return len(self._tensors)

    @overload
    def __getitem__(self, index: int) -> npt.NDArray[np.float32]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[npt.NDArray[np.float32]]: ...

    def __getitem__(self, index: int | slice) -> npt.NDArray[np.float32] | Sequence[npt.NDArray[np.float32]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        tensor = self._tensors[index]
        proposed = to_host(tensor)
        spec = self._layout.tensors[index]
        if self._base is not None:
            return self._replica[spec.start : spec.stop] + (proposed - self._base[spec.start : spec.stop])
        if tensor.dtype not in _NARROW:
            return proposed
        before = torch.tensor(self._replica[spec.start : spec.stop])
        proposed -= to_host(before.to(tensor.dtype))
        proposed += before.numpy()
        return proposed


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
