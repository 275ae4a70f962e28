"""A tree of relays in virtual time, each of which dies and comes back with what its log had."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from rowcast.drivers.state.spec import RelaySpec, TeamSpec
from rowcast.drivers.virtual.clock import Clock
from rowcast.drivers.virtual.uplink import Uplink
from rowcast.durability.recorded import RecordedServer
from rowcast.testing.books import imbalance, in_flight
from rowcast.testing.durable import MOST_HELD, DurableTeam
from rowcast.testing.virtual import ScriptedWorker, _Worker
from rowcast.training.relay import RelayNode
from rowcast.wire import Message

__all__ = ["Branch", "VirtualTree"]


class Branch(DurableTeam):
    """A server of a tree and those that connect to it: workers, and other branches.

    Args:
        tree: to which it belongs.
        name: of its relay; empty: it is the root.
        above: the branch that it is below of; ``None``: it is the root.
        more: see :class:`~rowcast.testing.durable.DurableTeam`.

    Attributes:
        branches: the relays that connect to it, by name.
        dead: its server is being killed, and hears nothing.
    """

    def __init__(self, tree: VirtualTree, name: str, above: Branch | None, *args: Any, **more: Any) -> None:
        self.tree = tree
        self.name = name
        self.above = above
        self.branches: dict[str, Branch] = {}
        self._peer: _Worker | None = None
        self._attending = False
        self._held_up: deque[tuple[int, Message, bytes]] = deque()
        super().__init__(*args, **more)
        if above is not None:
            self._peer = above.graft(self)

    # -- how it is made ----------------------------------------------------------------------------------------

    def _new_clock(self) -> Clock:
        return self.tree.clock

    @property
    def _spec(self) -> TeamSpec:
        relay = RelaySpec(self.name, self._worker_settings) if self.name else None
        return dataclasses.replace(super()._spec, relay=relay)

    @property
    def relay(self) -> RelayNode:
        """The node, where it is that of a relay."""
        assert isinstance(self._node, RelayNode)
        return self._node

    @property
    def relay_host(self) -> RecordedServer:
        """What notes the inputs of the node."""
        return self._host

    @property
    def dead(self) -> bool:
        """The relay is being killed, and hears nothing."""
        return self._dead

    def graft(self, branch: Branch) -> _Worker:
        """``branch`` connects to this server from now on."""
        script = ScriptedWorker(branch.name, lambda count, seen: seen, 0, rate_bps=self.tree.rate_of(branch.name))
        peer = _Worker(script, Uplink(branch), self._pipe(script), self._pipe(script))  # type: ignore[arg-type]
        self.branches[branch.name] = branch
        self._carry(peer)
        return peer

    # -- the way up --------------------------------------------------------------------------------------------

    def serve(self) -> None:
        super().serve()
        if self.above is not None and self._peer is not None and not self._attending and not self._dead:
            self._attending = True
            self.above.attend(self._peer)
            self._attending = False

    def _changed(self, worker: _Worker) -> None:
        branch = self.branches.get(worker.node.name)
        if branch is None:
            super()._changed(worker)
        elif not branch._attending and not branch._dead:
            branch._attending = True
            branch.serve()
            branch._attending = False

    def send_up(self, peer: _Worker) -> bool:
        branch = self.branches.get(peer.node.name)
        return super().send_up(peer) if branch is None else branch.send_above(peer)

    def send_above(self, peer: _Worker) -> bool:
        """Hand the relay's next message to its link, if it may leave; whether there was one."""
        link, held = peer.worker_link, self._held_up
        while len(held) < MOST_HELD and (not held or held[0][0] > self.log.committed_to):
            message = self.host.poll(self.now, link)
            if message is None:
                break
            held.append((self._host.position, message, link.encoder.encode(message)))
        if held and held[0][0] <= self.log.committed_to:
            peer.up.carry(self.now, *held.popleft()[1:])
            return True
        if not held and link.closing and self.above is not None:
            self.clock.at(self.now + peer.delay_s, self.above._hang_up, peer, peer.server_link, "closed by the relay")
        return False

    def _on_commit(self) -> None:
        super()._on_commit()
        if self.above is not None and self._peer is not None:
            self.above.attend(self._peer)

    def _to_worker(self, worker: _Worker, data: bytes) -> None:
        branch = self.branches.get(worker.node.name)
        if branch is None:
            super()._to_worker(worker, data)
        elif not branch._dead:
            link = worker.worker_link
            link.decoder.buffer(len(data))[: len(data)] = data
            cause = branch.host.arrived(self.now, link, len(data))
            if cause is not None:
                self.disconnect(worker, cause)
            branch.serve()
            self.attend(worker)

    def disconnect(self, peer: _Worker, cause: str, back_s: float | None = None) -> None:
        branch = self.branches.get(peer.node.name)
        if branch is not None:
            branch._held_up.clear()
        super().disconnect(peer, cause, back_s)

    def _cut_off(self, worker: _Worker) -> None:
        branch = self.branches.get(worker.node.name)
        if branch is not None:
            branch._held_up.clear()
        super()._cut_off(worker)

    def crash_server(self, *, written: bool = False) -> None:
        if self.above is not None and self._peer is not None:
            self._dead = True
            self._held_up.clear()
            self.above.disconnect(self._peer, "the relay is gone")
            self._peer.worker_wake = math.inf
        super().crash_server(written=written)

    # -- the books -----------------------------------------------------------------------------------------------

    def leaves(self) -> Iterator[_Worker]:
        """The workers below, through other relays as well."""
        yield from self.workers.values()
        for branch in self.branches.values():
            yield from branch.leaves()

    def imbalance(self) -> float:
        """See :class:`~rowcast.testing.VirtualTeam`; relays are members like others."""
        worst = super().imbalance()
        for name, branch in self.branches.items():
            if name in self.server.members and branch.relay.upper is not None:
                worst = max(worst, imbalance(self.server, branch.relay.upper))
        return worst

    def on_the_way(self) -> npt.NDArray[np.float64]:
        """What this relay has taken in and the server above has not: pending, or in frames on their way."""
        upper = self.relay.upper
        if upper is None or self.above is None:
            return np.zeros(self.layout.elements)
        received = self.above.server.received_from(self.name, upper.server_life)
        received = upper.outbox.sent_frames if received is None else received
        return upper.pending.astype(np.float64) + in_flight(upper.outbox, self.layout, received)


class VirtualTree:
    """A root, relays and workers in virtual time, each server with a log.

    Args:
        layout: the model's rows.
        policy: policy text.
        shape: how many branches each server of a level has, and workers at the last one, as ``(2, 4)``.
        make: makes the script of a worker, by its number.
        seed: of everything that is random.
        rate_bps: of the links between relays and what is above them (bit/s); or says it of each, by its name.
        more: see :class:`~rowcast.testing.durable.DurableTeam`; settings of all servers alike.

    Attributes:
        clock: the time.
        root: the server.
        branches: all relays, by name, the upper ones first.
    """

    def __init__(
        self,
        layout: Any,
        policy: str,
        shape: tuple[int, ...],
        make: Any,
        *,
        seed: int = 0,
        rate_bps: float | Callable[[str], float] = 4e6,
        **more: Any,
    ) -> None:
        self.clock = Clock()
        self._rate_bps = rate_bps
        self.branches: dict[str, Branch] = {}
        self._made = 0
        self._make = make
        self._more = more
        self._seed = seed
        self.root = self._grow("", None, layout, policy, shape)

    def _grow(self, name: str, above: Branch | None, layout: Any, policy: str, shape: tuple[int, ...]) -> Branch:
        from rowcast.config import ServerSettings

        wide, *deeper = shape
        self._seed += 1
        settings = ServerSettings(expected_workers=wide, gather_s=0.0)
        branch = Branch(self, name, above, layout, policy, [], seed=self._seed, server_settings=settings, **self._more)
        branch.host.listen(self.clock.now)
        if name:
            self.branches[name] = branch
        for number in range(wide):
            if deeper:
                self._grow(f"{name or 'relay'}-{number}", branch, layout, policy, tuple(deeper))
            else:
                branch.start(self._make(self._made))
                self._made += 1
        return branch

    def rate_of(self, name: str) -> float:
        """Of the link between this relay and what is above it (bit/s)."""
        return self._rate_bps(name) if callable(self._rate_bps) else self._rate_bps

    @property
    def now(self) -> float:
        """The time (s)."""
        return self.clock.now

    @property
    def servers(self) -> list[Branch]:
        """The root, and all relays."""
        return [self.root, *self.branches.values()]

    @property
    def leaves(self) -> list[_Worker]:
        """All workers."""
        return list(self.root.leaves())

    @property
    def finished(self) -> bool:
        """Every worker that was not killed is done."""
        return all(one.killed or one.node.over or one.node.failure is not None for one in self.leaves)

    def run(self, until: float = 1e4) -> None:
        """Let time pass until every worker is done, nothing is left to happen, or ``until`` (s)."""
        while self.clock.next < math.inf and not self.finished:
            if self.clock.next > until:
                self.clock.now = until
                return
            self.clock.step()
