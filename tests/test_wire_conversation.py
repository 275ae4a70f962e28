"""Garbage that reads well: messages that have no place in the conversation cost one link, and nobody else anything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.codecs import codec_by_id
from rowcast.config import ServerSettings
from rowcast.testing import VirtualTeam
from rowcast.wire import Ack, Rows, encode
from teams import LAYOUT, worker
from wire_messages import changed, control_messages, prove, row_messages


def team_at(time, policy="asp"):
    """Two workers in the middle of it: joining, computing, pushing, waiting or pulling, as the time falls."""
    scripts = [
        worker("robot0", iterations=10_000, compute_s=0.05, rate_bps=1e5, delay_s=0.01),
        worker("robot1", iterations=10_000, compute_s=0.05, rate_bps=1e5, delay_s=0.01),
    ]
    team = VirtualTeam(LAYOUT, policy, scripts, server_settings=ServerSettings(expected_workers=1, absence_limit_s=0.5))
    team.run(time)
    return team


huge = st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1])


@st.composite
def garbage(draw):
    """Messages of every kind, many of them with numbers that may just fit."""
    message = draw(st.one_of(control_messages(), row_messages(LAYOUT.rows)))
    changes = {}
    for name in ("number", "iteration", "received", "members"):
        if hasattr(message, name) and draw(st.booleans()):
            changes[name] = draw(st.one_of(st.integers(0, 12), huge))
    if isinstance(message, Rows):
        changes["codec"] = draw(st.integers(0, 4))
        if draw(st.booleans()):
            sizes = codec_by_id(min(changes["codec"], 3)).row_bytes(LAYOUT)
            changes["payload"] = np.zeros(int(sizes[message.rows].sum()), dtype=np.uint8)
    return changed(message, **changes)


def inject(deliver, robot, link, message):
    """``message`` arrives between others; those that are on their way do not count it."""
    frames = link.decoder.frames
    deliver(robot, encode(message, frames & 0xFFFF))
    link.decoder.frames = frames


def everybody_else_goes_on(team):
    team.kill("robot1")
    before = team.workers["robot0"].computed
    team.run(team.now + 3.0)
    assert team.workers["robot0"].computed > before


conversations = st.tuples(
    st.lists(garbage(), min_size=1, max_size=6), st.floats(0.0, 0.6), st.sampled_from(["asp", "bsp", "rog:4"])
)


@prove(120)
@given(conversations)
def test_the_server_survives_any_message_and_so_do_the_others(conversation):
    sent, time, policy = conversation
    team = team_at(time, policy)
    one = team.workers["robot1"]
    link = one.server_link
    for message in sent:
        if one.connected and one.server_link is link:
            inject(team._to_server, one, link, message)
    # What a member pushed may have changed the model, but it stops nobody.
    everybody_else_goes_on(team)


@prove(120)
@given(conversations)
def test_the_worker_survives_any_message(conversation):
    sent, time, policy = conversation
    team = team_at(time, policy)
    one = team.workers["robot1"]
    link = one.worker_link
    for message in sent:
        if one.connected and one.worker_link is link:
            inject(team._to_worker, one, link, message)
    team.run(time + 0.3)
    assert one.node.members >= 1
    everybody_else_goes_on(team)


def test_garbage_on_a_link_costs_that_link_only():
    """And the robot behind it comes back: who damaged its bytes is not known."""
    team = team_at(0.5, "ssp:2")
    team._to_server(team.workers["robot1"], b"\x00garbage")
    team.run(3.0)
    [error] = [record for record in team.journals["server"].records if record["event"] == "error"]
    assert error["peer"] == "robot1"
    assert error["error"] == "StreamDamaged"
    assert not team.failures
    [resumed] = [record for record in team.journals["server"].records if record["event"] == "resume"]
    assert resumed["peer"] == "robot1"
    everybody_else_goes_on(team)


@pytest.mark.parametrize("side", ["server", "worker"])
def test_an_acknowledgement_of_a_stream_that_is_not_there_costs_the_link(side):
    """Nothing that was sent is taken for delivered; the robot comes back."""
    team = team_at(0.5, "ssp:2")
    one = team.workers["robot1"]
    deliver, link = {
        "server": (team._to_server, one.server_link),
        "worker": (team._to_worker, one.worker_link),
    }[side]
    inject(deliver, one, link, Ack(1 << 20, stream=1))
    team.run(3.0)
    errors = [
        record["message"]
        for journal in team.journals.values()
        for record in journal.records
        if record["event"] == "error" and "row stream 0, got one of 1" in record["message"]
    ]
    assert errors and not team.failures
    everybody_else_goes_on(team)
