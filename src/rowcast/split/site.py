"""One operator of a captured graph as the row rules see it: its arguments by name, and the rows of what it reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.fx import Node

from rowcast.graphs import RowRule

__all__ = ["Place", "Rows", "Site", "axes_of", "axis_of", "concrete", "concrete_number", "sizes"]

#: Sizes of a tensor; ``None`` where a size follows the number of requests in a batch.
Sizes = tuple[int | None, ...]


@dataclass(frozen=True)
class Rows:
    """Which axis of a tensor its rows lie along; ``None``: it has no rows, and is there whole or not at all."""

    count: int
    axis: int | None


#: What is said of an operator: its row rule, and the row axis of its tensor.
Place = tuple[RowRule, int | None]


def sizes(node: Node) -> Sizes:
    """Those of a node's tensor; of a tuple of tensors those of its first one; ``()`` where it makes neither."""
    value = node.meta.get("val")
    if isinstance(value, (tuple, list)) and value:
        value = value[0]
    if not isinstance(value, torch.Tensor):
        return ()
    return tuple(size if isinstance(size, int) else None for size in value.shape)


class Site:
    """A call of an operator.

    Args:
        node: it; its target is an ``OpOverload`` or ``operator.getitem``.
        known: the rows of the tensors that depend on an input of the model; all other tensors are constants.
    """

    def __init__(self, node: Node, known: Mapping[Node, Rows]) -> None:
        self.node = node
        self.known = known
        target = node.target
        #: Its name without the overload: ``conv2d``; ``getitem``.
        self.name = str(getattr(target, "_opname", None) or getattr(target, "__name__", target))

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """Its arguments by the names of its schema, defaults filled in."""
        schema = getattr(self.node.target, "_schema", None)
        if schema is None:
            return {str(index): value for index, value in enumerate(self.node.args)} | dict(self.node.kwargs)
        given = dict(zip((argument.name for argument in schema.arguments), self.node.args, strict=False))
        return {
            argument.name: given.get(argument.name, self.node.kwargs.get(argument.name, argument.default_value))
            for argument in schema.arguments
        }

    @cached_property
    def inputs(self) -> tuple[Node, ...]:
        """The tensors that it reads and that depend on an input of the model, each once."""
        return tuple(node for node in self.node.all_input_nodes if node in self.known)

    @cached_property
    def out_sizes(self) -> Sizes:
        return sizes(self.node)

    def get(self, *names: str) -> Any:
        """The first of these arguments that the schema has; ``None`` where it has none."""
        return next((self.arguments[name] for name in names if name in self.arguments), None)

    def flag(self, name: str) -> bool:
        return bool(self.arguments.get(name, False))

    def sole(self) -> tuple[Node, int, int] | None:
        """Tensor, row axis and rows where it reads one tensor that has rows, as its first argument, and no other."""
        if len(self.inputs) != 1 or self.get("input", "self", "tensors", "tensor", "0") is not self.inputs[0]:
            return None
        rows = self.known[self.inputs[0]]
        return None if rows.axis is None else (self.inputs[0], rows.axis, rows.count)

    def spatial(self, name: str, index: int, default: int) -> int:
        """An argument for each spatial axis (``stride``), of spatial axis ``index``; it may be given once for all."""
        value = self.arguments.get(name)
        if isinstance(value, int):
            return value
        return default if not value else int(value[index if len(value) > 1 else 0])


def axis_of(dim: int, ndim: int) -> int:
    """A dimension counted from the front."""
    return dim + ndim if dim < 0 else dim


def axes_of(dims: int | Iterable[int] | None, ndim: int) -> tuple[int, ...]:
    """Dimensions counted from the front; all where none are given."""
    if dims is None:
        return tuple(range(ndim))
    listed = (dims,) if isinstance(dims, int) else tuple(dims)
    return tuple(axis_of(dim, ndim) for dim in listed) or tuple(range(ndim))


def concrete(node: Node, batch: int) -> list[int]:
    """Sizes of its tensor for so many requests."""
    return [size if isinstance(size, int) else concrete_number(size, batch) for size in node.meta["val"].shape]


def concrete_number(number: torch.SymInt, batch: int) -> int:
    """A number that follows from the size of the batch."""
    formula = number.node.expr
    return int(formula.subs(dict.fromkeys(formula.free_symbols, batch)))
