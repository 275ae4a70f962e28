"""What each record of a run's journals changes, as values of series and lines of a log; in the memory of one record."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rowcast.errors import visible
from rowcast.export.schema import unit_of
from rowcast.journal import EVENTS, Record
from rowcast.page import Recording, Robot, Team
from rowcast.page.model import Line, finite_number

__all__ = ["Moment", "Moments", "Value"]

log = logging.getLogger("rowcast")

#: Records that are read at once.
_AT_ONCE = 1000
#: Beyond it a time (s) is none: its nanoseconds have no room.
_LATEST_S = 9.2e9
#: Curves of the page's model, and the series that they are here.
_SERIES = {"link": "rate/link", "up": "rate/up", "down": "rate/down"}
#: What a robot's line of the page says, by series.
_OF_A_ROBOT = ("iteration", "staleness", "share", "joules")


class Value(NamedTuple):
    """A value of a series.

    Attributes:
        series: its name, as ``rate/up`` or ``step/compute_s``.
        number: the value; ``None`` where it is a text.
        unit: of the number; empty: it has none, or that of whoever reported it.
        text: the value, where it is a text.
    """

    series: str
    number: float | None
    unit: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """What a record tells.

    Attributes:
        t: when (s, the clock of the journal).
        who: which robot or node it is about.
        robot: as the team has it behind the record; ``None``: it is about none.
        record: the record itself.
        values: of series that it gives or changes.
        line: of the log of what happened; ``None``: it is none for the log.
    """

    t: float
    who: str
    robot: Robot | None
    record: Record
    values: list[Value]
    line: Line | None

    @property
    def iteration(self) -> int | None:
        """The newest iteration that the robot has finished; ``None``: not known."""
        return None if self.robot is None else self.robot.iteration


class Moments:
    """The moments of a run, one for each record, in the order of their times.

    Args:
        path: a journal, or a folder of journals; see :class:`rowcast.page.Recording`.
        session: which session of each file to begin with: 0 is the first, -1 the last.

    Attributes:
        team: what the records that were read say of the team.
        records: how many there were.

    Raises:
        ConfigError: the path is missing, holds no journal, or something else than one.
    """

    def __init__(self, path: str | Path, session: int = -1) -> None:
        self.team = Team()
        self.records = 0
        self._recording = Recording(path, session)
        self._told: dict[str, dict[str, Any]] = {}
        self._totals: dict[str, dict[str, int]] = {}
        self._untimed = 0

    def __iter__(self) -> Iterator[Moment]:
        recording = self._recording
        while records := recording.read(_AT_ONCE):
            self._remark()
            for record in records:
                if record["event"] not in EVENTS:  # of another version: the recording has said so
                    continue
                if not 0 <= record["t"] <= _LATEST_S:
                    self._untimed += 1
                    continue
                yield self._moment(record)
        self._remark()
        if self._untimed:
            log.warning("%d records with a time that none can have are left out", self._untimed)
        if recording.bytes_left:
            log.warning(
                "journal %s: its last %d bytes are no whole record and are left out: it was cut there, or is still "
                "written",
                *(recording.path, recording.bytes_left),
            )

    def _remark(self) -> None:
        for remark in self._recording.remarks:
            log.warning("%s", remark)
        self._recording.remarks.clear()

    def _moment(self, record: Record) -> Moment:
        team, lines = self.team, self.team.lines
        team.take(record)
        self.records += 1
        robot = team.about
        # A peer that is no robot may be anybody at the door: it gets no series of its own.
        who = visible(str(record["node"]), 60) if robot is None else robot.name
        values = [] if robot is None else self._of_robot(robot, is_metric=record["event"] == "metric")
        values += _of_record(record)
        return Moment(float(record["t"]), who, robot, record, values, team.log[-1] if team.lines > lines else None)

    def _of_robot(self, robot: Robot, *, is_metric: bool) -> list[Value]:
        """What is another than it was; a metric is taken from its own record, the page keeps only some of them."""
        if len(self._told) > 2 * len(self.team.robots) + 100:  # robots that the team has forgotten
            self._told = {name: told for name, told in self._told.items() if name in self.team.robots}
            self._totals = {name: totals for name, totals in self._totals.items() if name in self.team.robots}
        told = self._told.setdefault(robot.name, {})
        totals = self._totals.setdefault(robot.name, {})
        found = []
        if told.get("state") != robot.state:
            told["state"] = robot.state
            found.append(Value("state", None, "", robot.state))
        for name in _OF_A_ROBOT:
            value = getattr(robot, name)
            if value is not None and told.get(name) != value:
                told[name] = value
                found.append(Value(name, float(value), unit_of(name)))
        for name, curve in robot.curves.items():
            if curve.total != totals.get(name, 0) and curve.newest is not None:
                totals[name] = curve.total
                if is_metric:
                    continue
                series = _SERIES.get(name, name)
                found.append(Value(series, curve.newest[1], unit_of(series)))
        return found


def _of_record(record: Record) -> list[Value]:
    """The numbers in it."""
    event = record["event"]
    if event == "metric":
        name, number = record.get("name"), _finite(record.get("value"))
        return [] if number is None else [Value(f"metric/{visible(str(name), 60)}", number)]
    found = []
    for name, value in record.items():
        if name in EVENTS[event] and name != "iteration" and (number := _finite(value)) is not None:
            series, unit = _series(event, name)
            found.append(Value(series, number, unit))
    return found


@cache
def _series(event: str, field: str) -> tuple[str, str]:
    """Name and unit of the series of a field of an event."""
    return f"{event}/{field}", unit_of(field)


def _finite(value: Any) -> float | None:
    """A number, or a truth as 0 or 1; ``None``: it is none, or not finite."""
    return finite_number(int(value) if isinstance(value, bool) else value)
