"""Which row rule each operator of a captured graph has, and along which axis the rows of its tensor lie.

What is not known here is a :class:`rowcast.graphs.Barrier`, which is right for every operator: it is computed whole,
once all that it reads is there.

Rows are followed through the graph from the inputs: a permutation moves their axis, a sum over them ends them, and
behind a barrier a tensor has rows again, since it can travel and be read in rows whatever made it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch.fx import Node

from rowcast.errors import ConfigError
from rowcast.graphs import Barrier, Identity, RunningSum
from rowcast.split import windowrules
from rowcast.split.site import Place, Rows, Site, Sizes, axes_of, axis_of, sizes

__all__ = ["default_axis", "row_rules"]

Rule = Callable[[Site], Place | None]


def default_axis(shape: Sizes) -> int | None:
    """The row axis of an input of which nothing else is known, its batch along axis 0.

    Axis 1 of an image with its 1, 3 or 4 channels last, axis 2 of other tensors with four axes, axis 1 of those with
    three, else none.
    """
    return {3: 1, 4: 1 if shape[-1:] in ((1,), (3,), (4,)) else 2}.get(len(shape))


def row_rules(nodes: Sequence[Node], axes: Sequence[int | None]) -> list[Place]:
    """The row rule of each node, and the row axis of what it makes, ``None`` where that has no rows.

    Args:
        nodes: those that make what depends on an input of the model, in order, the inputs (placeholders) among them.
            Their ``meta["val"]`` tells the shapes. Other nodes are constants.
        axes: the row axis of each input, in their order; ``None``: it has no rows.

    Raises:
        ConfigError: not one axis for each input, or an axis that the tensor has not.
    """
    inputs = [node for node in nodes if node.op == "placeholder"]
    if len(inputs) != len(axes):
        raise ConfigError(f"row_axis: expected one for each of {len(inputs)} inputs, got {len(axes)}")
    given = dict(zip(inputs, axes, strict=True))
    known: dict[Node, Rows] = {}
    places: list[Place] = []
    for node in nodes:
        rule, axis = _of_input(node, given[node]) if node in given else _of_operator(Site(node, known))
        known[node] = Rows(rule.out_rows, axis)
        places.append((rule, axis))
    return places


def _of_input(node: Node, axis: int | None) -> Place:
    if axis is None:
        return Identity(1), None
    shape = sizes(node)
    if not 0 <= axis < len(shape) or shape[axis] is None:
        raise ConfigError(
            f"row_axis: expected for input {node.name} an axis of fixed size within 0 .. {len(shape) - 1} "
            f"(its shape is {shape}, None: as many as there are requests), got {axis}"
        )
    return Identity(shape[axis] or 0), axis


def _of_operator(site: Site) -> Place:
    rule = RULES_OF.get(site.name)
    if rule is None and _is_pointwise(site.node):
        rule = _pointwise
    return (rule(site) if rule is not None else None) or barrier(site)


def barrier(site: Site) -> Place:
    """What is right for every operator. Its tensor has rows where there are several along the usual axis."""
    rows = max((site.known[node].count for node in site.inputs), default=1)
    several = isinstance(site.node.meta.get("val"), (tuple, list))
    axis = None if several else {3: 1, 4: 2}.get(len(site.out_sizes))
    count = 1 if axis is None else site.out_sizes[axis] or 1
    return Barrier(rows, count), axis if count > 1 else None


def _is_pointwise(node: Node) -> bool:
    tags = getattr(node.target, "tags", ())
    return torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags


# Operators whose row i reads row i.


def _pointwise(site: Site) -> Place | None:
    """Tensors are broadcast against each other, aligned at their last axes.

    Rows are those of the largest tensor. One with other rows is read whole; where it has as many of them, nothing would
    tell that, and all are.
    """
    ndim = len(site.out_sizes)
    found: dict[tuple[int, int], int] = {}
    for node in site.inputs:
        shape, rows = sizes(node), site.known[node]
        if rows.axis is not None:
            place = (rows.axis + ndim - len(shape), rows.count)
            found[place] = max(found.get(place, 0), math.prod(size or 1 for size in shape))
    if not found:
        return None
    axis, count = max(found, key=lambda place: (found[place], place))
    alone = sum(rows == count for _, rows in found) == 1
    return (Identity(count), axis) if alone and site.out_sizes[axis] == count else None


def _unless(*names: str) -> Rule:
    """Row by row unless the rows lie along one of the axes that these arguments name."""

    def rule(site: Site) -> Place | None:
        sole = site.sole()
        if sole is None:
            return None
        node, axis, count = sole
        ndim = len(sizes(node))
        mixed = {axis_of(site.arguments[name], ndim) for name in names if name in site.arguments}
        return None if axis in mixed else (Identity(count), axis)

    return rule


def _dropout(site: Site) -> Place | None:
    return None if site.flag("train") else _pointwise(site)


def _batch_norm(site: Site) -> Place | None:
    return None if site.flag("training") else _per_channel(site)


def _per_channel(site: Site) -> Place | None:
    """One number for each index of axis 1."""
    sole = site.sole()
    return (Identity(sole[2]), sole[1]) if sole and sole[1] != 1 else None


def _linear(site: Site) -> Place | None:
    sole = site.sole()
    return (Identity(sole[2]), sole[1]) if sole and sole[1] != len(sizes(sole[0])) - 1 else None


def _layer_norm(site: Site) -> Place | None:
    sole = site.sole()
    if sole is None:
        return None
    node, axis, count = sole
    return (Identity(count), axis) if axis < len(sizes(node)) - len(site.arguments["normalized_shape"]) else None


def _cat(site: Site) -> Place | None:
    found = {(site.known[node].axis, site.known[node].count) for node in site.inputs}
    if len(found) != 1:
        return None
    ((axis, count),) = found
    mixed = axis_of(site.arguments["dim"], len(site.out_sizes))
    if axis is None:
        return None
    if site.name == "stack":
        return Identity(count), axis + (mixed <= axis)
    return (Identity(count), axis) if axis != mixed else None


# Operators that move the axis.


def _permute(site: Site) -> Place | None:
    sole = site.sole()
    if sole is None:
        return None
    return Identity(sole[2]), axes_of(site.arguments["dims"], len(site.out_sizes)).index(sole[1])


def _transpose(site: Site) -> Place | None:
    sole = site.sole()
    if sole is None:
        return None
    node, axis, count = sole
    first, second = (axis_of(site.arguments[name], len(sizes(node))) for name in ("dim0", "dim1"))
    return Identity(count), {first: second, second: first}.get(axis, axis)


def _unsqueeze(site: Site) -> Place | None:
    sole = site.sole()
    if sole is None:
        return None
    return Identity(sole[2]), sole[1] + (axis_of(site.arguments["dim"], len(site.out_sizes)) <= sole[1])


def _removes(site: Site) -> Place | None:
    """``select``, ``squeeze`` and ``unbind``: the axes named go."""
    sole = site.sole()
    if sole is None or site.get("dim") is None:
        return None
    node, axis, count = sole
    named = axes_of(site.arguments["dim"], len(sizes(node)))
    if axis in named:
        return None
    shape = sizes(node)
    gone = [dim for dim in named if site.name != "squeeze" or shape[dim] == 1]
    return Identity(count), axis - sum(dim < axis for dim in gone)


def _view(site: Site) -> Place | None:
    """The same elements in other shapes: rows are still rows where their axis has the same size, and as much behind."""
    sole = site.sole()
    if sole is None:
        return None
    node, axis, count = sole
    behind = _product(sizes(node)[axis + 1 :])
    for new, size in enumerate(site.out_sizes):
        if behind is not None and size == count and _product(site.out_sizes[new + 1 :]) == behind:
            return Identity(count), new
    return None


def _product(shape: Sizes) -> int | None:
    fixed = [size for size in shape if size is not None]
    return math.prod(fixed) if len(fixed) == len(shape) else None


def _expand(site: Site) -> Place | None:
    sole = site.sole()
    if sole is None:
        return None
    node, axis, count = sole
    new = axis + len(site.out_sizes) - len(sizes(node))
    return (Identity(count), new) if site.out_sizes[new] == count else None


def _slice(site: Site) -> Place | None:
    sole = site.sole()
    if sole is None:
        return None
    node, axis, count = sole
    cut = axis_of(site.arguments["dim"], len(sizes(node)))
    return (Identity(count), axis) if cut != axis or site.out_sizes == sizes(node) else None


def _getitem(site: Site) -> Place | None:
    """One of several results: their rows are those that the operator has, unless its results differ in shape."""
    source = site.node.args[0]
    if not isinstance(source, Node):
        return None
    rows = site.known[source]
    axis = rows.axis
    if axis is None or not axis < len(site.out_sizes) or site.out_sizes[axis] != rows.count:
        return None
    return Identity(rows.count), axis


def _reduce(site: Site) -> Place | None:
    """A mean or a sum over some axes."""
    sole = site.sole()
    if sole is None:
        return None
    node, axis, count = sole
    gone = axes_of(site.get("dim"), len(sizes(node)))
    if axis in gone:
        return (RunningSum(count), None) if site.name in ("mean", "sum") else None
    return Identity(count), axis - (0 if site.flag("keepdim") else sum(dim < axis for dim in gone))


def _rules() -> dict[str, Rule]:
    """Name of an operator without its overload -> its rule."""
    table: dict[Rule, str] = {
        _pointwise: "_to_copy to clone contiguous detach alias lift_fresh_copy hardswish hardsigmoid hardtanh relu6 "
        "relu gelu silu mish",
        _dropout: "dropout",
        windowrules.convolution: "conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d conv_transpose3d",
        windowrules.pool: "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices avg_pool1d avg_pool2d avg_pool3d",
        windowrules.adaptive: "adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool3d",
        windowrules.upsample: "upsample_nearest2d upsample_bilinear2d",
        _batch_norm: "batch_norm _native_batch_norm_legit_no_training",
        _per_channel: "prelu _prelu_kernel",
        _linear: "linear",
        _layer_norm: "layer_norm rms_norm",
        _unless("dim"): "softmax _softmax log_softmax _log_softmax cumsum split split_with_sizes chunk glu",
        _cat: "cat stack",
        _permute: "permute",
        _transpose: "transpose",
        _unsqueeze: "unsqueeze",
        _removes: "select squeeze unbind",
        _view: "view _unsafe_view reshape",
        _expand: "expand",
        _slice: "slice",
        _getitem: "getitem",
        windowrules.pad: "pad constant_pad_nd",
        _reduce: "mean sum amax amin var std",
        windowrules.pixel_shuffle: "pixel_shuffle",
    }
    return {name: rule for rule, names in table.items() for name in names.split()}


RULES_OF: dict[str, Rule] = _rules()
