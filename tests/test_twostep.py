"""The policy ``twostep``: what passes a threshold, in how many bytes, how old a row gets, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rowcast.codecs import Above, Elements, Thresholded, codec_by_id, codec_by_name, codec_for
from rowcast.config import LinkSettings, ServerSettings
from rowcast.delivery.window import Window
from rowcast.drivers.virtual import Device
from rowcast.errors import ConfigError
from rowcast.experiment.timing_team import timing_team
from rowcast.journal import Journal
from rowcast.links import Trace
from rowcast.rows import Layout
from rowcast.sync import RateMeter, RowsToSend, Threshold, minimum_share, parse_policy
from rowcast.testing import DurableTeam, VirtualTeam
from teams import (
    LAYOUT,
    Books,
    captured,
    events,
    finished,
    members,
    names_of,
    noise,
    outages,
    replicas_agree,
    start_of,
    worker,
)

CODE = codec_by_name("elements")
#: 24 rows of 130 elements and a bias of 9.
SLIM = Layout.from_shapes([("weight", (24, 130)), ("bias", (9,))])
ALL = np.arange(SLIM.rows)
SMALL_FRAMES = LinkSettings(frame_min_bytes=64, window_min_bytes=256, frame_s=0.001)


def drawn(layout=SLIM, seed=0):
    """Most elements are small, few are large, as in updates."""
    random = np.random.default_rng(seed)
    return (random.gamma(0.3, 1.0, layout.elements) * random.standard_normal(layout.elements)).astype(np.float32)


def asked(room, rows=ALL, least=0, settle=lambda lowest: lowest):
    return Above(room, rows, least, settle)


def largest(vector, row, layout=SLIM):
    return float(np.abs(vector[layout.offsets[row] : layout.offsets[row + 1]]).max())


# -- how it is written -------------------------------------------------------------------------------------------------


def test_the_family_and_its_options():
    policy = parse_policy("twostep:20")
    assert (policy.slack, policy.share, policy.rule, policy.codec) == (20, minimum_share(20), "threshold", "elements")
    assert (policy.granularity, policy.budget_s, policy.selects_pushed, policy.selects_pulled) == ("row", 0, True, True)
    assert (policy.smooth, parse_policy("twostep:20?smooth=0").smooth, parse_policy("rog:4").smooth) == (0.9, 0, 0)
    policy = parse_policy("twostep:4?budget_s=2.5&pull_codec=raw&pull_share=1")
    assert (policy.budget_s, policy.selects_pushed, policy.selects_pulled, policy.share_of_pull) == (
        2.5,
        True,
        False,
        1,
    )
    assert not parse_policy("rog:4?codec=elements").selects_pushed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("twostep", "expected a slack behind a colon, for example 'twostep:4'"),
        ("twostep:4?codec=onebit", "expected the codec 'elements', of which parts of rows travel, got 'onebit'"),
        ("twostep:4?granularity=tensor", "expected granularity=row, since rows travel in parts, got 'tensor'"),
        ("twostep:4?budget_s=-1", "expected budget_s >= 0, got -1"),
        ("twostep:4?budget_s=inf", "expected budget_s >= 0, got inf"),
        ("twostep:4?budget_s=nan", "expected budget_s >= 0, got nan"),
        ("twostep:4?smooth=1", "expected smooth in 0 .. below 1, got 1"),
        ("twostep:4?smooth=-0.1", "expected smooth in 0 .. below 1, got -0.1"),
        ("twostep:4?smooth=nan", "expected smooth in 0 .. below 1, got nan"),
        ("twostep:4?budget_s=x", "budget_s: expected a number, got 'x'"),
        ("rog:4?budget_s=1", "the option budget_s goes with 'twostep' only"),
        ("twostep:4?pull_codec=rwa", "unknown codec 'rwa'; did you mean 'raw'"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_policy(text)


# -- the code: what passes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 40, 150, 400, 1000, 3000, 100_000])
def test_what_passes_takes_no_more_than_the_room_and_all_of_it_is_beyond_the_threshold(room):
    vector = drawn()
    before = vector.copy()
    fitted = CODE.above(SLIM, vector, asked(room))
    sizes = fitted.row_bytes(SLIM)
    rows = np.flatnonzero(sizes)
    payload = fitted.encode(SLIM, vector, rows)
    assert len(payload) <= sizes.sum() <= max(room - 2 * len(rows), 0)
    CODE.check(SLIM, payload, rows)
    decoded = SLIM.zeros()
    CODE.add(SLIM, payload, rows, decoded, 1.0)
    np.testing.assert_array_equal(decoded + vector, before)  # error feedback: what is lost by rounding stays
    assert not len(rows) or np.abs(before[decoded != 0]).min() >= fitted.threshold
    assert set(rows) == {row for row in ALL if largest(before, row) >= fitted.threshold > 0}
    if room == 100_000:
        assert np.count_nonzero(decoded) > 0.5 * np.count_nonzero(before)  # the rest is less than half a step


def test_the_room_is_filled():
    for seed in range(5):
        for room in (200, 700, 2000):
            total = CODE.above(SLIM, drawn(seed=seed), asked(room)).row_bytes(SLIM)
            assert room - 12 <= total.sum() + 2 * np.count_nonzero(total) <= room


def test_of_the_first_rows_the_largest_element_travels_whatever_its_size():
    vector = drawn()
    vector[: SLIM.offsets[3]] *= 1e-3
    fitted = CODE.above(SLIM, vector, asked(300, least=3))
    sizes = fitted.row_bytes(SLIM)
    assert (sizes[:3] > 0).all() and max(largest(vector, row) for row in range(3)) < fitted.threshold
    before = vector.copy()
    fitted.encode(SLIM, vector, ALL[:3])
    for row in range(3):
        changed = np.flatnonzero(vector[SLIM.offsets[row] :][:130] != before[SLIM.offsets[row] :][:130])
        assert list(changed) == [np.abs(before[SLIM.offsets[row] :][:130]).argmax()]
    assert sizes.sum() + 2 * np.count_nonzero(sizes) <= 300


def test_rows_that_may_not_travel_take_nothing():
    sizes = CODE.above(SLIM, drawn(), asked(1e6, rows=np.array([7, 2]))).row_bytes(SLIM)
    assert set(np.flatnonzero(sizes)) == {2, 7}


def test_a_higher_threshold_that_is_wanted_is_taken_and_a_lower_one_is_not():
    vector = drawn()
    lowest = CODE.above(SLIM, vector, asked(400)).threshold
    assert CODE.above(SLIM, vector, asked(400, settle=lambda low: 0.5 * low)).threshold == lowest
    assert CODE.above(SLIM, vector, asked(400, settle=lambda low: 1.5 * low)).threshold == pytest.approx(1.5 * lowest)
    assert CODE.above(SLIM, vector, asked(400, settle=lambda low: 1e9)).threshold == np.abs(vector).max()


def test_whatever_is_added_no_row_takes_more_than_its_size():
    vector = drawn()
    fitted = CODE.above(SLIM, vector, asked(400, least=4))
    sizes = fitted.row_bytes(SLIM)
    vector += 30 * vector[::-1]
    for row in np.flatnonzero(sizes):
        assert len(fitted.encode(SLIM, vector, np.array([row]))) <= sizes[row]


def test_nothing_but_zeros_and_equal_elements():
    assert not CODE.above(SLIM, SLIM.zeros(), asked(1000)).row_bytes(SLIM).any()
    equal = np.full(SLIM.elements, 0.5, dtype=np.float32)
    sizes = CODE.above(SLIM, equal, asked(300, least=2)).row_bytes(SLIM)
    assert list(np.flatnonzero(sizes)) == [0, 1]  # all or none: there is no threshold between them
    assert CODE.above(SLIM, equal, asked(1e5)).row_bytes(SLIM).all()


def test_rows_of_buffers_travel_whole_and_the_room_is_that_of_all():
    layout = Layout.from_shapes([("wide", (6, 300)), ("mean", (40,))], small_tensor=1, buffers=1)
    code = codec_for(layout, CODE)
    assert isinstance(code, Thresholded)
    vector, rows = drawn(layout), np.array([6, 0, 1, 2, 3, 4, 5])
    fitted = code.above(layout, vector, Above(400, rows, 2, lambda lowest: lowest))
    sizes = fitted.row_bytes(layout)
    assert sizes[6] == 81 and sizes[0] > 0 and sizes.sum() + 2 * np.count_nonzero(sizes) <= 400
    some = np.flatnonzero(sizes)
    payload = fitted.encode(layout, vector, some)
    codec_by_id(fitted.wire_id).check(layout, payload, some)
    assert len(payload) <= sizes.sum()


def test_without_content_the_oldest_rows_take_the_room():
    layout = SLIM.timing_only()
    code = codec_for(layout, CODE)
    rows = ALL[::-1]
    fitted = code.above(layout, layout.zeros(), asked(100, rows=rows, least=2))
    sizes = fitted.row_bytes(layout)
    travels = np.flatnonzero(sizes)
    assert list(travels) == list(rows[: len(travels)][::-1]) and 4 < len(travels) < 20
    assert 80 <= sizes.sum() + 2 * len(travels) <= 100
    assert list(np.flatnonzero(code.above(layout, layout.zeros(), asked(0, least=2)).row_bytes(layout))) == [0, 1]


def test_codes_without_a_threshold_are_as_they_are():
    layout = Layout.from_shapes([("wide", (6, 300)), ("mean", (40,))], small_tensor=1, buffers=1)
    for where in (layout, layout.timing_only()):
        code = codec_for(where, codec_by_name("onebit"))
        assert code.above(where, where.zeros(), asked(10)) is code
        np.testing.assert_array_equal(code.usual_above(where, asked(10)), code.row_bytes(where))


# -- the threshold, the rows that must travel, the room of frames ------------------------------------------------------


def test_the_threshold_is_an_average():
    assert [Threshold(0.0).settle(size) for size in (2.0, 1.0)] == [2.0, 1.0]
    threshold = Threshold(0.9)
    assert threshold.value is None and threshold.settle(2.0) == 2.0
    assert threshold.settle(1.0) == pytest.approx(1.9)
    assert threshold.settle(1.9) == pytest.approx(1.9)


def test_the_oldest_rows_must_travel_and_all_that_are_overdue():
    policy = parse_policy("twostep:4?share=0.1")
    stamps = np.arange(SLIM.rows, dtype=np.int32)[::-1].copy()
    ask = policy.above_push(ALL, stamps, 5, 100.0, Threshold(0.9))
    assert ask.least == 3 and list(ask.rows) == list(ALL[::-1])  # a tenth of 25 rows
    ask = policy.above_push(ALL, stamps, 20, 100.0, Threshold(0.9))
    assert ask.least == 16  # stamps below 20 - 4
    assert policy.above_pull(ALL, stamps, 20, 100.0, Threshold(0.9)).least == 11  # below 20 - 10 + 1
    ask = policy.above_push(ALL[:2], stamps, 20, 100.0, Threshold(0.9))
    assert (ask.room, ask.least, list(ask.rows)) == (100.0, 2, [1, 0])


def test_before_a_link_is_measured_only_what_must_travels():
    policy = parse_policy("twostep:4")
    ask = policy.above_push(ALL, np.zeros(SLIM.rows, dtype=np.int32), 1, 1e9, None)
    sizes = CODE.above(SLIM, drawn(), ask).row_bytes(SLIM)
    assert np.count_nonzero(sizes) == ask.least == math.ceil(SLIM.rows * minimum_share(4))
    assert sizes.max() <= 4


def test_what_took_no_time_is_not_in_the_first_sample():
    meter = RateMeter(1e6)
    meter.sent(0.0, 100_000)
    meter.acknowledged(0.0, 100_000, 0.0)
    assert not meter.measured and meter.rate_bps(0.0) == 1e6
    meter.sent(1.0, 100)
    meter.acknowledged(2.0, 100, 1.0)
    assert meter.measured and meter.rate_bps(2.0) == pytest.approx(800)


def test_the_heads_of_frames_are_in_the_room():
    window = Window(LinkSettings(frame_min_bytes=1000, initial_rate_bps=8e3))
    assert 900 < window.rows_room(0.0, 1000.0) < 1000
    assert 2600 < window.rows_room(0.0, 3000.0) < 2900
    assert window.rows_room(0.0, 10.0) < 0


def test_only_rows_of_which_something_passes_are_chosen():
    policy = parse_policy("twostep:4?pull_codec=raw")
    sizes = np.zeros(SLIM.rows, dtype=np.int64)
    sizes[[3, 5, 9]] = 7
    view = RowsToSend(ALL[4:], np.zeros(SLIM.rows, np.int32), np.ones(SLIM.rows, np.float32), sizes, 21, 7, 1, 0)
    chosen = policy.choose_push(SLIM, view)
    assert (list(chosen.order), chosen.quota) == ([5, 9], 2)
    assert len(policy.choose_pull(SLIM, view).order) == len(ALL) - 4


# -- in a team ---------------------------------------------------------------------------------------------------------


def slow_team(policy, rates=(160, 300, 400), kind=VirtualTeam, iterations=20, **more):
    """Links of so many bytes in a second, in which a gradient is computed; the model in one bit takes 480 bytes."""
    scripts = [
        worker(
            f"robot{k}",
            layout=SLIM,
            initial=start_of(SLIM),
            gradient=noise(k, SLIM),
            iterations=iterations,
            rate_bps=8 * rate,
            compute_s=1.0,
        )
        for k, rate in enumerate(rates)
    ]
    return kind(SLIM, policy, scripts, **more)


@pytest.mark.parametrize(("policy", "budget_s"), [("twostep:8", 1.0), ("twostep:8?budget_s=0.5&smooth=0", 0.5)])
def test_a_push_takes_what_its_link_carries_in_time_and_nothing_is_lost(policy, budget_s):
    team = slow_team(policy)
    books = Books(team)
    books.check_at(60.0, 120.0)
    finished(team)
    books.check()
    replicas_agree(team)
    for k, rate in enumerate((160, 300, 400)):
        pushes = [push for push in events(team, "server", "push") if push["peer"] == f"robot{k}"]
        least = 45 + 6 * math.ceil(SLIM.rows * minimum_share(8))
        sizes = [push["bytes"] for push in pushes[2:]]
        assert max(sizes) <= max(rate * budget_s, least)
        assert min(sizes) >= 0.5 * rate * budget_s
    assert max(team.push_ages) <= 8 and max(team.gaps) <= 8


@pytest.mark.parametrize("policy", ["twostep:1", "twostep:3", "twostep:8?pull_codec=raw", "twostep:3?feedback=0.9"])
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_books_bounds_and_agreement_in_any_weather(policy, data):
    """As ``test_invariants.py`` has it of other policies, whose codec is drawn."""
    scripts = data.draw(members())
    team = VirtualTeam(LAYOUT, policy, scripts, seed=data.draw(st.integers(0, 9)), link_settings=SMALL_FRAMES)
    books = Books(team)
    for time, name, down_s in data.draw(outages(names_of(scripts))):
        team.at(time, lambda name=name, down_s=down_s: team.cut(name, down_s))
    books.check_at(*data.draw(st.lists(st.floats(0.0, 8.0), max_size=8)))
    finished(team)
    if "feedback" not in policy:
        books.check()
    replicas_agree(team)
    parsed = parse_policy(policy)
    assert max(team.gaps, default=0) <= parsed.slack
    assert max(team.push_ages, default=0) <= min(parsed.slack, parsed.pull_bound - 1)
    assert max(team.pull_ages, default=0) <= parsed.pull_bound - 1


def test_a_killed_robot_that_comes_back_and_a_newcomer_lose_nothing_else():
    team = slow_team("twostep:4", server_settings=ServerSettings(expected_workers=3, absence_limit_s=2.0))
    books = Books(team)
    team.at(20.0, lambda: books.kill("robot1"))
    team.at(26.0, lambda: team.start(worker("robot9", layout=SLIM, iterations=4, gradient=noise(9, SLIM))))
    books.check_at(19.0, 25.0, 40.0)
    finished(team)
    books.check()


def test_a_server_that_is_captured_goes_on_with_its_thresholds():
    team = slow_team("twostep:4", kind=DurableTeam, server_settings=ServerSettings(expected_workers=3))
    team.run(130.0)
    before = team.server.team.rule._thresholds
    assert before and all(threshold.value for threshold in before.values())
    after = captured(team).team.rule._thresholds
    assert {name: one.value for name, one in after.items()} == {name: one.value for name, one in before.items()}


def test_a_team_without_content_takes_what_its_links_carry():
    journals = [Journal(f"robot{k}") for k in range(2)]
    link = Trace(np.array([0.0]), np.array([8 * 150.0]), "constant", duration_s=10.0)
    timing_team("twostep:4", SLIM, [Device(1.0)] * 2, [(link, link)] * 2, journals).run(40.0)
    for journal in journals:
        steps = [record for record in journal.records if record["event"] == "step"]
        assert len(steps) > 8 and all(0 < step["push_bytes"] <= 150 for step in steps[2:])


def test_what_is_fitted_is_an_elements_code():
    fitted = CODE.above(SLIM, drawn(), asked(300))
    assert isinstance(fitted, Elements) and fitted.wire_id == CODE.wire_id
