"""float32 in two bytes: float16, as numpy and PyTorch round it, but for values that are too large for it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.codecs.base import Bytes, expect_bytes
from rowcast.codecs.tensors import plain
from rowcast.codecs.tensors.base import Array, TensorType, expect_carried, expect_slab
from rowcast.rows.compiling import without_numba
from rowcast.rows.intrinsics import float_of_bits
from rowcast.rows.kernels import compiled_serial

__all__ = ["HalfTensor"]

#: The float32 pattern of 0.5: the last bit of a number from 0.5 to 1 counts 2**-24, as that of a subnormal float16.
_HALF_BITS = np.uint32(0x3F000000)
#: 2**-14, the smallest normal float16, as float32; and what lies between the exponents of both.
_NORMAL_BITS = np.uint32(0x38800000)
_SHIFT = np.uint32(0x38000000)


@compiled_serial
@without_numba(plain.half_encode)
def _encode(patterns: npt.NDArray[np.uint32], probes: npt.NDArray[np.uint32], halves: npt.NDArray[np.uint16]) -> None:
    """``probes``: the patterns of abs(value) + 0.5, which rounds to the steps of a subnormal float16."""
    for j in range(len(halves)):
        size = patterns[j] & np.uint32(0x7FFFFFFF)
        nearest_even = np.uint32(0x0FFF) + ((size >> np.uint32(13)) & np.uint32(1))
        nearest = (size - _SHIFT + nearest_even) >> np.uint32(13)
        nearest = probes[j] - _HALF_BITS if size < _NORMAL_BITS else nearest
        nearest = min(nearest, np.uint32(0x7BFF)) if size >= _NORMAL_BITS else nearest
        special = np.uint32(0x7C00) if size == np.uint32(0x7F800000) else np.uint32(0x7E00)
        nearest = special if size >= np.uint32(0x7F800000) else nearest
        halves[j] = np.uint16(nearest | ((patterns[j] >> np.uint32(16)) & np.uint32(0x8000)))


@compiled_serial
@without_numba(plain.half_decode)
def _decode(halves: npt.NDArray[np.uint16], values: npt.NDArray[np.float32]) -> None:
    for j in range(len(halves)):
        bits = np.uint32(halves[j])
        size = bits & np.uint32(0x7FFF)
        pattern = (size << np.uint32(13)) + _SHIFT
        pattern = pattern + _SHIFT if size >= np.uint32(0x7C00) else pattern
        value = float_of_bits(pattern)
        value = np.float32(np.int32(size)) * np.float32(2.0**-24) if size < np.uint32(0x0400) else value
        values[j] = -value if bits & np.uint32(0x8000) else value


class HalfTensor:
    """Rounded to the nearest float16, ties to even.

    The error is at most 2**-11 of a value between 2**-14 and 65,504, and 2**-25 below. A larger finite value becomes
    65,504: an Inf in its place would spread through the rest of a model. Inf and NaN stay what they are.

    Payload: the elements in the order of the axes, little-endian float16.
    """

    name = "half"
    wire_id = 2
    exact = False
    dtypes: tuple[str, ...] = ("float32",)

    def most_bytes(self, tensor: TensorType) -> int:
        return 2 * tensor.elements

    def encode(self, slab: Array, tensor: TensorType) -> Bytes:
        expect_slab(self, slab, tensor)
        values = np.ascontiguousarray(slab).reshape(-1)
        probes = np.abs(values)
        with np.errstate(invalid="ignore"):  # a signalling NaN
            probes += np.float32(0.5)
        halves = np.empty(len(values), dtype=np.uint16)
        _encode(values.view(np.uint32), probes.view(np.uint32), halves)
        return halves.astype("<u2", copy=False).view(np.uint8)

    def decode(self, payload: Bytes, tensor: TensorType) -> Array:
        expect_carried(self, tensor)
        expect_bytes(self.name, payload, 2 * tensor.elements)
        halves = np.frombuffer(payload.tobytes(), dtype="<u2").astype(np.uint16, copy=False)
        values = np.empty(tensor.elements, dtype=np.float32)
        _decode(halves, values)
        return values.reshape(tensor.shape)
