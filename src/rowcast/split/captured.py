"""A model as operators: a graph to plan with, and the code to compute any part of it."""

from __future__ import annotations

import types
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch.utils import _pytree as pytree

from rowcast.codecs.tensors import TensorType
from rowcast.errors import ConfigError
from rowcast.graphs import Graph
from rowcast.split.code import Code
from rowcast.split.describing import digest_of, graph_lines, tensor_digest, tensor_lines
from rowcast.split.inputs import InputType
from rowcast.split.lowering import Lowered
from rowcast.split.part import Part

__all__ = ["Captured"]

#: Parts that are kept; a robot changes between few plans.
KEPT_PARTS = 64


class Captured:
    """A captured model; :func:`rowcast.split.capture` makes it.

    Parameters and buffers are those of the live module, read at each call: what a training step, ``load_state_dict``
    or ``p.data = ...`` changes is seen; a module that is replaced by another is not.
    Values that depend on no input and no parameter are computed once.

    Attributes:
        graph: one operator for each node that makes a tensor which depends on an input; inputs first.
        nodes: ``nodes[i]`` belongs to ``graph.ops[i]``.
        tensors: type of each operator's tensor for batch 1; ``None`` where it cannot travel: several tensors, a
            number, sizes that depend on values, elements that have no codec.
        batch_axes: for each operator the axis along which its tensors of several requests are put together; ``None``
            where that cannot be done.
        module: the model as a functional graph.
        net: the live module.
        inputs: what it is called with.
        batched: inputs of several requests can be put together along axis 0; the answer is taken apart along
            ``batch_axes``.
        digest: 16 bytes of the operators, and of names, types and shapes of parameters and constants.
    """

    def __init__(
        self,
        net: torch.nn.Module,
        lowered: Lowered,
        graph: Graph,
        tensors: Sequence[TensorType | None],
        inputs: Sequence[InputType],
        structures: tuple[pytree.TreeSpec, pytree.TreeSpec],
        batch_axes: Sequence[int | None],
    ) -> None:
        self.net = net
        self.graph = graph
        self.module = lowered.module
        self.nodes = tuple(lowered.ops)
        self.tensors = tuple(tensors)
        self.inputs = tuple(inputs)
        self.batched = inputs[0].batched
        self.batch_axes = tuple(batch_axes)
        self.code = Code(lowered, net)
        self._lowered = lowered
        self._in, self._out = structures
        self._parts: dict[tuple[tuple[int, ...], tuple[int, ...]], Part] = {}
        self._answer = self._answer_code()
        self._graph_lines = graph_lines(lowered, [op.name for op in graph.ops])
        self.digest = digest_of([*self._graph_lines, *(line for line, _ in tensor_lines(lowered, net))])

    def __call__(self, *inputs: Any) -> Any:
        """The answer to inputs as ``forward`` takes them, in the structure that ``forward`` gives.

        Raises:
            ConfigError: an input of another size, type or batch than the example's.
        """
        return self.answer(self.whole(*self.flat_inputs(*inputs)))

    def __repr__(self) -> str:
        name = type(self.net).__name__
        return f"<captured {name}: {len(self.graph)} operators, digest {self.digest.hex()[:8]}>"

    @cached_property
    def whole(self) -> Part:
        """All operators: from the tensors of ``graph.inputs`` to those of ``graph.outputs``."""
        return Part(self, range(len(self.graph)), self.graph.outputs, reads=self.graph.inputs)

    def arguments(self, tensors: Sequence[torch.Tensor]) -> tuple[Any, ...]:
        """What ``forward`` is called with, of the tensors of ``graph.inputs``."""
        arguments: tuple[Any, ...] = pytree.tree_unflatten(list(tensors), self._in)
        return arguments

    def flat_inputs(self, *inputs: Any) -> tuple[torch.Tensor, ...]:
        """The tensors of ``graph.inputs`` in what ``forward`` is called with.

        Raises:
            ConfigError: an input of another size, type or batch than the example's.
        """
        if len(inputs) != self._in.num_children:
            raise ConfigError(
                f"inputs: expected {self._in.num_children} ({', '.join(each.name for each in self.inputs)}), "
                f"got {len(inputs)}"
            )
        try:
            tensors = tuple(self._in.flatten_up_to(inputs))
        except ValueError as error:
            raise ConfigError(f"inputs: expected the structure of the example, got another: {error}") from error
        for kind, tensor in zip(self.inputs, tensors, strict=True):
            kind.check(tensor)
        sizes = {tensor.shape[0] for tensor in tensors} if self.batched else set()
        if len(sizes) > 1:
            raise ConfigError(
                f"inputs: expected one size of the batch, got {sorted(sizes)}; give as many of each input"
            )
        return tensors

    def answer(self, tensors: Sequence[torch.Tensor]) -> Any:
        """What ``forward`` gives, from the tensors of ``graph.outputs``."""
        with torch.no_grad():
            return pytree.tree_unflatten(self._answer(*tensors), self._out)

    def part(self, ops: Iterable[int], wanted: Sequence[int]) -> Part:
        """The code of some operators; made once for each choice.

        Args:
            ops: numbers of operators, in any order.
            wanted: numbers of the operators whose tensors it is to give.
        """
        key = (tuple(sorted(set(ops))), tuple(wanted))
        part = self._parts.get(key)
        if part is None:
            part = Part(self, *key)
            if len(self._parts) >= KEPT_PARTS:
                self._parts.pop(next(iter(self._parts)), None)
            self._parts[key] = part
        return part

    def description(self) -> list[str]:
        """One line for each operator, parameter and constant, with a digest of its values.

        Two sides that differ are shown the first line that does.
        """
        return [
            *self._graph_lines,
            *(f"{line} {tensor_digest(held).hex()}" for line, held in tensor_lines(self._lowered, self.net)),
        ]

    def parameters_digest(self) -> bytes:
        """16 bytes of the values of all parameters, buffers and constants that are read, as they are now."""
        return digest_of([tensor_digest(held).hex() for _, held in tensor_lines(self._lowered, self.net)])

    def _answer_code(self) -> types.FunctionType:
        given = [f"t{index}" for index in self.graph.outputs]
        expressions = [self.code.expression(value) for value in self._lowered.answer]
        return self.code.function(
            [], given, [text for text, _ in expressions], [name for _, uses in expressions for name in uses]
        )
