"""A captured model as lines of text, and digests of it: the same in every process and on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import Node

from rowcast.split.lowering import PREFIX, Lowered, attribute

__all__ = ["digest_of", "graph_lines", "tensor_digest", "tensor_lines"]

#: Bytes of a digest.
SIZE = 16


def graph_lines(lowered: Lowered, names: list[str]) -> list[str]:
    """One line for each operator and each helper, and one for the answer: what it computes from what.

    Devices are left out: one side may compute on a processor, the other on a GPU.

    Args:
        names: of the operators.
    """
    called: dict[Node, str] = {node: f"%{index}" for node, index in lowered.ops.items()}
    called |= {node: f"%h{index}" for index, node in enumerate(lowered.helpers)}
    lines = []
    for node in [*lowered.ops, *lowered.helpers]:
        label = (
            f"operator {called[node][1:]} ({names[lowered.ops[node]]})"
            if node in lowered.ops
            else f"helper {called[node][1:]}"
        )
        if node in lowered.batch_code:
            what = lowered.batch_code[node]
        else:
            arguments = [_text(value, called, lowered) for value in node.args]
            arguments += [
                f"{key}={_text(value, called, lowered)}"
                for key, value in sorted(node.kwargs.items())
                if key != "device"
            ]
            what = f"{_target(node)}({', '.join(arguments)})"
        shape = lowered.shapes.get(node)
        made = f" -> {_dtype(node.meta['val'].dtype)} {list(shape.sizes)}" if shape else ""
        lines.append(f"{label}: {what}{made}")
    return [*lines, f"answer: {_text(lowered.answer, called, lowered)}"]


def tensor_lines(lowered: Lowered, net: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """For each parameter, buffer and constant that is read: its name, type and shape in a line, and the tensor."""
    for node in lowered.module.graph.find_nodes(op="get_attr"):
        live = node.target in lowered.live
        value = attribute(net, _name(node)) if live else attribute(lowered.module, str(node.target))
        if isinstance(value, torch.Tensor):
            yield f"{_kind(node, lowered)} {_name(node)}: {_dtype(value.dtype)} {list(value.shape)}", value


def digest_of(lines: Iterator[str] | list[str]) -> bytes:
    """16 bytes of lines."""
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=SIZE).digest()


def tensor_digest(tensor: torch.Tensor) -> bytes:
    """16 bytes of the values of a tensor, in the order of its axes."""
    values: Any = tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy()
    return hashlib.blake2b(values, digest_size=SIZE).digest()


def _text(value: Any, called: dict[Node, str], lowered: Lowered) -> str:
    if isinstance(value, Node):
        if value in called:
            return called[value]
        held = attribute(lowered.module, str(value.target))
        if not isinstance(held, torch.Tensor):
            return str(getattr(held, "code", type(held).__name__)).strip().replace("\n", ";")
        return f"{_kind(value, lowered)} {_name(value)}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(_text(each, called, lowered) for each in value)}]"
    return "a device" if isinstance(value, torch.device) else str(value)


def _kind(node: Node, lowered: Lowered) -> str:
    return "parameter" if node.target in lowered.live else "constant"


def _name(node: Node) -> str:
    return str(node.target).removeprefix(PREFIX)


def _target(node: Node) -> str:
    if isinstance(node.target, torch._ops.OperatorBase):
        return str(node.target)
    return "input" if node.op == "placeholder" else str(getattr(node.target, "__name__", node.target))


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
