"""From rows that arrive to a program: which operator computes which rows, and which rows are kept for later.

All follows from the row rules and from how many rows of each tensor there are, so a step is planned once for each
pattern in which rows arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from rowcast.split.code import ANY_ORDER
from rowcast.split.program import Call, Program
from rowcast.split.rowops import Slot, Task, emit_rows
from rowcast.split.site import concrete_number, sizes

if TYPE_CHECKING:
    from rowcast.split.rowplan import RowPlan

__all__ = ["Chunk", "Layout", "Step", "plan_step"]

ROWS, TOTAL, PREPARED = "rows", "total", "prepared"


@dataclass(frozen=True)
class Chunk:
    """Rows ``[first, last)`` of an operator's tensor that are kept.

    Attributes:
        kind: :data:`ROWS`; :data:`TOTAL`: of a running sum what these input rows came to; :data:`PREPARED`: what the
            operator made of its parameters for slabs of so many rows.
    """

    op: int
    first: int
    last: int
    kind: str = ROWS


@dataclass(frozen=True, eq=False)
class Layout:
    """What a stream holds between two pushes; there is one object for each content.

    Attributes:
        rows: for each operator the rows of its tensor that were there: computed, or pushed.
        chunks: what is kept, in the order of the values.
    """

    rows: tuple[int, ...]
    chunks: tuple[Chunk, ...] = ()


@dataclass(frozen=True)
class Step:
    """One push, planned.

    Attributes:
        program: from what is kept and the new rows to ``made`` rows of wanted tensors and what is kept then.
        made: wanted operators of which rows are given, in the order of the results.
        after: what is kept then, behind those in the results.
    """

    program: Program
    made: tuple[int, ...]
    after: Layout


def plan_step(plan: RowPlan, layout: Layout, arrived: Sequence[tuple[int, int]], batch: int) -> Step:
    """The step that brings more rows of some tensors.

    Args:
        arrived: operators of which rows arrive, and how many rows of them there are then, in the order in which the
            rows are given behind the chunks.
        batch: requests in the batch.
    """
    return _Planner(plan, layout, batch).step(arrived)


@dataclass
class _Planner:
    """A program being written; what of each tensor is there, and where."""

    plan: RowPlan
    layout: Layout
    batch: int
    size: int = 0
    calls: list[Call] = field(default_factory=list)
    fetched: dict[tuple[int, str], tuple[int, Any, str]] = field(default_factory=dict)
    chunks: dict[int, list[tuple[int, int, Slot]]] = field(default_factory=dict)
    totals: dict[int, tuple[int, Slot]] = field(default_factory=dict)
    once: dict[int, tuple[int, Slot]] = field(default_factory=dict)
    cache: dict[Any, Slot] = field(default_factory=dict)

    def step(self, arrived: Sequence[tuple[int, int]]) -> Step:
        now = list(self.layout.rows)
        for chunk in self.layout.chunks:
            if chunk.kind == TOTAL:
                self.totals[chunk.op] = (chunk.last, self._slot())
            elif chunk.kind == PREPARED:
                self.once[chunk.op] = (chunk.last, self._slot())
            else:
                self.chunks.setdefault(chunk.op, []).append((chunk.first, chunk.last, self._slot()))
        for op, there in arrived:
            self.chunks.setdefault(op, []).append((now[op], there, self._slot()))
            now[op] = there
        given = self.size
        for op in self.plan.ops:
            self._advance(op, now)
        made = [op for op in self.plan.wanted if now[op] > self.layout.rows[op]]
        results = [self._joined(op, self.layout.rows[op], now[op]).index for op in made]
        kept = list(self._kept(now))
        results += [slot.index for _, slot in kept]
        program = Program(self.size, given, list(self.fetched.values()), self.calls, results)
        return Step(program, tuple(made), self.plan.layout(tuple(now), tuple(chunk for chunk, _ in kept)))

    def _advance(self, op: int, now: list[int]) -> None:
        """Compute what can be of an operator."""
        rule = self.plan.rules[op]
        there = self.plan.graph.read_rows(op, now)
        before, after = now[op], rule.can(there)
        if there < rule.rows and 0 < after - before < self.plan.least_rows(op, self.batch):
            return
        if rule.incremental:
            self._add_up(op, there)
            if after == 0:
                return
        if after == before:
            return
        if rule.incremental and op in self.totals:
            _, made = self.totals.pop(op)
        elif before == 0 and after == rule.out_rows:
            made = self._as_it_is(op)
        else:
            made = emit_rows(self, self._task(op, before, after))
            self._may_overwrite(op, made, before, after)
        self.chunks.setdefault(op, []).append((before, after, made))
        now[op] = after

    def _add_up(self, op: int, there: int) -> None:
        summed, total = self.totals.get(op, (0, None))
        if there == summed or (total is None and there == self.plan.rules[op].rows):
            return  # nothing new, or all at once: the operator itself
        part = emit_rows(self, self._task(op, summed, there))
        self.totals[op] = (there, part if total is None else self.call(torch.ops.aten.add.Tensor, total, part))

    def _task(self, op: int, a: int, b: int) -> Task:
        return Task(self.plan.site(op), self.plan.rules[op], self.plan.axes[op], a, b)

    def _as_it_is(self, op: int) -> Slot:
        node = self.plan.nodes[op]
        known = self.plan.numbers
        args, kwargs = (
            _mapped(given, lambda each: self.whole(each) if each in known else each)
            for given in (node.args, node.kwargs)
        )
        made = self.call(node.target, *args, **kwargs)  # type: ignore[arg-type]
        self._may_overwrite(op, made, 0, self.plan.rules[op].out_rows)
        return made

    def _may_overwrite(self, op: int, made: Slot, a: int, b: int) -> None:
        """Where the result is like the first operand it can take its place."""
        call = self.calls[-1]
        node = self.plan.nodes[op]
        first = node.args[0] if node.args else None
        if call.result != made.index or not (call.args and isinstance(call.args[0], Slot) and isinstance(first, Node)):
            return
        value, like = node.meta["val"], first.meta["val"]
        tensors = isinstance(value, torch.Tensor) and isinstance(like, torch.Tensor)
        if tensors and value.dtype == like.dtype and sizes(node) == sizes(first):
            call.like = call.args[0].index

    def _kept(self, now: Sequence[int]) -> list[tuple[Chunk, Slot]]:
        """What later steps need of what is there, in order; small rests of large chunks are copied out of them."""
        kept = []
        for op in sorted(self.chunks):
            first_needed = self.plan.first_needed(op, now, self.totals)
            for first, last, slot in self.chunks[op]:
                if last <= first_needed:
                    continue
                start = max(first, first_needed)
                kept.append((Chunk(op, start, last), self._rest(op, (first, last, slot), start)))
        kept += [(Chunk(op, 0, there, TOTAL), slot) for op, (there, slot) in self.totals.items()]
        rules = self.plan.rules
        kept += [
            (Chunk(op, 0, size, PREPARED), slot)
            for op, (size, slot) in self.once.items()
            if now[op] < rules[op].out_rows
        ]
        return kept

    def _rest(self, op: int, chunk: tuple[int, int, Slot], start: int) -> Slot:
        first, last, slot = chunk
        if start == first:
            return slot
        rest = self._cut(op, slot, start - first, last - start)
        return self.call(torch.clone, rest) if 2 * (last - start) < last - first else rest

    # What the program consists of (:class:`rowcast.split.rowops.Emitter`).

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Slot:
        given = (_mapped(args, self._constant), _mapped(kwargs, self._constant))
        result = self._slot()
        function = ANY_ORDER.get(function, function)
        self.calls.append(Call(function, tuple(given[0]), dict(given[1]), result.index))
        return result

    def rows(self, node: Node, first: int, last: int) -> Slot:
        return self._joined(self.plan.numbers[node], first, last)

    def whole(self, node: Node) -> Slot:
        op = self.plan.numbers[node]
        return self._joined(op, 0, self.plan.rules[op].out_rows)

    def shape(self, node: Node) -> list[int]:
        return self.plan.shape(node, self.batch)

    def prepared(self, node: Node, rows: int, function: Callable[..., Any], *args: Any) -> Slot:
        op = self.plan.numbers[node]
        if op not in self.once or self.once[op][0] != rows:
            self.once[op] = (rows, self.call(function, *args))
        return self.once[op][1]

    def _joined(self, op: int, first: int, last: int) -> Slot:
        """Rows of a tensor, from the chunks in which they are."""
        key = (op, first, last)
        if key not in self.cache:
            parts = [
                self._cut(op, slot, max(first, low) - low, min(last, high) - max(first, low), high - low)
                for low, high, slot in self.chunks[op]
                if low < last and first < high
            ]
            self.cache[key] = (
                parts[0] if len(parts) == 1 else self.call(torch.ops.aten.cat.default, parts, self.plan.axes[op])
            )
        return self.cache[key]

    def _cut(self, op: int, slot: Slot, start: int, count: int, of: int = -1) -> Slot:
        if (start, count) == (0, of):
            return slot
        return self.call(torch.narrow, slot, self.plan.axes[op], start, count)

    def _slot(self) -> Slot:
        self.size += 1
        return Slot(self.size - 1)

    def _constant(self, node: Node) -> Any:
        """A value that depends on no input: a number that follows from the batch, a parameter, or made of those."""
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt):
            return concrete_number(value, self.batch)
        if node in self.cache:
            return self.cache[node]
        if node.op == "get_attr":
            held, name = self.plan.held(node)
            slot = self._slot()
            self.fetched[id(held), name] = (slot.index, held, name)
        else:
            slot = self.call(node.target, *node.args, **node.kwargs)  # type: ignore[arg-type]
        self.cache[node] = slot
        return slot


def _mapped(arguments: Any, change: Callable[[Node], Any]) -> Any:
    """Arguments of a call, nodes in them changed, also in lists."""
    return map_arg(arguments, change)
