"""Codes that send a few numbers of each chunk of a row, against the same rules written down in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from rowcast.codecs import REGISTRY, Codec
from rowcast.codecs.base import bfloat_scales
from rowcast.codecs.chunks import CHUNK, Packing, largest, misplaced, pack, unpack
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout

NAMES = ["topk64", "topk16", "dct128", "dct32"]
#: Rows of 1, 2, 63, 65, 200 and 5000 elements: the last is a whole chunk and a part of one.
LAYOUT = Layout.from_shapes([(f"t{n}", (n,)) for n in (1, 2, 63, 65, 200, CHUNK + 904)])
ROWS = np.arange(LAYOUT.rows)


def noise(seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(LAYOUT.elements)).astype(np.float32)


def row_of(vector: np.ndarray, row: int) -> np.ndarray:
    return vector[LAYOUT.offsets[row] : LAYOUT.offsets[row + 1]]


def decoded(codec: Codec, payload: np.ndarray) -> np.ndarray:
    target = LAYOUT.zeros()
    codec.check(LAYOUT, payload, ROWS)
    codec.add(LAYOUT, payload, ROWS, target, 1.0)
    return target


def truncated(value: float) -> np.float32:
    """As a bfloat16, towards zero."""
    return (np.array([value], dtype=np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)[0]


def nearest(value: float) -> np.float32:
    """As a bfloat16, to the nearest."""
    fraction, exponent = np.frexp(np.float64(value))
    return np.float32(np.ldexp(np.rint(fraction * 256) / 256, exponent))


def two_levels(chunk: np.ndarray, one_in: int) -> np.ndarray:
    """What the top-k code makes of a chunk without zeros."""
    kept = np.argsort(-np.abs(chunk), kind="stable")[: -(-len(chunk) // one_in)]
    sizes = np.abs(chunk[kept].astype(np.float64))
    border = (sizes.min() + sizes.max()) / 2
    for _ in range(4):
        high = sizes >= border
        upper, lower = sizes[high].mean(), sizes[~high].mean() if not high.all() else 0.0
        border = (upper + lower) / 2
    high = sizes >= border
    upper = truncated(upper)
    lower = upper * np.float32(min(int(256 * (lower / upper)), 255) / 256)
    coded = np.zeros_like(chunk)
    coded[kept] = np.sign(chunk[kept]) * np.where(high, upper, lower)
    return coded


def cosines(length: int) -> np.ndarray:
    """The orthonormal DCT-II, float64 [components, elements]."""
    base = np.cos(np.pi / length * np.outer(np.arange(length), np.arange(length) + 0.5)) * np.sqrt(2 / length)
    base[0] /= np.sqrt(2)
    return base


def components(chunk: np.ndarray, one_in: int) -> np.ndarray:
    """What the cosine code makes of a chunk."""
    bases = [cosines(min(64, len(chunk) - first)) for first in range(0, len(chunk), 64)]
    pieces = [chunk[first : first + 64].astype(np.float64) for first in range(0, len(chunk), 64)]
    found = np.concatenate([base @ piece for base, piece in zip(bases, pieces, strict=True)])
    kept = np.argsort(-np.abs(found), kind="stable")[: -(-len(chunk) // one_in)]
    coded = np.zeros_like(found)
    coded[kept] = [nearest(value) for value in found[kept]]
    return np.concatenate([base.T @ coded[64 * k : 64 * k + 64] for k, base in enumerate(bases)])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_what_arrives_is_what_numpy_says(name: str, scale: float) -> None:
    vector = noise(3, scale)
    before = vector.copy()
    arrived = decoded(REGISTRY[name], REGISTRY[name].encode(LAYOUT, vector, ROWS))
    rule, one_in = (two_levels, int(name[4:])) if name.startswith("topk") else (components, int(name[3:]))
    for row in ROWS:
        chunks = np.split(row_of(before, row), range(CHUNK, LAYOUT.lengths[row], CHUNK))
        wanted = np.concatenate([rule(chunk, one_in) for chunk in chunks])
        np.testing.assert_allclose(row_of(arrived, row), wanted, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(arrived + vector, before, rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        # Head and entries: topk 3 bytes and (place + 2 bits), dct none and (place + 16 bits).
        ("topk64", [4, 4, 4, 3 + 3, 3 + 5, 3 + 112 + 3 + 23]),
        ("topk16", [4, 4, 3 + 4, 3 + 6, 3 + 17, 3 + 448 + 3 + 86]),
        ("dct128", [2, 3, 3, 3, 6, 112 + 26]),
        ("dct32", [2, 3, 6, 9, 21, 448 + 95]),
    ],
)
def test_the_size_of_each_row(name: str, sizes: list[int]) -> None:
    assert REGISTRY[name].row_bytes(LAYOUT).tolist() == sizes
    assert len(REGISTRY[name].encode(LAYOUT, noise(), ROWS)) == sum(sizes)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_a_payload_is_read_where_it_lies_and_wherever_that_is(name: str, shift: int) -> None:
    payload = REGISTRY[name].encode(LAYOUT, noise(), ROWS)
    frame = bytes(shift) + payload.tobytes() + b"more"
    foreign = np.frombuffer(memoryview(frame)[shift : shift + len(payload)], dtype=np.uint8)
    np.testing.assert_array_equal(decoded(REGISTRY[name], foreign), decoded(REGISTRY[name], payload))


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_zeros_and_elements_of_zero_stay_zero(name: str) -> None:
    codec = REGISTRY[name]
    assert not decoded(codec, codec.encode(LAYOUT, LAYOUT.zeros(), ROWS)).any()
    if name.startswith("topk"):
        vector = LAYOUT.zeros()
        alive = [2, 70, 300, 5000]  # fewer than there is room for
        vector[alive] = 1.0, -2.0, 0.5, 3.0
        arrived = decoded(codec, codec.encode(LAYOUT, vector, ROWS))
        assert np.flatnonzero(arrived).tolist() == alive
        assert not np.delete(vector, alive).any()


@pytest.mark.parametrize("name", NAMES)
def test_numbers_at_the_ends_of_float32_leave_nothing_that_is_not_finite(name: str) -> None:
    # A component has part of all elements of its piece: room for it must be left at the upper end.
    largest_value = float(np.finfo(np.float32).max) if name.startswith("topk") else 1e37
    for value in (largest_value, 1e-45, 1e-38):
        vector = np.full(LAYOUT.elements, value, dtype=np.float32)
        vector[::3] *= -1
        for _ in range(3):
            assert np.isfinite(decoded(REGISTRY[name], REGISTRY[name].encode(LAYOUT, vector, ROWS))).all()
            assert np.isfinite(vector).all()


def test_the_two_levels_leave_less_than_was_there_even_if_one_element_is_huge() -> None:
    codec, layout, vector = REGISTRY["topk64"], Layout.from_shapes([("row", (4096,))]), noise(1)[:4096].copy()
    vector[17] = 1e4
    rows = np.array([0])
    for _ in range(70):
        before = float(np.linalg.norm(vector))
        codec.encode(layout, vector, rows)
        assert np.linalg.norm(vector) < before
    assert before < 0.2 * np.linalg.norm(noise(1)[:4096])


# -- payloads that no peer sends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [0x7F80, 0x7FC0, 0xFF80, 0xBF80, 0x8000])
def test_levels_that_no_peer_sends_are_refused(pattern: int) -> None:
    payload = REGISTRY["topk64"].encode(LAYOUT, noise(), ROWS)
    payload[4:6] = pattern & 255, pattern >> 8  # of the second row
    with pytest.raises(RemoteProtocolError, match="topk64 payload: expected finite sizes"):
        REGISTRY["topk64"].check(LAYOUT, payload, ROWS)


@pytest.mark.parametrize("pattern", [0x7B80, 0xFB80, 0x7F80, 0x7FC0, 0xFFFF])
def test_components_that_no_peer_sends_are_refused(pattern: int) -> None:
    payload = REGISTRY["dct128"].encode(LAYOUT, noise(), ROWS)
    payload[0:2] = pattern & 255, pattern >> 8  # of the row of one element, whose place takes no bits
    with pytest.raises(RemoteProtocolError, match=r"dct128 payload: expected components below 2\*\*120"):
        REGISTRY["dct128"].check(LAYOUT, payload, ROWS)


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("topk16", (62, 61, 62, 62)),
        ("topk16", (1, 9, 8, 12)),
        ("topk16", (1, 2, 3, 63)),
        ("dct32", (9, 8)),
        ("dct32", (0, 63)),
    ],
)
def test_places_beyond_a_row_or_out_of_order_are_refused(name: str, places: tuple[int, ...]) -> None:
    layout, rows, codec = Layout.from_shapes([("row", (63,))]), np.array([0]), REGISTRY[name]
    payload = np.zeros(codec.row_bytes(layout)[0], dtype=np.uint8)
    codec.check(layout, payload, rows)
    head, bits = (3, 8) if name == "topk16" else (0, 22)
    pack(np.array(places), len(places), bits, payload[head:])
    with pytest.raises(RemoteProtocolError, match=f"{name} payload: expected ascending places inside"):
        codec.check(layout, payload, rows)


def test_an_entry_with_the_place_of_the_one_before_says_nothing() -> None:
    layout, rows, target = Layout.from_shapes([("row", (63,))]), np.array([0]), np.zeros(63, dtype=np.float32)
    payload = np.zeros(REGISTRY["topk16"].row_bytes(layout)[0], dtype=np.uint8)
    payload[:2] = 0x80, 0x3F  # 1.0
    pack(np.array([5 | 2 << 6, 5 | 3 << 6, 9 | 3 << 6, 9 | 3 << 6]), 4, 8, payload[3:])
    REGISTRY["topk16"].check(layout, payload, rows)
    REGISTRY["topk16"].add(layout, payload, rows, target, 0.5)
    assert target[5] == 0.5 and target[9] == -0.5 and np.count_nonzero(target) == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_payload_is_refused_or_decodes_to_finite_values(name: str) -> None:
    codec, random, refused = REGISTRY[name], np.random.default_rng(5), 0
    for _ in range(300):
        payload = codec.encode(LAYOUT, noise(), ROWS)
        payload[random.integers(len(payload), size=3)] ^= random.integers(1, 256, 3).astype(np.uint8)
        try:
            assert np.isfinite(decoded(codec, payload)).all()
        except RemoteProtocolError:
            refused += 1
    assert refused > 30


# -- the parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 7, 8, 11, 14, 28, 32])
@pytest.mark.parametrize("count", [1, 3, 64])
def test_entries_of_any_width_come_back(bits: int, count: int) -> None:
    entries = np.random.default_rng(bits).integers(0, 1 << bits, count)
    packed = np.full((count * bits + 7) // 8, 255, dtype=np.uint8)
    pack(entries, count, bits, packed)
    whole = int.from_bytes(packed.tobytes(), "little")
    assert whole == sum(int(entry) << (bits * k) for k, entry in enumerate(entries))
    again = np.zeros(count, dtype=np.int64)
    unpack(packed, count, bits, again)
    np.testing.assert_array_equal(again, entries)


@pytest.mark.parametrize("most", [1, 2, 5, 64, 256])
@pytest.mark.parametrize("levels", [3, 1000])
def test_the_largest_are_found_and_of_equal_ones_the_first(most: int, levels: int) -> None:
    for seed in range(20):
        values = (np.random.default_rng(seed).integers(-levels, levels + 1, 300) / 8).astype(np.float32)
        bins, places = np.zeros(256, dtype=np.int64), np.zeros(most + 1, dtype=np.int64)
        found = largest(values.view(np.uint32), most, bins, places)
        order = np.argsort(-np.abs(values), kind="stable")
        wanted = np.sort(order[np.abs(values[order]) > 0][:most])
        np.testing.assert_array_equal(places[:found], wanted)


def test_places_may_repeat_and_not_descend() -> None:
    entries = np.array([3 | 1 << 5, 3, 7 | 1 << 5])
    assert not misplaced(entries, 3, 5, 8)
    assert misplaced(entries, 3, 5, 7) and misplaced(entries[::-1].copy(), 3, 5, 8)


def test_counts_and_widths_of_a_packing() -> None:
    counts, widths, sizes = Packing(64, 3, 2).tables
    assert counts[[1, 64, 65, CHUNK]].tolist() == [1, 1, 2, 64]
    assert widths[[1, 2, 3, 64, 65, CHUNK]].tolist() == [0, 1, 2, 6, 7, 12]
    assert sizes[[0, 1, CHUNK]].tolist() == [0, 4, 115]
    assert bfloat_scales(np.array([0x80, 0x3F], dtype=np.uint8), 1).tolist() == [1.0]
