"""Rows that are multiplied, and the books of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.rows import plain
from rowcast.rows.compiling import without_numba
from rowcast.rows.kernels import compiled, in_parts

__all__ = ["scale_rows"]


@compiled
@without_numba(plain.scale_rows)
def _scale_rows(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    factor: np.float32,
    gained: npt.NDArray[np.float64],
) -> None:
    for i in range(len(offsets) - 1):
        row = vector[offsets[i] : offsets[i + 1]]
        change = np.float32(0.0)
        for j in range(len(row)):
            scaled = factor * row[j]
            change += scaled - row[j]
            row[j] = scaled
        gained[i] += np.float64(change)


def scale_rows(
    vector: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    factor: float,
    gained: npt.NDArray[np.float64],
) -> None:
    """Multiply rows by ``factor``; ``gained`` (float64 [rows]) gains the signed sum of what was added to each."""
    in_parts(
        lambda part, edges: _scale_rows(vector, offsets[edges], np.float32(factor), gained[part]),
        len(gained),
        int(offsets[-1] - offsets[0]),
    )
