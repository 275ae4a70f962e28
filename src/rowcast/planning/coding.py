"""What tensors take on their way: bytes after a codec, and the work of coding on both sides.

A coded tensor is cut into at most :data:`PIECES` groups of rows. While one is coded the one before travels and the one
before that is decoded; with ``k`` pieces, and ``e``, ``l`` and ``d`` seconds of encoding, link and decoding::

    elapsed = message + (e + l + d) / k + (k - 1) / k * max(e, l, d)

A codec is used for a tensor where what the planner minimises gets less by it, so never where the link is faster than
the coding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.codecs.tensors import TensorType, tensor_codec_by_name
from rowcast.errors import ConfigError

__all__ = ["PIECES", "RAW", "Coding", "Sizes", "TensorCosts", "Way", "carried", "cheapest", "given", "select"]

Floats = npt.NDArray[np.float64]

#: Into so many groups of rows a coded tensor is cut, if it has as many rows.
PIECES = 8
#: The codec of a tensor for which none was chosen.
RAW = "raw"


@dataclass(frozen=True)
class TensorCosts:
    """One way to code tensors, measured on such tensors.

    Attributes:
        codec: a name of :mod:`rowcast.codecs.tensors`. Giving one that is not exact allows the planner to use it.
        ratio: bytes that travel for a byte of the tensor, as measured on tensors of this kind: an image and an
            activation differ, so the same codec can be given twice, each time for other operators.
        encode_s_per_byte, decode_s_per_byte: seconds on the robot for a byte of the tensor, before coding.
        server_speed: how many times as fast the server codes.
        ops: operators whose tensors it may be used for; ``None``: all.

    Raises:
        ConfigError: an unknown codec, a ratio or speed that is not above 0, a time below 0.
    """

    codec: str
    ratio: float
    encode_s_per_byte: float = 0.0
    decode_s_per_byte: float = 0.0
    server_speed: float = 1.0
    ops: frozenset[int] | None = None

    def __post_init__(self) -> None:
        tensor_codec_by_name(self.codec)
        for name in ("ratio", "server_speed"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"codec {self.codec}: {name}: expected a number above 0, got {getattr(self, name)}")
        for name in ("encode_s_per_byte", "decode_s_per_byte"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"codec {self.codec}: {name}: expected 0 s or more, got {getattr(self, name)}")

    @property
    def exact(self) -> bool:
        """Whether decoding gives the very bits that were encoded."""
        return tensor_codec_by_name(self.codec).exact


def carried(codec: str, tensors: Sequence[TensorType | None]) -> frozenset[int]:
    """Operators whose tensors a codec carries: for :attr:`TensorCosts.ops`.

    Args:
        codec: its name.
        tensors: the type of each operator's tensor; ``None`` where it cannot travel.

    Raises:
        ConfigError: there is no such codec.
    """
    dtypes = tensor_codec_by_name(codec).dtypes
    return frozenset(index for index, kind in enumerate(tensors) if kind is not None and kind.dtype.name in dtypes)


@dataclass(frozen=True, eq=False)
class Sizes:
    """Tensors of a graph: float64 [ops] bytes, and whole numbers [ops] of pieces in which each is coded."""

    bytes: Floats
    pieces: Floats


@dataclass(frozen=True)
class Way:
    """A direction of the link.

    Attributes:
        up: from robot to server.
        s_per_byte: seconds that a byte takes.
        message_s: what each tensor takes whatever its size (s).
        frame_s: what each further piece of a tensor takes (s).
    """

    up: bool
    s_per_byte: float
    message_s: float
    frame_s: float


@dataclass(frozen=True, eq=False)
class Coding:
    """All tensors of a graph in one direction, each as the planner would send it; float64 [ops] each.

    Attributes:
        chosen: intp [ops], 0: as it is, ``n``: coded as the n-th of the ways given.
        ratio: bytes that travel for a byte of the tensor.
        robot_s, server_s: coding on each side.
        link_s: how long the link is busy, the message's own cost included.
        elapsed_s: from the first byte that is coded to the last one decoded; nothing else is done meanwhile.
    """

    chosen: npt.NDArray[np.intp]
    ratio: Floats
    robot_s: Floats
    server_s: Floats
    link_s: Floats
    elapsed_s: Floats


#: Of seconds elapsed, of coding on the robot and of the link (float64 [ops] each): what they are worth together.
Worth = Callable[[Floats, Floats, Floats], Floats]


def cheapest(sizes: Sizes, way: Way, codecs: Sequence[TensorCosts], worth: Worth) -> Coding:
    """For each tensor the way of coding that is worth least; equal ones: as it is, then the one given first."""
    return select([_raw(sizes, way), *(_coded(sizes, way, costs) for costs in codecs)], codecs, worth)


def select(options: Sequence[Coding], codecs: Sequence[TensorCosts], worth: Worth) -> Coding:
    """For each tensor the best of several ways: as it is, and with each of the codecs, in this order."""
    values = np.stack([worth(each.elapsed_s, each.robot_s, each.link_s) for each in options])
    for costs, value in zip(codecs, values[1:], strict=True):
        if costs.ops is not None:
            value[~np.isin(np.arange(len(value)), list(costs.ops))] = np.inf
    return _take(options, np.argmin(values, axis=0))


def given(sizes: Sizes, way: Way, codecs: Sequence[TensorCosts], chosen: npt.NDArray[np.intp]) -> Coding:
    """Each tensor in the way that is chosen for it (intp [ops]): 0 as it is, ``n`` with the n-th codec."""
    return _take([_raw(sizes, way), *(_coded(sizes, way, costs) for costs in codecs)], chosen)


def _take(options: Sequence[Coding], chosen: npt.NDArray[np.intp]) -> Coding:
    each_op = np.arange(len(chosen))

    def of(name: str) -> Floats:
        best: Floats = np.stack([getattr(each, name) for each in options])[chosen, each_op]
        return best

    return Coding(chosen, of("ratio"), of("robot_s"), of("server_s"), of("link_s"), of("elapsed_s"))


def _raw(sizes: Sizes, way: Way) -> Coding:
    nothing = np.zeros(len(sizes.bytes))
    link_s = way.message_s + sizes.bytes * way.s_per_byte
    return Coding(nothing.astype(np.intp), nothing + 1.0, nothing, nothing, link_s, link_s)


def _coded(sizes: Sizes, way: Way, costs: TensorCosts) -> Coding:
    pieces = sizes.pieces
    encode_s, decode_s = sizes.bytes * costs.encode_s_per_byte, sizes.bytes * costs.decode_s_per_byte
    if way.up:
        robot_s, server_s = encode_s, decode_s / costs.server_speed
    else:
        robot_s, server_s = decode_s, encode_s / costs.server_speed
    busy_s = sizes.bytes * costs.ratio * way.s_per_byte + (pieces - 1) * way.frame_s
    longest_s = np.maximum(np.maximum(robot_s, server_s), busy_s)
    elapsed_s = way.message_s + (robot_s + busy_s + server_s) / pieces + (1 - 1 / pieces) * longest_s
    zero = np.zeros(len(pieces), dtype=np.intp)
    return Coding(zero, np.full(len(pieces), costs.ratio), robot_s, server_s, way.message_s + busy_s, elapsed_s)
