"""The model that both sides have, and which part of it a side computes for a request."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from rowcast.codecs.tensors import TensorType
from rowcast.errors import ConfigError, LocalProtocolError
from rowcast.graphs import Graph

__all__ = ["ModelSpec", "Side", "robot_side", "server_side", "side_of", "whole"]


def _no_words() -> Sequence[str]:
    return ()


@dataclass(frozen=True, eq=False)
class ModelSpec:
    """What a node knows of a model.

    Attributes:
        graph: its operators.
        tensors: [ops] type of each operator's tensor for one input; ``None``: it cannot travel. It has as many rows as
            the operator; where that has one, as many as one likes: it travels in pieces, and is used whole.
        parameters: digest of the values of its parameters.
        describe: a line for each operator and parameter, so that two sides can name their first difference.
        code: digest of what else must be the same on both sides: names and shapes of parameters, for example.

    Raises:
        ConfigError: not one type for each operator, or an input or output that cannot travel.
    """

    graph: Graph
    tensors: tuple[TensorType | None, ...]
    parameters: bytes = b""
    describe: Callable[[], Sequence[str]] = _no_words
    code: bytes = b""

    def __post_init__(self) -> None:
        if len(self.tensors) != len(self.graph):
            raise ConfigError(f"model: expected a type for each of {len(self.graph)} tensors, got {len(self.tensors)}")
        for index in (*self.graph.inputs, *self.graph.outputs):
            if self.tensors[index] is None:
                raise ConfigError(f"model: operator {self.graph.label(index)} is an input or output, and no tensor")
        for index, (op, tensor) in enumerate(zip(self.graph.ops, self.tensors, strict=True)):
            if tensor is not None and op.rows not in (1, tensor.rows):
                raise ConfigError(
                    f"model: operator {self.graph.label(index)} has {op.rows} rows, its tensor {tensor.rows}"
                )

    def tensor(self, index: int) -> TensorType:
        """The type of a tensor that travels.

        Raises:
            LocalProtocolError: it cannot; what a peer names is to be compared with :attr:`tensors` before.
        """
        found = self.tensors[index]
        if found is None:
            raise LocalProtocolError(f"tensor of operator {self.graph.label(index)}: it cannot travel")
        return found

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that agree exactly when two models do, but for the values of their parameters."""
        text = "\n".join([self.graph.digest.hex(), self.code.hex(), *map(repr, self.tensors)])
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    @cached_property
    def most_rows(self) -> int:
        """Rows of the tensor that has the most."""
        return max(found.rows for found in self.tensors if found is not None)


@dataclass(frozen=True)
class Side:
    """What one side computes.

    Attributes:
        outside: operators whose tensors come from elsewhere: inputs of the model, or from the other side.
        wanted: operators whose tensors are asked for; one that is also in ``outside`` is passed on.
        ops: operators that are computed: all that ``wanted`` needs, from ``outside`` on.
    """

    outside: tuple[int, ...]
    wanted: tuple[int, ...]
    ops: frozenset[int]


@lru_cache(maxsize=256)
def side_of(graph: Graph, outside: tuple[int, ...], wanted: tuple[int, ...]) -> Side:
    """The part of a graph between tensors that are there and tensors that are wanted.

    Raises:
        LocalProtocolError: it needs an input of the model that is not there.
    """
    there, asked = tuple(sorted(set(outside))), tuple(sorted(set(wanted)))
    ops: set[int] = set()
    waiting = [index for index in asked if index not in there]
    known = set(there)
    while waiting:
        index = waiting.pop()
        if index in ops:
            continue
        if not graph.ops[index].inputs:
            raise LocalProtocolError(f"input {graph.label(index)}: it is needed, and does not come")
        ops.add(index)
        waiting.extend(source for source in graph.reads[index] if source not in known and source not in ops)
    return Side(there, asked, frozenset(ops))


def server_side(graph: Graph, up: tuple[int, ...], down: tuple[int, ...]) -> Side:
    """What the server computes of tensors ``up`` for tensors ``down``.

    Raises:
        LocalProtocolError: it needs more than ``up``.
    """
    return side_of(graph, up, down)


def robot_side(graph: Graph, up: tuple[int, ...], down: tuple[int, ...]) -> Side:
    """What the robot computes, of its inputs and what comes back, for what it sends and for the answer."""
    return side_of(graph, (*graph.inputs, *down), (*up, *graph.outputs))


def whole(graph: Graph) -> Side:
    """All of the model."""
    return side_of(graph, graph.inputs, graph.outputs)
