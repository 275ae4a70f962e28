"""float32 in one byte: whole steps of -127 to 127 on a scale of each channel."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rowcast.codecs.base import Bytes, expect_bytes
from rowcast.codecs.tensors import plain
from rowcast.codecs.tensors.base import Array, TensorType, expect_carried, expect_slab
from rowcast.errors import LocalProtocolError, RemoteProtocolError
from rowcast.rows.compiling import without_numba
from rowcast.rows.kernels import compiled_serial

__all__ = ["Int8Tensor"]

Floats = npt.NDArray[np.float32]

_STEPS = 127
_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST_NORMAL = np.finfo(np.float32).tiny
_INFINITE = np.uint32(0x7F800000)
#: The last bit of a number from 2**23 to 2**24 counts 1: adding this rounds to a whole number, ties to even, and the
#: lowest byte of the sum's pattern is that number as int8.
_ROUND = np.float32(1.5 * 2.0**23)


@compiled_serial
@without_numba(plain.int8_peaks)
def _peaks(patterns: npt.NDArray[np.uint32], peaks: npt.NDArray[np.uint32]) -> None:
    """The largest size in each channel of ``patterns`` [before, channel, behind]; sizes are ordered as patterns."""
    before, channels, behind = patterns.shape
    for i in range(before):
        if behind == 1:
            row = patterns[i, :, 0]
            for c in range(channels):
                peaks[c] = max(peaks[c], row[c] & np.uint32(0x7FFFFFFF))
        else:
            for c in range(channels):
                piece = patterns[i, c]
                peak = np.uint32(0)
                for j in range(behind):
                    peak = max(peak, piece[j] & np.uint32(0x7FFFFFFF))
                peaks[c] = max(peaks[c], peak)


@compiled_serial
@without_numba(plain.int8_encode)
def _encode(values: Floats, factors: Floats, rounded: Floats, steps: npt.NDArray[np.uint8]) -> None:
    before, channels, behind = values.shape
    for i in range(before):
        if behind == 1:
            row, target = values[i, :, 0], rounded[i, :, 0]
            for c in range(channels):
                target[c] = row[c] * factors[c] + _ROUND
        else:
            for c in range(channels):
                piece, place, factor = values[i, c], rounded[i, c], factors[c]
                for j in range(behind):
                    place[j] = piece[j] * factor + _ROUND
    patterns = rounded.reshape(rounded.size).view(np.uint32)
    for j in range(len(steps)):
        steps[j] = np.uint8(patterns[j] & np.uint32(0xFF))


@compiled_serial
@without_numba(plain.int8_decode)
def _decode(steps: npt.NDArray[np.int8], scales: Floats, values: Floats) -> None:
    before, channels, behind = values.shape
    for i in range(before):
        if behind == 1:
            row, target = steps[i, :, 0], values[i, :, 0]
            for c in range(channels):
                target[c] = np.float32(row[c]) * scales[c]
        else:
            for c in range(channels):
                piece, place, scale = steps[i, c], values[i, c], scales[c]
                for j in range(behind):
                    place[j] = np.float32(piece[j]) * scale


class Int8Tensor:
    """One signed byte an element, one float32 scale for each channel of a slab.

    For each channel and not for each row: a row of an activation holds all channels, whose ranges differ by orders of
    magnitude behind a batch norm, so that the largest would take the steps of all others. The scale is that of the
    slab, so that it can be made and read while other rows are on their way; so the values that arrive depend on how a
    tensor is cut into slabs, and the scales weigh more in thin ones. Without a channel axis a slab has one scale.

    The error is at most half a step (0.501, as arithmetic is rounded too), a step being the largest size of the channel
    in the slab / 127. A channel whose largest is below 1.5e-36 arrives as zeros. NaN and Inf cannot be expressed, and
    are refused.

    Payload: the scales (little-endian float32), then the elements in the order of the axes (int8, -127 to 127).
    """

    name = "int8"
    wire_id = 3
    exact = False
    dtypes: tuple[str, ...] = ("float32",)

    def most_bytes(self, tensor: TensorType) -> int:
        return 4 * _by_channel(tensor)[1] + tensor.elements

    def encode(self, slab: Array, tensor: TensorType) -> Bytes:
        expect_slab(self, slab, tensor)
        values = np.ascontiguousarray(slab).reshape(_by_channel(tensor))
        peaks = np.zeros(values.shape[1], dtype=np.uint32)
        _peaks(values.view(np.uint32), peaks)
        if (peaks >= _INFINITE).any():
            raise LocalProtocolError(
                f"{self.name}: expected finite values, got NaN or Inf in channel {int((peaks >= _INFINITE).argmax())}; "
                "mend what computes them, or choose raw, half or deflate"
            )
        scales = _scales(peaks.view(np.float32))
        factors = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
        payload = np.empty(4 * len(scales) + values.size, dtype=np.uint8)
        payload[: 4 * len(scales)] = scales.astype("<f4", copy=False).view(np.uint8)
        _encode(values, factors, np.empty_like(values), payload[4 * len(scales) :])
        return payload

    def decode(self, payload: Bytes, tensor: TensorType) -> Array:
        expect_carried(self, tensor)
        expect_bytes(self.name, payload, self.most_bytes(tensor))
        shape = _by_channel(tensor)
        head = 4 * shape[1]
        scales = np.frombuffer(payload[:head].tobytes(), dtype="<f4").astype(np.float32)
        if not (scales >= 0).all() or not (scales.astype(np.float64) * _STEPS <= _LARGEST).all():
            raise RemoteProtocolError(f"{self.name} payload: expected finite scales >= 0, got something else")
        steps = np.ascontiguousarray(payload[head:]).view(np.int8)
        if (steps == -_STEPS - 1).any():
            raise RemoteProtocolError(f"{self.name} payload: expected steps of -{_STEPS} to {_STEPS}, got -128")
        values = np.empty(shape, dtype=np.float32)
        _decode(steps.reshape(shape), scales, values)
        return values.reshape(tensor.shape)


def _by_channel(tensor: TensorType) -> tuple[int, int, int]:
    """The sizes of a tensor before its channel axis, of that axis, and behind it."""
    axis = tensor.channel_axis
    if axis is None:
        return 1, 1, tensor.elements
    return math.prod(tensor.shape[:axis]), tensor.shape[axis], math.prod(tensor.shape[axis + 1 :])


def _scales(peaks: Floats) -> Floats:
    """The step of each channel: the largest size / 127, never so large that 127 steps overflow."""
    scales = (peaks.astype(np.float64) / _STEPS).astype(np.float32)
    above = scales.astype(np.float64) * _STEPS > peaks
    scales[above] = np.nextafter(scales[above], np.float32(0))
    scales[scales < _SMALLEST_NORMAL] = 0
    return scales
