"""One operator of torch with its row rule, computed on some of its rows: what tests of row rules share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Graph, Node

from rowcast.graphs import Barrier
from rowcast.split.rowops import Slot, Task, emit_rows
from rowcast.split.rowrules import row_rules
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
