"""A standby over TCP: it follows the log of another server, and leads in its place once a majority lets it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from rowcast.config import StateSettings
from rowcast.drivers.crew import load_kernels
from rowcast.drivers.sockets.connection import Connection
from rowcast.drivers.sockets.endpoint import Endpoint
from rowcast.drivers.sockets.follow_session import Session
from rowcast.drivers.sockets.leading import LOOKS, LeadingServer
from rowcast.drivers.state.disk import Disk
from rowcast.drivers.state.keeper import ServerKeeper
from rowcast.drivers.state.mirror import Mirror
from rowcast.drivers.state.spec import TeamSpec
from rowcast.errors import ConfigError
from rowcast.journal import Journal
from rowcast.version import __version__
from rowcast.wire import Follow, Followed

__all__ = ["Standby"]

#: A standby whose disk is full rests for so many leases: what comes next is a snapshot, as large as the model.
STARVED_LEASES = 10


class Standby:
    """Follows a server, and leads when that is gone.

    Args:
        disk: the folder of the standby.
        team: what the server is made of.
        settings: see :mod:`rowcast.config`.
        journal: of the standby.
        endpoint: the server that is followed.
        listens: where this one does once it leads, or asks to: host and port.
        says: told each change, in a sentence.

    Raises:
        ConfigError, StateDamaged: see :class:`~rowcast.drivers.state.mirror.Mirror`.
    """

    def __init__(
        self,
        disk: Disk,
        team: TeamSpec,
        settings: StateSettings,
        journal: Journal,
        endpoint: Endpoint,
        *,
        listens: tuple[str, int] = ("127.0.0.1", 7117),
        says: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.endpoint, self.link_settings = endpoint, team.links
        self.host, self.port = listens
        self.tls = endpoint.security.standby()
        self._disk, self._team, self._settings, self._journal = disk, team, settings, journal
        self._says = says
        self._loop: asyncio.AbstractEventLoop | None = None
        mirror = self._open()
        self._mirror: Mirror | None = mirror
        self._identity = mirror.identity
        self._server: LeadingServer | None = None
        self._session: Session | None = None
        self._heard_at = 0.0  # when the other server was heard last; in the future: it is missed by nobody until then
        self._highest = 0  # the highest term that was asked for
        self._attached = self._changing = False
        self._yields = False  # it asks for no term any more, since the other server lives
        self._dropped_at = -1  # the other server went on alone: what is here is too old, up to this term
        self._said = ""
        self._fault: BaseException | None = None
        self._following: asyncio.Task[None] | None = None

    @property
    def mirror(self) -> Mirror:
        """What there is of the server that is followed."""
        if self._mirror is None:
            self._mirror = self._open()
        return self._mirror

    def _open(self) -> Mirror:
        mirror = Mirror(self._disk, self._team, self._settings, self._journal)

        def heard() -> None:
            if self._loop is not None and self._mirror is mirror:
                self._loop.call_soon_threadsafe(self._replayed)

        mirror.on_heard = heard
        return mirror

    def now(self) -> float:
        """The time (s)."""
        return asyncio.get_running_loop().time()

    def fail(self, error: BaseException) -> None:
        """A fault of this process: it ends."""
        self._fault = error

    # -- what a session reports ------------------------------------------------------------------------------------

    def heard(self) -> None:
        """The server that is followed lives."""
        self._heard_at = self.now()

    def introduction(self) -> Follow:
        """Who this is."""
        tenure = self.mirror.tenure if self._server is None else self._server.leadership.tenure
        # One that led alone, and was started again as a standby, has what nobody else has.
        leads = tenure.leader == self._identity and (self._server is not None or not tenure.follower)
        known = [tenure.term, self._highest, 0 if self._mirror is None else self._mirror.promised]
        if self._server is not None:
            known.append(self._server.leadership.asked)
        address = f":{self.port}" if self.host in ("", "0.0.0.0", "::") else _address(self.host, self.port)
        return Follow(
            self._identity,
            os.urandom(16),
            b"",
            tenure.term if leads else max(known),
            leads,
            address,
            tenure.team,
            self._team.policy,
            __version__,
        )

    def may_follow(self) -> bool:
        """Whether there is somebody to introduce: not while this server's folder passes from one hand to the other."""
        return not self._changing

    def following(self, followed: Followed) -> str | None:
        """The server lets this one follow it; why it does not on this connection, or ``None``.

        One that asks for a term asks no more: the other one lives.
        """
        if (server := self._server) is not None and server.keeper.leads:
            return "this standby leads now"
        if server is not None:
            self._highest = max(self._highest, server.leadership.asked)
            self._yields = True
            server.give_way("the server that is followed is back")
            return "the other server lives: asks for its place no longer"
        self.mirror.promise(followed.promise)
        self._tell(f"follows {self.endpoint}, which leads in term {followed.term}")
        return None

    def _replayed(self) -> None:
        """The replay has heard something more."""
        if self._mirror is None:
            return
        if self._mirror.fault is not None:
            self.fail(self._mirror.fault)
        attached = self.mirror.attached
        if attached and not self._attached:
            tenure = self.mirror.tenure
            self._journal.record(
                self.now(), "standby", peer=str(self.endpoint), what="attached", term=tenure.term, cause="", seconds=0.0
            )
            self._tell(f"has all that {self.endpoint} has, from term {tenure.term} on")
        self._attached = attached

    def _tell(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._says(text)

    # -- the life --------------------------------------------------------------------------------------------------

    async def run(self) -> LeadingServer:
        """Follow until this server leads; returns it, listening.

        Raises:
            ConfigError, RemoteProtocolError, StateDamaged: the server that is followed refuses this one for good, or
                what it sends cannot be used.
        """
        self._loop = asyncio.get_running_loop()
        await self._loop.run_in_executor(None, load_kernels)
        self._heard_at = self.now()
        self._following = asyncio.create_task(self._follow_on())
        try:
            while True:
                if self._fault is not None:
                    raise self._fault
                if self._following.done():
                    self._following.result()
                server = self._server
                if server is not None and server.keeper.leads:
                    return server
                if server is not None and server.deposed.is_set():
                    if not self._yields:
                        self._tell(f"no longer may lead: {server.cause}")
                        self._dropped_at = server.leadership.tenure.term
                    self._yields = False
                    await self._end_server("another server leads")
                elif server is None and self._may_ask():
                    await self._ask()
                if self._session is not None:
                    self._session.beat()
                before = self.now()
                await asyncio.sleep(self._settings.lease_s / LOOKS)
                # Where this process itself was held up, what came meanwhile is still to be read.
                now = self.now()
                held_s = max(now - before - 2 * self._settings.lease_s / LOOKS, 0.0)
                self._heard_at = max(self._heard_at, min(self._heard_at + held_s, now))
        except BaseException:
            await self.close()
            raise

    def _may_ask(self) -> bool:
        silent_s = self.now() - self._heard_at
        return (
            silent_s >= self._settings.lease_s and self.mirror.attached and self.mirror.tenure.term > self._dropped_at
        )

    async def _ask(self) -> None:
        """The server that was followed is gone: ask for its place."""
        silent_s = self.now() - self._heard_at
        self._tell(f"{self.endpoint} has said nothing for {silent_s:.1f} s: asks the workers that come")
        self._changing = True  # until then the folder is nobody's
        if self._session is not None and self._session.connection is not None:
            self._session.connection.close("it has said nothing")
        warm = self.mirror.give()
        self._mirror = None
        try:
            keeper = ServerKeeper(self._disk, self._team, self._settings, self._journal, warm=warm)
        except ConfigError as error:  # its disk may have room again
            self._tell(f"cannot ask: {error}")
            self._rest()
            self._changing = False
            return
        server = LeadingServer(
            keeper,
            self.host,
            self.port,
            link_settings=self.link_settings,
            security=self.endpoint.security,
            says=self._says,
        )
        server.silent_s = silent_s
        try:
            await server.start()
        except BaseException:
            await server.close("it cannot listen")
            raise
        self._server = server
        self.port = server.port
        self._changing = False

    def _rest(self) -> None:
        """What is here cannot be written: ask nobody for a while."""
        self._heard_at = self.now() + STARVED_LEASES * self._settings.lease_s

    async def _end_server(self, cause: str) -> None:
        self._changing = True
        if self._server is not None:
            await self._server.close(cause)
        self._server = None
        self._heard_at = self.now()
        self._attached = self._changing = False

    async def _follow_on(self) -> None:
        """Connect, again and again; when this server leads, the other one is told so."""
        lease_s = self._settings.lease_s
        while True:
            session = Session(self, self.endpoint.security.secret)
            try:
                channel = None if self.tls is None else self.tls.open()
                making = asyncio.get_running_loop().create_connection(
                    lambda: Connection(session, channel=channel, speaks_first=True, lingers=True),  # noqa: B023
                    self.endpoint.host,
                    self.endpoint.port,
                )
                await asyncio.wait_for(making, lease_s)
                self._session = session
                await self._until_over(session)
            except (OSError, asyncio.TimeoutError) as error:
                session.cause = str(error) or "no answer"
            finally:
                self._session = None
            if session.followed:
                self._tell(f"follows {self.endpoint} no longer: {session.cause}")
            leads = self._server is not None and self._server.keeper.leads
            if session.error is not None and not leads:
                raise session.error
            if session.starved:
                self._rest()
            leases = STARVED_LEASES if session.starved else 1 if leads else 1 / LOOKS
            await asyncio.sleep(leases * lease_s)

    async def _until_over(self, session: Session) -> None:
        """Wait for the end of a connection; one on which nothing comes is ended."""
        begun = self.now()
        while not session.over.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(session.over.wait(), self._settings.lease_s / LOOKS)
            silent_s = self.now() - max(begun, self._heard_at)
            if silent_s > self._settings.lease_s and session.connection is not None:
                session.connection.close(f"nothing came for {silent_s:.1f} s")

    async def close(self) -> None:
        """Follow no more; a server that leads goes on."""
        session = self._session
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        if session is not None and session.connection is not None:
            session.connection.close("the standby was stopped")
            await asyncio.sleep(0)
        if self._server is not None and not self._server.keeper.leads:
            await self._end_server("the standby was stopped")
        if self._mirror is not None:
            self._mirror.close()


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
