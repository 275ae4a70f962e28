"""A team as Prometheus reads it: names by its conventions, base units, totals that only grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from rowcast.energy.live import ENERGY_J, POWER_W
from rowcast.page.model import Robot, Team
from rowcast.page.totals import RobotTotals, Totals
from rowcast.page.watching import Source
from rowcast.version import __version__

__all__ = ["STATES", "Exposition"]

#: States that each worker is said to be in or not to be in, so that a series goes to 0 and does not end. Another one,
#: of a journal of another version, is 'other': labels have a bound.
STATES = (
    *("joining", "seeding", "receiving", "ready", "computing", "pushing", "waiting", "queued", "pulling"),
    *("draining", "inferring", "link down", "absent", "quarantined", "finished", "left", "other"),
)


def _pending_rows(team: Team, robot: Robot) -> float | None:
    """Rows of which the newest iteration has not arrived; ``None``: the server tells no map of them."""
    counts = team.layers[1]
    if robot.rows is None or len(robot.rows.pending) != len(counts):
        return None
    return float(round(sum(share * rows for share, rows in zip(robot.rows.pending, counts, strict=True))))


#: Name, what it is, and its value for a worker (``None``: it has none now).
_GAUGES: tuple[tuple[str, str, Callable[[Team, Robot, RobotTotals], float | None]], ...] = (
    ("iteration", "Newest iteration that the worker has finished.", lambda team, robot, _: robot.iteration),
    ("staleness_iterations", "Iterations behind the fastest.", lambda team, robot, _: robot.staleness),
    ("stall_ratio", "Share of its newest step in which it was held.", lambda team, robot, _: robot.newest("stall")),
    ("pushed_rows_ratio", "Share of its rows that its newest push carried.", lambda team, robot, _: robot.share),
    ("waiting_seconds", "For how long it has been held by now.", lambda team, robot, totals: totals.waiting_s),
    (
        "oldest_row_age_iterations",
        "Iterations by which what has arrived of its oldest row is behind the fastest.",
        lambda team, robot, _: max(robot.rows.oldest, default=None) if robot.rows is not None else None,
    ),
    (
        "pending_rows",
        "Rows of which its newest iteration has not arrived.",
        lambda team, robot, _: _pending_rows(team, robot),
    ),
    (
        "in_flight_bytes",
        "Row frames that were sent to it and are not acknowledged.",
        lambda team, robot, totals: totals.in_flight_bytes,
    ),
    (
        "power_watts",
        "Mean power by its meter, over the last second.",
        lambda team, robot, _: robot.metrics.get(POWER_W),
    ),
)
_COUNTERS: tuple[tuple[str, str, Callable[[RobotTotals], float | None]], ...] = (
    ("steps", "Iterations that the worker has finished.", lambda totals: totals.steps),
    ("pushes", "Pushes that have arrived from it.", lambda totals: totals.pushes),
    ("pushed_rows", "Rows with payload that have arrived from it.", lambda totals: totals.pushed_rows),
    ("wait_notices", "Times that it was told for whom it waits.", lambda totals: totals.wait_notices),
    ("link_losses", "Links to it that ended.", lambda totals: totals.link_losses),
    ("absences", "Times that nobody waited for it any longer.", lambda totals: totals.absences),
    ("energy_joules", "Energy by its meter.", lambda totals: totals.joules),
)
#: The same with a label beside the worker: name, label, what it is, values by label.
_LABELLED: tuple[tuple[str, str, str, Callable[[RobotTotals], Mapping[str, float]]], ...] = (
    ("row_bytes", "direction", "Row frames, headers included: up comes from the worker.", lambda totals: totals.sent),
    (
        "resent_frames",
        "direction",
        "Row frames that were lost with a link and sent again.",
        lambda totals: totals.resent,
    ),
    ("stall_seconds", "cause", "Time that it stood still, by what it lacked.", lambda totals: totals.stall_s),
    ("step_seconds", "part", "Time of its steps by part, where its own journal is read.", lambda totals: totals.step_s),
)
#: Curves with a measured delivery rate (bit/s), by direction.
_RATES = {"up": "link", "down": "down"}


class Exposition:
    """What is answered to who asks for metrics.

    Args:
        source: the team.
        totals: what its records add up to; looked at with the lock of the source held.
    """

    def __init__(self, source: Source, totals: Totals) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_TeamCollector(source, totals))
        ProcessCollector(registry=self._registry)

    def answer(self, accept: str) -> tuple[bytes, str]:
        """The text, in the form that ``accept``, a header of HTTP, asks for; and the type of that form."""
        encode, kind = choose_encoder(accept)
        return encode(self._registry), kind


class _TeamCollector(Collector):
    def __init__(self, source: Source, totals: Totals) -> None:
        self._source = source
        self._totals = totals

    def describe(self) -> list[Metric]:
        """Names nothing beforehand: what there is depends on the team."""
        return []

    def collect(self) -> Iterator[Metric]:
        with self._source.lock:
            self._source.pump()
            found = list(_families(self._source.team, self._totals))
        yield from found


def _families(team: Team, totals: Totals) -> Iterator[Metric]:
    yield InfoMetricFamily("rowcast_build", "Version of what tells this.", value={"version": __version__})
    yield InfoMetricFamily("rowcast_team", "Policy of the team.", value={"policy": team.policy})
    if totals.members is not None:
        yield GaugeMetricFamily("rowcast_team_members", "Workers that the gate counts.", value=totals.members)
    left_out = "Records that came faster than they could be counted: they are in no figure."
    yield CounterMetricFamily("rowcast_records_left_out", left_out, value=totals.left_out)
    events = CounterMetricFamily("rowcast_events", "Records of the journal.", labels=["event"])
    for event, count in sorted(totals.events.items()):
        events.add_metric([event], count)
    yield events
    robots = [(robot, totals.robots.get(robot.name) or RobotTotals()) for robot in team.robots.values()]
    for name, text, value_of in _GAUGES:
        gauge = GaugeMetricFamily(f"rowcast_worker_{name}", text, labels=["worker"])
        for robot, counted in robots:
            if (value := value_of(team, robot, counted)) is not None:
                gauge.add_metric([robot.name], value)
        yield gauge
    for name, text, count_of in _COUNTERS:
        counter = CounterMetricFamily(f"rowcast_worker_{name}", text, labels=["worker"])
        for robot, counted in robots:
            if (count_now := count_of(counted)) is not None:
                counter.add_metric([robot.name], count_now)
        yield counter
    for name, label, text, values_of in _LABELLED:
        counter = CounterMetricFamily(f"rowcast_worker_{name}", text, labels=["worker", label])
        for robot, counted in robots:
            for key, amount in sorted(values_of(counted).items()):
                counter.add_metric([robot.name, key], amount)
        yield counter
    yield from _of_robots(list(team.robots.values()))


def _of_robots(robots: list[Robot]) -> Iterator[Metric]:
    states = GaugeMetricFamily(
        "rowcast_worker_state", "1 for the state that the worker is in, 0 for the others.", labels=["worker", "state"]
    )
    rates = GaugeMetricFamily(
        "rowcast_worker_delivery_rate_bytes_per_second",
        "Measured delivery rate of its link: up comes from the worker.",
        labels=["worker", "direction"],
    )
    metrics = GaugeMetricFamily(
        "rowcast_worker_metric", "What the worker has reported last, 8 names at most.", labels=["worker", "name"]
    )
    for robot in robots:
        now = robot.state if robot.state in STATES else "other"
        for state in STATES:
            states.add_metric([robot.name, state], float(state == now))
        for direction, curve in _RATES.items():
            if (bps := robot.newest(curve)) is not None:
                rates.add_metric([robot.name, direction], bps / 8)
        for name, value in robot.metrics.items():
            if name not in (POWER_W, ENERGY_J):
                metrics.add_metric([robot.name, name], value)
    yield from (states, rates, metrics)
