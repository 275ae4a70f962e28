"""Codecs: the values that arrive, the bytes that they take, and the suite that third parties rely on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.codecs import REGISTRY, Codec, Fitting, Half, OneBit, Raw, Zero, codec_by_id, codec_by_name
from rowcast.errors import ConfigError, RemoteProtocolError
from rowcast.rows import Layout
from rowcast.testing import check_codec

quick = settings(deadline=None, derandomize=True, max_examples=100)

LAYOUT = Layout.from_shapes([("wide", (7, 300)), ("bias", (9,)), ("one", ()), ("conv", (20, 3, 3, 7)), ("eight", (8,))])
ROWS = np.array([4, 28, 8, 0, 7, 29, 15], dtype=np.int64)
SENDING = [Raw(), Half(), OneBit()]


def row(index: int) -> slice:
    return slice(int(LAYOUT.offsets[index]), int(LAYOUT.offsets[index + 1]))


def draw_vector(scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(LAYOUT.elements) * scale).astype(np.float32)


def decode(codec: Codec, payload: np.ndarray, rows: np.ndarray = ROWS) -> np.ndarray:
    target = LAYOUT.zeros()
    codec.check(LAYOUT, payload, rows)
    codec.add(LAYOUT, payload, rows, target, 1.0)
    return target


def through(codec: Codec, values: list[float]) -> np.ndarray:
    """Values of one row, encoded and decoded."""
    layout = Layout.from_shapes([("row", (len(values),))])
    rows = np.array([0])
    target = layout.zeros()
    codec.add(layout, codec.encode(layout, np.array(values, dtype=np.float32), rows), rows, target, 1.0)
    return target


def bfloat16(value: np.ndarray) -> np.ndarray:
    """Rounded to 8 bits of mantissa, ties to even, by arithmetic rather than by bit patterns."""
    fraction, exponent = np.frexp(np.asarray(value, dtype=np.float64))
    return np.ldexp(np.rint(fraction * 256) / 256, exponent).astype(np.float32)


# -- every codec ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(REGISTRY))
@pytest.mark.parametrize("seed", [0, 1])
def test_every_codec_keeps_its_promises(name: str, seed: int) -> None:
    check_codec(REGISTRY[name], seed=seed)


def test_names_and_numbers_never_change() -> None:
    assert {codec.name: codec.wire_id for codec in REGISTRY.values()} == {
        "zero": 0,
        "raw": 1,
        "half": 2,
        "onebit": 3,
        "sparse": 4,
        "elements": 5,
        "topk64": 8,
        "dct128": 9,
        "topk16": 10,
        "dct32": 11,
    }
    for name, codec in REGISTRY.items():
        assert isinstance(codec, Codec)
        assert codec_by_name(name) is codec
        assert codec_by_id(codec.wire_id) is codec


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown codec 'onebt'; did you mean 'onebit'"):
        codec_by_name("onebt")
    with pytest.raises(
        ConfigError, match="known: dct128, dct32, elements, half, onebit, raw, sparse, topk16, topk64, zero"
    ):
        codec_by_name("qqq")


@pytest.mark.parametrize("number", [6, 255, -1])
def test_an_unknown_number_is_the_fault_of_the_peer(number: int) -> None:
    with pytest.raises(RemoteProtocolError, match=rf"codec number in \[0, 1, 2, 3, 4, 5, 8, 9, 10, 11\], got {number}"):
        codec_by_id(number)


@pytest.mark.parametrize(
    ("codec", "sizes"),
    [
        (Zero(), [0, 0, 0, 0, 0]),
        (Raw(), [1200, 36, 4, 252, 32]),
        (Half(), [601, 19, 3, 127, 17]),
        (OneBit(), [2 + 38, 2 + 2, 2 + 1, 2 + 8, 2 + 1]),
    ],
)
def test_the_size_of_each_row(codec: Codec, sizes: list[int]) -> None:
    row_bytes = codec.row_bytes(LAYOUT)
    assert row_bytes.dtype == np.int64
    assert row_bytes[[0, 7, 8, 9, 29]].tolist() == sizes
    assert len(codec.encode(LAYOUT, draw_vector(), ROWS)) == row_bytes[ROWS].sum()


@pytest.mark.parametrize("codec", SENDING)
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e12])
def test_payload_and_residual_are_what_was_there(codec: Codec, scale: float) -> None:
    vector = draw_vector(scale)
    before = vector.copy()
    decoded = decode(codec, codec.encode(LAYOUT, vector, ROWS))
    assert np.abs(decoded).max() > 0.1 * scale
    assert np.abs(decoded + vector - before).max() <= 1e-6 * np.abs(before).max()


@pytest.mark.parametrize("codec", SENDING)
def test_a_payload_in_foreign_memory_is_read_in_place(codec: Codec) -> None:
    payload = codec.encode(LAYOUT, draw_vector(), ROWS)
    wanted = decode(codec, payload)
    for shift in range(5):
        # As it lies in the buffer of a decoder: read-only, and on any boundary.
        frame = bytes(shift) + payload.tobytes() + b"more"
        foreign = np.frombuffer(memoryview(frame)[shift : shift + len(payload)], dtype=np.uint8)
        assert not foreign.flags.writeable
        assert np.array_equal(decode(codec, foreign), wanted)


@pytest.mark.parametrize("codec", SENDING)
def test_the_sign_scales_what_is_added(codec: Codec) -> None:
    payload = codec.encode(LAYOUT, draw_vector(), ROWS)
    target = np.ones(LAYOUT.elements, dtype=np.float32)
    codec.add(LAYOUT, payload, ROWS, target, -0.5)
    assert np.allclose(target, 1 - 0.5 * decode(codec, payload), atol=1e-6)


@pytest.mark.parametrize("codec", SENDING)
def test_no_rows_are_no_bytes(codec: Codec) -> None:
    none = np.empty(0, dtype=np.int64)
    vector = draw_vector()
    payload = codec.encode(LAYOUT, vector, none)
    assert len(payload) == 0 and np.array_equal(vector, draw_vector())
    assert not decode(codec, payload, none).any()


@pytest.mark.parametrize("codec", SENDING)
def test_rows_of_zeros_stay_zeros(codec: Codec) -> None:
    vector = LAYOUT.zeros()
    assert not decode(codec, codec.encode(LAYOUT, vector, ROWS)).any()
    assert not vector.any()


@pytest.mark.parametrize("codec", [codec for codec in REGISTRY.values() if not isinstance(codec, Fitting)])
@pytest.mark.parametrize("extra", [-1, 1])
def test_a_payload_of_the_wrong_length_is_refused(codec: Codec, extra: int) -> None:
    size = int(codec.row_bytes(LAYOUT)[ROWS].sum())
    with pytest.raises(RemoteProtocolError, match=f"{codec.name} payload: expected {size} bytes"):
        codec.check(LAYOUT, np.zeros(abs(size + extra), dtype=np.uint8), ROWS)


# -- the values of each --------------------------------------------------------------------------------------


def test_zero_changes_nothing() -> None:
    vector = draw_vector()
    assert len(Zero().encode(LAYOUT, vector, ROWS)) == 0
    Zero().add(LAYOUT, np.empty(0, dtype=np.uint8), ROWS, vector, 1.0)
    assert np.array_equal(vector, draw_vector())


def test_raw_is_exact_and_leaves_nothing() -> None:
    vector = draw_vector()
    vector[row(8)] = 1e-45
    payload = Raw().encode(LAYOUT, vector, ROWS)
    assert payload.tobytes() == b"".join(
        (draw_vector()[row(r)] if r != 8 else np.float32([1e-45])).astype("<f4").tobytes() for r in ROWS
    )
    assert all(not vector[row(r)].any() for r in ROWS)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_raw_refuses_what_is_not_finite(bad: float) -> None:
    vector = draw_vector()
    vector[row(15).stop - 1] = bad
    with pytest.raises(RemoteProtocolError, match="finite"):
        Raw().check(LAYOUT, Raw().encode(LAYOUT, vector, ROWS), ROWS)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e20])
def test_one_bit_values_are_those_of_numpy(scale: float) -> None:
    vector = draw_vector(scale)
    vector[row(9)][::5] = 0.0
    before = vector.copy()
    rows = np.append(ROWS, 9)
    decoded = decode(OneBit(), OneBit().encode(LAYOUT, vector, rows), rows)
    for r in rows:
        exact = before[row(r)]
        mean = np.abs(exact).mean(dtype=np.float64)
        got = np.abs(decoded[row(r)])
        # One scale for the row, a bfloat16 near the mean; zero counts as positive.
        assert (got == got[0]).all() and bfloat16(got[0]) == got[0]
        assert abs(got[0] - mean) <= mean * (2**-8 + 1e-5)
        assert np.array_equal(decoded[row(r)], np.where(exact < 0, -got[0], got[0]))
        assert np.array_equal(vector[row(r)], exact - decoded[row(r)])


def test_one_bit_signs_are_packed_as_documented() -> None:
    layout = Layout.from_shapes([("row", (11,))])
    values = np.array([-1, 1, -1, 1, 1, 1, 1, -1, 1, -1, 1], dtype=np.float32)
    payload = OneBit().encode(layout, values, np.array([0]))
    assert payload.tolist() == [0x80, 0x3F, 0b10000101, 0b010]
    assert not values.any()


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1.0, 1.0),
        (1 + 2**-8, 1.0),  # half way between 1 and 1 + 2**-7: to the even one
        (1 + 3 * 2**-8, 1 + 2**-6),
        (1 + 2**-8 + 2**-20, 1 + 2**-7),
        (1 + 2**-8 - 2**-20, 1.0),
        (2 - 2**-10, 2.0),
        (1e-38, float(bfloat16(np.float32(1e-38)))),
    ],
)
def test_the_scale_is_a_bfloat16_rounded_to_nearest_even(value: float, rounded: float) -> None:
    assert through(OneBit(), [value, -value]).tolist() == [rounded, -rounded]


@quick
@given(st.floats(2.0**-120, 2.0**120, width=32))
def test_rounding_of_any_scale(value: float) -> None:
    assert through(OneBit(), [value])[0] == bfloat16(np.float32(value))


@pytest.mark.parametrize("pattern", [0x7F80, 0x7FC0, 0xFF80, 0xBF80])
def test_one_bit_refuses_scales_that_no_peer_sends(pattern: int) -> None:
    payload = OneBit().encode(LAYOUT, draw_vector(), ROWS)
    payload[2:4] = [pattern & 255, pattern >> 8]
    with pytest.raises(RemoteProtocolError, match="finite scales"):
        OneBit().check(LAYOUT, payload, ROWS)


@pytest.mark.parametrize("scale", [1e-12, 1e-30, 1.0, 1e30])
def test_half_values_are_those_of_numpy(scale: float) -> None:
    vector = draw_vector(scale)
    before = vector.copy()
    decoded = decode(Half(), Half().encode(LAYOUT, vector, ROWS))
    for r in ROWS:
        exact = before[row(r)].astype(np.float64)
        # In 0.5 .. 1 the largest element has the full 11 bits of a float16.
        exponent = int(np.frexp(np.abs(exact).max())[1])
        wanted = np.ldexp(np.ldexp(exact, -exponent).astype(np.float16).astype(np.float64), exponent)
        assert np.array_equal(decoded[row(r)].astype(np.float64), wanted)
        assert np.abs(vector[row(r)]).max() <= np.abs(exact).max() * 2**-11


@quick
@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20))
def test_half_rounds_like_numpy(values: list[float]) -> None:
    exact = np.array([*values, 0.75], dtype=np.float32)
    at_most_one = np.abs(exact).max() < 1
    wanted = exact.astype(np.float16) if at_most_one else (exact / 2).astype(np.float16).astype(np.float32) * 2
    assert np.array_equal(through(Half(), exact.tolist()), wanted.astype(np.float32))


def test_half_keeps_numbers_at_the_ends_of_float32() -> None:
    largest = float(np.finfo(np.float32).max)
    assert np.allclose(through(Half(), [largest / 4, -largest / 8]), [largest / 4, -largest / 8], rtol=1e-3)
    assert np.allclose(through(Half(), [1e-37, 3e-38]), [1e-37, 3e-38], rtol=1e-3)
    for value in (largest, 1e-45):
        vector = np.array([value], dtype=np.float32)
        layout = Layout.from_shapes([("row", (1,))])
        payload = Half().encode(layout, vector, np.array([0]))
        Half().check(layout, payload, np.array([0]))
        decoded = layout.zeros()
        Half().add(layout, payload, np.array([0]), decoded, 1.0)
        assert np.isfinite(decoded).all() and np.isfinite(vector).all()
        assert decoded[0] + vector[0] == np.float32(value)


@pytest.mark.parametrize(("place", "value"), [(0, 127), (0, 128), (7, 0x01), (8, 0x7C), (8, 0xFC), (8, 0x7E)])
def test_half_refuses_what_no_peer_sends(place: int, value: int) -> None:
    payload = Half().encode(LAYOUT, draw_vector(), ROWS)
    payload[7:9] = [0x00, 0x3C]  # exactly 1 is the largest that is allowed
    Half().check(LAYOUT, payload, ROWS)
    payload[place] = value
    with pytest.raises(RemoteProtocolError, match="half payload"):
        Half().check(LAYOUT, payload, ROWS)


# -- the suite finds what is broken --------------------------------------------------------------------------


class LosesResidual(OneBit):
    def encode(self, layout, vector, rows, *, consume=True):  # type: ignore[no-untyped-def]
        payload = super().encode(layout, vector, rows, consume=consume)
        if consume:
            for r in rows:
                vector[layout.offsets[r] : layout.offsets[r + 1]] = 0
        return payload


class WrongRowBytes(Raw):
    def row_bytes(self, layout):  # type: ignore[no-untyped-def]
        return super().row_bytes(layout) + 1


class TouchesOthers(Raw):
    def encode(self, layout, vector, rows, *, consume=True):  # type: ignore[no-untyped-def]
        payload = super().encode(layout, vector, rows, consume=consume)
        if consume:
            vector[:] = 0
        return payload


class AlwaysConsumes(Raw):
    def encode(self, layout, vector, rows, *, consume=True):  # type: ignore[no-untyped-def]
        return super().encode(layout, vector, rows)


class AcceptsNaN(Raw):
    def check(self, layout, payload, rows):  # type: ignore[no-untyped-def]
        if len(payload) != self.row_bytes(layout)[rows].sum():
            raise RemoteProtocolError("length")


class RaisesAnything(Raw):
    def check(self, layout, payload, rows):  # type: ignore[no-untyped-def]
        if len(payload) != self.row_bytes(layout)[rows].sum():
            raise ValueError("length")


class Overwrites(Raw):
    def add(self, layout, payload, rows, vector, sign):  # type: ignore[no-untyped-def]
        for r in rows:
            vector[layout.offsets[r] : layout.offsets[r + 1]] = 0
        super().add(layout, payload, rows, vector, sign)


class MixesRows(OneBit):
    """One scale for all rows of a frame."""

    def encode(self, layout, vector, rows, *, consume=True):  # type: ignore[no-untyped-def]
        payload = super().encode(layout, vector.copy(), rows, consume=False)
        payload[: 2 * len(rows)] = np.tile(payload[:2], len(rows))
        if consume:
            super().add(layout, payload, rows, vector, -1.0)
        return payload


class NeverDelivers(OneBit):
    """Says less and less: the scale is a thousandth of what it should be."""

    def encode(self, layout, vector, rows, *, consume=True):  # type: ignore[no-untyped-def]
        payload = super().encode(layout, vector * np.float32(1e-3), rows, consume=False)
        if consume:
            super().add(layout, payload, rows, vector, -1.0)
        return payload


class WrongType(Raw):
    def encode(self, layout, vector, rows, *, consume=True):  # type: ignore[no-untyped-def]
        return super().encode(layout, vector, rows, consume=consume).view(np.int8)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (LosesResidual(), "decoded \\+ residual is not what was there"),
        (WrongRowBytes(), "row_bytes does not tell the length"),
        (TouchesOthers(), "rows that were not asked for were touched"),
        (AlwaysConsumes(), "consume=False changed the vector"),
        (AcceptsNaN(), "check accepted a payload that decodes to NaN or Inf"),
        (Overwrites(), "adding with sign -1 does not take back"),
        (MixesRows(), "otherwise in company than alone"),
        (NeverDelivers(), "still pending"),
        (WrongType(), "a payload is uint8"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Codec) else "",
)
def test_the_suite_finds_a_broken_codec(broken: Codec, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint), np.errstate(invalid="ignore"):
        check_codec(broken)


def test_the_suite_lets_no_other_error_of_check_pass() -> None:
    with pytest.raises(ValueError, match="length"):
        check_codec(RaisesAnything())


def test_sparse_leaves_no_element_larger_than_it_was() -> None:
    """One large element does not make noise of all the others, however often a row of many blocks is sent."""
    layout = Layout.from_shapes([("wide", (2, 2304))])
    vector = (0.001 * np.random.default_rng(0).standard_normal(layout.elements)).astype(np.float32)
    vector[[7, 3000]] = 1.0, -2.0
    rows = np.arange(2, dtype=np.int64)
    codec = REGISTRY["sparse"]
    for _ in range(20):
        before = np.abs(vector)
        codec.encode(layout, vector, rows)
        assert (np.abs(vector) <= before).all()
    assert np.abs(vector).max() < 0.01
