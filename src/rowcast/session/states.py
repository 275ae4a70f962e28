"""The states of a conversation, on both sides, and what may be said to each in which of them.

What is not in the table is refused here, and nowhere else. A conversation begins anew with each connection; only
that a worker has joined is kept. Messages that no table names are about the work: who may say them when is the business
of those who work.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from rowcast.errors import RemoteProtocolError
from rowcast.wire import (
    Challenge,
    Heartbeat,
    Hello,
    LayoutTable,
    Leave,
    Message,
    Proof,
    Refusal,
    Start,
    Waiting,
    Welcome,
)

__all__ = ["CLIENT", "HOST", "ClientState", "HostState", "Rights", "expect"]


class _State(enum.Enum):
    """A member is looked up for every message: by its identity, and not by a call for its name."""

    __hash__ = object.__hash__


class ClientState(_State):
    """What a worker knows of the server at the other end."""

    UNPROVEN = "the server has not proved that it knows the secret"
    PROVEN = "the server has not let this worker in yet"
    WELCOMED = "this worker is let in, and has not started"
    JOINED = "this worker has joined"


class HostState(_State):
    """What the server knows of who has connected."""

    STRANGER = "nobody has introduced himself"
    QUEUED = "the worker waits until it is let in"
    MEMBER = "the worker is a member"


@dataclass(frozen=True)
class Rights:
    """What may be said in a state.

    Attributes:
        session: messages of the conversation itself.
        work: whether all others, too.
    """

    session: frozenset[type[Message]]
    work: bool = False


_LIVING = (Heartbeat, Leave, Refusal, Waiting)

#: What a server may say to a worker.
CLIENT: Mapping[ClientState, Rights] = {
    ClientState.UNPROVEN: Rights(frozenset({Challenge, Proof, Heartbeat})),
    ClientState.PROVEN: Rights(frozenset({Challenge, Welcome, LayoutTable, *_LIVING})),
    ClientState.WELCOMED: Rights(frozenset({Start, *_LIVING}), work=True),
    ClientState.JOINED: Rights(frozenset(_LIVING), work=True),
}

#: What may be said to a server.
HOST: Mapping[HostState, Rights] = {
    HostState.STRANGER: Rights(frozenset({Hello, Leave})),
    HostState.QUEUED: Rights(frozenset({Heartbeat, Leave})),
    HostState.MEMBER: Rights(frozenset({Heartbeat, LayoutTable, Leave, Refusal}), work=True),
}

_RIGHTS: Mapping[ClientState | HostState, Rights] = dict([*CLIENT.items(), *HOST.items()])

#: What some table names.
_SESSION = frozenset().union(*(rights.session for rights in _RIGHTS.values()))


def expect(state: ClientState | HostState, message: Message) -> None:
    """Check that a message has a place in the conversation.

    Raises:
        RemoteProtocolError: it has none in this state.
    """
    rights = _RIGHTS[state]
    kind = type(message)
    if kind in rights.session or (rights.work and kind not in _SESSION):
        return
    names = ", ".join(sorted(one.__name__ for one in rights.session))
    more = ", or a message about the work" if rights.work else ""
    raise RemoteProtocolError(f"expected {names}{more}, because {state.value}; got {kind.__name__}")
