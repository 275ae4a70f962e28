"""A flat vector whose parts lie in different places: the tensors of a model, each in memory of its own.

One call of a kernel works on all of them, given their addresses. With a call for each tensor the calls cost as much as
the work in a model of hundreds of tensors, and no tensor is long enough for a second thread.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rowcast.errors import LocalProtocolError
from rowcast.rows import plain
from rowcast.rows.compiling import without_numba
from rowcast.rows.intrinsics import array_at, pointer
from rowcast.rows.kernels import compiled, in_parts
from rowcast.rows.lanes import size_of
from rowcast.rows.layout import Layout, TensorSpec

__all__ = ["Scattered", "accumulate_all", "addresses_of"]

Vector = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

#: Elements of a piece: what is looked at between two looks at the result, and shared out to threads.
_PIECE = 4096


class Rows(Protocol):
    """Rows that are no flat vector of float32 (:class:`~rowcast.rows.half_rows.HalfRows`)."""

    def subtract_into(
        self, places: Integers, starts: Integers, image: Vector, vector: Vector, times: Vector, rows: Integers
    ) -> None:
        """Write ``vector`` less ``times`` these rows into tensors, and into ``image``."""


class Scattered:
    """The parts of flat vectors that belong to some tensors, beside those tensors' own memory.

    The methods take ``places``: for each of the tensors, in the same order, the address of its memory, int64. That is
    trusted: it must be as many float32 in one piece as the tensor has elements. See :func:`addresses_of`.

    Args:
        tensors: the tensors.
    """

    def __init__(self, tensors: Sequence[TensorSpec]) -> None:
        self._starts = np.array([spec.start for spec in tensors], dtype=np.int64)
        self._lengths = [spec.stop - spec.start for spec in tensors]
        cuts = [
            (k, begin, min(begin + _PIECE, length))
            for k, length in enumerate(self._lengths)
            for begin in range(0, length, _PIECE)
        ]
        #: Of each piece: the tensor, the first element in it, and the one behind the last.
        self._pieces = np.array(cuts, dtype=np.int64).reshape(-1, 3)
        #: Of each row: the tensor, and the row in the layout.
        self._rows = np.array(
            [(k, row) for k, spec in enumerate(tensors) for row in range(spec.first_row, spec.end_row)], dtype=np.int64
        ).reshape(-1, 2)

    def nonfinite(self, places: Integers) -> list[int]:
        """Which of the tensors hold NaN or Inf."""
        found = np.zeros(len(places), dtype=np.bool_)
        self._in_parts(lambda pieces: _nonfinite(places, pieces, found))
        return np.flatnonzero(found).tolist()

    def differing(self, places: Integers, vector: Vector) -> list[int]:
        """Which of the tensors differ from their part of a flat vector, in any bit."""
        found = np.zeros(len(places), dtype=np.bool_)
        self._in_parts(lambda pieces: _differing(places, self._starts, vector, pieces, found))
        return np.flatnonzero(found).tolist()

    def spread(self, places: Integers, image: Vector, vector: Vector) -> None:
        """Write ``vector`` into the tensors, and into ``image`` as well.

        Args:
            places: of the tensors; written.
            image, vector: flat vectors of the layout, float32.
        """
        self._in_parts(lambda pieces: _spread(places, self._starts, image, vector, pieces))

    def spread_less(
        self, places: Integers, image: Vector, vector: Vector, minus: Vector | Rows, times: Vector, offsets: Integers
    ) -> None:
        """Write ``vector - times * minus`` into the tensors, and into ``image`` as well.

        Args:
            places: of the tensors; written.
            image, vector: flat vectors of the layout, float32.
            minus: the same, or rows in another form.
            times: how often each row is subtracted, float32 [rows of the layout].
            offsets: of the rows of the layout.
        """
        if not isinstance(minus, np.ndarray):
            minus.subtract_into(places, self._starts, image, vector, times, self._rows)
            return
        in_parts(
            lambda part, _: _spread_less(places, self._starts, image, vector, minus, times, offsets, self._rows[part]),
            len(self._rows),
            sum(self._lengths),
        )

    def _in_parts(self, work: Any) -> None:
        in_parts(lambda part, _: work(self._pieces[part]), len(self._pieces), sum(self._lengths))


def addresses_of(arrays: Sequence[Vector], tensors: Sequence[TensorSpec]) -> Integers:
    """Where arrays are, one for each tensor, int64; they must live as long as that is used.

    Raises:
        LocalProtocolError: one is not what a kernel would take it for: float32 in one piece, as long as its tensor.
    """
    for array, spec in zip(arrays, tensors, strict=True):
        if array.dtype != np.float32 or array.size != spec.stop - spec.start or not array.flags.c_contiguous:
            raise LocalProtocolError(
                f"{spec.name!r}: expected {spec.stop - spec.start} float32 in one piece, got {array.dtype} "
                f"{array.shape}"
            )
    return np.array([array.__array_interface__["data"][0] for array in arrays], dtype=np.int64)


@compiled
@without_numba(plain.scattered_nonfinite)
def _nonfinite(places: Integers, pieces: Integers, found: npt.NDArray[np.bool_]) -> None:
    for p in range(len(pieces)):
        tensor, begin, stop = pieces[p]
        part = array_at(pointer(places[tensor]), stop)[begin:stop]
        # 0 * x is 0 for every finite x and NaN otherwise; NaN spreads through the sum.
        probe = np.float32(0.0)
        for j in range(len(part)):
            probe += abs(part[j]) * np.float32(0.0)
        if probe != np.float32(0.0):
            found[tensor] = True


@compiled
@without_numba(plain.scattered_differing)
def _differing(
    places: Integers, starts: Integers, vector: Vector, pieces: Integers, found: npt.NDArray[np.bool_]
) -> None:
    bits = vector.view(np.uint32)
    for p in range(len(pieces)):
        tensor, begin, stop = pieces[p]
        part = array_at(pointer(places[tensor]), stop)[begin:stop].view(np.uint32)
        other = bits[starts[tensor] + begin : starts[tensor] + stop]
        differs = np.uint32(0)
        for j in range(len(part)):
            differs |= part[j] ^ other[j]
        if differs:
            found[tensor] = True


@compiled
@without_numba(plain.scattered_spread)
def _spread(places: Integers, starts: Integers, image: Vector, vector: Vector, pieces: Integers) -> None:
    for p in range(len(pieces)):
        tensor, begin, stop = pieces[p]
        part = array_at(pointer(places[tensor]), stop)[begin:stop]
        kept = image[starts[tensor] + begin : starts[tensor] + stop]
        source = vector[starts[tensor] + begin : starts[tensor] + stop]
        for j in range(len(part)):
            kept[j] = source[j]
            part[j] = source[j]


@compiled
@without_numba(plain.scattered_spread_less)
def _spread_less(
    places: Integers,
    starts: Integers,
    image: Vector,
    vector: Vector,
    minus: Vector,
    times: Vector,
    offsets: Integers,
    rows: Integers,
) -> None:
    for r in range(len(rows)):
        tensor, row = rows[r]
        first, last = offsets[row], offsets[row + 1]
        part = array_at(pointer(places[tensor]), last - starts[tensor])[first - starts[tensor] :]
        kept, source, less = image[first:last], vector[first:last], minus[first:last]
        often = times[row]
        for j in range(len(kept)):
            value = source[j] - often * less[j]
            kept[j] = value
            part[j] = value


@compiled
@without_numba(plain.scattered_accumulate)
def _accumulate(
    pending: Vector,
    origin: Vector,
    places: Integers,
    first_rows: Integers,
    weights: Vector,
    offsets: Integers,
    results: tuple[Vector, npt.NDArray[np.float64]],
    span: tuple[int, int],
) -> float:
    abs_sums, computed = results
    moved = 0.0
    tensor = np.searchsorted(first_rows, span[0], side="right") - 1
    for i in range(span[0], span[1]):
        while i >= first_rows[tensor + 1]:
            tensor += 1
        start = offsets[first_rows[tensor]]
        weight = weights[i]
        row = pending[offsets[i] : offsets[i + 1]]
        now = origin[offsets[i] : offsets[i + 1]]
        proposed = array_at(pointer(places[tensor]), offsets[i + 1] - start)[offsets[i] - start :]
        total = np.float32(0.0)
        distance = np.float32(0.0)
        for j in range(len(row)):
            step = now[j] - proposed[j]
            total += step
            distance += abs(step)
            row[j] += weight * step
        abs_sums[i] = size_of(row)
        computed[i] += np.float64(weight) * np.float64(total)
        moved += np.float64(weight) * np.float64(distance)
    return moved


def accumulate_all(
    layout: Layout,
    pending: Vector,
    origin: Vector,
    sources: Sequence[Vector],
    weights: Vector,
    abs_sums: Vector,
    computed: npt.NDArray[np.float64],
) -> float:
    """Add ``weights * (origin - sources)`` to ``pending``, and measure its rows: one pass over four vectors.

    Args:
        layout: the layout.
        pending, origin: flat vectors of the whole layout, float32 [elements].
        sources: for each tensor of the layout its proposed values, float32, flat and contiguous.
        weights: what each row counts, float32 [rows], >= 0.
        abs_sums: receives sum |pending| of each row, float32 [rows].
        computed: the audit: gains the signed sum of what was added to each row, float64 [rows].

    Returns:
        Sum |.| of what was added to the parameters; buffers are values, and no steps.
    """
    places = addresses_of(sources, layout.tensors)
    moved = []
    for first, last in itertools.pairwise((0, layout.parameter_rows, layout.rows)):
        if first == last:
            continue
        elements = int(layout.offsets[last] - layout.offsets[first])
        sizes = in_parts(
            lambda part, _, first=first: _accumulate(  # type: ignore[misc]
                pending,
                origin,
                places,
                layout.tensor_rows,
                weights,
                layout.offsets,
                (abs_sums, computed),
                (first + part.start, first + part.stop),
            ),
            last - first,
            elements,
        )
        moved.append(sum(sizes))
    return float(moved[0])
