"""What a peer lacks: which rows are due, and that what is put back is as if it had never been sent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.codecs import codec_by_name, codec_for
from rowcast.delivery.backlog import MAX_STAMP, Backlog
from rowcast.delivery.floored import Floored
from rowcast.delivery.residual import Residual
from rowcast.rows import Layout
from rowcast.wire import Rows

LAYOUT = Layout.from_shapes([("weight", (6, 5)), ("bias", (7,))], small_tensor=1)
COUNT = LAYOUT.rows
ROWS = st.sets(st.integers(0, COUNT - 1), min_size=1).map(lambda rows: np.array(sorted(rows), dtype=np.int64))
ITERATIONS = st.lists(st.integers(0, 20), min_size=COUNT, max_size=COUNT)
FLAGS = st.lists(st.booleans(), min_size=COUNT, max_size=COUNT)
CODES = st.sampled_from(["raw", "half", "onebit", "zero"])


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(LAYOUT.elements).astype(np.float32)


def take(backlog: Backlog, rows: np.ndarray, code: str, iteration: int) -> tuple[Rows, np.ndarray]:
    codec = codec_for(LAYOUT, codec_by_name(code))
    payload, before = backlog.take(rows, codec, iteration)
    return Rows(1, iteration, codec.wire_id, False, False, rows, payload), before


def assert_same_vector(backlog: Backlog, before: np.ndarray) -> None:
    np.testing.assert_allclose(backlog.vector, before, rtol=0, atol=1e-5)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(ITERATIONS, st.lists(st.tuples(ROWS, CODES, st.integers(0, 30)), min_size=1, max_size=5), st.integers(0, 9))
def test_frames_that_are_put_back_were_never_sent(stamps, frames, seed):
    """Newest first, as after a cut: vector and stamps are what they were, and so is what is due."""
    backlog = Residual(LAYOUT, noise(seed))
    backlog.stamps[:] = stamps
    vector = backlog.vector.copy()
    due = backlog.due(10).eligible.tolist()
    taken = [take(backlog, rows, code, iteration) for rows, code, iteration in frames]
    assert (backlog.stamps[frames[-1][0]] == frames[-1][2]).all()
    for message, before in reversed(taken):
        backlog.put_back(message, before)
    assert_same_vector(backlog, vector)
    assert backlog.stamps.tolist() == stamps
    assert backlog.due(10).eligible.tolist() == due


@settings(max_examples=80, deadline=None, derandomize=True)
@given(ITERATIONS, ITERATIONS, FLAGS, st.lists(st.tuples(ROWS, CODES), min_size=1, max_size=5), st.integers(0, 9))
def test_frames_against_a_floor_that_are_put_back_were_never_sent(floor, stamps, changed, frames, seed):
    backlog = Floored(LAYOUT, noise(seed), np.array(floor, dtype=np.int32))
    backlog.stamps[:], backlog.changed[:] = stamps, changed
    backlog.mark_lost(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int32))  # what it lacks is looked up anew
    vector, lacking = backlog.vector.copy(), backlog.lacking()
    taken = [take(backlog, rows, code, 3) for rows, code in frames]
    sent = np.unique(np.concatenate([rows for rows, _ in frames]))
    assert not backlog.changed[sent].any()
    for message, before in reversed(taken):
        backlog.put_back(message, before)
    assert_same_vector(backlog, vector)
    assert backlog.changed.tolist() == changed
    assert backlog.stamps[changed].tolist() == np.array(stamps)[changed].tolist()
    assert backlog.lacking() == lacking


def test_a_row_is_due_once_in_an_iteration():
    backlog = Residual(LAYOUT, noise(0))
    backlog.vector[LAYOUT.offsets[2] : LAYOUT.offsets[3]] = 0
    due = backlog.due(4)
    assert due.eligible.tolist() == [row for row in range(COUNT) if row != 2]
    assert (due.zeros.tolist(), due.travelled.tolist()) == ([2], [])
    take(backlog, np.array([0, 1]), "onebit", 4)
    backlog.mark_sent(np.array([2]), 4)
    due = backlog.due(4)
    assert due.eligible.tolist() == list(range(3, COUNT))
    assert (due.zeros.tolist(), due.travelled.tolist()) == ([], [0, 1, 2])
    refined = backlog.due(4, refine=True)
    assert refined.eligible.tolist() == [0, 1]  # what the code has left of them
    assert (refined.zeros.tolist(), refined.travelled.tolist()) == ([], [])
    assert backlog.due(5).eligible.tolist() == [row for row in range(COUNT) if row != 2]
    backlog.renumber(5)
    assert backlog.due(5).eligible.tolist() == []


def test_a_streamed_row_is_due_when_it_has_changed():
    backlog = Floored(LAYOUT, noise(0), np.full(COUNT, 3, dtype=np.int32))
    assert backlog.due(9).eligible.tolist() == []
    assert (backlog.lacking(), backlog.horizon(7)) == (MAX_STAMP, 7)
    backlog.touch(np.array([1, 4]))
    due = backlog.due(0)  # whatever the iteration
    assert (due.eligible.tolist(), due.travelled.tolist()) == ([1, 4], [])
    assert (backlog.lacking(), backlog.horizon(7), backlog.horizon(2)) == (3, 3, 2)
    take(backlog, np.array([1]), "raw", 0)
    assert backlog.due(0).eligible.tolist() == [4]
    assert backlog.due(0, refine=True).eligible.tolist() == [row for row in range(COUNT) if row not in (1, 4)]
    backlog.renumber(100)
    assert backlog.due(0).eligible.tolist() == [4]


def test_a_row_that_changes_again_lacks_what_it_lacked_before():
    """Its stamp is the floor of the first contribution since it was sent, not of the last."""
    floor = np.full(COUNT, 3, dtype=np.int32)
    backlog = Floored(LAYOUT, noise(0), floor)
    row = np.array([2])
    backlog.touch(row)
    floor[:] = 5
    backlog.touch(row)
    assert backlog.lacking() == backlog.stamps[2] == 3
    message, before = take(backlog, row, "onebit", 0)
    assert (before.tolist(), backlog.lacking()) == ([3], MAX_STAMP)
    backlog.touch(row)
    assert backlog.lacking() == 5
    backlog.put_back(message, before)
    assert backlog.lacking() == 3
    floor[:] = 9
    backlog.touch(row, np.array([8], dtype=np.int32))
    assert backlog.lacking() == 3


def test_a_lost_refinement_makes_no_row_due():
    backlog = Floored(LAYOUT, noise(0), np.zeros(COUNT, dtype=np.int32))
    message, before = take(backlog, np.array([3]), "half", 0)
    assert before.tolist() == [MAX_STAMP]
    backlog.put_back(message, before)
    assert not backlog.changed.any() and backlog.lacking() == MAX_STAMP


def test_what_two_backlogs_hold_becomes_one():
    """All of it is there to be sent, and the other is as it was."""
    floor = np.zeros(COUNT, dtype=np.int32)
    backlog, other = Floored(LAYOUT, noise(1), floor), Floored(LAYOUT, noise(2), floor)
    backlog.measure()
    backlog.absorb(other)
    np.testing.assert_array_equal(backlog.vector, noise(1) + noise(2))
    np.testing.assert_array_equal(other.vector, noise(2))
    backlog.measure()
    assert backlog.magnitude == pytest.approx(np.abs(noise(1) + noise(2)).sum(), rel=1e-5)


def test_a_cleared_backlog_has_nothing_due():
    backlog = Floored(LAYOUT, noise(0), np.zeros(COUNT, dtype=np.int32))
    backlog.touch(np.arange(COUNT))
    backlog.measure()
    assert backlog.magnitude == pytest.approx(np.abs(noise(0)).sum(), rel=1e-5)
    backlog.vector = backlog.vector[:0].copy()
    backlog.clear()
    assert backlog.empty and backlog.lacking() == MAX_STAMP and backlog.magnitude == 0
    assert len(backlog.due(1).eligible) == len(backlog.remaining()) == 0


def test_what_is_settled_is_zero_and_the_rest_is_not():
    backlog = Residual(LAYOUT, noise(0))
    parameters = np.zeros(8, dtype=np.uint8)
    assert backlog.settle(np.array([0, 3]), parameters) is parameters
    assert backlog.remaining().tolist() == [row for row in range(COUNT) if row not in (0, 3)]
