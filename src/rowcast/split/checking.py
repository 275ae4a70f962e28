"""Whether operators compute what their model does, and each request of a batch by itself.

The operators are run one by one, with the example alone and, where a batch is possible, beside another input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from rowcast.split.lowering import Lowered, attribute, call

__all__ = ["Comparison", "compare", "doubled", "same"]

#: Relative to the largest element: what another order of additions may change, far below what another input does.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Comparison:
    """What comparing has shown.

    Attributes:
        difference: where the answers differ, in words; ``None``: they agree.
        batch_axes: for each op the axis along which tensors of several requests can be put together.
    """

    difference: str | None
    batch_axes: list[int | None]


class Run:
    """Values of nodes for one call; each is dropped behind the last node that reads it."""

    def __init__(self, lowered: Lowered, tensors: Sequence[torch.Tensor]) -> None:
        self.lowered = lowered
        self.batch = tensors[0].shape[0] if tensors[0].dim() else 1
        self.values: dict[torch.fx.Node, Any] = {}
        self._inputs = iter(tensors)

    def step(self, node: torch.fx.Node) -> Any:
        """The value of the next node."""
        if node.op == "placeholder":
            value = next(self._inputs)
        elif node.op == "get_attr":
            value = attribute(self.lowered.module, str(node.target))
        elif node in self.lowered.batch_code:
            value = eval(self.lowered.batch_code[node], {"batch": self.batch})
        else:
            value = call(node, self.values.__getitem__)
        self.values[node] = value
        return value


def compare(lowered: Lowered, inputs: tuple[Any, ...], answer: Sequence[Any], *, batched: bool) -> Comparison:
    """Compare the operators with the answer of the model.

    Args:
        inputs: of the example.
        answer: the leaves of what the model itself gives for it.
        batched: compare in a batch with other inputs too.
    """
    alone = Run(lowered, pytree.tree_leaves(inputs))
    runs = [alone, Run(lowered, pytree.tree_leaves(_amid(inputs)))] if batched else [alone]
    axes: dict[torch.fx.Node, int | None] = {}
    kept = {value for value in lowered.answer if isinstance(value, torch.fx.Node)}
    with torch.no_grad():
        for node, gone in _order(lowered):
            value, *beside = [run.step(node) for run in runs]
            if node in lowered.shapes:
                sizes = lowered.shapes[node].sizes
                if tuple(value.shape) != sizes:
                    return Comparison(f"{node.name}: shape {list(value.shape)} instead of {list(sizes)}", [])
                axes[node] = _batch_axis(lowered, node, value, beside[0]) if beside else None
            for run in runs:
                for each in gone:
                    if each not in kept:
                        del run.values[each]
    if batched and any(axes.get(node) is None for node in kept if node in lowered.ops):
        return Comparison("an answer depends on the other requests of its batch", [])
    given = [alone.values[value] if isinstance(value, torch.fx.Node) else value for value in lowered.answer]
    return Comparison(_unlike(given, answer), [axes.get(node) for node in lowered.ops])


def doubled(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A batch of two: the example, and another input like it."""
    batch: tuple[Any, ...] = pytree.tree_map(lambda tensor: torch.cat([tensor, _another(tensor)]), inputs)
    return batch


def _amid(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A batch of three: the example between two others."""
    batch: tuple[Any, ...] = pytree.tree_map(
        lambda tensor: torch.cat([_another(tensor), tensor, _another(tensor)]), inputs
    )
    return batch


def _another(tensor: torch.Tensor) -> torch.Tensor:
    """An input like this one: other pixels, other numbers, the same tokens in reverse."""
    turned = tensor.flip(tuple(range(1, tensor.dim())))
    if tensor.is_floating_point():
        return turned + torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)).to(tensor)
    return turned + 85 if tensor.dtype is torch.uint8 else turned


def _order(lowered: Lowered) -> list[tuple[torch.fx.Node, list[torch.fx.Node]]]:
    """Each node with those that nobody reads behind it."""
    nodes = [node for node in lowered.module.graph.nodes if node.op != "output"]
    last = {source: node for node in nodes for source in (node, *node.all_input_nodes)}
    gone: dict[torch.fx.Node, list[torch.fx.Node]] = {node: [] for node in nodes}
    for source, node in last.items():
        gone[node].append(source)
    return list(gone.items())


def _batch_axis(lowered: Lowered, node: torch.fx.Node, alone: torch.Tensor, beside: torch.Tensor) -> int | None:
    axis = lowered.shapes[node].batch_axis
    if axis is None:
        return None
    return axis if _close(alone, beside.narrow(axis, alone.shape[axis], alone.shape[axis])) else None


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    a, b = a.detach(), b.detach()
    if not a.is_floating_point():
        return torch.equal(a, b)
    most = float(torch.nan_to_num(a, 0.0, 0.0, 0.0).abs().max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE * most, equal_nan=True)


def same(given: Sequence[Any], answer: Sequence[Any]) -> bool:
    """Whether the leaves of two answers agree, but for rounding."""
    return _unlike(given, answer) is None


def _unlike(given: Sequence[Any], answer: Sequence[Any]) -> str | None:
    """The first difference between two answers."""
    if len(given) != len(answer):
        return f"{len(given)} values instead of {len(answer)}"
    for place, (mine, own) in enumerate(zip(given, answer, strict=True)):
        if isinstance(mine, torch.Tensor) != isinstance(own, torch.Tensor):
            return f"value {place}: {type(mine).__name__} instead of {type(own).__name__}"
        if not isinstance(mine, torch.Tensor):
            if mine != own:
                return f"value {place}: {mine!r} instead of {own!r}"
        elif mine.shape != own.shape or mine.dtype != own.dtype:
            return f"value {place}: {mine.dtype} {list(mine.shape)} instead of {own.dtype} {list(own.shape)}"
        elif not _close(own, mine):
            return f"value {place}: other elements, by up to {float((own - mine).abs().max()):.3g}"
    return None
