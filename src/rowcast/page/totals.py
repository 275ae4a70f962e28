"""What records add up to, where a team only knows the newest: for programs that compute rates of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rowcast.energy.live import ENERGY_J
from rowcast.journal import EVENTS, Record
from rowcast.page.model import MOST_ROBOTS, Robot, finite_number

__all__ = ["PARTS", "RobotTotals", "Totals"]

#: Parts of a step, as the fields of its event are called with ``_s``.
PARTS = ("compute", "communicate", "stall", "starve")
#: Events with how many robots count.
_OF_THE_GATE = ("join", "leave", "absent", "return")


def _amount(value: Any) -> float:
    """A finite amount; 0 for whatever else it is, or below."""
    return max(finite_number(value) or 0.0, 0.0)


@dataclass
class _Growing:
    """A count of somebody else, which begins anew where they do; ours goes on."""

    last: float | None = None

    def grown(self, value: float) -> float:
        """By how much it has grown since it was last seen."""
        before, self.last = self.last, value
        return value if before is None or value < before else value - before


@dataclass
class RobotTotals:
    """Of one robot, since somebody counts; none of it ever decreases, but for the last three.

    Where the journals of a server and of the robot are both read, what both tell is counted once: by the server's.

    Attributes:
        steps: iterations that it has finished.
        pushes, pushed_rows: that have arrived from it; rows with payload.
        sent: bytes of row frames, headers included, by direction: 'up' from the robot, 'down' to it.
        stall_s: seconds, by cause: 'gate' and 'slot' held it, 'team' one of the two (by its own journal alone), 'data'
            was not there.
        step_s: seconds by part of a step, see :data:`PARTS`; by its own journal.
        wait_notices: times that it was told for whom it waits.
        link_losses, absences: links to it that ended; times that nobody waited for it any longer.
        resent: row frames that were lost with a link and sent again, by direction.
        joules: that its meter has measured (J); ``None``: it has none.
        waiting_s: for how long it is held by now (s).
        in_flight_bytes: sent to it and not acknowledged; ``None``: not known.
    """

    steps: float = 0.0
    pushes: int = 0
    pushed_rows: float = 0.0
    sent: dict[str, float] = field(default_factory=dict)
    stall_s: dict[str, float] = field(default_factory=dict)
    step_s: dict[str, float] = field(default_factory=dict)
    wait_notices: int = 0
    link_losses: int = 0
    absences: int = 0
    resent: dict[str, float] = field(default_factory=dict)
    joules: float | None = None
    waiting_s: float = 0.0
    in_flight_bytes: float | None = None
    _iteration: float | None = None
    _recounted: bool = False
    _by_server: bool = False
    _own_energy: bool = False
    _down: _Growing = field(default_factory=_Growing)
    _energy: _Growing = field(default_factory=_Growing)

    def take(self, record: Record) -> None:
        """One record about this robot."""
        self._by_server = self._by_server or record["node"] == "server"
        handler = _HANDLERS.get(record["event"])
        if handler is not None:
            handler(self, record)

    def _reaches(self, record: Record) -> None:
        """It has finished an iteration: one, or several that it could not tell of before."""
        iteration = finite_number(record.get("iteration"))
        if iteration is None:
            return
        before = iteration - 1.0 if self._iteration is None else self._iteration
        self.steps += min(1.0, abs(iteration - before)) if self._recounted else max(iteration - before, 0.0)
        self._iteration = iteration if self._recounted else max(iteration, before)
        self._recounted = False

    def _on_join(self, record: Record) -> None:
        iteration = finite_number(record.get("iteration"))
        if iteration is not None and (record.get("how") != "resume" or self._iteration is None):
            self._iteration = iteration  # one that resumes goes on where it was

    def _on_return(self, record: Record) -> None:
        self._recounted = True  # it may be given another number

    def _on_push(self, record: Record) -> None:
        self._reaches(record)
        self.pushes += 1
        self.pushed_rows += _amount(record.get("rows"))
        _add(self.sent, "up", _amount(record.get("bytes")))

    def _on_gate(self, record: Record) -> None:
        self.waiting_s = 0.0
        _add(self.stall_s, "gate", _amount(record.get("held_s")))

    def _on_slot(self, record: Record) -> None:
        self.waiting_s = 0.0
        _add(self.stall_s, "slot", _amount(record.get("waited_s")))

    def _on_step(self, record: Record) -> None:
        for part in PARTS:
            _add(self.step_s, part, _amount(record.get(f"{part}_s")))
        _add(self.stall_s, "data", _amount(record.get("starve_s")))
        if not self._by_server:
            self._reaches(record)
            _add(self.stall_s, "team", _amount(record.get("stall_s")))
            _add(self.sent, "up", _amount(record.get("push_bytes")))
        if self._down.last is None:
            _add(self.sent, "down", _amount(record.get("pull_bytes")))

    def _on_waiting(self, record: Record) -> None:
        self.wait_notices += 1

    def _on_link_down(self, record: Record) -> None:
        # Either end tells of it; where both do the server's counts.
        if record["node"] == "server" or not self._by_server:
            self.link_losses += 1

    def _on_absent(self, record: Record) -> None:
        self.absences += 1

    def _on_resume(self, record: Record) -> None:
        _add(self.resent, "down" if record["node"] == "server" else "up", _amount(record.get("restored")))

    def _on_metric(self, record: Record) -> None:
        if record.get("name") == ENERGY_J and (joules := finite_number(record.get("value"))) is not None:
            self._own_energy = True
            self._measured(joules)

    def _on_told(self, record: Record) -> None:
        self.waiting_s = _amount(record.get("waited_s"))
        self.in_flight_bytes = finite_number(record.get("in_flight_bytes"))
        if (sent := finite_number(record.get("down_bytes"))) is not None:
            # What the robot's own journal told before is in the server's first count.
            before = self.sent.get("down", 0.0) if self._down.last is None else 0.0
            _add(self.sent, "down", max(self._down.grown(sent) - before, 0.0))
        metrics = record.get("metrics")
        if isinstance(metrics, dict) and not self._own_energy:
            joules = finite_number(metrics.get(ENERGY_J))
            if joules is not None:
                self._measured(joules)

    def _measured(self, joules: float) -> None:
        self.joules = (self.joules or 0.0) + max(self._energy.grown(joules), 0.0)


_HANDLERS: Mapping[str, Callable[[RobotTotals, Record], None]] = {
    name.removeprefix("_on_"): handler for name, handler in vars(RobotTotals).items() if name.startswith("_on_")
}


class Totals:
    """Counts records; in memory that does not grow with the run.

    Attributes:
        events: records by event.
        robots: by name; those that the team knows, and a few that it has forgotten.
        members: robots that the gate counts; ``None``: nobody has joined yet.
        left_out: records that were written faster than they could be counted.
    """

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.robots: dict[str, RobotTotals] = {}
        self.members: float | None = None
        self.left_out = 0

    def take(self, record: Record, robot: Robot | None) -> None:
        """One record, and the robot that it is about; whatever its fields hold, it raises nothing."""
        event = record["event"]
        if event not in EVENTS:
            return
        self.events[event] += 1
        if event in _OF_THE_GATE and record["node"] == "server":
            members = finite_number(record.get("members"))
            self.members = self.members if members is None else members
        if robot is None:
            return
        found = self.robots.get(robot.name)
        if found is None:
            while len(self.robots) >= 2 * MOST_ROBOTS:
                del self.robots[next(iter(self.robots))]
            found = self.robots[robot.name] = RobotTotals()
        found.take(record)


def _add(sums: dict[str, float], key: str, amount: float) -> None:
    sums[key] = sums.get(key, 0.0) + amount
