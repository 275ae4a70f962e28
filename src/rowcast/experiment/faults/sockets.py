"""Plays a fault script on real sockets: a server and robots in processes of their own, links that stall."""

from __future__ import annotations

import heapq
import itertools
import math
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rowcast.errors import ConfigError, DataError, WorkerFailed
from rowcast.experiment.faults import processes
from rowcast.experiment.faults.certificates import TeamFiles
from rowcast.experiment.faults.crowd import Crowd
from rowcast.experiment.faults.disk import fill_folder, free_folder, lose_unflushed
from rowcast.experiment.faults.judging import Facts, Report, RobotFacts, Struck, judge
from rowcast.experiment.faults.relay import Link
from rowcast.experiment.faults.script import (
    SERVER,
    STARTING_S,
    Certificate,
    Clock,
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
from rowcast.experiment.local_team import DemoObserver
from rowcast.journal import read_journal

__all__ = ["play_sockets"]

#: How often the player looks at its clock (s).
TICK_S = 0.01
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
        player.close()
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


def _context() -> multiprocessing.context.ForkServerContext:
    """Processes that have loaded what they need before they are started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([processes.__name__])
    return context


class _Process:
    """One life of a node."""

    def __init__(self, target: Callable[..., None], order: object) -> None:
        context = _context()
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(order, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.open = True

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def say(self, *word: object) -> None:
        """Tell it something; one that is gone hears nothing."""
        try:
            self.pipe.send(word)
        except OSError:
            self.open = False

    def hear(self) -> list[tuple[Any, ...]]:
        """What it has said since; when it has ended, :attr:`open` is false."""
        words = []
        try:
            while self.open and self.pipe.poll():
                words.append(self.pipe.recv())
        except (EOFError, ConnectionResetError):
            self.open = False
        return words

    def kill(self) -> list[tuple[Any, ...]]:
        """SIGKILL; returns what it had said until then."""
        self._process.kill()
        return self.ended()

    def ended(self) -> list[tuple[Any, ...]]:
        """Wait for its end; returns what it had said until then."""
        self._process.join(END_LIMIT_S)
        words = self.hear()
        self.open = False
        return words


class _Player:
    def __init__(self, script: FaultScript, folder: Path, observer: DemoObserver, seed: int) -> None:
        self.script, self.folder, self.observer = script, folder, observer
        self.chance = random.Random(f"{script.name} {seed}")
        self.seed = seed
        self.facts = Facts({name: RobotFacts(name) for name in script.team.names})
        self.host: _Process | None = None
        self.robots: dict[str, _Process] = {}
        self.links: dict[str, Link] = {}
        self.crowds: list[Crowd] = []
        self.files = TeamFiles(folder / "team", script) if script.team.security == "certificates" else None
        self._port = 0
        self._ready: set[str] = set()
        self._lives = itertools.count()
        self._order = itertools.count()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._waiting = [event for event in script.event if event.phase is not None]
        self._steps: dict[str, int] = dict.fromkeys(script.team.names, 0)
        self._seen_at: dict[int, float] = {}
        self._status: list[Any] = []
        self._began = math.inf
        self._shown_at = 0.0

    # -- the whole of it -----------------------------------------------------------------------------------------

    def play(self) -> Facts:
        """The team, its faults, its end."""
        script = self.script
        processes.raise_descriptors()
        self._start_host()
        for name in script.team.names:
            self.links[name] = Link(self._port, script.team.rate_mbps * 1e6)
            self._start_robot(name)
        if not self._until(lambda: self._ready >= set(script.team.names), BEGIN_LIMIT_S):
            raise WorkerFailed(f"fault script {script.name}: the team is not complete: {self._states()}")
        self._began = time.monotonic()
        self.observer.says(f"{script.name}: {len(self.robots)} robots train with {script.team.policy}")
        for event in script.event:
            if event.at_s is not None:
                self._at(self._began + event.at_s, lambda event=event: self._strike(event))
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
            self.robots[name].say("finish")
        if not self._until(lambda: not self._living(), END_LIMIT_S):
            self.facts.hang = f"the end does not come: {self._states()}"
            return
        assert self.host is not None
        self.host.say("stop")
        self.host.ended()
        try:
            self.facts.parameters = np.load(self.folder / f"{processes.PARAMETERS}.npy", allow_pickle=False)
            for name, robot in self.facts.robots.items():
                if (path := self.folder / f"{name}.npy").exists():
                    robot.replica = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.folder}: expected the parameters of the server: {error}") from error
        nodes = (SERVER, *self.script.team.names)
        self.facts.journals = {
            node: list(read_journal(self.folder / f"{node}.jsonl", session=None)) for node in nodes
        }

    def close(self) -> None:
        """End everything that was started."""
        for process in (*self.robots.values(), *filter(None, [self.host])):
            process.kill()
        for link in self.links.values():
            link.close()
        for crowd in self.crowds:
            crowd.join(END_LIMIT_S)

    def _living(self) -> list[str]:
        return [
            name
            for name, process in self.robots.items()
            if process.open and not self.facts.robots[name].failure and self.facts.robots[name].state != "done"
        ]

    def _have_made(self, wanted: dict[str, int]) -> bool:
        return all(self._steps[name] >= count for name, count in wanted.items() if name in self._living())

    def _all_has_ended(self) -> bool:
        over = not self._later and not self._waiting and all(struck.ended < math.inf for struck in self.facts.struck)
        return over and self._ready >= set(self._living())

    def _states(self) -> str:
        said = [f"{name} {robot.failure or robot.state or 'starting'}" for name, robot in self.facts.robots.items()]
        waits = [event.said for event in self._waiting]
        return ", ".join([*said, *waits])

    # -- time ------------------------------------------------------------------------------------------------------

    def _at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._later, (when, next(self._order), action))

    def _until(self, reached: Callable[[], bool], limit_s: float) -> bool:
        """Let things happen until something is reached; false: not within the limit."""
        ends = time.monotonic() + limit_s
        while not reached():
            now = time.monotonic()
            if now > ends:
                return False
            while self._later and self._later[0][0] <= now:
                heapq.heappop(self._later)[2]()
            self._listen()
            self._show(now)
        return True

    def _listen(self) -> None:
        """Hear what processes say, for a moment."""
        nodes = {SERVER: self.host, **self.robots}
        pipes: dict[Connection, str] = {one.pipe: name for name, one in nodes.items() if one is not None and one.open}
        for pipe in wait(list(pipes), TICK_S):
            name = pipes[pipe]  # type: ignore[index]
            process = nodes[name]
            assert process is not None
            for word in process.hear():
                self._heard(name, word)

    def _heard(self, name: str, word: tuple[Any, ...]) -> None:
        if name == SERVER:
            if word[0] == "listening":
                self._port = word[1]
                self._ready.add(SERVER)
            elif word[0] == "status":
                self._status = word[1]
            return
        robot = self.facts.robots[name]
        if word[0] == "joined":
            self._ready.add(name)
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
        if going_on or self._began == math.inf or not self._ready >= set(self._living()):
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
        if now > self._shown_at + 0.5 and self._began < math.inf:
            self._shown_at = now
            left_s = max(self._began + self.script.length_s - now, 0.0)
            self.observer.shows(self.script.name, left_s, self.script.length_s, self._status)

    # -- processes ---------------------------------------------------------------------------------------------------

    def _start_host(self) -> None:
        script = self.script
        self._ready.discard(SERVER)
        order = processes.HostOrder(
            self.folder,
            self._port,
            script.team.policy,
            script.server_settings,
            script.team.durability == "log",
            None if self.files is None else self.files.folder,
            f"{script.name} {self.seed} {next(self._lives)}",
        )
        self.host = _Process(processes.run_host, order)
        if not self._until(lambda: SERVER in self._ready or not self._is_up(SERVER), BEGIN_LIMIT_S):
            raise WorkerFailed(f"fault script {script.name}: its server does not listen")
        if SERVER not in self._ready:
            raise WorkerFailed(f"fault script {script.name}: its server ended at once")

    def _is_up(self, name: str) -> bool:
        process = self.host if name == SERVER else self.robots.get(name)
        return process is not None and process.open

    def _start_robot(self, name: str) -> None:
        script, index = self.script, self.script.team.names.index(name)
        self._ready.discard(name)
        self.facts.robots[name].state = ""
        order = processes.RobotOrder(
            name,
            index,
            script.team.workers,
            self.folder,
            self.links[name].port,
            script.team.pace_of(index),
            script.worker_settings,
            script.team.keeps,
            None if self.files is None else self.files.of(name),
            any(event.of == name for event in script.event),
        )
        self.robots[name] = _Process(processes.run_robot, order)

    def _kill(self, name: str) -> None:
        if name == SERVER:
            assert self.host is not None
            self.host.kill()
            self._ready.discard(SERVER)
            return
        robot = self.facts.robots[name]
        for word in self.robots[name].kill():
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
        end = _STRIKES[type(event)](self, event)

        def ends() -> None:
            if end is not None:
                end()
            struck.ended = time.monotonic()

        if event.lasts_s or end is not None:
            self._at(now + event.lasts_s, ends)
        else:
            struck.ended = now

    def strike_kill(self, event: Kill) -> Callable[[], None] | None:
        """SIGKILL, or a loss of power; returns what ends it."""
        power = isinstance(event, PowerLoss)
        for name in event.to:
            if power and name == SERVER:
                assert self.host is not None
                self.host.say("power")
                self.host.ended()
                self._ready.discard(SERVER)
                continue
            self._kill(name)
            if power:
                lose_unflushed(self.folder / f"{name}-state", self.chance)
        if event.restart_after_s is None:
            return None

        def again() -> None:
            for name in sorted(event.to, key=SERVER.__ne__):
                if name == SERVER:
                    self._start_host()
                else:
                    self._start_robot(name)
            self.observer.says(f"{', '.join(event.to)}: started again")

        return again

    def strike_stop(self, event: Stop) -> Callable[[], None]:
        """SIGSTOP."""
        stopped = [self.host if name == SERVER else self.robots[name] for name in event.to]
        pids = [process.pid for process in stopped if process is not None]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)

        def go_on() -> None:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

        return go_on

    def strike_cut(self, event: Cut) -> Callable[[], None]:
        """Nothing passes, and nobody is told."""
        for name in event.to:
            self.links[name].stall(event.direction, mid_frame=event.mid_frame)

        def back() -> None:
            for name in event.to:
                if not self.links[name].go_on():
                    self.facts.missed.append(f"{event.said}: no frame of rows came by")

        return back

    def strike_rate(self, event: Rate) -> Callable[[], None]:
        """Another rate."""
        for name in event.to:
            self.links[name].set_rate(event.rate_mbps * 1e6)

        def back() -> None:
            for name in event.to:
                self.links[name].set_rate(self.script.team.rate_mbps * 1e6)

        return back

    def strike_disk(self, event: DiskFull) -> Callable[[], None]:
        """No room."""
        self._fill(event, True)
        return lambda: self._fill(event, False)

    def _fill(self, event: DiskFull, full: bool) -> None:
        for name in event.to:
            if name == SERVER:
                assert self.host is not None
                self.host.say("full", full)
            else:
                (fill_folder if full else free_folder)(self.folder / f"{name}-state")

    def strike_certificate(self, event: Certificate) -> Callable[[], None] | None:
        """Another certificate, or none that counts."""
        assert self.files is not None
        for name in event.to:
            self.files.harm(name, event.state)
            if event.state != "revoked":
                self.links[name].hang_up()
        if event.state == "revoked":
            return None

        def mend() -> None:
            for name in event.to:
                assert self.files is not None
                self.files.mend(name)

        return mend

    def strike_hostile(self, event: Hostile) -> Callable[[], None]:
        """Strangers."""
        crowd = Crowd(self._port, event.kind, event.count, event.for_s, self.script.scale)
        crowd.start()
        self.crowds.append(crowd)
        return crowd.join

    def strike_clock(self, event: Clock) -> None:
        """Another time on the wall."""
        for name in event.to:
            process = self.host if name == SERVER else self.robots[name]
            assert process is not None
            process.say("clock", event.jump_s)


#: What plays each kind of event.
_STRIKES: dict[type[Any], Callable[..., Callable[[], None] | None]] = {
    Kill: _Player.strike_kill,
    PowerLoss: _Player.strike_kill,
    Stop: _Player.strike_stop,
    Cut: _Player.strike_cut,
    Rate: _Player.strike_rate,
    DiskFull: _Player.strike_disk,
    Certificate: _Player.strike_certificate,
    Hostile: _Player.strike_hostile,
    Clock: _Player.strike_clock,
}
