"""A sample of the random faults of ``faults.py``; ``make faults`` runs thousands."""

from __future__ import annotations

import pytest

from faults import Schedule, SocketSchedule, run_all


@pytest.mark.parametrize("first", [0, 20, 40])
def test_random_faults_in_virtual_time(first):
    assert run_all(range(first, first + 20), Schedule, "virtual") == []


@pytest.mark.parametrize("number", [0, 3, 4], ids=["bsp", "rog", "rowcast"])
def test_random_faults_on_real_sockets(number):
    assert run_all([number], SocketSchedule, "sockets") == []


def test_the_check_notices_a_row_that_is_lost():
    """The books are not blind: a contribution that vanishes fails the schedule."""
    schedule = Schedule(3)
    assert not schedule.restarts

    begin = schedule.team.server.receive

    def receive(now, port, message):
        if type(message).__name__ in ("PushEnd", "Computed", "Finish"):
            schedule.team.computed["robot0"] += 1.0
        begin(now, port, message)

    schedule.team.server.receive = receive
    with pytest.raises(AssertionError):
        schedule.run()
