"""Rows: how tensors become rows, the loops over them, and the order in which they travel."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.errors import ConfigError, LayoutMismatch, LocalProtocolError, RemoteProtocolError
from rowcast.rows import Layout, Selection, select
from rowcast.rows.kernels import PARALLEL_ELEMENTS, accumulate, nonfinite, row_abs_sums, row_sums
from rowcast.rows.outline import Outline
from rowcast.rows.select import descending, value_per_byte

quick = settings(deadline=None, derandomize=True, max_examples=150)

REFERENCE = Path(__file__).parents[2] / "shared" / "data" / "rog-artifact" / "model_tensors.csv"

SHAPES = [
    ("wide", (7, 300)),
    ("bias", (9,)),
    ("one", ()),
    ("small", (9, 111)),
    ("conv", (20, 3, 3, 7)),
    ("long", (5000,)),
]
LAYOUT = Layout.from_shapes(SHAPES)


def row_counts(layout: Layout) -> list[int]:
    return [spec.end_row - spec.first_row for spec in layout.tensors]


# -- layout --------------------------------------------------------------------------------------------------


def test_a_row_is_a_slice_and_small_or_flat_tensors_are_one_row() -> None:
    assert row_counts(LAYOUT) == [7, 1, 1, 1, 20, 1]
    assert LAYOUT.lengths.tolist() == [300] * 7 + [9, 1, 999] + [63] * 20 + [5000]
    assert (LAYOUT.rows, LAYOUT.elements) == (31, 2100 + 9 + 1 + 999 + 1260 + 5000)
    assert LAYOUT.offsets[0] == 0 and LAYOUT.offsets[-1] == LAYOUT.elements
    assert LAYOUT.tensor_rows.tolist() == [0, 7, 8, 9, 10, 30, 31]
    for spec in LAYOUT.tensors:
        assert LAYOUT.offsets[spec.first_row] == spec.start
        assert LAYOUT.offsets[spec.end_row] == spec.stop
        assert spec.stop - spec.start == math.prod(spec.shape)
    assert LAYOUT.zeros().shape == (LAYOUT.elements,) and LAYOUT.zeros().dtype == np.float32


def test_rows_alone_lie_one_behind_the_other_and_are_asked_for_in_order() -> None:
    layout = Layout.from_shapes([("weight", (4, 500)), ("mean", (3, 500))], buffers=1, buffer_rule="average")
    alone = layout.only(np.array([1, 3, 5]))
    assert alone.offsets.tolist() == [0, 500, 1000, 1500]
    assert (alone.rows, alone.parameter_rows) == (3, 2)
    for rows in ([5, 1], [1, 1]):
        with pytest.raises(LocalProtocolError, match="ascending"):
            layout.only(np.array(rows))


def test_the_small_tensor_rule_counts_elements_below_the_limit() -> None:
    shapes = [("under", (9, 111)), ("at", (10, 100)), ("over", (7, 143))]
    assert row_counts(Layout.from_shapes(shapes)) == [1, 10, 7]
    assert row_counts(Layout.from_shapes(shapes, small_tensor=1001)) == [1, 1, 7]
    assert row_counts(Layout.from_shapes(shapes, small_tensor=1)) == [9, 10, 7]


def test_a_long_slice_is_split_into_equal_pieces() -> None:
    layout = Layout.from_shapes([("flat", (1001,)), ("two", (2, 700)), ("fits", (3, 400))], max_row=400)
    assert row_counts(layout) == [3, 4, 3]
    assert layout.lengths.tolist() == [333, 334, 334, 350, 350, 350, 350, 400, 400, 400]
    assert Layout.from_shapes([("flat", (65537,))]).lengths.tolist() == [32768, 32769]


@quick
@given(
    st.lists(st.lists(st.integers(1, 12), max_size=3), min_size=1, max_size=6),
    st.integers(1, 300),
    st.integers(1, 50),
)
def test_rows_cover_every_element_once_and_never_cross_a_slice(
    shapes: list[list[int]], small: int, longest: int
) -> None:
    layout = Layout.from_shapes(
        [(str(i), shape) for i, shape in enumerate(shapes)], small_tensor=small, max_row=longest
    )
    assert layout.elements == sum(math.prod(shape) for shape in shapes) == layout.lengths.sum()
    assert layout.lengths.min() >= 1 and layout.lengths.max() <= longest
    for spec in layout.tensors:
        bounds = layout.offsets[spec.first_row : spec.end_row + 1]
        one_row = len(spec.shape) <= 1 or math.prod(spec.shape) < small
        slices = 1 if one_row else spec.shape[0]
        slice_ends = np.linspace(spec.start, spec.stop, slices + 1).round().astype(int)
        assert set(slice_ends) <= set(bounds.tolist())
        assert np.ptp(np.diff(bounds)) <= 1
        assert len(bounds) - 1 == slices * math.ceil(math.prod(spec.shape) / slices / longest)
    assert Layout.from_outline(Outline.read(layout.to_table())).digest == layout.digest


def test_the_reference_layout_of_the_rog_artifact() -> None:
    if not REFERENCE.exists():
        pytest.skip(f"the reference layout is not on this machine: {REFERENCE}")
    with REFERENCE.open(newline="") as file:
        tensors = list(csv.DictReader(file))
    layout = Layout.from_shapes([(t["name"], [int(n) for n in t["shape"].split("x")]) for t in tensors])
    assert (layout.rows, layout.elements) == (33_307, 16_948_804)
    assert row_counts(layout) == [int(t["rows"]) for t in tensors]
    for spec, tensor in zip(layout.tensors, tensors, strict=True):
        assert set(layout.lengths[spec.first_row : spec.end_row]) == {int(tensor["row_length"])}
    assert Layout.from_outline(Outline.read(layout.to_table())).digest == layout.digest


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([], "no trainable tensors"),
        ([("a", (3,)), ("a", (4,))], "'a' stands twice"),
        ([("a", (3, 0))], "no elements"),
        ([("a", (1 << 25, 1))], "more than 16777216 rows"),
    ],
)
def test_a_model_that_cannot_be_laid_out_is_refused(shapes: list[tuple[str, tuple[int, ...]]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Layout.from_shapes(shapes)


def test_the_digest_agrees_exactly_when_the_layouts_do() -> None:
    assert len(LAYOUT.digest) == 16
    assert LAYOUT.digest == Layout.from_shapes(SHAPES).digest
    others = [
        Layout.from_shapes(SHAPES[::-1]),
        Layout.from_shapes(SHAPES[:-1]),
        Layout.from_shapes([("wyde", (7, 300)), *SHAPES[1:]]),
        Layout.from_shapes([("wide", (300, 7)), *SHAPES[1:]]),
        Layout.from_shapes(SHAPES, small_tensor=999),
        Layout.from_shapes(SHAPES, max_row=1 << 15),
    ]
    assert len({LAYOUT.digest, *(other.digest for other in others)}) == 7


def test_a_table_comes_back_as_the_same_layout() -> None:
    back = Layout.from_outline(Outline.read(LAYOUT.to_table()))
    assert back.tensors == LAYOUT.tensors
    assert np.array_equal(back.offsets, LAYOUT.offsets)
    back.check_equal(LAYOUT, ours="a", theirs="b")


def table(**changes: object) -> bytes:
    content = {"small_tensor": 1000, "max_row": 65536, "tensors": [["a", [3, 4]]], **changes}
    return json.dumps({key: value for key, value in content.items() if value is not None}).encode()


@pytest.mark.parametrize(
    "garbage",
    [
        *(b"", b"\xff\xfe", b"null", b"[]", b"{", b"[" * 100_000, b"9" * 5000),
        *(table(tensors=value) for value in (None, 5, [], "ab", [["a"]], [["a", 3]], [["a", "34"]], [[1, [3]]])),
        *(table(tensors=[["a", [size]]]) for size in (0, -1, True, 1.0, "3", 1 << 40, [3])),
        *(table(small_tensor=value) for value in (None, 0, -1, "x", 1.5, True)),
        *(table(max_row=value) for value in (None, 0, -1, "x", 1.5, True)),
        table(tensors=[["a", [3]], ["a", [3]]]),
        table(tensors=[["a", [1 << 30, 1 << 30]]]),
        table(tensors=[["a", [1 << 36]]], max_row=1),
        table(tensors=[["a", [1 << 35, 2]]]),
        table(tensors=[["a", [1 << 39] * 50_000]]),
    ],
)
def test_a_table_that_is_garbage_is_the_fault_of_the_peer(garbage: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="layout table"):
        Layout.from_outline(Outline.read(garbage))


def test_a_mismatch_names_the_first_tensor_that_differs() -> None:
    def complaint(*shapes: tuple[str, tuple[int, ...]], **rules: int) -> str:
        with pytest.raises(LayoutMismatch) as caught:
            ours.check_equal(Layout.from_shapes(shapes, **rules), ours="robot1", theirs="the server")
        return str(caught.value)

    ours = Layout.from_shapes([("a", (3,)), ("b", (4, 5))])
    said = complaint(("a", (3,)), ("b", (4, 6)))
    assert "robot1 has 'b' (4, 5) where the server has 'b' (4, 6)" in said
    assert "robot1 has 'a' (3,) where the server has 'z' (3,)" in complaint(("z", (3,)), ("b", (9,)))
    assert "only robot1 has 'b' (4, 5)" in complaint(("a", (3,)))
    assert "only the server has 'c' (1,)" in complaint(("a", (3,)), ("b", (4, 5)), ("c", (1,)))
    said = complaint(("a", (3,)), ("b", (4, 5)), small_tensor=7)
    assert "robot1: small_tensor 1000, max_row 65536; the server: 7, 65536" in said
    assert "run the same model code" in said


# -- kernels -------------------------------------------------------------------------------------------------


def draw_vector(elements: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(elements).astype(np.float32)


@pytest.mark.parametrize("shape", [(7, 300), (1001,), (), (40, PARALLEL_ELEMENTS // 32)])
def test_accumulate_is_what_numpy_says(shape: tuple[int, ...]) -> None:
    layout = Layout.from_shapes([("before", (13,)), ("it", shape), ("after", (3, 400))])
    spec = layout.tensors[1]
    rows = slice(spec.first_row, spec.end_row)
    pending, replica = draw_vector(layout.elements, 1), draw_vector(layout.elements, 2)
    source = draw_vector(spec.stop - spec.start, 3)
    sums, computed = np.full(layout.rows, -1, dtype=np.float32), np.full(layout.rows, 2.0)
    weights = draw_vector(layout.rows, 4) ** 2
    spread = np.repeat(weights[rows], layout.lengths[rows])
    step = spread * (replica[spec.start : spec.stop] - source)
    wanted = pending.copy()
    wanted[spec.start : spec.stop] += step
    before = replica.copy()
    offsets = layout.offsets[spec.first_row : spec.end_row + 1]
    moved = accumulate(pending, replica, source, weights[rows], spec.start, offsets, sums[rows], computed[rows])
    assert moved == pytest.approx(np.abs(step, dtype=np.float64).sum(), rel=1e-4)
    assert np.allclose(pending, wanted, rtol=1e-6, atol=1e-7)
    assert np.array_equal(replica, before)
    outside = np.r_[0 : spec.start, spec.stop : layout.elements]
    assert np.array_equal(pending[outside], wanted[outside])
    sizes = np.add.reduceat(np.abs(wanted, dtype=np.float64), layout.offsets[:-1])
    assert np.allclose(sums[rows], sizes[rows], rtol=1e-4)
    added = np.add.reduceat(step.astype(np.float64), offsets[:-1] - spec.start)
    assert np.allclose(computed[rows] - 2.0, added, rtol=1e-3, atol=1e-2)
    assert (np.delete(sums, np.r_[rows]) == -1).all() and (np.delete(computed, np.r_[rows]) == 2.0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("length", [1, 7, 8, 33, 4095, 4096, 4097, 3 * 4096 + 17, PARALLEL_ELEMENTS + 5])
def test_one_bad_element_is_seen_wherever_it_stands(bad: float, length: int) -> None:
    vector = np.full(length, np.finfo(np.float32).max, dtype=np.float32)
    vector[::3] *= -1
    assert not nonfinite(vector)
    places = {0, 1, 3, 4, 7, 8, 15, 31, 32, 4095, 4096, 4097, length // 2, length - 9, length - 2, length - 1}
    for place in (place for place in places if 0 <= place < length):
        kept, vector[place] = vector[place], bad
        assert nonfinite(vector), place
        vector[place] = kept


def test_nothing_is_finite_and_opposite_infinities_do_not_cancel() -> None:
    assert not nonfinite(np.zeros(0, dtype=np.float32))
    assert not nonfinite(np.full(100, 1e-45, dtype=np.float32))
    assert nonfinite(np.array([math.inf, -math.inf] * 50, dtype=np.float32))


def test_sums_over_rows_are_what_numpy_says() -> None:
    vector = draw_vector(LAYOUT.elements)
    sums = np.empty(LAYOUT.rows, dtype=np.float32)
    row_abs_sums(vector, LAYOUT.offsets, sums)
    assert np.allclose(sums, np.add.reduceat(np.abs(vector), LAYOUT.offsets[:-1], dtype=np.float64), rtol=1e-5)
    signed = row_sums(vector, LAYOUT.offsets)
    assert signed.dtype == np.float64
    assert np.allclose(signed, [vector[a:b].sum(dtype=np.float64) for a, b in itertools.pairwise(LAYOUT.offsets)])
    vector[LAYOUT.offsets[3]], vector[LAYOUT.offsets[8]] = math.nan, math.inf
    row_abs_sums(vector, LAYOUT.offsets, sums)
    assert np.flatnonzero(~np.isfinite(sums)).tolist() == [3, 8]


# -- selection -----------------------------------------------------------------------------------------------


def slow_select(
    eligible: list[int],
    stamps: list[int],
    values: list[float] | None,
    row_bytes: list[int],
    quota_bytes: float,
    overdue_before: int,
    units: list[int] | None,
) -> tuple[list[int], int]:
    """The rule of algorithms.md 2.1 in plain Python, unit by unit."""
    bounds = units if units is not None else list(range(len(stamps) + 1))
    groups = [[row for row in eligible if a <= row < b] for a, b in itertools.pairwise(bounds)]
    groups = [group for group in groups if group]
    size = [sum(row_bytes[row] for row in group) for group in groups]
    age = [min(stamps[row] for row in group) for group in groups]
    oldest = sorted(range(len(groups)), key=lambda g: (age[g], g))
    quota, carried = 0, 0.0
    while quota < len(oldest) and (carried < quota_bytes or age[oldest[quota]] < overdue_before):
        carried += size[oldest[quota]]
        quota += 1
    rest = oldest[quota:]
    if values is not None:

        def worth(g: int) -> float:
            exact = sum(values[row] * row_bytes[row] for row in groups[g]) / size[g]
            value = values[groups[g][0]] if units is None else float(np.float32(exact))
            return value if math.isfinite(value) else math.inf

        rest.sort(key=lambda g: (-worth(g), g))
    order = [row for g in oldest[:quota] + rest for row in groups[g]]
    return order, sum(len(groups[g]) for g in oldest[:quota])


@st.composite
def choices(draw: st.DrawFn) -> dict[str, object]:
    rows = draw(st.integers(1, 24))
    # Small whole numbers: ties are common, and sums are exact in any order.
    value = st.one_of(st.integers(0, 5).map(float), st.sampled_from([math.nan, math.inf, -0.0, 1e-30, 0.5]))
    cuts = draw(st.one_of(st.none(), st.sets(st.integers(1, max(rows - 1, 1)))))
    return {
        "eligible": sorted(draw(st.sets(st.integers(0, rows - 1)))),
        "stamps": draw(st.lists(st.integers(0, 6), min_size=rows, max_size=rows)),
        "values": draw(st.one_of(st.none(), st.lists(value, min_size=rows, max_size=rows))),
        "row_bytes": draw(st.lists(st.integers(1, 9), min_size=rows, max_size=rows)),
        "quota_bytes": draw(st.one_of(st.integers(-3, 150), st.floats(0, 100))),
        "overdue_before": draw(st.integers(-1, 7)),
        "units": None if cuts is None else sorted({0, rows, *(cut for cut in cuts if cut < rows)}),
    }


def fast_select(choice: dict[str, object]) -> Selection:
    kinds = {"eligible": np.int64, "stamps": np.int32, "values": np.float32, "row_bytes": np.int64, "units": np.int64}
    given = {
        key: value if key not in kinds or value is None else np.array(value, dtype=kinds[key])
        for key, value in choice.items()
    }
    return select(given.pop("eligible"), given.pop("stamps"), given.pop("values"), given.pop("row_bytes"), **given)


@settings(quick, max_examples=600)
@given(choices())
def test_selection_is_what_the_slow_rule_says(choice: dict[str, object]) -> None:
    got = fast_select(choice)
    order, quota = slow_select(**choice)  # type: ignore[arg-type]
    assert (got.order.tolist(), got.quota) == (order, quota)
    assert got.order.dtype == np.int64


BASE = {
    "eligible": [0, 1, 2, 3, 4, 5],
    "stamps": [3, 1, 2, 1, 5, 4],
    "values": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    "row_bytes": [10] * 6,
    "quota_bytes": 0,
    "overdue_before": -1,
    "units": None,
}


@pytest.mark.parametrize(
    ("changes", "order", "quota"),
    [
        ({}, [5, 4, 3, 2, 1, 0], 0),
        ({"quota_bytes": -5}, [5, 4, 3, 2, 1, 0], 0),
        ({"quota_bytes": 20}, [1, 3, 5, 4, 2, 0], 2),
        ({"quota_bytes": 20.5}, [1, 3, 2, 5, 4, 0], 3),
        ({"quota_bytes": 1000}, [1, 3, 2, 0, 5, 4], 6),
        ({"overdue_before": 2}, [1, 3, 5, 4, 2, 0], 2),
        ({"overdue_before": 4, "quota_bytes": 10}, [1, 3, 2, 0, 5, 4], 4),
        ({"values": None, "quota_bytes": 10}, [1, 3, 2, 0, 5, 4], 1),
        ({"values": [1, 1, math.nan, 9, math.inf, 1]}, [2, 4, 3, 0, 1, 5], 0),
        ({"eligible": []}, [], 0),
        ({"eligible": [2]}, [2], 0),
        ({"units": [0, 6], "quota_bytes": 1}, [0, 1, 2, 3, 4, 5], 6),
        ({"units": [0, 2, 4, 6]}, [4, 5, 2, 3, 0, 1], 0),
        ({"units": [0, 2, 4, 6], "quota_bytes": 1}, [0, 1, 4, 5, 2, 3], 2),
        ({"units": [0, 2, 4, 6], "overdue_before": 2}, [0, 1, 2, 3, 4, 5], 4),
        ({"units": [0, 2, 4, 6], "eligible": [0, 3, 5], "quota_bytes": 11}, [3, 0, 5], 2),
    ],
)
def test_selection_by_hand(changes: dict[str, object], order: list[int], quota: int) -> None:
    got = fast_select({**BASE, **changes})
    assert (got.order.tolist(), got.quota) == (order, quota)


@quick
@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_no_row_ever_waits_longer_than_the_quota_allows(rows: int, threshold: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    row_bytes = random.integers(1, 50, rows)
    stamps = np.zeros(rows, dtype=np.int32)
    # algorithms.md 1.8: a share of 1/S of the bytes, and the largest row on top.
    quota = row_bytes.sum() / threshold + row_bytes.max()
    for iteration in range(1, 5 * threshold + 3):
        values = random.random(rows).astype(np.float32)
        chosen = select(np.arange(rows), stamps, values, row_bytes, quota_bytes=quota, overdue_before=-1)
        extra = int(random.integers(0, rows - chosen.quota + 1)) if random.random() < 0.5 else 0
        stamps[chosen.order[: chosen.quota + extra]] = iteration
        assert iteration - stamps.min() < threshold


def test_minus_zero_is_the_least_value_like_zero() -> None:
    values = np.array([-0.0, 1.0, 0.0, 2.0], dtype=np.float32)
    assert descending(np.arange(4), values).tolist() == [3, 1, 0, 2]


def test_value_per_byte_is_the_formula() -> None:
    lengths = np.array([10, 100, 4])
    sums = np.array([5.0, 5.0, 8.0], dtype=np.float32)
    row_bytes, ages = np.array([4, 15, 3]), np.array([0, 2, 8], dtype=np.int32)
    wanted = [10 * 0.5**2 / 4, 100 * 0.05**2 / 15 * (1 + 2 / 4), 4 * 2.0**2 / 3 * (1 + 8 / 4)]
    assert np.allclose(value_per_byte(lengths, sums, row_bytes, ages, 4), wanted, rtol=1e-6)
    plain = value_per_byte(lengths, sums, row_bytes, ages, 4, beta=0.0)
    assert np.allclose(
        plain * [1, 1 + 0.5 * 2 / 4, 1 + 0.5 * 8 / 4], value_per_byte(lengths, sums, row_bytes, ages, 4, 0.5)
    )
    assert np.isfinite(value_per_byte(lengths, sums, row_bytes, ages, 0)).all()
    assert plain.dtype == np.float32


def test_the_value_of_a_row_stamped_ahead_of_time_is_nothing_and_never_overflows():
    """A peer may say that it is far ahead, of rows that have diverged."""
    lengths, row_bytes = np.array([10, 10]), np.array([4, 4])
    sums, ages = np.full(2, 1e38, dtype=np.float32), np.array([-(2**30), 3], dtype=np.int32)
    assert value_per_byte(lengths, sums, row_bytes, ages, 4).tolist() == [0.0, float(np.finfo(np.float32).max)]
