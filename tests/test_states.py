"""What has a place in a conversation, and what moves it on: the tables, state by state."""

from __future__ import annotations

import pytest

from rowcast.errors import LocalProtocolError, RemoteProtocolError
from rowcast.session.states import CLIENT, HOST, MOVES, ClientState, Conversation, Event, HostState
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
            Conversation(state).expect(message)
        else:
            with pytest.raises(RemoteProtocolError, match=rf"because {state.value}; got {kind.__name__}"):
                Conversation(state).expect(message)


def test_the_tables_cover_every_state():
    assert set(CLIENT) == set(ClientState) and set(HOST) == set(HostState) and set(MOVES) == set(STATES)


@pytest.mark.parametrize("state", STATES, ids=lambda state: f"{type(state).__name__}.{state.name}")
@pytest.mark.parametrize("event", Event, ids=lambda event: event.name)
def test_an_event_leads_to_a_state_of_the_same_side_or_is_refused_and_leads_nowhere(state, event):
    conversation = Conversation(state)
    if event in MOVES[state]:
        conversation.move(event)
        assert conversation.state is MOVES[state][event] and type(conversation.state) is type(state)
        return
    with pytest.raises(LocalProtocolError, match=event.value):
        conversation.move(event)
    assert conversation.state is state


@pytest.mark.parametrize("begins", [ClientState.UNPROVEN, ClientState.PROVEN, HostState.STRANGER])
def test_every_state_of_a_side_is_reached_and_none_left_and_entered_again(begins):
    """A conversation only goes forward: it cannot be led in a circle."""
    reached, waiting = {begins}, [(begins, (begins,))]
    while waiting:
        state, way = waiting.pop()
        for after in set(MOVES[state].values()) - {state}:
            assert after not in way, way
            reached.add(after)
            waiting.append((after, (*way, after)))
    assert reached | {ClientState.UNPROVEN, ClientState.PROVEN} >= set(type(begins))


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
        Conversation(state).expect(message)
