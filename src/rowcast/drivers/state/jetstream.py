"""A log in NATS JetStream: replicated, so that a server whose machine is gone is taken over on another one.

Two streams hold it. In the first one each message is stored behind a known one only (``Nats-Expected-Last-Sequence``),
so who has stored the newest message knows that nobody else has stored any: that is the owner. A new owner stores a
message that says so, and from then on nothing of the one before is taken: it finds the other's message, and ends. It
does that only once the log has been silent for a lease, in which an owner that lives says so several times; whatever
the clocks do, there are never two that commit. Snapshots lie in the second stream, in parts; one counts once the first
stream has a message that names it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from rowcast.drivers.state.address import JetStreamAddress
from rowcast.drivers.state.folder import read_snapshot
from rowcast.drivers.state.groups import pack_group
from rowcast.drivers.state.log import Found
from rowcast.drivers.state.nats_client import ANSWER_S, NatsThread, as_oserror
from rowcast.drivers.state.stored import GroupPart, SnapshotRecord, description, groups_of, identity_of
from rowcast.drivers.state.writer import GroupCommit
from rowcast.errors import ConfigError, LinkLost, RowcastError, StateDamaged, SteppedDown, visible

__all__ = ["JetStreamLog"]

#: Largest part of a group or of a snapshot (bytes), and what of a message headers may take.
PART_BYTES, HEADER_BYTES = 512 << 10, 4 << 10
#: So many parts of a snapshot are on their way at once.
WINDOW = 8
#: A reader that is gone is forgotten so much later (s).
READER_S = 30.0
#: In a lease an owner says so often that it lives; so many of these messages are kept at most.
BEATS, MOST_BEATS = 4, 64
#: An owner that comes looks so often whether the one before lives (s).
LOOK_S = 0.1
#: What the server answers to a message that was to stand behind another one.
_WRONG_LAST, _NAME_IN_USE = 10071, 10058
_EXPECTED = "Nats-Expected-Last-Sequence"
_OWNER, _GROUP, _PART, _KEPT = "Rowcast-Owner", "Rowcast-Group", "Rowcast-Part", "Rowcast-Kept"


class JetStreamLog:
    """Reads and writes the log of one node in JetStream; a :class:`~rowcast.drivers.state.log.RowLog`.

    Args:
        address: where it is.
        lease_s: an owner that has said nothing for so long (s) may be dead, and another one may come.
        away_s: when nothing could be stored for so long (s), :attr:`lost` says so.

    Raises:
        ConfigError: JetStream is not there, has no room for the replicas, or another process is the owner.
        StateDamaged: the stream is no log, or one of another layout.
    """

    remedy = "see the log of nats-server"
    followable = False

    def __init__(self, address: JetStreamAddress, *, lease_s: float = 3.0, away_s: float = 300.0) -> None:
        self.address = address
        self._lease_s, self._away_s = lease_s, away_s
        self._stream, self._shelf = f"rowcast-{address.name}", f"rowcast-{address.name}-snapshots"
        self._base, self._parts = f"rowcast.log.{address.name}", f"rowcast.snapshots.{address.name}"
        self._owner = os.urandom(8).hex()
        self._last = 0  # sequence of the newest message
        self._begins: dict[int, int] = {}  # of groups before which a snapshot may be taken: their sequences
        self._trouble = ""
        self._failing_at: float | None = None
        self._stored_at = 0.0
        self._fenced: SteppedDown | None = None
        self._told: Callable[[], None] = lambda: None
        self._beating: asyncio.Task[None] | None = None
        self._nats = NatsThread(address)
        try:
            self._identity = self._nats.call(self._open())
        except OSError as error:
            self._nats.close()
            raise ConfigError(f"state {address}: {error}; {self.remedy}") from error
        except BaseException:
            self._nats.close()
            raise

    @property
    def trouble(self) -> str:
        """Why the log cannot be reached; empty: it can, as far as is known."""
        return self._trouble

    @property
    def lost(self) -> RowcastError | None:
        """Why this process must end; ``None``: it need not."""
        if self._fenced is not None:
            return self._fenced
        failing_at = self._failing_at
        if failing_at is None or (away_s := self._now() - failing_at) < self._away_s:
            return None
        return LinkLost(
            f"state {self.address}: nothing could be stored for {away_s:.0f} s: {self._trouble}; what was told is in "
            "it: start this server again once JetStream is back"
        )

    # -- the owner -------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._nats.now()

    async def _open(self) -> bytes:
        self._lock = asyncio.Lock()
        about = await self._have(self._stream, self._base, description(os.urandom(16)))
        identity = identity_of(about, str(self.address))
        identity_of(await self._have(self._shelf, self._parts, about), str(self.address))
        with as_oserror("take the log over"):
            await self._claim()
        self._beating = self._nats.start(self._beat)
        return identity

    async def _have(self, name: str, base: str, about: str) -> str:
        """Make a stream, if it is not there; returns what it says of itself."""
        errors, api = self._nats.library.js.errors, self._nats.library.js.api
        with as_oserror("look for the log"):
            try:
                found = await self._nats.js.stream_info(name)
            except errors.NotFoundError:
                try:
                    found = await self._nats.js.add_stream(
                        name=name,
                        subjects=[f"{base}.>"],
                        description=about,
                        storage=api.StorageType.FILE,
                        retention=api.RetentionPolicy.LIMITS,
                        discard=api.DiscardPolicy.NEW,  # a full log takes nothing more, and forgets nothing
                        num_replicas=self.address.replicas or 1,
                    )
                except errors.BadRequestError as error:
                    if error.err_code != _NAME_IN_USE:
                        raise
                    found = await self._nats.js.stream_info(name)  # somebody else made it at the same time
        self._check(name, found.config)
        return str(found.config.description or "")

    def _check(self, name: str, config: Any) -> None:
        """The stream forgets nothing, and is as safe as the user wants it."""
        api, wanted = self._nats.library.js.api, self.address.replicas
        forgets = config.discard != api.DiscardPolicy.NEW or config.retention != api.RetentionPolicy.LIMITS
        limited = any(limit not in (None, 0, -1) for limit in (config.max_age, config.max_msgs))
        if forgets or limited or config.storage != api.StorageType.FILE or config.max_msgs_per_subject > 0:
            raise ConfigError(
                f"state {self.address}: expected stream {name} in files, with discard=new and no limit of age or "
                "number, got another one: it would forget what counts; give another name"
            )
        if wanted is not None and config.num_replicas != wanted:
            raise ConfigError(
                f"state {self.address}: expected {wanted} replicas, got stream {name} with {config.num_replicas}; "
                "change that with the tools of NATS, or leave the option out"
            )

    async def _claim(self) -> None:
        """Become the owner, once the one before has ended or was silent for a lease."""
        self._last, before = await self._newest()
        if before is not None and before.get(_KEPT) != "released":
            ends = self._now() + self._lease_s
            while self._now() < ends:
                await asyncio.sleep(min(LOOK_S, self._lease_s / 10))
                last, before = await self._newest()
                if last != self._last:
                    raise self._taken(before)
        try:
            await self._store("owner", {_KEPT: "claimed"}, self._who)
        except SteppedDown as error:
            raise self._taken((await self._newest())[1]) from error

    @property
    def _who(self) -> bytes:
        return f"process {os.getpid()} on {socket.gethostname()}".encode()

    def _taken(self, headers: dict[str, str] | None) -> ConfigError:
        owner = visible((headers or {}).get(_OWNER, "unknown"), 40)
        return ConfigError(
            f"state {self.address}: another process uses it (owner {owner}); end that, or give another --state"
        )

    async def _newest(self) -> tuple[int, dict[str, str] | None]:
        """Sequence and headers of the newest message; ``None``: there is none."""
        state = (await self._nats.js.stream_info(self._stream)).state
        try:
            found = await self._nats.js.get_msg(self._stream, state.last_seq) if state.messages else None
        except self._nats.library.js.errors.NotFoundError:
            found = None
        return state.last_seq, None if found is None else dict(found.headers or {})

    async def _beat(self) -> None:
        """Say that this owner lives whenever nothing else was stored; so it also learns that it is one no longer."""
        count = 0
        while self._fenced is None:
            await asyncio.sleep(self._lease_s / BEATS)
            before = self._trouble
            try:
                async with self._lock:
                    if self._now() - self._stored_at < self._lease_s / BEATS:
                        continue
                    await self._store("beat", {_KEPT: "beat"}, b"")
                count += 1
                if count % MOST_BEATS == 0:
                    with as_oserror("remove what is superfluous"):
                        await self._nats.js.purge_stream(self._stream, subject=f"{self._base}.beat", keep=1)
            except OSError as error:
                self._trouble = str(error)
            except SteppedDown:
                self._told()  # :attr:`lost` says why
            if self._trouble != before:
                self._told()

    # -- storing ---------------------------------------------------------------------------------------------------

    async def _store(self, kind: str, headers: dict[str, str], data: bytes) -> int:
        """Store a message behind the newest one; returns its sequence. The lock is held.

        Raises:
            OSError: it was not stored, or nobody knows; what is stored next finds out.
            SteppedDown: somebody else has stored something.
        """
        if self._fenced is not None:
            raise self._fenced
        try:
            with as_oserror("store"):
                if not self._nats.is_connected:
                    raise OSError(f"no connection to NATS at {self.address}: {self._nats.said or 'it was lost'}")
                sequence = await self._behind_newest(kind, headers, data)
        except OSError as error:
            self._trouble = str(error)
            if self._failing_at is None:
                self._failing_at = self._now()
            raise
        self._last, self._stored_at = sequence, self._now()
        self._trouble, self._failing_at = "", None
        return sequence

    async def _behind_newest(self, kind: str, headers: dict[str, str], data: bytes) -> int:
        said = {**headers, _OWNER: self._owner}
        for _ in range(2):
            try:
                stored = await self._nats.js.publish(
                    f"{self._base}.{kind}",
                    data,
                    timeout=ANSWER_S,
                    stream=self._stream,
                    headers={**said, _EXPECTED: str(self._last)},
                )
                return int(stored.seq)
            except self._nats.library.js.errors.APIError as error:
                if error.err_code != _WRONG_LAST:
                    raise
                await self._adopt()
        raise OSError("JetStream has other messages each time; it is tried again")

    async def _adopt(self) -> None:
        """Something stands behind the newest message: one of ours of which we had not heard, or another owner's."""
        adopted = 0
        while True:
            try:
                found = await self._nats.js.get_msg(self._stream, self._last + 1, subject=f"{self._base}.>", next=True)
            except self._nats.library.js.errors.NotFoundError:
                break
            owner = (found.headers or {}).get(_OWNER, "")
            if owner != self._owner:
                self._fenced = SteppedDown(
                    f"state {self.address}: another process took it over (owner {visible(owner, 40)}); this one says "
                    "nothing more"
                )
                raise self._fenced
            self._last = found.seq
            adopted += 1
        if not adopted:
            raise OSError(f"JetStream has less than it has acknowledged: nothing behind message {self._last}")

    @property
    def _part_bytes(self) -> int:
        return max(min(PART_BYTES, self._nats.max_payload - HEADER_BYTES), 1 << 10)

    def put(self, number: int, content: bytes, *, opens: bool) -> int:
        """See :class:`~rowcast.drivers.state.log.GroupStore`."""
        return self._nats.call(self._put(number, pack_group(number, content), opens))

    async def _put(self, number: int, data: bytes, opens: bool) -> int:
        size = self._part_bytes
        parts = [data[begin : begin + size] for begin in range(0, len(data), size)]
        async with self._lock:
            for place, part in enumerate(parts):
                sequence = await self._store("group", {_GROUP: f"{number} {place} {len(parts)}"}, part)
                if place == 0 and opens:
                    self._begins[number] = sequence
        return len(data)

    def writer(self, first: int, *, commit_s: float, committed: Callable[[], None]) -> GroupCommit:
        """What appends to the log from group ``first`` on."""
        self._told = committed
        return GroupCommit(_Stored(self), first, commit_s=commit_s, committed=committed)

    def write(self, first: int, data: bytes) -> None:
        """Store a snapshot, then remove what it makes superfluous; see :class:`~rowcast.drivers.state.log.RowLog`."""
        self._nats.call(self._write(first, data))

    async def _write(self, first: int, data: bytes) -> None:
        if self._fenced is not None:
            raise self._fenced
        subject = f"{self._parts}.{os.urandom(8).hex()}"
        try:
            with as_oserror("store a snapshot"):
                sequences = await self._put_parts(subject, data)
        except OSError:
            with contextlib.suppress(OSError), as_oserror("remove a part"):  # if not now, with the next snapshot
                await self._nats.js.purge_stream(self._shelf, subject=subject)
            raise
        begins, digest = min(sequences), hashlib.sha256(data).hexdigest()
        record = SnapshotRecord(first, subject, begins, len(sequences), len(data), digest)
        async with self._lock:
            stored_at = await self._store("snapshot", {}, msgspec.json.encode(record))
            keep = self._begins.get(first, stored_at)
        self._begins = {number: place for number, place in self._begins.items() if number > first}
        await self._remove_before(self._stream, keep)
        await self._remove_before(self._shelf, begins)

    async def _remove_before(self, stream: str, sequence: int) -> None:
        if sequence > 1:  # nats-server 2.9 takes 1 for no limit, and removes everything
            with as_oserror("remove what is superfluous"):
                await self._nats.js.purge_stream(stream, seq=sequence)

    async def _put_parts(self, subject: str, data: bytes) -> list[int]:
        """Store the parts of a snapshot, which may arrive in another order; returns their sequences."""
        if not self._nats.is_connected:
            raise OSError(f"no connection to NATS at {self.address}: {self._nats.said or 'it was lost'}")
        size, sequences = self._part_bytes, list[int]()
        places = range(0, len(data), size)
        for begin in range(0, len(places), WINDOW):
            sending = [
                self._nats.js.publish(
                    subject, data[place : place + size], timeout=ANSWER_S, headers={_PART: str(place // size)}
                )
                for place in places[begin : begin + WINDOW]
            ]
            sequences += [stored.seq for stored in await _all(sending)]
        return sequences

    # -- what is there ---------------------------------------------------------------------------------------------

    def find(self) -> Found | None:
        """The newest snapshot and the log behind it; see :class:`~rowcast.drivers.state.log.RowLog`."""
        try:
            messages = self._nats.call(self._read(self._stream, f"{self._base}.>", 0, self._last))
            snapshots = [data for kind, _, data in messages if kind == "snapshot"]
            parts = [_part_of(headers, data, self._stream) for kind, headers, data in messages if kind == "group"]
            if not snapshots:
                if parts:
                    raise StateDamaged(
                        f"state {self.address}: expected a snapshot before group {parts[0].number}, got none"
                    )
                return None
            record = msgspec.json.decode(snapshots[-1], type=SnapshotRecord)
            data = self._nats.call(self._fetch(record))
        except OSError as error:
            raise StateDamaged(f"state {self.address}: cannot be read: {error}; {self.remedy}") from error
        except msgspec.DecodeError as error:
            raise StateDamaged(
                f"state {self.address}: expected the record of a snapshot, got another one: {error}"
            ) from error
        state, about = read_snapshot(f"{self.address}, snapshot before group {record.first}", data)
        return Found(state, about, groups_of(parts, record.first, str(self.address)))

    async def _read(
        self, stream: str, subject: str, begin: int, end: int, count: int | None = None
    ) -> list[tuple[str, dict[str, str], bytes]]:
        """Messages in order, up to sequence ``end`` or so many: last word of the subject, headers, content."""
        api = self._nats.library.js.api
        found: list[tuple[str, dict[str, str], bytes]] = []
        reader = api.ConsumerConfig(
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=max(begin, 1),
            ack_policy=api.AckPolicy.NONE,
            inactive_threshold=READER_S,
            num_replicas=1,
            mem_storage=True,
        )
        with as_oserror("read the log"):
            reading = await self._nats.js.pull_subscribe(subject, stream=stream, config=reader, pending_bytes_limit=0)
            sequence = 0
            while (sequence < end) if count is None else (len(found) < count):
                for message in await reading.fetch(
                    WINDOW if count is None else min(WINDOW, count - len(found)), ANSWER_S
                ):
                    sequence = message.metadata.sequence.stream
                    found.append((message.subject.rpartition(".")[2], dict(message.headers or {}), message.data))
            await reading.unsubscribe()
        return found

    async def _fetch(self, record: SnapshotRecord) -> bytes:
        """The bytes of a snapshot.

        Raises:
            OSError: some are missing, or it cannot be read now.
            StateDamaged: they are not as they were written.
        """
        parts = await self._read(self._shelf, record.subject, record.begins, 0, record.parts)
        parts.sort(key=lambda one: int(one[1].get(_PART, "0")))
        data = b"".join(content for _, _, content in parts)
        if len(data) != record.size or hashlib.sha256(data).hexdigest() != record.sha256:
            raise StateDamaged(f"state {self.address}: expected a snapshot as it was written, got another one")
        return data

    def identity(self, source: Callable[[int], bytes]) -> bytes:
        """16 bytes that name this log; they were drawn when it was made."""
        return self._identity

    def promised(self) -> int:
        """No standby has promised anything here."""
        return 0

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let others have the log."""
        self._told = lambda: None
        self._nats.call(self._release())
        self._nats.close()

    async def _release(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
        if self._fenced is not None or self._trouble:
            return
        async with self._lock:
            try:
                await self._store("owner", {_KEPT: "released"}, self._who)
            except (OSError, SteppedDown) as error:  # who comes next waits for a lease, that is all
                self._trouble = str(error)


class _Stored:
    """Groups go into a log, which is not closed with the writer of groups."""

    def __init__(self, log: JetStreamLog) -> None:
        self._log = log

    def put(self, number: int, content: bytes, *, opens: bool) -> int:
        return self._log.put(number, content, opens=opens)

    def close(self) -> None:
        """The log goes on: a last snapshot comes."""


async def _all(publishing: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    """The answers to messages that are sent at once; none is under way when this returns."""
    answers = await asyncio.gather(*publishing, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


def _part_of(headers: dict[str, str], data: bytes, stream: str) -> GroupPart:
    try:
        number, part, parts = map(int, headers[_GROUP].split())
    except (LookupError, ValueError) as error:
        raise StateDamaged(f"{stream}: expected a part of a group, got a message without its number") from error
    return GroupPart(number, part, parts, data)
