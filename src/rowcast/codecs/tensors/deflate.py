"""Lossless: differences of neighbours, or planes of bytes, then zlib at level 1.

A pixel resembles its neighbours, and its colours change together: what is left after both are taken away are small
numbers, which the Huffman code of zlib writes in few bits. Looking for repeated strings in them costs time and finds
false friends; so zlib looks for runs only (``Z_RLE``), which is smaller and faster.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from rowcast.codecs.base import Bytes, expect_bytes
from rowcast.codecs.tensors import plain
from rowcast.codecs.tensors.base import (
    DTYPES,
    Array,
    TensorType,
    array_of_bytes,
    bytes_of_array,
    expect_carried,
    expect_slab,
)
from rowcast.errors import RemoteProtocolError
from rowcast.rows.compiling import without_numba
from rowcast.rows.kernels import compiled_serial

__all__ = ["DeflateTensor"]

#: First byte of a payload: what lies behind it.
_STORED, _DEFLATED = 0, 1
_LEVEL, _WINDOW, _MEMORY = 1, 15, 9
#: Sizes of a channel axis that are taken for red, green and blue, with or without an alpha.
_COLOURS = (3, 4)


@compiled_serial
@without_numba(plain.add_up)
def _add_up(image: npt.NDArray[np.uint8], colours: bool) -> None:
    """Undo :func:`_differences` in place, in an image [outer, row, column, channel]."""
    outer, rows, columns, channels = image.shape
    for i in range(outer):
        for r in range(rows):
            row = image[i, r].reshape(columns * channels)
            if colours:
                for j in range(0, len(row), channels):
                    row[j] += row[j + 1]
                    row[j + 2] += row[j + 1]
            for j in range(channels, len(row)):
                row[j] += row[j - channels]
            if r > 0:
                above = image[i, r - 1].reshape(columns * channels)
                for j in range(len(row)):
                    row[j] += above[j]


class DeflateTensor:
    """Every bit, NaN and Inf included, in fewer bytes where the content allows.

    Payload: a byte 0, then the slab as ``raw`` has it, where nothing is gained; or a byte 1, then a zlib stream of

    * elements of one byte: their differences, modulo 256, as [outer axes, row, column, channel]; the column is the
      last axis beside row and channel. First that to the left neighbour of the same channel, then, of these, that to
      the upper neighbour in the slab, which is no row of another slab; a neighbour that is not there counts 0. Of uint8
      with 3 or 4 channels, the second is then taken from the first and the third.
    * elements of several bytes: the lowest byte of each in the order of the axes, then the next byte of each, and so
      on.
    """

    name = "deflate"
    wire_id = 4
    exact = True
    dtypes: tuple[str, ...] = DTYPES

    def most_bytes(self, tensor: TensorType) -> int:
        return tensor.nbytes + 1

    def encode(self, slab: Array, tensor: TensorType) -> Bytes:
        expect_slab(self, slab, tensor)
        # Wider whole numbers, as a depth camera has them, repeat themselves; floats do so in runs of zeros only.
        strategy = zlib.Z_DEFAULT_STRATEGY if _is_wide(tensor) and tensor.dtype.kind in "iu" else zlib.Z_RLE
        stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW, _MEMORY, strategy)
        content = _planes(slab) if _is_wide(tensor) else _differences(slab, tensor)
        payload = bytes([_DEFLATED]) + stream.compress(content.tobytes()) + stream.flush()
        if len(payload) > tensor.nbytes:
            return np.concatenate([np.array([_STORED], dtype=np.uint8), bytes_of_array(slab)])
        return np.frombuffer(payload, dtype=np.uint8)

    def decode(self, payload: Bytes, tensor: TensorType) -> Array:
        expect_carried(self, tensor)
        form = int(payload[0]) if len(payload) else -1
        if form == _STORED:
            expect_bytes(self.name, payload, tensor.nbytes + 1)
            return array_of_bytes(self.name, payload[1:], tensor)
        if form != _DEFLATED or len(payload) > tensor.nbytes:
            raise RemoteProtocolError(
                f"{self.name} payload: expected a byte 0 or 1 and at most {tensor.nbytes} more, got {len(payload)} "
                f"bytes that begin with {form if form >= 0 else 'nothing'}"
            )
        content = self._inflated(payload, tensor.nbytes)
        if _is_wide(tensor):
            planes = content.reshape(tensor.dtype.itemsize, tensor.elements)
            return array_of_bytes(self.name, np.ascontiguousarray(planes.T).reshape(-1), tensor)
        order, shape = _image_axes(tensor)
        image = content.reshape(shape)
        _add_up(image, _has_colours(tensor))
        slab = image.reshape([tensor.shape[axis] for axis in order]).transpose(np.argsort(order))
        return array_of_bytes(self.name, np.ascontiguousarray(slab).reshape(-1), tensor)

    def _inflated(self, payload: Bytes, size: int) -> Bytes:
        """The content of a zlib stream behind the first byte, which has to be of this size; writable.

        One byte more is asked for, so that the end of the stream and its sum are looked at; no more is ever made.
        """
        stream = zlib.decompressobj(_WINDOW)
        try:
            content = stream.decompress(payload[1:].tobytes(), size + 1)
        except zlib.error as error:
            raise RemoteProtocolError(f"{self.name} payload: expected a zlib stream, got {error}") from error
        if len(content) != size or not stream.eof or stream.unused_data:
            raise RemoteProtocolError(
                f"{self.name} payload: expected a zlib stream of {size} bytes and nothing behind it, got "
                f"{'more' if len(content) > size or stream.unused_data else 'less'}"
            )
        return np.frombuffer(bytearray(content), dtype=np.uint8)


def _is_wide(tensor: TensorType) -> bool:
    return tensor.dtype.itemsize > 1


def _has_colours(tensor: TensorType) -> bool:
    channels = None if tensor.channel_axis is None else tensor.shape[tensor.channel_axis]
    return channels in _COLOURS and tensor.dtype == np.uint8


def _image_axes(tensor: TensorType) -> tuple[list[int], tuple[int, int, int, int]]:
    """The axes of a tensor as outer ones, row, column and channel, and the four sizes; 1 for one that is not there."""
    others = [axis for axis in range(len(tensor.shape)) if axis not in (tensor.row_axis, tensor.channel_axis)]
    outer, column = others[:-1], others[-1:]
    channel = [] if tensor.channel_axis is None else [tensor.channel_axis]
    sizes = [int(np.prod([tensor.shape[axis] for axis in axes])) for axes in (outer, column, channel)]
    return [*outer, tensor.row_axis, *column, *channel], (sizes[0], tensor.rows, sizes[1], sizes[2])


def _differences(slab: Array, tensor: TensorType) -> npt.NDArray[Any]:
    """What :func:`_add_up` undoes, uint8 [outer, row, column, channel], contiguous."""
    order, shape = _image_axes(tensor)
    image = np.ascontiguousarray(slab.view(np.uint8).transpose(order)).reshape(shape)
    across = image.copy()
    across[:, :, 1:] -= image[:, :, :-1]
    down = across.copy()
    down[:, 1:] -= across[:, :-1]
    if _has_colours(tensor):
        down[..., 0] -= down[..., 1]
        down[..., 2] -= down[..., 1]
    return down


def _planes(slab: Array) -> Bytes:
    """The lowest byte of each element, then the next of each, uint8 [itemsize, elements]."""
    return np.ascontiguousarray(bytes_of_array(slab).reshape(slab.size, slab.dtype.itemsize).T)
