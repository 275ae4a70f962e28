"""A slack that adapts: when it is looked at, by how much it changes, and what a policy is with another one."""

from __future__ import annotations

import math

import pytest

from rowcast.sync import (
    SlackTuner,
    parse_policy,
)


def looks(tuner: SlackTuner, windows: list[tuple[float, float, float]]) -> list[tuple[int, str] | None]:
    """What is decided: each window is (stall in s, size of an update, what is owed); two members, 16 s a window."""
    decided = []
    assert tuner.look(0.0, 0, 2) is None
    for k, (stall_s, size, lack) in enumerate(windows, start=1):
        tuner.waits("robot0", 16.0 * (k - 1))
        tuner.goes_on("robot0", 16.0 * (k - 1) + stall_s)
        tuner.computed(size, lack)
        assert tuner.look(16.0 * k - 1, 16 * k - 1, 2) is None  # not yet
        change = tuner.look(16.0 * k, 16 * k, 2)
        decided.append(None if change is None else (change.slack, change.why))
    return decided


def tuner_at(slack: int) -> SlackTuner:
    """One that would be at 16 where nobody stalls, and at 64 where everybody does; it is at ``slack``."""
    tuner = SlackTuner(16, 64)
    assert tuner.slack == 64
    tuner.slack = slack
    return tuner


def test_a_slack_that_was_lowered_is_doubled_where_there_is_stall() -> None:
    tuner = SlackTuner(10)
    assert tuner.slack == 10
    tuner.slack = 3
    much, little = 0.02 * 32, 0.005 * 32
    assert looks(tuner, [(much, 1, 1), (little, 1, 1), (much, 1, 1), (much, 1, 1)]) == [
        (6, "stall"), None, (10, "stall"), None,
    ]  # fmt: skip


def test_stalls_raise_the_slack_beyond_the_first_quickly_and_it_falls_slowly() -> None:
    much = (0.02 * 32, 1.0, 1.0)
    calm = (0.005 * 32, 1.0, 1.0)
    assert looks(tuner_at(16), [much, calm, much, much, *[calm] * 3]) == [
        (32, "stall"), (31, "calm"), (62, "stall"), (64, "stall"), (63, "calm"), (62, "calm"), (61, "calm"),
    ]  # fmt: skip
    # Updates a quarter as large halve what it is where nobody stalls; what stalls have added stays, less one.
    assert looks(tuner_at(16), [(9.0, 4.0, 4.0), *[(0.0, 1.0, 1.0)] * 17]) == [
        (32, "stall"), *[(slack, "calm") for slack in range(23, 7, -1)], None,
    ]  # fmt: skip
    # It begins as if stalls had raised it.
    assert looks(SlackTuner(16, 64), [calm, calm]) == [(63, "calm"), (62, "calm")]


def test_thrice_the_usual_divergence_lowers_it_whatever_the_stall() -> None:
    tuner = SlackTuner(10)
    tuner.slack = 5
    usual = [(0.0, 1.0, 2.0)] * 9
    assert looks(tuner, [*usual, (9.0, 1.0, 6.1), (9.0, 1.0, 5.9), *[(0.0, 1.0, 9.0)] * 8]) == [
        *[None] * 9, (3, "divergence"), (6, "stall"), (4, "divergence"), (2, "divergence"), *[None] * 6,
    ]  # fmt: skip


def four_seconds(tuner: SlackTuner) -> None:
    """Two workers have finished four iterations each, of a second."""
    assert tuner.look(0.0, 0, 2) is None
    for _ in range(8):
        tuner.computed(1.0, 1.0)


def test_who_has_waited_for_as_long_as_an_iteration_takes_need_not_wait_for_a_whole_window() -> None:
    tuner = tuner_at(16)
    four_seconds(tuner)
    for name in ("robot0", "robot1"):
        tuner.waits(name, 3.0)
    tuner.goes_on("robot0", 3.9)
    tuner.goes_on("robot1", 4.0)
    assert tuner.look(4.95, 4, 2) is None
    tuner.waits("robot1", 4.89)
    tuner.goes_on("robot1", 4.99)
    change = tuner.look(5.0, 4, 2)
    assert change is not None and (change.slack, change.why) == (32, "stall")
    tuner.waits("robot0", 5.0)
    tuner.goes_on("robot0", 14.0)
    assert tuner.look(14.0, 4, 2) is None  # nobody has finished an iteration since


def test_who_waits_still_has_waited_too_and_the_tuner_says_when_that_is_enough() -> None:
    tuner = tuner_at(16)
    assert tuner.look_at(2) == math.inf  # it has not begun
    four_seconds(tuner)
    assert tuner.look_at(2) == math.inf  # nobody waits
    tuner.waits("robot0", 4.0)
    # One of two: five times what it waits from then on is twice the time since the beginning.
    at = tuner.look_at(2)
    assert at == pytest.approx(20 / 3) and 5 * (at - 4.0) == pytest.approx(2 * at)
    tuner.waits("robot1", 4.5)
    at = tuner.look_at(2)
    assert 5 * (at - 4.0 + at - 4.5) == pytest.approx(2 * at)
    assert tuner.look(at - 1e-6, 4, 2) is None
    change = tuner.look(at, 4, 2)
    assert change is not None and (change.slack, change.why) == (32, "stall")
    assert change.stall_share == pytest.approx((2 * at - 8.5) / (2 * at))
    assert tuner.look_at(2) == math.inf  # until somebody has finished an iteration
    # What has been looked at does not count again.
    for _ in range(8):
        tuner.computed(1.0, 1.0)
    assert tuner.look_at(2) == pytest.approx(at)
    tuner.goes_on("robot0", at + 0.25)
    tuner.forget("robot1")
    assert tuner.look_at(2) == math.inf
    assert tuner.look(at + 2.0, 8, 2) is None
    tuner.slack = 64
    tuner.waits("robot0", at + 2.0)
    assert tuner.look_at(2) == math.inf  # it is as large as it may become


def test_updates_a_quarter_as_large_halve_the_slack_where_nobody_stalls() -> None:
    tuner = SlackTuner(16)
    tuner.slack = 8
    assert looks(tuner, [(1.0, 8.0, 8.0)] * 4) == [(16, "stall"), None, None, None]
    assert looks(SlackTuner(16), [(0.0, 8.0, 8.0), (0.0, 2.0, 2.0), (0.0, 2.0, 2.0), (0.0, 0.5, 0.5)]) == [
        None, (8, "progress"), None, (4, "progress"),
    ]  # fmt: skip


def test_nothing_is_decided_without_updates_and_one_slack_has_no_choice() -> None:
    tuner = SlackTuner(1)
    assert looks(tuner, [(9.0, 1.0, 1.0), (9.0, 0.0, 0.0)]) == [None, None]
    tuner.computed(math.inf, math.nan)
    assert tuner.look(1000.0, 1000, 2) is None


def test_another_slack_brings_its_shares_and_keeps_those_that_were_chosen() -> None:
    policy = parse_policy("rowcast:8?auto=on")
    for slack in (1, 2, 5, 8):
        other, named = policy.at_slack(slack), parse_policy(f"rowcast:{slack}")
        assert (other.slack, other.share, other.pull_share) == (slack, named.share, named.pull_share)
        assert (other.push_bound, other.pull_bound) == (named.push_bound, named.pull_bound)
    larger = policy.at_slack(32)  # a reserve for fades
    assert (larger.slack, larger.share, larger.pull_share) == (32, policy.share, policy.pull_share)
    assert (larger.push_bound, larger.pull_bound) == (32 + 1 - policy.pull_bound, policy.pull_bound)
    chosen = parse_policy("rowcast:8?auto=on&share=0.5").at_slack(4)
    assert (chosen.slack, chosen.share, chosen.pull_share) == (4, 0.5, policy.pull_share)
