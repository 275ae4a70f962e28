"""Random faults, seeded: schedules in virtual time, and on real sockets.

A schedule is a team, a policy, links, and what happens to them. At the end nothing is lost, nothing is doubled, and
nobody hangs. The tests run a sample; ``make faults`` runs thousands::

    python tests/faults.py --virtual 2000 --sockets 50 --seed 0

A schedule that fails is named by its number, and runs alone with ``--only NUMBER``.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from rowcast.config import LinkSettings, ServerSettings
from rowcast.links import Trace
from rowcast.nodes import Phase
from rowcast.testing import VirtualTeam
from teams import CODECS, LAYOUT, POLICIES, Books, finished, worker

SMALL_FRAMES = LinkSettings(frame_min_bytes=64, window_min_bytes=256, frame_s=0.001)

#: What may happen to a robot; the weights say how often.
STRIKES = {"cut": 5, "cut at a byte": 4, "half-open": 1, "kill": 1, "kill and return": 2, "leave": 1}


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
        self.team = VirtualTeam(
            LAYOUT,
            self.policy,
            self.scripts,
            seed=chance.randrange(1 << 30),
            server_settings=settings,
            link_settings=SMALL_FRAMES,
            duplicate=chance.choice([0.0, 0.0, 0.2]),
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
            self.team.at(chance.uniform(0.3, 4.0), lambda: self.team.start(self._script("robot9")))
        if self.restarts:
            self.team.at(chance.uniform(0.5, 5.0), self._restart)
        else:
            for _ in range(3):
                self.team.at(chance.uniform(0.0, 8.0), self._look)

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
        if one.killed or one.node.failure is not None or one.node.phase is Phase.DONE:
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
            self.books.lost += self.team.undelivered(one.script.name)

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
        self.team.restart_server()
        self.struck["restart of the server"] = 1

    def run(self) -> None:
        """Let it happen; raises AssertionError where something is lost or doubled, or somebody hangs."""
        finished(self.team, until=3000.0)
        for one in self.team.workers.values():
            if one.node.phase is Phase.DONE and not one.killed and "leave" in self.struck:
                last = self.team.journals[one.node.name].records[-1]
                if last.get("cause") == "asked to":
                    self._gone(one)
        if not self.restarts:  # what only the old server knew is gone with it
            self.books.check()
        assert self.farewells, "nobody was told goodbye"


def run_all(numbers, make, name: str, seconds: float | None = None) -> list[int]:
    """Run schedules; prints a line for each that fails, and a summary. Returns the failed ones."""
    failed, struck, begun = [], {}, time.monotonic()
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
    parser.add_argument("--sockets", type=int, default=0, help="schedules on real sockets")
    parser.add_argument("--seed", type=int, default=0, help="number of the first schedule")
    parser.add_argument("--only", type=int, help="one schedule in virtual time")
    options = parser.parse_args()
    if options.only is not None:
        Schedule(options.only).run()
        return 0
    failed = run_all(range(options.seed, options.seed + options.virtual), Schedule, "virtual")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
