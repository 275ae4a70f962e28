"""A team as Prometheus reads it: names by its conventions, base units, totals that only grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from rowcast.page.model import Robot, Team
from rowcast.page.totals import RobotTotals, Totals
from rowcast.page.watching import Counted
from rowcast.version import __version__

__all__ = ["Exposition"]

#: States that each robot is said to be in or not to be in, so that a series goes to 0 and does not end.
STATES = (
    *("joining", "seeding", "receiving", "ready", "computing", "pushing", "waiting", "queued", "pulling"),
    *("draining", "inferring", "link down", "absent", "quarantined", "finished", "left"),
)

#: Name, what it is, and its value for a robot (``None``: it has none now).
_GAUGES: tuple[tuple[str, str, Callable[[Robot], float | None]], ...] = (
    ("iteration", "Newest iteration that the robot has finished.", lambda robot: robot.iteration),
    ("staleness_iterations", "Iterations behind the fastest robot.", lambda robot: robot.staleness),
    ("stall_ratio", "Share of its time that the gate held it, in its newest iteration.", lambda r: r.newest("stall")),
    ("pushed_rows_ratio", "Share of its rows that its newest push carried.", lambda robot: robot.share),
    (
        "oldest_row_age_iterations",
        "Iterations by which the oldest of its rows at the server is behind the fastest robot.",
        lambda robot: max(robot.rows.oldest, default=None) if robot.rows is not None else None,
    ),
)
_COUNTERS: tuple[tuple[str, str, Callable[[RobotTotals], float]], ...] = (
    ("pushes", "Pushes that have arrived from the robot.", lambda totals: totals.pushes),
    ("pushed_rows", "Rows with payload that have arrived from it.", lambda totals: totals.pushed_rows),
    ("pushed_bytes", "Bytes of row frames that have arrived from it, headers included.", lambda t: t.pushed_bytes),
    ("held_seconds", "Seconds that the gate held it.", lambda totals: totals.held_s),
    ("waits", "Times that it was told for whom it waits.", lambda totals: totals.waits),
    ("link_losses", "Links to it that ended.", lambda totals: totals.link_losses),
)
#: Curves with a measured delivery rate (bit/s), by direction.
_RATES = {"up": "link", "down": "down"}


class Exposition:
    """What is answered to who asks for metrics.

    Args:
        source: the team, and what it adds up to.
    """

    def __init__(self, source: Counted) -> None:
        self._source = source
        self._registry = CollectorRegistry()
        self._registry.register(_TeamCollector(source))
        ProcessCollector(registry=self._registry)

    def answer(self, accept: str) -> tuple[bytes, str]:
        """The text, in the form that ``accept``, a header of HTTP, asks for; and the type of that form."""
        encode, kind = choose_encoder(accept)
        return encode(self._registry), kind


class _TeamCollector(Collector):
    def __init__(self, source: Counted) -> None:
        self._source = source

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        with self._source.lock:
            self._source.pump()
            found = list(_families(self._source.team, self._source.totals))
        yield from found


def _families(team: Team, totals: Totals) -> Iterator[Metric]:
    info = {"version": __version__}
    yield InfoMetricFamily("rowcast_build", "Version of the server.", value=info)
    yield InfoMetricFamily("rowcast_team", "Policy of the team.", value={"policy": team.policy})
    events = CounterMetricFamily("rowcast_events", "Records of the journal.", labels=["event"])
    for event, count in sorted(totals.events.items()):
        events.add_metric([event], count)
    yield events
    robots = list(team.robots.values())
    for name, text, gauge in _GAUGES:
        family = GaugeMetricFamily(f"rowcast_robot_{name}", text, labels=["robot"])
        for robot in robots:
            if (value := gauge(robot)) is not None:
                family.add_metric([robot.name], value)
        yield family
    for name, text, count_of in _COUNTERS:
        counter = CounterMetricFamily(f"rowcast_robot_{name}", text, labels=["robot"])
        for robot in robots:
            counter.add_metric([robot.name], count_of(totals.robots.get(robot.name, RobotTotals())))
        yield counter
    yield _states(robots)
    yield _rates(robots)
    metrics = GaugeMetricFamily("rowcast_robot_metric", "What the robot reported last.", labels=["robot", "name"])
    for robot in robots:
        for metric, value in robot.metrics.items():
            metrics.add_metric([robot.name, metric], value)
    yield metrics


def _states(robots: list[Robot]) -> Metric:
    family = GaugeMetricFamily(
        "rowcast_robot_state", "1 for the state that the robot is in, 0 for the others.", labels=["robot", "state"]
    )
    for robot in robots:
        for state in dict.fromkeys((*STATES, robot.state)):
            family.add_metric([robot.name, state], float(state == robot.state))
    return family


def _rates(robots: list[Robot]) -> Metric:
    family = GaugeMetricFamily(
        "rowcast_robot_delivery_rate_bytes_per_second",
        "Measured delivery rate of its link: up is from the robot to the server.",
        labels=["robot", "direction"],
    )
    for robot in robots:
        for direction, curve in _RATES.items():
            if (bps := robot.newest(curve)) is not None:
                family.add_metric([robot.name, direction], bps / 8)
    return family
