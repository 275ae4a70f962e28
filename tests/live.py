"""Servers and workers over real sockets, in threads and processes; shared by the tests of the socket driver."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from rowcast.config import ServerSettings, WorkerSettings
from rowcast.drivers.sockets import Endpoint, Security, Server, Shaper, Team
from rowcast.drivers.sockets.certificates import self_signed
from rowcast.drivers.sockets.tls import context_of, load_issued
from rowcast.journal import Journal
from rowcast.links import Trace
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.training import ServerNode

#: 200 rows and 12,850 elements: 51 kB in the raw codec.
LAYOUT = Layout.from_shapes([("weight", (200, 64)), ("bias", (50,))])

#: Nothing here takes longer unless it hangs.
LIMIT_S = 20.0

IMPATIENT = WorkerSettings(join_limit_s=LIMIT_S, reconnect_first_s=0.02, reconnect_cap_s=0.1, patience_s=0.3)


def eventually(what, limit_s=LIMIT_S):
    """Wait until ``what()`` is true; returns it."""
    ends = time.monotonic() + limit_s
    while not (found := what()):
        assert time.monotonic() < ends, f"not within {limit_s} s: {what}"
        time.sleep(0.003)
    return found


class LiveServer:
    """A server with an event loop and a thread of its own; port 0 unless given."""

    def __init__(self, policy="bsp?codec=raw", *, port=0, secret=None, security=None, journal=None, **settings):
        self.journal = journal or Journal("server")
        self._secret = secret
        settings.setdefault("gather_s", 0.0)  # no team has trained before, unless the test says so
        self.node = ServerNode(
            parse_policy(policy), settings=ServerSettings(**settings), secret=secret, journal=self.journal
        )
        self.server = Server(self.node, "127.0.0.1", port, security=security)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="live-server")

    def __enter__(self):
        self._thread.start()
        try:
            self.call(self.server.start())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_):
        self.call(self.server.close())
        self._end()

    def _end(self):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT_S)
        self._loop.close()

    @property
    def port(self):
        return self.server.port

    @property
    def endpoint(self):
        """Where it is, with its secret."""
        return Endpoint("127.0.0.1", self.port, Security(self._secret))

    def call(self, coroutine):
        """Run a coroutine on the server's loop; returns its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(LIMIT_S)

    def ask(self, function):
        """``function(node)`` on the server's thread, where nothing moves meanwhile."""

        async def answer():
            return function(self.node)

        return self.call(answer())

    def member(self, name, attribute):
        """An attribute of a member, ``None`` while there is no such member."""
        return self.ask(lambda node: getattr(node.members.get(name), attribute, None))

    def cut(self, name):
        """Abort a worker's connection; false when it has none now."""

        def abort(node):
            link = node.members[name].link if name in node.members else None
            connection = self.server._connections.get(link)
            if connection is None:
                return False
            connection.close("cut by the test")
            return True

        return self.ask(abort)

    def events(self, kind, **wanted):
        """Records of the journal."""
        return [
            record
            for record in list(self.journal.records)
            if record["event"] == kind and all(record.get(key) == value for key, value in wanted.items())
        ]


def open_to_anybody():
    """TLS as a server has it whose certificate nobody vouches for."""
    context = context_of(server_side=True)
    load_issued(context, self_signed())
    return context


class Robot(threading.Thread):
    """A worker in a thread: steps of whole numbers, so that float32 sums are exact and may be compared as such.

    Args:
        server: a :class:`LiveServer`, whose secret it then knows, or the endpoint that it connects to.
        steps, update: how many iterations, and what each contributes to every parameter.
        model: its layout and the parameters that it starts with; ``None``: ``LAYOUT`` and ``start_of()``.
        link: rate of its link, each direction (bit/s), or a trace; ``None``: no shaper stands in between.
        wait: stay at the end until the others have finished too.
        options: of its :class:`~rowcast.drivers.sockets.Team`.

    Attributes:
        computed: float64 [elements], sum of all it ever proposed.
        error: what ended it early.
        at_pause, go_on: with ``pause_at``, it stops at that iteration, sets the first and waits for the second.
    """

    def __init__(self, server, name, *, steps, update=1, pause_at=None, model=None, link=None, wait=True, **options):
        super().__init__(name=f"test-{name}", daemon=True)
        options.setdefault("settings", IMPATIENT)
        endpoint = server if isinstance(server, Endpoint) else server.endpoint
        self.layout, initial = (LAYOUT, start_of()) if model is None else model
        self.initial, self.wait = initial.copy(), wait
        self.link = None
        if link is not None:
            trace = link if isinstance(link, Trace) else Trace.constant(link)
            self.link = Shaper(endpoint.host, endpoint.port, up=trace, down=trace)
            self.link.begin()
            endpoint = Endpoint(*self.link.address, endpoint.security)
        self.team = Team(endpoint, name=name, **options)
        self.pause_at, self.at_pause, self.go_on = pause_at, threading.Event(), threading.Event()
        self.steps, self.update = steps, update
        self.computed = np.zeros(self.layout.elements)
        self.error = None
        self.start()

    def run(self):
        try:
            self.team.start(self.layout, self.initial)
            while self.team.iteration < self.steps:
                if self.team.iteration == self.pause_at:
                    go_on = self.go_on
                    self.at_pause.set()
                    assert go_on.wait(LIMIT_S)
                propose(self.team, self.update, self.computed, self.layout)
                self.team.exchange()
            self.team.finish(wait=self.wait)
        except BaseException as error:
            self.error = error
            self.team.leave()
        finally:
            if self.link is not None:
                self.link.close()

    def go_on_to(self, iteration):
        """It has paused: let it go on, to pause again at a later iteration, with another ``go_on``."""
        going, self.go_on = self.go_on, threading.Event()
        self.at_pause.clear()
        self.pause_at = iteration
        going.set()

    @property
    def iteration(self):
        """Iterations finished; 0 before it has started."""
        return self.team._node.iteration if self.team._node is not None else 0

    def done(self, limit_s=LIMIT_S):
        """Wait for its end; raises what went wrong."""
        self.join(limit_s)
        assert not self.is_alive(), f"{self.name} hangs: {self.team.node.state}"
        if self.error is not None:
            raise self.error
        return self


def start_of(layout=LAYOUT):
    """Whole numbers to begin with."""
    return np.arange(layout.elements, dtype=np.float32) % 100


def propose(team, update, computed=None, layout=LAYOUT):
    """Contribute ``update`` to each parameter."""
    with team.hold():
        team.accumulate([part - np.float32(update) for part in parts_of(team.replica, layout)], 1.0)
    if computed is not None:
        computed += update


def parts_of(vector, layout=LAYOUT):
    return [vector[spec.start : spec.stop] for spec in layout.tensors]


def python(*arguments, **options):
    """A process with this Python; its standard error is captured."""
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.PIPE)
    return subprocess.Popen([sys.executable, *map(str, arguments)], text=True, **options)


def worker_process(port, name, *, steps, update, rate_mbps=0.0):
    """A worker in a process of its own (this file as a script), behind a shaper if a rate is given."""
    return python(Path(__file__), port, name, steps, update, rate_mbps)


def _main(port, name, steps, update, rate_mbps):
    address = ("127.0.0.1", int(port))
    if float(rate_mbps):
        trace = Trace.constant(float(rate_mbps) * 1e6)
        shaper = Shaper(*address, up=trace, down=Trace.constant(1e9))
        address = shaper.address
    team = Team(Endpoint(*address), name=name, settings=IMPATIENT)
    team.start(LAYOUT, start_of())
    if float(rate_mbps):
        shaper.begin()
    while team.iteration < int(steps):
        propose(team, float(update))
        team.exchange()
    team.finish()


if __name__ == "__main__":
    _main(*sys.argv[1:])
