"""A model as a graph of operators and tensors, without its parameters and without PyTorch."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from rowcast.errors import ConfigError
from rowcast.graphs.rules import Barrier, RowRule

__all__ = ["Graph", "Op"]


@dataclass(frozen=True)
class Op:
    """One operator, and the tensor that it makes.

    Attributes:
        inputs: indices of the operators whose tensors it reads; none: an input of the model, there on the robot.
        bytes: size of its tensor.
        rule: which rows it reads of an input that has ``rule.rows`` rows; an input of any other height is read whole
            (a scale for each channel that meets an image). The tensor has ``rule.out_rows`` rows.
        name: what people call it, in messages and tables.
        in_place: the one of its inputs that it overwrites (``relu_``, ``add_``, ``__setitem__``): who reads that
            tensor behind this operator reads this operator's. Its tensor is as large as the one it overwrites.
        joined: it is computed where its first input is: a part of an operator with several results.
    """

    inputs: tuple[int, ...]
    bytes: int
    rule: RowRule = dataclasses.field(default_factory=lambda: Barrier(1))
    name: str = ""
    in_place: int | None = None
    joined: bool = False

    @property
    def rows(self) -> int:
        """Rows of its tensor."""
        return self.rule.out_rows


class Graph:
    """Operators in an order in which they can run, and what the caller gets.

    Args:
        ops: the operators; each reads only tensors of operators before it.
        outputs: indices of the operators whose tensors are the model's answer.

    Raises:
        ConfigError: an operator that reads itself, a later one or none that there is; a size below 0; an operator
            that overwrites what it does not read, or a tensor of another size; a graph without input or output.
    """

    def __init__(self, ops: Iterable[Op], outputs: Sequence[int]) -> None:
        self.ops = tuple(ops)
        reads, latest = self._checked()
        #: For each operator the tensors that it reads, each once: of a tensor and what was made of it in place, the
        #: latter.
        self.reads: tuple[tuple[int, ...], ...] = reads
        #: Operators that make the answer.
        self.outputs = tuple(dict.fromkeys(latest[index] for index in self._checked_outputs(outputs)))
        #: Operators without inputs: the model's inputs.
        self.inputs = tuple(index for index, op in enumerate(self.ops) if not op.inputs)

    def __len__(self) -> int:
        return len(self.ops)

    @cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """For each operator those that read its tensor."""
        found: list[list[int]] = [[] for _ in self.ops]
        for index, reads in enumerate(self.reads):
            for source in reads:
                found[source].append(index)
        return tuple(map(tuple, found))

    @cached_property
    def last_use(self) -> tuple[int, ...]:
        """For each operator the last that reads its tensor: itself where none does, ``len(graph)`` for the answer."""
        uses = [max(readers, default=index) for index, readers in enumerate(self.consumers)]
        for index in self.outputs:
            uses[index] = len(self.ops)
        return tuple(uses)

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that agree exactly when two graphs do: operators, sizes, row rules, names and outputs."""
        text = "\n".join([*map(repr, self.ops), repr(self.outputs)])
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    def difference(self, other: Graph) -> str | None:
        """The first difference to another graph, in words; ``None`` where they are the same."""
        for index, (mine, theirs) in enumerate(zip(self.ops, other.ops, strict=False)):
            if mine != theirs:
                named = ", ".join(
                    f"{field.name} {getattr(mine, field.name)!r} against {getattr(theirs, field.name)!r}"
                    for field in dataclasses.fields(Op)
                    if getattr(mine, field.name) != getattr(theirs, field.name)
                )
                return f"operator {self.label(index)}: {named}"
        if len(self) != len(other):
            return f"{len(self)} operators against {len(other)}"
        if self.outputs != other.outputs:
            return f"outputs {self.outputs} against {other.outputs}"
        return None

    def label(self, index: int) -> str:
        """How a message calls an operator: its number and, where it has one, its name."""
        name = self.ops[index].name
        return f"{index} ({name})" if name else str(index)

    def read_rows(self, index: int, available: Sequence[int]) -> int:
        """How many input rows operator ``index`` can count on.

        Args:
            index: an operator that reads something.
            available: for each operator the rows of its tensor that are there, from the first on.

        Returns:
            Rows of the inputs that its rule speaks of; 0 where an input that is read whole is not complete.
        """
        rule = self.ops[index].rule
        there = rule.rows
        for source in self.reads[index]:
            rows = self.ops[source].rows
            if rows == rule.rows:
                there = min(there, available[source])
            elif available[source] < rows:
                return 0
        return there

    def _checked(self) -> tuple[tuple[tuple[int, ...], ...], list[int]]:
        """What each operator reads, and for each tensor the latest one that was made of it in place."""
        latest = list(range(len(self.ops)))
        origin = list(range(len(self.ops)))
        reads = []
        for index, op in enumerate(self.ops):
            self._check_op(index, op)
            sources = dict.fromkeys(latest[origin[source]] for source in op.inputs)
            reads.append(tuple(sources))
            if op.in_place is not None:
                origin[index] = origin[op.in_place]
                latest[origin[index]] = index
        return tuple(reads), [latest[origin[index]] for index in range(len(self.ops))]

    def _check_op(self, index: int, op: Op) -> None:
        wrong = [source for source in op.inputs if not 0 <= source < index]
        if wrong:
            raise ConfigError(
                f"operator {self.label(index)}: expected inputs among the operators before it, got {wrong[0]}; "
                "give the operators in the order in which they run"
            )
        if op.bytes < 0:
            raise ConfigError(f"operator {self.label(index)}: expected a size of 0 bytes or more, got {op.bytes}")
        if op.joined and not (op.inputs and self.ops[op.inputs[0]].inputs):
            raise ConfigError(
                f"operator {self.label(index)}: it is joined to its first input; expected that to be an operator, "
                "not an input of the model"
            )
        if op.in_place is None:
            return
        if op.in_place not in op.inputs:
            raise ConfigError(
                f"operator {self.label(index)}: it overwrites {op.in_place}, which is none of its inputs {op.inputs}"
            )
        size = self.ops[op.in_place].bytes
        if op.bytes != size:
            raise ConfigError(
                f"operator {self.label(index)}: it overwrites a tensor of {size} bytes and has {op.bytes}; "
                "give it the size of what it overwrites"
            )

    def _checked_outputs(self, outputs: Sequence[int]) -> Sequence[int]:
        wrong = [index for index in outputs if not 0 <= index < len(self.ops)]
        if wrong:
            raise ConfigError(f"outputs: expected operators in 0 .. {len(self.ops) - 1}, got {wrong[0]}")
        if not outputs:
            raise ConfigError("outputs: expected at least one operator that makes the answer, got none")
        return outputs
