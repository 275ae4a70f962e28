"""A log in NATS JetStream: replicated, so that a server whose machine is gone is taken over on another one.

The messages of the log lie in one stream: groups in parts, and who owns it (:mod:`~rowcast.drivers.state.ownership`).
Snapshots lie in another one, in parts; one counts once the log has a message that names it, which only the owner can
store. What they make superfluous is removed then.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from rowcast.drivers.state.address import JetStreamAddress
from rowcast.drivers.state.folder import read_snapshot
from rowcast.drivers.state.groups import pack_group
from rowcast.drivers.state.log import Found
from rowcast.drivers.state.nats_client import NatsThread
from rowcast.drivers.state.ownership import Ownership
from rowcast.drivers.state.stored import GroupPart, SnapshotRecord, groups_of
from rowcast.drivers.state.streams import REMEDY, Message, Streams
from rowcast.drivers.state.writer import GroupCommit
from rowcast.errors import ConfigError, RowcastError, StateDamaged

__all__ = ["JetStreamLog"]

_GROUP = "Rowcast-Group"


class JetStreamLog:
    """Reads and writes the log of one node in JetStream; a :class:`~rowcast.drivers.state.log.RowLog`.

    Args:
        address: where it is.
        lease_s: an owner that has said nothing for so long (s) may be dead, and another one may come.
        away_s: when nothing could be stored for so long (s), :attr:`lost` says so.

    Attributes:
        nats, streams, ownership: the connection, what is in JetStream, and that it is this process's.

    Raises:
        ConfigError: JetStream is not there, has no room for the replicas, or another process is the owner.
        StateDamaged: the stream is no log, or one of another layout.
    """

    remedy = REMEDY
    followable = False

    def __init__(self, address: JetStreamAddress, *, lease_s: float = 3.0, away_s: float = 300.0) -> None:
        self.address = address
        self._begins: dict[int, int] = {}  # of groups before which a snapshot may be taken: their sequences
        self.nats = NatsThread(address)
        self.streams = Streams(address, self.nats)
        self.ownership = Ownership(self.streams, lease_s=lease_s, away_s=away_s)
        try:
            self._identity = self.nats.call(self.streams.patiently(self.streams.open))
            self.nats.call(self.streams.patiently(self.ownership.claim))
            self.nats.call(self.ownership.begin())
        except OSError as error:
            self.nats.close()
            raise ConfigError(f"state {address}: {error}; {REMEDY}") from error
        except BaseException:
            self.nats.close()
            raise

    @property
    def trouble(self) -> str:
        """Why the log cannot be reached; empty: it can, as far as is known."""
        return self.ownership.trouble

    @property
    def lost(self) -> RowcastError | None:
        """Why this process must end; ``None``: it need not."""
        return self.ownership.lost

    def identity(self, source: Callable[[int], bytes]) -> bytes:
        """16 bytes that name this log; they were drawn when it was made."""
        return self._identity

    def promised(self) -> int:
        """No standby has promised anything here."""
        return 0

    # -- what is there ---------------------------------------------------------------------------------------------

    def find(self) -> Found | None:
        """The newest snapshot and the log behind it; see :class:`~rowcast.drivers.state.log.RowLog`."""
        where, streams, base = f"state {self.address}", self.streams, self.streams.base
        try:
            messages = self.nats.call(streams.patiently(partial(streams.read_log, self.ownership.last)))
            snapshots = [one.data for one in messages if one.subject == f"{base}.snapshot"]
            parts = [_part_of(one, where) for one in messages if one.subject == f"{base}.group"]
            if not snapshots:
                if parts:
                    raise StateDamaged(f"{where}: expected a snapshot before group {parts[0].number}, got none")
                return None
            record = msgspec.json.decode(snapshots[-1], type=SnapshotRecord)
            data = self.nats.call(streams.patiently(partial(streams.read_snapshot, record)))
        except OSError as error:
            raise StateDamaged(f"{where}: cannot be read: {error}; {REMEDY}") from error
        except msgspec.MsgspecError as error:
            raise StateDamaged(f"{where}: expected the record of a snapshot, got another one: {error}") from error
        state, about = read_snapshot(f"{self.address}, snapshot before group {record.first}", data)
        return Found(state, about, groups_of(parts, record.first, str(self.address)))

    # -- what is written -------------------------------------------------------------------------------------------

    def writer(self, first: int, *, commit_s: float, committed: Callable[[], None]) -> GroupCommit:
        """What appends to the log from group ``first`` on."""
        self.ownership.told = committed
        return GroupCommit(_Stored(self), first, commit_s=commit_s, committed=committed)

    def put(self, number: int, content: bytes, *, opens: bool) -> int:
        """See :class:`~rowcast.drivers.state.log.GroupStore`."""
        return self.nats.call(self._put(number, pack_group(number, content), opens))

    async def _put(self, number: int, data: bytes, opens: bool) -> int:
        size = self.streams.part_bytes
        parts = [data[begin : begin + size] for begin in range(0, len(data), size)]
        async with self.ownership.lock:
            for place, part in enumerate(parts):
                headers = {_GROUP: f"{number} {place} {len(parts)}"}
                sequence = await self.ownership.store("group", headers, part)
                if place == 0 and opens:
                    self._begins[number] = sequence
        return len(data)

    def write(self, first: int, data: bytes) -> None:
        """Store a snapshot, then remove what it makes superfluous; see :class:`~rowcast.drivers.state.log.RowLog`."""
        self.nats.call(self._write(first, data))

    async def _write(self, first: int, data: bytes) -> None:
        streams = self.streams
        self.ownership.check()
        record = await streams.put_snapshot(first, data)
        async with self.ownership.lock:
            stored_at = await self.ownership.store("snapshot", {}, msgspec.json.encode(record))
            keep = self._begins.get(first, stored_at)  # that group may not have come yet
            self._begins = {number: place for number, place in self._begins.items() if number > first}
        await streams.remove_before(streams.log, keep)
        await streams.remove_before(streams.shelf, record.begins)

    def close(self) -> None:
        """Let others have the log."""
        self.ownership.told = lambda: None
        self.nats.call(self.ownership.release())
        self.nats.close()


class _Stored:
    """Groups go into a log, which is not closed with the writer of groups."""

    def __init__(self, log: JetStreamLog) -> None:
        self._log = log

    def put(self, number: int, content: bytes, *, opens: bool) -> int:
        return self._log.put(number, content, opens=opens)

    def close(self) -> None:
        """The log goes on: a last snapshot comes."""


def _part_of(message: Message, where: str) -> GroupPart:
    try:
        number, part, parts = map(int, message.headers[_GROUP].split())
    except (LookupError, ValueError) as error:
        raise StateDamaged(f"{where}: expected a part of a group, got a message without its number") from error
    return GroupPart(number, part, parts, message.data)
