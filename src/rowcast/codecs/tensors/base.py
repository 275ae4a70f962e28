"""What a tensor codec promises, and the type of a tensor that both sides know before a byte of it travels."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from rowcast.codecs.base import Bytes, expect_bytes
from rowcast.errors import ConfigError, LocalProtocolError, RemoteProtocolError

__all__ = [
    "DTYPES",
    "Array",
    "TensorCodec",
    "TensorType",
    "array_of_bytes",
    "bytes_of_array",
    "expect_carried",
    "expect_slab",
]

#: An array of a type that a :class:`TensorType` names.
Array = npt.NDArray[Any]

#: Types of elements that can travel.
DTYPES = (
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64"),
)
#: The names again: numpy works them out each time.
_NAMES: dict[np.dtype[Any], str] = {np.dtype(name): name for name in DTYPES}


@dataclass(frozen=True)
class TensorType:
    """Element type, shape and axes of a tensor, or of a slab of one: rows that lie one behind the other.

    Attributes:
        dtype: one of :data:`DTYPES`, in the byte order of this machine.
        shape: sizes, each >= 1, at least one.
        row_axis: the axis along which the tensor is cut into slabs: 1 for images ``[batch, row, column, colour]``, 2
            for activations ``[batch, channel, row, column]``.
        channel_axis: the axis of channels, 3 and 1 in these two; None where there is none. Codecs use it: elements of
            one channel are of one size and resemble their neighbours.

    Raises:
        ConfigError: an element type that cannot travel, a size below 1, or an axis that the shape does not have.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    row_axis: int = 0
    channel_axis: int | None = None

    def __post_init__(self) -> None:
        try:
            dtype = np.dtype(self.dtype).newbyteorder("=")
            shape = tuple(operator.index(size) for size in self.shape)
        except TypeError as error:
            raise ConfigError(f"tensor: expected an element type and whole sizes, got {error}") from error
        if dtype not in _NAMES:
            raise ConfigError(f"tensor: expected elements of {', '.join(DTYPES)}, got {dtype}")
        if not shape or min(shape) < 1:
            raise ConfigError(f"tensor: expected sizes of 1 or more, at least one, got {list(shape)}")
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "row_axis", self._axis("row_axis", self.row_axis))
        if self.channel_axis is not None:
            object.__setattr__(self, "channel_axis", self._axis("channel_axis", self.channel_axis))
        if self.row_axis == self.channel_axis:
            raise ConfigError(f"tensor: row_axis and channel_axis are both {self.row_axis}; name two different axes")

    def _axis(self, name: str, axis: int) -> int:
        """An axis counted from the first one."""
        try:
            found = operator.index(axis)
        except TypeError:
            found = len(self.shape)
        if not -len(self.shape) <= found < len(self.shape):
            raise ConfigError(f"tensor: {name}: expected an axis of {list(self.shape)}, got {axis!r}")
        return found % len(self.shape)

    @property
    def name(self) -> str:
        """Of the element type, one of :data:`DTYPES`."""
        return _NAMES[self.dtype]

    @property
    def rows(self) -> int:
        """Size of the row axis."""
        return self.shape[self.row_axis]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements as they lie in memory."""
        return self.elements * self.dtype.itemsize

    def slab(self, start: int, stop: int) -> TensorType:
        """The type of rows ``start`` up to, not including, ``stop``.

        Raises:
            LocalProtocolError: no rows, or rows that the tensor does not have. What a peer asks for is to be compared
                with :attr:`rows` before.
        """
        if not 0 <= start < stop <= self.rows:
            raise LocalProtocolError(f"slab: expected rows within 0 .. {self.rows}, got {start} .. {stop}")
        sizes = list(self.shape)
        sizes[self.row_axis] = stop - start
        slab = object.__new__(TensorType)  # what was checked of the tensor holds for it too, and there are many
        vars(slab).update(vars(self), shape=tuple(sizes))
        return slab

    def index(self, start: int, stop: int) -> tuple[slice, ...]:
        """Where these rows are in an array of this type: ``array[tensor.index(start, stop)]``."""
        return (*(slice(None),) * self.row_axis, slice(start, stop))


@runtime_checkable
class TensorCodec(Protocol):
    """Slabs of typed tensors to bytes and back. Stateless: one object serves every tensor and every thread.

    Both sides know the type of the slab, so a payload holds no sizes, and what decoding allocates is bounded by the
    type. A slab is decoded by itself: slabs of a tensor may come in any order.

    Attributes:
        exact: decoding gives the very bits that were encoded.
        dtypes: names of the element types that it carries, of :data:`DTYPES`.
    """

    name: str
    wire_id: int
    exact: bool
    dtypes: tuple[str, ...]

    def most_bytes(self, tensor: TensorType) -> int:
        """The longest payload of a slab of this type, in bytes; a longer one can be refused before it has arrived."""
        ...

    def encode(self, slab: Array, tensor: TensorType) -> Bytes:
        """Encode a slab, which is left as it is and may lie in memory in any order.

        Returns:
            The payload, uint8 [payload bytes]; it shares no memory with the slab.

        Raises:
            ConfigError: the codec does not carry this type of elements.
            LocalProtocolError: the slab is not of the type, or has values that the codec cannot express.
        """
        ...

    def decode(self, payload: Bytes, tensor: TensorType) -> Array:
        """Decode a slab.

        Returns:
            An array of this type, contiguous, writable, that shares no memory with the payload.

        Raises:
            ConfigError: the codec does not carry this type of elements.
            RemoteProtocolError: a payload that no correct peer sends for this type.
        """
        ...


def expect_carried(codec: TensorCodec, tensor: TensorType) -> None:
    """Raise :class:`ConfigError` unless the codec carries elements of this type."""
    if tensor.name not in codec.dtypes:
        raise ConfigError(f"{codec.name}: carries {', '.join(codec.dtypes)}, not {tensor.dtype}; choose another codec")


def expect_slab(codec: TensorCodec, slab: Array, tensor: TensorType) -> None:
    """Raise an error unless the slab is of the type, and the codec carries it."""
    expect_carried(codec, tensor)
    if not isinstance(slab, np.ndarray) or slab.dtype != tensor.dtype or slab.shape != tensor.shape:
        found = f"{slab.dtype} {list(slab.shape)}" if isinstance(slab, np.ndarray) else repr(type(slab).__name__)
        raise LocalProtocolError(f"{codec.name}: expected a slab {tensor.dtype} {list(tensor.shape)}, got {found}")


def bytes_of_array(array: Array) -> Bytes:
    """The elements in the order of the axes, little-endian, uint8 [bytes], in memory of their own."""
    return np.array(array, dtype=array.dtype.newbyteorder("<"), order="C", copy=True).reshape(-1).view(np.uint8)


def array_of_bytes(name: str, data: Bytes, tensor: TensorType) -> Array:
    """The array whose elements :func:`bytes_of_array` has written.

    Raises:
        RemoteProtocolError: another length, or bytes that are no bool.
    """
    expect_bytes(name, data, tensor.nbytes)
    if tensor.dtype == np.bool_ and bool((data > 1).any()):
        raise RemoteProtocolError(f"{name} payload: expected 0 and 1 for elements of bool, got something else")
    little = np.frombuffer(bytearray(data), dtype=tensor.dtype.newbyteorder("<"))
    return little.reshape(tensor.shape).astype(tensor.dtype, copy=False)
