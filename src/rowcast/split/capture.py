"""A live PyTorch module as a :class:`Captured` model."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from rowcast.codecs.tensors import TensorType
from rowcast.codecs.tensors.base import DTYPES
from rowcast.errors import CaptureError, ConfigError
from rowcast.graphs import Graph, Op
from rowcast.split.captured import Captured
from rowcast.split.checking import compare, doubled, same
from rowcast.split.exporting import NotFollowed, export, failure_of_its_own
from rowcast.split.inputs import InputType, input_types
from rowcast.split.lowering import PREFIX, Lowered, lower
from rowcast.split.rowrules import default_axis, row_rules

__all__ = ["UNSENDABLE_BYTES", "capture"]

#: Size in the graph of a tensor that cannot travel: no plan lets it, since it would take half a minute at 1 Gbit/s. Not
#: more, since planners count nanoseconds as whole numbers.
UNSENDABLE_BYTES = 1 << 32
Axes = int | None | Sequence[int | None]
#: torch.export changes what all threads see while it runs.
_CAPTURING = threading.Lock()


def capture(net: torch.nn.Module, example: Any, *, row_axis: Axes = None) -> Captured:
    """The operators of a model.

    It takes seconds, nearly all of them in torch.export: some ten for a model of 500 operators. Move the model to its
    device before. One model is captured at a time, whatever thread asks.

    Args:
        net: the model, in evaluation (``net.eval()``). Its parameters are not copied: the captured model answers with
            what they are at the time.
        example: a tensor as ``forward`` takes it, or a tuple of its arguments, each a tensor or a structure of
            tensors, the axis of the batch in front. Begin with what the camera gives: put the normalisation of an
            uint8 image into the model. With an example of batch 1 the captured model takes any batch, unless
            ``forward`` treats its inputs differently in a batch, or not each by itself.
        row_axis: the axis along which an input is cut into rows, or one for each input, ``None`` among them where it
            has no rows. By default 1 for four axes the last of which has 1, 3 or 4 elements (an image), 2 for other
            four axes, 1 for three, else none.

    Raises:
        CaptureError: no module in evaluation, an example of the wrong kind, or a model that is no graph of operators
            which is the same for all inputs; the message names the line of its code, and what to do.
        ConfigError: an axis that an input does not have.
    """
    with _CAPTURING:
        return _capture(net, example, row_axis)


def _capture(net: torch.nn.Module, example: Any, row_axis: Axes) -> Captured:
    _check_net(net)
    inputs = example if isinstance(example, tuple) else (example,)
    tensors = input_types(net, inputs, batched=False)
    if all(each.shape[:1] == (1,) for each in tensors):
        captured = _captured(net, inputs, row_axis, batched=True)
        if captured is not None:
            return captured
    captured = _captured(net, inputs, row_axis, batched=False)
    assert captured is not None
    return captured


def _check_net(net: object) -> None:
    if not isinstance(net, torch.nn.Module):
        raise CaptureError(f"capture: expected a torch.nn.Module, got {type(net).__name__}")
    if isinstance(net, torch.jit.ScriptModule):
        raise CaptureError("capture: expected a module in Python, got a script; give the module that it was made of")
    training = next((name for name, module in net.named_modules() if module.training), None)
    if training is not None:
        where = f"its module {training!r} is" if training else "it is"
        raise CaptureError(
            f"capture: expected a model in evaluation, but {where} in training mode; call net.eval() first "
            "(dropout and batch norm compute otherwise)"
        )


def _captured(net: torch.nn.Module, inputs: tuple[Any, ...], row_axis: Axes, *, batched: bool) -> Captured | None:
    """The captured model; ``None`` where ``batched`` and it cannot be captured for any batch."""
    try:
        program = export(net, doubled(inputs) if batched else inputs, batched=batched)
    except NotFollowed:
        if batched:
            return None
        _run(net, inputs)
        raise
    lowered = lower(program)
    if batched and not all(
        node in lowered.shapes and lowered.shapes[node].batch_axis is not None for node in lowered.tensor_ops
    ):
        return None
    types = input_types(net, inputs, batched)
    axes = _row_axes(types, row_axis)
    answer, structure = pytree.tree_flatten(_checked_run(net, inputs))
    found = compare(lowered, inputs, answer, batched=batched)
    if found.difference is not None:
        if batched:
            return None
        raise CaptureError(
            f"capture: the operators answer otherwise than the model itself: {found.difference}; does forward read "
            "a clock or a file, or change with each call?"
        )
    graph, tensors = _graph(lowered, types, axes)
    structures = (pytree.tree_structure(inputs), structure)
    return Captured(net, lowered, graph, tensors, types, structures, found.batch_axes)


def _checked_run(net: torch.nn.Module, inputs: tuple[Any, ...]) -> Any:
    """The answer of the model itself; an error where it remembers the call."""
    before = {name: dict(vars(module)) for name, module in net.named_modules()}
    answer = _run(net, inputs)
    changed = [
        f"{name}.{key}".removeprefix(".")
        for name, module in net.named_modules()
        for key, value in vars(module).items()
        if before.get(name, {}).get(key) is not value
    ]
    if changed and not same(pytree.tree_leaves(answer), pytree.tree_leaves(_run(net, inputs))):
        raise CaptureError(
            f"capture: forward keeps a state in {changed[0]!r}: it answers the same input otherwise the second time. "
            "An inference may be computed on either side, or on both: return the new state and give it back as an input"
        )
    return answer


def _run(net: torch.nn.Module, inputs: tuple[Any, ...]) -> Any:
    """The answer of the model itself."""
    try:
        with torch.no_grad():
            return net(*inputs)
    except Exception as error:  # of the user's code
        raise failure_of_its_own(error) from error


def _row_axes(types: Sequence[InputType], given: Axes) -> list[int | None]:
    """The row axis of each input."""
    if given is None:
        return [default_axis(each.shape) for each in types]
    axes: list[int | None] = [given] * len(types) if isinstance(given, int) else list(given)
    if len(axes) != len(types):
        raise ConfigError(f"row_axis: expected one axis, or one for each of {len(types)} inputs, got {len(axes)}")
    for kind, axis in zip(types, axes, strict=True):
        if axis is not None and not (isinstance(axis, int) and 0 < axis < len(kind.shape)):
            raise ConfigError(
                f"row_axis: input {kind.name!r}: expected an axis in 1 .. {len(kind.shape) - 1} (0 is the batch) or "
                f"None, got {axis!r}"
            )
    return axes


def _graph(
    lowered: Lowered, types: Sequence[InputType], axes: Sequence[int | None]
) -> tuple[Graph, list[TensorType | None]]:
    nodes = list(lowered.ops)
    input_names = iter([each.name for each in types])
    ops, tensors = [], []
    for node, (rule, axis) in zip(nodes, row_rules(nodes, axes), strict=True):
        tensor = _tensor_type(lowered, node, axis)
        sources = lowered.sources[node]
        name = next(input_names) if node.op == "placeholder" else _name(node)
        several = not isinstance(node.meta["val"], torch.Tensor)
        size = lowered.nbytes.get(node) if tensor or several else None
        joined = bool(sources) and not isinstance(sources[0].meta["val"], torch.Tensor)
        ops.append(
            Op(
                tuple(lowered.ops[source] for source in sources),
                UNSENDABLE_BYTES if size is None else size,
                rule,
                name,
                joined=joined,
            )
        )
        tensors.append(tensor)
    outputs = [
        lowered.ops[value] for value in lowered.answer if isinstance(value, torch.fx.Node) and value in lowered.ops
    ]
    if not outputs:
        raise CaptureError("capture: the answer of the model does not depend on its inputs; is forward complete?")
    return Graph(ops, outputs), tensors


def _tensor_type(lowered: Lowered, node: torch.fx.Node, axis: int | None) -> TensorType | None:
    shape = lowered.shapes.get(node)
    dtype = str(node.meta["val"].dtype).removeprefix("torch.") if shape else ""
    if shape is None or not shape.sizes or not math.prod(shape.sizes) or dtype not in DTYPES:
        return None
    row = shape.sizes.index(1) if axis is None and 1 in shape.sizes else axis or 0
    channel = {(4, 1): 3, (4, 2): 1, (4, 3): 1, (3, 1): 2, (3, 2): 1}.get((len(shape.sizes), row))
    return TensorType(np.dtype(dtype), shape.sizes, row, channel)


def _name(node: torch.fx.Node) -> str:
    """The module that an operator is in, and the operator."""
    path, _ = next(reversed((node.meta.get("nn_module_stack") or {"": ("", "")}).values()))
    operator = str(getattr(node.target, "__name__", node.target)).split(".")[0]
    own = path.removeprefix(PREFIX.rstrip(".")).removeprefix(".")
    return f"{own}:{operator}" if own else operator
