"""Plain versions of the kernels of the tensor codecs: numpy, the same bits as with numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["add_up", "half_decode", "half_encode", "int8_decode", "int8_encode", "int8_peaks"]

Floats = npt.NDArray[np.float32]
Patterns = npt.NDArray[np.uint32]
Bytes = npt.NDArray[np.uint8]
Halves = npt.NDArray[np.uint16]


def add_up(image: Bytes, colours: bool) -> None:
    if colours:
        image[..., 0] += image[..., 1]
        image[..., 2] += image[..., 1]
    np.add.accumulate(image, axis=2, dtype=np.uint8, out=image)
    np.add.accumulate(image, axis=1, dtype=np.uint8, out=image)


def int8_peaks(patterns: Patterns, peaks: Patterns) -> None:
    sizes = patterns & np.uint32(0x7FFFFFFF)
    np.maximum(peaks, sizes.max(axis=(0, 2), initial=np.uint32(0)), out=peaks)


def int8_encode(values: Floats, factors: Floats, rounded: Floats, steps: Bytes) -> None:
    np.multiply(values, factors[None, :, None], out=rounded)
    rounded += np.float32(1.5 * 2.0**23)
    steps[:] = (rounded.reshape(-1).view(np.uint32) & np.uint32(0xFF)).astype(np.uint8)


def int8_decode(steps: npt.NDArray[np.int8], scales: Floats, values: Floats) -> None:
    np.multiply(steps.astype(np.float32), scales[None, :, None], out=values)


def half_encode(patterns: Patterns, probes: Patterns, halves: Halves) -> None:
    size = patterns & np.uint32(0x7FFFFFFF)
    nearest_even = np.uint32(0x0FFF) + ((size >> np.uint32(13)) & np.uint32(1))
    nearest = np.minimum((size - np.uint32(0x38000000) + nearest_even) >> np.uint32(13), np.uint32(0x7BFF))
    nearest = np.where(size < np.uint32(0x38800000), probes - np.uint32(0x3F000000), nearest)
    special = np.where(size == np.uint32(0x7F800000), np.uint32(0x7C00), np.uint32(0x7E00))
    nearest = np.where(size >= np.uint32(0x7F800000), special, nearest)
    halves[:] = nearest | ((patterns >> np.uint32(16)) & np.uint32(0x8000))


def half_decode(halves: Halves, values: Floats) -> None:
    bits = halves.astype(np.uint32)
    size = bits & np.uint32(0x7FFF)
    pattern = (size << np.uint32(13)) + np.uint32(0x38000000)
    pattern[size >= np.uint32(0x7C00)] += np.uint32(0x38000000)
    small = size.astype(np.float32) * np.float32(2.0**-24)
    value = np.where(size < np.uint32(0x0400), small, pattern.view(np.float32))
    values[:] = np.where(bits & np.uint32(0x8000), -value, value)
