"""The messages that settle which server leads a team, and those that carry a log to a standby.

See ``docs/protocol.md`` ("A standby") and :mod:`rowcast.wire.messages`. ``p>`` is sent by a standby to the server that
it follows, ``s>`` by a server, ``w>`` by workers only.
"""

from __future__ import annotations

from typing import ClassVar

from rowcast.wire.fields import Claim, Control, Count

__all__ = ["LEADING", "Ballot", "Follow", "Followed", "NewTerm", "Peer", "Piece", "Stored", "Vote", "Withdrawal"]


class Peer(Control, frozen=True):
    """p> First message in place of a hello: I am a server. A challenge of its own follows."""

    KIND: ClassVar[int] = 36


class Follow(Claim, frozen=True):
    """p> Who I am, and the proof: I follow your log, or I tell you that I lead."""

    KIND: ClassVar[int] = 37
    server: bytes  #: 16 random bytes, one value for each folder of state
    nonce: bytes  #: 16 random bytes
    proof: bytes  #: HMAC over both nonces and every other field; empty without a secret
    term: Count  #: the highest term that I know
    leads: bool  #: I lead in this term, and do not follow
    address: str  #: where workers find me, host:port; without a host: the one that I come from
    team: bytes  #: the team whose state I hold; empty: none
    policy: str  #: of the team
    release: str  #: of rowcast


class Followed(Control, frozen=True):
    """s> You follow me; a snapshot and then the log come."""

    KIND: ClassVar[int] = 38
    server: bytes
    team: bytes
    term: Count  #: in which I lead
    promise: Count  #: never ask for this term or a lower one: in it you will be attached


class Piece(Control, frozen=True):
    """s> A piece of a snapshot, or of a group of the log behind it."""

    KIND: ClassVar[int] = 39
    snapshot: bool  #: of a snapshot; else of a group
    number: Count  #: of the group; of a snapshot: of the first group behind it
    data: bytes
    left: Count  #: bytes of it that follow in the next pieces


class Stored(Control, frozen=True):
    """p> The snapshot, and all groups before this number, are on my disk."""

    KIND: ClassVar[int] = 40
    next: Count


class Ballot(Control, frozen=True):
    """s> Grant me this term."""

    KIND: ClassVar[int] = 41
    term: Count
    log_term: Count  #: the term in which my log was written last
    server: bytes


class Vote(Control, frozen=True):
    """w> Whether the term of a ballot is granted."""

    KIND: ClassVar[int] = 42
    term: Count
    granted: bool
    highest: Count  #: the highest term that I have granted to anybody
    served: Count  #: the highest term that I was served in


class Withdrawal(Control, frozen=True):
    """s> I shall never lead in this term: a grant of it is as if it had not been given."""

    KIND: ClassVar[int] = 43
    term: Count
    server: bytes


class NewTerm(Control, frozen=True):
    """s> You are served in this term from now on; and where the standby is."""

    KIND: ClassVar[int] = 44
    term: Count
    standby: str  #: host:port; empty: there is none


LEADING: tuple[type[Control], ...] = (
    Peer,
    Follow,
    Followed,
    Piece,
    Stored,
    Ballot,
    Vote,
    Withdrawal,
    NewTerm,
)
