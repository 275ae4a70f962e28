"""Elements as they are, little-endian."""

from __future__ import annotations

from rowcast.codecs.base import Bytes
from rowcast.codecs.tensors.base import (
    DTYPES,
    Array,
    TensorType,
    array_of_bytes,
    bytes_of_array,
    expect_carried,
    expect_slab,
)

__all__ = ["RawTensor"]


class RawTensor:
    """Every bit, NaN and Inf included. Payload: the elements in the order of the axes, little-endian."""

    name = "raw"
    wire_id = 1
    exact = True
    dtypes: tuple[str, ...] = DTYPES

    def most_bytes(self, tensor: TensorType) -> int:
        return tensor.nbytes

    def encode(self, slab: Array, tensor: TensorType) -> Bytes:
        expect_slab(self, slab, tensor)
        return bytes_of_array(slab)

    def decode(self, payload: Bytes, tensor: TensorType) -> Array:
        expect_carried(self, tensor)
        return array_of_bytes(self.name, payload, tensor)
