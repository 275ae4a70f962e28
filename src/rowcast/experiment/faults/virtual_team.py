"""A team in virtual time whose links stall, whose processes stand still, and whose server's disk is full."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from rowcast.drivers.virtual.engine import TIMER
from rowcast.errors import LinkLost
from rowcast.experiment.faults.hostile import Stranger
from rowcast.experiment.faults.script import SERVER
from rowcast.session import Link
from rowcast.testing import DurableTeam, ScriptedWorker
from rowcast.testing.virtual import _Worker
from rowcast.training.kept import Replay
from rowcast.wire import Message

__all__ = ["FaultyTeam"]

UP, DOWN = "up", "down"


class FaultyTeam(DurableTeam):
    """A :class:`~rowcast.testing.DurableTeam` to which everything happens that a fault script has for virtual time."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self._stalled: dict[tuple[str, str], float] = {}
        self._still_until: dict[str, float] = {}
        self._full_until = 0.0
        self._visits = 0
        super().__init__(*args, **more)

    # -- links -----------------------------------------------------------------------------------------------------

    def stall(self, name: str, for_s: float, direction: str = "both") -> None:
        """Nothing passes on the link of a worker for a while, whatever connections are made; nobody is told."""
        until = self.now + for_s
        for way in (UP, DOWN) if direction == "both" else (direction,):
            self._stalled[name, way] = max(until, self._stalled.get((name, way), 0.0))
            self.workers[name].pipe(way).stall(self.now, until)

    def start(self, script: ScriptedWorker, kept: Replay | None = None) -> None:
        """A worker comes; its link may stall since before."""
        before = self.workers.get(script.name)
        super().start(script, kept)
        if before is not None:
            for way in (UP, DOWN):
                self.workers[script.name].pipe(way).stall(self.now, self._stalled.get((script.name, way), 0.0))

    # -- processes that stand still ----------------------------------------------------------------------------------

    def hold(self, name: str, for_s: float) -> None:
        """A process stands still, the server's or a worker's: it hears nothing, and none of its timers goes off."""
        self._still_until[name] = self.now + for_s
        for robot in self.workers if name == SERVER else [name]:
            self.stall(robot, for_s)

    def _still(self, name: str) -> float:
        """Until when a process stands still (s), or 0."""
        until = self._still_until.get(name, 0.0)
        return until if until > self.now else 0.0

    def attend(self, worker: _Worker) -> None:
        """See :class:`~rowcast.drivers.virtual.engine.Engine`."""
        if until := self._still(worker.node.name):
            self.clock.at(until, super().attend, worker)
        else:
            super().attend(worker)

    def _wake_worker(self, worker: _Worker, due: float) -> None:
        if until := self._still(worker.node.name):
            self.clock.at(until, super()._wake_worker, worker, due, priority=TIMER)
        else:
            super()._wake_worker(worker, due)

    def _propose(self, worker: _Worker) -> None:
        if until := self._still(worker.node.name):
            self.clock.at(until, super()._propose, worker)
        else:
            super()._propose(worker)

    def _wake_server(self, due: float) -> None:
        if until := self._still(SERVER):
            self.clock.at(until, super()._wake_server, due, priority=TIMER)
        else:
            super()._wake_server(due)

    # -- the server's disk -------------------------------------------------------------------------------------------

    def fill_disk(self, for_s: float) -> None:
        """For a while nothing can be committed."""
        self._full_until = self.now + for_s

    def _on_commit(self) -> None:
        if self.now < self._full_until:
            self.clock.at(self._full_until, self._on_commit)
        else:
            super()._on_commit()

    # -- strangers ---------------------------------------------------------------------------------------------------

    def meet(self, stranger: Stranger, for_s: float, drip_s: float) -> None:
        """Somebody connects, says what it says (one byte of its drips each ``drip_s``), and goes after a while."""
        self._visits += 1
        link = Link(f"10.0.0.9:{self._visits}", address="10.0.0.9")
        try:
            self.host.link_up(self.now, link)
        except LinkLost:  # turned away: that is the server's right
            return
        visit = _Visit(self, stranger, link)
        self._by_link[link] = visit  # type: ignore[assignment]
        self.serve()
        if stranger.drips:
            self._drip(visit, drip_s)
        self.clock.at(self.now + for_s, self.disconnect, visit, "it has gone")

    def _drip(self, visit: _Visit, drip_s: float) -> None:
        stranger = visit.stranger
        if visit.connected and stranger.drips:
            byte, stranger.drips = stranger.drips[:1], stranger.drips[1:]
            visit.says(byte)
            self.clock.at(self.now + drip_s, self._drip, visit, drip_s)


class _Air:
    """A direction of a stranger's connection: it takes no time."""

    def __init__(self, hears: Callable[[Message], None]) -> None:
        self._hears = hears

    def takes(self, now: float) -> bool:
        return True

    def carry(self, now: float, message: Message, data: bytes | None = None) -> None:
        self._hears(message)

    def break_off(self, now: float) -> None:
        """Nothing is on the way."""


class _Nobody:
    """Stands where a worker has its node, with which nothing is done."""

    name, over = "a stranger", False


class _Visit:
    """A stranger's connection: to the engine, a peer that was killed, with whose node nothing is to be done.

    Attributes:
        stranger: who.
        connected: the server has not ended it.
    """

    killed, delay_s, link = True, 0.0, None

    def __init__(self, team: FaultyTeam, stranger: Stranger, link: Link) -> None:
        self.stranger = stranger
        self.node = _Nobody()
        self.connected = True
        self.worker_wake = math.inf
        self.server_link = link
        self.up = self.down = _Air(self._hears)
        self._team = team

    def says(self, data: bytes) -> None:
        """Bytes for the server; it may end the connection."""
        team, link = self._team, self.server_link
        link.decoder.buffer(len(data))[: len(data)] = data
        cause = team.host.arrived(team.now, link, len(data))
        if cause is not None:
            team.disconnect(self, cause)  # type: ignore[arg-type]
        team.serve()

    def _hears(self, message: Message) -> None:
        if (said := self.stranger.answers(message)) and self.connected:
            self._team.clock.at(self._team.now, self._say, said)
        # Its link is free at once: there may be more for it.
        self._team.clock.at(self._team.now, self._ready)

    def _say(self, said: bytes) -> None:
        if self.connected:
            self.says(said)

    def _ready(self) -> None:
        if self.connected:
            self._team.send_down(self)  # type: ignore[arg-type]
