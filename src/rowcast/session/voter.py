"""Which server leads a team, as each worker has a say in it: terms, and who was granted one."""

from __future__ import annotations

from dataclasses import dataclass

from rowcast.wire import Ballot, Vote, Withdrawal

__all__ = ["Tenure", "Voter"]


@dataclass(frozen=True)
class Tenure:
    """Who leads a team, as its log has it.

    Attributes:
        term: the fencing number: nobody leads in a lower one any longer; 0: nobody has led yet.
        team: 16 bytes that name the team, for good.
        leader: 16 bytes that name the folder of the server that leads.
        follower: the same of the standby without which nothing is told to anybody; empty: the leader leads alone.
        standby: where workers find that standby, host:port.
    """

    term: int = 0
    team: bytes = b""
    leader: bytes = b""
    follower: bytes = b""
    standby: str = ""


class Voter:
    """What a worker has granted to servers, and in which term it was served.

    It grants a term to a server if it is above all that it has granted or was served in, and the server's log was
    written in a term that is no lower than the highest that it granted to another server or was served in: so a
    standby that was left behind, by a server that went on alone, never leads.

    Attributes:
        team: the team that it is a member of; empty: none whose server counts terms.
        served: the highest term of that team in which it was served.
        abstains: it may have forgotten what it granted (its process was killed): it grants nothing until it is served.
    """

    def __init__(self) -> None:
        self.team = b""
        self.served = 0
        self.abstains = False
        self._granted: list[tuple[int, bytes]] = []

    @property
    def highest(self) -> int:
        """The highest term that it has granted, or was served in."""
        return max([self.served, *(term for term, _ in self._granted)])

    def vote(self, ballot: Ballot) -> Vote:
        """Answer a server that asks for a term."""
        highest = self.highest
        granted = (ballot.term, ballot.server) in self._granted and ballot.term > self.served
        if not granted and not self.abstains and ballot.term > highest:
            others = [term for term, server in self._granted if server != ballot.server]
            if ballot.log_term >= max([self.served, *others]):
                self._granted.append((ballot.term, ballot.server))
                granted = True
        return Vote(ballot.term, granted, highest, self.served)

    def withdrawn(self, withdrawal: Withdrawal) -> None:
        """A server gives a grant back."""
        self._granted = [each for each in self._granted if each != (withdrawal.term, withdrawal.server)]

    def accepts(self, team: bytes, term: int) -> bool:
        """Whether a server may serve it in this term: not one that another server has followed."""
        return team != self.team or term >= self.served

    def serve(self, team: bytes, term: int) -> None:
        """It is served by a server that it :meth:`accepts`."""
        if team != self.team:
            if self.team:
                self._granted.clear()
            self.team, self.served = team, 0
        self.served = max(self.served, term)
        self.abstains = False
        self._granted = [each for each in self._granted if each[0] > self.served]
