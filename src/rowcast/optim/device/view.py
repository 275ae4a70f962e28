"""What the model holds between two steps, where its parameters and the vectors of its worker are on one device.

The same as :class:`rowcast.optim.view.View` does in host memory, with the image on the device. The stream of the
training loop is waited for once in a step: for whether parameters were written by hand, and gradients are finite.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rowcast.delivery.placed import Held, Movable, RowVector
from rowcast.errors import LocalProtocolError
from rowcast.optim.device.home import DeviceHome
from rowcast.optim.device.vector import DeviceProposal, DeviceVector
from rowcast.optim.projection import Projection
from rowcast.optim.shared import Shared
from rowcast.optim.view import WIDE, View
from rowcast.rows import Layout

__all__ = ["DeviceView"]

Vector = npt.NDArray[np.float32]


class DeviceView:
    """The parameters in the model, and an image of what was written into them.

    Each method raises :class:`~rowcast.delivery.placed.OutOfRoom` where the device has no memory for it; then
    :meth:`on_host` gives a view that goes on from here.

    Args:
        home: where the vectors of the worker lie.
        shared: the parameters that travel; they may be of any floating-point type and in any order in memory.
        layout: their rows, and those of the buffers behind them.
        projection: brings them back into their bounds.
    """

    def __init__(self, home: DeviceHome, shared: Shared, layout: Layout, projection: Projection) -> None:
        self._home = home
        self._shared = shared
        self._layout = layout
        self._projection = projection
        self._elements = shared.layout.elements
        self._before: Tensor | None = None  # what was written, before it was projected
        self._finite = False
        self._has_buffers = self._elements < layout.elements
        with self._home.calling():
            self._image, self._proposed = (torch.zeros(layout.elements, device=home.device) for _ in range(2))
            self._image_parts, self._proposed_parts = (self._parts(one) for one in (self._image, self._proposed))
        self._rounded = [k for k, tensor in enumerate(shared.tensors) if tensor.dtype not in WIDE]

    def _parts(self, vector: Tensor) -> list[Tensor]:
        """Of a vector the part of each parameter, in its shape."""
        pairs = zip(self._shared.layout.tensors, self._shared.tensors, strict=True)
        return [vector[spec.start : spec.stop].view(tensor.shape) for spec, tensor in pairs]

    def on_host(self) -> View:
        """A view in host memory that holds the same."""
        view = View(self._shared, self._layout, self._projection)
        before = self._before
        view.go_on(self._image.cpu().numpy(), None if before is None else before.cpu().numpy())
        return view

    # -- what was done to the model ----------------------------------------------------------------------------

    def written(self) -> list[str]:
        """See :meth:`rowcast.optim.view.View.written`; looks at the gradients as well, see :attr:`finite`."""
        with self._home.calling():
            torch._foreach_copy_(self._proposed_parts, self._tensors)
            span = slice(0, self._elements)
            differs = (self._proposed[span].view(torch.int32) != self._image[span].view(torch.int32)).any()
            gradients = self._gradients()
            if gradients is None:
                self._finite, found = False, bool(differs)
            else:
                largest = torch.stack([one.to(torch.float32) for one in torch._foreach_norm(gradients, float("inf"))])
                found, self._finite = torch.stack([differs, torch.isfinite(largest).all()]).tolist()
            return self._adopted() if found else []

    def finite(self) -> bool:
        """Whether :meth:`written` has found all gradients finite; told once, False: nobody knows."""
        finite, self._finite = self._finite, False
        return finite

    def _gradients(self) -> list[Tensor] | None:
        """Those of all parameters, if each has one that can be looked at together with the others."""
        found = []
        for tensor in self._shared.tensors:
            gradient = tensor.grad
            if gradient is None or gradient.layout is not torch.strided or gradient.device != self._home.device:
                return None
            found.append(gradient)
        return found

    def _adopted(self) -> list[str]:
        """Count from what parameters hold; names of those that hold something else than before."""
        names = []
        for name, spec in zip(self._shared.names, self._shared.layout.tensors, strict=True):
            part = slice(spec.start, spec.stop)
            held, image = self._proposed[part], self._image[part]
            if torch.equal(held.view(torch.int32), image.view(torch.int32)):
                continue
            if self._before is not None:
                self._before[part] += held - image
            image.copy_(held)
            names.append(name)
        return names

    @property
    def _tensors(self) -> list[Tensor]:
        return [tensor.detach() for tensor in self._shared.tensors]

    # -- what is written ---------------------------------------------------------------------------------------

    def fill(self, held: Held, times: Vector | None) -> None:
        """Write the replica into the parameters, less what is beyond it: the one write of a step.

        Args:
            held: the vectors of the worker.
            times: how often each row of what is pending is subtracted from what is expected, float32 [rows]; ``None``:
                the replica is written as it is.
        """
        self._finite = False
        self._home.ahead()
        with self._home.calling():
            self._write(held, times, self._image)
            torch._foreach_copy_(list(self._shared.tensors), self._image_parts)
            for k in self._rounded:
                self._image_parts[k].copy_(self._shared.tensors[k])
        self._home.behind()

    def holds(self, held: Held, times: Vector | None) -> bool:
        """Whether :meth:`fill` would write what is there already."""
        self._home.ahead()
        with self._home.calling():
            target = torch.empty_like(self._image)
            self._write(held, times, target)
            written = self._image if self._before is None else self._before
            same = torch.equal(target[: self._elements], written[: self._elements])
        self._home.behind()
        return same

    def _write(self, held: Held, times: Vector | None, out: Tensor) -> None:
        if times is None:
            out.copy_(_data(held.replica))
            return
        chosen = self._home.all_rows(self._layout)
        vector, minus = _data(held.expected), _data(held.pending)
        self._home.kernels.spread(vector, minus, self._home.upload(times), chosen, out)

    def tail(self, vector: RowVector) -> Vector:
        """A vector in host memory that holds the buffers of another one, float32 [elements]; nothing else of it."""
        copy = self._layout.zeros()
        if self._has_buffers:
            with self._home.working():
                copy[self._elements :] = self._home.download(_data(vector)[self._elements :])
        return copy

    def project(self) -> None:
        """Bring what was written into its bounds."""
        if not self._projection:
            return
        with self._home.calling():
            self._before = self._image[: self._elements].clone()
        self._projection.apply()
        with self._home.calling():
            torch._foreach_copy_(self._image_parts, self._tensors)
        self._home.behind()

    # -- what is proposed --------------------------------------------------------------------------------------

    def proposal(self, buffers: Callable[[Vector], list[Vector]]) -> DeviceProposal:
        """What the parameters hold now, and what is proposed for the buffers.

        Args:
            buffers: gives that, one flat float32 array for each; takes a vector of the layout in host memory, into
                which it writes from where it counts.
        """
        with self._home.calling():
            torch._foreach_copy_(self._proposed_parts, self._tensors)
            start = self._image
            if self._before is not None:
                start = self._image.clone()
                projected = start[: self._elements]
                back = (self._before - projected).mul_(float(self._projection.RETURN))
                projected.add_(back)
            origin = self._layout.zeros()  # memory that is not touched is not there
            values = buffers(origin)
            if self._has_buffers:
                self._proposed[self._elements :] = self._home.upload(np.concatenate(values))
                start[self._elements :] = self._home.upload(origin[self._elements :])
        self._home.behind()
        return DeviceProposal(self._home, self._layout, self._proposed, start)


def _data(vector: RowVector) -> Tensor:
    at = vector.at if isinstance(vector, Movable) else vector
    if not isinstance(at, DeviceVector):
        raise LocalProtocolError("view: expected a vector on the device of the model, got another")
    return at.data
