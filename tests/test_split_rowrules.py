"""Row rules of torch operators: each is held against the operator itself, on some of its rows and on all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import getitem
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx import Graph, Node

from rowcast.errors import ConfigError
from rowcast.graphs import Barrier, Identity, Resize, RowRule, RunningSum, Transposed, Window
from rowcast.split.rowops import Slot, Task, emit_rows
from rowcast.split.rowrules import default_axis, row_rules
from rowcast.split.site import Rows, Site

aten = torch.ops.aten
RESULT: dict[str, float] = {"rtol": 1e-5, "atol": 1e-5}


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@dataclass
class One:
    """One operator on one tensor that has rows; all other tensors in its arguments are constants.

    ``target(*args)``, where ``X`` in ``args`` stands for the tensor.
    """

    target: Any
    args: Sequence[Any]
    x: torch.Tensor
    axis: int | None
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = Graph()
        self.constants: dict[Node, torch.Tensor] = {}
        self.input = graph.placeholder("x")
        self.input.meta["val"] = self.x.to("meta")

        def node_of(value: Any) -> Any:
            if value is X:
                return self.input
            if isinstance(value, torch.Tensor):
                node = graph.get_attr(f"c{len(self.constants)}")
                node.meta["val"] = value
                self.constants[node] = value
                return node
            return [node_of(each) for each in value] if isinstance(value, list) else value

        self.node = graph.call_function(self.target, tuple(map(node_of, self.args)), self.kwargs)
        self.whole = self.run(self.x)
        self.node.meta["val"] = self.whole
        self.rule, self.out_axis = row_rules([self.input, self.node], [self.axis])[1]

    def run(self, x: torch.Tensor) -> Any:
        def value_of(value: Any) -> Any:
            return x if value is X else [value_of(each) for each in value] if isinstance(value, list) else value

        return self.target(*map(value_of, self.args), **self.kwargs)

    def task(self, a: int, b: int) -> Task:
        known = {self.input: Rows(1 if self.axis is None else self.x.shape[self.axis], self.axis)}
        return Task(Site(self.node, known), self.rule, self.out_axis, a, b)

    def slab(self, a: int, b: int) -> Any:
        """Rows ``[a, b)``, computed where all input rows but those that the rule says are read are NaN or 0."""
        first, last = self.rule.need(a, b) if not self.rule.incremental else (a, b)
        return Eager(self, first, last).run(self.task(a, b))


X = object()


@dataclass
class Eager:
    """A program that computes at once."""

    one: One
    first: int
    last: int
    values: list[Any] = field(default_factory=list)

    def run(self, task: Task) -> Any:
        return self.values[emit_rows(self, task).index]

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Slot:
        def filled(value: Any) -> Any:
            if isinstance(value, Slot):
                return self.values[value.index]
            if isinstance(value, Node):
                return self.one.constants[value]
            return [filled(each) for each in value] if isinstance(value, list | tuple) else value

        made = function(*map(filled, args), **{name: filled(value) for name, value in kwargs.items()})
        self.values.append(made)
        return Slot(len(self.values) - 1)

    def rows(self, node: Node, first: int, last: int) -> Slot:
        """Only rows that the rule reads are ever asked for."""
        assert node is self.one.input and self.first <= first <= last <= self.last
        axis = self.one.axis
        assert axis is not None
        return self.call(torch.narrow, self.one.x, axis, first, last - first)

    def whole(self, node: Node) -> Slot:
        raise AssertionError(f"{node}: nothing is read whole here")

    def shape(self, node: Node) -> list[int]:
        return list(node.meta["val"].shape)

    def prepared(self, node: Node, rows: int, function: Callable[..., Any], *args: Any) -> Slot:
        return self.call(function, *args)


def pieces(rows: int, size: int) -> list[tuple[int, int]]:
    return [(a, min(a + size, rows)) for a in range(0, rows, size)]


def check_slabs(one: One, size: int) -> None:
    """Slab by slab it gives what it gives at once, and what is computed early does not change later."""
    rule, axis = one.rule, one.out_axis
    assert axis is not None and not isinstance(rule, Barrier)
    whole = one.whole
    assert rule.out_rows == whole.shape[axis]
    made = [one.slab(a, b) for a, b in pieces(rule.out_rows, size)]
    torch.testing.assert_close(torch.cat(made, axis), whole, **RESULT)
    check_rule(one)


def check_rule(one: One) -> None:
    """Rows behind the first ``h`` do not matter for output rows ``[0, can(h))``: they may hold anything."""
    assert one.axis is not None and one.out_axis is not None
    rows = one.x.shape[one.axis]
    for h in {0, 1, rows // 2, rows - 1}:
        there = one.rule.can(h)
        other = one.x.clone()
        other.narrow(one.axis, h, rows - h).copy_(1000 * torch.ones_like(other.narrow(one.axis, h, rows - h)))
        torch.testing.assert_close(
            one.run(other).narrow(one.out_axis, 0, there), one.whole.narrow(one.out_axis, 0, there), **RESULT
        )


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


VECTOR = image(6).abs() + 0.5
#: Row i is made of row i: name, target, arguments, shape of the tensor, its row axis, that of the result.
ROW_BY_ROW: list[tuple[str, Any, list[Any], tuple[int, ...], int, int]] = [
    ("relu", aten.relu.default, [X], (2, 6, 7, 3), 2, 2),
    ("hardswish", aten.hardswish.default, [X], (2, 6, 7, 3), 2, 2),
    ("gelu", aten.gelu.default, [X], (2, 7, 6), 1, 1),
    ("clamp", aten.clamp.default, [X, -0.5, 0.5], (2, 6, 7, 3), 2, 2),
    ("to", aten._to_copy.default, [X], (2, 7, 3, 3), 1, 1),
    ("add itself", aten.add.Tensor, [X, X], (2, 6, 7, 3), 2, 2),
    ("add a position for each row", aten.add.Tensor, [X, image(1, 7, 6)], (2, 7, 6), 1, 1),
    ("add fewer axes, as high", aten.add.Tensor, [X, image(7, 1)], (2, 6, 7, 3), 2, 2),
    ("subtract from a constant", aten.sub.Tensor, [image(1, 6, 1, 1), X], (2, 6, 7, 3), 2, 2),
    ("more axes by a constant", aten.mul.Tensor, [X, image(3, 1, 1, 1)], (6, 7, 2), 1, 2),
    ("where", aten.where.self, [image(1, 1, 7, 1) > 0, X, image(1)], (2, 6, 7, 3), 2, 2),
    (
        "batch norm",
        aten.batch_norm.default,
        [X, VECTOR, VECTOR, VECTOR, VECTOR, False, 0.1, 1e-5, False],
        (2, 6, 7, 3),
        2,
        2,
    ),
    ("prelu", aten.prelu.default, [X, VECTOR], (2, 6, 7, 3), 2, 2),
    ("layer norm of the last axis", aten.layer_norm.default, [X, [6], VECTOR, VECTOR], (2, 7, 6), 1, 1),
    ("linear", aten.linear.default, [X, image(4, 6), None], (2, 7, 6), 1, 1),
    ("softmax of channels", aten.softmax.int, [X, 1], (2, 6, 7, 3), 2, 2),
    ("softmax of the last axis", aten.softmax.int, [X, -1], (2, 7, 6), 1, 1),
    ("cat of channels", aten.cat.default, [[X, X], 1], (2, 6, 7, 3), 2, 2),
    ("cat with a constant", aten.cat.default, [[X, image(2, 1, 7, 3)], 1], (2, 6, 7, 3), 2, 2),
    ("stack before", aten.stack.default, [[X, X], 1], (2, 6, 7), 2, 3),
    ("stack behind", aten.stack.default, [[X, X], -1], (2, 6, 7), 2, 2),
    ("permute", aten.permute.default, [X, [0, 3, 1, -2]], (2, 7, 3, 4), 1, 2),
    ("transpose", aten.transpose.int, [X, 1, -1], (2, 7, 3, 4), 1, 3),
    ("transpose of others", aten.transpose.int, [X, 2, 3], (2, 7, 3, 4), 1, 1),
    ("unsqueeze before", aten.unsqueeze.default, [X, 1], (2, 7, 3), 1, 2),
    ("unsqueeze behind", aten.unsqueeze.default, [X, -1], (2, 7, 3), 1, 1),
    ("squeeze before", aten.squeeze.dim, [X, 1], (2, 1, 7, 3), 2, 1),
    ("squeeze nothing", aten.squeeze.dim, [X, 1], (2, 6, 7, 3), 2, 2),
    ("squeeze several", aten.squeeze.dims, [X, [1, -1]], (2, 1, 7, 1), 2, 1),
    ("select a channel", aten.select.int, [X, 1, 2], (2, 6, 7, 3), 2, 1),
    ("slice of channels", aten.slice.Tensor, [X, 1, 1, 5, 2], (2, 6, 7, 3), 2, 2),
    ("slice of all rows", aten.slice.Tensor, [X, 2, 0, 100], (2, 6, 7, 3), 2, 2),
    ("view in groups", aten.view.default, [X, [2, 3, 2, 7, 3]], (2, 6, 7, 3), 2, 3),
    ("view with columns and channels in one", aten.view.default, [X, [2, 7, -1]], (2, 7, 3, 4), 1, 1),
    ("expand", aten.expand.default, [X, [2, 6, 7, 3]], (2, 1, 7, 1), 2, 2),
    ("expand to more axes", aten.expand.default, [X, [5, 2, 7, 3]], (2, 7, 3), 1, 2),
    ("mean of channels", aten.mean.dim, [X, [1]], (2, 6, 7, 3), 2, 1),
    ("mean of channels, kept", aten.mean.dim, [X, [1], True], (2, 6, 7, 3), 2, 2),
    ("largest of columns", aten.amax.default, [X, [-1]], (2, 6, 7, 3), 2, 2),
    ("sum over channels before", aten.cumsum.default, [X, 1], (2, 6, 7, 3), 2, 2),
    ("gated linear unit", aten.glu.default, [X, 1], (2, 6, 7, 3), 2, 2),
    ("dropout in evaluation", aten.dropout.default, [X, 0.5, False], (2, 6, 7, 3), 2, 2),
]


@pytest.mark.parametrize("case", ROW_BY_ROW, ids=lambda case: case[0])
def test_operators_that_go_row_by_row(case: tuple[str, Any, list[Any], tuple[int, ...], int, int]) -> None:
    _, target, args, shape, axis, out_axis = case
    one = One(target, args, image(*shape), axis)
    assert (one.rule, one.out_axis) == (Identity(7), out_axis)
    for size in (1, 3):
        check_slabs(one, size)


#: Operators that mix rows, or of which nothing is known: name, target, arguments, shape of the tensor, its row axis.
WHOLE: list[tuple[str, Any, list[Any], tuple[int, ...], int | None]] = [
    ("softmax of rows", aten.softmax.int, [X, 2], (2, 6, 7, 3), 2),
    ("sum over rows before", aten.cumsum.default, [X, -2], (2, 6, 7, 3), 2),
    ("largest of rows", aten.amax.default, [X, [2]], (2, 6, 7, 3), 2),
    ("deviation of rows", aten.std.correction, [X, [2]], (2, 6, 7, 3), 2),
    ("flip", aten.flip.default, [X, [2]], (2, 6, 7, 3), 2),
    ("roll", aten.roll.default, [X, [1], [2]], (2, 6, 7, 3), 2),
    ("group norm", aten.group_norm.default, [X, 2], (2, 6, 7, 3), 2),
    ("layer norm with rows", aten.layer_norm.default, [X, [7, 3]], (2, 6, 7, 3), 2),
    ("linear along rows", aten.linear.default, [X, image(4, 7)], (2, 6, 7), 2),
    (
        "batch norm where rows are channels",
        aten.batch_norm.default,
        [X, None, None, VECTOR, VECTOR, False, 0.1, 1e-5, False],
        (2, 6, 7),
        1,
    ),
    (
        "batch norm that trains",
        aten.batch_norm.default,
        [X, None, None, None, None, True, 0.1, 1e-5, False],
        (2, 6, 7, 3),
        2,
    ),
    ("convolution where rows are channels", aten.conv1d.default, [X, image(4, 6, 3)], (2, 6, 7), 1),
    ("convolution with a weight that is computed", aten.conv2d.default, [image(1, 7, 5, 5), X], (4, 7, 3, 3), 2),
    ("convolution without a batch", aten.conv2d.default, [X, image(4, 6, 3, 3)], (6, 7, 5), 1),
    ("reflected border", aten.pad.default, [X, [1, 1, 1, 1], "reflect"], (2, 6, 7, 3), 2),
    ("rows cut off by padding", aten.constant_pad_nd.default, [X, [0, 0, -1, 0]], (2, 6, 7, 3), 2),
    ("slice of rows", aten.slice.Tensor, [X, 2, 1, 6], (2, 6, 7, 3), 2),
    ("one row", aten.select.int, [X, 2, 1], (2, 6, 7, 3), 2),
    ("rows and columns in one", aten.view.default, [X, [2, 6, 21]], (2, 6, 7, 3), 2),
    ("channels and rows in one", aten.view.default, [X, [2, 42, 3]], (2, 6, 7, 3), 2),
    ("rows behind each other", aten.cat.default, [[X, X], 2], (2, 6, 7, 3), 2),
    ("one row on all", aten.expand.default, [X, [2, 6, 7, 3]], (2, 6, 1, 3), 2),
    ("bicubic", aten.upsample_bicubic2d.vec, [X, [14, 6], False, None], (2, 6, 7, 3), 2),
    ("windows of several sizes", aten.adaptive_avg_pool2d.default, [X, [3, 3]], (2, 6, 7, 3), 2),
    ("adaptive maximum", aten.adaptive_max_pool2d.default, [X, [1, 1]], (2, 6, 7, 3), 2),
    ("dropout that draws", aten.dropout.default, [X, 0.5, True], (2, 6, 7, 3), 2),
    ("without rows", aten.relu.default, [X], (2, 6, 7, 3), None),
    ("matrix product", aten.matmul.default, [X, X], (2, 6, 7, 7), 2),
    ("sort", aten.sort.default, [X, 2], (2, 6, 7, 3), 2),
    ("attention", aten.scaled_dot_product_attention.default, [X, X, X], (2, 6, 7, 3), 2),
]


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case[0])
def test_all_else_is_computed_whole(case: tuple[str, Any, list[Any], tuple[int, ...], int | None]) -> None:
    _, target, args, shape, axis = case
    one = One(target, args, image(*shape), axis)
    assert isinstance(one.rule, Barrier) and one.rule.rows == (1 if axis is None else shape[axis])
    if one.out_axis is not None:
        assert one.whole.shape[one.out_axis] == one.rule.out_rows > 1
    else:
        assert one.rule.out_rows == 1


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize(
    ("target", "args"),
    [
        (aten.mean.dim, [X, [2, 3]]),
        (aten.mean.dim, [X, [-2], True]),
        (aten.sum.dim_IntList, [X, [2]]),
        (aten.adaptive_avg_pool2d.default, [X, [1, 2]]),
    ],
    ids=["mean", "kept", "sum", "pool"],
)
def test_sums_over_rows_are_added_up(target: Any, args: list[Any], size: int) -> None:
    one = One(target, args, image(2, 3, 7, 4), 2)
    assert one.rule == RunningSum(7) and one.out_axis is None
    torch.testing.assert_close(sum(one.slab(a, b) for a, b in pieces(7, size)), one.whole, **RESULT)


def several(target: Any, args: Sequence[Any], index: int) -> list[tuple[RowRule, int | None]]:
    """The rules of an operator with several results and of one of them."""
    one = One(target, args, image(2, 6, 8, 4), 2)
    item = one.node.graph.call_function(getitem, (one.node, index))
    item.meta["val"] = one.whole[index]
    return row_rules([one.input, one.node, item], [2])[1:]


def test_one_of_several_results_has_the_rows_of_the_operator() -> None:
    assert several(aten.split.Tensor, [X, 3, 1], 1) == [(Identity(8), 2)] * 2
    assert several(aten.unbind.int, [X, 1], 0) == [(Identity(8), 1)] * 2
    assert several(aten.split.Tensor, [X, 4, 2], 1) == [(Barrier(8), None), (Barrier(1, 4), 2)]
    assert several(aten.max_pool2d_with_indices.default, [X, [2, 2]], 0) == [(Window(8, 2, 2), 2), (Identity(4), 2)]


def test_indices_of_maximum_pooling_count_the_whole_image() -> None:
    assert several(aten.max_pool2d_with_indices.default, [X, [2, 2]], 1) == [(Barrier(8), None), (Barrier(1, 4), 2)]


def two(target: Any, shapes: Sequence[tuple[int, ...]], axes: Sequence[int | None]) -> tuple[RowRule, int | None]:
    """The rule of an operator of two inputs of the model."""
    graph = Graph()
    nodes = []
    for index, shape in enumerate(shapes):
        nodes.append(graph.placeholder(f"x{index}"))
        nodes[-1].meta["val"] = image(*shape)
    values = [node.meta["val"] for node in nodes]
    joined = target is aten.cat.default
    node = graph.call_function(target, (list(nodes), 1) if joined else tuple(nodes))
    node.meta["val"] = target(values, 1) if joined else target(*values)
    return row_rules([*nodes, node], axes)[-1]


def test_two_tensors_go_row_by_row_where_their_rows_meet() -> None:
    square = (1, 7, 7, 7)
    assert two(aten.add.Tensor, [square, square], [2, 2]) == (Identity(7), 2)
    assert two(aten.add.Tensor, [square, square], [2, 1]) == (Barrier(7, 7), 2)
    assert two(aten.add.Tensor, [square, square], [2, None]) == (Identity(7), 2)
    assert two(aten.mul.Tensor, [(1, 6, 7, 3), (1, 6, 1, 1)], [2, 2]) == (Identity(7), 2)
    assert two(aten.mul.Tensor, [(1, 6, 7, 3), (7, 3)], [2, 0]) == (Identity(7), 2)
    assert two(aten.mul.Tensor, [(1, 6, 7, 3), (1, 6, 1, 1)], [2, 1]) == (Identity(7), 2)
    assert two(aten.mul.Tensor, [(1, 6, 1, 1), (1, 6, 7, 3)], [1, 2]) == (Identity(7), 2)
    assert two(aten.mul.Tensor, [(1, 7, 1, 1), (1, 7, 7, 3)], [1, 2]) == (Barrier(7, 7), 2)
    assert two(aten.cat.default, [square, square], [2, 2]) == (Identity(7), 2)
    assert two(aten.cat.default, [square, square], [2, 3]) == (Barrier(7, 7), 2)
    assert two(aten.matmul.default, [square, square], [2, None]) == (Barrier(7, 7), 2)
    assert two(aten.conv2d.default, [(1, 3, 7, 7), (2, 3, 3, 3)], [2, None]) == (Barrier(7, 5), 2)


def test_the_axis_of_an_input() -> None:
    assert [default_axis(shape) for shape in ((1, 480, 640, 3), (1, 64, 56, 56), (1, 9, 8), (1, 8), (4,))] == [
        1,
        2,
        1,
        None,
        None,
    ]
    with pytest.raises(ConfigError, match=r"expected for input x an axis of fixed size within 0 \.\. 3"):
        One(aten.relu.default, [X], image(1, 2, 3, 4), 4)
    with pytest.raises(ConfigError, match="expected one for each of 1 inputs, got 0"):
        row_rules([One(aten.relu.default, [X], image(1, 2, 3, 4), 2).input], [])
