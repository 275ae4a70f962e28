"""The energy of one worker over a run, from its journal or from a meter."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rowcast.energy.states import PowerStates
from rowcast.errors import ConfigError, LocalProtocolError, MeterError

__all__ = ["Energy", "StateSeconds", "WorkerEnergy", "total_energy", "worker_energy"]

Array = npt.NDArray[np.float64]
Record = Mapping[str, Any]

#: The parts of a step may exceed its length by so much (s): times in a journal are rounded to the microsecond.
ROUNDING_S = 1e-3


@dataclass(frozen=True)
class Energy:
    """An amount of energy that says where it comes from."""

    joules: float  #: J
    source: str  #: the model and its numbers, or the sensor and its rails

    def __str__(self) -> str:
        return f"{self.joules:.6g} J ({self.source})"


def total_energy(energies: Iterable[Energy]) -> Energy:
    """The sum, for example over a team; each source is named once.

    Raises:
        ConfigError: nothing to add up.
    """
    parts = list(energies)
    if not parts:
        raise ConfigError("total energy: expected at least one energy, got none; are there journals of workers?")
    sources = list(dict.fromkeys(part.source for part in parts))
    return Energy(math.fsum(part.joules for part in parts), "; ".join(sources))


@dataclass(frozen=True)
class StateSeconds:
    """How long a worker was in each state (s); together they are its whole time."""

    compute_s: float  #: computation without the radio
    overlap_s: float  #: computation while rows travelled
    communicate_s: float  #: rows travelled, nothing was computed
    stall_s: float  #: held at the gate
    uncovered_s: float  #: the journal says nothing about it; priced as stall
    starve_s: float = 0.0  #: waited for data, and nothing travelled; priced as stall
    starve_overlap_s: float = 0.0  #: waited for data while rows travelled; priced as communication

    @property
    def total_s(self) -> float:
        """All of them together (s)."""
        return math.fsum(vars(self).values())

    def joules(self, power: PowerStates) -> dict[str, float]:
        """J spent in each state: keys 'compute', 'overlap', 'communicate', 'stall' and 'uncovered'.

        And 'starve' where it waited for data.
        """
        *others, silent, sending = (s * w for s, w in zip(vars(self).values(), _watts(power), strict=True))
        spent = dict(zip(("compute", "overlap", "communicate", "stall", "uncovered"), others, strict=True))
        return {**spent, "starve": silent + sending} if self.starve_s or self.starve_overlap_s else spent


@dataclass(frozen=True, eq=False)
class WorkerEnergy:
    """The cumulative energy of one worker.

    Attributes:
        node: name of the worker.
        times_s: float64 [k], the node's clock, not decreasing; between two of them the power counts as constant.
        joules: float64 [k], J spent until then; ``joules[0]`` is 0.
        source: where the figures come from.
        idle_w: W that count after the last time; ``None`` where nobody knows (a meter that was no longer read).
        states: seconds in each state; ``None`` for a meter, which cannot tell them apart.
    """

    node: str
    times_s: Array
    joules: Array
    source: str
    idle_w: float | None
    states: StateSeconds | None = None

    @property
    def elapsed_s(self) -> Array:
        """float64 [k]: ``times_s``, counted from the first of them."""
        elapsed_s: Array = self.times_s - self.times_s[0]
        return elapsed_s

    @property
    def total(self) -> Energy:
        """All of it, with its source."""
        return Energy(float(self.joules[-1]), self.source)

    def joules_after(self, elapsed_s: float) -> float:
        """J spent in the first ``elapsed_s`` seconds.

        Beyond the last time the worker is priced as stalled: it waits, switched on, for the others.

        Raises:
            LocalProtocolError: ``elapsed_s`` is negative or not a number.
            MeterError: beyond the last reading of a meter.
        """
        return float(self.joules_at(np.array([elapsed_s]))[0])

    def joules_at(self, elapsed_s: Array) -> Array:
        """As :meth:`joules_after`, for many times at once: float64 [k]."""
        wrong = elapsed_s[~((elapsed_s >= 0) & (elapsed_s < math.inf))]
        if len(wrong):
            raise LocalProtocolError(f"energy of {self.node}: expected seconds, 0 or more, got {wrong[0]}")
        known = self.elapsed_s
        spent: Array = np.interp(elapsed_s, known, self.joules)
        beyond = elapsed_s - known[-1]
        if self.idle_w is not None:
            return np.where(beyond > 0, self.joules[-1] + self.idle_w * beyond, spent)
        if len(beyond) and beyond.max() > ROUNDING_S:
            raise MeterError(
                f"energy of {self.node}: the meter was read for {known[-1]:g} s, asked was {elapsed_s.max():g} s; "
                "read it until the end of the run"
            )
        return spent


def worker_energy(
    records: Iterable[Record],
    power: PowerStates | None = None,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
) -> WorkerEnergy:
    """The energy of one worker, from its journal and a table of power states.

    A step lasts from the end of the step before (the first: from its own beginning) to its ``t``. It waits for data,
    where it has a stream, and computes, then pushes, waits and pulls. So its curve has three pieces: what the parts do
    not cover (priced as stall) and the wait for data at their mean power, the computation, and the exchange at its mean
    power. ``overlap_s`` of a step, where it has one, are those of its ``compute_s`` in which rows travelled as well;
    they are not in ``communicate_s``. ``starve_s`` is the wait for data: priced as communication where the step has an
    overlap, since rows travelled then as well, otherwise as stall.

    E = sum over states of P[state] * t[state] (ROG, MICRO 2022, Table III; the price of overlap is
    ours, :attr:`PowerStates.overlap_w`).

    Args:
        records: the journal of one worker, as :func:`rowcast.journal.read_journal` gives it.
        power: Watts of the states; ``None`` takes the published table.
        start_s: count from here (the node's clock); ``None``: from the beginning of the first step. What lies
            before the first step is priced as stall.
        end_s: count until here; ``None``: until the end of the last step. What lies behind it is priced as stall.

    Returns:
        The cumulative curve, with three times for each step.

    Raises:
        ConfigError: no step, records of several workers, a step whose numbers are missing, negative or longer than
            the step, or steps that go back in time.
        LocalProtocolError: ``end_s`` is before ``start_s``.
    """
    power = power or PowerStates()
    node, steps = _steps_of(records, wanted=start_s is None or end_s is None)
    edges, seconds = _pieces(node, steps, start_s)
    first = float(edges[0]) if start_s is None else start_s
    last = float(edges[-1]) if end_s is None else end_s
    if not last >= first:
        raise LocalProtocolError(f"energy of {node}: expected an end at or after the start, {first} s, got {last} s")
    if first < edges[0]:
        edges, seconds = np.append(first, edges), np.vstack((_idle(edges[0] - first), seconds))
    if last > edges[-1]:
        edges, seconds = np.append(edges, last), np.vstack((seconds, _idle(last - edges[-1])))
    cut = np.clip(edges, first, last)
    lengths, kept = np.diff(edges), np.diff(cut)
    inside = (edges[:-1] >= first) & (edges[1:] <= last)
    share = np.divide(kept, lengths, out=inside.astype(np.float64), where=lengths > 0)
    seconds = seconds * share[:, None]
    joules = np.append(0.0, np.cumsum(seconds @ np.array(_watts(power))))
    states = StateSeconds(*(float(column) for column in seconds.sum(axis=0)))
    return WorkerEnergy(node, cut, joules, power.source, power.stall_w, states)


def _watts(power: PowerStates) -> tuple[float, ...]:
    """In the order of the fields of :class:`StateSeconds`."""
    idle_w = power.stall_w
    return power.compute_w, power.overlap_w, power.communicate_w, idle_w, idle_w, idle_w, power.communicate_w


def _idle(seconds: float) -> list[float]:
    return [0.0, 0.0, 0.0, 0.0, float(seconds), 0.0, 0.0]


def _steps_of(records: Iterable[Record], *, wanted: bool) -> tuple[str, Array]:
    """The worker's name and, for each step, t, iteration, and its :data:`PARTS` [n, 7]."""
    nodes: set[str] = set()
    rows: list[list[float]] = []
    for record in records:
        nodes.add(record["node"])
        if record["event"] == "step":
            rows.append(
                [_number(record, name) for name in ("t", "iteration")] + [_part(record, name) for name in PARTS]
            )
    if len(nodes) != 1:
        found = ", ".join(sorted(nodes)) or "no record at all"
        raise ConfigError(f"energy of a worker: expected the journal of one node, got {found}; price one at a time")
    (node,) = nodes
    if wanted and not rows:
        raise ConfigError(
            f"energy of {node}: no 'step' event in its journal; expected a worker that finished a step, or start_s and "
            "end_s, between which it counts as stalled"
        )
    return node, np.array(rows, dtype=np.float64).reshape(-1, 2 + len(PARTS))


PARTS = ("compute_s", "overlap_s", "communicate_s", "stall_s", "starve_s")


def _number(record: Record, name: str) -> float:
    # Journals from before pipelining have no overlap_s, and a worker without a stream has no starve_s.
    value = record.get(name, 0.0 if name in ("overlap_s", "starve_s") else None)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(
            f"energy of {record['node']}: the step of iteration {record.get('iteration')} has {name} = {value!r}, "
            "expected a number (the schema is rowcast.journal.EVENTS)"
        )
    return float(value)


def _part(record: Record, name: str) -> float:
    value = _number(record, name)
    if value < 0:
        raise ConfigError(
            f"energy of {record['node']}: the step of iteration {record.get('iteration')} has {name} = {value:g}, "
            "expected seconds, 0 or more"
        )
    return value


def _pieces(node: str, steps: Array, start_s: float | None) -> tuple[Array, Array]:
    """The curve's times [3 n + 1] and, for each piece between them, the seconds in each state [3 n, 7]."""
    if len(steps) == 0:
        assert start_s is not None
        return np.array([start_s]), np.zeros((0, 7))
    ends, iterations, compute, overlap, communicate, stall, starve = steps.T
    _refuse(
        node, iterations, overlap > compute + ROUNDING_S, "its overlap_s is longer than the compute_s it is part of"
    )
    overlap = np.minimum(overlap, compute)
    covered = starve + compute + communicate + stall
    begins = np.append(ends[0] - covered[0], ends[:-1])
    _refuse(node, iterations, ends < begins, "it ends before the step before; expected one journal in order of time")
    gap = ends - begins - covered
    _refuse(
        node,
        iterations,
        gap < -ROUNDING_S,
        "its parts are longer than the time since the step before: seconds would be paid twice; seconds in which rows "
        "travelled during the computation belong to overlap_s, not to communicate_s",
    )
    gap = np.maximum(gap, 0.0)
    nothing = np.zeros_like(gap)
    wait = gap + starve
    sending = np.where(overlap > 0, starve, 0.0)
    edges = np.column_stack((np.minimum(begins + wait, ends), np.minimum(begins + wait + compute, ends), ends))
    seconds = np.stack(
        (
            np.column_stack((nothing, nothing, nothing, nothing, gap, starve - sending, sending)),
            np.column_stack((compute - overlap, overlap, nothing, nothing, nothing, nothing, nothing)),
            np.column_stack((nothing, nothing, communicate, stall, nothing, nothing, nothing)),
        ),
        axis=1,
    )
    return np.append(begins[0], edges.ravel()), seconds.reshape(-1, 7)


def _refuse(node: str, iterations: Array, bad: npt.NDArray[np.bool_], why: str) -> None:
    if bad.any():
        raise ConfigError(f"energy of {node}: the step of iteration {int(iterations[bad][0])}: {why}")
