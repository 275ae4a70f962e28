"""Row rules: they agree with themselves, with an enumeration of windows, and with what PyTorch reads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.errors import ConfigError, LocalProtocolError
from rowcast.graphs import RULES, Barrier, Identity, Resize, RowRule, RunningSum, Transposed, Window

ROWS = st.integers(1, 24)


def made(build: Callable[..., RowRule], *parts: st.SearchStrategy) -> st.SearchStrategy[RowRule]:
    """Rules of random numbers; those whose output would have no rows are refused, and left out."""

    def attempt(numbers: tuple) -> RowRule | None:
        try:
            return build(*numbers)
        except ConfigError:
            return None

    return st.tuples(*parts).map(attempt).filter(lambda rule: rule is not None)


WINDOWS = made(
    Window,
    ROWS,
    st.integers(1, 7),
    st.integers(1, 4),
    st.integers(0, 5),
    st.integers(1, 3),
    st.booleans(),
    st.one_of(st.none(), st.integers(0, 4)),
)
RESIZES = made(
    Resize,
    ROWS,
    st.integers(1, 60),
    st.sampled_from(["nearest", "bilinear"]),
    st.booleans(),
)
TRANSPOSED = made(
    Transposed, ROWS, st.integers(1, 5), st.integers(1, 4), st.integers(0, 2), st.integers(1, 3), st.integers(0, 2)
)
ANY = st.one_of(
    WINDOWS, RESIZES, TRANSPOSED, made(Identity, ROWS), made(RunningSum, ROWS), made(Barrier, ROWS, st.integers(1, 9))
)


@given(ANY)
@settings(max_examples=400, deadline=None)
def test_can_and_need_agree(rule: RowRule) -> None:
    """Rows below ``can(h)`` read rows below ``h``; one more would read further. The last input row completes all."""
    counts = [rule.can(h) for h in range(rule.rows + 1)]
    assert counts == sorted(counts) and counts[-1] == rule.out_rows
    for h, count in enumerate(counts):
        assert rule.need(0, count)[1] <= h
        if count < rule.out_rows:
            assert rule.need(0, count + 1)[1] > h


@given(ANY, st.data())
@settings(max_examples=300, deadline=None)
def test_more_rows_need_no_less(rule: RowRule, data: st.DataObject) -> None:
    """The need of a range covers that of each row in it, and is the hull of them."""
    a = data.draw(st.integers(0, rule.out_rows))
    b = data.draw(st.integers(a, rule.out_rows))
    parts = [rule.need(row, row + 1) for row in range(a, b)]
    spans = [part for part in parts if part != (0, 0)]
    hull = (min(first for first, _ in spans), max(last for _, last in spans)) if spans else (0, 0)
    assert rule.need(a, b) == hull
    assert all(0 <= first < last <= rule.rows for first, last in spans)


@given(WINDOWS)
@settings(max_examples=400, deadline=None)
def test_a_window_reads_what_an_enumeration_of_its_taps_reads(rule: Window) -> None:
    for row in range(rule.out_rows):
        taps = [row * rule.stride - rule.padding + tap * rule.dilation for tap in range(rule.kernel)]
        inside = [tap for tap in taps if 0 <= tap < rule.rows]
        assert rule.need(row, row + 1) == ((inside[0], inside[-1] + 1) if inside else (0, 0))


def traced(rule: RowRule, run: Callable[[torch.Tensor], torch.Tensor], spare: int = 0) -> None:
    """Each input row in turn is NaN: the output rows that become NaN are exactly those that the rule names.

    ``spare``: so many rows more may be named on each side, where PyTorch's rounding is not ours to know.
    """
    image = torch.ones(1, 1, rule.rows, 3)
    assert run(image).shape[2] == rule.out_rows
    reached: list[list[int]] = [[] for _ in range(rule.out_rows)]
    for row in range(rule.rows):
        broken = image.clone()
        broken[:, :, row] = float("nan")
        for index in run(broken).isnan().any(dim=3).flatten().nonzero().flatten().tolist():
            reached[index].append(row)
    for index, rows in enumerate(reached):
        expected = (rows[0], rows[-1] + 1) if rows else (0, 0)
        first, last = rule.need(index, index + 1)
        if spare and near_a_row(rule, index):
            assert expected[0] - spare <= first <= expected[0] < expected[1] <= last <= expected[1] + spare
        else:
            assert (first, last) == expected, (rule, index)


def near_a_row(rule: RowRule, index: int) -> bool:
    """Whether output row ``index`` of a bilinear resize lies on an input row, but for rounding."""
    assert isinstance(rule, Resize)
    if rule.align_corners:
        at = index * (rule.rows - 1) / max(rule.to_rows - 1, 1)
    else:
        at = (index + 0.5) * (rule.rows / rule.to_rows if rule.scale is None else 1 / rule.scale) - 0.5
    return abs(at - round(at)) < 1e-4


@given(WINDOWS)
@settings(max_examples=80, deadline=None)
def test_a_window_reads_what_pytorch_reads_in_a_convolution(rule: Window) -> None:
    if rule.ceil_mode:
        return
    after = rule.padding if rule.padding_after is None else rule.padding_after
    weight = torch.ones(1, 1, rule.kernel, 1, dtype=torch.float64)

    def run(image: torch.Tensor) -> torch.Tensor:
        padded = F.pad(image.double(), (0, 0, rule.padding, after))
        return F.conv2d(padded, weight, stride=(rule.stride, 1), dilation=(rule.dilation, 1))

    traced(rule, run)


@given(ROWS, st.integers(1, 6), st.integers(1, 4), st.integers(0, 3), st.booleans())
@settings(max_examples=80, deadline=None)
def test_a_window_reads_what_pytorch_reads_in_pooling(
    rows: int, kernel: int, stride: int, padding: int, ceil_mode: bool
) -> None:
    padding = min(padding, kernel // 2)
    if rows + 2 * padding < kernel:
        return
    rule = Window(rows, kernel, stride, padding, ceil_mode=ceil_mode)
    traced(rule, lambda image: F.max_pool2d(image, (kernel, 1), (stride, 1), (padding, 0), ceil_mode=ceil_mode))
    traced(rule, lambda image: F.avg_pool2d(image, (kernel, 1), (stride, 1), (padding, 0), ceil_mode=ceil_mode))


@given(RESIZES)
@settings(max_examples=80, deadline=None)
def test_a_resize_reads_what_pytorch_reads(rule: Resize) -> None:
    spare = int(rule.mode == "bilinear")
    corners = rule.align_corners if rule.mode == "bilinear" else None
    traced(rule, lambda image: F.interpolate(image, (rule.to_rows, 3), mode=rule.mode, align_corners=corners), spare)


@given(ROWS, st.sampled_from([0.5, 0.7, 1.5, 2.0, 2.3, 3.0]), st.sampled_from(["nearest", "bilinear"]))
@settings(max_examples=60, deadline=None)
def test_a_resize_by_a_factor_reads_what_pytorch_reads(rows: int, scale: float, mode: str) -> None:
    if int(rows * scale) < 1:
        return
    rule = Resize(rows, int(rows * scale), mode, scale=scale)
    traced(rule, lambda image: F.interpolate(image, scale_factor=(scale, 1.0), mode=mode), int(mode == "bilinear"))


@given(TRANSPOSED)
@settings(max_examples=80, deadline=None)
def test_a_transposed_convolution_reads_what_pytorch_reads(rule: Transposed) -> None:
    if rule.output_padding >= max(rule.stride, rule.dilation):
        return
    weight = torch.ones(1, 1, rule.kernel, 1, dtype=torch.float64)
    traced(
        rule,
        lambda image: F.conv_transpose2d(
            image.double(),
            weight,
            stride=(rule.stride, 1),
            padding=(rule.padding, 0),
            output_padding=(rule.output_padding, 0),
            dilation=(rule.dilation, 1),
        ),
    )


def test_a_running_sum_and_a_barrier_wait_for_the_last_row() -> None:
    for rule in (RunningSum(7), Barrier(7, 3)):
        assert [rule.can(h) for h in (0, 6, 7)] == [0, 0, rule.out_rows]
        assert rule.need(0, 1) == (0, 7)
    assert RunningSum.incremental and not Barrier.incremental


def test_every_rule_has_a_name_of_its_own() -> None:
    assert sorted(rule.__name__ for rule in RULES.values()) == [
        "Barrier",
        "Identity",
        "Resize",
        "RunningSum",
        "Transposed",
        "Window",
    ]


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda: Identity(0), "expected rows >= 1, got 0"),
        (lambda: Window(4, 0), "expected kernel >= 1, got 0"),
        (lambda: Window(4, 3, stride=0), "expected stride >= 1, got 0"),
        (lambda: Window(4, 3, padding=-1), "expected padding >= 0, got -1"),
        (lambda: Window(4, 9), "is the input too low"),
        (lambda: Resize(4, 8, "cubic"), "use Barrier for another"),
        (lambda: Resize(4, 8, scale=0.0), "expected scale above 0"),
        (lambda: Resize(4, 0), "expected at least one output row"),
        (lambda: Transposed(4, 3, output_padding=-1), "expected output_padding >= 0"),
        (lambda: Barrier(4, 0), "expected at least one output row"),
    ],
)
def test_a_rule_that_cannot_be_says_why(build: Callable[[], RowRule], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        build()


def test_rows_that_are_not_there_cannot_be_asked_for() -> None:
    rule = Window(8, 3)
    with pytest.raises(LocalProtocolError, match=r"expected rows within 0 \.\. 8, got 9 rows"):
        rule.can(9)
    with pytest.raises(LocalProtocolError, match=r"expected rows within 0 \.\. 6, got rows \[4, 7\)"):
        rule.need(4, 7)
    with pytest.raises(LocalProtocolError):
        rule.need(3, 2)
