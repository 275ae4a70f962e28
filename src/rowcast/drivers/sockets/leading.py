"""A durable server over TCP that may have a standby: what anybody is told is on both disks, and one of them leads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rowcast.config import LinkSettings
from rowcast.drivers.crew import load_kernels
from rowcast.drivers.sockets.connection import FREE, Connection
from rowcast.drivers.sockets.durable import DurableServer
from rowcast.drivers.sockets.endpoint import Security
from rowcast.drivers.sockets.follower import FollowerPort
from rowcast.drivers.state.keeper import ServerKeeper
from rowcast.durability.leadership import Leadership, Standing
from rowcast.errors import ConfigError, RemoteProtocolError
from rowcast.session import Link
from rowcast.session.states import HostState
from rowcast.training.server import ANOTHER_SERVER
from rowcast.version import __version__
from rowcast.wire import Follow, Followed, Heartbeat, Message

__all__ = ["LeadingServer"]

#: In a lease so often each of the two servers says something, and looks.
LOOKS = 6
#: A standby may be silent for so many leases while it catches up: it reads what it was sent.
PATIENT_LEASES = 20
#: Somebody who has said that he is a server has so long to prove it (s), and so many may be about it at once.
INTRODUCTION_S, INTRODUCTIONS = 10.0, 8


class LeadingServer(DurableServer):
    """Runs the server of a keeper with a log, and lets a standby follow it.

    Args:
        keeper, host, port, link_settings, security: see :class:`DurableServer`.
        says: told each change of who leads, in a sentence.

    Attributes:
        silent_s: so long the other server had said nothing when this one began to ask (s).
        deposed: set when another server leads, or may: this one must end; :attr:`cause` says why.

    Raises:
        ConfigError: the keeper has no log.
    """

    def __init__(
        self,
        keeper: ServerKeeper,
        host: str = "127.0.0.1",
        port: int = 7117,
        *,
        link_settings: LinkSettings | None = None,
        security: Security | None = None,
        says: Callable[[str], None] = lambda text: None,
    ) -> None:
        super().__init__(keeper, host, port, link_settings=link_settings, security=security)
        if keeper.leadership is None:
            raise ConfigError("standby: expected a server with --durability log, got one without a log")
        self._leads: Leadership = keeper.leadership
        self._lease_s = keeper.settings.lease_s
        self._says = says
        self._ports: dict[Link, FollowerPort] = {}
        self._port: FollowerPort | None = None
        self._balloted: dict[Link, int] = {}
        self._asked_at = self._lost_at = self._ticked_at = 0.0
        self._ticking: asyncio.TimerHandle | None = None
        self._closing = False
        self.silent_s = 0.0
        self.deposed = asyncio.Event()

    @property
    def cause(self) -> str:
        """Why it never leads again."""
        return self._leads.cause

    @property
    def leadership(self) -> Leadership:
        """Whether it leads."""
        return self._leads

    async def start(self) -> None:
        """See :meth:`DurableServer.start`; a server that must ask first lets nobody in before it may."""
        await asyncio.get_running_loop().run_in_executor(None, load_kernels)
        await super().start()
        self._lost_at = self._asked_at = self._ticked_at = self.now()
        if self._leads.standing is Standing.ASKING:
            missing = self._leads.missing
            self._says(
                f"term {self._leads.tenure.term} had two servers: nothing is told before the other one is back, or "
                f"{missing} {'workers grant' if missing != 1 else 'worker grants'} term {self._leads.asked}"
            )
        self._tick()

    async def close(self, cause: str = "the server was stopped") -> None:
        """See :meth:`DurableServer.close`; while a standby is attached no worker is told: that leads from now on."""
        if self._ticking is not None:
            self._ticking.cancel()
        self._closing = True
        self._port = None  # it is not the standby that goes
        self.keeper.ship_nothing()
        for port in list(self._ports.values()):
            port.connection.close(cause)
        await super().close(cause)

    def committed_to(self) -> int:
        return self._leads.committed(self.keeper.log.committed_to)

    # -- connections -----------------------------------------------------------------------------------------------

    def on_bytes(self, connection: Connection, begun: tuple[int, int]) -> None:
        if connection.link not in self._ports:
            super().on_bytes(connection, begun)

    def on_read(self, connection: Connection, count: int) -> str | None:
        port = self._ports.get(connection.link)
        if port is not None:
            return port.arrived(self.now(), count)
        cause = super().on_read(connection, count)
        if cause == ANOTHER_SERVER and not self._closing and self._unproven < INTRODUCTIONS:
            self._adopt(connection)
            return None
        self._count_votes()
        return cause

    def on_garbage(self, connection: Connection, error: RemoteProtocolError) -> None:
        port = self._ports.get(connection.link)
        if port is None:
            super().on_garbage(connection, error)
        else:
            port.refuse("protocol", str(error))

    def on_failure(self, connection: Connection, error: Exception) -> None:
        if hasattr(connection, "link") and connection.link in self._ports:
            self._log_fault(error, "its standby")
            connection.close(f"the server failed: {type(error).__name__}")
        else:
            super().on_failure(connection, error)

    def on_closed(self, connection: Connection, cause: str) -> None:
        self._balloted.pop(connection.link, None)
        port = self._ports.pop(connection.link, None)
        if port is None:
            super().on_closed(connection, cause)
        elif port is self._port:
            self._let_go(cause)

    def next_message(self, connection: Connection) -> Message | None:
        port = self._ports.get(connection.link)
        return super().next_message(connection) if port is None else port.next_message()

    @property
    def _unproven(self) -> int:
        """How many have said that they are servers, and have not proved it."""
        return sum(each.follow is None for each in self._ports.values())

    def _adopt(self, connection: Connection) -> None:
        """It is no worker: the node has nothing to do with it any more."""
        link = connection.link
        self._connections.pop(link, None)
        self._holders.pop(link, None)
        self.node.link_down(self.now(), link, ANOTHER_SERVER)
        link.control.clear()
        link.closing, connection.free = False, True
        secret = self.node.node.secret
        self._ports[link] = FollowerPort(self, connection, secret, self.keeper.identity, self.now())
        connection.pump()

    # -- a standby -------------------------------------------------------------------------------------------------

    def judge(self, follow: Follow) -> tuple[str, str] | None:
        """See :class:`~rowcast.drivers.sockets.follower.LeaderOf`."""
        policy = self.node.node.policy.name
        if not self.keeper.followable:
            return (
                "standby",
                "the state of this server is in JetStream, which needs no standby: start it there, with the same "
                "--state, once this server is gone",
            )
        if follow.release != __version__:
            return "standby", f"expected a standby of release {__version__}, got one of {follow.release}"
        if follow.server == self.keeper.identity:
            return (
                "standby",
                "expected another server, got this one itself, or a copy of its state; give another --state",
            )
        if follow.team and follow.team != self._leads.tenure.team:
            return "standby", "the standby's state is that of another team; give it an empty --state"
        if follow.policy != policy:
            return "standby", f"expected a standby of policy {policy}, got one of {follow.policy}"
        present = None if self._port is None else self._port.follow
        if present is not None and present.server != follow.server and not follow.leads:
            return "standby", f"this server has a standby at {present.address}; stop that first"
        term = self._leads.tenure.term
        if follow.leads and follow.term < term and self.keeper.leads:
            return "standby", f"this server leads in term {term}, and the other one led in term {follow.term}"
        if self._leads.standing is Standing.DEPOSED:
            return "deposed", self.cause
        return None

    def followed(self, port: FollowerPort) -> Followed | None:
        """See :class:`~rowcast.drivers.sockets.follower.LeaderOf`."""
        follow = port.follow
        assert follow is not None
        if follow.leads:
            if follow.team == self._leads.tenure.team:
                self._leads.served_elsewhere(follow.term)
                self._look_at_vote()
            return None
        if self._port is not None:
            before, self._port = self._port, None
            before.connection.close("the standby has come on another connection")
            self._let_go("it has come anew")
        self._port = port
        loop = self._loop

        def tap(number: int, position: int, content: bytes) -> None:
            loop.call_soon_threadsafe(port.group, number, position, content)

        def snapshot(first: int, data: bytes) -> None:
            if data:
                loop.call_soon_threadsafe(port.snapshot, first, data)
            else:
                loop.call_soon_threadsafe(port.connection.close, "no snapshot can be written")

        self.keeper.ship(tap, snapshot)
        self._soon()
        port.promise = self._leads.reserve(follow.term)
        tenure = self._leads.tenure
        return Followed(self.keeper.identity, tenure.team, tenure.term, port.promise)

    def stored(self, port: FollowerPort, position: int) -> None:
        """See :class:`~rowcast.drivers.sockets.follower.LeaderOf`."""
        if port is not self._port:
            return
        leads, now = self._leads, self.now()
        was_settled = leads.settled
        if leads.acknowledged(position):
            self.node.shared(len(leads.rosters))
        if leads.standing is not Standing.ATTACHED:
            follow = port.follow
            assert follow is not None
            if port.caught_up and leads.may_attach(follow.server):
                standby = self._address_of(port, follow.address)
                tenure = leads.with_standby(follow.server, standby, port.promise)
                if tenure is None:
                    port.connection.close("this server went on in another term: come anew")
                else:
                    self.keeper.change(now, tenure)
                    self._soon()
        elif leads.settled and not was_settled:
            standby = leads.tenure.standby
            self._record("standby", peer=standby, what="attached")
            self._says(f"the standby at {standby} has all that there is: from term {leads.tenure.term} on both have it")
        self._on_commit()

    @staticmethod
    def _address_of(port: FollowerPort, address: str) -> str:
        """Where workers find a standby that has said so little as its port."""
        if not address.startswith(":"):
            return address
        host = port.connection.peername[0]
        return f"[{host}]{address}" if ":" in host else f"{host}{address}"

    def _let_go(self, cause: str) -> None:
        """The standby is gone."""
        self._port = None
        self.keeper.ship_nothing()
        leads = self._leads
        if leads.standing is Standing.ATTACHED:
            leads.lost(self.keeper.log.committed_to)
            self._lost_at = self.now()
            self._record("standby", peer=leads.tenure.standby, what="lost", cause=cause)
            self._says(
                f"the standby at {leads.tenure.standby} is gone ({cause}): workers are asked for term {leads.asked}, "
                "and told nothing meanwhile"
            )
            self._ask()

    # -- the vote --------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Say that this server lives, and look whether the other one does."""
        now, port = self.now(), self._port
        late_s = max(now - self._ticked_at - 2 * self._lease_s / LOOKS, 0.0)  # what came meanwhile is still to be read
        self._ticked_at = now
        for each in list(self._ports.values()):
            if each.follow is None and now > each.opened_at + INTRODUCTION_S:
                each.connection.close("no introduction")
        if port is not None:
            port.say(Heartbeat())
            patience_s = self._lease_s * (1 if self._leads.standing is Standing.ATTACHED else PATIENT_LEASES)
            port.heard_at += late_s
            if now - port.heard_at > patience_s:
                port.connection.close(f"it has said nothing for {now - port.heard_at:.1f} s")
        if self._leads.standing is Standing.ASKING:
            if self._leads.hopeless and now - self._asked_at > self._lease_s:
                self._give_up()
            self._ask()
        self._look_at_vote()
        self._ticking = self._loop.call_later(self._lease_s / LOOKS, self._tick)

    def _attended(self) -> None:
        super()._attended()
        if self._leads.standing is Standing.ASKING:
            self._ask()

    def _ask(self) -> None:
        """Ask whoever has come, once in each term."""
        ballot = self._leads.ballot()
        if ballot is None:
            return
        for link, connection in list(self._connections.items()):
            known = link.conversation.state in (HostState.MEMBER, HostState.QUEUED)
            known = known and not any(isinstance(each, FREE) for each in link.control)  # its proof goes first
            if known and not link.closing and self._balloted.get(link) != ballot.term:
                self._balloted[link] = ballot.term
                connection.urge(ballot)

    def _count_votes(self) -> None:
        node = self.node.node
        while node.votes:
            self._leads.hear(*node.votes.popleft())
        if node.team.served_elsewhere:
            self._leads.served_elsewhere(node.team.served_elsewhere)
        self._look_at_vote()

    def _look_at_vote(self) -> None:
        leads = self._leads
        if leads.standing is Standing.DEPOSED:
            self._step_down()
        elif leads.won:
            self._go_on_alone()
        elif leads.hopeless and leads.tenure.leader == self.keeper.identity:
            self._give_up()

    def _go_on_alone(self) -> None:
        leads, now = self._leads, self.now()
        took_over = leads.tenure.leader != self.keeper.identity
        grants = len(leads.grants)
        self.keeper.change(now, leads.alone())
        self._balloted.clear()
        seconds = now - self._lost_at + self.silent_s
        what = "took over" if took_over else "alone"
        self._record("standby", peer="", what=what, seconds=seconds)
        self._says(
            f"{'took over' if took_over else 'goes on alone'} after {seconds:.1f} s, in term {leads.tenure.term}, "
            f"which {grants} workers have granted"
        )
        self._on_commit()
        self._soon()

    def _give_up(self) -> None:
        """This term cannot be won: who has granted it is free again."""
        leads, asked = self._leads, self._leads.asked
        self._withdraw()
        if leads.tenure.leader == self.keeper.identity:
            leads.depose(f"workers have granted term {asked} or a later one to the other server")
            self._step_down()
        else:
            self._asked_at = self.now()
            leads.again()

    def _withdraw(self) -> None:
        withdrawal = self._leads.withdraw()
        if withdrawal is None:
            return
        for link, term in list(self._balloted.items()):
            if term == withdrawal.term and (connection := self._connections.get(link)) is not None:
                connection.urge(withdrawal)

    def give_way(self, cause: str) -> None:
        """Ask no more, and never lead: the other server lives. Who has granted the term is free again."""
        self._withdraw()
        self._leads.depose(cause)
        self.deposed.set()

    def _step_down(self) -> None:
        if not self.deposed.is_set():
            self._record("standby", peer="", what="stepped down", cause=self.cause)
            self.deposed.set()

    def _record(self, event: str, **fields: object) -> None:
        self.node.node.journal.record(
            self.now(), event, **{"term": self._leads.tenure.term, "cause": "", "seconds": 0.0, **fields}
        )
