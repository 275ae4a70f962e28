"""What the model holds between two steps, where its parameters and the vectors of its worker are on one device.

The same as :class:`rowcast.optim.view.View` does in host memory, with the image on the device. The stream of the
training loop is waited for once in a step: for whether parameters were written by hand, and gradients are finite.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rowcast.delivery.placed import PlacedVector
from rowcast.errors import LocalProtocolError
from rowcast.optim.device.home import DeviceHome
from rowcast.optim.device.vector import DeviceProposal, DeviceVector
from rowcast.optim.projection import Projection
from rowcast.optim.shared import Shared
from rowcast.optim.tensors import to_device, to_host_together
from rowcast.optim.view import WIDE, View
from rowcast.rows import Layout

__all__ = ["DeviceView", "OutOfRoom"]

Vector = npt.NDArray[np.float32]


class OutOfRoom(Exception):
    """The device has no memory for what a view was to do. :meth:`DeviceView.on_host` gives one that can do it."""


class DeviceView:
    """The parameters in the model, and an image of what was written into them.

    Each method raises :class:`OutOfRoom` where the device has no memory for it, and has changed nothing then but the
    parameters, which are written anew.

    Args:
        home: where the vectors of the worker lie.
        shared: the parameters that travel; they may be of any floating-point type and in any order in memory.
        layout: their rows, and those of the buffers behind them.
        projection: brings them back into their bounds.
    """

    borrowed = False  # see View

    def __init__(self, home: DeviceHome, shared: Shared, layout: Layout, projection: Projection) -> None:
        self._home = home
        self._shared = shared
        self._layout = layout
        self._projection = projection
        self._device = home.device
        self._elements = shared.layout.elements
        self._before: Tensor | None = None  # what was written, before it was projected
        self._finite = False
        self._rounded = [k for k, tensor in enumerate(shared.tensors) if tensor.dtype not in WIDE]
        with self._working():
            self._image, self._proposed = (torch.zeros(layout.elements, device=self._device) for _ in range(2))
            self._lengths = to_device(layout.lengths, self._device)
        self._image_parts, self._proposed_parts = (self._parts(one) for one in (self._image, self._proposed))

    def _parts(self, vector: Tensor) -> list[Tensor]:
        """Of a vector the part of each parameter, in its shape."""
        pairs = zip(self._shared.layout.tensors, self._shared.tensors, strict=True)
        return [vector[spec.start : spec.stop].view(tensor.shape) for spec, tensor in pairs]

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """While entered, operations go to the caller's stream on the device, and none is recorded by autograd."""
        device: Any = torch.cuda.device(self._device) if self._device.type == "cuda" else contextlib.nullcontext()
        try:
            with torch.no_grad(), device:
                yield
        except torch.cuda.OutOfMemoryError as error:
            raise OutOfRoom(f"out of memory ({str(error).splitlines()[0][:160]})") from error

    def on_host(self) -> View:
        """A view in host memory that holds the same."""
        view = View(self._shared, self._layout, self._projection)
        before = self._before
        view.go_on(self._image.cpu().numpy(), None if before is None else before.cpu().numpy())
        return view

    # -- what was done to the model ----------------------------------------------------------------------------

    def written(self) -> list[str]:
        """See :meth:`rowcast.optim.view.View.written`; looks at the gradients as well, see :meth:`finite`."""
        with self._working():
            self._read()
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
        """Those of all parameters that have one, if all can be looked at together."""
        found = [tensor.grad for tensor in self._shared.tensors if tensor.grad is not None]
        together = all(one.layout is torch.strided and one.device == self._device for one in found)
        return found if found and together else None

    def _read(self) -> None:
        """What the parameters hold now, in the vector of what is proposed."""
        torch._foreach_copy_(self._proposed_parts, [tensor.detach() for tensor in self._shared.tensors])

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

    # -- what is written ---------------------------------------------------------------------------------------

    def fill(self, replica: PlacedVector, beyond: tuple[PlacedVector, Vector] | None, *, lean: bool = False) -> None:
        """Write the replica into the parameters, less what is beyond it: the one write of a step.

        Args:
            replica: on the device, with what is on its way where something is beyond it.
            beyond: a vector that is subtracted, and how often each row of it is, float32 [rows].
            lean: see :meth:`rowcast.optim.view.View.fill`; never here.
        """
        self._finite = False
        if self._home.full:  # since the replica was asked for
            raise OutOfRoom(self._home.full)
        self._home.ahead()
        try:
            with self._working():
                self._image.copy_(self._target(replica, beyond))  # all that needs memory is done by now
                torch._foreach_copy_(list(self._shared.tensors), self._image_parts)
                for k in self._rounded:
                    self._image_parts[k].copy_(self._shared.tensors[k])
        finally:
            self._home.behind()

    def _target(self, replica: PlacedVector, beyond: tuple[PlacedVector, Vector] | None) -> Tensor:
        if beyond is None:
            return _data(replica)
        minus, times = beyond
        each = to_device(times, self._device)
        often = torch.repeat_interleave(each, self._lengths, output_size=self._layout.elements)
        return _data(replica) - often * _data(minus)

    def tail(self, vector: PlacedVector) -> Vector:
        """A vector in host memory that holds the buffers of another one, float32 [elements]; nothing else of it."""
        copy = self._layout.zeros()  # memory that is not touched is not there
        if self._elements < self._layout.elements:
            copy[self._elements :] = vector[self._elements :]
        return copy

    def project(self) -> None:
        """Bring what was written into its bounds."""
        if not self._projection:
            return
        with self._working():
            self._before = self._image[: self._elements].clone()
        self._projection.apply()
        with self._working():
            torch._foreach_copy_(self._image_parts, [tensor.detach() for tensor in self._shared.tensors])

    # -- what is proposed --------------------------------------------------------------------------------------

    def read(self, tensors: Sequence[Tensor]) -> list[Vector]:
        """See :meth:`View.read`; the stream of the home is waited for, not that of the training loop."""
        if not tensors:
            return []
        self._home.behind()
        with self._working(), self._home.working():
            return to_host_together(tensors)

    def proposal(self, bases: list[Vector], values: list[Vector]) -> tuple[DeviceProposal, None]:
        """What the parameters hold now, and what is proposed for the buffers; see :meth:`View.proposal`."""
        with self._working():
            self._read()
            start = self._image
            if self._before is not None:
                start = self._image.clone()
                projected = start[: self._elements]
                projected.add_((self._before - projected).mul_(float(self._projection.RETURN)))
            if values:
                for vector, tail in ((self._proposed, values), (start, bases)):
                    vector[self._elements :] = to_device(np.concatenate(tail), self._device)
        self._home.behind()
        return DeviceProposal(self._home, self._layout, self._proposed, start), None


def _data(vector: PlacedVector) -> Tensor:
    if not isinstance(vector, DeviceVector):
        raise LocalProtocolError("view: expected a vector on the device of the model, got another")
    return vector.data
