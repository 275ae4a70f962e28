"""Row rules of operators with windows, for any settings: on some of their rows they give what they give at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from one_operator import One, X, aten, check_slabs, image, pieces
from rowcast.graphs import Resize, Transposed, Window

quick = settings(deadline=None, derandomize=True, max_examples=40)
sizes_of_slab = st.integers(1, 5)


@quick
@given(
    st.integers(7, 20),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(1, 2),
    st.booleans(),
    sizes_of_slab,
)
def test_convolutions(
    rows: int, kernel: int, stride: int, padding: int, dilation: int, grouped: bool, size: int
) -> None:
    groups = 2 if grouped else 1
    weight, bias = image(4, 4 // groups, kernel, 3, seed=1), image(4)
    args = [X, weight, bias, [stride, 1], [padding, 1], [dilation, 1], groups]
    one = One(aten.conv2d.default, args, image(2, 4, rows, 5), 2)
    assert isinstance(one.rule, Window) and one.out_axis == 2
    check_slabs(one, size)
    more = [*args[:6], False, [0, 0], groups]
    check_slabs(One(aten.convolution.default, more, image(2, 4, rows, 5), 2), size)


@quick
@given(st.integers(8, 14), st.integers(1, 4), st.integers(1, 4), st.integers(1, 2), sizes_of_slab)
def test_convolutions_with_padding_same(rows: int, kernel: int, across: int, dilation: int, size: int) -> None:
    """An even kernel pads one more behind than in front, in both directions."""
    weight = image(4, 3, kernel, across, seed=1)
    for padding in ("same", "valid"):
        one = One(aten.conv2d.padding, [X, weight, None, [1, 1], padding, [dilation, 1]], image(1, 3, rows, 8), 2)
        check_slabs(one, size)


@quick
@given(st.integers(5, 12), st.integers(1, 3), st.integers(1, 2), st.integers(0, 1), sizes_of_slab)
def test_convolutions_of_one_and_of_three_axes(rows: int, kernel: int, stride: int, padding: int, size: int) -> None:
    weight = image(4, 3, kernel, seed=1)
    check_slabs(One(aten.conv1d.default, [X, weight, None, [stride], [padding]], image(2, 3, rows), 2), size)
    weight = image(2, 3, 2, kernel, 2, seed=1)
    args = [X, weight, None, [1, stride, 1], [0, padding, 1]]
    one = One(aten.conv3d.default, args, image(1, 3, 3, rows, 3), 3)
    assert one.out_axis == 3
    check_slabs(one, size)


@quick
@given(
    st.integers(3, 9),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 2),
    st.integers(1, 2),
    st.integers(0, 3),
    sizes_of_slab,
)
def test_transposed_convolutions(
    rows: int, kernel: int, stride: int, padding: int, dilation: int, extra: int, size: int
) -> None:
    """Also where a stride is larger than the kernel, so that some rows hold the bias only."""
    padding = min(padding, dilation * (kernel - 1))
    extra = min(extra, max(stride, dilation) - 1)
    weight, bias = image(3, 2, kernel, 2, seed=1), image(2)
    args = [X, weight, bias, [stride, 1], [padding, 0], [extra, 0], 1, [dilation, 1]]
    one = One(aten.conv_transpose2d.input, args, image(2, 3, rows, 3), 2)
    assert isinstance(one.rule, Transposed) and one.out_axis == 2
    check_slabs(one, size)


@quick
@given(
    st.integers(7, 16),
    st.integers(2, 4),
    st.integers(1, 4),
    st.integers(0, 2),
    st.booleans(),
    st.booleans(),
    sizes_of_slab,
)
def test_average_pooling_divides_by_what_the_whole_image_says(
    rows: int, kernel: int, stride: int, padding: int, ceil: bool, counts: bool, size: int
) -> None:
    padding = min(padding, kernel // 2)
    for divisor in (None, 3):
        args = [X, [kernel, 2], [stride, 1], [padding, 1], ceil, counts, divisor]
        one = One(aten.avg_pool2d.default, args, image(2, 2, rows, 4), 2)
        assert isinstance(one.rule, Window)
        check_slabs(one, size)


@quick
@given(
    st.integers(8, 16),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(0, 1),
    st.integers(1, 2),
    st.booleans(),
    sizes_of_slab,
)
def test_maximum_pooling(
    rows: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool, size: int
) -> None:
    """Padding is no candidate: all values here are negative."""
    padding = min(padding, kernel // 2)
    args = [X, [kernel, 2], [stride, 1], [padding, 0], [dilation, 1], ceil]
    check_slabs(One(aten.max_pool2d.default, args, -1 - image(2, 2, rows, 4).abs(), 2), size)
    whole_numbers = (-100 * image(1, 2, rows, 4).abs()).to(torch.int32)
    one = One(aten.max_pool2d.default, [X, [kernel], [], [padding]], whole_numbers, 2)
    made = [one.slab(a, b) for a, b in pieces(one.rule.out_rows, size)]
    assert torch.equal(torch.cat(made, 2), one.whole)


@quick
@given(st.integers(2, 9), st.integers(1, 24), st.booleans(), sizes_of_slab)
def test_interpolation_to_a_size(rows: int, to_rows: int, corners: bool, size: int) -> None:
    for x in (image(1, 2, rows, 3), image(2, 1, rows, 5)):
        for args in ([X, [to_rows, 5]], [X, [2 * rows, 10]]):
            one = One(aten.upsample_nearest2d.vec, [*args, None], x, 2)
            assert isinstance(one.rule, Resize)
            check_slabs(one, size)
            check_slabs(One(aten.upsample_bilinear2d.vec, [*args, corners, None], x, 2), size)


@quick
@given(st.integers(3, 9), st.sampled_from([0.5, 0.7, 1.0, 1.1, 1.5, 2.0, 2.3, 3.0, 4.0]), st.booleans(), sizes_of_slab)
def test_interpolation_by_a_factor(rows: int, factor: float, corners: bool, size: int) -> None:
    """Where the size that follows is rounded, positions are those of the factor."""
    x = image(1, 2, rows, 4)
    check_slabs(One(aten.upsample_nearest2d.vec, [X, None, [factor, 1.5]], x, 2), size)
    check_slabs(One(aten.upsample_bilinear2d.vec, [X, None, corners, [factor, 1.5]], x, 2), size)


@quick
@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2), sizes_of_slab)
def test_a_constant_around_it(before: int, after: int, across: int, size: int) -> None:
    pad = [across, 1, before, after]
    for one in (
        One(aten.constant_pad_nd.default, [X, pad, 2.5], image(1, 2, 5, 3), 2),
        One(aten.pad.default, [X, pad], image(1, 2, 5, 3), 2),
    ):
        check_slabs(one, size)


@pytest.mark.parametrize("rows", [(8, 4), (9, 3), (7, 7)], ids=str)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_adaptive_pooling_with_windows_of_one_size(rows: tuple[int, int], size: int) -> None:
    one = One(aten.adaptive_avg_pool2d.default, [X, [rows[1], 2]], image(1, 2, rows[0], 5), 2)
    check_slabs(one, size)


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_pixel_shuffle(factor: int, size: int) -> None:
    check_slabs(One(aten.pixel_shuffle.default, [X, factor], image(1, 2 * factor**2, 5, 3), 2), size)
