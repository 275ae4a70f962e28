"""Real nodes joined by scripted links, in virtual time.

Events happen in the order of (time, order of insertion). Links carry the very bytes of the wire format, at the
rate of a :class:`~rowcast.links.Trace`; a cut loses what had not arrived at that moment, in the middle of a frame
if need be.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.codecs import codec_by_id
from rowcast.config import LinkSettings, ServerSettings, WorkerSettings
from rowcast.delivery.outbox import Outbox
from rowcast.errors import LinkLost, RemoteProtocolError, RowcastError
from rowcast.journal import Journal
from rowcast.links import Trace
from rowcast.rows import Layout
from rowcast.session import Port
from rowcast.sync import parse_policy
from rowcast.training import Phase, ServerNode, WorkerNode
from rowcast.training.member import Stage
from rowcast.training.rules.outage import STREAMED
from rowcast.training.rules.streamed import StreamedRule
from rowcast.wire import Message, Rows

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
    """

    name: str
    gradient: Gradient
    iterations: int
    compute_s: float = 0.1
    rate_bps: float | Trace = 1e6
    delay_s: float = 0.0
    weight: float | None = None
    initial: Vector | None = None


class _Pipe:
    """One direction of a connection."""

    def __init__(self, direction: str, trace: Trace, delay_s: float) -> None:
        self.direction = direction
        self.trace = trace
        self.delay_s = delay_s
        self.free_at = 0.0
        self.on_air: list[tuple[float, float, bytes]] = []


class _Link:
    """A connection between a worker and the server: two pipes, two ports."""

    def __init__(self, worker: _Worker, trace: Trace, delay_s: float) -> None:
        self.worker = worker
        self.up, self.down = _Pipe("up", trace, delay_s), _Pipe("down", trace, delay_s)
        self.worker_port = Port("server")
        self.server_port = Port(worker.script.name)
        self.alive = True
        self.frozen = False


class _Worker:
    """One life of a scripted worker."""

    def __init__(self, script: ScriptedWorker, node: WorkerNode) -> None:
        self.script = script
        self.node = node
        self.link: _Link | None = None
        self.computing = False
        self.computed = 0
        self.velocity: npt.NDArray[np.float64] | None = None
        self.killed = False
        self.carried = {"up": 0, "down": 0}
        self.cuts: dict[str, list[tuple[int, float]]] = {"up": [], "down": []}
        self.harm: dict[str, list[tuple[int, int, int]]] = {"up": [], "down": []}

    def carry(self, direction: str, data: bytes) -> bytes:
        """Bytes have come to the end of the link: count them, and do to them what the script says."""
        before = self.carried[direction]
        self.carried[direction] += len(data)
        if not self.harm[direction]:
            return data
        rest = []
        for place, value in enumerate(data, before):
            masks = [mask for start, end, mask in self.harm[direction] if start <= place < end]
            if 0 not in masks:
                for mask in masks:
                    value ^= mask
                rest.append(value)
        return bytes(rest)


class VirtualTeam:
    """A server and workers in virtual time.

    Args:
        layout: the model's rows.
        policy: policy text.
        workers: the workers that are there from the start; more can :meth:`start` later.
        seed: of everything that is random (nonces, reconnection jitter).
        server_settings, worker_settings, link_settings: see :mod:`rowcast.config`; ``expected_workers`` is set to
            the number of ``workers`` unless given.
        secret, worker_secret: shared secret of the server, and of the workers when it is another one.
        duplicate: probability that a row frame arrives twice.

    Attributes:
        server: the server node; ``workers``: the newest life of each worker by name.
        journals: by node name, all lives of a worker in one.
        gaps: ``iteration - min(versions)`` at each moment at which a worker started to compute.
        push_ages, pull_ages: at the same moments, iterations since the oldest row of this worker was pushed, and
            since the oldest row that it is owed was pulled.
        outage_ages: where rows are streamed, the same as ``pull_ages`` for every start that is left out there: of a
            worker that computes on although the gate is shut, or that the gate does not count. Without an outage there
            is none; the bound is the slack and what the policy allows in an outage (``ahead``) on top.
        computed: float64 [elements], the sum of weight * update of everything ever computed, by worker.
    """

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
        worker_secret: bytes | None = None,
        duplicate: float = 0.0,
    ) -> None:
        self.layout = layout
        self.now = 0.0
        self.random = random.Random(seed)
        self.journals: dict[str, Journal] = {}
        self.gaps: list[int] = []
        self.push_ages: list[int] = []
        self.pull_ages: list[int] = []
        self.outage_ages: list[int] = []
        self.computed: dict[str, npt.NDArray[np.float64]] = {}
        self.workers: dict[str, _Worker] = {}
        self.failures: dict[str, RowcastError] = {}
        self._secret = secret
        self._worker_secret = worker_secret if worker_secret is not None else secret
        self._worker_settings = worker_settings or WorkerSettings()
        self._link_settings = link_settings or LinkSettings()
        self._duplicate = duplicate
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._links: dict[Port, _Link] = {}
        self._server_wake = -1.0
        self._policy = policy
        self._server_settings = server_settings or ServerSettings(expected_workers=max(len(workers), 1))
        self.server = self._new_server()
        for script in workers:
            self.start(script)

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

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do ``action`` at ``time`` (s)."""
        heapq.heappush(self._events, (max(time, self.now), next(self._order), action))

    def start(self, script: ScriptedWorker) -> None:
        """A worker comes, or a killed one comes back with an empty memory."""
        initial = script.initial.copy() if script.initial is not None else self.layout.zeros()
        node = WorkerNode(
            script.name,
            self.layout,
            initial,
            settings=self._worker_settings,
            link_settings=self._link_settings,
            secret=self._worker_secret,
            journal=self._journal(script.name),
            entropy=self.random.randbytes,
        )
        worker = _Worker(script, node)
        self.workers[script.name] = worker
        self.computed.setdefault(script.name, np.zeros(self.layout.elements))
        self._connect(worker)

    def cut(self, name: str, down_s: float) -> None:
        """Cut the link of a worker now; it is back after ``down_s`` seconds."""
        worker = self.workers[name]
        if worker.link is not None:
            self._close(worker.link, "cut", reconnect_s=down_s)

    def cut_after(self, name: str, direction: str, byte: int, down_s: float) -> None:
        """Cut the link of a worker when so many bytes have arrived in one direction, counted from the start.

        Args:
            name: the worker.
            direction: ``"up"`` (to the server) or ``"down"``.
            byte: how many bytes still arrive, over all connections of this life of the worker.
            down_s: the link is back after so many seconds.
        """
        self.workers[name].cuts[direction].append((byte, down_s))

    def damage(self, name: str, direction: str, byte: int, mask: int) -> None:
        """One byte of what a worker's link carries in one direction is changed on the way.

        Args:
            name: the worker.
            direction: ``"up"`` (to the server) or ``"down"``.
            byte: which, counted from 0 over all connections of this life of the worker.
            mask: the bits that are flipped, 1 .. 255.
        """
        self.workers[name].harm[direction].append((byte, byte + 1, mask))

    def lose(self, name: str, direction: str, byte: int, count: int) -> None:
        """``count`` bytes from ``byte`` on get lost, and the connection stands; see :meth:`damage`."""
        self.workers[name].harm[direction].append((byte, byte + count, 0))

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
        for link in list(self._links.values()):
            self._close(link, "the server died", reconnect_s=0.5)
        self.server = self._new_server()
        self.server.listen(self.now)
        self._server_wake = -1.0

    def kill(self, name: str) -> None:
        """The worker is gone at once, with everything it had in memory."""
        worker = self.workers[name]
        worker.killed = True
        if worker.link is not None:
            self._close(worker.link, "killed", reconnect_s=None)

    def leave(self, name: str) -> None:
        """The worker says that it goes, and goes."""
        worker = self.workers[name]
        worker.node.leave(self.now, "asked to")
        self._pump_worker(worker)

    def run(self, until: float = 1e4) -> None:
        """Let time pass until nothing is left to happen, every worker is done, or ``until`` (s)."""
        while self._events and not self.finished:
            time, _, action = heapq.heappop(self._events)
            if time > until:
                heapq.heappush(self._events, (time, next(self._order), action))
                self.now = until
                return
            self.now = time
            action()

    @property
    def finished(self) -> bool:
        """Every worker that was not killed is done."""
        living = [worker for worker in self.workers.values() if not worker.killed]
        return bool(living) and all(
            worker.node.phase is Phase.DONE or worker.node.failure is not None for worker in living
        )

    # -- the books -------------------------------------------------------------------------------------------

    def imbalance(self) -> float:
        """Largest difference, over workers and elements, between what was computed and where it is (invariant 5).

        For each living worker: its replica is what it started from minus what reached it; what it still misses is
        owed; and the server's parameters are the start minus everything delivered.
        """
        worst = 0.0
        assert self.server.ledger is not None
        parameters = self.server.ledger.parameters
        for name, member in self.server.members.items():
            worker = self.workers[name]
            if worker.killed or not worker.node.joined or member.owed.state_due.any():
                continue
            if member.life != worker.node.server_life:
                continue  # it was forgotten, and has not heard yet that it joins anew
            if member.stage is Stage.DRAINING and not member.finish_wait:
                continue  # it is not owed what comes after its end
            missing = member.owed.total() + _in_flight(member.owed, self.layout, worker.node.inbox.received)
            missing += self.server.ledger.kept_back(member)
            worst = max(worst, float(np.abs(worker.node.replica - missing - parameters).max()))
        return worst

    def undelivered(self, name: str) -> npt.NDArray[np.float64]:
        """What a worker computed and the server has not applied: pending and on its way, float64 [elements]."""
        worker = self.workers[name]
        received = self.server.received_from(name, worker.node.server_life)
        received = worker.node.outbox.sent_frames if received is None else received
        on_its_way = _in_flight(worker.node.outbox, self.layout, received)
        return worker.node.pending.astype(np.float64) + on_its_way

    # -- links -----------------------------------------------------------------------------------------------

    def _journal(self, name: str) -> Journal:
        return self.journals.setdefault(name, Journal(name))

    def _connect(self, worker: _Worker) -> None:
        if worker.killed or worker.node.phase is Phase.DONE or worker.node.failure is not None:
            return
        rate = worker.script.rate_bps
        trace = rate if isinstance(rate, Trace) else Trace.constant(rate)
        link = _Link(worker, trace, worker.script.delay_s)
        worker.link = link
        self._links[link.server_port] = link
        worker.node.link_up(self.now, link.worker_port)
        self.server.link_up(self.now, link.server_port)
        self._pump_all()
        self._pump_worker(worker)

    def _close(self, link: _Link, cause: str, reconnect_s: float | None) -> None:
        if not link.alive:
            return
        # What was on the air arrives as far as it got, in the middle of a frame if need be.
        for pipe, deliver in ((link.up, self._to_server), (link.down, self._to_worker)):
            on_air, pipe.on_air = pipe.on_air, []
            for begun, done, data in on_air if not link.frozen else ():
                part = 1.0 if done <= begun else (self.now - begun) / (done - begun)
                if part > 0:
                    arrived = data[: int(min(part, 1.0) * len(data))]
                    deliver(link, link.worker.carry(pipe.direction, arrived))
        if self._links.get(link.server_port) is not link:
            return
        link.alive = False
        worker = link.worker
        worker.link = None
        del self._links[link.server_port]
        self.server.link_down(self.now, link.server_port, cause)
        if not worker.killed:
            worker.node.link_down(self.now, cause)
            if reconnect_s is not None and worker.node.phase is not Phase.DONE:
                self.at(self.now + reconnect_s, lambda: self._connect(worker))
        self._pump_all()

    def _send(self, link: _Link, pipe: _Pipe, message: Message, deliver: Callable[[_Link, bytes], None]) -> None:
        encoder = (link.worker_port if pipe is link.up else link.server_port).encoder
        data = encoder.encode(message)
        if isinstance(message, Rows) and self.random.random() < self._duplicate:
            data += encoder.encode(message)
        begun = max(self.now, pipe.free_at)
        done = pipe.trace.finish(begun, 8 * len(data))
        pipe.free_at = done
        entry = (begun + pipe.delay_s, done + pipe.delay_s, data)
        pipe.on_air.append(entry)

        def arrive() -> None:
            if link.alive and not link.frozen:
                pipe.on_air.remove(entry)
                self._arrive(link, pipe, data, deliver)

        self.at(done + pipe.delay_s, arrive)
        self.at(done, lambda: self._pump_link(link))

    def _arrive(self, link: _Link, pipe: _Pipe, data: bytes, deliver: Callable[[_Link, bytes], None]) -> None:
        """Bytes come out of a pipe: all of them, or as many as a scripted cut leaves."""
        worker, direction = link.worker, pipe.direction
        before = worker.carried[direction]
        due = min((cut for cut in worker.cuts[direction] if cut[0] <= before + len(data)), default=None)
        if due is None:
            deliver(link, worker.carry(direction, data))
            return
        worker.cuts[direction].remove(due)
        part = data[: max(due[0] - before, 0)]
        if part:
            deliver(link, worker.carry(direction, part))
        self._close(link, "cut", reconnect_s=due[1])

    def _to_server(self, link: _Link, data: bytes) -> None:
        port = link.server_port
        self.server.heard(self.now, port)
        try:
            for message in port.decoder.feed(data):
                self.server.receive(self.now, port, message)
        except RemoteProtocolError as error:
            self.server.blame(self.now, port, error)
        except LinkLost as error:
            self._close(link, str(error), reconnect_s=None)
        self._pump_all()

    def _to_worker(self, link: _Link, data: bytes) -> None:
        node = link.worker.node
        node.heard(self.now)
        try:
            for message in link.worker_port.decoder.feed(data):
                node.receive(self.now, message)
        except RemoteProtocolError as error:
            node.blame(self.now, error)
            self._close(link, str(error), reconnect_s=0.5)
        except LinkLost as error:
            self._close(link, str(error), reconnect_s=0.5)
        self._pump_worker(link.worker)

    # -- nodes -----------------------------------------------------------------------------------------------

    def _pump_link(self, link: _Link) -> None:
        if link.alive:
            self._pump_worker(link.worker)
            self._pump_port(link.server_port)
            self._pump_all()  # what one worker was sent may have let another one go on

    def _pump_all(self) -> None:
        while ready := self.server.take_ready():
            for port in ready:
                self._pump_port(port)
        timer = self.server.next_timer()
        if timer is not None and timer != self._server_wake:
            self._server_wake = timer
            self.at(timer, lambda: self._server_timer(timer))

    def _server_timer(self, timer: float) -> None:
        if timer != self._server_wake:
            return
        self._server_wake = -1.0
        for port, cause in self.server.on_timer(self.now):
            if port in self._links:  # what arrives while one is closed may have closed another
                self._close(self._links[port], cause, reconnect_s=0.5)
        self._pump_all()

    def _pump_port(self, port: Port) -> None:
        link = self._links.get(port)
        while link is not None and link.alive and link.down.free_at <= self.now:
            message = self.server.poll(self.now, port)
            if message is None:
                if port.closing:
                    self.at(self.now + link.down.delay_s, lambda: self._close(link, "closed by the server", 0.5))
                break
            self._send(link, link.down, message, self._to_worker)

    def _pump_worker(self, worker: _Worker) -> None:
        node, link = worker.node, worker.link
        if node.failure is not None:
            self.failures[node.name] = node.failure
        if worker.killed:
            return
        self._train(worker)
        while link is not None and link.alive and link.up.free_at <= self.now:
            message = node.poll(self.now)
            if message is None:
                if link.worker_port.closing or node.phase is Phase.DONE:
                    self.at(self.now + link.up.delay_s, lambda: self._close(link, "closed by the worker", None))
                break
            self._send(link, link.up, message, self._to_server)
            self._train(worker)
        timer = node.next_timer()
        if timer is not None and link is not None:
            self.at(timer, lambda: self._worker_timer(worker, timer))

    def _worker_timer(self, worker: _Worker, timer: float) -> None:
        link = worker.link
        if worker.killed or link is None or worker.node.next_timer() != timer:
            return
        try:
            worker.node.on_timer(self.now)
        except LinkLost as error:
            self._close(link, str(error), reconnect_s=0.5)
        self._pump_worker(worker)

    def _train(self, worker: _Worker) -> None:
        """Start the next computation when the node is ready for it."""
        node = worker.node
        if node.phase is not Phase.COMPUTING or worker.computing:
            return
        if worker.computed >= worker.script.iterations:
            node.finish(self.now)
            return
        worker.computing = True
        if node.name in self.server.versions and not node.beyond:
            self._measure_staleness(node)
        else:
            self._measure_outage(node)
        self.at(self.now + worker.script.compute_s, lambda: self._propose(worker))

    def _measure_staleness(self, node: WorkerNode) -> None:
        """A worker that the gate counts starts to compute: how old is what it holds, and what it delivered?"""
        oldest = self.server.versions.oldest()
        member = self.server.members[node.name]
        owed = member.owed
        streaming = self.server.rule if isinstance(self.server.rule, StreamedRule) else None
        assert oldest is not None
        iteration = node.iteration if streaming is None else node.iteration + streaming.seat(member).shift
        self.gaps.append(iteration - oldest)
        self.push_ages.append(iteration - self.server.versions.oldest_of(node.name))
        if streaming is None:
            stamps = owed.stamps[np.logical_or.reduceat(owed.vector != 0, self.layout.offsets[:-1])]
            held = int(stamps.min(initial=node.iteration))
        else:
            held = min(streaming.horizon_of(member), owed.horizon_in_flight(node.inbox.received))
        self.pull_ages.append(iteration - held)

    def _measure_outage(self, node: WorkerNode) -> None:
        """A worker in an outage starts to compute: how old is what it holds, in its own count?"""
        streaming, member = self.server.rule, self.server.members.get(node.name)
        if not isinstance(streaming, StreamedRule) or member is None:
            return
        if member.life != node.server_life or member.stage not in STREAMED:
            return  # this server does not know it, or not as one that computes
        held = min(streaming.horizon_of(member), member.owed.horizon_in_flight(node.inbox.received))
        self.outage_ages.append(node.iteration + streaming.seat(member).shift - held)

    def _propose(self, worker: _Worker) -> None:
        if worker.killed:
            return
        node = worker.node
        worker.computing = False
        if node.phase is not Phase.COMPUTING:
            return
        node.hold()
        seen = node.replica
        if node.anticipated is not None:
            vector, times = node.anticipated
            seen = seen - np.float32(times) * vector
        update = worker.script.gradient(worker.computed, seen).astype(np.float32)
        weight = worker.script.weight if worker.script.weight is not None else 1 / node.members
        proposed = node.replica - update
        weights = node.accumulate([proposed[spec.start : spec.stop] for spec in self.layout.tensors], weight)
        share = (node.replica - proposed).astype(np.float64)
        share *= np.repeat(weights, self.layout.lengths)
        self.computed[node.name] += self._outer_step(worker, share)
        node.release()
        worker.computed += 1
        node.exchange(self.now)
        self._pump_worker(worker)

    def _outer_step(self, worker: _Worker, share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """What a contribution must come to (DiLoCo: Douillard et al., arXiv 2311.08105, Alg. 1), for the books."""
        lr, momentum = self.server.policy.outer_lr, self.server.policy.outer_momentum
        buffers = share[self.layout.offsets[self.layout.parameter_rows] :].copy()
        if not momentum:
            step = share * lr if lr != 1 else share
            step[len(step) - len(buffers) :] = buffers
            return step
        worker.velocity = share if worker.velocity is None else momentum * worker.velocity + share
        step = lr * (share + momentum * worker.velocity)
        step[len(step) - len(buffers) :] = buffers
        return step


def _in_flight(outbox: Outbox, layout: Layout, received: int) -> npt.NDArray[np.float32]:
    """The sum of the frames of an outbox that the peer has not applied."""
    total = layout.zeros()
    for message in outbox.unacknowledged():
        if message.number > received and not message.absolute:
            codec_by_id(message.codec).add(layout, message.payload, message.rows, total, 1.0)
    return total
