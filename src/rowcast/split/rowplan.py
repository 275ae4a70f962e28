"""What streams over the same operators of a model share: their rules, and the steps that were planned."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch.fx import Node

from rowcast.errors import ConfigError, LocalProtocolError
from rowcast.graphs import RowRule
from rowcast.graphs.rules import NOTHING
from rowcast.split.captured import Captured
from rowcast.split.lowering import PREFIX, attribute
from rowcast.split.packed import can_pack, channels_last
from rowcast.split.rowrules import row_rules
from rowcast.split.rowstep import Chunk, Layout, Step, plan_step
from rowcast.split.site import Rows, Site, concrete, sizes

__all__ = ["KEPT_STEPS", "Outside", "RowPlan"]

#: Steps that a plan keeps: 16 slabs of which any number arrive at once have 136.
KEPT_STEPS = 512
#: A convolution waits for so many pixels of its result where its weight has so many elements: bringing the weight into
#: oneDNN's order takes as long as 50 of them.
LEAST_PIXELS = 64
LARGE_WEIGHT = 1 << 16
#: Plans that are kept for each model; a robot changes between few.
KEPT_PLANS = 64


@dataclass(frozen=True)
class Outside:
    """A tensor of which rows are pushed.

    Attributes:
        label: how a message calls it.
        shape: its sizes for one request.
        axis: its row axis; ``None``: it comes whole.
        batch_axis: where requests are put together; ``None``: it is of one request.
        rows: how many it has.
    """

    label: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    axis: int | None
    batch_axis: int | None
    rows: int

    def count(self, rows: torch.Tensor, there: int) -> tuple[int, int | None]:
        """How many rows these are, and the requests in their batch; ``None`` where that cannot be seen.

        Args:
            there: rows that have come before.

        Raises:
            ConfigError: they are not rows of this tensor.
            LocalProtocolError: there are not so many rows.
        """
        if not isinstance(rows, torch.Tensor) or rows.dtype is not self.dtype:
            got = rows.dtype if isinstance(rows, torch.Tensor) else type(rows).__name__
            raise ConfigError(f"rows of {self.label}: expected a tensor of {self.dtype}, got {got}")
        free = {self.axis, self.batch_axis}
        fits = rows.dim() == len(self.shape) and all(
            axis in free or size == given for axis, (size, given) in enumerate(zip(self.shape, rows.shape, strict=True))
        )
        requests = None
        if fits and self.batch_axis is not None:
            requests, rest = divmod(rows.shape[self.batch_axis], self.shape[self.batch_axis])
            fits = requests > 0 and rest == 0
        if not fits:
            raise ConfigError(f"rows of {self.label}: expected shape {self._shown()}, got {list(rows.shape)}")
        count = 1 if self.axis is None else rows.shape[self.axis]
        if there + count > self.rows:
            raise LocalProtocolError(
                f"rows of {self.label}: expected at most {self.rows - there} more, since {there} of {self.rows} rows "
                f"are there, got {count}; call reset before the rows of another request"
            )
        return count, requests

    def _shown(self) -> str:
        named = {self.axis: "rows", self.batch_axis: "batch"}
        sizes = [
            f"{size} * batch" if axis == self.batch_axis and size > 1 else named.get(axis, str(size))
            for axis, size in enumerate(self.shape)
        ]
        return f"[{', '.join(sizes)}]"


class RowPlan:
    """Operators of a captured model that are to be computed row by row.

    Args:
        captured: the model; it is not kept.
        ops: numbers of operators; inputs of the model among them are ignored.
        wanted: numbers of the operators whose rows are to be taken.

    Attributes:
        ops: in order.
        rules, axes: of every operator of the model: its row rule, and the row axis of its tensor.
        numbers: number of a node's operator.
        outside: tensors of which rows are pushed.
        part: the same operators for all rows at once.

    Raises:
        ConfigError: an operator that the graph does not have, or a wanted one that has several results.
    """

    def __init__(self, captured: Captured, ops: Iterable[int], wanted: Sequence[int]) -> None:
        self.graph = captured.graph
        self.nodes = captured.nodes
        self.part = captured.part(ops, wanted)
        self.ops, self.wanted = self.part.ops, tuple(dict.fromkeys(self.part.wanted))
        self.numbers: dict[Node, int] = {node: op for op, node in enumerate(self.nodes)}
        inputs = [captured.tensors[op] for op in self.graph.inputs]
        places = row_rules(self.nodes, [kind.row_axis or None if kind is not None else None for kind in inputs])
        self.rules: tuple[RowRule, ...] = tuple(rule for rule, _ in places)
        self.axes: tuple[int | None, ...] = tuple(axis for _, axis in places)
        self.outside: dict[int, Outside] = {op: self._outside(captured, op) for op in self.part.reads}
        #: All rows of all tensors that are read.
        self.everything = tuple((op, kind.rows) for op, kind in self.outside.items())
        for op in self.wanted:
            self._check_travels(captured, op)
        self._lowered, self._net = captured.code.lowered, captured.net
        self._known = {node: Rows(rule.out_rows, axis) for node, (rule, axis) in zip(self.nodes, places, strict=True)}
        self._sites: dict[int, Site] = {}
        self._shapes: dict[tuple[Node, int], list[int]] = {}
        self._pixels: dict[int, int] = {}
        self._held: dict[Node, tuple[Any, str]] = {}
        inside = set(self.ops)
        self._consumers = {
            op: tuple(reader for reader in readers if reader in inside)
            for op, readers in enumerate(self.graph.consumers)
        }
        self._steps: OrderedDict[tuple[Any, ...], Step] = OrderedDict()
        self._layouts: WeakValueDictionary[tuple[Any, ...], Layout] = WeakValueDictionary()
        self.start = self.layout((0,) * len(self.graph), ())
        #: All rows are there, and nothing is kept.
        self.end = self.layout(tuple(rule.out_rows for rule in self.rules), ())

    @staticmethod
    def of(captured: Captured, ops: Iterable[int], wanted: Sequence[int]) -> RowPlan:
        """The plan for these operators, which all streams over them share."""
        plans = _PLANS.setdefault(captured, OrderedDict())
        key = (tuple(sorted(set(ops))), tuple(wanted))
        plan = plans.pop(key, None) or RowPlan(captured, *key)
        plans[key] = plan
        if len(plans) > KEPT_PLANS:
            plans.popitem(last=False)
        return plan

    def step(self, layout: Layout, arrived: tuple[tuple[int, int], ...], batch: int) -> Step:
        """What is to be done when so many rows of these tensors are there; planned once."""
        key = (layout, arrived, batch)
        step = self._steps.get(key)
        if step is None:
            step = self._steps[key] = plan_step(self, layout, arrived, batch)
            while len(self._steps) > KEPT_STEPS:
                self._steps.popitem(last=False)
        else:
            self._steps.move_to_end(key)
        return step

    def layout(self, rows: tuple[int, ...], chunks: tuple[Chunk, ...]) -> Layout:
        """The layout with this content."""
        key = (rows, chunks)
        found = self._layouts.get(key)
        if found is None:
            found = self._layouts[key] = Layout(rows, chunks)
        return found

    def site(self, op: int) -> Site:
        """An operator's call."""
        if op not in self._sites:
            self._sites[op] = Site(self.nodes[op], self._known)
        return self._sites[op]

    def shape(self, node: Node, batch: int) -> list[int]:
        """Sizes of a node's tensor for so many requests."""
        if (node, batch) not in self._shapes:
            self._shapes[node, batch] = concrete(node, batch)
        return self._shapes[node, batch].copy()

    def held(self, node: Node) -> tuple[Any, str]:
        """The dictionary in which the value of a parameter or constant is at any time, and its key."""
        if node not in self._held:
            self._held[node] = self._find(node)
        return self._held[node]

    def _find(self, node: Node) -> tuple[Any, str]:
        name = str(node.target)
        if name not in self._lowered.live:
            return {"value": attribute(self._lowered.module, name)}, "value"
        owner, _, own = name.removeprefix(PREFIX).rpartition(".")
        module = self._net.get_submodule(owner)
        return (module._parameters if own in module._parameters else module._buffers), own

    def least_rows(self, op: int, batch: int) -> int:
        """How many new rows there must be for an operator to be worth a call before it has all of its input.

        A convolution with a large weight and few pixels takes as long as one with more.
        """
        if op not in self._pixels:
            self._pixels[op] = pixels_of_row(self.site(op))
        pixels = self._pixels[op]
        return 1 if pixels == 0 else -(-LEAST_PIXELS // (pixels * batch))

    def first_needed(self, op: int, now: Sequence[int], summed: Mapping[int, tuple[int, Any]]) -> int:
        """The first row of a tensor that an operator will still read.

        Args:
            now: for each operator the rows of its tensor that are there.
            summed: for running sums the input rows that are added up.
        """
        first = self.rules[op].out_rows
        for reader in self._consumers[op]:
            rule = self.rules[reader]
            if now[reader] == rule.out_rows:
                continue
            if rule.rows != self.rules[op].out_rows:
                return 0  # it reads this tensor whole
            first = min(first, summed[reader][0] if reader in summed else first_reads(rule)[now[reader]])
        return first

    def _outside(self, captured: Captured, op: int) -> Outside:
        self._check_travels(captured, op)
        kind = captured.tensors[op]
        dtype = self.nodes[op].meta["val"].dtype
        shape = kind.shape if kind is not None else tuple(self.nodes[op].meta["val"].shape)
        rows = self.rules[op].out_rows
        return Outside(self.graph.label(op), dtype, shape, self.axes[op], captured.batch_axes[op], rows)

    def _check_travels(self, captured: Captured, op: int) -> None:
        if not isinstance(captured.nodes[op].meta["val"], torch.Tensor):
            raise ConfigError(
                f"rows of operator {captured.graph.label(op)}: it has several results; name the operators behind it "
                "that take them apart"
            )


_PLANS: WeakKeyDictionary[Captured, OrderedDict[Any, RowPlan]] = WeakKeyDictionary()


def pixels_of_row(site: Site) -> int:
    """Pixels of a row of what a convolution makes whose large weight is put in order at each call; else 0."""
    weight = site.arguments.get("weight")
    if not site.name.startswith("conv") or not isinstance(weight, Node):
        return 0
    if channels_last(site.inputs[0].meta["val"]) and can_pack(weight.meta["val"], site.arguments["groups"]):
        return 0
    if math.prod(size or 1 for size in sizes(weight)) < LARGE_WEIGHT or len(site.out_sizes) != 4:
        return 0
    axis = site.known[site.node].axis
    return math.prod(size or 1 for size in site.out_sizes[2:]) // (site.out_sizes[axis] or 1) if axis else 0


@lru_cache(maxsize=4096)
def first_reads(rule: RowRule) -> tuple[int, ...]:
    """For each output row the first input row that it or a later one reads; ``rows`` where they read none."""
    first = rule.rows
    reads = []
    for row in range(rule.out_rows - 1, -1, -1):
        span = rule.need(row, row + 1)
        first = first if span == NOTHING else min(first, span[0])
        reads.append(first)
    return tuple(reads[::-1])
