"""Who owns a log in NATS JetStream: one process, which is the only one whose messages are stored.

Each message is stored behind a known one only (``Nats-Expected-Last-Sequence``), so who has stored the newest message
knows that nobody else has stored any. A new owner stores a message that says so, once the log has been silent for a
lease, in which an owner that lives says so several times. From then on nothing of the owner before is taken: it finds
the message of another one, and ends. So whatever clocks and networks do, there are never two that commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

from rowcast.config import as_number
from rowcast.drivers.state.nats_client import ANSWER_S, as_oserror
from rowcast.drivers.state.streams import Streams
from rowcast.errors import ConfigError, LinkLost, RowcastError, SteppedDown, visible

__all__ = ["Ownership"]

#: In a lease an owner says so often that it lives; so many of these messages are kept at most.
BEATS, MOST_BEATS = 4, 64
#: An owner that comes looks so often whether the one before lives (s).
LOOK_S = 0.1
#: What the server answers to a message that was to stand behind another one.
_WRONG_LAST = 10071
_EXPECTED, _OWNER, _KIND = "Nats-Expected-Last-Sequence", "Rowcast-Owner", "Rowcast-Kind"
_LEASE = "Rowcast-Lease"
#: No lease is longer (s), whatever a message says.
MOST_LEASE_S = 3600.0


class Ownership:
    """Stores messages in a log as its owner. Coroutines run on the thread of the connection.

    Args:
        streams: of the log.
        lease_s: an owner that has said nothing for so long (s) may be dead, and another one may come.
        away_s: when nothing could be stored for so long (s), :attr:`lost` says so.

    Attributes:
        owner: this one, in hexadecimal.
        last: sequence of the newest message.
        trouble: why nothing can be stored; empty: it can, as far as is known.
        told: called when :attr:`trouble` or :attr:`lost` has changed although nothing was to be stored.
        lock: whoever stores something holds it.
    """

    def __init__(self, streams: Streams, *, lease_s: float, away_s: float) -> None:
        self.owner = os.urandom(8).hex()
        self.last = 0
        self.trouble = ""
        self.told: Callable[[], None] = lambda: None
        self.lock = asyncio.Lock()
        self._streams, self._nats = streams, streams.nats
        self._lease_s, self._away_s = lease_s, away_s
        self._failing_at: float | None = None
        self._stored_at = 0.0
        self._fenced: SteppedDown | None = None
        self._beating: asyncio.Task[None] | None = None

    @property
    def lost(self) -> RowcastError | None:
        """Why this process must end; ``None``: it need not."""
        if self._fenced is not None:
            return self._fenced
        failing_at = self._failing_at
        if failing_at is None or (away_s := self._nats.now() - failing_at) < self._away_s:
            return None
        return LinkLost(
            f"state {self._streams.address}: nothing could be stored for {away_s:.0f} s: {self.trouble}; what was told "
            "is in it: start this server again once JetStream is back"
        )

    # -- claiming --------------------------------------------------------------------------------------------------

    async def claim(self) -> None:
        """Become the owner, once the one before has ended or was silent for a lease.

        Raises:
            ConfigError: there is an owner that lives.
            OSError: JetStream does not answer; it may be tried again.
        """
        self.last, before = await self._streams.newest()
        # A claim of ours is there already if its answer did not come.
        if before is not None and before.get(_KIND) != "released" and before.get(_OWNER) != self.owner:
            ends = self._nats.now() + max(self._lease_s, _lease_of(before))
            while self._nats.now() < ends:
                await asyncio.sleep(min(LOOK_S, self._lease_s / 10))
                last, before = await self._streams.newest()
                if last != self.last:
                    raise self._taken(before)
        try:
            async with self.lock:
                await self.store("owner", {_KIND: "claimed"}, self._who)
        except SteppedDown as error:
            raise self._taken((await self._streams.newest())[1]) from error

    @property
    def _who(self) -> bytes:
        """For who looks at the stream with the tools of NATS."""
        return f"process {os.getpid()} on {socket.gethostname()}".encode()

    def _taken(self, headers: dict[str, str] | None) -> ConfigError:
        owner = visible((headers or {}).get(_OWNER, "unknown"), 40)
        return ConfigError(
            f"state {self._streams.address}: another process uses it (owner {owner}); end that, or give another --state"
        )

    async def begin(self) -> None:
        """From now on say that this owner lives."""
        self._beating = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        """Say that this owner lives whenever nothing else was stored; so it also learns that it is one no longer."""
        pause_s, count = self._lease_s / BEATS, 0
        while self._fenced is None:
            await asyncio.sleep(pause_s)
            before = self.trouble
            try:
                async with self.lock:
                    if self._nats.now() - self._stored_at < pause_s:
                        continue
                    await self.store("beat", {_KIND: "beat"}, b"")
                count += 1
                if count % MOST_BEATS == 0:
                    await self._streams.keep_one("beat")
            except OSError as error:
                self.trouble = str(error)
            except SteppedDown:
                self.told()  # :attr:`lost` says why
            if self.trouble != before:
                self.told()

    async def release(self) -> None:
        """Who comes next need not wait."""
        if self._beating is not None:
            self._beating.cancel()
        if self._fenced is None and not self.trouble:
            # If it is not stored, who comes next waits for a lease, and that is all.
            with contextlib.suppress(OSError, SteppedDown):
                async with self.lock:
                    await self.store("owner", {_KIND: "released"}, self._who)

    # -- storing ---------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise SteppedDown if the log is another one's, as far as is known."""
        if self._fenced is not None:
            raise self._fenced

    async def store(self, kind: str, headers: dict[str, str], data: bytes) -> int:
        """Store a message behind the newest one; returns its sequence. The lock is held.

        Args:
            kind: last word of its subject.
            headers, data: of it.

        Raises:
            OSError: it was not stored, or nobody knows; what is stored next finds out.
            SteppedDown: somebody else has stored something.
        """
        self.check()
        try:
            with as_oserror("store"):
                self._nats.check_connected()
                said = {**headers, _OWNER: self.owner, _LEASE: str(self._lease_s)}
                sequence = await self._behind_newest(kind, said, data)
        except OSError as error:
            self.trouble = str(error)
            if self._failing_at is None:
                self._failing_at = self._nats.now()
            raise
        self.last, self._stored_at = sequence, self._nats.now()
        self.trouble, self._failing_at = "", None
        return sequence

    async def _behind_newest(self, kind: str, headers: dict[str, str], data: bytes) -> int:
        streams = self._streams
        for _ in range(2):
            try:
                stored = await self._nats.js.publish(
                    f"{streams.base}.{kind}",
                    data,
                    timeout=ANSWER_S,
                    stream=streams.log,
                    headers={**headers, _EXPECTED: str(self.last)},
                )
                return int(stored.seq)
            except self._nats.library.js.errors.APIError as error:
                if error.err_code != _WRONG_LAST:
                    raise
                await self._adopt()
        raise OSError("JetStream has other messages each time; it is tried again")

    async def _adopt(self) -> None:
        """Something stands behind the newest message: ours, of which we had not heard, or another owner's."""
        adopted = 0
        while (found := await self._streams.next_after(self.last)) is not None:
            sequence, headers = found
            owner = headers.get(_OWNER, "")
            if owner != self.owner:
                self._fenced = SteppedDown(
                    f"state {self._streams.address}: another process took it over (owner {visible(owner, 40)}); this "
                    "one says nothing more"
                )
                raise self._fenced
            self.last = sequence
            adopted += 1
        if not adopted:
            raise OSError(f"JetStream has less than it has acknowledged: nothing behind message {self.last}")


def _lease_of(headers: dict[str, str]) -> float:
    """The lease of who has stored a message, which may be longer than that of who comes (s)."""
    said = as_number(headers.get(_LEASE, "0"))
    return said if said is not None and 0.0 <= said <= MOST_LEASE_S else 0.0
