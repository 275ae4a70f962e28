"""A node asked whether it must be woken earlier than its timer says answers as if it were asked for the time."""

import pytest

from rowcast.drivers.virtual import Device
from rowcast.experiment.timing_team import timing_team
from rowcast.journal import Journal
from rowcast.links import Trace
from rowcast.rows import Layout


@pytest.mark.parametrize("policy", ["bsp", "rog:4", "flown:4", "rowcast:4"])
def test_the_answer_is_the_time_or_that_it_is_not_before(policy: str) -> None:
    layout = Layout.from_shapes([("weights", (40, 400))])
    slow = Trace.constant(2e5)
    team = timing_team(policy, layout, [Device(0.5)] * 3, [(slow, slow)] * 3, [Journal(f"r{k}") for k in range(3)])
    asked = 0
    for tenths in range(60):
        team.run(tenths / 10)
        for robot in team.robots.values():
            due = robot.node.next_wake()
            assert due is not None
            for before in (due - 1.0, due, due + 1e-6, due + 100.0):
                assert robot.node.next_wake(before) == (due if due < before else None)
                asked += 1
    assert asked == 60 * 3 * 4
