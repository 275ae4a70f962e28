"""The process of the medium: takes frames from the ends of all cables, and lets each go when the medium says.

``python -m rowcast.drivers.netns.forward SPEC.json``, in the network namespace of the ends. It prints ``ready``; until
it is told more, frames pass at once, so that hosts find each other. Lines on its standard input:

================ =====================================================================================================
``start T``      the traces begin at ``T``, seconds of the monotonic clock (``time.monotonic()``), now or later
``lift``         the shaping ends: what is on the medium is let go, and frames pass at once from now on
================ =====================================================================================================

The end of its standard input, SIGTERM or SIGINT end it; then it writes its counters. What is wrong is one line on
standard error. Status 1: frames came that would have falsified everything; 2: it could not begin.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from rowcast.config import as_number
from rowcast.drivers.netns.forward_spec import ForwardSpec, load_spec
from rowcast.drivers.netns.interface import HEADER_BYTES, Interface, InterfaceGone
from rowcast.drivers.netns.lateness import Lateness
from rowcast.drivers.netns.medium import Medium
from rowcast.drivers.netns.packet_log import PacketLog
from rowcast.drivers.netns.priority import take_priority
from rowcast.drivers.netns.routes import Routes
from rowcast.errors import RowcastError, near_match, visible

__all__ = ["Forwarder", "main"]

#: Frames that are taken from an interface before something departs again.
BATCH = 64
#: The log is written when nothing departs for so long, and at the latest after the longest wait (s).
IDLE_S = 0.002
LONGEST_WAIT_S = 0.25
#: Clocks that are read within this time are read at once.
AT_ONCE_S = 20e-6

_COMMANDS = ("start", "lift")


class Forwarder:
    """Carries frames between interfaces over a medium.

    Args:
        spec: the hosts, their links, the channel.
        commands: descriptor from which commands are read; its end ends :meth:`run`.

    Raises:
        ConfigError: an interface cannot be opened, or the log not be written.
    """

    def __init__(self, spec: ForwardSpec, commands: int = 0) -> None:
        self._spec = spec
        self._commands = commands
        self._text = b""
        self._over = False
        links = spec.links()
        self._medium: Medium[bytes] = Medium(spec.settings.channel, links, spec.settings.seed)
        self._began_at = math.inf  # frames that are older pass at once
        #: When the traces began on the clock of the day (s since 1970). Set once, so that times in the log are as far
        #: from each other as they were, whatever is done to that clock.
        self._wall_zero_s = 0.0
        self._settled = 0.0  # the latest time that the medium was told
        self._routes = Routes(spec)
        with contextlib.ExitStack() as opened:
            self._ports = [
                opened.enter_context(contextlib.closing(Interface(port.interface))) for port in self._routes.ports
            ]
            settings, self._log = spec.settings, None
            if settings.packet_log is not None:
                log = PacketLog(settings.packet_log, settings.log_snap_bytes, settings.log_limit_bytes, _say)
                self._log = opened.enter_context(contextlib.closing(log))
            self._opened = opened.pop_all()
        self._place = {port.fileno(): place for place, port in enumerate(self._ports)}
        self._gone: list[str] = []
        self._passed = self._unknown = self._short = self._not_taken = 0
        self._late = Lateness()
        self._late_of = {link: Lateness() for link in links}

    def run(self) -> None:
        """Carry frames until the end of the commands, or :meth:`stop`.

        Raises:
            ConfigError: a frame shows that offloads are on, so that sizes would be wrong, or frames be thrown away.
        """
        wait_s = 0.0
        while not self._over:
            ready = select.select([*self._place, self._commands], (), (), wait_s)[0]
            now, to_monotonic_s = _clocks()
            for time_s, frame, place in self._take(ready):
                self._arrive(time_s + to_monotonic_s, frame, place)
            if self._commands in ready:
                self._read_commands()
            if now >= self._began_at:
                # No later than when we looked: what comes now still finds the medium as it was when it came.
                self._settled = max(self._settled, now - self._began_at)
                self._send(self._medium.departed(self._settled))
            wait_s = self._wait_s()

    def stop(self) -> None:
        """Let :meth:`run` return."""
        self._over = True

    def close(self) -> None:
        self._opened.close()

    def summary(self) -> dict[str, Any]:
        """What happened so far, as it is written at the end."""
        links = []
        for link, counts in self._medium.counts.items():
            packets, size_bytes = self._medium.held(link)
            links.append(
                {
                    **self._routes.names(link),
                    **vars(counts),
                    "packets_held": packets,
                    "bytes_held": size_bytes,
                    "lateness": self._late_of[link].summary(),
                }
            )
        return {
            "departures": self._late.count,
            "lateness": self._late.summary(),
            "packets_unshaped": self._passed,
            "packets_unknown": self._unknown,
            "packets_short": self._short,
            "packets_not_taken": self._not_taken,
            "packets_missed": sum(port.missed() for port in self._ports),
            "interfaces_gone": self._gone,
            "logged": None if self._log is None else {"kept": self._log.kept, "skipped": self._log.skipped},
            "links": links,
        }

    # -- in ----------------------------------------------------------------------------------------------------------

    def _take(self, ready: Sequence[int]) -> list[tuple[float, bytes, int]]:
        """What has arrived, in order of time: when (s, clock of the day), the frame, and at which port."""
        found: list[tuple[float, bytes, int]] = []
        for descriptor in ready:
            place = self._place.get(descriptor)
            if place is None:
                continue
            frames = self._ports[place].take(BATCH)
            if frames:
                found += [(time_s, frame, place) for time_s, frame in frames]
            else:
                self._look_at(place)
        if len(ready) > 1:
            found.sort(key=itemgetter(0))
        return found

    def _look_at(self, place: int) -> None:
        """An interface has something to tell, and no frame."""
        port = self._ports[place]
        try:
            port.check()
        except InterfaceGone as error:
            exists = port.exists()
            _say(f"{error}; {'frames are lost until it is up again' if exists else 'its frames are lost from now on'}")
            if not exists:
                del self._place[port.fileno()]
                self._gone.append(port.name)

    def _arrive(self, time_s: float, frame: bytes, place: int) -> None:
        """A frame has come at a port at this time of the monotonic clock."""
        size_bytes = len(frame) - HEADER_BYTES
        if size_bytes < 0:
            self._short += 1
            return
        route = self._routes.route(place, frame)
        if not route:
            self._unknown += 1
        if time_s < self._began_at:
            self._passed += 1
            for link, onward in route:
                for each in (link, *onward):
                    self._deliver(each, frame)
            return
        # A frame that we see late counts from when it came, unless the medium is further already.
        self._settled = max(self._settled, time_s - self._began_at)
        for link, onward in route:
            self._medium.arrive(self._settled, link, size_bytes, frame, onward)

    def _read_commands(self) -> None:
        piece = os.read(self._commands, 4096)
        if not piece:
            self._over = True
        *lines, self._text = (self._text + piece).split(b"\n")
        for line in lines:
            self._obey(line.decode("utf-8", "replace").split())

    def _obey(self, words: list[str]) -> None:
        match words:
            case []:
                pass
            case ["start", text] if (at := as_number(text)) is not None and 0 <= at < math.inf:
                if self._began_at < math.inf or self._settled:
                    _say("start: the traces have begun already; expected it once")
                else:
                    _, to_monotonic_s = _clocks()
                    self._began_at, self._wall_zero_s = at, at - to_monotonic_s
            case ["lift"]:
                self._lift()
            case ["start", *_]:
                line = visible(" ".join(words))
                _say(f"expected seconds of the monotonic clock, as in 'start 123.5', got {line}")
            case _:
                _say(f"unknown command {visible(words[0])}; {near_match(words[0], _COMMANDS)}")

    # -- out ---------------------------------------------------------------------------------------------------------

    def _send(self, departures: Sequence[tuple[float, int, bytes]]) -> None:
        """Let go of what is due: when on the medium, over which link, what."""
        began_at, late, late_of, log = self._began_at, self._late, self._late_of, self._log
        for due, link, frame in departures:
            if self._deliver(link, frame):
                late_s = time.monotonic() - began_at - due
                late.add(late_s)
                late_of[link].add(late_s)
                if log is not None:
                    log.add(self._wall_zero_s + due, frame)

    def _deliver(self, link: int, frame: bytes) -> bool:
        """Send a frame that has come out of a link; whether it ends there."""
        place = self._routes.sink(link, frame)
        if place is None:
            return False
        if not self._ports[place].send(frame):
            self._not_taken += 1
        return True

    def _lift(self) -> None:
        began_at, self._began_at = self._began_at, math.inf
        now = time.monotonic()
        if now >= began_at:
            self._settled = max(self._settled, now - began_at)
            for _, link, frame in self._medium.release(self._settled):
                self._deliver(link, frame)

    def _wait_s(self) -> float:
        """Until something is to be done; meanwhile the log is written, if there is time."""
        wait_s = LONGEST_WAIT_S
        if self._began_at < math.inf:
            wait_s = min(wait_s, max(0.0, self._medium.next_event() + self._began_at - time.monotonic()))
        if self._log is not None and wait_s > IDLE_S:
            self._log.flush()
            return max(0.0, wait_s - IDLE_S / 2)
        return wait_s


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    if len(arguments) != 1:
        _say(f"expected one argument, the specification (.json), got {len(arguments)}")
        return 2
    try:
        spec = load_spec(arguments[0])
        forwarder = Forwarder(spec)
    except RowcastError as error:
        _say(str(error))
        return 2
    with contextlib.closing(forwarder):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: forwarder.stop())
        priority = take_priority()
        if priority != "fifo":
            _say(f"priority {priority}: real time is not allowed here; departures are late when all cores are busy")
        # Frames make no cycles: what collects those would only look at a heap that is full of frames.
        gc.collect()
        gc.freeze()
        gc.disable()
        print("ready", flush=True)
        status = 0
        try:
            forwarder.run()
        except RowcastError as error:
            _say(str(error))
            status = 1
        summary = {"priority": priority, **forwarder.summary()}
    if spec.settings.summary is not None:
        try:
            Path(spec.settings.summary).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            _say(f"{spec.settings.summary}: cannot be written: {error.strerror}; name another file")
            return 1
    return status


def _clocks() -> tuple[float, float]:
    """The monotonic clock, and what is added to the clock of the day to get it (s).

    Both are read at once: when the processor was taken away between, again.
    """
    for _ in range(5):
        before, day, after = time.monotonic(), time.time(), time.monotonic()
        if after - before < AT_ONCE_S:
            break
    return before, before - day


def _say(line: str) -> None:
    print(f"medium: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
