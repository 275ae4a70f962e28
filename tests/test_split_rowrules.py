"""Row rules of torch operators: each is held against the operator itself, on some of its rows and on all."""

from __future__ import annotations

from collections.abc import Sequence
from operator import getitem
from typing import Any

import pytest
import torch
from torch.fx import Graph

from one_operator import RESULT, One, X, aten, check_slabs, image, pieces
from rowcast.errors import ConfigError
from rowcast.graphs import Barrier, Identity, RowRule, RunningSum, Window
from rowcast.split.rowrules import default_axis, row_rules

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
