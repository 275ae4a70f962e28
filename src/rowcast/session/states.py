"""The states of a conversation, on both sides: what may be said in which of them, and what leads from one to another.

What is not in the tables is refused here, and nowhere else. A conversation begins anew with each connection; only that
a worker has joined is kept, by the worker. Messages that no table names are about the work: who may say them when is
the business of those who work.

The form, tables of states and what moves between them, is that of h11 (https://h11.readthedocs.io).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from rowcast.errors import LocalProtocolError, RemoteProtocolError
from rowcast.wire import (
    Ballot,
    Challenge,
    Heartbeat,
    Hello,
    LayoutTable,
    Leave,
    Message,
    NewTerm,
    Peer,
    Probe,
    Proof,
    Refusal,
    Served,
    Start,
    Subtree,
    Through,
    Vote,
    Waiting,
    Welcome,
    Withdrawal,
)

__all__ = ["CLIENT", "HOST", "MOVES", "ClientState", "Conversation", "Event", "HostState", "Rights"]


class _State(enum.Enum):
    """A member is looked up for every message: by its identity, and not by a call for its name."""

    __hash__ = object.__hash__


class ClientState(_State):
    """What a worker knows of the server at the other end."""

    UNPROVEN = "the server has not proved that it knows the secret"
    PROVEN = "the server has not let this worker in yet"
    WELCOMED = "this worker is let in, and has not started"
    JOINED = "this worker has joined"
    SERVED = "this worker may ask for inferences"
    APART = "there is no connection"


class HostState(_State):
    """What the server knows of who has connected."""

    STRANGER = "nobody has introduced himself"
    QUEUED = "the worker waits until it is let in"
    MEMBER = "the worker is a member"
    ASKER = "the worker asks for inferences"
    PROBER = "the other end measures the link"


class Event(_State):
    """What moves a conversation on: something that was said, and was right."""

    PROVED = "the server has proved that it knows the secret"
    QUEUED = "the worker must wait"
    LET_IN = "the worker is let in, and starts afresh or goes on starting"
    RESUMED = "the worker that has joined before is let in again"
    STARTED = "the parameters are the team's"
    SERVED = "the worker is served"
    PROBED = "the other end may measure the link"
    LOST = "the connection is gone"


@dataclass(frozen=True)
class Rights:
    """What may be said in a state.

    Attributes:
        session: messages of the conversation itself.
        work: whether all others, too.
    """

    session: frozenset[type[Message]]
    work: bool = False


_LIVING = (Heartbeat, Leave, Refusal, Waiting, Ballot, Withdrawal, NewTerm)

#: What a server may say to a worker.
CLIENT: Mapping[ClientState, Rights] = {
    ClientState.UNPROVEN: Rights(frozenset({Challenge, Proof, Heartbeat})),
    ClientState.PROVEN: Rights(frozenset({Challenge, Through, Welcome, Served, LayoutTable, *_LIVING})),
    ClientState.WELCOMED: Rights(frozenset({Start, *_LIVING}), work=True),
    ClientState.JOINED: Rights(frozenset(_LIVING), work=True),
    ClientState.SERVED: Rights(frozenset(_LIVING), work=True),
    ClientState.APART: Rights(frozenset()),
}

#: What may be said to a server.
HOST: Mapping[HostState, Rights] = {
    HostState.STRANGER: Rights(frozenset({Hello, Leave, Peer})),
    HostState.QUEUED: Rights(frozenset({Heartbeat, Leave, Subtree, Vote})),
    HostState.MEMBER: Rights(frozenset({Heartbeat, LayoutTable, Leave, Refusal, Subtree, Vote}), work=True),
    HostState.ASKER: Rights(frozenset({Heartbeat, Leave, Refusal}), work=True),
    HostState.PROBER: Rights(frozenset({Probe, Leave})),
}

#: What leads from a state to which other one.
MOVES: Mapping[ClientState | HostState, Mapping[Event, ClientState | HostState]] = {
    ClientState.UNPROVEN: {Event.PROVED: ClientState.PROVEN, Event.LOST: ClientState.APART},
    ClientState.PROVEN: {
        Event.LET_IN: ClientState.WELCOMED,
        Event.RESUMED: ClientState.JOINED,
        Event.SERVED: ClientState.SERVED,
        Event.LOST: ClientState.APART,
    },
    ClientState.WELCOMED: {Event.STARTED: ClientState.JOINED, Event.LOST: ClientState.APART},
    ClientState.JOINED: {Event.LOST: ClientState.APART},
    ClientState.SERVED: {Event.LOST: ClientState.APART},
    ClientState.APART: {},
    HostState.STRANGER: {
        Event.QUEUED: HostState.QUEUED,
        Event.LET_IN: HostState.MEMBER,
        Event.SERVED: HostState.ASKER,
        Event.PROBED: HostState.PROBER,
    },
    HostState.QUEUED: {Event.QUEUED: HostState.QUEUED, Event.LET_IN: HostState.MEMBER},
    HostState.MEMBER: {},
    HostState.ASKER: {},
    HostState.PROBER: {},
}

_RIGHTS: Mapping[ClientState | HostState, Rights] = dict([*CLIENT.items(), *HOST.items()])

#: States of a worker that is let in; looked up several times for every message.
_LET_IN: frozenset[ClientState | HostState] = frozenset((ClientState.WELCOMED, ClientState.JOINED, ClientState.SERVED))

#: What some table names.
_SESSION = frozenset().union(*(rights.session for rights in _RIGHTS.values()))


class Conversation:
    """The conversation on one connection, as one side sees it.

    Args:
        state: where it begins.

    Attributes:
        state: where it is.
    """

    __slots__ = ("state",)

    def __init__(self, state: ClientState | HostState) -> None:
        self.state = state

    @property
    def is_let_in(self) -> bool:
        """At a worker: the server has let it in, on the connection that stands."""
        return self.state in _LET_IN

    def expect(self, message: Message) -> None:
        """Check that a message has a place in the conversation.

        Raises:
            RemoteProtocolError: it has none in this state.
        """
        rights = _RIGHTS[self.state]
        kind = type(message)
        if kind in rights.session or (rights.work and kind not in _SESSION):
            return
        names = ", ".join(sorted(one.__name__ for one in rights.session)) or "nothing"
        more = ", or a message about the work" if rights.work else ""
        raise RemoteProtocolError(f"expected {names}{more}, because {self.state.value}; got {kind.__name__}")

    def move(self, event: Event) -> None:
        """Go on to the state that ``event`` leads to.

        Raises:
            LocalProtocolError: it leads nowhere from here; this side has confused its own turns.
        """
        state = MOVES[self.state].get(event)
        if state is None:
            raise LocalProtocolError(f"conversation: {event.value}, which cannot be: {self.state.value}")
        self.state = state
