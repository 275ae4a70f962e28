"""The two streams of a log in NATS JetStream: that they are there, and what is in them.

In the first one are the messages of the log, in the second one the parts of snapshots. Neither of them may forget
anything by itself: they lie in files, and a full one takes nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

from rowcast.drivers.state.address import JetStreamAddress
from rowcast.drivers.state.nats_client import ANSWER_S, NatsThread, as_oserror
from rowcast.drivers.state.stored import SnapshotRecord, description, identity_of
from rowcast.errors import ConfigError, StateDamaged, visible

__all__ = ["PART", "REMEDY", "Message", "Streams"]

T = TypeVar("T")

#: Largest part of a group or of a snapshot (bytes), and what of a message headers may take.
PART_BYTES, HEADER_BYTES = 512 << 10, 4 << 10
#: So many messages are on their way at once.
WINDOW = 16
#: At the start JetStream may be choosing a leader: it is asked again for so long (s), with pauses between.
PATIENCE_S, PAUSE_S = 12.0, 0.2
#: The number of a part of a snapshot.
PART = "Rowcast-Part"
REMEDY = "see the log of nats-server"
#: What the server answers where it has no JetStream, or this user has none; ``None``: nobody answers.
_NONE = (None, 10039, 10076)
#: What the server answers: a stream of that name is there; there is no room for it now.
_NAME_IN_USE, _NO_ROOM_NOW = 10058, 10005


class Message(NamedTuple):
    """A message of a stream.

    Attributes:
        subject, headers, data: of it.
    """

    subject: str
    headers: dict[str, str]
    data: bytes


class Streams:
    """The streams of one log.

    Args:
        address: where the log is.
        nats: the connection; coroutines here run on its thread.

    Attributes:
        log, shelf: names of the stream of the log, and of that of snapshots.
        base: the subjects of the log begin so.
    """

    def __init__(self, address: JetStreamAddress, nats: NatsThread) -> None:
        self.address, self.nats = address, nats
        self.log, self.shelf = f"rowcast-{address.name}", f"rowcast-{address.name}-snapshots"
        self.base, self._parts = f"rowcast.log.{address.name}", f"rowcast.snapshots.{address.name}"

    async def patiently(self, what: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do something again while JetStream does not answer, for a while.

        Raises:
            OSError: it still does not.
        """
        ends = self.nats.now() + PATIENCE_S
        while True:
            try:
                return await what()
            except OSError:
                if self.nats.now() > ends:
                    raise
            await asyncio.sleep(PAUSE_S)

    # -- that they are there ---------------------------------------------------------------------------------------

    async def open(self) -> bytes:
        """Make the streams where they are not there; returns the 16 bytes that name the log.

        Raises:
            OSError: JetStream does not answer.
            ConfigError: there is none; it cannot hold them, or holds others which might forget something.
            StateDamaged: it holds another thing, or a log of another layout.
        """
        where = str(self.address)
        with as_oserror("say that it is there"):
            try:
                await self.nats.js.account_info()
            except self.nats.library.js.errors.ServiceUnavailableError as error:
                if error.err_code not in _NONE:
                    raise  # a cluster that is choosing a leader
                raise ConfigError(
                    f"state {where}: expected NATS with JetStream, got a server without; start it with nats-server -js"
                ) from error
        about = await self._have(self.log, self.base, description(os.urandom(16)))
        identity = identity_of(about, where)
        identity_of(await self._have(self.shelf, self._parts, about), where)
        return identity

    async def _have(self, name: str, base: str, about: str) -> str:
        """Make a stream, if it is not there; returns what it says of itself."""
        errors, api = self.nats.library.js.errors, self.nats.library.js.api
        with as_oserror("look for the log"):
            try:
                found = await self.nats.js.stream_info(name)
            except errors.NotFoundError:
                try:
                    found = await self.nats.js.add_stream(
                        name=name,
                        subjects=[f"{base}.>"],
                        description=about,
                        storage=api.StorageType.FILE,
                        retention=api.RetentionPolicy.LIMITS,
                        discard=api.DiscardPolicy.NEW,  # a full log takes nothing more, and forgets nothing
                        num_replicas=self.address.replicas or 1,
                        allow_direct=True,
                    )
                except (errors.BadRequestError, errors.ServerError) as error:
                    if error.err_code == _NO_ROOM_NOW:  # a cluster that is just forming
                        raise
                    if error.err_code != _NAME_IN_USE:
                        raise ConfigError(
                            f"state {self.address}: JetStream cannot hold it: {visible(error.description)}; {REMEDY}"
                        ) from error
                    found = await self.nats.js.stream_info(name)  # somebody else made it at the same time
        self._check(name, found.config)
        return str(found.config.description or "")

    def _check(self, name: str, config: Any) -> None:
        """The stream forgets nothing, and is as safe as the user wants it."""
        api, wanted = self.nats.library.js.api, self.address.replicas
        forgets = config.discard != api.DiscardPolicy.NEW or config.retention != api.RetentionPolicy.LIMITS
        limited = any(limit not in (None, 0, -1) for limit in (config.max_age, config.max_msgs))
        if (
            forgets
            or limited
            or not config.allow_direct
            or config.storage != api.StorageType.FILE
            or config.max_msgs_per_subject > 0
        ):
            raise ConfigError(
                f"state {self.address}: expected stream {name} in files, with discard=new, direct access, no limit of "
                "age or number, got another one: it may forget what counts; give another name"
            )
        if wanted is not None and config.num_replicas != wanted:
            raise ConfigError(
                f"state {self.address}: expected {wanted} replicas, got stream {name} with {config.num_replicas}; "
                "change that with the tools of NATS, or leave the option out"
            )

    # -- reading ---------------------------------------------------------------------------------------------------

    async def newest(self) -> tuple[int, dict[str, str] | None]:
        """Sequence and headers of the newest message of the log; ``None``: there is none.

        Raises:
            OSError: JetStream does not answer.
        """
        with as_oserror("look at the log"):
            state = (await self.nats.js.stream_info(self.log)).state
            found = await self._message(self.log, state.last_seq) if state.messages else None
        return state.last_seq, None if found is None else dict(found.headers or {})

    async def next_after(self, sequence: int) -> tuple[int, dict[str, str]] | None:
        """Sequence and headers of the first message of the log behind this one; ``None``: it is the newest."""
        with as_oserror("look at the log"), contextlib.suppress(self.nats.library.js.errors.NotFoundError):
            found = await self.nats.js.get_msg(self.log, sequence + 1, subject=f"{self.base}.>", next=True)
            return found.seq, dict(found.headers or {})
        return None

    async def read_log(self, end: int) -> list[Message]:
        """The messages of the log up to a sequence, in order.

        Raises:
            OSError: JetStream does not answer, or does not have the last one.
        """
        with as_oserror("read the log"):
            first = (await self.nats.js.stream_info(self.log)).state.first_seq
        return await self._read(self.log, first, end)

    async def _read(self, stream: str, begin: int, end: int) -> list[Message]:
        """Messages in order; of those before the last one, some may be removed."""
        found: list[Message] = []
        with as_oserror("read the log"):
            for place in range(begin, end + 1, WINDOW):
                sequences = range(place, min(place + WINDOW, end + 1))
                messages = await _all([self._message(stream, sequence) for sequence in sequences])
                there = [one for one in messages if one is not None]
                found += [Message(one.subject, dict(one.headers or {}), one.data or b"") for one in there]
                if sequences[-1] == end and messages[-1] is None:
                    raise OSError(f"message {end} of stream {stream} is not there")
        return found

    async def _message(self, stream: str, sequence: int) -> Any:
        """A message; ``None``: it is not there.

        Any server of the cluster may have it, and hands it out as it is; that one is not there only the leader knows.
        """
        for direct in (True, False):
            with contextlib.suppress(self.nats.library.js.errors.NotFoundError):
                return await self.nats.js.get_msg(stream, sequence, direct=direct)
        return None

    async def read_snapshot(self, record: SnapshotRecord) -> bytes:
        """The bytes of a snapshot.

        Raises:
            OSError: they cannot be read now.
            StateDamaged: they are not as they were written.
        """
        messages = await self._read(self.shelf, record.begins, record.ends)
        parts = {int(one.headers[PART]): one.data for one in messages if one.subject == record.subject}
        data = b"".join(parts[place] for place in sorted(parts))
        if len(data) != record.size or hashlib.sha256(data).hexdigest() != record.sha256:
            raise StateDamaged(f"state {self.address}: expected a snapshot as it was written, got another one")
        return data

    # -- writing ---------------------------------------------------------------------------------------------------

    @property
    def part_bytes(self) -> int:
        """Largest part of a group or of a snapshot (bytes); the leader hands it out in base64."""
        return max(min(PART_BYTES, (self.nats.max_payload - HEADER_BYTES) * 2 // 3), 1 << 10)

    async def put_snapshot(self, first: int, data: bytes) -> SnapshotRecord:
        """Store the parts of a snapshot; it counts once its record is in the log.

        Args:
            first: number of the group that comes behind it.
            data: its bytes.

        Raises:
            OSError: it could not be stored; what was, is removed now or with the next one.
        """
        subject = f"{self._parts}.{os.urandom(8).hex()}"
        try:
            with as_oserror("store a snapshot"):
                sequences = await self._put_parts(subject, data)
        except OSError:
            with contextlib.suppress(OSError), as_oserror("remove a part"):  # the first failure is told
                await self.nats.js.purge_stream(self.shelf, subject=subject)
            raise
        digest = hashlib.sha256(data).hexdigest()
        return SnapshotRecord(first, subject, min(sequences), max(sequences), len(data), digest)

    async def _put_parts(self, subject: str, data: bytes) -> list[int]:
        """Store parts, which may arrive in another order; returns their sequences."""
        self.nats.check_connected()
        size, sequences = self.part_bytes, list[int]()
        places = range(0, len(data), size)
        for begin in range(0, len(places), WINDOW):
            sending = [
                self.nats.js.publish(
                    subject, data[place : place + size], timeout=ANSWER_S, headers={PART: str(place // size)}
                )
                for place in places[begin : begin + WINDOW]
            ]
            sequences += [stored.seq for stored in await _all(sending)]
        return sequences

    async def remove_before(self, stream: str, sequence: int) -> None:
        """Remove what comes before a sequence.

        Raises:
            OSError: JetStream does not do it now.
        """
        if sequence > 1:  # nats-server 2.9 takes 1 for no limit, and removes everything
            with as_oserror("remove what is superfluous"):
                await self.nats.js.purge_stream(stream, seq=sequence)

    async def keep_one(self, kind: str) -> None:
        """Remove all messages of the log of this kind but the newest one.

        Raises:
            OSError: JetStream does not do it now.
        """
        with as_oserror("remove what is superfluous"):
            await self.nats.js.purge_stream(self.log, subject=f"{self.base}.{kind}", keep=1)


async def _all(asking: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    """The answers to what is asked at once; nothing is under way when this returns."""
    answers = await asyncio.gather(*asking, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers
