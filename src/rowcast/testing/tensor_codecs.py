"""The conformance suite of tensor codecs."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np

from rowcast.codecs.base import Bytes
from rowcast.codecs.tensors import TensorCodec, TensorType
from rowcast.codecs.tensors.base import DTYPES, Array
from rowcast.errors import ConfigError, LocalProtocolError, RemoteProtocolError

__all__ = ["check_tensor_codec"]

#: Shape, row axis and channel axis: a camera image, a batch of images, activations, tokens, an answer, a list.
_SHAPES: tuple[tuple[tuple[int, ...], int, int | None], ...] = (
    ((12, 17, 3), 0, 2),
    ((2, 9, 7, 4), 1, 3),
    ((1, 5, 8, 6), 2, 1),
    ((2, 11, 6), 1, None),
    ((3, 10), 1, 0),
    ((7,), 0, None),
)
#: Beyond so many bytes for each byte of the slab, and so many more, decoding allocates what the type does not call for.
_MOST_TIMES, _MOST_MORE = 16, 1 << 20


def check_tensor_codec(codec: TensorCodec, *, seed: int = 0, tolerance: float = 0.01) -> None:
    """Check that a tensor codec keeps its promises; raises AssertionError at the first that it breaks.

    * A payload is uint8, at most as long as ``most_bytes`` says, and shares no memory with the slab, which stays as it
      is; how the slab lies in memory makes no difference.
    * What is decoded has the type that was given, is contiguous and writable, and shares no memory with the payload.
    * Slabs decode by themselves, in any order.
    * ``exact``: every bit arrives, those of NaN included. Otherwise no finite value is off by more than ``tolerance``
      times the largest of its slab.
    * A slab of another type raises ``LocalProtocolError``, elements that the codec does not carry ``ConfigError``.
    * Whatever bytes arrive, ``decode`` returns an array of the type or raises ``RemoteProtocolError``, allocates
      according to the type, and refuses what is longer than ``most_bytes``.
    """
    random = np.random.default_rng(seed)
    for tensor in _tensors(codec):
        for whole in _contents(codec, tensor, random):
            cuts = sorted({0, tensor.rows, *random.integers(1, tensor.rows, 2).tolist()}) if tensor.rows > 1 else [0, 1]
            spans = list(itertools.pairwise(cuts))
            joined = np.zeros(tensor.shape, dtype=tensor.dtype)
            payloads = [_encoded(codec, whole[tensor.index(*span)], tensor.slab(*span)) for span in spans]
            for k in random.permutation(len(spans)):
                slab, sent = tensor.slab(*spans[k]), whole[tensor.index(*spans[k])]
                found = _decoded(codec, payloads[k], slab)
                _compare(codec, sent, found, tolerance)
                joined[tensor.index(*spans[k])] = found
            if codec.exact:
                assert joined.tobytes() == whole.tobytes(), "slabs that came in another order are not the tensor"
        _check_garbage(codec, payloads[0], tensor.slab(*spans[0]), random)
        _check_misuse(codec, tensor)


def _tensors(codec: TensorCodec) -> Iterator[TensorType]:
    for name in codec.dtypes:
        for shape, row_axis, channel_axis in _SHAPES:
            yield TensorType(np.dtype(name), shape, row_axis, channel_axis)


def _contents(codec: TensorCodec, tensor: TensorType, random: np.random.Generator) -> Iterator[Array]:
    """Tensors of different content: smooth, zeros, and for an exact codec any bits."""
    smooth = np.cumsum(random.integers(-2, 3, tensor.shape), axis=tensor.row_axis)
    yield (smooth > 0 if tensor.dtype == np.bool_ else smooth).astype(tensor.dtype)
    yield np.zeros(tensor.shape, dtype=tensor.dtype)
    if tensor.dtype.kind == "f":
        yield random.standard_normal(tensor.shape).astype(tensor.dtype)
    if codec.exact:
        bits = random.integers(0, 2 if tensor.dtype == np.bool_ else 256, tensor.nbytes).astype(np.uint8)
        yield bits.view(tensor.dtype).reshape(tensor.shape)


def _encoded(codec: TensorCodec, sent: Array, slab: TensorType) -> Bytes:
    before = sent.tobytes()
    payload = codec.encode(sent, slab)
    assert sent.tobytes() == before, "encoding changed the slab"
    assert payload.dtype == np.uint8 and payload.ndim == 1, "a payload is uint8 [bytes]"
    assert len(payload) <= codec.most_bytes(slab), "a payload is longer than most_bytes says"
    assert not np.shares_memory(payload, sent), "the payload lies in the memory of the slab"
    turned = np.asfortranarray(sent)
    assert payload.tobytes() == codec.encode(turned, slab).tobytes(), "the order in memory changes the payload"
    return payload


def _decoded(codec: TensorCodec, payload: Bytes, slab: TensorType) -> Array:
    before = payload.tobytes()
    found = codec.decode(payload, slab)
    _check_type(found, slab)
    assert not np.shares_memory(found, payload), "what is decoded lies in the memory of the payload"
    found[...] = found.copy()
    assert payload.tobytes() == before, "decoding changed the payload"
    return found


def _check_type(found: Array, slab: TensorType) -> None:
    assert found.dtype == slab.dtype and found.shape == slab.shape, "what is decoded is not of the type"
    assert found.flags.c_contiguous and found.flags.writeable, "what is decoded is not contiguous and writable"
    if slab.dtype == np.bool_:
        assert (found.view(np.uint8) <= 1).all(), "a bool that is neither 0 nor 1 was decoded"


def _compare(codec: TensorCodec, sent: Array, found: Array, tolerance: float) -> None:
    if codec.exact:
        assert found.tobytes() == sent.tobytes(), "an exact codec changed a bit"
        return
    real = sent.astype(np.float64)
    error = np.abs(found.astype(np.float64) - real).max()
    assert error <= tolerance * np.abs(real).max(), f"a value is off by {error}"


def _check_misuse(codec: TensorCodec, tensor: TensorType) -> None:
    other = np.dtype(np.int16 if tensor.dtype == np.uint16 else np.uint16)
    wrong: list[Any] = [np.zeros((*tensor.shape, 2), dtype=tensor.dtype), np.zeros(tensor.shape, dtype=other), None]
    for slab in wrong:
        try:
            codec.encode(slab, tensor)
        except LocalProtocolError:
            continue
        raise AssertionError("a slab of another type was encoded")
    for name in set(DTYPES) - set(codec.dtypes):
        strange = TensorType(np.dtype(name), tensor.shape)
        for call in (
            lambda strange=strange: codec.encode(np.zeros(strange.shape, dtype=strange.dtype), strange),
            lambda strange=strange: codec.decode(np.zeros(strange.nbytes, dtype=np.uint8), strange),
        ):
            try:
                call()
            except ConfigError:
                continue
            raise AssertionError(f"{name} is not among the dtypes of the codec, and was taken")


def _check_garbage(codec: TensorCodec, payload: Bytes, slab: TensorType, random: np.random.Generator) -> None:
    """Random bytes, and a good payload with a byte changed, lost, or added."""
    most = codec.most_bytes(slab)
    pieces = [random.integers(0, 256, random.integers(0, most + 2)).astype(np.uint8) for _ in range(8)]
    for _ in range(8):
        changed = payload.copy()
        changed[random.integers(len(changed))] ^= np.uint8(1 << random.integers(8))
        pieces += [changed, payload[: random.integers(len(payload))]]
    limit = _MOST_TIMES * slab.nbytes + _MOST_MORE
    for piece in pieces:
        tracing = tracemalloc.is_tracing()
        if not tracing:
            tracemalloc.start()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            _check_type(codec.decode(piece, slab), slab)
        except RemoteProtocolError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1] - before
            if not tracing:
                tracemalloc.stop()
        assert peak <= limit, f"decoding a slab of {slab.nbytes} bytes allocated {peak}"
    for extra in (np.zeros(most + 1, dtype=np.uint8), np.concatenate([payload, np.zeros(most, dtype=np.uint8)])):
        try:
            codec.decode(extra, slab)
        except RemoteProtocolError:
            continue
        raise AssertionError(f"a payload of {len(extra)} bytes was taken; most_bytes says {most}")
