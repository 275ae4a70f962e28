"""The members of a team on real sockets: their processes, links and files, and what is done to them."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rowcast.experiment.faults import processes
from rowcast.experiment.faults.certificates import TeamFiles
from rowcast.experiment.faults.crowd import Crowd
from rowcast.experiment.faults.disk import fill_folder, free_folder, lose_unflushed
from rowcast.experiment.faults.relay import Link
from rowcast.experiment.faults.script import (
    SERVER,
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

__all__ = ["Members", "Process"]

#: The end of a process may take so long (s).
END_LIMIT_S = 60.0
#: What ends an event; ``None``: it has none.
Ends = Callable[[], None] | None


def _context() -> multiprocessing.context.ForkServerContext:
    """Processes that have loaded what they need before they are started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([processes.__name__])
    return context


class Process:
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
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self._process.is_alive():
            os.kill(self.pid, number)

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


class Members:
    """A server and its robots.

    Args:
        script: of which team.
        folder: takes what they write.
        seed: of what a loss of power leaves.

    Attributes:
        port: where the server listens; 0 before it has.
        nodes: the newest life of each, by name.
        links: of the robots.
        on_death: called when a process was killed, with its name and what it had said until then.
        missed: what did not happen as the script has it.
        forgotten: iterations of each robot that a loss of power took out of its notes.
    """

    def __init__(
        self,
        script: FaultScript,
        folder: Path,
        seed: int,
        on_death: Callable[[str, list[tuple[Any, ...]]], None],
        missed: list[str],
    ) -> None:
        self.port = 0
        self.nodes: dict[str, Process] = {}
        self.links: dict[str, Link] = {}
        self.forgotten = dict.fromkeys(script.team.names, 0)
        self.on_death, self.missed = on_death, missed
        self._script, self._folder, self._seed = script, folder, seed
        self._chance = random.Random(f"{script.name} {seed}")
        self._lives = itertools.count()
        self._crowds: list[Crowd] = []
        self._files = TeamFiles(folder / "team", script) if script.team.security == "certificates" else None

    def start(self, name: str) -> None:
        """Start one, anew or for the first time; the server first."""
        script = self._script
        if name == SERVER:
            self.nodes[name] = Process(
                processes.run_host,
                processes.HostOrder(
                    self._folder,
                    self.port,
                    script.team.policy,
                    script.server_settings,
                    script.team.durability == "log",
                    None if self._files is None else self._files.folder,
                    f"{script.name} {self._seed} {next(self._lives)}",
                ),
            )
            return
        if name not in self.links:
            self.links[name] = Link(self.port, script.team.rate_mbps * 1e6)
        index = script.team.names.index(name)
        self.nodes[name] = Process(
            processes.run_robot,
            processes.RobotOrder(
                name,
                index,
                script.team.workers,
                self._folder,
                self.links[name].port,
                script.team.pace_of(index),
                script.worker_settings,
                script.team.keeps,
                None if self._files is None else self._files.of(name),
                any(event.of == name for event in script.event),
            ),
        )

    def close(self) -> None:
        """End everything that was started."""
        for process in self.nodes.values():
            process.kill()
        for link in self.links.values():
            link.close()
        for crowd in self._crowds:
            crowd.join(END_LIMIT_S)

    def strike(self, event: EventTable) -> Ends:
        """Let an event begin; returns what ends it."""
        return _STRIKES[type(event)](self, event)

    # -- what happens ------------------------------------------------------------------------------------------------

    def strike_kill(self, event: Kill) -> Ends:
        """SIGKILL, or a loss of power; returns what ends it."""
        power = isinstance(event, PowerLoss)
        for name in event.to:
            process = self.nodes[name]
            if power and name == SERVER:
                process.say("power")
                self.on_death(name, process.ended())
                continue
            self.on_death(name, process.kill())
            if power:
                self.forgotten[name] += lose_unflushed(self._folder / f"{name}-state", name, self._chance)
        if event.restart_after_s is None:
            return None

        def again() -> None:
            for name in sorted(event.to, key=SERVER.__ne__):
                self.start(name)

        return again

    def strike_stop(self, event: Stop) -> Ends:
        """SIGSTOP."""
        stopped = [self.nodes[name] for name in event.to]
        for process in stopped:
            process.signal(signal.SIGSTOP)

        def go_on() -> None:
            for process in stopped:
                process.signal(signal.SIGCONT)

        return go_on

    def strike_cut(self, event: Cut) -> Ends:
        """Nothing passes, and nobody is told."""
        for name in event.to:
            self.links[name].stall(event.direction, mid_frame=event.mid_frame)

        def back() -> None:
            for name in event.to:
                if not self.links[name].go_on():
                    self.missed.append(f"{event.said}: no frame of rows came by")

        return back

    def strike_rate(self, event: Rate) -> Ends:
        """Another rate."""
        for name in event.to:
            self.links[name].set_rate(event.rate_mbps * 1e6)

        def back() -> None:
            for name in event.to:
                self.links[name].set_rate(self._script.team.rate_mbps * 1e6)

        return back

    def strike_disk(self, event: DiskFull) -> Ends:
        """No room."""
        self._fill(event, True)
        return lambda: self._fill(event, False)

    def _fill(self, event: DiskFull, full: bool) -> None:
        for name in event.to:
            if name == SERVER:
                self.nodes[name].say("full", full)
            else:
                (fill_folder if full else free_folder)(self._folder / f"{name}-state")

    def strike_certificate(self, event: Certificate) -> Ends:
        """Another certificate, or none that counts."""
        assert self._files is not None
        for name in event.to:
            self._files.harm(name, event.state)
            if event.state != "revoked":
                self.links[name].hang_up()
        if event.state == "revoked":
            return None

        def mend() -> None:
            for name in event.to:
                assert self._files is not None
                self._files.mend(name)

        return mend

    def strike_hostile(self, event: Hostile) -> Ends:
        """Strangers."""
        crowd = Crowd(self.port, event.kind, event.count, event.for_s, self._script.scale)
        crowd.start()
        self._crowds.append(crowd)
        return crowd.join

    def strike_clock(self, event: Clock) -> None:
        """Another time on the wall."""
        for name in event.to:
            self.nodes[name].say("clock", event.jump_s)


#: What plays each kind of event.
_STRIKES: dict[type[Any], Callable[..., Ends]] = {
    Kill: Members.strike_kill,
    PowerLoss: Members.strike_kill,
    Stop: Members.strike_stop,
    Cut: Members.strike_cut,
    Rate: Members.strike_rate,
    DiskFull: Members.strike_disk,
    Certificate: Members.strike_certificate,
    Hostile: Members.strike_hostile,
    Clock: Members.strike_clock,
}
