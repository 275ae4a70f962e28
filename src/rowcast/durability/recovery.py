"""A server is built again: from the state of a snapshot, and the inputs that came behind it.

What the server sent then is worked out again, and compared with the checksums in the log. It is the same where the same
release runs on the same kind of machine. Where it is not (floating point sums may come out otherwise on another
processor), what this worker was sent is not known: it is forgotten, so that it joins anew and receives the parameters.
What it sends counts once all the same, for how many of its frames were applied is known.

Connections are gone, of course; workers come back and resume, as they do when a link was cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rowcast import errors
from rowcast.config import LinkSettings, Secret, ServerSettings
from rowcast.durability import records
from rowcast.durability.recorded import Appendix, Drawn, RecordedServer, check_of, externals_of, roster_of
from rowcast.durability.records import Record, Timed
from rowcast.durability.state import State, capture, restore
from rowcast.errors import LinkLost, RowcastError, StateDamaged
from rowcast.journal import Journal
from rowcast.session import Link
from rowcast.session.voter import Tenure
from rowcast.training import ServerNode
from rowcast.training.relay import RelayNode

__all__ = ["Recovery", "Replay", "recover"]


@dataclass
class Recovery:
    """A server that was built again.

    Attributes:
        node: the server.
        drawn: its source of random bytes.
        links: connections that it believes to stand, by number; all are gone.
        count: connections that there were, all together.
        now: the time of the newest input (s).
        inputs: how many were taken from the log.
        unsure: workers to whom something else would be sent now than was sent.
        rosters: sessions of the members, at the positions that may be the last which a standby has as well.
    """

    node: ServerNode
    drawn: Drawn
    links: dict[int, Link]
    count: int
    now: float
    inputs: int
    unsure: list[str]
    rosters: list[frozenset[bytes]]

    def resume(self, log: Appendix, now: float, *, sessions: bool = True) -> RecordedServer:
        """Go on: all connections are gone, which is the first thing that is noted.

        Args:
            log: where inputs are appended from now on.
            now: the time (s), not before :attr:`now`.
            sessions: workers resume where they were. Otherwise all join anew: where inputs are missing behind the
                snapshot, what they were sent since then is not known.
        """
        server = RecordedServer(self.node, log, self.drawn, links=self.links, count=self.count)
        for link in list(self.links.values()):
            server.link_down(now, link, "the server was restarted")
        for name in sorted({*self.unsure} & {*self.node.members} if sessions else self.node.members):
            server.forget(now, name, "what it was sent before the server was restarted is not known")
        return server


def recover(
    state: State,
    inputs: Iterable[Record],
    *,
    journal: Journal,
    secret: bytes | None,
    settings: ServerSettings,
    links: LinkSettings,
    source: Callable[[int], bytes],
) -> Recovery:
    """Build a server again.

    Args:
        state: of a snapshot.
        inputs: that came behind it.
        journal: where events are recorded from now on; what happens again is not.
        secret: as the server had it.
        settings, links: from now on; the inputs are taken with those of then.
        source: of random bytes.

    Raises:
        StateDamaged: the state or an input cannot be read, or the inputs are not those of this state.
    """
    replay = Replay(state, journal=journal, secret=secret, source=source)
    for record in inputs:
        replay.take(record)
    return replay.end(settings, links)


def _with_settings(
    node: ServerNode,
    standing: dict[int, Link],
    externals: dict[str, object],
    settings: ServerSettings,
    links: LinkSettings,
) -> tuple[ServerNode, dict[int, Link]]:
    """The same server with other settings, wherever they are held, and its connections."""
    if (node.settings, node.team.links) == (settings, links):
        return node, standing
    held = {**externals, "settings": node.settings, "links": node.team.links}
    state = capture([node, standing], held)
    changed, standing = restore(state, {**externals, "settings": settings, "links": links})
    return changed, standing


def _error(name: str, text: str) -> RowcastError:
    """An error of this library by its name."""
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, RowcastError)):
        raise StateDamaged(f"log: expected the name of an error, got {name!r}")
    return kind(text)


_OF_A_LINK = (records.Heard, records.Secured, records.Blamed, records.Expelled, records.Closed)
_OfALink = records.Heard | records.Secured | records.Blamed | records.Expelled | records.Closed


class Replay:
    """Gives a server its inputs once more.

    Args:
        state, journal, secret, source: see :func:`recover`.

    Attributes:
        node: the server.
        links: its connections, by number.
        now: the time of the newest input (s).
        inputs: taken so far.
        rosters: see :class:`Recovery`.
    """

    def __init__(self, state: State, *, journal: Journal, secret: bytes | None, source: Callable[[int], bytes]) -> None:
        self._drawn = Drawn(source)
        self._externals = {
            "journal": journal,
            "drawn": self._drawn,
            "secret": None if secret is None else Secret(secret),
        }
        root = restore(state, self._externals)
        self.node: ServerNode = root["node"]
        self.links: dict[int, Link] = root["links"]
        self.count: int = root["count"]
        self.now: float = root["now"]
        self.rosters: list[frozenset[bytes]] = root["rosters"]
        self.unsure: set[str] = set(root["unsure"])
        self.inputs = 0
        self._roster = roster_of(self.node)
        self._fault = ""
        self._journal = journal

    @property
    def settled(self) -> bool:
        """The newest input ended as it did then, or the next record may say so."""
        return not self._fault

    def trim(self) -> None:
        """Of the members only those count that there are now: what was heard so far, the other server has too."""
        del self.rosters[:-1]

    def capture(self) -> State:
        """The state as it is now, to go on from there.

        Raises:
            StateDamaged: see :meth:`settle`.
        """
        self.settle()
        root = {
            "node": self.node,
            "links": self.links,
            "count": self.count,
            "now": self.now,
            "rosters": self.rosters,
            "unsure": sorted(self.unsure),
        }
        return capture(root, externals_of(self.node, self._drawn))

    def end(self, settings: ServerSettings, links: LinkSettings) -> Recovery:
        """There are no more inputs: the server as it is now, with these settings from now on.

        Raises:
            StateDamaged: see :meth:`settle`.
        """
        self.settle()
        self._drawn.give(None)
        self._drawn.take()
        node, standing = _with_settings(self.node, self.links, self._externals, settings, links)
        node.notices.clear()
        node.votes.clear()
        node.team.served_elsewhere = 0  # workers say it again
        unsure = sorted(self.unsure)
        return Recovery(node, self._drawn, standing, self.count, self.now, self.inputs, unsure, self.rosters)

    def take(self, record: Record) -> None:
        """One input, without a word to the journal.

        Raises:
            StateDamaged: it is of no connection that stands, or ends in a fault that it did not end in then.
        """
        with self._journal.resting():
            self._once_more(record)
        roster = roster_of(self.node)
        if roster != self._roster:
            self._roster = roster
            self.rosters.append(frozenset(roster))

    def _once_more(self, record: Record) -> None:
        if isinstance(record, records.Failed):
            if self._fault != record.error:
                raise StateDamaged(
                    f"log: expected that input {self.inputs} fails with {record.error}, got {self._fault}"
                )
            self._fault = ""
            return
        self.settle()
        self.inputs += 1
        if isinstance(record, Timed):
            self.now = max(self.now, record.now)
            self._drawn.give(record.drawn)
        try:
            self._take(record)
        except StateDamaged:
            raise
        except Exception as error:  # if it is what happened then, the next record says so
            self._fault = type(error).__name__
        self._drawn.take()

    def settle(self) -> None:
        """Nothing follows that could explain a fault.

        Raises:
            StateDamaged: there was one.
        """
        if self._fault:
            raise StateDamaged(f"log: expected no fault at input {self.inputs}, got {self._fault}")

    def _take(self, record: Record) -> None:
        if isinstance(record, records.Arrived):
            self._arrive(record)
        elif isinstance(record, records.Polled):
            self._poll(record)
        elif isinstance(record, Timed):
            self._take_timed(record)
        elif isinstance(record, records.Farewell):
            self.node.farewell(self._link(record.link), record.cause)
        elif isinstance(record, records.Swept):
            self.node.take_ready()
        elif isinstance(record, records.Shared):
            del self.rosters[: -record.kept]
        else:
            self.node.next_wake()

    def _link(self, number: int) -> Link:
        link = self.links.get(number)
        if link is None:
            raise StateDamaged(f"log: expected inputs of connections that stand, got one of connection {number}")
        return link

    def _take_timed(self, record: Timed) -> None:
        node, now = self.node, record.now
        if isinstance(record, records.Ticked):
            node.on_timer(now)
        elif isinstance(record, records.Opened):
            self._open(record)
        elif isinstance(record, _OF_A_LINK):
            self._take_of_a_link(record, self._link(record.link))
        elif isinstance(record, records.Told):
            node.trouble(now, record.kind, record.text)
        elif isinstance(record, records.Forgot):
            node.forget(now, record.name, record.cause)
        elif isinstance(record, records.Led):
            tenure = Tenure(record.term, record.team, record.leader, record.follower, record.standby)
            node.lead(now, tenure)
            if not record.follower:
                self.rosters.clear()
            if self.rosters[-1:] != [members := frozenset(roster_of(node))]:
                self.rosters.append(members)
        elif isinstance(record, records.Listened):
            node.listen(now)
        elif isinstance(record, records.Dialled | records.Unanswered):
            self._take_of_a_relay(record)
        else:
            node.stop(now)

    def _take_of_a_relay(self, record: records.Dialled | records.Unanswered) -> None:
        node = self.node
        if not isinstance(node, RelayNode):
            raise StateDamaged("log: expected inputs of a server, got one of a relay")
        if isinstance(record, records.Dialled):
            node.connecting(record.now, record.address)
        else:
            node.connect_failed(record.now, record.cause)

    def _take_of_a_link(self, record: _OfALink, link: Link) -> None:
        node, now = self.node, record.now
        if isinstance(record, records.Heard):
            node.heard(now, link, (record.here, record.announced))
        elif isinstance(record, records.Secured):
            node.secured(now, link, record.channel, record.identity)
        elif isinstance(record, records.Blamed):
            node.blame(now, link, _error(record.error, record.text))
        elif isinstance(record, records.Expelled):
            node.expel(now, link, record.cause)
        else:
            node.link_down(now, link, record.cause)
            del self.links[record.link]

    def _arrive(self, record: records.Arrived) -> None:
        link = self._link(record.link)
        link.decoder.buffer(len(record.data))[: len(record.data)] = record.data
        self.node.arrived(record.now, link, len(record.data))

    def _open(self, record: records.Opened) -> None:
        self.count = record.link
        link = Link(**record.about)  # type: ignore[arg-type]
        try:
            self.node.link_up(record.now, link)
        except LinkLost:
            return
        self.links[record.link] = link

    def _poll(self, record: records.Polled) -> None:
        link = self._link(record.link)
        message = self.node.poll(record.now, link)
        if message is not None:
            link.encoder.encode(message)
        if check_of(message) != record.check:
            name = next((one.name for one in self.node.members.values() if one.link is link), None)
            if name is not None:
                self.unsure.add(name)
