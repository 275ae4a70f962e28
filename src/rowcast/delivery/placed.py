"""Flat vectors of a worker that lie where its model is computed, such as in the memory of a GPU.

A worker has vectors of the model's size: the replica, what is pending, and where it reads its own writes what it
expects. In host memory they are numpy arrays, and nothing of this module is used. Elsewhere each is a
:class:`PlacedVector` that a :class:`Home` has made: what is done with rows is done there, and only encoded rows, and a
few numbers for each row, come to the host. This package knows no device; :mod:`rowcast.optim.device` implements one.

Where the memory there does not suffice, the home takes all of its vectors to host memory, in the middle of whatever is
being done, and says so (:attr:`Home.full`). Nothing is lost by it, and nothing done twice.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec
from rowcast.codecs.base import Bytes
from rowcast.rows import Layout

__all__ = ["Home", "NotFinite", "Placed", "PlacedProposal", "PlacedVector"]

Vector = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class NotFinite(Exception):
    """What was proposed for a tensor holds NaN or Inf. Nothing was changed.

    Attributes:
        tensor: its index in the layout.
    """

    def __init__(self, tensor: int) -> None:
        super().__init__(tensor)
        self.tensor = tensor


class PlacedProposal(Sequence[Vector]):
    """Proposed parameters that lie where a vector does. As a sequence: copies in host memory, one for each tensor."""

    @property
    @abstractmethod
    def origin(self) -> Vector:
        """From where they were made, float32 [elements]; a copy in host memory."""


class PlacedVector(Protocol):
    """A flat float32 vector in rows, wherever it lies.

    Rows are int64 [k], each at most once, payloads uint8; both are in host memory. A method returns when its result is
    in host memory, and may return before what it changes of the vector is changed there: later calls come behind it.
    """

    def __getitem__(self, part: slice) -> Vector:
        """Elements ``begin:end``, as a new array in host memory; ``[:]``: all of them."""

    def load(self, values: Vector) -> None:
        """Make it these values, float32 [elements]."""

    def encode(self, codec: Codec, rows: IntArray, *, consume: bool = True) -> Bytes:
        """Encode rows: to the byte what :meth:`~rowcast.codecs.Codec.encode` makes of the same vector."""

    def add(
        self, codec: Codec, payload: Bytes, rows: IntArray, sign: float, only: npt.NDArray[np.bool_] | None = None
    ) -> None:
        """Add ``sign`` times decoded rows: to the bit what :meth:`~rowcast.codecs.Codec.add` does.

        ``only``: which of the rows of the payload are added, bool [k]; ``None``: all.
        """

    def replace(self, payload: Bytes, rows: IntArray) -> None:
        """Make rows what a payload in the code ``raw`` says."""

    def take_rows(self, source: PlacedVector, rows: IntArray) -> None:
        """Make rows those of another vector of the same home."""

    def sizes(self, rows: IntArray) -> Vector:
        """Sum |element| of rows in the order of :mod:`rowcast.rows.lanes`, float32 [k]."""

    def accumulate(
        self,
        sources: Sequence[Vector],
        origin: PlacedVector | Vector,
        weights: Vector,
        sums: Vector,
        computed: npt.NDArray[np.float64],
    ) -> float:
        """Add ``weights * (origin - sources)``; see :func:`rowcast.rows.scattered.accumulate_all`.

        Args:
            sources: proposed values, also :class:`PlacedProposal`.
            origin: from where they were made, float32 [elements]; a :class:`PlacedProposal` has its own.
            weights: what each row counts, float32 [rows].
            sums: receives sum |.| of each row, float32 [rows].
            computed: gains the signed sum of what was added to each row, float64 [rows].

        Returns:
            Sum |.| of what was added to the parameters.

        Raises:
            NotFinite: a source holds NaN or Inf.
        """


class Home(Protocol):
    """A place for vectors."""

    @property
    def name(self) -> str:
        """What to call it, for people: ``cuda:0``."""

    @property
    def full(self) -> str:
        """Why its vectors are in host memory now; empty: they are where they were made."""

    def vector(self, layout: Layout, values: Vector) -> PlacedVector:
        """A vector of a layout with these values, float32 [elements]."""


class Placed(NamedTuple):
    """The vectors of a worker where they do not lie in host memory.

    Attributes:
        replica: its parameters, as far as they have arrived.
        pending: what it has computed and not sent.
        expected: the replica, with what is on its way where the policy reads it; else the replica itself.
    """

    replica: PlacedVector
    pending: PlacedVector
    expected: PlacedVector
