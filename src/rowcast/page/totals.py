"""What records add up to, where a team only knows the newest: for programs that compute rates of their own."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from rowcast.journal import EVENTS, Record
from rowcast.page.model import MOST_ROBOTS, Robot

__all__ = ["RobotTotals", "Totals"]


@dataclass
class RobotTotals:
    """Of one robot, since the server has started.

    Attributes:
        pushes, pushed_rows, pushed_bytes: that have arrived from it; rows with payload, bytes of their frames.
        held_s: time that the gate held it (s).
        waits: times that somebody was told for whom it waits.
        link_losses: links to it that ended.
    """

    pushes: int = 0
    pushed_rows: float = 0.0
    pushed_bytes: float = 0.0
    held_s: float = 0.0
    waits: int = 0
    link_losses: int = 0


class Totals:
    """Counts records; in memory that does not grow with the run.

    Attributes:
        events: records by event.
        robots: by name; those that the team knows, and a few that it has forgotten.
    """

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.robots: dict[str, RobotTotals] = {}

    def take(self, record: Record, robot: Robot | None) -> None:
        """One record, and the robot that it is about; whatever its fields hold, it raises nothing."""
        event = record["event"]
        if event not in EVENTS:
            return
        self.events[event] += 1
        if robot is None:
            return
        found = self.robots.pop(robot.name, None) or RobotTotals()
        self.robots[robot.name] = found  # it is the newest now
        while len(self.robots) > 2 * MOST_ROBOTS:
            del self.robots[next(iter(self.robots))]
        if event == "push":
            found.pushes += 1
            found.pushed_rows += _amount(record.get("rows"))
            found.pushed_bytes += _amount(record.get("bytes"))
        elif event == "gate":
            found.held_s += _amount(record.get("held_s"))
        elif event == "waiting":
            found.waits += 1
        elif event == "link_down":
            found.link_losses += 1


def _amount(value: Any) -> float:
    """A finite amount above 0; 0 for whatever else it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    try:
        amount = float(value)
    except OverflowError:
        return 0.0
    return amount if 0.0 < amount < math.inf else 0.0
