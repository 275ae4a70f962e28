"""A flat vector in rows on a device, and proposed parameters there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rowcast.codecs import Codec, OneBit, Raw
from rowcast.codecs.base import Bytes
from rowcast.codecs.fine import Fine
from rowcast.delivery.placed import NotFinite, PlacedProposal, PlacedVector
from rowcast.errors import LocalProtocolError
from rowcast.optim.device.chosen import Chosen, Group
from rowcast.optim.device.kernels import expressed, scales_of, sums_of, to_bytes, to_values
from rowcast.rows import Layout

if TYPE_CHECKING:
    from rowcast.optim.device.home import DeviceHome

__all__ = ["DeviceProposal", "DeviceVector"]

Vector = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class DeviceProposal(PlacedProposal):
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
        return self._home.do(lambda: self._home.download(self.start))

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
            self._copy = self._home.do(lambda: self._home.download(self.proposed))
        spec = self._layout.tensors[index]
        return self._copy[spec.start : spec.stop]


class DeviceVector:
    """A :class:`rowcast.delivery.placed.PlacedVector` on a device.

    Rows in the codes ``onebit`` and ``raw`` are encoded and decoded there. For another code (``half`` of buffers and of
    what a code has left, ``elements`` on a slow link) the rows that it is about are copied to the host and back.

    Args:
        home: the device.
        layout: the rows.
        data: float32 [elements], on the device; taken over.

    Attributes:
        data: see above; the home moves it to host memory when the device has no more.
    """

    def __init__(self, home: DeviceHome, layout: Layout, data: Tensor) -> None:
        self.data = data
        self._home = home
        self._layout = layout
        self._all = np.arange(layout.rows, dtype=np.int64)

    def __getitem__(self, part: slice) -> Vector:
        return self._home.do(lambda: self._home.download(self.data[part]))

    def load(self, values: Vector) -> None:
        self._home.do(lambda: self.data.copy_(self._home.upload(values)))

    # -- codecs ------------------------------------------------------------------------------------------------

    def encode(self, codec: Codec, rows: IntArray, *, consume: bool = True) -> Bytes:
        if not len(rows):
            return np.zeros(0, dtype=np.uint8)
        if isinstance(codec, Fine):  # what was taken out of one part stays so where the other one has no memory
            parts = codec.parts(self._layout, rows)
            return np.concatenate([self.encode(one, some, consume=consume) for one, some in parts])
        if isinstance(codec, OneBit):
            return self._encode_signs(rows, consume)
        return self._encode_values(codec, rows, consume)

    def _encode_signs(self, rows: IntArray, consume: bool) -> Bytes:
        home, chosen = self._home, self._home.choose(self._layout, rows)

        def work() -> tuple[Bytes, Tensor]:
            payload = torch.empty(2 * chosen.rows + chosen.sign_bytes, dtype=torch.uint8, device=home.device)
            halves, signs = payload[: 2 * chosen.rows].view(-1, 2), payload[2 * chosen.rows :]
            scales = torch.empty(chosen.rows, device=home.device)
            for group in chosen.groups(home.device):
                values = self.data[group.elements]
                scales[group.numbers] = scale = scales_of(values)
                halves[group.numbers], signs[group.sign_bytes] = to_bytes(values, scale)
            return home.download(payload), scales

        def take_out(group: Group, scales: Tensor) -> None:
            index = group.elements
            values = self.data[index]
            self.data[index] = values - expressed(values, scales[group.numbers])

        payload, scales = home.do(work)
        if consume:
            self._each(chosen, take_out, scales)
        return payload

    def _encode_values(self, codec: Codec, rows: IntArray, consume: bool) -> Bytes:
        """Encode rows on the host; in the code ``raw`` they are encoded as they are."""
        values = self._gather(rows)
        if isinstance(codec, Raw):
            payload: Bytes = values.view(np.uint8)
            left = np.zeros_like(values)
        else:
            part = self._layout.only(rows)
            left = values
            payload = codec.encode(part, left, np.arange(part.rows, dtype=np.int64), consume=consume)
        if consume:
            self._scatter(rows, left)
        return payload

    def add(self, codec: Codec, payload: Bytes, rows: IntArray, sign: float, only: Mask | None = None) -> None:
        if not len(payload) or (only is not None and not only.any()):
            return
        if isinstance(codec, Fine):
            pieces = zip(codec.parts(self._layout, rows), codec.pieces(self._layout, payload, rows), strict=True)
            of_buffers = rows >= self._layout.parameter_rows
            for ((one, some), piece), here in zip(pieces, (~of_buffers, of_buffers), strict=True):
                self.add(one, piece, some, sign, None if only is None else only[here])
        elif isinstance(codec, OneBit):
            self._add_signs(payload, rows, sign, only)
        elif isinstance(codec, Raw):
            self._add_values(_floats(payload) * np.float32(sign), rows, only)
        else:
            part, values = self._layout.only(rows), self._gather(rows)
            codec.add(part, payload, np.arange(part.rows, dtype=np.int64), values, sign)
            self._scatter(rows, values, only)

    def _add_signs(self, payload: Bytes, rows: IntArray, sign: float, only: Mask | None) -> None:
        chosen = self._home.choose(self._layout, rows, only)

        def work(group: Group, payload: Tensor) -> None:
            halves, signs = payload[: 2 * chosen.rows].view(-1, 2), payload[2 * chosen.rows :]
            values = to_values(halves[group.numbers], signs[group.sign_bytes], group.length, sign)
            index = group.elements
            self.data[index] = self.data[index] + values

        self._each(chosen, work, self._upload(payload))

    def _add_values(self, values: Vector, rows: IntArray, only: Mask | None) -> None:
        """Add rows, one behind the other."""

        def work(group: Group, values: Tensor) -> None:
            index = group.elements
            self.data[index] = self.data[index] + values[group.in_payload]

        self._each(self._home.choose(self._layout, rows, only), work, self._upload(values))

    def replace(self, payload: Bytes, rows: IntArray) -> None:
        # As on the host, where it is added to zero: -0.0 becomes 0.0.
        self._scatter(rows, _floats(payload) + np.float32(0.0))

    # -- rows --------------------------------------------------------------------------------------------------

    def take_rows(self, source: PlacedVector, rows: IntArray) -> None:
        if not isinstance(source, DeviceVector):
            raise LocalProtocolError(f"take_rows: expected a vector on {self._home.name}, got another")

        def work(group: Group) -> None:
            index = group.elements
            self.data[index] = source.data[index]

        self._each(self._home.choose(self._layout, rows), work)

    def sizes(self, rows: IntArray) -> Vector:
        home, chosen = self._home, self._home.choose(self._layout, rows)

        def work() -> Vector:
            sums = torch.empty(chosen.rows, device=home.device)
            for group in chosen.groups(home.device):
                sums[group.numbers] = sums_of(self.data[group.elements].abs())
            return home.download(sums)

        return home.do(work)

    def _gather(self, rows: IntArray) -> Vector:
        home, chosen = self._home, self._home.choose(self._layout, rows)

        def work() -> Vector:
            values = torch.empty(int(self._layout.lengths[rows].sum()), device=home.device)
            for group in chosen.groups(home.device):
                values[group.in_payload] = self.data[group.elements]
            return home.download(values)

        return home.do(work)

    def _scatter(self, rows: IntArray, values: Vector, only: Mask | None = None) -> None:
        def work(group: Group, values: Tensor) -> None:
            self.data[group.elements] = values[group.in_payload]

        self._each(self._home.choose(self._layout, rows, only), work, self._upload(values))

    def _upload(self, array: npt.NDArray[Any]) -> Tensor:
        return self._home.do(lambda: self._home.upload(array))

    def _each(self, chosen: Chosen, work: Callable[..., None], *others: Tensor) -> None:
        """Change each group of rows by itself: where the device has no memory for one, that goes on in host memory.

        Args:
            chosen: the rows.
            work: takes a group, and the other tensors, where this vector lies; its last act changes the group.
            others: tensors that it needs.
        """
        home, here = self._home, list(others)

        def change(k: int) -> None:
            here[:] = [home.here(one) for one in here]  # they go to host memory once
            work(chosen.group(k, home.device), *here)

        for k in range(len(chosen.cuts)):
            home.do(lambda k=k: change(k))  # type: ignore[misc]

    # -- updates -----------------------------------------------------------------------------------------------

    def accumulate(
        self,
        sources: Sequence[Vector],
        origin: PlacedVector | Vector,
        weights: Vector,
        sums: Vector,
        computed: npt.NDArray[np.float64],
    ) -> float:
        home, layout = self._home, self._layout
        chosen, often = home.choose(layout, self._all), self._upload(weights)
        proposed, start = home.do(lambda: self._there(sources, origin))
        good = home.do(lambda: torch.isfinite(proposed).all())
        found: list[Tensor] = []

        def work(group: Group, proposed: Tensor, start: Tensor, often: Tensor, good: Tensor) -> None:
            index = group.elements
            values, step = self.data[index], start[index] - proposed[index]
            new = values + often[group.numbers, None] * step
            figures = torch.stack([sums_of(new.abs()), step.sum(1), step.abs().sum(1)])
            self.data[index] = torch.where(good, new, values)  # nobody waits to know whether it is good
            found.append(figures)

        self._each(chosen, work, proposed, start, often, good)
        found.append(good.expand(3, 1))
        figures = home.do(lambda: home.download(torch.cat([home.here(one).to(torch.float32) for one in found], 1)))
        if not figures[0, -1]:
            raise NotFinite(self._first_bad(proposed))
        size, total, distance = figures[:, :-1]
        rows, often_there = chosen.numbers, weights[chosen.numbers].astype(np.float64)
        sums[rows] = size
        computed[rows] += often_there * total
        steps = rows < layout.parameter_rows  # buffers are values, and no steps
        return float(np.dot(often_there[steps], distance[steps].astype(np.float64)))

    def _there(self, sources: Sequence[Vector], origin: PlacedVector | Vector) -> tuple[Tensor, Tensor]:
        """What was proposed and from where, on the device."""
        if isinstance(sources, DeviceProposal):
            return sources.proposed, sources.start
        proposed = self._home.upload(np.concatenate([sources[k].reshape(-1) for k in range(len(sources))]))
        if isinstance(origin, DeviceVector):
            return proposed, origin.data
        return proposed, self._home.upload(origin if isinstance(origin, np.ndarray) else origin[:])

    def _first_bad(self, proposed: Tensor) -> int:
        """The first tensor that holds NaN or Inf."""
        values = self._home.do(lambda: self._home.download(proposed))
        specs = self._layout.tensors
        return next(k for k, spec in enumerate(specs) if not np.isfinite(values[spec.start : spec.stop]).all())


def _floats(payload: Bytes) -> Vector:
    """What a payload in the code ``raw`` says, float32 [elements]."""
    return np.frombuffer(payload.tobytes(), dtype="<f4").astype(np.float32, copy=False)
