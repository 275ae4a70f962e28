"""What has a place in a conversation: the two tables, state by state."""

from __future__ import annotations

import pytest

from rowcast.errors import RemoteProtocolError
from rowcast.session.states import CLIENT, HOST, ClientState, HostState, expect
from rowcast.wire import Ack, Hello, Leave, Start, messages

KINDS = tuple(messages.CONTROL.values())
STATES = (*ClientState, *HostState)


@pytest.mark.parametrize("state", STATES, ids=lambda state: f"{type(state).__name__}.{state.name}")
def test_every_message_has_a_place_or_is_refused_with_what_was_expected(state):
    rights = {**CLIENT, **HOST}[state]
    named = frozenset().union(*(one.session for one in (*CLIENT.values(), *HOST.values())))
    for kind in KINDS:
        message = kind.__new__(kind)
        if kind in rights.session or (rights.work and kind not in named):
            expect(state, message)
        else:
            with pytest.raises(RemoteProtocolError, match=rf"because {state.value}; got {kind.__name__}"):
                expect(state, message)


def test_the_tables_cover_every_state():
    assert set(CLIENT) == set(ClientState) and set(HOST) == set(HostState)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (HostState.STRANGER, Ack(1)),
        (HostState.QUEUED, Hello.__new__(Hello)),
        (HostState.MEMBER, Hello.__new__(Hello)),
        (ClientState.UNPROVEN, Leave("bye")),
        (ClientState.PROVEN, Ack(1)),
        (ClientState.JOINED, Start(1, 1, 1)),
    ],
)
def test_out_of_turn(state, message):
    with pytest.raises(RemoteProtocolError):
        expect(state, message)
