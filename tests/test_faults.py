"""A sample of the random faults of ``fault_schedules.py``; ``make faults`` runs thousands."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fault_schedules import CRASH, FAULTS, HARM, DurableSchedule, Schedule, SocketSchedule, missing, run_all
from rowcast.codecs import codec_by_name
from rowcast.testing import DurableTeam, VirtualTeam
from rowcast.training import ServerNode
from rowcast.wire import Rows

#: The number of a schedule whose server is restarted.
RESTARTED = 9


@pytest.mark.parametrize("first", [0, 20, 40])
def test_random_faults_in_virtual_time(first):
    assert run_all(range(first, first + 20), Schedule, "virtual") == []


@pytest.mark.parametrize("first", [0, 20, 40])
def test_random_faults_of_a_durable_server(first):
    struck = {}
    assert run_all(range(first, first + 20), DurableSchedule, "durable", struck=struck) == []
    assert struck[CRASH] >= 20


# A seeding worker whose welcome was lost; rows that fell out of a log; a worker that was forgotten twice.
@pytest.mark.parametrize("number", [79, 174, 796, 869, 1096])
def test_faults_of_a_durable_server_that_were_mended(number):
    DurableSchedule(number).run()


def test_what_leaves_before_it_is_committed_is_noticed(monkeypatch):
    """The schedules are not blind: a server that does not wait for its log loses or doubles something."""
    monkeypatch.setattr(DurableTeam, "send_down", VirtualTeam.send_down)
    assert run_all(range(20), DurableSchedule, "careless")


@pytest.mark.parametrize("number", [0, 3, 4], ids=["bsp", "rog", "rowcast"])
def test_random_faults_on_real_sockets(number):
    schedule = SocketSchedule(number)
    schedule.run()
    assert sum(schedule.struck.values()) >= 3, schedule.struck


def test_kinds_of_faults_that_never_happened_are_told():
    few = dict.fromkeys(HARM, 1)
    assert missing({"virtual": (10_000, {}), "sockets": (10_000, few)}) == ["virtual: " + kind for kind in FAULTS]
    assert missing({"virtual": (10_000, dict.fromkeys(FAULTS, 1)), "sockets": (10_000, few)}) == []
    assert missing({"virtual": (10, {}), "sockets": (3, {})}) == [], "a few schedules need not have all of them"


@pytest.mark.parametrize("number", [3, RESTARTED], ids=["one server", "a server that was restarted"])
def test_the_check_notices_a_row_that_is_lost(number, monkeypatch):
    """The books are not blind: one row frame of which the server takes the rows for empty fails the schedule."""
    schedule = Schedule(number)
    assert schedule.restarts == (number == RESTARTED)
    take, zero, lost = ServerNode.receive, codec_by_name("zero"), []

    def receive(self, now, link, message):
        restarted = not schedule.restarts or "restart of the server" in schedule.struck
        if isinstance(message, Rows) and restarted and not lost and not message.absolute and message.payload.any():
            lost.append(message.rows)
            message = dataclasses.replace(message, codec=zero.wire_id, payload=np.zeros(0, dtype=np.uint8))
        take(self, now, link, message)

    monkeypatch.setattr(ServerNode, "receive", receive)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        schedule.run()
    assert len(lost) == 1
