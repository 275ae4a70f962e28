"""The parameters of one worker, and what it computed from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec
from rowcast.delivery.placed import NOWHERE, NotFinite, Placed, RowVector
from rowcast.delivery.snapshot import replace_rows
from rowcast.errors import LocalProtocolError, NonFiniteGradient
from rowcast.rows import Layout
from rowcast.rows.kernels import accumulate, nonfinite
from rowcast.rows.scaling import scale_rows
from rowcast.rows.scattered import Scattered, accumulate_all, addresses_of
from rowcast.training.proposal.outer import Outer
from rowcast.training.proposal.own_writes import OwnWrites
from rowcast.wire import Rows

__all__ = ["Replica", "first_nonfinite"]

Vector = npt.NDArray[np.float32]


def first_nonfinite(layout: Layout, parameters: npt.NDArray[np.float32]) -> str | None:
    """The name of the first tensor that holds NaN or Inf; None where all are finite."""
    if not nonfinite(parameters):
        return None
    return next(spec.name for spec in layout.tensors if nonfinite(parameters[spec.start : spec.stop]))


class Replica:
    """A worker's parameters: moved only by rows that arrive, and not while they are held.

    Args:
        layout: the model's rows.
        parameters: flat float32; taken over and changed in place.

    Attributes:
        placed: the parameters, where they do not lie in host memory.
        computed: float64 [rows], signed sum of everything ever proposed for each row, less what decayed (the audit).
        own_writes: is told which rows have moved, if there is one.
    """

    def __init__(self, layout: Layout, parameters: npt.NDArray[np.float32]) -> None:
        if parameters.shape != (layout.elements,) or parameters.dtype != np.float32:
            raise LocalProtocolError(
                f"worker: expected {layout.elements} float32 parameters, got {parameters.dtype} {parameters.shape}"
            )
        self.layout = layout
        self.placed: RowVector | None = None
        self._parameters = parameters
        self.computed = np.zeros(layout.rows, dtype=np.float64)
        self.own_writes: OwnWrites | None = None
        self._held: list[tuple[Codec, Rows]] | None = None

    @cached_property
    def _tensors(self) -> Scattered:
        """The layout's tensors. Where only the timing is simulated nobody asks, and they take 16 bytes a row."""
        return Scattered(self.layout.tensors)

    @property
    def parameters(self) -> npt.NDArray[np.float32]:
        """Flat float32 [elements]; a copy to read where they do not lie in host memory."""
        return self._parameters if self.placed is None else self.placed.values()

    def lie_at(self, vector: RowVector) -> None:
        """The parameters lie there from now on."""
        self.placed, self._parameters = vector, NOWHERE

    def load(self, parameters: npt.NDArray[np.float32]) -> None:
        """Make them these, flat float32 [elements]."""
        if self.placed is None:
            self._parameters[:] = parameters
        else:
            self.placed.load(parameters)

    def hold(self) -> None:
        """Rows that arrive wait until :meth:`release`."""
        self._held = []

    @property
    def holds(self) -> bool:
        """Rows that arrive wait."""
        return self._held is not None

    def release(self) -> None:
        """Apply the rows that arrived since :meth:`hold`."""
        held, self._held = self._held or [], None
        for codec, message in held:
            self.apply(codec, message)

    def apply(self, codec: Codec, message: Rows) -> None:
        """Apply a frame that passed its checks, or keep a copy of it while the parameters are held."""
        if self._held is not None:
            self._held.append((codec, dataclasses.replace(message, payload=message.payload.copy())))
            return
        if self.placed is not None:
            if message.absolute:
                self.placed.replace(message.payload, message.rows)
            else:
                self.placed.add(codec, message.payload, message.rows, -1.0)
        elif message.absolute:
            replace_rows(self.layout, codec, message, self._parameters)
        else:
            codec.add(self.layout, message.payload, message.rows, self._parameters, -1.0)
        if self.own_writes is not None:
            self.own_writes.arrived(message.rows)

    def propose(
        self,
        sources: Sequence[Vector],
        weights: Vector,
        pending: Vector,
        abs_sums: Vector,
        outer: Outer | None = None,
        origin: Vector | None = None,
    ) -> float:
        """Add ``weights * (origin - sources)`` to what is pending and measure its rows.

        Buffers are values, and no steps: no outer step is made of what they moved by, and it is not in the result.

        Args:
            sources: proposed values, one float32 array for each tensor of the layout, in order. A list is worked on at
                once; of any other sequence each is asked for twice and none is kept: a source may be made when it is
                asked for.
            weights: averaging weight of each row, float32 [rows], > 0.
            pending: flat float32 [elements].
            abs_sums: receives sum |pending| of each row, float32 [rows].
            outer: makes its step of what would be added, and adds that instead.
            origin: from where the sources were made, float32 [elements]; ``None``: from the parameters as they are.

        Returns:
            Sum |.| of what was added.

        Raises:
            NonFiniteGradient: a source holds NaN or Inf; nothing was changed.
            LocalProtocolError: the sources are not the layout's tensors.
        """
        tensors = self.layout.tensors
        if len(sources) != len(tensors):
            raise LocalProtocolError(f"accumulate: expected {len(tensors)} tensors, got {len(sources)}")
        origin = self.parameters if origin is None else origin
        if isinstance(sources, list):
            flat = [source.reshape(-1) for source in sources]
            self._check_all(flat)
            if outer is None:
                return accumulate_all(self.layout, pending, origin, flat, weights, abs_sums, self.computed)
        else:
            self._check_each(sources)
        moved = 0.0
        for index, spec in enumerate(tensors):
            rows = slice(spec.first_row, spec.end_row)
            is_buffer = spec.first_row >= self.layout.parameter_rows
            add = accumulate if outer is None or is_buffer else outer.accumulate
            size = add(
                pending,
                origin,
                sources[index].reshape(-1),
                weights[rows],
                spec.start,
                self.layout.offsets[spec.first_row : spec.end_row + 1],
                abs_sums[rows],
                self.computed[rows],
            )
            moved += 0.0 if is_buffer else size
        return moved

    def propose_at(
        self,
        pending: RowVector,
        sources: Sequence[Vector],
        weights: Vector,
        abs_sums: Vector,
        origin: Vector | None = None,
    ) -> float:
        """The same as :meth:`propose`, for what is pending where it lies; no outer step is made.

        Args:
            pending: what is pending, in the place of the parameters.
            sources: also :class:`~rowcast.delivery.placed.Placed`, which have an origin of their own.
            weights, abs_sums, origin: as in :meth:`propose`.

        Returns, Raises: as :meth:`propose`.
        """
        tensors = self.layout.tensors
        if len(sources) != len(tensors):
            raise LocalProtocolError(f"accumulate: expected {len(tensors)} tensors, got {len(sources)}")
        if not isinstance(sources, Placed):
            for index in range(len(sources)):
                self._check_size(index, sources[index].reshape(-1))
        start: RowVector | Vector
        start = origin if origin is not None else self.placed if self.placed is not None else self._parameters
        try:
            return pending.accumulate(sources, start, weights, abs_sums, self.computed)
        except NotFinite as error:
            raise self._refusal(error.tensor) from None

    def rescale(self, pending: Vector, factor: float) -> None:
        """Multiply what is pending, flat float32 [elements], and book what that adds.

        Buffers of which the first worker's count in full count as they did.
        """
        layout = self.layout
        rows = layout.parameter_rows if layout.buffer_rule == "first" else layout.rows
        scale_rows(pending, layout.offsets[: rows + 1], factor, self.computed[:rows])

    def _check_each(self, sources: Sequence[Vector]) -> None:
        for index in range(len(sources)):
            source = sources[index].reshape(-1)
            self._check_size(index, source)
            if nonfinite(source):
                raise self._refusal(index)

    def _check_all(self, sources: list[Vector]) -> None:
        for index, source in enumerate(sources):
            self._check_size(index, source)
        bad = self._tensors.nonfinite(addresses_of(sources, self.layout.tensors))
        if bad:
            raise self._refusal(bad[0])

    def _check_size(self, index: int, source: Vector) -> None:
        spec = self.layout.tensors[index]
        if source.size != spec.stop - spec.start:
            raise LocalProtocolError(
                f"accumulate: expected {spec.stop - spec.start} elements for {spec.name!r}, got {source.size}"
            )

    def _refusal(self, index: int) -> NonFiniteGradient:
        name = self.layout.tensors[index].name
        return NonFiniteGradient(f"the update of {name!r} holds NaN or Inf; the step was refused and nothing was sent")
