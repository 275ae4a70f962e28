"""What the records of a journal say of a team: no clock, no file, no page.

A :class:`Team` is fed with records in the order of their time, and with nothing else. So a run that is over is shown as
it was while it was live: what it was at a moment is what the records up to that moment make of a new ``Team``. Its
memory is bounded, however long the run is.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rowcast.energy.live import POWER_W
from rowcast.errors import visible
from rowcast.journal import EVENTS, Record
from rowcast.page.curves import Curve
from rowcast.page.sentences import sentence

__all__ = ["Line", "Robot", "RowMap", "Team", "finite_number"]

#: Robots, lines of the log, metrics of a robot and layers of the map that are kept; characters of a name.
MOST_ROBOTS, MOST_LINES, MOST_METRICS, MOST_LAYERS = 256, 500, 8, 256
LONGEST_NAME = 60
#: Names under which a robot reports what is no metric of its task.
_OF_THE_NODE = ("rate_bps", "share", "staleness", "samples", "queued")
#: Events in which ``peer`` is a robot, in the journal of a server.
_SERVER = ("server",)
#: What happens to every robot that has finished.
_OF_AN_END = ("link_down", "leave", "end")


def finite_number(value: Any) -> float | None:
    """``value`` as a finite number, or ``None``: a journal of another version may hold anything."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _text(value: Any, limit: int = 300) -> str:
    return visible(value, limit) if isinstance(value, str) else ""


def _numbers(value: Any) -> list[float]:
    if not isinstance(value, list):
        return []
    return [number for each in value[:MOST_LAYERS] if (number := finite_number(each)) is not None]


@dataclass(frozen=True)
class Line:
    """A line of the log: ``number`` counts them, ``t`` (s), who, how serious, and what happened."""

    number: int
    t: float
    who: str
    level: str
    event: str
    text: str


@dataclass
class RowMap:
    """How old a robot's rows are at the server, for each layer.

    Attributes:
        serial: the record that it came with, so that a newer one is told from an older one.
        t: when that was (s).
        mean, oldest: mean and greatest age of the rows of each layer, in iterations behind the fastest robot.
        pending: share of the rows of each layer of which the newest iteration has not arrived.
    """

    serial: int
    t: float
    mean: list[float]
    oldest: list[float]
    pending: list[float]


@dataclass
class Robot:
    """A robot, as the records tell of it.

    Attributes:
        phase: what it does when all is well: 'joining', 'computing', 'waiting', 'pulling' and the like.
        since: from when on (s).
        linked, absent, finished, gone, quarantined: whether its link is up, nobody waits for it, it has finished, it
            left or stopped, its updates do not count.
        why: the cause of that, or for whom it waits.
        iteration: newest iteration that it has finished; ``None``: not known.
        staleness: iterations behind the fastest; ``share``: of the rows, sent in the newest push.
        metrics: what it reported last, by name.
        curves: by name: 'link' (measured delivery rate up), 'up' and 'down' (bit/s), 'stall' (share of its time), and
            'metric/NAME'.
        joules: energy of its inferences, J; ``None``: none is known.
        own: its own journal is among those that are read: what that says of rates and stalls is better.
        serial: the record that changed it last.
    """

    name: str
    phase: str = "joining"
    since: float = 0.0
    linked: bool = True
    absent: bool = False
    finished: bool = False
    gone: bool = False
    quarantined: bool = False
    why: str = ""
    iteration: int | None = None
    staleness: int | None = None
    share: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    rows: RowMap | None = None
    joules: float | None = None
    own: bool = False
    pushed_at: float | None = None
    passed_at: float | None = None
    serial: int = 0

    @property
    def state(self) -> str:
        """The one word for what it is: what is wrong comes before what it does."""
        if self.finished:
            return "finished"
        if self.gone:
            return "left"
        if self.absent:
            return "absent"
        if not self.linked:
            return "link down"
        return "quarantined" if self.quarantined else self.phase

    def newest(self, curve: str) -> float | None:
        """The last value of a curve, or ``None``."""
        found = self.curves.get(curve)
        newest = None if found is None else found.newest
        return None if newest is None else newest[1]


class Team:
    """A team, as the records say that it is.

    Attributes:
        robots: by name.
        log: what happened, the newest lines.
        lines: how many lines there ever were.
        layers: names of the layers of the map of rows, and how many rows each has.
        start, now: time of the first record, and the greatest (s); ``None`` before the first.
        policy: the policy of the team, as far as it is known.
        ended: why the server ended; empty: it has not.
        records: how many were taken.
        about: the robot that the newest record is about; ``None``: it is about none, or none that is known.
        unknown: records of events that this version does not know.
    """

    def __init__(self) -> None:
        self.robots: dict[str, Robot] = {}
        self.log: deque[Line] = deque(maxlen=MOST_LINES)
        self.lines = 0
        self.layers: tuple[list[str], list[float]] = ([], [])
        self.start: float | None = None
        self.now: float | None = None
        self.policy = ""
        self.ended = ""
        self.records = 0
        self.about: Robot | None = None
        self.unknown = 0

    def take(self, record: Record) -> None:
        """One record; whatever its fields hold, it raises nothing."""
        t = record["t"]
        if self.now is None:
            self.start = self.now = t
        elif t > self.now:
            self.now = t
        self.records += 1
        self.about = None
        event = record["event"]
        handler = _HANDLERS.get(event)
        if handler is not None:
            handler(self, t, record)
        elif event not in EVENTS:
            self.unknown += 1
            return
        about: Robot | None = self.about  # a handler has found it
        told = sentence(record)
        if told is None and about is not None:
            return
        who = self._who(record)
        self.about = about or self.robots.get(who)
        if told is not None:
            robot = self.robots.get(who)
            if robot is not None and robot.finished and event in _OF_AN_END:
                told = ("info", told[1])  # it has finished: that its link ends is nobody's trouble
            self.tell(t, who, event, told)

    def tell(self, t: float, who: str, event: str, told: tuple[str, str]) -> None:
        """Add a line to the log: how serious it is, and the text."""
        self.lines += 1
        self.log.append(Line(self.lines, t, who, told[0], event, told[1]))

    # -- of whom -----------------------------------------------------------------------------------------------

    def _who(self, record: Record) -> str:
        """Whom a line of the log is about."""
        node = _text(record["node"], LONGEST_NAME)
        peer = _text(record.get("peer"), LONGEST_NAME)
        return peer if node in _SERVER and peer and record["event"] not in ("standby", "dropped") else node

    def _robot(self, record: Record) -> Robot | None:
        """The robot that a record is about; ``None``: it is about the server, or there are too many."""
        node = record["node"]
        name = _text(record.get("peer") if node in _SERVER else node, LONGEST_NAME)
        if not name or name in _SERVER:
            return None
        robot = self.robots.get(name)
        if robot is None:
            if len(self.robots) >= MOST_ROBOTS:
                # One that has ended makes room; the page says how many there were by its log.
                ended = next((other.name for other in self.robots.values() if other.finished or other.gone), None)
                if ended is None:
                    return None
                del self.robots[ended]
            robot = self.robots[name] = Robot(name)
        robot.serial = self.records
        self.about = robot
        return robot

    def _add(self, robot: Robot, curve: str, t: float, value: float | None) -> None:
        if value is None:
            return
        found = robot.curves.get(curve)
        if found is None:
            assert self.start is not None
            found = robot.curves[curve] = Curve(self.start)
        found.add(t, value)

    def _metric(self, robot: Robot, t: float, name: Any, value: float | None) -> None:
        if not isinstance(name, str) or value is None:
            return
        if name == POWER_W and not value:
            robot.metrics.pop(name, None)  # its meter does not read any longer
            return
        if name not in robot.metrics and len(robot.metrics) >= MOST_METRICS:
            return
        name = visible(name, LONGEST_NAME)
        robot.metrics[name] = value
        self._add(robot, f"metric/{name}", t, value)

    def _does(self, robot: Robot, t: float, phase: str, why: str = "") -> None:
        if robot.phase != phase:
            robot.phase, robot.since = phase, t
        robot.why = why
        robot.linked, robot.absent = True, False
        robot.finished = robot.gone = False

    # -- events ------------------------------------------------------------------------------------------------

    def _on_start(self, t: float, record: Record) -> None:
        policy = record.get("policy")
        if isinstance(policy, str) and policy:
            self.policy = _text(policy)
        if record.get("role") == "server":
            self.ended = ""
        elif (robot := self._robot(record)) is not None:
            self._does(robot, t, "joining")

    def _on_end(self, t: float, record: Record) -> None:
        if (robot := self._robot(record)) is not None:
            cause = _text(record.get("cause"))
            robot.finished, robot.gone = cause == "finished", cause != "finished"
            robot.since, robot.why = t, cause
        else:
            self.ended = _text(record.get("cause")) or "ended"

    def _on_link_up(self, t: float, record: Record) -> None:
        if (robot := self._robot(record)) is not None:
            robot.linked, robot.since, robot.why = True, t, ""

    def _on_link_down(self, t: float, record: Record) -> None:
        robot = self._robot(record)
        if robot is not None and not robot.finished and not robot.gone:
            robot.linked, robot.since, robot.why = False, t, _text(record.get("cause"))

    def _on_join(self, t: float, record: Record) -> None:
        if (robot := self._robot(record)) is not None:
            self._does(robot, t, "computing" if record.get("how") == "resume" else "joining")
            self._iteration(robot, record)

    def _on_leave(self, t: float, record: Record) -> None:
        if (robot := self._robot(record)) is not None:
            cause = _text(record.get("cause"))
            robot.finished = robot.finished or cause == "finished"
            robot.gone, robot.since, robot.why = not robot.finished, t, cause

    def _on_drained(self, t: float, record: Record) -> None:
        if (robot := self._robot(record)) is not None:
            robot.finished, robot.since, robot.why = True, t, ""
            self._iteration(robot, record)

    def _on_absent(self, t: float, record: Record) -> None:
        if (robot := self._robot(record)) is not None:
            silent_s = finite_number(record.get("silent_s"))
            robot.absent, robot.since = True, t
            robot.why = "" if silent_s is None else f"silent for {silent_s:.0f} s"

    def _on_return(self, t: float, record: Record) -> None:
        if (robot := self._robot(record)) is not None:
            self._does(robot, t, "computing")

    def _on_quarantined(self, t: float, record: Record) -> None:
        if (robot := self._robot(record)) is not None:
            robot.quarantined, robot.since, robot.why = True, t, _text(record.get("cause"))

    def _on_released(self, t: float, record: Record) -> None:
        if (robot := self._robot(record)) is not None:
            robot.quarantined, robot.since, robot.why = False, t, ""

    def _on_waiting(self, t: float, record: Record) -> None:
        if (robot := self._robot(record)) is not None:
            self._does(robot, t, "waiting", _text(record.get("for")))

    def _on_push(self, t: float, record: Record) -> None:
        robot = self._robot(record)
        if robot is None:
            return
        self._iteration(robot, record)
        size, before, robot.pushed_at = finite_number(record.get("bytes")), robot.pushed_at, t
        if not robot.own and size is not None and before is not None and t > before:
            self._add(robot, "up", t, 8 * size / (t - before))

    def _on_gate(self, t: float, record: Record) -> None:
        robot = self._robot(record)
        if robot is None:
            return
        self._does(robot, t, "computing")
        self._iteration(robot, record)
        self._behind(robot, record)
        held_s, before, robot.passed_at = finite_number(record.get("held_s")), robot.passed_at, t
        if not robot.own and held_s is not None and before is not None and t > before:
            self._add(robot, "stall", t, min(held_s / (t - before), 1.0))

    def _on_slot(self, t: float, record: Record) -> None:
        if (robot := self._robot(record)) is not None:
            self._does(robot, t, "pulling" if record.get("direction") == "pull" else "pushing")

    def _on_step(self, t: float, record: Record) -> None:
        robot = self._robot(record)
        if robot is None:
            return
        robot.own = True
        self._does(robot, t, "computing")
        self._iteration(robot, record)
        self._behind(robot, record)
        robot.share = finite_number(record.get("push_share"))
        times = [
            finite_number(record.get(name)) or 0.0 for name in ("compute_s", "communicate_s", "stall_s", "starve_s")
        ]
        taken_s = sum(times)
        self._add(robot, "link", t, finite_number(record.get("rate_bps")))
        if taken_s > 0:
            for curve, name in (("up", "push_bytes"), ("down", "pull_bytes")):
                size = finite_number(record.get(name))
                self._add(robot, curve, t, None if size is None else finite_number(8 * size / taken_s))
            self._add(robot, "stall", t, finite_number(times[2] / taken_s))

    def _on_metric(self, t: float, record: Record) -> None:
        if (robot := self._robot(record)) is not None:
            self._metric(robot, t, record.get("name"), finite_number(record.get("value")))

    def _on_inference(self, t: float, record: Record) -> None:
        robot = self._robot(record)
        joules = finite_number(record.get("joules"))
        if robot is None:
            return
        if joules is not None:
            robot.joules = (robot.joules or 0.0) + joules
        self._does(robot, t, "inferring", _text(record.get("error")))
        self._metric(robot, t, "latency_s", finite_number(record.get("latency_s")))
        self._add(robot, "link", t, finite_number(record.get("rate_bps")))

    def _on_told(self, t: float, record: Record) -> None:
        """What the server of a watched team says of a robot."""
        robot = self._robot(record)
        if robot is None:
            return
        state = _text(record.get("state"), LONGEST_NAME)
        if state and robot.linked and not robot.absent:
            why = robot.why if state == robot.phase else ""
            self._does(robot, t, state, why)
        self._iteration(robot, record)
        self._behind(robot, record)
        metrics = record.get("metrics")
        if robot.own or not isinstance(metrics, dict):
            return
        self._add(robot, "down", t, finite_number(record.get("down_bps")))
        self._add(robot, "link", t, finite_number(metrics.get("rate_bps")))
        robot.share = finite_number(metrics.get("share"))
        for name, value in metrics.items():
            if name not in _OF_THE_NODE:
                self._metric(robot, t, name, finite_number(value))

    def _on_rows(self, t: float, record: Record) -> None:
        if (robot := self._robot(record)) is not None:
            found = [_numbers(record.get(name)) for name in ("mean_age", "oldest_age", "pending")]
            if len({len(each) for each in found}) == 1:
                robot.rows = RowMap(self.records, t, *found)

    def _on_layers(self, t: float, record: Record) -> None:
        names = record.get("names")
        if isinstance(names, list):
            told = [_text(name, LONGEST_NAME) for name in names[:MOST_LAYERS]]
            self.layers = (told, _numbers(record.get("rows")))

    def _iteration(self, robot: Robot, record: Record) -> None:
        iteration = finite_number(record.get("iteration"))
        if iteration is not None:
            robot.iteration = int(iteration)

    def _behind(self, robot: Robot, record: Record) -> None:
        staleness = finite_number(record.get("staleness"))
        if staleness is not None:
            robot.staleness = int(staleness)


_HANDLERS: Mapping[str, Callable[[Team, float, Record], None]] = {
    name.removeprefix("_on_"): handler for name, handler in vars(Team).items() if name.startswith("_on_")
}
