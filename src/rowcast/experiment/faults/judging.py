"""What held: the invariants, the waits and the causes, from what is left of a team when a script is over."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rowcast.experiment.faults.counting import LAYOUT, counted
from rowcast.experiment.faults.delays import Delays
from rowcast.experiment.faults.script import SERVER, EventTable, FaultScript, Hostile
from rowcast.journal import Record
from rowcast.sync import parse_policy

__all__ = ["Facts", "Report", "RobotFacts", "Struck", "Verdict", "judge"]

Vector = npt.NDArray[np.float32]

#: What a busy machine may add to a wait (s).
MACHINE_S = 2.0


@dataclass
class Struck:
    """An event that has happened.

    Attributes:
        event: what.
        began, ended: time (s), of the clock of the journals.
        late: the phase that it names was over before it happened.
    """

    event: EventTable
    began: float
    ended: float = math.inf
    late: bool = False


@dataclass
class RobotFacts:
    """What is known of a robot.

    Attributes:
        name: its name.
        proposed: iterations whose contribution it handed in or was about to, over all of its lives.
        deaths: how often its process was killed.
        forgotten: iterations that a loss of power took out of its notes: it cannot tell that they are lost.
        replica: its parameters at the end; ``None``: it did not come to its end.
        failure: class and text of the error that ended it.
        state: what it did last, where it did not end.
    """

    name: str
    proposed: int = 0
    deaths: int = 0
    forgotten: int = 0
    replica: Vector | None = None
    failure: str = ""
    state: str = ""


@dataclass
class Facts:
    """What is left when a script is over.

    Attributes:
        robots: by name.
        parameters: of the server.
        journals: records by node, of all of its lives.
        struck: what has happened.
        missed: what did not happen as the script has it.
        hang: what did not come to its end in time; empty: everything did.
        delays: how long the machine kept its processes waiting; nothing in virtual time.
    """

    robots: dict[str, RobotFacts]
    parameters: Vector | None = None
    journals: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    struck: list[Struck] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    hang: str = ""
    delays: Delays = field(default_factory=Delays)


@dataclass(frozen=True)
class Verdict:
    """Whether one thing held.

    Attributes:
        what: what had to hold.
        held: whether it did.
        found: the figures.
    """

    what: str
    held: bool
    found: str


@dataclass(frozen=True)
class Report:
    """What came of a script.

    Attributes:
        script: what was played.
        player: ``sockets`` or ``virtual``.
        verdicts: what held, and what did not.
        lost, doubled: contributions of a robot that should be in an element and are not; that are in it too often.
        hang: what did not come to its end; empty: everything did.
        struck: what has happened.
        not_played: why it cannot be played here; empty: it was.
    """

    script: FaultScript
    player: str
    verdicts: tuple[Verdict, ...] = ()
    lost: int = 0
    doubled: int = 0
    hang: str = ""
    struck: tuple[Struck, ...] = ()
    not_played: str = ""

    @property
    def held(self) -> bool:
        """Everything did."""
        return all(verdict.held for verdict in self.verdicts)

    @property
    def broken(self) -> list[str]:
        """What did not hold, a line each."""
        return [f"{verdict.what}: {verdict.found}" for verdict in self.verdicts if not verdict.held]


def judge(script: FaultScript, player: str, facts: Facts) -> Report:
    """What held, from the facts."""
    happened = f"{sum(not struck.late for struck in facts.struck)} events"
    verdicts = [Verdict("everything happens as it is written", not facts.missed, "; ".join(facts.missed) or happened)]
    verdicts.append(_nobody_hangs(script, facts))
    lost = doubled = 0
    if not facts.hang and facts.parameters is not None:
        parameters = facts.parameters
        verdicts.append(_agreement(facts, parameters))
        verdicts.append(_staleness(script, facts))
        sums = {name: counted(parameters, k, script.team.workers) for k, name in enumerate(script.team.names)}
        lost = sum(_missing(script, facts, name, sums[name]) for name in sums)
        doubled = sum(_too_many(facts.robots[name], sums[name]) for name in sums)
        each = ", ".join(f"{name} {facts.robots[name].proposed}" for name in sums)
        verdicts.append(Verdict("nothing is lost (invariant 5)", lost == 0, f"{lost} missing of iterations {each}"))
        verdicts.append(Verdict("nothing counts twice (invariant 5)", doubled == 0, f"{doubled} too many"))
        verdicts.append(_waits(script, facts))
    verdicts += _causes(script, player, facts)
    return Report(script, player, tuple(verdicts), lost, doubled, facts.hang, tuple(facts.struck))


def _nobody_hangs(script: FaultScript, facts: Facts) -> Verdict:
    wrong = [facts.hang] if facts.hang else []
    for name, robot in facts.robots.items():
        wanted = script.gone.get(name)
        kind = robot.failure.partition(":")[0]
        if wanted is None and robot.replica is None and not _killed_for_good(script, name):
            wrong.append(f"{name} has not finished: {robot.failure or robot.state or 'nothing is known of it'}")
        elif wanted is not None and kind != wanted:
            wrong.append(f"{name}: expected its end with {wanted}, got {robot.failure or 'none'}")
    ended = [name for name, robot in facts.robots.items() if robot.replica is not None]
    return Verdict("everybody comes to an end", not wrong, "; ".join(wrong) or f"{', '.join(ended)} finished")


def _killed_for_good(script: FaultScript, name: str) -> bool:
    return any(getattr(event, "restart_after_s", 0.0) is None for event in script.strikes(name))


def _agreement(facts: Facts, parameters: Vector) -> Verdict:
    """Invariant 2."""
    differ = [
        f"{name} in {np.count_nonzero(robot.replica != parameters)} elements"
        for name, robot in facts.robots.items()
        if robot.replica is not None and not np.array_equal(robot.replica, parameters)
    ]
    found = "; ".join(differ) or f"{sum(one.replica is not None for one in facts.robots.values())} replicas equal it"
    return Verdict("all replicas are the server's model (invariant 2)", not differ, found)


def _staleness(script: FaultScript, facts: Facts) -> Verdict:
    """Invariant 3: whenever the gate lets a worker go on, nobody's oldest row is too old for it."""
    slack = parse_policy(script.team.policy).slack
    gaps = [
        record["iteration"] - record["oldest"]
        for record in facts.journals.get(SERVER, ())
        if record["event"] == "gate" and record["oldest"] is not None
    ]
    held = slack is None or max(gaps, default=0) <= slack
    found = f"at most {max(gaps, default=0)} iterations ahead in {len(gaps)} permissions, slack {slack}"
    return Verdict("nobody goes on beyond the slack (invariant 3)", held, found)


def _too_many(robot: RobotFacts, sums: npt.NDArray[np.float64]) -> int:
    """Contributions that are in an element more often than they were made; or in part, which they never are."""
    return int(np.count_nonzero(sums != np.round(sums)) + np.maximum(sums - robot.proposed, 0).sum())


def _missing(script: FaultScript, facts: Facts, name: str, sums: npt.NDArray[np.float64]) -> int:
    """Contributions that should be in an element, and are not; what the robot has told as lost is not among them."""
    robot = facts.robots[name]
    missing = float(np.maximum(robot.proposed - sums, 0).sum()) + float(np.maximum(-sums, 0).sum())
    if name in script.gone or (robot.deaths and not script.team.keeps):
        return int(np.maximum(-sums, 0).sum())  # what it had not delivered is gone with it
    told = 0.0
    for record in facts.journals.get(name, ()):
        if record["event"] == "recovered":
            told += record["lost"] + record["lost_iterations"] * len(sums)
    told += (robot.deaths + robot.forgotten) * len(sums)  # the iteration that was under way, and those before it
    return int(max(missing - told, 0))


# -- waits -------------------------------------------------------------------------------------------------------------


def _waits(script: FaultScript, facts: Facts) -> Verdict:
    worst, late = 0.0, []
    for index, name in enumerate(script.team.names):
        for record in facts.journals.get(name, ()):
            if record["event"] != "step":
                continue
            waited_s = record["communicate_s"] + record["stall_s"]
            allowed_s = _allowed_s(script, facts, index, record["t"], waited_s)
            worst = max(worst, waited_s)
            if waited_s > allowed_s:
                late.append(f"{name} {waited_s:.1f} s in iteration {record['iteration']}, allowed {allowed_s:.1f} s")
    return Verdict(
        "nobody waits longer than the policy allows", not late, "; ".join(late[:3]) or f"the longest wait {worst:.1f} s"
    )


def _allowed_s(script: FaultScript, facts: Facts, index: int, ended: float, waited_s: float) -> float:
    """How long the wait of a robot may be that has ended then (s).

    Without a fault: the slowest computation, and the model twice in each direction. What happens to the robot itself or
    to the server counts in full, with a silence that must be noticed and a pause before the next attempt. For what
    happens to others nobody waits longer than it takes to notice their silence, and ``absence_limit_s``. What processes
    waited for a processor meanwhile comes on top.
    """
    server, worker = script.server_settings, script.worker_settings
    team, name = script.team, script.team.names[index]
    model_s = 8 * 4 * LAYOUT.elements / (team.rate_mbps * 1e6)
    allowed_s = (
        MACHINE_S
        + facts.delays.between(ended - waited_s, ended)
        + max(map(team.pace_of, range(team.workers)))
        + 4 * model_s
    )
    back_s = worker.silence_limit_s + 2 * worker.reconnect_cap_s
    for struck in facts.struck:
        if struck.began > ended or struck.ended < ended - waited_s - back_s:
            continue
        longer_s = min(struck.ended, ended) - struck.began + back_s
        concerns_all = SERVER in struck.event.to and not isinstance(struck.event, Hostile)
        if not concerns_all and name not in struck.event.to:
            longer_s = min(longer_s, server.silence_limit_s + server.absence_limit_s)
        allowed_s += longer_s
    return allowed_s


# -- causes ------------------------------------------------------------------------------------------------------------


def _causes(script: FaultScript, player: str, facts: Facts) -> Iterator[Verdict]:
    for wanted in script.journal:
        if wanted.on and player not in wanted.on:
            continue
        records = [record for record in facts.journals.get(wanted.node, ()) if record["event"] == wanted.event]
        found = [record for record in records if wanted.says in _text_of(record)]
        what = f"the journal names the cause ({wanted.said})"
        others = "; ".join(sorted({_text_of(record)[:160] for record in records})[:3])
        yield Verdict(what, bool(found), f"{len(found)} records" if found else f"no record; it has: {others or 'none'}")


def _text_of(record: Mapping[str, Any]) -> str:
    return json.dumps({key: value for key, value in record.items() if key not in ("t", "node", "event")}, default=str)
