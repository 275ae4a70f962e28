"""How an operator is computed for some of its rows.

An operator of which all rows are computed at once is called as it stands in the model; :func:`emit_rows` adapts the
call where there are fewer: rows of padding only where the border of the image is, sizes that name the rows, rows of
operands that are there as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch.fx import Node

from rowcast.graphs import Identity, Resize, RowRule, RunningSum, Transposed, Window
from rowcast.graphs.rules import NOTHING
from rowcast.split.packed import FEW_PIXELS, SMALL, can_pack, convolve, pack
from rowcast.split.site import Site, sizes
from rowcast.split.windowrules import conv_padding, pad_of

__all__ = ["Emitter", "Slot", "Task", "emit_rows"]

aten = torch.ops.aten


@dataclass(frozen=True)
class Slot:
    """Where a program keeps a value."""

    index: int


class Emitter(Protocol):
    """A program that is being written."""

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Slot:
        """Call it with values, slots (also in lists) and constants (nodes); where the result is."""

    def rows(self, node: Node, first: int, last: int) -> Slot:
        """These rows of a tensor that has a row axis."""

    def whole(self, node: Node) -> Slot:
        """All of a tensor that depends on an input of the model."""

    def shape(self, node: Node) -> list[int]:
        """Sizes of its tensor for the number of requests at hand."""

    def prepared(self, node: Node, rows: int, function: Callable[..., Any], *args: Any) -> Slot:
        """What an operator needs for several slabs, by this call; made anew where it is of another number of rows."""


@dataclass(frozen=True)
class Task:
    """Rows ``[a, b)`` of what an operator makes, fewer than all.

    Attributes:
        axis: the row axis of its result.
    """

    site: Site
    rule: RowRule
    axis: int | None
    a: int
    b: int

    @property
    def count(self) -> int:
        return self.b - self.a

    @property
    def source(self) -> Node:
        return self.site.inputs[0]

    @property
    def source_axis(self) -> int:
        axis = self.site.known[self.source].axis
        assert axis is not None, f"{self.site.node}: its rule is {self.rule}, and what it reads has no rows"
        return axis


def emit_rows(program: Emitter, task: Task) -> Slot:
    """Add what computes the rows of a task."""
    return SPECIAL.get(task.site.name, _BY_RULE[type(task.rule)])(program, task)


def _again(program: Emitter, task: Task, rows: Slot, target: Callable[..., Any] | None = None, **changes: Any) -> Slot:
    """The operator's own call on rows, its first argument, and with other settings, by the names of its schema."""
    node = task.site.node
    values = {**task.site.arguments, _first_name(task.site): rows, **changes}
    schema = node.target._schema  # type: ignore[union-attr]
    args = [values[argument.name] for argument in schema.arguments if not argument.kwarg_only]
    kwargs = {name: values.get(name, value) for name, value in node.kwargs.items() if _keyword(schema, name)}
    return program.call(target or node.target, *args, **kwargs)  # type: ignore[arg-type]


def _keyword(schema: Any, name: str) -> bool:
    return any(argument.name == name and argument.kwarg_only for argument in schema.arguments)


def _padded(program: Emitter, task: Task, span: tuple[int, int], fill: float = 0.0) -> Slot:
    """Rows of the source at the positions ``span``: those that the task needs, others filled."""
    first, last = task.rule.need(task.a, task.b)
    if (first, last) == NOTHING:
        shape = program.shape(task.source)
        shape[task.source_axis] = span[1] - span[0]
        return program.call(torch.full, shape, fill, dtype=task.source.meta["val"].dtype)
    rows = program.rows(task.source, first, last)
    before, after = first - span[0], last - span[1]
    return program.call(bordered, rows, task.source_axis, before, -after, fill) if before or after else rows


def bordered(rows: torch.Tensor, axis: int, before: int, after: int, fill: float) -> torch.Tensor:
    """Rows with so many others in front and behind, all of one value, in the memory format that they have."""
    above, below = (_filled(rows, axis, count, fill) for count in (before, after))
    return torch.cat([*above, rows, *below], axis)


def _filled(rows: torch.Tensor, axis: int, count: int, fill: float) -> list[torch.Tensor]:
    if count == 0:
        return []
    one = torch.full_like(rows.narrow(axis, 0, 1), fill)
    return [one] * count


# Row i of row i.


def _identity(program: Emitter, task: Task) -> Slot:
    """The same call on rows of what has as many rows; an operand that is there whole is cut where it is as high."""
    node, ndim = task.site.node, len(task.site.out_sizes)

    def adapted(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(map(adapted, value))
        if not isinstance(value, Node):
            return value
        rows = task.site.known.get(value)
        if rows is not None and rows.axis is not None and rows.count == task.rule.rows:
            return program.rows(value, task.a, task.b)
        operand: Any = program.whole(value) if rows is not None else value
        shape = sizes(value)
        axis = (task.axis or 0) - ndim + len(shape)
        if task.site.name in SINGLE or axis < 0 or task.rule.rows == 1 or shape[axis] != task.rule.rows:
            return operand
        return program.call(torch.narrow, operand, axis, task.a, task.count)

    kwargs = {name: adapted(value) for name, value in node.kwargs.items()}
    return program.call(node.target, *map(adapted, node.args), **kwargs)  # type: ignore[arg-type]


def _reshaped(program: Emitter, task: Task) -> Slot:
    return program.call(torch.reshape, program.rows(task.source, task.a, task.b), _rows_shape(program, task))


def _expanded(program: Emitter, task: Task) -> Slot:
    return program.call(torch.Tensor.expand, program.rows(task.source, task.a, task.b), _rows_shape(program, task))


def _rows_shape(program: Emitter, task: Task) -> list[int]:
    shape = program.shape(task.site.node)
    shape[task.axis or 0] = task.count
    return shape


# Windows.


def _window(rule: RowRule, a: int, b: int) -> tuple[int, int]:
    """Positions that the windows of output rows ``[a, b)`` cover, padding among them."""
    assert isinstance(rule, Window), f"expected a window, got {rule}"
    first = a * rule.stride - rule.padding
    return first, first + (b - a - 1) * rule.stride + rule.dilation * (rule.kernel - 1) + 1


def _without(value: Any, index: int, spatial: int, rows: int = 0) -> list[int]:
    """A setting for each spatial axis, that of the rows changed."""
    values = [value] * spatial if isinstance(value, int) else list(value)
    values = values * spatial if len(values) == 1 else values
    values[index] = rows
    return values


def _convolution(program: Emitter, task: Task) -> Slot:
    site, spatial = task.site, len(task.site.out_sizes) - 2
    if isinstance(task.rule, Transposed):
        return _transposed(program, task)
    index = task.source_axis - 2
    rows = _padded(program, task, _window(task.rule, task.a, task.b))
    if not isinstance(site.arguments["padding"], str):
        return _convolved(program, task, rows, _without(site.arguments["padding"], index, spatial))
    kernel = sizes(site.arguments["weight"])[2:]
    pads = [conv_padding(site, i, kernel[i] or 0, site.spatial("dilation", i, 1)) for i in range(spatial)]
    pads[index] = (0, 0)
    if any(before != after for before, after in pads):
        rows = program.call(F.pad, rows, [amount for both in reversed(pads) for amount in both])
        pads = [(0, 0)] * spatial
    return _convolved(program, task, rows, [before for before, _ in pads])


def _convolved(program: Emitter, task: Task, rows: Slot, padding: list[int]) -> Slot:
    """The convolution of rows that are padded."""
    site, weight = task.site, task.site.arguments["weight"]
    first, last = _window(task.rule, task.a, task.b)
    batch, _, *size = program.shape(task.source)
    size[task.source_axis - 2] = last - first
    pixel = all(each == 1 for each in sizes(weight)[2:])
    few = pixel and batch * math.prod(size) < FEW_PIXELS
    if few or weight in site.known or not can_pack(weight.meta["val"], site.arguments["groups"]):
        target = None if site.name == "convolution" else getattr(aten, site.name).default
        return _again(program, task, rows, target, padding=padding)
    stride, dilation = ([site.spatial(name, i, 1) for i in (0, 1)] for name in ("stride", "dilation"))
    settings = (padding, stride, dilation)
    # The order for larger kernels does not follow from the number of rows; another one than oneDNN wants costs 20 times
    # the convolution.
    packed = program.prepared(site.node, last - first if pixel else 0, pack, rows, weight, *settings)
    whole = math.prod(size or 1 for size in sizes(task.source))
    return program.call(convolve, rows, packed, site.arguments["bias"], *settings, whole > SMALL and not pixel)


def _transposed(program: Emitter, task: Task) -> Slot:
    """Rows of zeros are added where no input row reaches an output row; they bring the bias only."""
    rule, site, spatial = task.rule, task.site, len(task.site.out_sizes) - 2
    assert isinstance(rule, Transposed), f"expected a transposed convolution, got {rule}"
    first, last = rule.need(task.a, task.b)
    taps = rule.dilation * (rule.kernel - 1) + 1
    if (first, last) == NOTHING:
        first = last = (task.a + rule.padding) // rule.stride
    start = first * rule.stride - rule.padding
    before = max(0, -((task.a - start) // rule.stride))
    end = (last - 1) * rule.stride - rule.padding + taps
    after = max(0, -((end - task.b) // rule.stride))
    if first == last and not before + after:
        after = 1
    start -= before * rule.stride
    rows = _padded(program, task, (first - before, last + after))
    index = task.source_axis - 2
    padding, extra = (_without(site.arguments[name], index, spatial) for name in ("padding", "output_padding"))
    made = _again(program, task, rows, padding=padding, output_padding=extra)
    return _cut(program, task, made, task.a - start, (last + after - first + before - 1) * rule.stride + taps)


def _cut(program: Emitter, task: Task, made: Slot, first: int, there: int) -> Slot:
    """The task's rows of a result that has ``there`` rows, from ``first`` on."""
    if first == 0 and there == task.count:
        return made
    return program.call(torch.narrow, made, task.axis, first, task.count)


def _max_pool(program: Emitter, task: Task) -> Slot:
    span = _window(task.rule, task.a, task.b)
    dtype = task.source.meta["val"].dtype
    fill = float("-inf") if dtype.is_floating_point else torch.iinfo(dtype).min
    rows = _padded(program, task, span, fill)
    padding = _without(task.site.arguments["padding"], task.source_axis - 2, len(task.site.out_sizes) - 2)
    return _again(program, task, rows, padding=padding)


def _first_name(site: Site) -> str:
    return next(iter(site.arguments))


def _avg_pool(program: Emitter, task: Task) -> Slot:
    """At a border the operator's own padding is kept, since the count that it divides by follows from it."""
    rule, site, spatial = task.rule, task.site, len(task.site.out_sizes) - 2
    first, last = _window(rule, task.a, task.b)
    assert isinstance(rule, Window), f"expected a window, got {rule}"
    if first >= 0 and last <= rule.rows:
        rows = program.rows(task.source, first, last)
        padding = _without(site.arguments["padding"], task.source_axis - 2, spatial)
        return _again(program, task, rows, padding=padding)
    skipped = min(task.a, -(-rule.padding // rule.stride))
    start, end = (task.a - skipped) * rule.stride, min(last, rule.rows)
    made = _again(program, task, _padded(program, task, (start, end)))
    return program.call(torch.narrow, made, task.axis, skipped, task.count)


def _adaptive(program: Emitter, task: Task) -> Slot:
    if isinstance(task.rule, RunningSum):
        return _running(program, task)
    site, index = task.site, task.source_axis - 2
    rows = program.rows(task.source, *_window(task.rule, task.a, task.b))
    size = _without(list(site.out_sizes[2:]), index, len(site.out_sizes) - 2, task.count)
    return _again(program, task, rows, output_size=size)


def _pad(program: Emitter, task: Task) -> Slot:
    site, axis, ndim = task.site, task.source_axis, len(task.site.out_sizes)
    if isinstance(task.rule, Identity):
        return _again(program, task, program.rows(task.source, task.a, task.b))
    pad = list(site.arguments["pad"])
    before, _ = pad_of(pad, axis, ndim)
    place = 2 * (ndim - 1 - axis)
    pad[place] = max(0, min(task.b, before) - task.a)
    pad[place + 1] = max(0, task.b - max(task.a, before + task.rule.rows))
    inside = _padded(program, task, task.rule.need(task.a, task.b))
    return _again(program, task, inside, pad=pad)


# Other numbers of rows.


def _upsample(program: Emitter, task: Task) -> Slot:
    """By the operator itself where a part of the image gives the same positions, else row by row with its weights."""
    rule, site = task.rule, task.site
    assert isinstance(rule, Resize), f"expected an interpolation, got {rule}"
    first, last = rule.need(task.a, task.b)
    rows = program.rows(task.source, first, last)
    factor = rule.to_rows // rule.rows
    if _regular(rule, factor):
        made = _resized(program, task, rows, (last - first) * factor)
        return _cut(program, task, made, task.a - first * factor, (last - first) * factor)
    wide = rows if site.out_sizes[3] == sizes(task.source)[3] else _resized(program, task, rows, last - first)
    if rule.to_rows == rule.rows:
        return wide
    if rule.mode == "nearest":
        from_rows = [rule.need(row, row + 1)[0] - first for row in range(task.a, task.b)]
        return program.call(torch.index_select, wide, 2, torch.tensor(from_rows))
    at = torch.from_numpy(rule.positions()[task.a : task.b])
    below = at.floor().clamp(max=rule.rows - 1)
    above = (below + 1).clamp(max=rule.rows - 1)
    return program.call(between_rows, wide, below.long() - first, above.long() - first, (at - below).clamp(0, 1))


def _regular(rule: Resize, factor: int) -> bool:
    """Whether output rows lie in the same places between input rows wherever a part begins, without rounding."""
    power = factor > 0 and factor & (factor - 1) == 0
    return rule.to_rows == factor * rule.rows and power and not rule.align_corners and rule.scale in (None, factor)


def _resized(program: Emitter, task: Task, rows: Slot, count: int) -> Slot:
    """The image as wide as the result, with so many rows."""
    site = task.site
    factors = site.get("scale_factors")
    across = factors[1] if factors else site.get("scales_w")
    size = [count, site.out_sizes[3]]
    if "nearest" in site.name:
        return program.call(aten.upsample_nearest2d.default, rows, size, None, across)
    return program.call(aten.upsample_bilinear2d.default, rows, size, site.flag("align_corners"), None, across)


def between_rows(image: torch.Tensor, below: torch.Tensor, above: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Rows of axis 2 between two others: ``weight`` is the share of ``above``."""
    share = weight.to(image.device, image.dtype).unsqueeze(-1)
    below, above = below.to(image.device), above.to(image.device)
    return torch.lerp(image.index_select(2, below), image.index_select(2, above), share)


def _pixel_shuffle(program: Emitter, task: Task) -> Slot:
    factor = task.site.arguments["upscale_factor"]
    first, last = task.rule.need(task.a, task.b)
    made = _again(program, task, program.rows(task.source, first, last))
    return _cut(program, task, made, task.a - first * factor, (last - first) * factor)


def _running(program: Emitter, task: Task) -> Slot:
    """What input rows ``[a, b)`` contribute to a mean or a sum over all rows."""
    site = task.site
    part = _again(program, task, program.rows(task.source, task.a, task.b))
    return part if site.name == "sum" else program.call(torch.mul, part, task.count / task.rule.rows)


#: Operators with one operand that has rows: others are never cut.
SINGLE = frozenset(
    [
        "linear",
        "layer_norm",
        "rms_norm",
        "batch_norm",
        "_native_batch_norm_legit_no_training",
        "prelu",
        "_prelu_kernel",
        "getitem",
    ]
)
_BY_RULE: dict[type[RowRule], Callable[[Emitter, Task], Slot]] = {
    Identity: _identity,
    Window: _convolution,
    Transposed: _transposed,
    Resize: _upsample,
    RunningSum: _running,
}
SPECIAL: dict[str, Callable[[Emitter, Task], Slot]] = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape"), _reshaped),
    "expand": _expanded,
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices"), _max_pool),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), _avg_pool),
    **dict.fromkeys(
        ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool3d"), _adaptive
    ),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    "pixel_shuffle": _pixel_shuffle,
}
