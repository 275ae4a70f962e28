"""The parameters of one worker, and what it computed from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec
from rowcast.delivery.placed import NotFinite, PlacedProposal, PlacedVector
from rowcast.delivery.placed_residual import PlacedResidual
from rowcast.delivery.residual import Residual
from rowcast.delivery.snapshot import replace_rows
from rowcast.errors import LocalProtocolError, NonFiniteGradient
from rowcast.rows import Layout
from rowcast.rows.kernels import accumulate, nonfinite
from rowcast.rows.scattered import Scattered, addresses_of
from rowcast.training.proposal.outer import Outer
from rowcast.training.proposal.own_writes import OwnWrites
from rowcast.training.proposal.placed_writes import PlacedWrites
from rowcast.training.proposal.relayed_writes import RelayedWrites
from rowcast.training.proposal.sent_writes import SentWrites
from rowcast.wire import Rows

__all__ = ["Replica", "first_nonfinite"]

Vector = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]
#: Follows this worker's own rows, in one way or another.
Writes = OwnWrites | PlacedWrites | SentWrites | RelayedWrites


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
        computed: float64 [rows], signed sum of everything ever proposed for each row, less what decayed (the audit).
        own_writes: is told which rows have moved, if there is one.
        placed: the parameters where they do not lie in host memory, see :meth:`move`; ``None``: they do.
    """

    def __init__(self, layout: Layout, parameters: npt.NDArray[np.float32]) -> None:
        if parameters.shape != (layout.elements,) or parameters.dtype != np.float32:
            raise LocalProtocolError(
                f"worker: expected {layout.elements} float32 parameters, got {parameters.dtype} {parameters.shape}"
            )
        self.layout = layout
        self.placed: PlacedVector | None = None
        self._parameters = parameters
        self.computed = np.zeros(layout.rows, dtype=np.float64)
        self.own_writes: Writes | None = None
        self._held: list[tuple[Codec, Rows, Numbers | None]] | None = None

    @cached_property
    def _tensors(self) -> Scattered:
        """The layout's tensors. Where only the timing is simulated nobody asks, and they take 16 bytes a row."""
        return Scattered(self.layout.tensors)

    @property
    def parameters(self) -> Vector:
        """Flat float32 [elements]; a copy to read where they do not lie in host memory."""
        return self._parameters if self.placed is None else self.placed[:]

    def move(self, to: Vector | PlacedVector) -> None:
        """The parameters, as they are, lie there from now on."""
        if isinstance(to, np.ndarray):
            self._parameters, self.placed = to, None
        else:
            self._parameters, self.placed = np.zeros(0, dtype=np.float32), to

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
        for codec, message, numbers in held:
            self.apply(codec, message, numbers)

    def apply(self, codec: Codec, message: Rows, numbers: Numbers | None = None) -> None:
        """Apply a frame that passed its checks, or keep a copy of it while the parameters are held.

        Args:
            codec, message: the frame.
            numbers: of own frames up to which each of its rows holds what was sent, int64 [k], if the server says so.
        """
        if self._held is not None:
            self._held.append((codec, dataclasses.replace(message, payload=message.payload.copy()), numbers))
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
            self.own_writes.arrived(message.rows, numbers)

    def propose(
        self,
        sources: Sequence[Vector],
        weights: Vector,
        residual: Residual,
        outer: Outer | None = None,
        origin: Vector | None = None,
    ) -> float:
        """Add ``weights * (origin - sources)`` to what is pending and measure its rows.

        Buffers are values, and no steps: no outer step is made of what they moved by, and it is not in the result.

        Args:
            sources: proposed values, one float32 array for each tensor of the layout, in order. A list is worked on at
                once; of any other sequence each is asked for twice and none is kept: a source may be made when it is
                asked for. A :class:`~rowcast.delivery.placed.PlacedProposal` has an origin of its own.
            weights: averaging weight of each row, float32 [rows], > 0.
            residual: what is pending; it is measured.
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
        if isinstance(residual, PlacedResidual):
            return self._propose_placed(sources, weights, residual, origin)
        if isinstance(sources, PlacedProposal):
            origin = sources.origin
        origin = self.parameters if origin is None else origin
        if isinstance(sources, list):
            flat = [source.reshape(-1) for source in sources]
            self._check_all(flat)
            if outer is None:
                moved = residual.accumulate_all(origin, flat, weights, self.computed)
                residual.measured = True
                return moved
        else:
            self._check_each(sources)
        moved = 0.0
        for index, spec in enumerate(tensors):
            is_buffer = spec.first_row >= self.layout.parameter_rows
            add = accumulate if outer is None or is_buffer else outer.accumulate
            size = residual.accumulate(index, origin, sources[index].reshape(-1), weights, self.computed, add)
            moved += 0.0 if is_buffer else size
        residual.measured = True
        return moved

    def _propose_placed(
        self, sources: Sequence[Vector], weights: Vector, residual: PlacedResidual, origin: Vector | None
    ) -> float:
        if not isinstance(sources, PlacedProposal):
            for index in range(len(sources)):
                self._check_size(index, sources[index].reshape(-1))
        start = origin if origin is not None else self.placed if self.placed is not None else self._parameters
        try:
            return residual.accumulate_placed(start, sources, weights, self.computed)
        except NotFinite as error:
            raise self._refusal(error.tensor) from None

    def rescale(self, residual: Residual, factor: float) -> None:
        """Multiply what is pending, and book what that adds.

        Buffers of which the first worker's count in full count as they did.
        """
        layout = self.layout
        rows = layout.parameter_rows if layout.buffer_rule == "first" else layout.rows
        residual.scale(rows, factor, self.computed[:rows])

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
