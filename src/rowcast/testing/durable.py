"""A team in virtual time whose server dies and comes back with what its log had."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from rowcast.drivers.state.spec import TeamSpec
from rowcast.drivers.virtual.clock import Clock
from rowcast.durability.recorded import Drawn, RecordedServer
from rowcast.durability.records import decode
from rowcast.durability.recovery import Recovery, recover
from rowcast.durability.state import State
from rowcast.session import Link
from rowcast.testing.virtual import VirtualTeam, _Worker
from rowcast.training import ServerNode
from rowcast.wire import Message

__all__ = ["DurableTeam", "MemoryLog"]

#: So many messages to a worker wait for a commit at most.
MOST_HELD = 16


class MemoryLog:
    """A log in memory whose commits take virtual time.

    Args:
        clock: the time.
        commit_s: from the first record of a group to its commit (s).

    Attributes:
        records: all of them; ``committed_to``: so many are committed.
    """

    def __init__(self, clock: Clock, commit_s: float) -> None:
        self.records: list[bytes] = []
        self.committed_to = 0
        self._clock = clock
        self._commit_s = commit_s
        self._due = False

    def append(self, record: bytes, *, waits: bool = False) -> int:
        self.records.append(record)
        if not waits and not self._due:
            self._due = True
            self._clock.at(self._clock.now + self._commit_s, self.commit)
        return len(self.records)

    def commit(self) -> None:
        """Everything is committed now."""
        self._due = False
        self.committed_to = len(self.records)


class DurableTeam(VirtualTeam):
    """A :class:`~rowcast.testing.VirtualTeam` with a log of what its server hears.

    What the server says leaves when the log is committed up to there. :meth:`crash_server` is a loss of power: what was
    not committed is gone, and so are all connections; the server is built again from its last snapshot and the log.

    Args:
        commit_s: how long a commit takes (s).
        more: see :class:`~rowcast.testing.VirtualTeam`.

    Attributes:
        log: of the server that there is.
        recovery: how it was built again the last time.
        crashes: so often it was.
        kept_back: messages that were worked out and had not left when the server died.
    """

    def __init__(self, *args: Any, commit_s: float = 0.02, **more: Any) -> None:
        self._commit_s = commit_s
        self._held: dict[Link, deque[tuple[int, Message, bytes]]] = {}
        self._dead = False
        self.recovery: Recovery | None = None
        self.crashes = self.kept_back = 0
        super().__init__(*args, **more)

    def _new_server(self) -> ServerNode:
        self._drawn = Drawn(self.random.randbytes)
        self._node = self._spec.node(self._journal("server"), self._drawn)
        return self._node

    @property
    def _spec(self) -> TeamSpec:
        """What its server is made of."""
        return TeamSpec(self._policy, self._server_settings, self._link_settings, self._secret)

    def _began(self) -> None:
        self.log = MemoryLog(self.clock, self._commit_s)
        self._host = RecordedServer(self._node, self.log, self._drawn)
        self.noted = self._host
        self._saved: tuple[State, int] = (self._host.capture(self.now), 0)
        self.log.commit = self._on_commit  # type: ignore[method-assign]

    def snapshot(self) -> None:
        """Take a snapshot: what is behind it is all that is taken from the log later."""
        self._saved = self._host.capture(self.now), len(self.log.records)
        self.log.commit()

    def crash_server(self, *, written: bool = False) -> None:
        """The server dies, and is there again at once.

        Args:
            written: what was being committed is on the disk all the same, and was just not reported yet; otherwise it
                is gone.
        """
        if written:
            self.log.committed_to = len(self.log.records)
        self._dead = True
        for worker in list(self._by_link.values()):
            self._cut_off(worker)
        self._dead = False
        saved, start = self._saved
        state = State(saved.table, {name: array.copy() for name, array in saved.arrays.items()})
        self.kept_back += sum(map(len, self._held.values()))
        self._held.clear()
        kept = self.log.records[start : self.log.committed_to]
        recovery = recover(
            state,
            decode([b"".join(kept)]),
            journal=self._journal("server"),
            secret=self._secret,
            settings=self._server_settings,
            links=self._link_settings,
            source=self.random.randbytes,
        )
        self.recovery = recovery
        self.crashes += 1
        del self.log.records[self.log.committed_to :]
        self._node, self._drawn = recovery.node, recovery.drawn
        self._host = recovery.resume(self.log, self.now)
        self.server, self.noted = recovery.node, self._host
        self._server_wake = math.inf
        self.host.listen(self.now)
        self.serve()

    def _cut_off(self, worker: _Worker) -> None:
        """The other end of a connection is gone, and cannot be told so."""
        self._closing(worker, self.now)
        worker.connected = False
        worker.worker_wake = math.inf
        self._by_link.pop(worker.server_link, None)
        if not worker.killed:
            worker.node.link_down(self.now, "closed by the other end")
        self.attend(worker)

    def _to_server(self, worker: _Worker, data: bytes) -> None:
        if not self._dead:
            super()._to_server(worker, data)

    def disconnect(self, peer: _Worker, cause: str, back_s: float | None = None) -> None:
        """See :class:`~rowcast.drivers.virtual.engine.Engine`."""
        if peer.connected:
            self._held.pop(peer.server_link, None)
        super().disconnect(peer, cause, back_s)

    def _on_commit(self) -> None:
        MemoryLog.commit(self.log)
        for link in list(self._held):
            worker = self._by_link.get(link)
            if worker is not None and worker.down.takes(self.now):
                self.send_down(worker)
        self.serve()

    def send_down(self, peer: _Worker) -> bool:
        """Hand the server's next message to the link of ``peer``, if it may leave; whether there was one."""
        link = peer.server_link
        held = self._held.setdefault(link, deque())
        while len(held) < MOST_HELD and (not held or held[0][0] > self.log.committed_to):
            message = self.host.poll(self.now, link)
            if message is None:
                break
            held.append((self._host.position, message, link.encoder.encode(message)))
        if held and held[0][0] <= self.log.committed_to:
            peer.down.carry(self.now, *held.popleft()[1:])
            return True
        if not held and link.closing:
            self.clock.at(self.now + peer.delay_s, self._hang_up, peer, link, "closed by the server")
        return False
