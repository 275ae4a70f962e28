"""The proof that no update was lost and none counted twice.

Two independent counts of one run. The first is of frames: each row frame that a worker sent was applied by the
server once, and the other way round. The second is of what was in them: for each row, what all workers together
computed is what the server's parameters moved by. And all replicas end where the server does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rowcast.errors import DataError
from rowcast.rows import Layout
from rowcast.rows.digest import digest_of
from rowcast.training import ServerNode, WorkerNode

__all__ = ["AuditReport", "ServerAudit", "WorkerAudit", "prove", "save_server"]

Vector = npt.NDArray[np.float32]

#: Row sums may differ by this much, relative to the sum of |parameter| and |change| in the row: each of some hundred
#: additions in float32 rounds by 6e-8 of the parameter.
ROW_TOLERANCE = 1e-5
#: Replicas may differ from the server by this much, relative to the largest parameter, for the same reason.
REPLICA_TOLERANCE = 1e-5


@dataclass(frozen=True)
class WorkerAudit:
    """What a worker says it did.

    Attributes:
        name: its name.
        iterations: iterations finished.
        frames_sent, frames_received: row frames.
        computed: float64 [rows], signed sum of everything it ever added to each row.
        replica: float32 [elements], its parameters at the end.
        metrics: those of the task at the end, by name.
        busy_s: seconds really computed, of each step.
        paces_s: seconds to which the computation of each step was stretched, where it took less.
    """

    name: str
    iterations: int
    frames_sent: int
    frames_received: int
    computed: npt.NDArray[np.float64]
    replica: Vector
    metrics: Mapping[str, float]
    busy_s: npt.NDArray[np.float64]
    paces_s: npt.NDArray[np.float64]

    @property
    def late_share(self) -> float:
        """Share of the steps whose computation took longer than it was to take, 0 .. 1."""
        return float(np.mean(self.busy_s > self.paces_s)) if len(self.busy_s) else 0.0

    @classmethod
    def of(
        cls, node: WorkerNode, *, metrics: Mapping[str, float], busy_s: Sequence[float], paces_s: Sequence[float]
    ) -> WorkerAudit:
        """The audit of a worker that has finished."""
        return cls(
            name=node.name,
            iterations=node.iteration,
            frames_sent=node.outbox.sent_frames,
            frames_received=node.inbox.received,
            computed=node.computed,
            replica=node.replica,
            metrics=dict(metrics),
            busy_s=np.asarray(busy_s, dtype=np.float64),
            paces_s=np.asarray(paces_s, dtype=np.float64),
        )

    def save(self, path: str | Path) -> None:
        """Write it as an ``.npz`` file without pickles.

        Raises:
            DataError: the file cannot be written.
        """
        try:
            with Path(path).open("wb") as file:
                np.savez(
                    file,
                    name=np.array(self.name),
                    iterations=np.array(self.iterations),
                    frames_sent=np.array(self.frames_sent),
                    frames_received=np.array(self.frames_received),
                    computed=self.computed,
                    replica=self.replica,
                    replica_digest=np.frombuffer(digest_of(self.replica), dtype=np.uint8),
                    metric_names=np.array(list(self.metrics), dtype=np.str_),
                    metric_values=np.array(list(self.metrics.values()), dtype=np.float64),
                    busy_s=self.busy_s,
                    paces_s=self.paces_s,
                )
        except OSError as error:
            raise DataError(f"audit {path}: cannot be written: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: str | Path) -> WorkerAudit:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: no such file, or not an audit.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(
                    name=str(stored["name"]),
                    iterations=int(stored["iterations"]),
                    frames_sent=int(stored["frames_sent"]),
                    frames_received=int(stored["frames_received"]),
                    computed=stored["computed"],
                    replica=stored["replica"],
                    metrics=dict(zip(map(str, stored["metric_names"]), stored["metric_values"].tolist(), strict=True)),
                    busy_s=stored["busy_s"],
                    paces_s=stored["paces_s"],
                )
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"audit {path}: expected what 'rowcast train --audit' writes: {error}") from error


@dataclass(frozen=True)
class ServerAudit:
    """What the server says it did.

    Attributes:
        layout: the rows.
        initial, final: float32 [elements], its parameters before and after.
        frames_applied: row frames applied, by worker.
        surplus: float64 [rows], what the server has added to each row beyond what was sent (the option
            ``row_weights``); ``None``: nothing.
    """

    layout: Layout
    initial: Vector
    final: Vector
    frames_applied: Mapping[str, int]
    surplus: npt.NDArray[np.float64] | None = None

    @classmethod
    def of(cls, node: ServerNode, layout: Layout, initial: Vector) -> ServerAudit:
        """The audit of a server all of whose workers have finished; ``initial`` is what the first one brought."""
        final = initial if node.parameters is None else node.parameters
        return cls(layout, initial, final, dict(node.frames_applied), node.surplus)

    @classmethod
    def load(cls, path: str | Path, layout: Layout, initial: Vector) -> ServerAudit:
        """Read what :func:`save_server` wrote; ``initial`` is what the first worker brought.

        Raises:
            DataError: no such file, not an audit, or one of another model.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                final = stored.get("parameters", initial)
                applied = dict(zip(map(str, stored["names"]), stored["frames_applied"].tolist(), strict=True))
                surplus = stored.get("surplus")
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"audit {path}: expected what 'rowcast serve --audit' writes: {error}") from error
        if len(final) != layout.elements:
            raise DataError(f"audit {path}: expected {layout.elements} parameters, got {len(final)}: another model")
        return cls(layout, initial, final, applied, surplus)


def save_server(path: str | Path, node: ServerNode) -> None:
    """Write what a server did with the rows of its team, as an ``.npz`` file without pickles.

    Raises:
        DataError: the file cannot be written.
    """
    names = list(node.frames_applied)
    arrays: dict[str, Any] = {
        "names": np.array(names, dtype=np.str_),
        "frames_applied": np.array([node.frames_applied[name] for name in names], dtype=np.int64),
    }
    if node.parameters is not None:
        arrays["parameters"] = node.parameters
    if node.surplus is not None:
        arrays["surplus"] = node.surplus
    try:
        with Path(path).open("wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise DataError(f"audit {path}: cannot be written: {error.strerror or error}") from error


@dataclass(frozen=True)
class AuditReport:
    """What came of the comparison.

    Attributes:
        frames_sent: row frames that the workers sent.
        lost, doubled: frames sent and not applied; applied more often than sent.
        rows_off: rows whose sums disagree by more than :data:`ROW_TOLERANCE`.
        row_error: the largest disagreement of a row, relative to the sum of |parameter| and |change| in it.
        total_error: sum over rows of the disagreement, relative to the sum of |computed| row sums: what share of
            the work is unaccounted for.
        replica_error: largest |replica - server| over all workers and parameters.
        replica_scale: largest |parameter|.
    """

    frames_sent: int
    lost: int
    doubled: int
    rows_off: int
    row_error: float
    total_error: float
    replica_error: float
    replica_scale: float

    @property
    def clean(self) -> bool:
        """Nothing lost, nothing doubled, and everybody agrees."""
        agree = self.replica_error <= REPLICA_TOLERANCE * self.replica_scale
        return self.lost == 0 and self.doubled == 0 and self.rows_off == 0 and agree


def prove(server: ServerAudit, workers: Sequence[WorkerAudit]) -> AuditReport:
    """Compare what workers and server say."""
    layout = server.layout
    lost = doubled = 0
    computed = np.zeros(layout.rows, dtype=np.float64)
    replica_error = 0.0
    for worker in workers:
        applied = server.frames_applied.get(worker.name, 0)
        lost += max(worker.frames_sent - applied, 0)
        doubled += max(applied - worker.frames_sent, 0)
        computed += worker.computed
        replica_error = max(replica_error, float(np.max(np.abs(worker.replica - server.final))))
    moved = computed if server.surplus is None else computed + server.surplus
    initial, final = server.initial.astype(np.float64), server.final.astype(np.float64)
    starts = layout.offsets[:-1]
    disagreement = np.abs(moved - np.add.reduceat(initial - final, starts))
    scale = np.add.reduceat(np.abs(initial) + np.abs(initial - final), starts)
    relative = disagreement / np.maximum(scale, np.finfo(np.float32).tiny)
    return AuditReport(
        frames_sent=sum(worker.frames_sent for worker in workers),
        lost=lost,
        doubled=doubled,
        rows_off=int(np.count_nonzero(relative > ROW_TOLERANCE)),
        row_error=float(relative.max()),
        total_error=float(disagreement.sum() / max(float(np.abs(computed).sum()), 1e-30)),
        replica_error=replica_error,
        replica_scale=float(np.max(np.abs(server.final))),
    )
