"""Some operators of a captured model as one Python function."""

from __future__ import annotations

import types
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from rowcast.errors import ConfigError

if TYPE_CHECKING:
    from rowcast.split.captured import Captured

__all__ = ["Part"]


class Part:
    """Operators of a captured model: from the tensors that they read from outside to those that are wanted.

    It is generated Python code that calls torch: no interpreter, no copy of a parameter. What is computed is that of
    the live model at the time of the call. A tensor is freed behind the last operator that reads it.

    Args:
        captured: the model.
        ops: numbers of operators of its graph, in any order; inputs of the model among them are ignored.
        wanted: numbers of the operators whose tensors it gives, in this order; of others than ``ops``: what is given.
        reads: what it is called with, where more may be given than is read, or in another order.

    Attributes:
        reads: numbers of the operators whose tensors it is called with, in this order.

    Raises:
        ConfigError: an operator that the graph does not have.
    """

    def __init__(
        self, captured: Captured, ops: Iterable[int], wanted: Sequence[int], *, reads: Sequence[int] | None = None
    ) -> None:
        graph = captured.graph
        given = set(ops)
        wrong = [index for index in (*given, *wanted) if not 0 <= index < len(graph)]
        if wrong:
            raise ConfigError(f"part: expected operators in 0 .. {len(graph) - 1}, got {wrong[0]}")
        self.ops = tuple(sorted(index for index in given if graph.ops[index].inputs))
        self.wanted = tuple(wanted)
        names = [f"t{index}" for index in self.wanted]
        self.reads = self._needed(captured) if reads is None else tuple(reads)
        self._run = captured.code.function(
            [f"t{index}" for index in self.ops],
            [f"t{index}" for index in self.reads],
            names,
            names,
        )

    @property
    def code(self) -> types.CodeType:
        """Of the generated function."""
        return self._run.__code__

    def _needed(self, captured: Captured) -> tuple[int, ...]:
        read = {source for index in self.ops for source in captured.graph.ops[index].inputs}
        return tuple(sorted((read | set(self.wanted)) - set(self.ops)))

    def __call__(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The wanted tensors.

        Args:
            tensors: those of :attr:`reads`.

        Raises:
            ConfigError: another number of tensors.
        """
        if len(tensors) != len(self.reads):
            raise ConfigError(
                f"part: expected {len(self.reads)} tensors, of operators {list(self.reads)}, got {len(tensors)}"
            )
        with torch.no_grad():
            made: tuple[torch.Tensor, ...] = self._run(*tensors)
        return made
