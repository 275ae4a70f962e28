"""From an exported program to operators: which node depends on what, what is constant, what type a tensor has."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch.fx.node import map_arg
from torch.utils._sympy.printers import PythonPrinter

from rowcast.errors import CaptureError
from rowcast.split.exporting import place_of_node

__all__ = ["Lowered", "Shape", "call", "lower", "schema_argument"]

#: Prefix of the names of parameters, from :class:`rowcast.split.exporting.Whole`.
PREFIX = "net."
#: A dropout in evaluation is exported as one of these.
COPIES = (torch.ops.aten.clone.default, torch.ops.aten.alias.default, torch.ops.aten.detach.default)
LAYOUT = (torch.ops.aten.as_strided.default, torch.ops.aten.as_strided_copy.default)
BATCH_NORM = torch.ops.aten._native_batch_norm_legit_no_training.default
SIZE_OF_AXIS = torch.ops.aten.sym_size.int


@dataclass(frozen=True)
class Shape:
    """Sizes of a tensor for batch 1, and the axis along which the tensors of several requests are put together.

    Attributes:
        batch_axis: ``None`` where there is none, or where the sizes depend on the batch in another way.
    """

    sizes: tuple[int, ...]
    batch_axis: int | None


@dataclass
class Lowered:
    """The nodes of a model, sorted.

    Attributes:
        module: functional; constants are folded.
        ops: nodes that make a tensor (or several) which depends on the values of an input, inputs first; with their
            number.
        helpers: nodes that do not: they are computed anew where an operator reads them, from live parameters and from
            the size of the batch.
        sources: for each op and each helper the ops that it reads, directly or by helpers.
        batch_code: for helpers that ask for the size of the batch an expression of ``batch``.
        shapes: of each op with a tensor of known sizes.
        nbytes: of each op, its tensors for batch 1; none where their sizes depend on values.
        live: names of the parameters and buffers that are read as they are at the time.
        answer: what ``forward`` gives: nodes, and values that are always the same.
    """

    module: torch.fx.GraphModule
    ops: dict[torch.fx.Node, int] = field(default_factory=dict)
    helpers: list[torch.fx.Node] = field(default_factory=list)
    sources: dict[torch.fx.Node, tuple[torch.fx.Node, ...]] = field(default_factory=dict)
    batch_code: dict[torch.fx.Node, str] = field(default_factory=dict)
    shapes: dict[torch.fx.Node, Shape] = field(default_factory=dict)
    nbytes: dict[torch.fx.Node, int] = field(default_factory=dict)
    live: frozenset[str] = frozenset()
    answer: list[Any] = field(default_factory=list)

    @property
    def tensor_ops(self) -> list[torch.fx.Node]:
        """The ops that make one tensor."""
        return [node for node in self.ops if isinstance(node.meta["val"], torch.Tensor)]


def lower(program: torch.export.ExportedProgram) -> Lowered:
    """Sort the nodes of a program.

    Raises:
        CaptureError: a model that changes its buffers or its inputs, or that draws random numbers.
    """
    module = program.module()
    signature = program.graph_signature
    _refuse_changes(program)
    lowered = Lowered(
        module, live=frozenset((*signature.inputs_to_parameters.values(), *signature.inputs_to_buffers.values()))
    )
    _one_result_batch_norms(module.graph)
    _without_copies(module.graph)
    needed = _needed(module.graph)
    for node in needed:
        if node.target in LAYOUT:
            raise CaptureError(
                f"capture: forward depends on how a tensor lies in memory, at {place_of_node(node)}; use unfold, "
                "slices or reshape instead of as_strided: tensors that travelled lie otherwise"
            )
        if node.op == "call_function" and _is_random(node):
            raise CaptureError(
                f"capture: forward draws random numbers at {place_of_node(node)}; robot and server would answer "
                "differently. For dropout give training=self.training, else draw them outside and make them an input"
            )
    _fold(lowered, needed)
    needed = _needed(module.graph)
    batch = _batch_symbol(needed)
    for node in needed:
        _sort(lowered, node, batch)
    lowered.answer = list(cast(Sequence[Any], module.graph.output_node().args[0]))
    for node in reversed(module.graph.nodes):
        if node.op != "output" and node not in needed:
            module.graph.erase_node(node)
    return lowered


def schema_argument(node: torch.fx.Node, name: str) -> Any:
    """The argument of an operator of torch by its name; its default where it is not given."""
    for place, argument in enumerate(cast(torch._ops.OpOverload, node.target)._schema.arguments):
        if argument.name == name:
            if place < len(node.args):
                return node.args[place]
            return node.kwargs.get(name, argument.default_value)
    return None


def _refuse_changes(program: torch.export.ExportedProgram) -> None:
    signature = program.graph_signature
    nodes = {node.name: node for node in program.graph.nodes}
    for made, name in signature.buffers_to_mutate.items():
        raise CaptureError(
            f"capture: forward changes the buffer {name.removeprefix(PREFIX)!r} at {place_of_node(nodes[made])}; an "
            "inference may be computed on either side, or on both, so it must leave the model as it is: return the "
            "new state and give it back as an input"
        )
    for made in signature.user_inputs_to_mutate:
        raise CaptureError(
            f"capture: forward overwrites its input at {place_of_node(nodes[made])}; write to a copy: x = x.clone()"
        )


def _one_result_batch_norms(graph: torch.fx.Graph) -> None:
    """Batch norm in evaluation has one result that is used: one operator instead of two."""
    for node in list(graph.nodes):
        if node.target is not BATCH_NORM or any(use.args[1] != 0 for use in node.users):
            continue
        for use in list(node.users):
            with graph.inserting_before(use):
                x, weight, bias, mean, variance, momentum, eps = node.args
                arguments = (x, weight, bias, mean, variance, False, momentum, eps, True)
                one = graph.call_function(torch.ops.aten.batch_norm.default, arguments)
            one.meta = {**node.meta, "val": use.meta["val"]}
            use.replace_all_uses_with(one)
            graph.erase_node(use)
        graph.erase_node(node)


def _without_copies(graph: torch.fx.Graph) -> None:
    """Nothing is overwritten, so that a copy can be the tensor itself; but an answer is not the caller's own input."""
    for node in list(graph.nodes):
        if node.target in COPIES and not node.kwargs and node.args[0].op == "call_function":
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _needed(graph: torch.fx.Graph) -> dict[torch.fx.Node, None]:
    """Inputs, and all nodes that the answer needs, in the order of the graph."""
    wanted = set(graph.find_nodes(op="placeholder"))
    todo = [graph.output_node()]
    while todo:
        for node in todo.pop().all_input_nodes:
            if node not in wanted:
                wanted.add(node)
                todo.append(node)
    return {node: None for node in graph.nodes if node in wanted}


def _is_random(node: torch.fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    switches = [schema_argument(node, name) for name in ("dropout_p", "dropout", "p")]
    given = [switch for switch in switches if isinstance(switch, int | float)]
    return not ((given and max(given) == 0) or schema_argument(node, "train") is False)


def _fold(lowered: Lowered, needed: Mapping[torch.fx.Node, None]) -> None:
    """Compute once what depends on no input and on no parameter."""
    graph, values = lowered.module.graph, dict[torch.fx.Node, Any]()
    with torch.no_grad():
        for node in needed:
            number = node.meta.get("val")
            if node.op == "get_attr" and node.target not in lowered.live:
                values[node] = attribute(lowered.module, str(node.target))
            elif node.op == "call_function" and isinstance(number, bool | int | float):
                values[node] = number
            elif node.op == "call_function" and all(source in values for source in node.all_input_nodes):
                values[node] = call(node, values.__getitem__)
    stored: dict[torch.fx.Node, Any] = {}
    for node in [*needed, graph.output_node()]:
        if node in values or not any(source in values for source in node.all_input_nodes):
            continue
        for source in node.all_input_nodes:
            if source in values and source not in stored:
                stored[source] = _stored(lowered.module, source, values[source])
        node.args, node.kwargs = _mapped(node, lambda each: stored.get(each, each))


def _stored(module: torch.fx.GraphModule, node: torch.fx.Node, value: Any) -> Any:
    """What stands for a constant in the arguments of others: a number, or a node that fetches it."""
    if node.op == "get_attr" or not isinstance(value, torch.Tensor):
        return node if node.op == "get_attr" else value
    name = f"folded_{sum(1 for _ in module.buffers(recurse=False))}"
    module.register_buffer(name, value)
    with module.graph.inserting_before(node):
        fetched = module.graph.get_attr(name)
    fetched.meta = {"val": node.meta["val"]}
    return fetched


def call(node: torch.fx.Node, value_of: Callable[[torch.fx.Node], Any]) -> Any:
    """The value of a node, from those of the nodes that it reads."""
    args, kwargs = _mapped(node, value_of)
    return cast(Callable[..., Any], node.target)(*args, **kwargs)


def _mapped(node: torch.fx.Node, value_of: Callable[[torch.fx.Node], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    arguments: Any = map_arg((node.args, dict(node.kwargs)), value_of)
    args, kwargs = arguments
    return args, kwargs


def attribute(module: torch.nn.Module, name: str) -> Any:
    """``module.a.b`` for ``"a.b"``."""
    return operator.attrgetter(name)(module)


def _batch_symbol(needed: Mapping[torch.fx.Node, None]) -> Any:
    """The variable of the size of the batch; ``None`` where all sizes are fixed."""
    for node in needed:
        if node.op == "placeholder" and node.meta["val"].dim() and isinstance(node.meta["val"].shape[0], torch.SymInt):
            return node.meta["val"].shape[0].node.expr
    return None


def _sort(lowered: Lowered, node: torch.fx.Node, batch: Any) -> None:
    """Put a node, all of whose sources are sorted, among the ops or the helpers."""
    if node.op == "get_attr":
        lowered.sources[node] = ()
        return
    value: Any = node.meta.get("val")
    if node.target is SIZE_OF_AXIS and value.node.expr.free_symbols == {batch}:
        code = PythonPrinter().doprint(value.node.expr)
        lowered.batch_code[node] = re.sub(rf"\b{batch}\b", "batch", code)
        lowered.sources[node] = ()
        lowered.helpers.append(node)
        return
    read: dict[torch.fx.Node, None] = {}
    for source in node.all_input_nodes:
        read.update(dict.fromkeys((source,) if source in lowered.ops else lowered.sources[source]))
    lowered.sources[node] = tuple(read)
    if node.op != "placeholder" and not (read and _tensors(value)):
        lowered.helpers.append(node)
        return
    lowered.ops[node] = len(lowered.ops)
    tensors = _tensors(value)
    shapes = [_shape(tensor, batch) for tensor in tensors]
    if isinstance(value, torch.Tensor) and shapes[0] is not None:
        lowered.shapes[node] = shapes[0]
    if None not in shapes:
        sizes = [math.prod(shape.sizes) for shape in shapes if shape is not None]
        lowered.nbytes[node] = sum(size * tensor.element_size() for size, tensor in zip(sizes, tensors, strict=True))


def _tensors(value: Any) -> list[torch.Tensor]:
    """Those that a node makes."""
    several = value if isinstance(value, list | tuple) else [value]
    return [each for each in several if isinstance(each, torch.Tensor)]


def _shape(value: torch.Tensor, batch: Any) -> Shape | None:
    sizes: list[int] = []
    axes: list[int | None] = []
    size: Any
    for axis, size in enumerate(value.shape):
        if not isinstance(size, torch.SymInt):
            sizes.append(size)
            continue
        formula = size.node.expr
        if formula.free_symbols - {batch}:
            return None
        sizes.append(int(formula.subs(batch, 1)))
        axes.append(axis if formula == sizes[-1] * batch else None)
    return Shape(tuple(sizes), axes[0] if len(axes) == 1 else None)
