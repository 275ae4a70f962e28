"""What a node has computed: work, and what comes of it. Nodes say what is to be done; an engine does it."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rowcast.codecs.tensors import TensorType
from rowcast.inference.model import Side

__all__ = ["PART", "PIECE_BYTES", "SERVE", "WHOLE", "Engine", "Made", "Piece", "Work", "cuts"]

#: What is computed side by side. At the robot: its part of a plan, also what comes back taken in; and the whole model.
PART, WHOLE = "part", "whole"
#: At the server: one after the other.
SERVE = "serve"

#: A tensor travels in pieces of about so many bytes: what is urgent waits behind one, and progress is seen.
PIECE_BYTES = 20_000
#: A tensor travels in so many pieces at most.
MOST_PIECES = 64


@dataclass(frozen=True, eq=False)
class Piece:
    """Rows of a tensor.

    Attributes:
        op: the operator that makes the tensor.
        start, stop: its rows ``[start, stop)``.
        codec: ``wire_id`` of the tensor codec of ``payload``.
        payload: uint8; ``None``: rows of an input that lies with the work.
    """

    op: int
    start: int
    stop: int
    codec: int = 0
    payload: npt.NDArray[np.uint8] | None = None


@dataclass(eq=False)
class Work:
    """Rows to be taken in, and all that follows from them to be computed.

    Attributes:
        key: the request. Work of one key builds on what was made of the work before, until all that is wanted is there.
        side: what is computed for this request.
        pieces: the rows; of each tensor they follow those that came before.
        codecs: the codec (``wire_id``) for the rows of each tensor that is wanted and travels.
        inputs: the inputs of the model, where the request began; for an engine only.
        cancelled: nobody wants it any more: the engine may stop in the middle.
    """

    key: Hashable
    side: Side
    pieces: Sequence[Piece]
    codecs: dict[int, int] = field(default_factory=dict)
    inputs: Any = None
    cancelled: bool = False


@dataclass(frozen=True, eq=False)
class Made:
    """What came of one piece of work.

    Attributes:
        pieces: rows that have become complete, of tensors that travel.
        complete: everything that the side wants is there; the engine has forgotten the request.
        version: of the parameters that it was computed with, from the first row on.
        value: the model's answer, where the side wants it and it is complete; for the user only.
    """

    pieces: Sequence[Piece] = ()
    complete: bool = False
    version: int = 0
    value: Any = None


class Engine(Protocol):
    """Computes. A driver calls it on a thread of its own, one call at a time for each lane."""

    def run(self, works: Sequence[Work]) -> Sequence[Made]:
        """Do some work, in order. Requests of one side whose rows are all there may be computed together.

        Returns:
            What came of each. Of work that was cancelled in the middle: nothing complete.
        """
        ...

    def is_trivial(self, works: Sequence[Work]) -> bool:
        """Whether there is so little to do that it may be done between two messages: nothing to compute or to code."""
        ...

    def forget(self, key: Hashable) -> None:
        """Nothing more comes of this request. Called between two runs, on the same thread."""
        ...


def cuts(tensor: TensorType, start: int, stop: int, slabs: int = 1) -> Iterator[tuple[int, int]]:
    """Rows ``[start, stop)`` in pieces: each of about :data:`PIECE_BYTES`, and none across the edge of a slab."""
    rows = tensor.rows
    most = max(1, min(MOST_PIECES, -(-tensor.nbytes // PIECE_BYTES), rows))
    pieces = max(1, -(-most // slabs)) * slabs
    edges = sorted({start, stop, *(edge for k in range(pieces + 1) if start < (edge := -(-rows * k // pieces)) < stop)})
    return itertools.pairwise(edges)
