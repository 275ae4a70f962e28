"""A look at the metrics of a robot of CRIMP: what it leaves out, and how much time and memory it may take."""

from __future__ import annotations

import re

import pytest

from mapped import Timed, made, stepped
from rowcast.errors import ConfigError
from rowcast.tasks.crimp.settings import RoomSettings


def test_a_trajectory_has_an_error_once_a_pose_was_found() -> None:
    """The first pose is given: an error of 0 would be the best level of every policy, and cost no energy."""
    worker, clock = made(first_s=5.0, frame_every_s=1.0)
    stepped(worker)
    assert not {"ate", "aligned_ate"} & set(worker.evaluate())
    clock.now_s = 5.0
    stepped(worker)
    assert worker.taken == 2 and {"ate", "aligned_ate"} <= set(worker.evaluate())


@pytest.mark.parametrize(("every_s", "next_s"), [(0.0, 10.0), (3.0, 10.0), (40.0, 40.0)])
def test_tests_take_a_fifth_of_real_time_at_most(every_s: float, next_s: float) -> None:
    """They begin at 100 s and end at 102 s: as much again and three times more is for the training."""
    worker, _ = made(test_every_s=every_s)
    worker.clock = clock = Timed(look_s=2.0)
    clock.now_s = 98.0
    assert "visit_ate" in worker.evaluate(brief=True)
    clock.look_s = 0.0
    clock.now_s = 100.0 + next_s - 0.001
    assert "visit_ate" not in worker.evaluate(brief=True)
    assert "visit_ate" in worker.evaluate()  # at the end of a run all is measured
    worker, _ = made(test_every_s=every_s)
    worker.clock = clock = Timed(look_s=2.0)
    clock.now_s = 98.0
    worker.evaluate(brief=True)
    clock.look_s = 0.0
    clock.now_s = 100.0 + next_s
    assert "visit_ate" in worker.evaluate(brief=True)


def test_in_virtual_time_each_look_is_whole() -> None:
    worker, clock = made()
    assert all("visit_ate" in worker.evaluate(brief=True) for clock.now_s in (0.0, 0.001, 30.0))


def test_frames_that_no_memory_holds_are_refused_before_they_are_made() -> None:
    says = "width, height: 250 frames of 4096 x 4096 pixels (frames, visit_frames and tests) would take 27.3 GiB"
    with pytest.raises(ConfigError, match=re.escape(says)):
        RoomSettings(width=4096, height=4096)
    assert RoomSettings(width=640, height=480).width == 640
