"""Exact execution of operators row by row: what can be computed is computed as soon as the rows for it are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from rowcast.errors import ConfigError, LocalProtocolError
from rowcast.split.captured import Captured
from rowcast.split.rowplan import RowPlan
from rowcast.split.rowstep import ROWS

__all__ = ["RowStream"]


class RowStream:
    """Operators of a captured model, computed as the rows of what they read arrive.

    The rows that are taken, put together, are what the operators give when they are computed at once (to float32
    rounding), however the rows were cut. Of each tensor only the rows are kept that some operator still has to read.
    A convolution with a large weight and few pixels may wait for some rows more than it needs, since it would take
    longer otherwise; with all of its input it is computed.
    Streams over the same operators of one model share what they planned; one thread at a time may use them.

    Rows that are pushed are not copied: leave them as they are until the request is finished. Rows that were taken may
    be those that the stream goes on with: do not overwrite them before that.

    Args:
        captured: the model.
        ops: numbers of operators of its graph, any of them; inputs of the model among them are ignored.
        wanted: numbers of the operators whose rows are to be taken; one that is not in ``ops`` gives what is pushed.

    Raises:
        ConfigError: an operator that the graph does not have, or a tensor that cannot be pushed or taken because its
            operator has several results.
    """

    def __init__(self, captured: Captured, ops: Iterable[int], wanted: Sequence[int]) -> None:
        self._plan = RowPlan.of(captured, ops, wanted)
        self.reset()

    @property
    def outside(self) -> tuple[int, ...]:
        """Operators whose tensors are read and not made here: those to push."""
        return tuple(self._plan.outside)

    @property
    def wanted(self) -> tuple[int, ...]:
        """Operators whose rows are to be taken."""
        return self._plan.wanted

    @property
    def finished(self) -> bool:
        """Whether all rows of all wanted tensors are computed."""
        rules, rows = self._plan.rules, self._layout.rows
        return all(rows[op] == rules[op].out_rows for op in self._plan.wanted)

    def reset(self) -> None:
        """Forget all rows: the next are those of another request, of any batch."""
        self._layout = self._plan.start
        self._values: list[Any] = []
        self._made: dict[int, list[torch.Tensor]] = {op: [] for op in self._plan.wanted}
        self._batch: int | None = None

    def rows(self, op: int) -> int:
        """How many rows of a tensor there are: pushed, or computed.

        Raises:
            LocalProtocolError: none of these operators reads or makes it.
        """
        if op not in self._plan.outside and op not in self._plan.ops:
            raise LocalProtocolError(f"rows of {self._label(op)}: it is neither read nor made here")
        return self._layout.rows[op]

    def held(self) -> dict[int, int]:
        """For each operator how many rows of its tensor are kept, since something still has to read them."""
        found: dict[int, int] = {}
        for chunk in self._layout.chunks:
            if chunk.kind == ROWS:
                found[chunk.op] = found.get(chunk.op, 0) + chunk.last - chunk.first
        return found

    def push(self, op: int, rows: torch.Tensor) -> None:
        """The next rows of a tensor, any number of them; what follows from them is computed.

        Args:
            op: one of :attr:`outside`.
            rows: along the row axis of the tensor; the whole of it where it has none. Rows of several requests are
                pushed together, one behind the other along the axis of the batch.

        Raises:
            ConfigError: rows of another shape, type or batch.
            LocalProtocolError: the tensor is not read here, or it has not so many rows.
        """
        self.push_all({op: rows})

    def push_all(self, rows: Mapping[int, torch.Tensor]) -> None:
        """The next rows of several tensors at once: cheaper than one after the other.

        Raises:
            ConfigError, LocalProtocolError: as :meth:`push`; nothing is taken over then.
        """
        arrived = []
        given = []
        batch = self._batch
        for op in sorted(rows):
            kind = self._plan.outside.get(op)
            if kind is None:
                read = ", ".join(each.label for each in self._plan.outside.values())
                raise LocalProtocolError(f"rows of {self._label(op)}: it is not read here; expected rows of {read}")
            there = self._layout.rows[op]
            count, requests = kind.count(rows[op], there)
            batch = self._same_batch(kind.label, batch, requests)
            if count:
                arrived.append((op, there + count))
                given.append(rows[op])
        if arrived:
            self._batch = batch
            self._run(tuple(arrived), given)

    def take(self, op: int) -> torch.Tensor | None:
        """Rows of a wanted tensor that have become complete since the last time; ``None`` where there are none.

        Raises:
            LocalProtocolError: it is not wanted.
        """
        parts = self._made.get(op)
        if parts is None:
            wanted = ", ".join(map(self._label, self._plan.wanted))
            raise LocalProtocolError(f"rows of {self._label(op)}: it is not wanted here; expected one of {wanted}")
        if not parts:
            return None
        self._made[op] = []
        axis = self._plan.axes[op]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 0 if axis is None else axis)

    def _run(self, arrived: tuple[tuple[int, int], ...], given: list[torch.Tensor]) -> None:
        plan = self._plan
        if self._layout is plan.start and arrived == plan.everything:
            for op, rows in zip(plan.part.wanted, plan.part(*given), strict=True):
                self._made[op] = [rows]
            self._layout = plan.end
            return
        step = plan.step(self._layout, arrived, self._batch or 1)
        with torch.inference_mode():
            results = step.program([*self._values, *given])
        for op, made in zip(step.made, results, strict=False):
            self._made[op].append(made)
        self._values = results[len(step.made) :]
        self._layout = step.after

    def _same_batch(self, label: str, batch: int | None, requests: int | None) -> int | None:
        if batch is None or requests is None or batch == requests:
            return batch if requests is None else requests
        raise ConfigError(f"rows of {label}: expected a batch of {batch} as with the rows before, got {requests}")

    def _label(self, op: int) -> str:
        graph = self._plan.graph
        return f"operator {graph.label(op)}" if 0 <= op < len(graph) else f"operator {op}, which there is not"
