"""What the model holds between two steps: where a gradient is computed, and from where a step is counted.

The parameters of a team move by what the team sends, and are overwritten with it after each step: whatever else was
written into them, by hand or by the model as it ran, is gone. That is easily taken for training, so it is noticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from rowcast.optim.projection import Projection
from rowcast.optim.shared import Shared
from rowcast.optim.tensors import Proposal, addresses, from_host_, read_into, to_host, to_host_together
from rowcast.rows import Layout
from rowcast.rows.half_rows import HalfRows
from rowcast.rows.scattered import Scattered

__all__ = ["WIDE", "View"]

Vector = npt.NDArray[np.float32]
T = TypeVar("T")

#: Types that hold every float32 as it is. What another one holds is rounded.
WIDE = (torch.float32, torch.float64)


class View:
    """The parameters in the model, and an image of what was written into them.

    A step counts from the image. So rows may arrive while it is made, and what a half-precision tensor has rounded does
    not travel again in every iteration.

    Args:
        shared: the parameters that travel.
        layout: their rows, and those of the buffers behind them.
        projection: brings them back into their bounds.

    Attributes:
        image: float32 [layout.elements]; of each parameter what was written into it, as it holds it. Where it was
            filled without an image, the replica itself, which is then never written here.
        borrowed: it was filled without an image.
        copies: vectors that are kept: the image, and where there is a projection two more.
        spares: the replica would do as image where it stands still: every parameter holds what is written into it.
    """

    def __init__(self, shared: Shared, layout: Layout, projection: Projection) -> None:
        self._names = shared.names
        self._tensors = shared.tensors
        self._layout = layout
        self._specs = shared.layout.tensors
        self._elements = shared.layout.elements
        self._projection = projection
        self._whole = Scattered(self._specs)
        self._part: tuple[tuple[int, ...], Scattered] = (), Scattered(())
        self._seen: tuple[npt.NDArray[np.int64], list[Vector]] = np.zeros(0, dtype=np.int64), []
        self._before: Vector | None = None  # what was written, before it was projected
        self.image = layout.zeros()
        self.copies = 3 if projection else 1
        self.spares = not projection and all(tensor.dtype in WIDE for tensor in shared.tensors)
        self.borrowed = False

    def go_on(self, image: Vector, before: Vector | None) -> None:
        """Take over what another view has written, and what it was before it was projected; copied."""
        self.image[:] = image
        self._before = None if before is None else before.copy()

    def written(self) -> list[str]:
        """Names of parameters that somebody else has written since: they hold something else than the image.

        Every write is noticed that changes a float32 value, on any device. The next step counts from what they hold,
        so that what was written does not travel; :meth:`fill` overwrites it. Without an image it is overwritten at
        once, and the step is made from there. What was written and put back (averaged weights for an evaluation) is
        the same again. Looking reads parameters and image once, at the cost of a copy.
        """
        places = addresses(self._tensors, self._specs)
        suspects = self._whole.differing(places, self.image) if places.all() else range(len(self._tensors))
        return [self._names[k] for k in suspects if self._adopt(k)]

    def _adopt(self, k: int) -> bool:
        """Count from what a parameter holds; whether that is something else than before."""
        part, held = slice(self._specs[k].start, self._specs[k].stop), to_host(self._tensors[k])
        if np.array_equal(held.view(np.uint32), self.image[part].view(np.uint32)):
            return False
        if self.borrowed:
            from_host_(self._tensors[k], self.image[part])
            return True
        if self._before is not None:
            self._before[part] += held - self.image[part]
        self.image[part] = held
        return True

    def fill(self, replica: Vector, beyond: tuple[Vector | HalfRows, Vector] | None, *, lean: bool = False) -> None:
        """Write the replica into the parameters, less what is beyond it: the one write of a step.

        Args:
            replica: float32 [layout.elements]; the image, where it was made there.
            beyond: a vector that is subtracted, and how often each row of it is, float32 [rows].
            lean: without an image: the replica stands still, and nothing is beyond it.
        """
        if lean:
            self.image, self.borrowed = replica, True
        elif self.borrowed:
            self.image, self.borrowed = self._layout.zeros(), False
        places = addresses(self._tensors, self._specs)
        scattered = self._whole if places.all() else self._of(tuple(np.flatnonzero(places).tolist()))
        if beyond is None:
            scattered.spread(places[places != 0], self.image, replica)
        else:
            scattered.spread_less(places[places != 0], self.image, replica, *beyond, self._layout.offsets)
        for k, (place, tensor) in enumerate(zip(places.tolist(), self._tensors, strict=True)):
            if place:
                increment_version(tensor)  # autograd notices a write between forward and backward
            else:
                self._convert(k, replica, beyond)

    def _of(self, direct: tuple[int, ...]) -> Scattered:
        """For these tensors: the others have to be converted."""
        if self._part[0] != direct:
            self._part = direct, Scattered([self._specs[k] for k in direct])
        return self._part[1]

    def _convert(self, k: int, replica: Vector, beyond: tuple[Vector | HalfRows, Vector] | None) -> None:
        part, tensor = slice(self._specs[k].start, self._specs[k].stop), self._tensors[k]
        value = self._value(k, replica, beyond)
        from_host_(tensor, value)
        self.image[part] = value if tensor.dtype in WIDE else to_host(tensor)

    def _value(self, k: int, replica: Vector, beyond: tuple[Vector | HalfRows, Vector] | None) -> Vector:
        """What :meth:`fill` writes into a tensor, flat float32."""
        spec = self._specs[k]
        part, rows = slice(spec.start, spec.stop), slice(spec.first_row, spec.end_row)
        if beyond is None:
            return replica[part]
        minus, times = beyond
        return replica[part] - np.repeat(times[rows], self._layout.lengths[rows]) * minus[part]

    def project(self) -> None:
        """Bring what was written into its bounds."""
        if self._projection:
            self._before = self.image[: self._elements].copy()
            self._projection.apply()
            read_into(self.image, self._layout, self._tensors)

    def holds(self, replica: Vector, beyond: tuple[Vector | HalfRows, Vector] | None) -> bool:
        """Whether :meth:`fill` would write what is there already."""
        written = self.image if self._before is None else self._before
        for k, spec in enumerate(self._specs):
            if not np.array_equal(self._value(k, replica, beyond), written[spec.start : spec.stop]):
                return False
        return True

    def origin(self) -> Vector:
        """From where a step counts that travels, float32 [layout.elements]; with a projection, see there."""
        if self._before is None:
            return self.image
        origin = self.image.copy()
        origin[: self._elements] = self._projection.base(self._before, origin[: self._elements])
        return origin

    def tail(self, vector: T) -> T:
        """A vector that can be read where it holds buffers: this one."""
        return vector

    def read(self, tensors: Sequence[Tensor]) -> list[Vector]:
        """What tensors of the model hold, each flat float32; perhaps seen where it is."""
        return to_host_together(tensors)

    def proposal(self, bases: list[Vector], values: list[Vector]) -> tuple[list[Vector] | Proposal, Vector]:
        """What the parameters hold now, one array for each, and behind them what is proposed for the buffers.

        No parameter is copied that is float32 in host memory; one that is not is converted when it is asked for.

        Args:
            bases: from where each buffer counts.
            values: what is proposed for it.

        Returns:
            That, and from where it counts; without an image that is the replica, and values count from there.
        """
        origin = self.origin()
        parts = [slice(spec.start, spec.stop) for spec in self._layout.tensors[len(self._specs) :]]
        if self.borrowed:
            values = [origin[part] - (base - value) for part, base, value in zip(parts, bases, values, strict=True)]
        else:
            for part, base in zip(parts, bases, strict=True):
                origin[part] = base
        return self._proposed(values), origin

    def _proposed(self, buffers: list[Vector]) -> list[Vector] | Proposal:
        places = addresses(self._tensors, self._specs)
        if not places.all():
            return Proposal(self._tensors, buffers)
        if not np.array_equal(places, self._seen[0]):
            # What is seen is kept alive by that: nothing else can come to be at these addresses.
            self._seen = places, [tensor.detach().view(-1).numpy() for tensor in self._tensors]
        return self._seen[1] + buffers
