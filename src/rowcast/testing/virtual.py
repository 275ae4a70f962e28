"""Real nodes joined by scripted links, in virtual time.

The engine is that of the virtual driver. Links carry the very bytes of the wire format, at the rate of a
:class:`~rowcast.links.Trace`; a cut loses what had not arrived at that moment, in the middle of a frame if need be.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from rowcast.config import LinkSettings, ServerSettings, WorkerSettings
from rowcast.delivery.placed import Home
from rowcast.drivers.virtual.clock import Clock
from rowcast.drivers.virtual.engine import Engine, Peer
from rowcast.errors import LinkLost, RemoteProtocolError, RowcastError
from rowcast.journal import Journal
from rowcast.links import Trace
from rowcast.rows import Layout
from rowcast.session import JoinRequest
from rowcast.sync import parse_policy
from rowcast.testing.books import Staleness, decay, imbalance, outer_step, reweighed, undelivered
from rowcast.testing.pipes import Connection, Pipe
from rowcast.testing.shelf import Shelf
from rowcast.training import ServerNode, WorkerNode, WorkerState
from rowcast.training.kept import Replay

__all__ = ["ScriptedWorker", "VirtualTeam"]

Vector = npt.NDArray[np.float32]

#: What a worker computes: (iterations computed so far in this life, its parameters) -> update to be subtracted.
Gradient = Callable[[int, Vector], Vector]


@dataclass
class ScriptedWorker:
    """A worker of a :class:`VirtualTeam`.

    Attributes:
        name: its name.
        gradient: what it computes, flat float32 in parameter units.
        iterations: after so many it finishes (and drains).
        compute_s: seconds for each iteration.
        rate_bps: rate of its link, each direction; or a trace.
        delay_s: one-way delay of its link.
        weight: averaging weight; ``None`` is 1 / members.
        initial: parameters that it starts with; ``None`` is zeros.
        secret: the shared secret that it knows, or ``None``.
        duplicate: probability that a row frame arrives twice on its link, each direction.
        pictures: whether a picture is taken behind an iteration, by its number; ``None``: nothing is kept of it.
        home: where its vectors are to lie; ``None``: in host memory.
    """

    name: str
    gradient: Gradient
    iterations: int
    compute_s: float = 0.1
    rate_bps: float | Trace = 1e6
    delay_s: float = 0.0
    weight: float | None = None
    initial: Vector | None = None
    secret: bytes | None = None
    duplicate: float = 0.0
    pictures: Callable[[int], bool] | None = None
    home: Home | None = None


class _Worker(Peer):
    """One life of a scripted worker."""

    node: WorkerNode
    up: Pipe
    down: Pipe

    def __init__(self, script: ScriptedWorker, node: WorkerNode, up: Pipe, down: Pipe) -> None:
        super().__init__(node, up, down, script.delay_s)
        self.script = script
        self.link: Connection | None = None
        self.computing = False
        self.computed = 0
        self.velocity: npt.NDArray[np.float64] | None = None

    @property
    def carried(self) -> dict[str, int]:
        """Bytes that came to the end of its link, in each direction."""
        return {"up": self.up.carried, "down": self.down.carried}

    def pipe(self, direction: str) -> Pipe:
        """Its link in one direction."""
        return {"up": self.up, "down": self.down}[direction]


class VirtualTeam(Engine[_Worker]):
    """A server and workers in virtual time.

    Args:
        layout: the model's rows.
        policy: policy text.
        workers: the workers that are there from the start; more can :meth:`start` later.
        seed: of everything that is random (nonces, reconnection jitter).
        server_settings, worker_settings, link_settings: see :mod:`rowcast.config`; ``expected_workers`` is set to
            the number of ``workers`` unless given.
        secret: the server's shared secret, or ``None``.

    Attributes:
        server: the server node; ``workers``: the newest life of each worker by name.
        journals: by node name, all lives of a worker in one.
        gaps, push_ages, pull_ages, outage_ages: at each moment at which a worker started to compute, see
            :class:`~rowcast.testing.books.Staleness`.
        computed: float64 [elements], the sum of weight * update of everything ever computed, by worker; where what is
            pending decays, less what was lost so.
        shelves: what was kept of a worker, by its name, where its script has pictures.
    """

    server: ServerNode

    def __init__(
        self,
        layout: Layout,
        policy: str,
        workers: list[ScriptedWorker],
        *,
        seed: int = 0,
        server_settings: ServerSettings | None = None,
        worker_settings: WorkerSettings | None = None,
        link_settings: LinkSettings | None = None,
        secret: bytes | None = None,
    ) -> None:
        self.layout = layout
        self.random = random.Random(seed)
        self.journals: dict[str, Journal] = {}
        self._staleness = Staleness(layout)
        self.gaps, self.push_ages = self._staleness.gaps, self._staleness.push_ages
        self.pull_ages, self.outage_ages = self._staleness.pull_ages, self._staleness.outage_ages
        self.computed: dict[str, npt.NDArray[np.float64]] = {}
        self.workers: dict[str, _Worker] = {}
        self.shelves: dict[str, Shelf] = {}
        self.failures: dict[str, RowcastError] = {}
        self._secret = secret
        self._worker_settings = worker_settings or WorkerSettings()
        self._link_settings = link_settings or LinkSettings()
        self._policy = policy
        self._server_settings = server_settings or ServerSettings(expected_workers=max(len(workers), 1))
        super().__init__(self._new_server(), clock=self._new_clock())
        self._began()
        for script in workers:
            self.start(script)

    def _new_clock(self) -> Clock:
        return Clock()

    def _began(self) -> None:
        """The server is there, and nothing has happened yet."""

    def _new_server(self) -> ServerNode:
        return ServerNode(
            parse_policy(self._policy),
            settings=self._server_settings,
            link_settings=self._link_settings,
            secret=self._secret,
            journal=self._journal("server"),
            entropy=self.random.randbytes,
        )

    # -- the script ------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """The time (s)."""
        return self.clock.now

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do ``action`` at ``time`` (s)."""
        self.clock.at(time, action)

    def restart(self, name: str) -> None:
        """A killed worker comes back, with what was kept of it if there is a picture."""
        replay = self.shelves[name].replay(self.layout)
        self.start(self.workers[name].script, replay)
        new = self.workers[name]
        if replay is not None:
            new.computed = replay.picture.progress.finished
            if new.node.contribution.outer is not None:
                new.velocity = new.node.contribution.outer.velocity.astype(np.float64)

    def start(self, script: ScriptedWorker, kept: Replay | None = None) -> None:
        """A worker comes, or a killed one comes back with an empty memory, or with what was kept of it."""
        initial = script.initial.copy() if script.initial is not None else self.layout.zeros()
        node = WorkerNode(
            script.name,
            self.layout,
            initial,
            settings=self._worker_settings,
            link_settings=self._link_settings,
            request=JoinRequest(script.secret),
            journal=self._journal(script.name),
            entropy=self.random.randbytes,
        )
        node.holding.home = script.home
        if script.pictures is not None:
            self.shelves.setdefault(script.name, Shelf(script.pictures))
            node.notebook = self.shelves[script.name]
        if kept is not None:
            node.restore(kept)
        worker = _Worker(script, node, self._pipe(script), self._pipe(script))
        self._carry(worker)
        self.workers[script.name] = worker
        self.computed.setdefault(script.name, np.zeros(self.layout.elements))
        self.connect(worker)

    def _carry(self, worker: _Worker) -> None:
        """The link of ``worker`` carries bytes from now on."""
        for pipe, deliver in ((worker.up, self._to_server), (worker.down, self._to_worker)):
            pipe.deliver, pipe.idle = partial(deliver, worker), partial(self._idle, worker)
            pipe.cut = partial(self.disconnect, worker, "cut")

    def _pipe(self, script: ScriptedWorker) -> Pipe:
        return Pipe(self.clock, script.delay_s, lambda: self.random.random() < script.duplicate)

    def cut(self, name: str, down_s: float) -> None:
        """Cut the link of a worker now; it is back after ``down_s`` seconds."""
        self.disconnect(self.workers[name], "cut", down_s)

    def cut_after(self, name: str, direction: str, byte: int, down_s: float) -> None:
        """Cut the link of a worker when so many bytes have arrived in one direction, counted from the start.

        Args:
            name: the worker.
            direction: ``"up"`` (to the server) or ``"down"``.
            byte: how many bytes still arrive, over all connections of this life of the worker.
            down_s: the link is back after so many seconds.
        """
        self.workers[name].pipe(direction).cuts.append((byte, down_s))

    def damage(self, name: str, direction: str, byte: int, mask: int) -> None:
        """One byte of what a worker's link carries in one direction is changed on the way.

        Args:
            name: the worker.
            direction: ``"up"`` (to the server) or ``"down"``.
            byte: which, counted from 0 over all connections of this life of the worker.
            mask: the bits that are flipped, 1 .. 255.
        """
        self.workers[name].pipe(direction).harm.append((byte, byte + 1, mask))

    def lose(self, name: str, direction: str, byte: int, count: int) -> None:
        """``count`` bytes from ``byte`` on get lost, and the connection stands; see :meth:`damage`."""
        self.workers[name].pipe(direction).harm.append((byte, byte + count, 0))

    def freeze(self, name: str) -> None:
        """From now on nothing arrives on the link of a worker, and nobody is told (a half-open connection)."""
        link = self.workers[name].link
        if link is not None:
            link.frozen = True

    def restart_server(self, policy: str | None = None) -> None:
        """The server process dies and a new one starts at once, with an empty memory.

        Args:
            policy: the new one's, if it is another.
        """
        self._policy = self._policy if policy is None else policy
        for worker in list(self._by_link.values()):
            self.disconnect(worker, "the server died")
        self.server = self._new_server()
        self.server.listen(self.now)
        self._server_wake = math.inf

    def kill(self, name: str) -> None:
        """The worker is gone at once, with everything it had in memory."""
        worker = self.workers[name]
        worker.killed = True
        self.disconnect(worker, "killed")

    def leave(self, name: str) -> None:
        """The worker says that it goes, and goes."""
        worker = self.workers[name]
        worker.node.leave(self.now, "asked to")
        self.attend(worker)

    def run(self, until: float = 1e4) -> None:
        """Let time pass until nothing is left to happen, every worker is done, or ``until`` (s)."""
        while self.clock.next < math.inf and not self.finished:
            if self.clock.next > until:
                self.clock.now = until
                return
            self.clock.step()

    @property
    def finished(self) -> bool:
        """Every worker that was not killed is done."""
        living = False
        for worker in self.workers.values():  # asked before every event
            if not worker.killed:
                if not worker.node.over and worker.node.failure is None:
                    return False
                living = True
        return living

    # -- the books -------------------------------------------------------------------------------------------

    def imbalance(self) -> float:
        """Largest difference, over workers and elements, between what was computed and where it is (invariant 5)."""
        living = (self.workers[name] for name in self.server.members if name in self.workers)
        return max((imbalance(self.server, one.node) for one in living if not one.killed), default=0.0)

    def undelivered(self, name: str) -> npt.NDArray[np.float64]:
        """What a worker computed and the server has not applied: pending and on its way, float64 [elements]."""
        return undelivered(self.server, self.workers[name].node)

    # -- links -----------------------------------------------------------------------------------------------

    def _journal(self, name: str) -> Journal:
        return self.journals.setdefault(name, Journal(name))

    def _opened(self, worker: _Worker) -> None:
        link = worker.link = Connection(worker.worker_link, worker.server_link)
        rate = worker.script.rate_bps
        trace = rate if isinstance(rate, Trace) else Trace.constant(rate)
        worker.up.open(link, link.worker_link, trace)
        worker.down.open(link, link.server_link, trace)

    def _closing(self, worker: _Worker, now: float) -> None:
        link = worker.link
        worker.up.break_off(now)
        worker.down.break_off(now)
        if link is not None and link is worker.link:
            link.alive = False
            worker.link = None

    def _idle(self, worker: _Worker) -> None:
        """The link of ``worker`` is free in one direction."""
        self.attend(worker)
        if worker.connected and worker.down.takes(self.now):
            self.send_down(worker)
        self.serve()  # what one worker was sent may have let another one go on

    def _to_server(self, worker: _Worker, data: bytes) -> None:
        link = worker.server_link
        link.decoder.buffer(len(data))[: len(data)] = data
        cause = self.host.arrived(self.now, link, len(data))
        if cause is not None:
            self.disconnect(worker, cause)
        self.serve()

    def _to_worker(self, worker: _Worker, data: bytes) -> None:
        node = worker.node
        node.heard(self.now)
        try:
            for message in worker.worker_link.decoder.feed(data):
                node.receive(self.now, message)
        except (RemoteProtocolError, LinkLost) as error:
            if isinstance(error, RemoteProtocolError):
                node.blame(self.now, error)
            self.disconnect(worker, str(error))
        self.attend(worker)

    # -- what workers do -------------------------------------------------------------------------------------

    def _changed(self, worker: _Worker) -> None:
        """Start the next computation when the node is ready for it."""
        node = worker.node
        if node.failure is not None:
            self.failures[node.name] = node.failure
        if node.state is not WorkerState.COMPUTING or worker.computing:
            return
        if worker.computed >= worker.script.iterations:
            if self.server.policy.feedback < 1:
                self.computed[node.name] += decay(0.0, self.layout, node.pending)
            node.finish(self.now)
            self.at(self.now, lambda: self.attend(worker))
            return
        worker.computing = True
        self._staleness.measure(self.server, node)
        self.at(self.now + worker.script.compute_s, lambda: self._propose(worker))

    def _propose(self, worker: _Worker) -> None:
        if worker.killed:
            return
        node = worker.node
        worker.computing = False
        if node.state is not WorkerState.COMPUTING:
            return
        node.hold()
        seen = node.replica
        if node.anticipated is not None:
            vector, times = node.anticipated
            seen = node.expected - np.repeat(times, self.layout.lengths) * vector[:]
        update = worker.script.gradient(worker.computed, seen).astype(np.float32)
        weight = worker.script.weight if worker.script.weight is not None else 1 / node.members
        lost = decay(self.server.policy.feedback, self.layout, node.pending)
        proposed = node.replica - update
        self.computed[node.name] += reweighed(self.server.policy, node, weight)
        node.accumulate([proposed[spec.start : spec.stop] for spec in self.layout.tensors], weight)
        share = (node.replica - proposed).astype(np.float64)
        share *= np.float32(weight)
        share[: self.layout.offsets[self.layout.parameter_rows]] *= node.contribution.share
        step, worker.velocity = outer_step(node.policy or self.server.policy, self.layout, share, worker.velocity)
        self.computed[node.name] += step
        self.computed[node.name] += lost
        node.release()
        worker.computed += 1
        node.exchange(self.now)
        self.attend(worker)
