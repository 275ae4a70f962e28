"""Tensor codecs: bits that arrive, errors that are bounded, bytes that no correct peer sends."""

from __future__ import annotations

import itertools
import math
import re
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registries import forget_afterwards
from rowcast.codecs import tensors
from rowcast.codecs.tensors import (
    REGISTRY,
    DeflateTensor,
    HalfTensor,
    Int8Tensor,
    RawTensor,
    TensorCodec,
    TensorType,
    tensor_codec_by_id,
    tensor_codec_by_name,
)
from rowcast.codecs.tensors.base import DTYPES
from rowcast.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from rowcast.testing import check_tensor_codec

quick = settings(deadline=None, derandomize=True, max_examples=100)

IMAGE = TensorType(np.dtype("uint8"), (24, 32, 3), 0, 2)
FLOATS = TensorType(np.dtype("float32"), (2, 5, 6, 7), 2, 1)
EXACT = [codec for codec in REGISTRY.values() if codec.exact]


def smooth_image(tensor: TensorType = IMAGE, seed: int = 0) -> np.ndarray:
    """Elements that resemble their neighbours."""
    walk = np.random.default_rng(seed).integers(-2, 3, tensor.shape).cumsum(0).cumsum(1)
    return walk.astype(tensor.dtype)


@st.composite
def types(draw: st.DrawFn, dtypes: tuple[str, ...] = DTYPES) -> TensorType:
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=5)))
    row_axis = draw(st.integers(-len(shape), len(shape) - 1))
    others = [axis for axis in range(len(shape)) if axis != row_axis % len(shape)]
    return TensorType(np.dtype(draw(st.sampled_from(dtypes))), shape, row_axis, draw(st.sampled_from([None, *others])))


@st.composite
def slabs_of(draw: st.DrawFn, rows: int) -> list[tuple[int, int]]:
    """Spans that cover the rows, in any order."""
    cuts = sorted({0, rows, *draw(st.sets(st.integers(0, rows)))})
    return draw(st.permutations(list(itertools.pairwise(cuts))))


def any_bits(draw: st.DrawFn, tensor: TensorType) -> np.ndarray:
    """An array of arbitrary bits, or of a few values; each bit of NaN counts."""
    few = draw(st.booleans())
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    if tensor.dtype == np.bool_:
        return random.integers(0, 2, tensor.shape).astype(bool)
    values = random.integers(0, 3 if few else 256, tensor.nbytes).astype(np.uint8)
    return values.view(tensor.dtype).reshape(tensor.shape)


def floats(draw: st.DrawFn, tensor: TensorType) -> np.ndarray:
    """Finite float32 of one size, some of them zero."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = 2.0 ** draw(st.integers(-149, 120))
    values = random.standard_normal(tensor.shape) * scale * random.integers(0, 2, tensor.shape)
    return values.astype(np.float32)


# -- every codec ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(REGISTRY))
@pytest.mark.parametrize("seed", [0, 1])
def test_every_codec_keeps_its_promises(name: str, seed: int) -> None:
    check_tensor_codec(REGISTRY[name], seed=seed)


def test_names_and_numbers_never_change() -> None:
    assert {codec.name: codec.wire_id for codec in REGISTRY.values()} == {"raw": 1, "half": 2, "int8": 3, "deflate": 4}
    for name, codec in REGISTRY.items():
        assert isinstance(codec, TensorCodec)
        assert tensor_codec_by_name(name) is codec
        assert tensor_codec_by_id(codec.wire_id) is codec
    assert {codec.name for codec in EXACT} == {"raw", "deflate"}


@pytest.mark.parametrize("codec", EXACT, ids=lambda codec: codec.name)
@given(data=st.data())
@quick
def test_exact_codecs_carry_every_bit_in_slabs_of_any_order(codec: TensorCodec, data: st.DataObject) -> None:
    tensor = data.draw(types())
    sent = any_bits(data.draw, tensor)
    found = np.empty(tensor.shape, tensor.dtype)
    for a, b in data.draw(slabs_of(tensor.rows)):
        payload = codec.encode(sent[tensor.index(a, b)], tensor.slab(a, b))
        assert len(payload) <= codec.most_bytes(tensor.slab(a, b))
        found[tensor.index(a, b)] = codec.decode(payload, tensor.slab(a, b))
    assert found.tobytes() == sent.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("codec", EXACT, ids=lambda codec: codec.name)
def test_the_bits_of_each_nan_arrive(codec: TensorCodec, dtype: str) -> None:
    kind = np.dtype(dtype)
    exponent = np.array([np.inf, -np.inf], kind).view(f"u{kind.itemsize}")
    quiet = np.array(1 << (np.finfo(kind).nmant - 1), exponent.dtype)
    patterns = np.concatenate([exponent, exponent | 1, exponent | quiet, exponent | quiet | 5])
    tensor = TensorType(kind, patterns.shape)
    assert np.isnan(patterns[2:].view(kind)).all()
    found = codec.decode(codec.encode(patterns.view(kind), tensor), tensor)
    assert np.array_equal(found.view(patterns.dtype), patterns)


@pytest.mark.parametrize("codec", REGISTRY.values(), ids=lambda codec: codec.name)
@given(data=st.data())
@quick
def test_whatever_bytes_arrive_are_a_tensor_of_the_type_or_refused(codec: TensorCodec, data: st.DataObject) -> None:
    tensor = data.draw(types(codec.dtypes))
    sent = floats(data.draw, tensor).astype(tensor.dtype) if not codec.exact else any_bits(data.draw, tensor)
    good = codec.encode(sent, tensor)
    bad = good.copy()
    for place in data.draw(st.lists(st.integers(0, len(bad) - 1), max_size=3)):
        bad[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(bad)))
    bad = np.concatenate([bad[:end], np.array(data.draw(st.lists(st.integers(0, 255), max_size=9)), dtype=np.uint8)])
    try:
        found = codec.decode(bad, tensor)
    except RemoteProtocolError:
        return
    assert found.dtype == tensor.dtype and found.shape == tensor.shape
    if tensor.dtype == np.bool_:
        assert (found.view(np.uint8) <= 1).all()
    if codec.name == "int8":
        assert np.isfinite(found).all()


@pytest.mark.parametrize("codec", REGISTRY.values(), ids=lambda codec: codec.name)
def test_every_shorter_and_every_longer_payload_is_refused(codec: TensorCodec) -> None:
    tensor = TensorType(np.dtype(codec.dtypes[-1]), (4, 5, 3), 0, 2)
    payload = codec.encode(smooth_image(tensor), tensor)
    for end in range(len(payload)):
        with pytest.raises(RemoteProtocolError, match=f"{codec.name} payload: expected"):
            codec.decode(payload[:end], tensor)
    with pytest.raises(RemoteProtocolError, match=f"{codec.name} payload: expected"):
        codec.decode(np.append(payload, np.uint8(0)), tensor)


def test_elements_that_a_codec_does_not_carry_and_slabs_of_another_type_are_named() -> None:
    with pytest.raises(ConfigError, match="half: carries float32, not uint8; choose another codec"):
        HalfTensor().encode(smooth_image(), IMAGE)
    with pytest.raises(ConfigError, match="int8: carries float32, not uint8"):
        Int8Tensor().decode(np.zeros(9, dtype=np.uint8), IMAGE)
    with pytest.raises(LocalProtocolError, match=re.escape("raw: expected a slab uint8 [24, 32, 3], got uint8 [4, 32")):
        RawTensor().encode(smooth_image()[:4], IMAGE)
    with pytest.raises(LocalProtocolError, match=re.escape("expected a slab uint8 [24, 32, 3], got int16 [24, 32, 3]")):
        DeflateTensor().encode(smooth_image().astype(np.int16), IMAGE)
    with pytest.raises(LocalProtocolError, match="got 'list'"):
        RawTensor().encode([1, 2], IMAGE)


# -- raw -------------------------------------------------------------------------------------------------------------


def test_raw_is_the_little_endian_elements_in_the_order_of_the_axes() -> None:
    tensor = TensorType(np.dtype("uint16"), (2, 3), 1)
    sent = np.array([[1, 2, 3], [256, 257, 65535]], dtype=np.uint16)
    assert RawTensor().encode(sent, tensor).tobytes() == bytes([1, 0, 2, 0, 3, 0, 0, 1, 1, 1, 255, 255])
    right = RawTensor().encode(np.asfortranarray(sent)[:, 1:], tensor.slab(1, 3))
    assert right.tobytes() == bytes([2, 0, 3, 0, 1, 1, 255, 255])


@pytest.mark.parametrize("codec", EXACT, ids=lambda codec: codec.name)
def test_a_bool_is_0_or_1(codec: TensorCodec) -> None:
    flags = TensorType(np.dtype(bool), (3,))
    head = [0] if codec.name == "deflate" else []
    assert codec.decode(np.array([*head, 0, 1, 1], dtype=np.uint8), flags).tolist() == [False, True, True]
    with pytest.raises(RemoteProtocolError, match="expected 0 and 1 for elements of bool"):
        codec.decode(np.array([*head, 0, 1, 2], dtype=np.uint8), flags)


# -- half ------------------------------------------------------------------------------------------------------------


def through_half(values: np.ndarray) -> np.ndarray:
    tensor = TensorType(np.dtype("float32"), values.shape)
    return HalfTensor().decode(HalfTensor().encode(values, tensor), tensor)


def test_half_decodes_every_float16_as_numpy_does() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    found = HalfTensor().decode(halves.astype("<u2").view(np.uint8), TensorType(np.dtype("float32"), halves.shape))
    wanted = halves.view(np.float16).astype(np.float32)
    number = ~np.isnan(wanted)
    assert np.array_equal(found.view(np.uint32)[number], wanted.view(np.uint32)[number])
    assert np.isnan(found[~number]).all()


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40))
@quick
def test_half_rounds_as_numpy_does_and_keeps_finite_values_finite(values: list[float]) -> None:
    sent = np.array(values, dtype=np.float32)
    with np.errstate(over="ignore"):
        wanted = sent.astype(np.float16)
    beyond = np.isinf(wanted) & np.isfinite(sent)
    wanted[beyond] = np.copysign(np.float16(65504), sent[beyond])
    assert np.array_equal(through_half(sent).view(np.uint32), wanted.astype(np.float32).view(np.uint32))


def test_half_rounds_as_numpy_does_between_any_two_float16() -> None:
    """The halfway points and their neighbours, in both signs, subnormal ones included."""
    low = np.arange(0x7BFF, dtype=np.uint16).view(np.float16).astype(np.float32)
    high = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middle = (low + high) / 2
    sent = np.concatenate([middle, np.nextafter(middle, low), np.nextafter(middle, high)])
    sent = np.concatenate([sent, -sent])
    assert np.array_equal(through_half(sent), sent.astype(np.float16).astype(np.float32))


def test_half_keeps_its_error_bounds_and_what_is_not_finite() -> None:
    random = np.random.default_rng(0)
    sent = (2.0 ** random.uniform(-30, 15.9, 100_000)).astype(np.float32)
    error = np.abs(through_half(sent).astype(np.float64) - sent)
    assert (error <= np.maximum(2.0**-11 * sent, 2.0**-25)).all()
    special = np.array([np.nan, -np.nan, np.inf, -np.inf, 65519, 65520, -1e30, -0.0], dtype=np.float32)
    found = through_half(special)
    assert np.isnan(found[:2]).all()
    assert found[2:].tolist() == [math.inf, -math.inf, 65504, 65504, -65504, 0] and np.signbit(found[-1])


# -- int8 ------------------------------------------------------------------------------------------------------------


@given(data=st.data())
@quick
def test_int8_is_off_by_half_a_step_of_its_channel_at_most(data: st.DataObject) -> None:
    tensor = data.draw(types(("float32",)))
    sent = floats(data.draw, tensor)
    found = Int8Tensor().decode(Int8Tensor().encode(sent, tensor), tensor)
    axes = tuple(axis for axis in range(sent.ndim) if axis != tensor.channel_axis)
    peaks = np.abs(sent).astype(np.float64).max(axis=axes if tensor.channel_axis is not None else None, keepdims=True)
    assert (np.abs(found.astype(np.float64) - sent) <= np.maximum(0.501 * peaks / 127, 1.5e-36)).all()


@pytest.mark.parametrize("tensor", [FLOATS, replace(FLOATS, row_axis=1, channel_axis=3)])
def test_int8_has_a_scale_for_each_channel(tensor: TensorType) -> None:
    """A channel a million times smaller keeps its own 127 steps, wherever the axis of channels is."""
    axis = tensor.channel_axis
    assert axis is not None
    shape = [1] * 4
    shape[axis] = tensor.shape[axis]
    factors = (1e-6 ** np.arange(tensor.shape[axis])).astype(np.float32).reshape(shape)
    sent = np.random.default_rng(0).uniform(-1, 1, tensor.shape).astype(np.float32) * factors
    found = Int8Tensor().decode(Int8Tensor().encode(sent, tensor), tensor)
    assert (np.abs(found - sent) <= 0.51 * factors / 127)[np.broadcast_to(factors > 1e-30, sent.shape)].all()
    assert Int8Tensor().most_bytes(tensor) == 4 * tensor.shape[axis] + tensor.elements


def test_int8_writes_the_documented_scales_and_steps() -> None:
    tensor = TensorType(np.dtype("float32"), (2, 2), 0, 1)
    scale = 1 + 2.0**-17
    payload = Int8Tensor().encode(np.array([[127, -1.5], [-63.5, 127 * scale]], dtype=np.float32), tensor)
    assert payload[:8].view("<f4").tolist() == [1, scale]
    assert payload[8:].view(np.int8).tolist() == [127, -1, -64, 127]


def test_int8_carries_the_largest_numbers_and_drops_the_smallest() -> None:
    largest, tiny = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    tensor = TensorType(np.dtype("float32"), (2, 3), 0, 1)
    sent = np.array([[largest, tiny, 0], [-largest, -1e-37, 1]], dtype=np.float32)
    found = Int8Tensor().decode(Int8Tensor().encode(sent, tensor), tensor)
    assert np.isfinite(found).all() and np.abs(found[:, 0]) == pytest.approx([largest] * 2)
    assert found[:, 1].tolist() == [0, 0] and found[:, 2] == pytest.approx([0, 1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_int8_names_the_channel_of_what_it_cannot_express(value: float) -> None:
    sent = np.zeros(FLOATS.shape, dtype=np.float32)
    sent[1, 3, 2, 0] = value
    with pytest.raises(LocalProtocolError, match="int8: expected finite values, got NaN or Inf in channel 3"):
        Int8Tensor().encode(sent, FLOATS)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, 3e36])
def test_int8_refuses_scales_that_make_no_finite_value(scale: float) -> None:
    tensor = TensorType(np.dtype("float32"), (3,))
    head = np.array([scale], dtype="<f4").view(np.uint8)
    with pytest.raises(RemoteProtocolError, match="int8 payload: expected finite scales >= 0"):
        Int8Tensor().decode(np.append(head, np.zeros(3, dtype=np.uint8)), tensor)


def test_int8_refuses_a_step_beyond_its_scale() -> None:
    tensor = TensorType(np.dtype("float32"), (3,))
    payload = Int8Tensor().encode(np.ones(3, dtype=np.float32), tensor)
    payload[-1] = 129
    assert Int8Tensor().decode(payload, tensor)[-1] == pytest.approx(-1)
    payload[-1] = 128
    with pytest.raises(RemoteProtocolError, match=r"int8 payload: expected steps of -127 to 127, got -128"):
        Int8Tensor().decode(payload, tensor)


# -- deflate ---------------------------------------------------------------------------------------------------------


def zlib_payload(content: bytes) -> np.ndarray:
    return np.frombuffer(b"\x01" + zlib.compress(content, 9), dtype=np.uint8)


def test_deflate_writes_the_documented_differences() -> None:
    """Computed anew element by element, from the words of the docstring."""
    tensor = TensorType(np.dtype("uint8"), (2, 5, 9, 3), 1, 3)
    sent = (smooth_image(tensor) // 4 * 4).astype(np.uint8)
    payload = DeflateTensor().encode(sent, tensor)
    assert payload[0] == 1
    wanted = []
    for image in sent.astype(int):
        for y, x in np.ndindex(5, 9):
            pixel = []
            for c in range(3):
                left = image[y, x - 1, c] if x else 0
                above = image[y - 1, x, c] - (image[y - 1, x - 1, c] if x else 0) if y else 0
                pixel.append(image[y, x, c] - left - above)
            wanted += [(pixel[0] - pixel[1]) % 256, pixel[1] % 256, (pixel[2] - pixel[1]) % 256]
    assert zlib.decompress(payload[1:].tobytes()) == bytes(wanted)


def test_deflate_needs_no_rows_of_another_slab_and_makes_an_image_smaller() -> None:
    sent = smooth_image(replace(IMAGE, shape=(120, 160, 3)))
    whole = replace(IMAGE, shape=sent.shape)
    sizes = []
    for a in range(0, 120, 15):
        payload = DeflateTensor().encode(sent[a : a + 15], whole.slab(a, a + 15))
        assert np.array_equal(DeflateTensor().decode(payload, whole.slab(a, a + 15)), sent[a : a + 15])
        sizes.append(len(payload))
    assert sum(sizes) < 0.5 * whole.nbytes
    assert len(DeflateTensor().encode(sent, whole)) < sum(sizes)


def test_deflate_uses_the_channels_wherever_they_are() -> None:
    """Colour before rows, as PyTorch has it, takes as many bytes as behind them."""
    sent = smooth_image()
    first = TensorType(np.dtype("uint8"), (3, 24, 32), 1, 0)
    turned = DeflateTensor().encode(sent.transpose(2, 0, 1), first)
    assert np.array_equal(turned, DeflateTensor().encode(sent, IMAGE))
    assert np.array_equal(DeflateTensor().decode(turned, first), sent.transpose(2, 0, 1))


def test_deflate_takes_green_from_red_and_blue_beside_an_alpha_too() -> None:
    """Three channels that change together cost one; without a channel axis nothing is known of them."""
    grey = np.random.default_rng(0).integers(0, 256, (24, 32, 1)).astype(np.uint8)
    image = np.concatenate([grey, grey, grey, np.full_like(grey, 255)], axis=2)
    tensor = TensorType(np.dtype("uint8"), image.shape, 0, 2)
    assert len(DeflateTensor().encode(image, tensor)) < 0.5 * tensor.nbytes
    assert len(DeflateTensor().encode(image, replace(tensor, channel_axis=None))) > 0.6 * tensor.nbytes


def test_deflate_stores_what_it_cannot_make_smaller() -> None:
    sent = np.random.default_rng(0).integers(0, 256, IMAGE.shape).astype(np.uint8)
    payload = DeflateTensor().encode(sent, IMAGE)
    assert payload[0] == 0 and payload[1:].tobytes() == sent.tobytes()


def test_deflate_makes_zeros_and_depth_smaller() -> None:
    activation = np.maximum(np.random.default_rng(0).standard_normal(FLOATS.shape, dtype=np.float32), 1)
    assert len(DeflateTensor().encode(activation, FLOATS)) < 0.6 * FLOATS.nbytes
    tensor = TensorType(np.dtype("uint16"), (40, 50))
    depth = (1000 + smooth_image(tensor)).astype(np.uint16) // 16 * 16
    assert len(DeflateTensor().encode(depth, tensor)) < 0.5 * tensor.nbytes


@pytest.mark.parametrize("dtype", ["uint8", "bool", "float32"])
def test_a_stream_that_grows_is_refused_and_takes_no_memory(dtype: str) -> None:
    """64 MiB of zeros in 64 kB, where a tensor of 100,000 elements is expected."""
    tensor = TensorType(np.dtype(dtype), (100, 1000))
    bomb = zlib_payload(bytes(1 << 26))
    assert len(bomb) < tensor.nbytes
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match=f"zlib stream of {tensor.nbytes} bytes .* got more"):
            DeflateTensor().decode(bomb, tensor)
        assert tracemalloc.get_traced_memory()[1] < 4 * tensor.nbytes + 500_000
    finally:
        tracemalloc.stop()


def test_streams_that_no_correct_peer_sends_are_refused() -> None:
    good = zlib_payload(bytes(IMAGE.nbytes))
    assert not DeflateTensor().decode(good, IMAGE).any()
    refused = {
        "got less": [zlib_payload(bytes(IMAGE.nbytes - 1)), good[:-1]],
        "got more": [zlib_payload(bytes(IMAGE.nbytes + 1)), np.append(good, np.uint8(7))],
        "expected a zlib stream, got": [
            np.concatenate([good[:-1], good[-1:] ^ np.uint8(1)]),
            np.array([1, 0, 0], dtype=np.uint8),
        ],
        "begin with nothing": [good[:0]],
        "begin with 2": [np.concatenate([np.array([2], dtype=np.uint8), good[1:]])],
        f"at most {IMAGE.nbytes} more": [np.concatenate([good, np.zeros(IMAGE.nbytes, dtype=np.uint8)])],
        "deflate payload: expected": [np.zeros(IMAGE.nbytes, np.uint8), np.zeros(IMAGE.nbytes + 2, np.uint8)],
    }
    for says, payloads in refused.items():
        for payload in payloads:
            with pytest.raises(RemoteProtocolError, match=says):
                DeflateTensor().decode(payload, IMAGE)


# -- the type of a tensor --------------------------------------------------------------------------------------------


def test_a_slab_is_the_type_of_its_rows() -> None:
    tensor = TensorType(np.dtype(">f4"), (2, 5, 6, 7), -2, 1)
    assert tensor == FLOATS and tensor.dtype.isnative
    from_list = TensorType(np.dtype("float32"), [np.int64(2), 5, 6, 7], np.int64(2), 1)  # type: ignore[arg-type]
    assert from_list == FLOATS and hash(from_list) == hash(FLOATS)
    assert (tensor.rows, tensor.elements, tensor.nbytes) == (6, 420, 1680)
    slab = tensor.slab(1, 4)
    assert slab.shape == (2, 5, 3, 7) and (slab.row_axis, slab.channel_axis) == (2, 1)
    array = np.arange(420, dtype=np.float32).reshape(tensor.shape)
    assert np.array_equal(array[tensor.index(1, 4)], array[:, :, 1:4])


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (-1, 2), (3, 2), (0, 7), (6, 7)])
def test_rows_that_a_tensor_does_not_have_are_refused(start: int, stop: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"expected rows within 0 .. 6, got {start} .. {stop}"):
        FLOATS.slab(start, stop)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("complex64", (2,)), "expected elements of bool, uint8"),
        (("O", (2,)), "expected elements of bool, uint8"),
        (("nothing", (2,)), "expected an element type and whole sizes"),
        (("uint8", ()), "expected sizes of 1 or more, at least one, got []"),
        (("uint8", (2, 0)), "expected sizes of 1 or more, at least one, got [2, 0]"),
        (("uint8", (2.5,)), "expected an element type and whole sizes"),
        (("uint8", 7), "expected an element type and whole sizes"),
        (("uint8", (2, 3), 2), "row_axis: expected an axis of [2, 3], got 2"),
        (("uint8", (2, 3), 0, -3), "channel_axis: expected an axis of [2, 3], got -3"),
        (("uint8", (2, 3), "rows"), "row_axis: expected an axis of [2, 3], got 'rows'"),
        (("uint8", (2, 3), 1, -1), "row_axis and channel_axis are both 1"),
    ],
)
def test_a_type_that_cannot_be_is_refused(arguments: tuple, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        TensorType(*arguments)


# -- registration and the suite --------------------------------------------------------------------------------------


class Twin(RawTensor):
    """A codec of a third party."""

    name = "twin"
    wire_id = 41


@pytest.fixture
def undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    forget_afterwards(monkeypatch)


@pytest.mark.usefixtures("undone")
def test_a_registered_codec_is_found_by_name_and_number() -> None:
    with pytest.raises(RemoteProtocolError, match=r"expected the number of a tensor codec in \[1, 2, 3, 4\], got 41"):
        tensor_codec_by_id(41)
    twin = tensors.register(Twin())
    assert tensor_codec_by_id(41) is twin is tensor_codec_by_name("twin")
    with pytest.raises(ConfigError, match="unknown tensor codec 'defalte'; did you mean 'deflate'"):
        tensor_codec_by_name("defalte")


@pytest.mark.usefixtures("undone")
@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"name": "raw"}, "this name is taken"),
        ({"wire_id": 1}, "wire_id 1 is that of 'raw'; choose another"),
        ({"wire_id": 64}, "wire_id: expected a whole number in 0 .. 63, got 64"),
        ({"wire_id": True}, "wire_id: expected a whole number in 0 .. 63, got True"),
        ({"exact": 1}, "exact: expected True or False, got 1"),
        ({"dtypes": ()}, "dtypes: expected a tuple of some of bool"),
        ({"dtypes": ("complex64",)}, "dtypes: expected a tuple of some of bool"),
        ({"dtypes": "uint8"}, "dtypes: expected a tuple of some of bool"),
    ],
)
def test_a_codec_that_cannot_be_registered_changes_nothing(attributes: dict[str, object], says: str) -> None:
    before = dict(tensors._BY_ID)
    with pytest.raises(ConfigError, match=re.escape(says)):
        tensors.register(type("Other", (Twin,), attributes)())
    with pytest.raises(ConfigError, match="expected an object with the attributes of"):
        tensors.REGISTRY.register("nothing", object())
    with pytest.raises(ConfigError, match="its attribute 'name' is 'twin'"):
        tensors.REGISTRY.register("other", Twin)
    assert before == tensors._BY_ID


class Aliasing(Twin):
    def encode(self, slab, tensor):
        super().encode(slab, tensor)
        return np.ascontiguousarray(slab).reshape(-1).view(np.uint8)


class Lossy(Twin):
    def decode(self, payload, tensor):
        found = super().decode(payload, tensor)
        return np.nan_to_num(found) if tensor.dtype.kind == "f" else found


class Coarse(Int8Tensor):
    """Half of the steps, a scale twice as large."""

    def decode(self, payload, tensor):
        return np.rint(super().decode(payload, tensor) * 8) / 8


class Long(Twin):
    def most_bytes(self, tensor):
        return tensor.nbytes - 1


class Silent(Twin):
    def decode(self, payload, tensor):
        return super().decode(np.resize(payload, tensor.nbytes), tensor)


class Greedy(Twin):
    def decode(self, payload, tensor):
        np.ones(1 << 24)
        return super().decode(payload, tensor)


class ReadOnly(Twin):
    def decode(self, payload, tensor):
        found = super().decode(payload, tensor)
        found.flags.writeable = False
        return found


class Permissive(HalfTensor):
    """Takes what it says that it does not carry."""

    def encode(self, slab, tensor):
        return HalfTensor().encode(slab.astype(np.float32), replace(tensor, dtype=np.dtype("float32")))


class InMemoryOrder(Twin):
    def encode(self, slab, tensor):
        super().encode(slab, tensor)
        return np.frombuffer(slab.tobytes(order="A"), dtype=np.uint8)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (Aliasing, "lies in the memory of the slab"),
        (Lossy, "an exact codec changed a bit"),
        (Coarse, "a value is off by"),
        (Long, "longer than most_bytes says"),
        (Silent, "bytes was taken; most_bytes says"),
        (Greedy, "bytes allocated"),
        (ReadOnly, "not contiguous and writable"),
        (Permissive, "a slab of another type was encoded"),
        (InMemoryOrder, "the order in memory changes the payload"),
    ],
)
def test_the_suite_finds_a_broken_promise(broken: type, says: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(AssertionError, match=says):
        check_tensor_codec(broken())
