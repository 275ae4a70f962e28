"""Plays a fault script on real sockets: a server and robots in processes of their own, links that stall."""

from __future__ import annotations

import heapq
import itertools
import math
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rowcast.errors import ConfigError, DataError, WorkerFailed
from rowcast.experiment.faults import processes
from rowcast.experiment.faults.judging import Facts, Report, RobotFacts, Struck, judge
from rowcast.experiment.faults.members import Members
from rowcast.experiment.faults.script import SERVER, STARTING_S, EventTable, FaultScript, Kill
from rowcast.experiment.local_team import DemoObserver
from rowcast.journal import read_journal

__all__ = ["play_sockets"]

#: How often the player looks at its clock (s).
TICK_S = 0.01
#: How often it looks how long processes have waited (s).
LOOK_S = 0.25
#: What came too late for its phase is tried so often.
ATTEMPTS = 5
#: A team may take so long to be there, and to come to its end when nothing happens any more (s).
BEGIN_LIMIT_S, END_LIMIT_S = 60.0, 60.0


def play_sockets(script: FaultScript, folder: Path, observer: DemoObserver, *, seed: int = 0) -> Report:
    """Play a script with real processes on loopback.

    Args:
        script: what happens.
        folder: takes journals, parameters and states; what an earlier script has left in it is deleted.
        observer: is told what happens, and where everybody is.
        seed: of what a loss of power leaves.

    Raises:
        ConfigError: the folder cannot be used.
        WorkerFailed: the team did not come to its beginning.
    """
    if "sockets" not in script.on:
        return Report(script, "sockets", not_played=f"not on sockets: {script.because}")
    _empty(folder, script)
    player = _Player(script, folder, observer, seed)
    try:
        facts = player.play()
    finally:
        player.members.close()
    return judge(script, "sockets", facts)


def _empty(folder: Path, script: FaultScript) -> None:
    """The folder of a script, with nothing in it but the script."""
    kept = folder / "script.json"
    try:
        if folder.exists() and any(folder.iterdir()):
            if not kept.is_file():
                raise ConfigError(f"out {folder}: holds files that no fault script wrote; choose another --out")
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(msgspec.json.format(msgspec.json.encode(script)))
    except OSError as error:
        raise ConfigError(f"out {folder}: cannot be used: {error.strerror}") from error


class _Player:
    def __init__(self, script: FaultScript, folder: Path, observer: DemoObserver, seed: int) -> None:
        self.script, self.folder, self.observer = script, folder, observer
        self.facts = Facts({name: RobotFacts(name) for name in script.team.names})
        self.members = Members(script, folder, seed, self._died, self.facts.missed)
        self._ready: set[str] = set()
        self._starting: list[Struck] = []
        self._order = itertools.count()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._waiting = [event for event in script.event if event.phase is not None]
        self._steps: dict[str, int] = dict.fromkeys(script.team.names, 0)
        self._seen_at: dict[int, float] = {}
        self._status: list[Any] = []
        self._began = math.inf
        self._shown_at = self._looked_at = 0.0

    # -- the whole of it -----------------------------------------------------------------------------------------

    def play(self) -> Facts:
        """The team, its faults, its end."""
        script = self.script
        processes.raise_descriptors()
        for names in ((SERVER,), script.team.names):
            for name in names:
                self.members.start(name)
            self._until(partial(self._are_there_or_gone, names), BEGIN_LIMIT_S)
            if self._ready >= set(names):
                continue
            raise WorkerFailed(f"fault script {script.name}: the team is not complete: {self._states()}")
        self._began = time.monotonic()
        self.observer.says(f"{script.name}: {script.team.workers} robots train with {script.team.policy}")
        for event in script.event:
            if event.at_s is not None:
                self._at(self._began + event.at_s, partial(self._strike, event))
        starts = STARTING_S * sum(len(event.to) for event in script.event if isinstance(event, Kill))
        limit_s = script.length_s + starts + END_LIMIT_S
        if not self._until(self._all_has_ended, limit_s):
            self.facts.hang = f"events that did not happen or end: {self._states()}"
            return self.facts
        wanted = {name: count + script.team.steps for name, count in self._steps.items() if name in self._living()}
        if not self._until(lambda: self._have_made(wanted), END_LIMIT_S + 4 * script.team.steps):
            self.facts.hang = f"training does not go on: {self._states()}"
            return self.facts
        self._finish()
        return self.facts

    def _finish(self) -> None:
        for name in self._living():
            self.members.nodes[name].say("finish")
        if not self._until(lambda: not self._living(), END_LIMIT_S):
            self.facts.hang = f"the end does not come: {self._states()}"
            return
        self.members.nodes[SERVER].say("stop")
        self.members.nodes[SERVER].ended()
        try:
            self.facts.parameters = np.load(self.folder / f"{processes.PARAMETERS}.npy", allow_pickle=False)
            for name, robot in self.facts.robots.items():
                robot.forgotten = self.members.forgotten[name]
                if (path := self.folder / f"{name}.npy").exists():
                    robot.replica = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.folder}: expected the parameters of the server: {error}") from error
        nodes = (SERVER, *self.script.team.names)
        self.facts.journals = {node: list(read_journal(self.folder / f"{node}.jsonl", session=None)) for node in nodes}

    def _living(self) -> list[str]:
        return [
            name
            for name, process in self.members.nodes.items()
            if name != SERVER
            and process.open
            and not self.facts.robots[name].failure
            and self.facts.robots[name].state != "done"
        ]

    def _are_there_or_gone(self, names: tuple[str, ...]) -> bool:
        return self._ready >= set(names) or not all(process.open for process in self.members.nodes.values())

    def _have_made(self, wanted: dict[str, int]) -> bool:
        return all(self._steps[name] >= count for name, count in wanted.items() if name in self._living())

    def _all_has_ended(self) -> bool:
        over = not self._later and not self._waiting and all(struck.ended < math.inf for struck in self.facts.struck)
        return over and self._ready >= {SERVER, *self._living()}

    def _states(self) -> str:
        said = [f"{name} {robot.failure or robot.state or 'starting'}" for name, robot in self.facts.robots.items()]
        waits = [event.said for event in self._waiting]
        return ", ".join([*said, *waits])

    # -- time ------------------------------------------------------------------------------------------------------

    def _at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._later, (when, next(self._order), action))

    def _until(self, reached: Callable[[], bool], limit_s: float) -> bool:
        """Let things happen until something is reached; false: not within the limit."""
        begun = time.monotonic()
        while not reached():
            now = time.monotonic()
            if now > begun + limit_s + self._longer_s(begun, limit_s):
                return False
            while self._later and self._later[0][0] <= now:
                heapq.heappop(self._later)[2]()
            self._listen()
            self._show(now)
        return True

    def _longer_s(self, began: float, length_s: float) -> float:
        """By how much something lasts longer where the machine keeps processes waiting for a processor (s).

        By what they have waited since it began, and by ten times its length at most: a robot that cannot compute does
        not notice within the length of a fault what happens to it.
        """
        return min(self.facts.delays.between(began, time.monotonic()), 10 * length_s)

    def _listen(self) -> None:
        """Hear what processes say, for a moment."""
        nodes = self.members.nodes
        pipes: dict[object, str] = {one.pipe: name for name, one in nodes.items() if one.open}
        for pipe in wait([one.pipe for one in nodes.values() if one.open], TICK_S):
            for word in nodes[pipes[pipe]].hear():
                self._heard(pipes[pipe], word)

    def _heard(self, name: str, word: tuple[Any, ...]) -> None:
        if name == SERVER:
            if word[0] == "listening":
                self.members.port = word[1]
                self._is_there(SERVER)
            elif word[0] == "status":
                self._status = word[1]
            return
        robot = self.facts.robots[name]
        if word[0] == "joined":
            self._is_there(name)
            self.observer.says(f"{name}: joined" + ("" if word[1] is None else f", goes on at iteration {word[1]}"))
        elif word[0] == "proposed":
            robot.proposed += 1
        elif word[0] == "finished step":
            self._steps[name] += 1
            robot.state = f"in iteration {word[1]}"
        elif word[0] == "phase":
            self._passed(name, word[1], word[2], word[3])
        elif word[0] == "failed":
            robot.failure = word[1]
            self.observer.says(f"{name}: ended: {robot.failure}")
        elif word[0] == "done":
            robot.state = "done"

    def _passed(self, name: str, phase: str, iteration: int, since: float) -> None:
        """A robot is in a phase: what waits for that happens, one event after the other has ended."""
        for struck in self.facts.struck:
            if struck.event.of == name and not struck.late and self._seen_at[id(struck)] < since < struck.began:
                self._too_late(struck)
        going_on = any(struck.ended == math.inf for struck in self.facts.struck)
        if going_on or self._began == math.inf or not self._ready >= {SERVER, *self._living()}:
            return
        for event in self._waiting:
            if event.of == name and event.phase == phase and iteration >= event.iteration:
                self._waiting.remove(event)
                self._strike(event, since)
                return

    def _too_late(self, struck: Struck) -> None:
        """The phase was over when it happened: it happens once more."""
        struck.late = True
        if sum(each.late and each.event is struck.event for each in self.facts.struck) < ATTEMPTS:
            self._waiting.append(struck.event)
        else:
            self.facts.missed.append(f"{struck.event.said}: the phase is over too soon, {ATTEMPTS} times")

    def _show(self, now: float) -> None:
        if now > self._looked_at + LOOK_S:
            self._looked_at = now
            pids = (process.pid for process in self.members.nodes.values() if process.open)
            self.facts.delays.look(now, [os.getpid(), *pids])
        if now > self._shown_at + 0.5 and self._began < math.inf:
            self._shown_at = now
            left_s = max(self._began + self.script.length_s - now, 0.0)
            self.observer.shows(self.script.name, left_s, self.script.length_s, self._status)

    # -- processes ---------------------------------------------------------------------------------------------------

    def _is_there(self, name: str) -> None:
        """It listens, or has joined."""
        self._ready.add(name)
        for struck in list(self._starting):
            if self._ready >= set(struck.event.to):
                self._starting.remove(struck)
                struck.ended = time.monotonic()

    def _died(self, name: str, words: list[tuple[Any, ...]]) -> None:
        """A process was killed; what it had said until then counts, but what it waited for is over."""
        self._ready.discard(name)
        if name == SERVER:
            return
        robot = self.facts.robots[name]
        for word in words:
            if word[0] in ("proposed", "phase"):
                self._heard(name, word)
        robot.deaths += 1
        robot.state = "killed"

    # -- what happens --------------------------------------------------------------------------------------------------

    def _strike(self, event: EventTable, seen_at: float = math.inf) -> None:
        """Let it happen; ``seen_at``: since when the phase lasts that it waited for (s)."""
        now = time.monotonic()
        struck = Struck(event, now)
        self._seen_at[id(struck)] = seen_at
        self.facts.struck.append(struck)
        self.observer.says(f"{now - self._began:.1f} s: {event.said}")
        end = self.members.strike(event)

        def ends() -> None:
            longer_s = 0.0 if isinstance(event, Kill) else self._longer_s(now, event.lasts_s)
            if (when := now + event.lasts_s + longer_s) > time.monotonic():
                self._at(when, ends)
                return
            if end is not None:
                end()
            if isinstance(event, Kill) and not self._ready >= set(event.to):
                self.observer.says(f"{', '.join(event.to)}: started again")
                self._starting.append(struck)
            else:
                struck.ended = time.monotonic()

        if end is None:
            struck.ended = now
        else:
            self._at(now + event.lasts_s, ends)
