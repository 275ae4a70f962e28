"""Which of two servers leads a team: the server's side of the vote, whichever of the two it is.

One leads, and tells nobody anything that is not in its log and in that of its standby (*attached*). When one of the two
is gone, the other may go on *alone*, once a majority has granted it the next term: of the two servers and the members
of the team, of whom each grants a term to one server only (:class:`rowcast.session.voter.Voter`). Two majorities have
somebody in common. Who leads in a term is in the log before anybody is told anything in that term.

The members are those that the log has. A server that asks does not know how much of its log the other one has: it needs
a majority of the members as they were at each position from the last on that both are known to have.

The rules are those of leader election with terms in Raft (Ongaro and Ousterhout 2014, sections 5.2 and 5.4), with
workers as voters that hold no log, and one voter of the log itself: the attached standby.

It reads no clock, and knows no socket.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable

from rowcast.errors import ConfigError, LocalProtocolError
from rowcast.session.voter import Tenure
from rowcast.wire import Ballot, Vote, Withdrawal

__all__ = ["Leadership", "Standing", "majority_of"]


class Standing(enum.Enum):
    """What a server may do."""

    ALONE = "it leads alone"
    ATTACHED = "it leads, and its standby has all that it tells"
    ASKING = "it asks for the next term, and tells nothing"
    DEPOSED = "it never leads again"


#: The other server may have led in a few terms more than is known, when an operator decides.
FORCED = 1 << 20


def majority_of(members: int) -> int:
    """How many of the two servers and so many members are a majority."""
    return (members + 2) // 2 + 1


class Leadership:
    """The vote, at a server that leads or would.

    Args:
        tenure: the newest of the server's log.
        server: 16 bytes that name this server.
        rosters: sessions of the members, at each position of the log that may be the last which both servers have.

        promised: this server asks for terms above this one only.
        forced: an operator says that it leads, whatever the other one does: see :meth:`take_over`.

    Attributes:
        tenure: who leads, as the log has it.
        standing: what this server may do.
        asked: the term that it asks for, while it does.
        grants: sessions that have granted it.
        cause: why it never leads again.

    Raises:
        ConfigError: the log is neither that of the server that led, nor that of an attached standby.
    """

    def __init__(
        self,
        tenure: Tenure,
        server: bytes,
        rosters: Iterable[frozenset[bytes]],
        *,
        promised: int = 0,
        forced: bool = False,
    ) -> None:
        self.tenure = tenure
        self.server = server
        self.asked = 0
        self.cause = ""
        self.grants: set[bytes] = set()
        self._refusals: set[bytes] = set()
        self._highest = max(tenure.term, promised)
        self._members: deque[tuple[int, frozenset[bytes]]] = deque((0, members) for members in rosters)
        self._since = self._acked = self._floor = 0
        if forced or tenure.term == 0 or (tenure.leader == server and not tenure.follower):
            self.standing = Standing.ALONE
        elif server in (tenure.leader, tenure.follower):
            self.standing = Standing.ASKING
            self._ask()
        else:
            raise ConfigError(
                "state: it is that of a standby that was not attached, or a copy of another server's; a newer one may "
                "be where that server is: start the standby again with --standby-of, or, if that server is lost for "
                "good, this one with --take-over"
            )

    # -- what may be told ------------------------------------------------------------------------------------------

    def committed(self, here: int) -> int:
        """Up to which position of the log what follows may be told.

        Args:
            here: up to which position the log is on this server's disk.
        """
        if self.standing is Standing.ALONE:
            return here if here >= self._since else min(here, self._floor)
        if self.standing is Standing.ATTACHED and self._acked >= self._since:
            return min(here, self._acked)
        return min(here, self._floor)

    def acknowledged(self, position: int) -> bool:
        """The standby has the log up to there on its disk; whether fewer :attr:`rosters` count now."""
        self._acked = max(self._acked, position)
        before = len(self._members)
        if self.standing is Standing.ATTACHED and self._acked >= self._since:
            while len(self._members) > 1 and self._members[1][0] <= self._acked:
                self._members.popleft()
        return len(self._members) < before

    def roster(self, position: int, members: frozenset[bytes]) -> None:
        """From this position of the log on these are the members.

        What changes while this server asks, the other one does not know: it counts from the next :meth:`led` on.
        """
        if self.standing is Standing.ALONE:
            self._members.clear()  # nobody else may lead before a standby is attached, whose log begins behind this
        if self.standing in (Standing.ALONE, Standing.ATTACHED):
            self._members.append((position, members))

    @property
    def settled(self) -> bool:
        """What the newest tenure asks for is there: with a standby, this has stored that it is one."""
        return self.standing is Standing.ALONE or (self.standing is Standing.ATTACHED and self._acked >= self._since)

    @property
    def rosters(self) -> list[frozenset[bytes]]:
        """What another life of this server needs: see the arguments."""
        return [members for _, members in self._members]

    # -- terms -----------------------------------------------------------------------------------------------------

    def first(self, team: bytes) -> Tenure:
        """How the team is led that begins here."""
        return Tenure(1, team, self.server)

    def reserve(self, highest: int) -> int:
        """The term in which a standby will be attached; it must have promised, on its disk, to ask for no such term.

        Otherwise the log of a server that nobody hears could be of a higher term than that of the one that leads.

        Args:
            highest: the highest term that the standby knows, or has promised.
        """
        self._highest = max(self._highest, highest)
        self._highest = self._next_term()
        return self._highest

    def may_attach(self, follower: bytes) -> bool:
        """Whether a server that has caught up may become the standby without a vote.

        While this server asks, only the other of the two may: it has promised to ask for no lower term, and a third
        one could not speak for it.
        """
        other = self.tenure.follower if self.tenure.leader == self.server else self.tenure.leader
        return self.standing is Standing.ALONE or (self.standing is Standing.ASKING and follower == other)

    def with_standby(self, follower: bytes, standby: str, term: int) -> Tenure | None:
        """How the team is led once a standby has caught up; ``None``: it must promise a higher term.

        Args:
            follower: names it.
            standby: where workers find it.
            term: that was reserved, and that it has promised.
        """
        if term <= self.tenure.term:
            return None
        return Tenure(term, self.tenure.team, self.server, follower, standby)

    def alone(self) -> Tenure:
        """How the team is led by the server that has won its vote.

        Raises:
            LocalProtocolError: it has not.
        """
        if not self.won:
            raise LocalProtocolError("leadership: expected a majority, got none")
        return Tenure(self.asked, self.tenure.team, self.server)

    def led(self, tenure: Tenure, position: int, here: int, members: frozenset[bytes]) -> None:
        """What was worked out above is in the log now.

        Args:
            tenure: which.
            position: in the log.
            here: up to which position the log is on the disk.
            members: of the team, as they are now.
        """
        if self.standing is Standing.DEPOSED:
            raise LocalProtocolError(f"leadership: it never leads again: {self.cause}")
        told = self.committed(here)
        # What comes before a standby is attached needs it for nothing if this server led alone until now.
        lone = self.standing is Standing.ALONE and here >= self._since and bool(tenure.follower)
        self._floor = position - 1 if lone else told
        self._since = position
        self.tenure = tenure
        self._highest = max(self._highest, tenure.term)
        if tenure.follower:
            self.standing = Standing.ATTACHED
        else:
            self.standing = Standing.ALONE
            self._members.clear()
        if not self._members or self._members[-1][1] != members:
            self._members.append((position, members))
        self.asked = 0

    def _next_term(self) -> int:
        return max(self._highest, self.tenure.term, self.asked) + 1

    # -- the vote --------------------------------------------------------------------------------------------------

    def lost(self, here: int) -> None:
        """The other server is gone; nothing more is told before the vote is won, or it is attached again.

        Args:
            here: up to which position the log is on the disk.
        """
        if self.standing is Standing.ATTACHED:
            self._floor = self.committed(here)
            self.standing = Standing.ASKING
            self._ask()

    def again(self) -> None:
        """Ask for a higher term than before, since that one cannot be won any more."""
        if self.standing is Standing.ASKING:
            self._ask()

    def _ask(self) -> None:
        self.asked = self._next_term()
        self.grants.clear()
        self._refusals.clear()

    def ballot(self) -> Ballot | None:
        """What members are asked; ``None``: nothing."""
        if self.standing is not Standing.ASKING:
            return None
        return Ballot(self.asked, self.tenure.term, self.server)

    def hear(self, session: bytes, vote: Vote) -> None:
        """A member answers."""
        if vote.served > self.tenure.term:
            self.served_elsewhere(vote.served)
            return
        self._highest = max(self._highest, vote.highest)
        if self.standing is not Standing.ASKING or vote.term != self.asked:
            return
        if vote.granted:
            self.grants.add(session)
        elif vote.highest > self.tenure.term:  # it is bound to the other server; otherwise it only cannot tell
            self._refusals.add(session)

    @property
    def won(self) -> bool:
        """A majority has granted the term, whichever of the members count."""
        return self.standing is Standing.ASKING and all(
            1 + len(self.grants & members) >= majority_of(len(members)) for _, members in self._members
        )

    @property
    def hopeless(self) -> bool:
        """So many are bound to the other server that the term cannot be won."""
        return self.standing is Standing.ASKING and any(
            members & self._refusals and 1 + len(members - self._refusals) < majority_of(len(members))
            for _, members in self._members
        )

    @property
    def missing(self) -> int:
        """How many grants the vote lacks."""
        return max(majority_of(len(members)) - 1 - len(self.grants & members) for _, members in self._members)

    def withdraw(self) -> Withdrawal | None:
        """What those are told who have granted a term that this server gives up; ``None``: it asks for none."""
        return Withdrawal(self.asked, self.server) if self.standing is Standing.ASKING else None

    def served_elsewhere(self, term: int) -> None:
        """The other server leads in this term, or somebody was served in it."""
        if term > self.tenure.term:
            self.depose(f"the other server leads in term {term}; this one led in term {self.tenure.term}")

    def depose(self, cause: str) -> None:
        """Never lead again."""
        if self.standing is not Standing.DEPOSED:
            self._floor = 0
            self.standing = Standing.DEPOSED
            self.cause = cause

    def take_over(self) -> Tenure:
        """How the team is led by a server to which an operator has given it, whatever the other one does."""
        return Tenure(self._next_term() + FORCED, self.tenure.team, self.server)
