"""Loops over the elements of rows, compiled with numba.

Each row is handled by plain loops that LLVM vectorises: one loop that does everything is four times slower
than three that each do one thing (measured; the row stays in the first-level cache between them). Rows are
independent, so a long vector is worked on in parts, by several threads where a driver lends some. A row is taken as
a slice first: numba then knows that no index is negative, which is what lets the loop vectorise.

No kernel is compiled with ``parallel=True``: numba's own threads kill a process that was forked behind their first
use (``omp``) or that computes in two threads at once (``workqueue``), and starting them changes the number of threads
that PyTorch computes with.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from rowcast.rows.intrinsics import prefetch
from rowcast.rows.kept import keep

__all__ = [
    "Crew",
    "accumulate",
    "add_rows",
    "compiled",
    "compiled_serial",
    "copy_rows",
    "count_elements",
    "gather_rows",
    "in_parts",
    "limit_threads",
    "lowest",
    "nonfinite",
    "prefetch_next",
    "row_abs_sums",
    "row_sums",
    "scatter_rows",
    "set_crew",
    "some_row_abs_sums",
]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

#: Below this many elements a second thread costs more than it saves: threads that wait for each other at the end of a
#: short loop lose whole time slices when something else runs on the machine, and on a robot something does. Frames
#: for a radio link are shorter than this.
PARALLEL_ELEMENTS = 1 << 20

#: Elements of a part, and how many parts there are at most.
PART_ELEMENTS = PARALLEL_ELEMENTS // 2
MOST_PARTS = 16


class Crew(Protocol):
    """Threads that a driver lends to the kernels. Whoever has none computes one part after the other."""

    def run(self, calls: Sequence[Callable[[], T]], threads: int) -> list[T]:
        """Make the calls, at most so many at a time, the caller's thread included; their results in order."""


def _processors() -> int:
    """Threads that this process may use: what numba's and OpenMP's variables say, or the processors there are."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    configuration: Any = numba.config
    here = int(configuration.NUMBA_NUM_THREADS)
    return min(here, int(asked)) if asked.isascii() and asked.isdigit() and int(asked) else here


_PROCESSORS = _processors()
_threads = _PROCESSORS
_crew: Crew | None = None


def compiled(function: F) -> F:
    """Compile a kernel: no GIL, cached on disk where that can be written, sums may be reordered."""
    return cast(F, keep(numba.njit(nogil=True, fastmath={"reassoc", "nsz"})(function)))


def compiled_serial(function: F) -> F:
    """Compile a loop that is never cut into parts: no GIL, cached on disk. Calling it costs a microsecond."""
    return cast(F, keep(numba.njit(nogil=True)(function)))


def limit_threads(threads: int) -> None:
    """Let every kernel of this process use at most so many threads (1 or more; the processors are the limit)."""
    global _threads
    _threads = min(threads, _PROCESSORS)


def set_crew(crew: Crew | None) -> None:
    """Work on long vectors with these threads from now on."""
    global _crew
    _crew = crew


def in_parts(work: Callable[[slice, slice], T], rows: int, elements: int) -> list[T]:
    """Run a kernel over rows: at once, or in parts on several threads where there are enough elements.

    The parts follow from rows and elements alone: what is summed over them does not depend on the threads.

    Args:
        work: called for each part with the slice of its rows, and the slice of their edges, which is one longer.
        rows, elements: how many there are in all.

    Returns:
        What the calls returned, in the order of the parts.
    """
    parts = min(MOST_PARTS, rows, elements // PART_ELEMENTS) if elements >= PARALLEL_ELEMENTS else 1
    if parts <= 1:
        return [work(slice(0, rows), slice(0, rows + 1))]
    bounds = [rows * k // parts for k in range(parts + 1)]
    calls = [partial(work, slice(a, b), slice(a, b + 1)) for a, b in itertools.pairwise(bounds)]
    if _crew is None or _threads == 1:
        return [call() for call in calls]
    return _crew.run(calls, min(_threads, parts))


@numba.njit(inline="always")
def prefetch_next(
    vector: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], k: int
) -> None:
    """For use in kernels: bring row ``rows[k + 1]`` near while ``rows[k]`` is worked on.

    Rows of a frame lie apart, and the processor's own prefetcher starts anew at each: asking early makes scattered
    rows almost as fast as consecutive ones (1.7 times faster on the reference layout).
    """
    if k + 1 < len(rows):
        for j in range(offsets[rows[k + 1]], offsets[rows[k + 1] + 1], 16):
            prefetch(vector, j)


@compiled
def _accumulate(
    pending: npt.NDArray[np.float32],
    replica: npt.NDArray[np.float32],
    source: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
    start: int,
    offsets: npt.NDArray[np.int64],
    abs_sums: npt.NDArray[np.float32],
    computed: npt.NDArray[np.float64],
) -> float:
    moved = 0.0
    for i in range(len(offsets) - 1):
        weight = weights[i]
        row = pending[offsets[i] : offsets[i + 1]]
        now = replica[offsets[i] : offsets[i + 1]]
        proposed = source[offsets[i] - start : offsets[i + 1] - start]
        total = np.float32(0.0)
        for j in range(len(row)):
            total += now[j] - proposed[j]
        distance = np.float32(0.0)
        for j in range(len(row)):
            distance += abs(now[j] - proposed[j])
        for j in range(len(row)):
            row[j] += weight * (now[j] - proposed[j])
        size = np.float32(0.0)
        for j in range(len(row)):
            size += abs(row[j])
        abs_sums[i] = size
        computed[i] += np.float64(weight) * np.float64(total)
        moved += np.float64(weight) * np.float64(distance)
    return moved


def accumulate(
    pending: npt.NDArray[np.float32],
    replica: npt.NDArray[np.float32],
    source: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
    start: int,
    offsets: npt.NDArray[np.int64],
    abs_sums: npt.NDArray[np.float32],
    computed: npt.NDArray[np.float64],
) -> float:
    """Add ``weights * (replica - source)`` to ``pending`` for the rows of one tensor.

    Args:
        pending, replica: flat vectors of the whole layout, float32 [elements].
        source: the tensor's proposed values, float32, flat.
        weights: what each row counts, float32 [rows of the tensor], >= 0.
        start: offset of the tensor in the flat vectors.
        offsets: the layout's offsets of this tensor's rows, int64 [rows of the tensor + 1].
        abs_sums: receives sum |pending| of each row, float32 [rows of the tensor].
        computed: the audit: gains the signed sum of what was added to each row, float64 [rows of the tensor].

    Returns:
        Sum |.| of what was added.
    """
    moved = in_parts(
        lambda part, edges: _accumulate(
            pending, replica, source, weights[part], start, offsets[edges], abs_sums[part], computed[part]
        ),
        len(weights),
        source.size,
    )
    return float(sum(moved))


#: Elements between two looks whether all was finite.
_BLOCK = 4096


@compiled
def _nonfinite(source: npt.NDArray[np.float32]) -> int:
    bad = 0
    blocks = (len(source) + _BLOCK - 1) // _BLOCK
    for b in range(blocks):
        block = source[b * _BLOCK : (b + 1) * _BLOCK]
        # x - x is 0 for every finite x and NaN otherwise; NaN spreads through the sum.
        probe = np.float32(0.0)
        for j in range(len(block)):
            probe += abs(block[j]) * np.float32(0.0)
        if probe != np.float32(0.0):
            bad += 1
    return bad


def nonfinite(source: npt.NDArray[np.float32]) -> bool:
    """Whether a flat float32 array holds NaN or Inf."""
    blocks = -(-source.size // _BLOCK)
    return any(
        in_parts(lambda part, _: _nonfinite(source[_BLOCK * part.start : _BLOCK * part.stop]), blocks, source.size)
    )


@compiled
def _row_abs_sums(
    vector: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64], abs_sums: npt.NDArray[np.float32]
) -> None:
    for i in range(len(offsets) - 1):
        row = vector[offsets[i] : offsets[i + 1]]
        size = np.float32(0.0)
        for j in range(len(row)):
            size += abs(row[j])
        abs_sums[i] = size


@compiled_serial
def some_row_abs_sums(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    abs_sums: npt.NDArray[np.float32],
) -> None:
    """The same for ``rows`` only."""
    for row in rows:
        size = np.float32(0.0)
        for j in range(offsets[row], offsets[row + 1]):
            size += abs(vector[j])
        abs_sums[row] = size


def row_abs_sums(
    vector: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64], abs_sums: npt.NDArray[np.float32]
) -> None:
    """Write sum |element| of each row into ``abs_sums`` (float32 [rows])."""
    if len(vector) == len(abs_sums):
        # One element a row, as in a timing-only layout: no sum, and calling a kernel costs more than the work.
        np.abs(vector, out=abs_sums)
    elif len(vector) < PARALLEL_ELEMENTS:
        _row_abs_sums(vector, offsets, abs_sums)
    else:
        _long_row_abs_sums(vector, offsets, abs_sums)


@compiled_serial
def count_elements(offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> int:
    """How many elements the rows have together; ``offsets`` are the layout's."""
    elements = 0
    for i in rows:
        elements += offsets[i + 1] - offsets[i]
    return elements


@compiled_serial
def lowest(numbers: npt.NDArray[np.int32]) -> int:
    """The lowest of some numbers, at least one."""
    low = numbers[0]
    for k in range(len(numbers)):
        low = min(low, numbers[k])
    return int(low)


def _long_row_abs_sums(
    vector: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64], abs_sums: npt.NDArray[np.float32]
) -> None:
    """The same in parts; apart as :func:`_add_long_rows`."""
    in_parts(lambda part, edges: _row_abs_sums(vector, offsets[edges], abs_sums[part]), len(abs_sums), vector.size)


def row_sums(vector: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The signed sum of each row, float64 [rows]; used by the audit, not in a per-iteration path."""
    return np.add.reduceat(vector, offsets[:-1], dtype=np.float64)


@compiled_serial
def gather_rows(
    source: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """``rows`` of ``source``, one behind the other."""
    size = 0
    for row in rows:
        size += offsets[row + 1] - offsets[row]
    values = np.empty(size, dtype=np.float32)
    place = 0
    for row in rows:
        for j in range(offsets[row], offsets[row + 1]):
            values[place] = source[j]
            place += 1
    return values


@compiled_serial
def scatter_rows(
    values: npt.NDArray[np.float32],
    target: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
) -> None:
    """Make ``rows`` of ``target`` what :func:`gather_rows` has returned."""
    place = 0
    for row in rows:
        for j in range(offsets[row], offsets[row + 1]):
            target[j] = values[place]
            place += 1


@compiled_serial
def copy_rows(
    source: npt.NDArray[np.float32],
    target: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
) -> None:
    """Make ``rows`` of ``target`` those of ``source``; both flat float32 [elements]."""
    for row in rows:
        for j in range(offsets[row], offsets[row + 1]):
            target[j] = source[j]


@compiled_serial
def _add_rows(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    values: npt.NDArray[np.float32],
    sign: np.float32,
) -> None:
    # Not asked for early: rows of one element would take ten times as long, others hardly gain.
    place = 0
    for k in range(len(rows)):
        row = vector[offsets[rows[k]] : offsets[rows[k] + 1]]
        source = values[place : place + len(row)]
        for j in range(len(row)):
            row[j] += sign * source[j]
        place += len(row)


def add_rows(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    values: npt.NDArray[np.float32],
    sign: float,
) -> None:
    """Add ``sign`` times rows that lie one behind the other in ``values`` to their places in ``vector``."""
    if len(values) < PARALLEL_ELEMENTS:
        _add_rows(vector, offsets, rows, values, np.float32(sign))
    else:
        _add_long_rows(vector, offsets, rows, values, np.float32(sign))


def _add_long_rows(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    values: npt.NDArray[np.float32],
    sign: np.float32,
) -> None:
    """The same in parts; a function of its own, since the names that its ``lambda`` captures make every call slower."""
    places = np.concatenate([[0], np.cumsum(offsets[rows + 1] - offsets[rows])])
    in_parts(
        lambda part, _: _add_rows(vector, offsets, rows[part], values[places[part.start] :], sign),
        len(rows),
        len(values),
    )
