"""Loops over the elements of rows, compiled with numba.

Each row is handled by plain loops that LLVM vectorises: one loop that does everything is four times slower
than three that each do one thing (measured; the row stays in the first-level cache between them). Rows are
independent, so the loop over rows runs on several threads when the vector is long enough to pay for it. A row
is taken as a slice first: numba then knows that no index is negative, which is what lets the loop vectorise.

Never select numba's ``workqueue`` threading layer (it aborts on concurrent calls) and never fork after the
first parallel kernel (the child is killed): start processes with ``spawn``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "accumulate",
    "add_rows",
    "compiled",
    "compiled_serial",
    "float_of_bits",
    "limit_threads",
    "nonfinite",
    "prefetch_next",
    "replay",
    "row_abs_sums",
    "row_sums",
    "use_threads",
]

F = TypeVar("F", bound=Callable[..., Any])

#: Below this many elements a second thread costs more than it saves: threads that wait for each other at the end of a
#: short loop lose whole time slices when something else runs on the machine, and on a robot something does. Frames
#: for a radio link are shorter than this.
PARALLEL_ELEMENTS = 1 << 20

_PROCESSORS: int = numba.get_num_threads()
_threads = _PROCESSORS


def compiled(function: F) -> F:
    """Compile a kernel: threads over rows, no GIL, cached on disk, sums may be reordered."""
    options: Any = {"parallel": True, "nogil": True, "cache": True, "fastmath": {"reassoc", "nsz"}}
    return cast(F, numba.njit(**options)(function))


def compiled_serial(function: F) -> F:
    """Compile a loop that is too short for threads: no GIL, cached on disk. Calling it costs a microsecond."""
    return cast(F, numba.njit(nogil=True, cache=True)(function))


def limit_threads(threads: int) -> None:
    """Let every kernel of this process use at most so many threads (1 or more; the processors are the limit)."""
    global _threads
    _threads = min(threads, _PROCESSORS)


def use_threads(elements: int) -> None:
    """Choose the number of threads for the next kernel call of this thread, by the elements it touches."""
    numba.set_num_threads(_threads if elements >= PARALLEL_ELEMENTS else 1)


def _prefetch_code(typing_context: Any, array: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        declare: Any = cgutils.get_or_insert_function
        function = declare(builder.module, kind, "llvm.prefetch.p0")
        place = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        builder.call(function, [place, word(1), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


#: Ask the processor to bring the cache line of ``array[index]`` near, for writing.
_prefetch: Any = intrinsic(_prefetch_code)


def _float_code(typing_context: Any, pattern: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


#: The float32 whose bits are those of a uint32; for use in kernels, where it costs nothing.
float_of_bits: Any = intrinsic(_float_code)


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
            _prefetch(vector, j)


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
    for i in prange(len(offsets) - 1):
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
    use_threads(source.size)
    return float(_accumulate(pending, replica, source, weights, start, offsets, abs_sums, computed))


@compiled
def _nonfinite(source: npt.NDArray[np.float32]) -> int:
    bad = 0
    blocks = (len(source) + 4095) // 4096
    for b in prange(blocks):
        block = source[b * 4096 : (b + 1) * 4096]
        # x - x is 0 for every finite x and NaN otherwise; NaN spreads through the sum.
        probe = np.float32(0.0)
        for j in range(len(block)):
            probe += abs(block[j]) * np.float32(0.0)
        if probe != np.float32(0.0):
            bad += 1
    return bad


def nonfinite(source: npt.NDArray[np.float32]) -> bool:
    """Whether a flat float32 array holds NaN or Inf."""
    use_threads(source.size)
    return bool(_nonfinite(source))


@compiled
def _row_abs_sums(
    vector: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64], abs_sums: npt.NDArray[np.float32]
) -> None:
    for i in prange(len(offsets) - 1):
        row = vector[offsets[i] : offsets[i + 1]]
        size = np.float32(0.0)
        for j in range(len(row)):
            size += abs(row[j])
        abs_sums[i] = size


def row_abs_sums(
    vector: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64], abs_sums: npt.NDArray[np.float32]
) -> None:
    """Write sum |element| of each row into ``abs_sums`` (float32 [rows])."""
    if len(vector) == len(abs_sums):
        # One element a row, as in a hollow layout: no sum, and calling a kernel costs more than the work.
        np.abs(vector, out=abs_sums)
        return
    use_threads(vector.size)
    _row_abs_sums(vector, offsets, abs_sums)


def row_sums(vector: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The signed sum of each row, float64 [rows]; used by the audit, not in a per-iteration path."""
    return np.add.reduceat(vector, offsets[:-1], dtype=np.float64)


@compiled_serial
def replay(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    values: npt.NDArray[np.float32],
    floors: npt.NDArray[np.int32],
    iterations: npt.NDArray[np.int64],
    begin: int,
    end: int,
    limit: int,
    stamps: npt.NDArray[np.int32],
    changed: npt.NDArray[np.bool_],
) -> int:
    """Add noted rows ``begin .. end`` to ``vector`` in their order, those of an iteration beyond ``limit`` left out.

    See :class:`rowcast.nodes.arrivals.Arrivals` for what is noted. A row with a floor is lacked from now on; one that
    was lacked before keeps its stamp.

    Returns:
        The oldest stamp of the rows with a floor; 2**31 - 1 where there is none.
    """
    oldest = np.int64(2147483647)
    for k in range(begin, end):
        if iterations[k] > limit:
            continue
        i = rows[k]
        if floors[k] >= 0 and len(changed) > 0:
            if not changed[i]:
                stamps[i] = floors[k]
                changed[i] = True
            oldest = min(oldest, np.int64(stamps[i]))
        if starts[k] >= 0:
            row = vector[offsets[i] : offsets[i + 1]]
            source = values[starts[k] : starts[k] + len(row)]
            for j in range(len(row)):
                row[j] += source[j]
    return int(oldest)


@compiled_serial
def _add_rows(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    values: npt.NDArray[np.float32],
    sign: np.float32,
) -> None:
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
    _add_rows(vector, offsets, rows, values, np.float32(sign))
