"""Random faults, seeded: schedules in virtual time, and on real sockets.

A schedule is a team, a policy, links, and what happens to them. At the end nothing is lost, nothing is doubled, and
nobody hangs. The tests run a sample; ``make faults`` runs thousands::

    python tests/fault_schedules.py --virtual 2000 --durable 2000 --sockets 50 --crashes 10 --seed 0

A schedule that fails is named by its number, and runs alone with ``--only NUMBER`` (``--only-durable``,
``--only-sockets``, ``--only-crashes``).
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from live import LAYOUT as LIVE_LAYOUT
from live import LiveServer, Robot, start_of
from relay import Relay
from rowcast.config import LinkSettings, ServerSettings, WorkerSettings
from rowcast.drivers.sockets import Endpoint
from rowcast.experiment.faults import FaultScript, Report, play_sockets
from rowcast.links import Trace
from rowcast.testing import DurableTeam, VirtualTeam
from rowcast.training import WorkerState
from teams import CODECS, LAYOUT, POLICIES, Books, finished, worker

SMALL_FRAMES = LinkSettings(frame_min_bytes=64, window_min_bytes=256, frame_s=0.001)

#: What may happen to a robot; the weights say how often.
STRIKES = {"cut": 5, "cut at a byte": 4, "half-open": 1, "kill": 1, "kill and return": 2, "leave": 1}
#: All that may happen in virtual time.
FAULTS = (*STRIKES, "restart of the server")
CRASH = "crash of the server"
#: From so many schedules on, each kind of fault must have happened.
MANY = 50


def link(chance: random.Random) -> float | Trace:
    """A constant rate, or stretches of which some carry nothing."""
    if chance.random() < 0.4:
        return chance.choice([2e4, 1e5, 1e6])
    rates = [chance.choice([0.0, 3e4, 2e5, 1e6]) for _ in range(chance.randint(2, 5))]
    rates[0] = rates[0] or 1e5
    ends = np.cumsum([chance.choice([0.05, 0.3, 1.0]) for _ in rates])
    return Trace(np.array([0.0, *ends[:-1]]), np.array(rates), "random", duration_s=float(ends[-1]))


class Schedule:
    """One team and its fate.

    Args:
        number: seeds everything.

    Attributes:
        struck: how often each kind of fault has happened.
    """

    def __init__(self, number: int) -> None:
        self.chance = chance = random.Random(f"schedule {number}")
        self.struck: dict[str, int] = {}
        family = chance.choice(POLICIES)
        self.policy = f"{family}{'&' if '?' in family else '?'}codec={chance.choice(CODECS)}"
        self.scripts = [self._script(f"robot{i}") for i in range(chance.randint(2, 4))]
        self.restarts = chance.random() < 0.2
        settings = ServerSettings(
            # A team that waits for somebody who is gone for good waits rightly.
            expected_workers=1 if self.restarts else chance.randint(1, len(self.scripts)),
            absence_limit_s=chance.choice([0.3, 2.0, 10.0]),
            silence_limit_s=chance.choice([5.0, 10.0, 30.0]),
        )
        seed, duplicate = chance.randrange(1 << 30), chance.choice([0.0, 0.0, 0.2])
        self.scripts = [replace(script, duplicate=duplicate) for script in self.scripts]
        self.team = self._team(
            LAYOUT, self.policy, self.scripts, seed=seed, server_settings=settings, link_settings=SMALL_FRAMES
        )
        self.books = Books(self.team)
        self.farewells = 0
        self._watch_farewells()
        kinds, weights = list(STRIKES), list(STRIKES.values())
        for _ in range(chance.randint(1, 8)):
            kind, name = chance.choices(kinds, weights)[0], chance.choice(self.scripts).name
            at_s, down_s = chance.uniform(0.0, 6.0), chance.choice([0.0, 0.1, 1.0, 4.0])
            self.team.at(at_s, lambda kind=kind, name=name, down_s=down_s: self._strike(kind, name, down_s))
        if chance.random() < 0.3:
            late_at_s = chance.uniform(0.3, 4.0)
            self.team.at(late_at_s, lambda: self.team.start(replace(self._script("robot9"), duplicate=duplicate)))
        if self.restarts:
            self.team.at(chance.uniform(0.5, 5.0), self._restart)
        for _ in range(3):
            self.team.at(chance.uniform(0.0, 8.0), self._look)

    def _team(self, *args, **more) -> VirtualTeam:
        return VirtualTeam(*args, **more)

    def _script(self, name: str):
        chance = self.chance
        return worker(
            name,
            iterations=chance.randint(1, 8),
            compute_s=chance.choice([0.01, 0.1, 0.4]),
            rate_bps=link(chance),
            delay_s=chance.choice([0.0, 0.004, 0.05]),
        )

    def _strike(self, kind: str, name: str, down_s: float) -> None:
        team, one = self.team, self.team.workers[name]
        if one.killed or one.node.failure is not None or one.node.state is WorkerState.DONE:
            return
        if kind == "cut":
            team.cut(name, down_s)
        elif kind == "cut at a byte":
            direction = self.chance.choice(["up", "down"])
            team.cut_after(name, direction, one.carried[direction] + self.chance.randint(1, 900), down_s)
        elif kind == "half-open":
            team.freeze(name)
        elif team.server.parameters is None or not team.server.gate.opened or name == "robot0":
            return  # somebody stays: otherwise there is no team at the end
        elif kind == "leave":
            if not one.node.outbox.settled:
                return  # what of it arrives would depend on when the goodbye does
            team.leave(name)
            team.at(team.now + one.script.delay_s + 10.0, lambda: self._gone(one))
        else:
            self.books.kill(name)
            if kind == "kill and return":
                team.at(team.now + down_s, lambda: team.start(one.script))
        self.struck[kind] = self.struck.get(kind, 0) + 1

    def _look(self) -> None:
        """In the middle of it the books are balanced too, unless somebody is just leaving."""
        if "leave" not in self.struck:
            self.books.check()

    def _gone(self, one) -> None:
        """Who has left takes what it had pending along."""
        if not one.killed:
            one.killed = True
            self.books.lost += self.books.undelivered(one.script.name)

    def _watch_farewells(self) -> None:
        """Who is told goodbye holds the team's model at that moment; somebody may return later and change it."""
        journal = self.team.journals["server"]
        keep = journal._sink

        def sink(record) -> None:
            keep(record)
            if record["event"] == "drained":
                replica = self.team.workers[record["peer"]].node.replica
                parameters = self.team.server.parameters
                np.testing.assert_allclose(replica, parameters, rtol=0, atol=2e-4, err_msg=record["peer"])
                self.farewells += 1

        journal._sink = sink

    def _restart(self) -> None:
        self._look()
        self.books.restart_server()
        self.struck[FAULTS[-1]] = 1

    def run(self) -> None:
        """Let it happen; raises AssertionError where something is lost or doubled, or somebody hangs."""
        finished(self.team, until=3000.0)
        for one in self.team.workers.values():
            if one.node.state is WorkerState.DONE and not one.killed and "leave" in self.struck:
                last = self.team.journals[one.node.name].records[-1]
                if last.get("cause") == "asked to":
                    self._gone(one)
        self.books.check()
        assert self.farewells, "nobody was told goodbye"


class DurableSchedule(Schedule):
    """The same, and a server with a log that loses its power now and then.

    Args:
        number: seeds everything.

    Attributes:
        unsure: workers that had to join anew after a crash, because what they were sent was not what the log said.
    """

    def __init__(self, number: int) -> None:
        self.fate = fate = random.Random(f"durable {number}")
        self.unsure = 0
        super().__init__(number)
        for _ in range(fate.randint(1, 4)):
            self.team.at(fate.uniform(0.0, 6.0), self._crash)
        for _ in range(fate.randint(0, 3)):
            self.team.at(fate.uniform(0.0, 6.0), self.team.snapshot)

    def _team(self, *args, **more) -> DurableTeam:
        return DurableTeam(*args, commit_s=self.fate.choice([0.0, 0.002, 0.02, 0.2]), **more)

    def _crash(self) -> None:
        self.team.crash_server(written=self.fate.random() < 0.3)
        self.unsure += len(self.team.recovery.unsure)
        self.struck[CRASH] = self.struck.get(CRASH, 0) + 1

    def _restart(self) -> None:
        """Its memory is not empty: see :meth:`_crash`."""

    def _look(self) -> None:
        """Who looks changes when updates are added up, which the log knows nothing of; the end is looked at."""

    def _strike(self, kind: str, name: str, down_s: float) -> None:
        if kind.startswith("kill"):
            self.team.log.commit()  # what a robot sent that is gone itself is lost where it is not committed
        super()._strike(kind, name, down_s)

    def run(self) -> None:
        """See :class:`Schedule`."""
        super().run()
        assert not self.unsure, "what was worked out again was not what was sent"


#: Sums of whole numbers are exact with these: no code rounds, and no momentum makes fractions of them.
EXACT = {
    "bsp": "bsp?codec=raw",
    "ssp": "ssp:2?codec=raw",
    "flown": "flown:2?codec=raw",
    "sparta": "sparta?share=0.2",
    "rog": "rog:4?codec=raw",
    "rowcast": "rowcast?codec=raw&auto_lr=off&refine=off&adapt=off",
    "common": "rowcast:4?codec=raw&auto_lr=off&refine=off&adapt=off&pulls=common",
}

#: What a relay may do to the bytes that it carries.
HARM = ("cut", "flip", "lose", "double")

HASTY = WorkerSettings(
    join_limit_s=60.0,
    reconnect_first_s=0.02,
    reconnect_cap_s=0.1,
    heartbeat_s=0.1,
    silence_limit_s=2.0,
    stuck_limit_s=2.5,
    refusals_limit=1000,
)


class SocketSchedule:
    """Three robots on real sockets, behind a relay that harms what passes, and two of three links that fade.

    Args:
        number: seeds everything but the time that the machine takes.

    Attributes:
        struck: how often each kind of fault has happened.
    """

    def __init__(self, number: int) -> None:
        self.chance = chance = random.Random(f"sockets {number}")
        self.struck: dict[str, int] = {}
        self.policy = EXACT[sorted(EXACT)[number % len(EXACT)]]
        self.steps = [chance.randint(8, 25) for _ in range(3)]
        self.links = [link(chance) if chance.random() < 0.7 else None for _ in range(3)]
        self._due: dict[tuple[str, int], int] = {}
        self._left = chance.randint(3, 12)

    def run(self) -> None:
        """Let it happen; raises AssertionError where something is lost or doubled, or somebody hangs."""
        limits = {"heartbeat_s": 0.1, "silence_limit_s": 2.0, "stuck_limit_s": 2.5, "failures_per_minute": 10_000}
        with LiveServer(self.policy, expected_workers=3, **limits) as server, Relay(server.port, self._harm) as relay:
            robots = [
                Robot(
                    Endpoint("127.0.0.1", relay.port),
                    f"robot{k}",
                    steps=steps,
                    update=k + 1,
                    settings=HASTY,
                    link=self._fast(way),
                )
                for k, (steps, way) in enumerate(zip(self.steps, self.links, strict=True))
            ]
            for robot in robots:
                robot.done(60.0)
            total = sum(robot.computed for robot in robots)
            for robot in robots:
                np.testing.assert_array_equal(robot.team.replica, start_of(LIVE_LAYOUT) - total, err_msg=robot.name)
            np.testing.assert_array_equal(server.node.parameters, start_of(LIVE_LAYOUT) - total)

    def _fast(self, way: float | Trace | None) -> Trace | None:
        """Links are four hundred times as fast as those in virtual time: real seconds pass here."""
        if way is None:
            return None
        return (way if isinstance(way, Trace) else Trace.constant(way)).scaled(400.0)

    def _harm(self, direction: str, connection: int, offset: int, data: bytes) -> bytes:
        key = direction, connection
        due = self._due.setdefault(
            key, self.chance.choice([30, 300, 3000, 30_000, 300_000]) + self.chance.randrange(100)
        )
        if not offset <= due < offset + len(data) or self._left <= 0:
            return data
        self._left -= 1
        kind, place = self.chance.choice(HARM), due - offset
        self.struck[kind] = self.struck.get(kind, 0) + 1
        if kind == "cut":
            raise OSError("cut by the test")
        if kind == "flip":
            return data[:place] + bytes([data[place] ^ (1 << self.chance.randrange(8))]) + data[place + 1 :]
        count = self.chance.randint(1, 500)
        if kind == "lose":
            return data[:place] + data[place + count :]
        return data[: place + count] + data[place:]


#: How a server dies.
DEATHS = ("kill of the server", "power-loss of the server")
#: What may happen to a robot's process, and to its link; each robot has one of each at most.
CRASHES = ("kill", "power-loss")
PROCESS = ("kill", "power-loss", "stop")
LINK = ("cut", "rate")
HOSTILE = ("silent", "slow", "digest", "rows", "length")


class CrashSchedule:
    """A fault script by chance, on real sockets: the server dies once or twice, and other things happen meanwhile.

    Args:
        number: seeds everything but the time that the machine takes.

    Attributes:
        script: what happens.
        report: what came of it.
        struck: how often each kind of fault has happened.
    """

    def __init__(self, number: int) -> None:
        self.chance = chance = random.Random(f"crashes {number}")
        self.policy = EXACT[sorted(EXACT)[number % len(EXACT)]]
        self.struck: dict[str, int] = {}
        self.report: Report | None = None
        events = [self._crash(chance.uniform(0.3, 1.5))]
        if chance.random() < 0.5:
            events.append(self._crash(chance.uniform(3.5, 4.5)))
        robots = [f"robot-{k}" for k in range(3)]
        events += [self._to_process(name) for name in chance.sample(robots, chance.randint(0, 2))]
        events += [self._to_link(name) for name in chance.sample(robots, chance.randint(0, 2))]
        if chance.random() < 0.3:
            kind = chance.choice(HOSTILE)
            events.append({"do": "hostile", "kind": kind, "at_s": chance.uniform(0.0, 3.0), "for_s": 2.0})
        team = {
            "policy": self.policy,
            "pace_s": [chance.choice([0.02, 0.1, 0.3]) for _ in robots],
            "rate_mbps": chance.choice([2.0, 8.0, 50.0]),
            "durability": "log",
            "keeps": True,
            "server": {"silence_limit_s": 5.0, "absence_limit_s": chance.choice([0.5, 2.0, 10.0]), "heartbeat_s": 0.2},
            "worker": {"silence_limit_s": 5.0, "heartbeat_s": 0.2, "reconnect_first_s": 0.02, "reconnect_cap_s": 0.2},
        }
        named = {"about": "faults by chance", "name": f"crashes-{number}", "on": ["sockets"], "because": "a sample"}
        self.script = msgspec.convert({**named, "team": team, "event": events}, FaultScript)

    def _crash(self, at_s: float) -> dict[str, Any]:
        chance = self.chance
        kind, restart_s = chance.choice(CRASHES), chance.choice([0.0, 0.3, 1.0])
        return {"do": kind, "to": ["server"], "at_s": at_s, "restart_after_s": restart_s}

    def _to_process(self, name: str) -> dict[str, Any]:
        kind, lasting = self.chance.choice(PROCESS), self.chance.choice([0.0, 0.5, 3.0])
        length = {"for_s": lasting} if kind == "stop" else {"restart_after_s": lasting}
        return {"do": kind, "to": [name], "at_s": self.chance.uniform(0.3, 3.0), **length}

    def _to_link(self, name: str) -> dict[str, Any]:
        kind, lasting = self.chance.choice(LINK), self.chance.choice([0.3, 1.0, 4.0])
        event = {"do": kind, "to": [name], "at_s": self.chance.uniform(0.0, 3.0), "for_s": lasting}
        if kind == "cut":
            event["direction"] = self.chance.choice(["up", "down", "both"])
        return event

    def run(self) -> None:
        """Let it happen; raises AssertionError where something is lost or doubled, or somebody hangs."""
        with tempfile.TemporaryDirectory(prefix="rowcast-faults-") as folder:
            self.report = play_sockets(self.script, Path(folder) / "out", Silent())
        for struck in self.report.struck:
            kind = f"{struck.event.name} of the server" if "server" in struck.event.to else struck.event.name
            self.struck[kind] = self.struck.get(kind, 0) + 1
        assert self.report.held, "; ".join(self.report.broken)


class Silent:
    """Is told what happens, and tells nobody."""

    def says(self, text: str) -> None:
        """See :class:`~rowcast.experiment.demo.DemoObserver`."""

    def shows(self, run: str, left_s: float, total_s: float, lines: list[Any]) -> None:
        """See :class:`~rowcast.experiment.demo.DemoObserver`."""


def missing(done: dict[str, tuple[int, dict[str, int]]]) -> list[str]:
    """Kinds of faults that did not happen although there were :data:`MANY` schedules.

    Args:
        done: the number of schedules, and how often each kind of fault has happened: in ``"virtual"`` time, there with
            a ``"durable"`` server, on ``"sockets"``, and there with a server that dies (``"crashes"``).
    """
    kinds = {"virtual": FAULTS, "durable": (*STRIKES, CRASH), "sockets": HARM, "crashes": DEATHS}
    return [
        f"{name}: {kind}"
        for name, (count, struck) in done.items()
        for kind in kinds[name]
        if count >= MANY and not struck.get(kind)
    ]


def run_all(numbers, make, name: str, seconds: float | None = None, struck: dict | None = None) -> list[int]:
    """Run schedules; prints a line for each that fails, and a summary. Returns the failed ones.

    ``struck`` is filled: how often each kind of fault has happened.
    """
    failed, begun = [], time.monotonic()
    struck = {} if struck is None else struck
    done = 0
    for number in numbers:
        schedule = make(number)
        try:
            schedule.run()
        except Exception:
            failed.append(number)
            print(
                f"{name} schedule {number} ({schedule.policy}, {schedule.struck}):\n{traceback.format_exc()}",
                flush=True,
            )
        for kind, count in schedule.struck.items():
            struck[kind] = struck.get(kind, 0) + count
        done += 1
        if seconds is not None and time.monotonic() - begun > seconds:
            break
    faults = ", ".join(f"{count} {kind}" for kind, count in sorted(struck.items()))
    print(
        f"{name}: {done} schedules, {len(failed)} failed, {time.monotonic() - begun:.0f} s; faults: {faults}",
        flush=True,
    )
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--virtual", type=int, default=2000, help="schedules in virtual time")
    parser.add_argument("--durable", type=int, default=0, help="schedules in virtual time with a server that has a log")
    parser.add_argument("--sockets", type=int, default=0, help="schedules on real sockets")
    parser.add_argument("--crashes", type=int, default=0, help="schedules on real sockets with a server that dies")
    parser.add_argument("--seed", type=int, default=0, help="number of the first schedule")
    parser.add_argument("--only", type=int, help="one schedule in virtual time")
    parser.add_argument("--only-durable", type=int, help="one schedule with a server that has a log")
    parser.add_argument("--only-sockets", type=int, help="one schedule on real sockets")
    parser.add_argument("--only-crashes", type=int, help="one schedule on real sockets with a server that dies")
    options = parser.parse_args()
    logging.getLogger("rowcast").setLevel(logging.CRITICAL)  # each fault has a line there
    if options.only is not None:
        Schedule(options.only).run()
        return 0
    if options.only_durable is not None:
        DurableSchedule(options.only_durable).run()
        return 0
    if options.only_sockets is not None:
        SocketSchedule(options.only_sockets).run()
        return 0
    if options.only_crashes is not None:
        CrashSchedule(options.only_crashes).run()
        return 0
    done = {
        "virtual": (options.virtual, {}),
        "durable": (options.durable, {}),
        "sockets": (options.sockets, {}),
        "crashes": (options.crashes, {}),
    }
    failed = []
    kinds = Schedule, DurableSchedule, SocketSchedule, CrashSchedule
    for make, (name, (count, struck)) in zip(kinds, done.items(), strict=True):
        failed += run_all(range(options.seed, options.seed + count), make, name, struck=struck)
    for what in (never := missing(done)):
        print(f"this fault never happened: {what}")
    return 1 if failed or never else 0


if __name__ == "__main__":
    sys.exit(main())
