"""Plays a fault script in virtual time: the same nodes, scripted links, no sockets and no sleeps."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

from rowcast.experiment.faults.counting import LAYOUT, start_of_all, update_of
from rowcast.experiment.faults.hostile import Stranger
from rowcast.experiment.faults.judging import Facts, Report, RobotFacts, Struck, judge
from rowcast.experiment.faults.script import (
    SERVER,
    Cut,
    DiskFull,
    EventTable,
    FaultScript,
    Hostile,
    Kill,
    PowerLoss,
    Rate,
    Stop,
)
from rowcast.experiment.faults.virtual_team import FaultyTeam
from rowcast.links import Trace
from rowcast.testing import ScriptedWorker
from rowcast.training import WorkerState

__all__ = ["play_virtual"]

#: A team may take so long to be there, and to come to its end when nothing happens any more (s).
BEGIN_LIMIT_S, END_LIMIT_S = 60.0, 300.0
#: From the first record of a group to its commit, where the server has a log (s).
COMMIT_S = 0.02


def play_virtual(script: FaultScript, *, seed: int = 0) -> Report:
    """Play a script in virtual time.

    Args:
        script: what happens.
        seed: of what is random: nonces, pauses before an attempt to connect, what a loss of power leaves.
    """
    if "virtual" not in script.on:
        return Report(script, "virtual", not_played=f"not in virtual time: {script.because}")
    return judge(script, "virtual", _Player(script, seed).play())


class _Player:
    def __init__(self, script: FaultScript, seed: int) -> None:
        self.script = script
        self.chance = random.Random(f"{script.name} {seed}")
        self.facts = Facts({name: RobotFacts(name) for name in script.team.names})
        self.team = FaultyTeam(
            LAYOUT,
            script.team.policy,
            [self._scripted(index, name) for index, name in enumerate(script.team.names)],
            seed=seed,
            server_settings=script.server_settings,
            worker_settings=script.worker_settings,
            commit_s=COMMIT_S if script.team.durability == "log" else 0.0,
        )
        self._waiting = [event for event in script.event if event.phase is not None]
        self._mid_frame: list[tuple[Cut, str]] = []

    def _scripted(self, index: int, name: str) -> ScriptedWorker:
        team, facts = self.script.team, self.facts.robots[name]
        update = update_of(index, team.workers)

        def gradient(iteration: int, parameters: Any) -> Any:
            facts.proposed += 1
            return update

        return ScriptedWorker(
            name,
            gradient,
            iterations=1 << 30,  # until it is told to finish
            compute_s=team.pace_of(index),
            rate_bps=team.rate_mbps * 1e6,
            weight=1.0,
            initial=start_of_all(),
            pictures=(lambda iteration: True) if team.keeps else None,
        )

    # -- the whole of it -----------------------------------------------------------------------------------------

    def play(self) -> Facts:
        """The team, its faults, its end."""
        script, team, facts = self.script, self.team, self.facts
        if not self._until(lambda: all(one.node.joined for one in team.workers.values()), BEGIN_LIMIT_S):
            facts.hang = f"the team is not complete: {self._states()}"
            return facts
        for event in script.event:
            if event.at_s is not None:
                team.at(team.now + event.at_s, partial(self._strike, event))
        self._began = team.now
        if not self._until(self._all_has_ended, script.length_s + END_LIMIT_S):
            facts.hang = f"events that did not happen: {[event.said for event in self._waiting]}; {self._states()}"
            return facts
        wanted = {name: facts.robots[name].proposed + script.team.steps for name in self._living()}
        if not self._until(lambda: all(facts.robots[name].proposed >= wanted[name] for name in wanted), END_LIMIT_S):
            facts.hang = f"training does not go on: {self._states()}"
            return facts
        for name in self._living():
            team.workers[name].script.iterations = 0
            team.attend(team.workers[name])
        if not self._until(lambda: not self._living(), END_LIMIT_S):
            facts.hang = f"the end does not come: {self._states()}"
            return facts
        for name, one in team.workers.items():
            if one.node.state is WorkerState.DONE and not one.killed:
                facts.robots[name].replica = one.node.replica
            if name in team.failures:
                error = team.failures[name]
                facts.robots[name].failure = f"{type(error).__name__}: {error}"
        facts.parameters = team.server.parameters
        facts.journals = {name: journal.records for name, journal in team.journals.items()}
        return facts

    def _until(self, reached: Callable[[], bool], limit_s: float) -> bool:
        """Let time pass until something is reached; false: not within the limit."""
        team = self.team
        ends = team.now + limit_s
        while not reached():
            if team.clock.next > ends:
                return False
            team.clock.step()
            self._look()
        return True

    def _living(self) -> list[str]:
        return [
            name
            for name, one in self.team.workers.items()
            if not one.killed and not one.node.over and one.node.failure is None
        ]

    def _all_has_ended(self) -> bool:
        at_s = sum(event.at_s is not None for event in self.script.event)
        happened = len(self.facts.struck) == at_s + sum(event.phase is not None for event in self.script.event)
        return happened and not self._mid_frame and all(struck.ended < math.inf for struck in self.facts.struck)

    def _states(self) -> str:
        each = (f"{name} {one.node.state.value} {one.node.iteration}" for name, one in self.team.workers.items())
        return ", ".join(each)

    def _look(self) -> None:
        """Something has happened: perhaps it is time for what waits for a phase, or for a frame."""
        if self._waiting and all(struck.ended < math.inf for struck in self.facts.struck):
            for event in self._waiting:
                one = self.team.workers[event.of or ""]
                if one.node.state.value == event.phase and one.node.iteration >= event.iteration and not one.killed:
                    self._waiting.remove(event)
                    self._strike(event)
                    break
        for cut, name in list(self._mid_frame):
            middle = (
                self.team.workers[name].pipe("up" if cut.direction == "both" else cut.direction).middle(self.team.now)
            )
            if middle is not None:
                self._mid_frame.remove((cut, name))
                self.team.at(middle, partial(self.team.stall, name, cut.for_s, cut.direction))

    # -- what happens --------------------------------------------------------------------------------------------------

    def _strike(self, event: EventTable) -> None:
        struck = Struck(event, self.team.now)
        self.facts.struck.append(struck)
        end = _STRIKES[type(event)](self, event)

        def ends() -> None:
            if end is not None:
                end()
            struck.ended = self.team.now

        self.team.at(self.team.now + event.lasts_s, ends)

    def strike_kill(self, event: Kill) -> Callable[[], None] | None:
        """SIGKILL, or a loss of power; returns what ends it.

        A server is there again at once, and nobody reaches it for as long as it would be gone.
        """
        team = self.team
        robots = [name for name in event.to if name != SERVER]
        for name in robots:
            team.kill(name)
            self.facts.robots[name].deaths += 1
        if SERVER in event.to:
            # What was written outlives the process, and perhaps the power.
            team.crash_server(written=not isinstance(event, PowerLoss) or self.chance.random() < 0.3)
            for name in team.workers:
                team.stall(name, event.lasts_s)
        if event.restart_after_s is None:
            return None

        def again() -> None:
            for name in robots:
                if self.script.team.keeps:
                    team.restart(name)
                else:
                    team.start(team.workers[name].script)

        return again

    def strike_stop(self, event: Stop) -> None:
        """Processes stand still."""
        for name in event.to:
            self.team.hold(name, event.for_s)

    def strike_cut(self, event: Cut) -> None:
        """Nothing passes, and nobody is told."""
        for name in event.to:
            if event.mid_frame:
                self._mid_frame.append((event, name))
            else:
                self.team.stall(name, event.for_s, event.direction)

    def strike_rate(self, event: Rate) -> Callable[[], None] | None:
        """Another rate."""
        if event.rate_mbps == 0:
            for name in event.to:
                self.team.stall(name, event.for_s)
            return None
        self._follow(event, event.rate_mbps)
        return lambda: self._follow(event, self.script.team.rate_mbps)

    def _follow(self, event: Rate, rate_mbps: float) -> None:
        for name in event.to:
            for way in ("up", "down"):
                self.team.workers[name].pipe(way).follow(Trace.constant(rate_mbps * 1e6))

    def strike_disk(self, event: DiskFull) -> None:
        """Nothing can be committed."""
        self.team.fill_disk(event.for_s)

    def strike_hostile(self, event: Hostile) -> None:
        """Strangers."""
        for number in range(event.count):
            self.team.meet(Stranger(event.kind, number), event.for_s, self.script.scale)


#: What plays each kind of event.
_STRIKES: dict[type[Any], Callable[..., Callable[[], None] | None]] = {
    Kill: _Player.strike_kill,
    PowerLoss: _Player.strike_kill,
    Stop: _Player.strike_stop,
    Cut: _Player.strike_cut,
    Rate: _Player.strike_rate,
    DiskFull: _Player.strike_disk,
    Hostile: _Player.strike_hostile,
}
