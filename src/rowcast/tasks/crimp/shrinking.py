"""Smaller images: box average of the colour, lower median of the depth, and the intrinsics that go with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rowcast.tasks.crimp.frames import Intrinsics

__all__ = ["factor_for", "shrunk_colour", "shrunk_depth", "shrunk_intrinsics"]

#: A block has a depth where at least one of so many of its pixels has.
_LEAST_PART = 4


def factor_for(size: tuple[int, int], largest_side: int) -> int:
    """The smallest whole factor by which no side of an image of this height and width is longer than that."""
    return -(-max(size) // largest_side)


def shrunk_intrinsics(intrinsics: Intrinsics, size: tuple[int, int], factor: int) -> Intrinsics:
    """Intrinsics of images that are smaller by a factor.

    What does not fill a block is cut off, half on either side. Pixel centres are at whole numbers, so that the centre
    of a block of k pixels lies at (k - 1) / 2 of its first: cx' = (cx + 0.5) / k - 0.5.
    """
    top, left = _margins(size, factor)
    return Intrinsics(
        intrinsics.fx / factor,
        intrinsics.fy / factor,
        (intrinsics.cx - left + 0.5) / factor - 0.5,
        (intrinsics.cy - top + 0.5) / factor - 0.5,
    )


def shrunk_colour(colour: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    """The average of each block of factor x factor pixels, rounded: uint8 [height, width, 3] smaller by the factor."""
    if factor == 1:
        return colour
    blocks = _cut(colour, factor)
    rows, columns = blocks.shape[0], blocks.shape[2]
    of_rows = blocks.reshape(rows, factor, columns * factor * 3).sum(axis=1, dtype=np.uint32)
    sums = of_rows.reshape(rows, columns, factor, 3).sum(axis=2)
    average: npt.NDArray[np.uint8] = ((sums + factor * factor // 2) // (factor * factor)).astype(np.uint8)
    return average


def shrunk_depth(depth: npt.NDArray[np.float32], factor: int) -> npt.NDArray[np.float32]:
    """The lower median of what was measured in each block; 0 where less than a quarter of the block was.

    It is one of the measured depths: across the edge of an object no depth between near and far is made up.

    Args:
        depth: float32 [height, width], 0: no measurement.
        factor: pixels of a side of a block.
    """
    if factor == 1:
        return depth
    blocks = _cut(depth, factor)
    rows, columns = blocks.shape[0], blocks.shape[2]
    ordered = np.sort(blocks.transpose(0, 2, 1, 3).reshape(rows, columns, factor * factor), axis=-1)
    measured = np.count_nonzero(ordered, axis=-1)
    at = factor * factor - measured + (np.maximum(measured, 1) - 1) // 2
    median = np.take_along_axis(ordered, np.minimum(at, factor * factor - 1)[..., None], axis=-1)[..., 0]
    return np.where(measured * _LEAST_PART >= factor * factor, median, np.float32(0))


def _margins(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """Rows at the top and columns at the left that are cut off."""
    return size[0] % factor // 2, size[1] % factor // 2


def _cut(image: npt.NDArray[Any], factor: int) -> npt.NDArray[Any]:
    """An image as blocks, [rows, factor, columns, factor, ...]."""
    height, width = image.shape[:2]
    top, left = _margins((height, width), factor)
    rows, columns = height // factor, width // factor
    inner = image[top : top + rows * factor, left : left + columns * factor]
    return inner.reshape(rows, factor, columns, factor, *image.shape[2:])
