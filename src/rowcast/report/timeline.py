"""What each robot did, and when: seconds in each state, from the events ``step`` of its journal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rowcast.links import Trace
from rowcast.report.journals import complete_step, step_columns
from rowcast.report.table import Table, Value, table_of
from rowcast.report.values import STARVE, STATES, Array

__all__ = ["Timeline", "state_shares", "timeline_table"]

#: The parts of a step in order of time, as places in :data:`~rowcast.report.values.STATES`: the exchange comes in two
#: pieces, before the gate (push) and after it (pull); -1 is what lies between two steps, of which nothing is known.
_ORDER = np.array([0, 1, 2, 1, -1])
#: Bins of the whole run, and seconds that the close-up shows.
BINS, CLOSE_UP_S = 400, 150.0


@dataclass(frozen=True, eq=False)
class Timeline:
    """One robot's time. A step computes, pushes, is held at the gate, and pulls.

    The journal has the time of the whole exchange and when the quota of the push was through; so where the push ends
    and the pull begins is only about right. How long each state lasted is as in the journal.

    Attributes:
        robot: its name.
        edges_s: float64 [steps, 5], when a step began, had computed, had pushed, had passed the gate, and ended.
        overlap_s: float64 [steps], seconds of the computation in which rows may have travelled; they are drawn from
            its beginning.
        starve_s: float64 [steps], seconds in which it waited for data before it began; ``None`` without a stream.
    """

    robot: str
    edges_s: Array
    overlap_s: Array
    starve_s: Array | None = None

    @classmethod
    def of(cls, robot: str, ends_s: Array, fields: Mapping[str, Array]) -> Timeline:
        """From columns of the events ``step``; each float64 [steps].

        Args:
            robot: its name.
            ends_s: when each step ended, increasing.
            fields: ``compute_s``, ``communicate_s``, ``stall_s``, and ``overlap_s``, ``quota_s``, ``mta_time_s``, which
                may hold not-a-number; perhaps ``starve_s``, which does without a stream.
        """
        compute, communicate, stall = (fields[f"{state}_s"] for state in STATES)
        # A push without a quota, as of a policy that streams, has nothing behind the gate.
        push = np.fmax(np.where(np.isnan(fields["quota_s"]), communicate, fields["quota_s"]), fields["mta_time_s"])
        push = np.minimum(push, communicate)
        begins = ends_s - compute - communicate - stall
        computed = begins + compute
        # From the end backwards, so that what lasted no time has no length.
        edges = np.column_stack((begins, computed, computed + push, ends_s - (communicate - push), ends_s))
        # Journals are rounded to a microsecond: steps may seem to begin before the one before ended.
        ordered = np.maximum.accumulate(edges.ravel()).reshape(edges.shape)
        starve = fields.get(f"{STARVE}_s")
        waits = None if starve is None or not np.isfinite(starve).any() else np.nan_to_num(starve)
        return cls(robot, ordered, np.minimum(np.nan_to_num(fields["overlap_s"]), compute), waits)

    @classmethod
    def from_records(cls, robot: str, records: Iterable[Mapping[str, Any]], start_s: float = 0.0) -> Timeline:
        """From the records of a journal, all of them or only the steps; times count from ``start_s`` of its clock.

        Raises:
            ConfigError: a step lacks a number that reports need.
        """
        steps = [complete_step(record, robot) for record in records if record["event"] == "step"]
        names = (*(f"{state}_s" for state in STATES), "overlap_s", "quota_s", "mta_time_s", f"{STARVE}_s")
        ends_s = np.array([step["t"] - start_s for step in steps], dtype=np.float64)
        return cls.of(robot, ends_s, step_columns(steps, names))

    def seconds_between(self, edges_s: Array) -> Array:
        """Seconds in each state between neighbours of some times: float64 [times - 1, 4].

        The columns are those of :data:`~rowcast.report.values.STATES`, and the overlap, which is part of the first.
        """
        columns = []
        for place in range(len(STATES)):
            lasting = np.tile(np.equal(_ORDER, place), len(self.edges_s))
            columns.append(_within(self.edges_s.ravel(), lasting, edges_s))
        begins, ends = self.edges_s[:, 0], self.edges_s[:, -1]
        knots = np.column_stack((begins, np.minimum(begins + self.overlap_s, self.edges_s[:, 1]), ends)).ravel()
        columns.append(_within(knots, np.tile([True, False, False], len(begins)), edges_s))
        return np.column_stack(columns)

    def starved_between(self, edges_s: Array) -> Array:
        """Seconds in which it waited for data between neighbours of some times: float64 [times - 1]."""
        if self.starve_s is None:
            return np.zeros(len(edges_s) - 1)
        return _within(self._waits.ravel(), np.tile([True, False], len(self._waits)), edges_s)

    @property
    def _waits(self) -> Array:
        """When each wait for data began and ended: float64 [steps, 2]."""
        assert self.starve_s is not None
        begins = self.edges_s[:, 0]
        waits = np.column_stack((begins - self.starve_s, begins))
        ordered: Array = np.maximum.accumulate(waits.ravel()).reshape(waits.shape)
        return ordered

    def steps_between(self, edges_s: Array) -> npt.NDArray[np.int64]:
        """Steps that ended between neighbours of some times: int64 [times - 1]."""
        return np.diff(np.searchsorted(self.edges_s[:, -1], edges_s, side="right"))

    def changes_between(self, start_s: float, end_s: float) -> Array:
        """The two times, and all between them at which the state changes."""
        knots = np.append(self.edges_s.ravel(), self.edges_s[:, 0] + self.overlap_s)
        if self.starve_s is not None:
            knots = np.append(knots, self._waits[:, 0])
        return np.unique(np.concatenate(([start_s], knots[(knots > start_s) & (knots < end_s)], [end_s])))


def _within(knots: Array, lasting: npt.NDArray[np.bool_], edges: Array) -> Array:
    """How much of each piece between ``edges`` lies in the pieces behind the ``knots`` that are marked."""
    if len(knots) == 0:
        return np.zeros(len(edges) - 1)
    passed = np.append(0.0, np.cumsum(np.diff(knots) * lasting[:-1]))
    within: Array = np.diff(np.interp(edges, knots, passed))
    return within


def timeline_table(
    runs: Mapping[str, Sequence[Timeline]],
    seconds: float,
    links: Mapping[str, Trace] | None = None,
    close_up_s: tuple[float, float] | None = None,
) -> Table:
    """The numbers behind :func:`~rowcast.report.draw_timeline`, an hour or any other time.

    The view ``whole`` has bins of one length, and in them the share of each state; a share that is missing to 1 is of
    a step that did not end. The view ``close-up`` has a line for each time between two changes of state. A line
    without a policy holds the mean rate of a robot's link.

    Args:
        runs: for each policy the robots of its team.
        seconds: length of a run.
        links: for each robot the trace under its link, the same for all policies.
        close_up_s: from when to when the close-up goes; by default two and a half minutes in the middle, or a quarter.
    """
    span = min(CLOSE_UP_S, seconds / 4)
    start, end = close_up_s or ((seconds - span) / 2, (seconds + span) / 2)
    bins = {"whole": np.linspace(0.0, seconds, BINS + 1), "close-up": np.linspace(start, end, BINS + 1)}
    waits = any(line.starve_s is not None for team in runs.values() for line in team)
    states = (STARVE, *STATES) if waits else STATES
    rows: list[tuple[Value, ...]] = []
    for robot, trace in (links or {}).items():
        for view, edges in bins.items():
            rates = [trace.bits(a, b) / (b - a) for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
            nothing = [None] * (len(states) + 2)
            rows += [("", robot, view, *edges[k : k + 2].tolist(), *nothing, rate) for k, rate in enumerate(rates)]
    for policy, team in runs.items():
        for line in team:
            rows += _lines(policy, line, "whole", bins["whole"], waits)
            rows += _lines(policy, line, "close-up", line.changes_between(start, end), waits)
    return table_of(("policy", "robot", "view", "from_s", "to_s", *states, "overlap", "steps", "link_bps"), rows)


def _lines(policy: str, line: Timeline, view: str, edges: Array, waits: bool) -> Iterable[tuple[Value, ...]]:
    seconds = line.seconds_between(edges)
    if waits:
        seconds = np.column_stack((line.starved_between(edges), seconds))
    shares = seconds / np.diff(edges)[:, None]
    return (
        (policy, line.robot, view, a, b, *of_states, steps, None)
        for a, b, of_states, steps in zip(
            edges[:-1].tolist(), edges[1:].tolist(), shares.tolist(), line.steps_between(edges).tolist(), strict=True
        )
    )


def state_shares(table: Table) -> Table:
    """What :func:`timeline_table` comes to: steps, and the share of each state in the time of finished steps."""
    states = [column for column in (STARVE, *STATES) if column in table.columns]
    whole = table.where(view="whole")
    rows: list[tuple[Value, ...]] = []
    for policy in filter(None, whole.distinct("policy")):
        own = whole.where(policy=policy)
        lengths = np.array(own.numbers("to_s")) - np.array(own.numbers("from_s"))
        spent = [float(np.dot(own.numbers(state), lengths)) for state in (*states, "overlap")]
        known = sum(spent[: len(states)])
        steps = sum(own.numbers("steps")) / len(own.distinct("robot"))
        rows.append((policy, steps, *(100 * part / known if known else None for part in spent)))
    return table_of(("policy", "steps of a robot", *(f"{state} (%)" for state in (*states, "overlap"))), rows)
