"""A flat vector in rows on a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt
from torch import Tensor

from rowcast.codecs import Codec, OneBit, Raw
from rowcast.codecs.base import Bytes
from rowcast.delivery.placed import NotFinite, Placed, RowVector
from rowcast.errors import LocalProtocolError
from rowcast.rows import Layout
from rowcast.rows.kernels import gather_rows, scatter_rows

if TYPE_CHECKING:
    from rowcast.optim.device.home import DeviceHome

__all__ = ["DeviceProposal", "DeviceVector"]

Vector = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class DeviceProposal(Placed):
    """What an optimizer proposes, on the device of the vectors.

    Args:
        home: where it lies.
        layout: of the vectors.
        proposed: flat float32 [elements].
        start: from where it was made, float32 [elements].
    """

    def __init__(self, home: DeviceHome, layout: Layout, proposed: Tensor, start: Tensor) -> None:
        self.proposed = proposed
        self.start = start
        self._home = home
        self._layout = layout
        self._copy: Vector | None = None

    @property
    def origin(self) -> Vector:
        with self._home.working():
            return self._home.download(self.start)

    def __len__(self) -> int:
        return len(self._layout.tensors)

    @overload
    def __getitem__(self, index: int) -> Vector: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Vector]: ...

    def __getitem__(self, index: int | slice) -> Vector | Sequence[Vector]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        if self._copy is None:
            with self._home.working():
                self._copy = self._home.download(self.proposed)
        spec = self._layout.tensors[index]
        return self._copy[spec.start : spec.stop]


class DeviceVector:
    """A :class:`rowcast.delivery.placed.RowVector` on a device.

    Rows in the codes ``onebit`` and ``raw`` are encoded and decoded there. For another code the rows that it is about
    are copied to the host and back.

    Args:
        home: the device.
        layout: the rows.
        data: float32 [elements], on the device; taken over.

    Attributes:
        data: see above; another tensor after :meth:`accumulate`.
    """

    def __init__(self, home: DeviceHome, layout: Layout, data: Tensor) -> None:
        self.data = data
        self._home = home
        self._layout = layout
        self._room: Tensor | None = None
        self._on_host: Vector | None = None

    def values(self) -> Vector:
        with self._home.working():
            values: Vector = self._home.download(self.data)
        return values

    def load(self, values: Vector) -> None:
        with self._home.working():
            self.data.copy_(self._home.upload(values))

    # -- codecs ------------------------------------------------------------------------------------------------

    def encode(self, codec: Codec, rows: IntArray, *, consume: bool = True) -> Bytes:
        if not len(rows):
            return np.zeros(0, dtype=np.uint8)
        if type(codec) not in (OneBit, Raw):
            return self._by_host(codec, rows, consume)
        with self._home.working():
            chosen = self._home.choose(self._layout, rows)
            if isinstance(codec, OneBit):
                payload: Bytes = self._home.download(self._home.kernels.encode(self.data, chosen, consume=consume))
                return payload
            values: Vector = self._home.download(chosen.gather(self.data))
            if consume:
                chosen.scatter_(self.data, self.data.new_zeros(chosen.elements))
            return values.view(np.uint8)

    def add(self, codec: Codec, payload: Bytes, rows: IntArray, sign: float) -> None:
        if not len(rows) or not len(payload):
            return
        if isinstance(codec, OneBit):
            with self._home.working():
                chosen = self._home.choose(self._layout, rows)
                self._home.kernels.add(self.data, chosen, self._home.upload(payload), sign)
        elif isinstance(codec, Raw):
            with self._home.working():
                chosen = self._home.choose(self._layout, rows)
                values = self._home.upload(np.frombuffer(payload.tobytes(), dtype=np.float32))
                chosen.scatter_(self.data, chosen.gather(self.data) + values * sign)
        else:
            here = self._rows_on_host(rows)
            codec.add(self._layout, payload, rows, here, sign)
            self.scatter(rows, gather_rows(here, self._layout.offsets, rows))

    def replace(self, payload: Bytes, rows: IntArray) -> None:
        # Added to zero, as on the host: -0.0 becomes 0.0.
        self.scatter(rows, np.frombuffer(payload.tobytes(), dtype=np.float32) + np.float32(0.0))

    def _by_host(self, codec: Codec, rows: IntArray, consume: bool) -> Bytes:
        """Encode rows on the host."""
        here = self._rows_on_host(rows)
        payload = codec.encode(self._layout, here, rows, consume=consume)
        if consume:
            self.scatter(rows, gather_rows(here, self._layout.offsets, rows))
        return payload

    def _rows_on_host(self, rows: IntArray) -> Vector:
        """A vector of the layout in host memory that holds these rows, and anything elsewhere."""
        if self._on_host is None:
            self._on_host = self._layout.zeros()
        scatter_rows(self.gather(rows), self._on_host, self._layout.offsets, rows)
        return self._on_host

    # -- rows --------------------------------------------------------------------------------------------------

    def abs_sums(self, sums: Vector) -> None:
        with self._home.working():
            chosen = self._home.all_rows(self._layout)
            sums[:] = self._home.download(self._home.kernels.abs_sums(self.data, chosen))

    def some_abs_sums(self, rows: IntArray, sums: Vector) -> None:
        if len(rows):
            with self._home.working():
                chosen = self._home.choose(self._layout, rows)
                sums[rows] = self._home.download(self._home.kernels.abs_sums(self.data, chosen))

    def take_rows(self, source: RowVector, rows: IntArray) -> None:
        if not isinstance(source, DeviceVector):
            raise LocalProtocolError(f"take_rows: expected a vector on {self._home.name}, got another")
        if len(rows):
            with self._home.working():
                chosen = self._home.choose(self._layout, rows)
                chosen.scatter_(self.data, chosen.gather(source.data))

    def gather(self, rows: IntArray) -> Vector:
        if not len(rows):
            return np.zeros(0, dtype=np.float32)
        with self._home.working():
            values: Vector = self._home.download(self._home.choose(self._layout, rows).gather(self.data))
        return values

    def scatter(self, rows: IntArray, values: Vector) -> None:
        if len(rows):
            with self._home.working():
                chosen = self._home.choose(self._layout, rows)
                chosen.scatter_(self.data, self._home.upload(values))

    # -- updates -----------------------------------------------------------------------------------------------

    def accumulate(
        self,
        sources: Sequence[Vector],
        origin: RowVector | Vector,
        weights: Vector,
        sums: Vector,
        computed: npt.NDArray[np.float64],
    ) -> float:
        layout = self._layout
        with self._home.working():
            proposed, start = self._there(sources, origin)
            room = self._room if self._room is not None else self.data.new_empty(layout.elements)
            chosen = self._home.all_rows(layout)
            kernels = self._home.kernels
            found = kernels.accumulate(self.data, proposed, start, self._home.upload(weights), chosen, room)
            figures = self._home.download(found.packed())
            if figures[-1] != 0:
                self._room = room
                raise NotFinite(self._first_bad(proposed))
            self._room, self.data = self.data, found.pending
        rows = layout.rows
        sums[:], total, distance = figures[:rows], figures[rows : 2 * rows], figures[2 * rows : 3 * rows]
        computed += weights.astype(np.float64) * total
        count = layout.parameter_rows  # buffers are values, and no steps
        return float(np.dot(weights[:count].astype(np.float64), distance[:count].astype(np.float64)))

    def _there(self, sources: Sequence[Vector], origin: RowVector | Vector) -> tuple[Tensor, Tensor]:
        """What was proposed and from where, on the device."""
        if isinstance(sources, DeviceProposal):
            return sources.proposed, sources.start
        proposed = self._home.upload(np.concatenate([sources[k].reshape(-1) for k in range(len(sources))]))
        if isinstance(origin, DeviceVector):
            return proposed, origin.data
        return proposed, self._home.upload(origin if isinstance(origin, np.ndarray) else origin.values())

    def _first_bad(self, proposed: Tensor) -> int:
        """The first tensor that holds NaN or Inf."""
        values = self._home.download(proposed)
        specs = self._layout.tensors
        return next(k for k, spec in enumerate(specs) if not np.isfinite(values[spec.start : spec.stop]).all())
