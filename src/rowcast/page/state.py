"""A team as the page's script gets it: whole, and then what has changed."""

from __future__ import annotations

import dataclasses
from typing import Any

from rowcast.page.model import Robot, Team

__all__ = ["Changes", "curves_of", "team_state"]

#: Points of a chart at most that are sent at once, for one robot.
MOST_POINTS = 1024


def _rounded(values: list[float], digits: int) -> list[float]:
    return [round(value, digits) for value in values]


def _robot(robot: Robot, *, rows: bool = True) -> dict[str, Any]:
    told = {
        "name": robot.name,
        "state": robot.state,
        "phase": robot.phase,
        "quarantined": robot.quarantined,
        "why": robot.why,
        "since": robot.since,
        "iteration": robot.iteration,
        "staleness": robot.staleness,
        "share": robot.share,
        "metrics": robot.metrics,
        "joules": robot.joules,
        "curves": list(robot.curves),
        **{name: robot.newest(name) for name in ("link", "up", "down", "stall")},
    }
    if rows:
        told["rows"] = None if robot.rows is None else vars(robot.rows)
    return told


def _map_of(robot: Robot) -> int:
    """Which map of rows of a robot is the newest; 0: there is none."""
    return 0 if robot.rows is None else robot.rows.serial


def _head(team: Team, generation: int) -> dict[str, Any]:
    return {
        "generation": generation,
        "start": team.start,
        "now": team.now,
        "policy": team.policy,
        "ended": team.ended,
        "records": team.records,
        "unknown": team.unknown,
    }


def team_state(team: Team, generation: int) -> dict[str, Any]:
    """All of a team but its curves."""
    return {
        "kind": "whole",
        **_head(team, generation),
        "layers": {"names": team.layers[0], "rows": team.layers[1]},
        "robots": [_robot(robot) for robot in team.robots.values()],
        "log": [dataclasses.asdict(line) for line in team.log],
    }


def curves_of(team: Team, curve: str, robots: list[str], *, whole: bool) -> dict[str, Any]:
    """A curve of some robots: its newest points, or the bins of the whole run.

    Returns:
        For each robot that has it the number of points so far, times (s) and values.
    """
    found = {}
    for name in robots:
        robot = team.robots.get(name)
        points = None if robot is None else robot.curves.get(curve)
        if points is not None:
            times, values = points.whole() if whole else points.recent()
            found[name] = [points.total, _rounded(times, 3), [float(f"{value:.6g}") for value in values]]
    return found


class Changes:
    """What has changed in a team since it was asked last; for all who look at once."""

    def __init__(self) -> None:
        self._generation = 0
        self._records = -1
        self._lines = 0
        self._layers: list[str] = []
        self._totals: dict[tuple[str, str], int] = {}
        self._robots: dict[str, int] = {}
        self._maps: dict[str, int] = {}

    def since_last(self, team: Team, generation: int) -> dict[str, Any] | None:
        """The changes; ``None``: nothing has changed. Where the team is another object, all of it."""
        if generation != self._generation:
            self._generation = generation
            self._totals.clear()
            self._robots.clear()
            self._maps.clear()
            self._note(team)
            self._records, self._lines, self._layers = team.records, team.lines, team.layers[0]
            return team_state(team, generation)
        if team.records == self._records and team.lines == self._lines:
            return None
        told: dict[str, Any] = {"kind": "changes", **_head(team, generation)}
        changed = [robot for robot in team.robots.values() if self._robots.get(robot.name) != robot.serial]
        # The map of rows is most of it, and changes less often than all else.
        told["robots"] = [_robot(robot, rows=self._maps.get(robot.name) != _map_of(robot)) for robot in changed]
        gone = self._robots.keys() - team.robots.keys()
        if gone:
            told["gone"] = sorted(gone)
            self._maps = {name: t for name, t in self._maps.items() if name not in gone}
            self._robots = {name: serial for name, serial in self._robots.items() if name not in gone}
            self._totals = {key: total for key, total in self._totals.items() if key[0] not in gone}
        new = team.lines - self._lines
        told["log"] = [dataclasses.asdict(line) for line in list(team.log)[-new:]] if new else []
        if team.layers[0] != self._layers:
            told["layers"] = {"names": team.layers[0], "rows": team.layers[1]}
        told["points"] = self._points(changed)
        self._note(team)
        self._records, self._lines, self._layers = team.records, team.lines, team.layers[0]
        return told

    def _points(self, changed: list[Robot]) -> dict[str, Any]:
        """New points by robot and curve: how many there were before, times and values."""
        points: dict[str, Any] = {}
        for robot in changed:
            for name, curve in robot.curves.items():
                before = self._totals.get((robot.name, name), 0)
                if curve.total > before:
                    times, values = curve.recent(before)
                    told = [curve.total - len(times), _rounded(times, 3), [float(f"{value:.6g}") for value in values]]
                    points.setdefault(robot.name, {})[name] = told
        return points

    def _note(self, team: Team) -> None:
        for robot in team.robots.values():
            if self._robots.get(robot.name) != robot.serial:
                self._robots[robot.name] = robot.serial
                self._maps[robot.name] = _map_of(robot)
                for name, curve in robot.curves.items():
                    self._totals[robot.name, name] = curve.total
