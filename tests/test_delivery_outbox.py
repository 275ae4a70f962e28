"""Frames on their way: numbers, acknowledgements, what a cut puts back; parameters that are sent as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.codecs import codec_by_id, codec_by_name
from rowcast.config import LinkSettings
from rowcast.delivery.outbox import Outbox
from rowcast.delivery.residual import Residual
from rowcast.delivery.snapshot import Snapshot
from rowcast.delivery.transfer import Request
from rowcast.delivery.window import Window
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout, Selection
from rowcast.wire import Rows
from rowcast.wire.frames import ROWS_OVERHEAD_BYTES, frame_bytes

LAYOUT = Layout.from_shapes([("weight", (70, 16)), ("bias", (9,))], small_tensor=1)
LINK = LinkSettings(frame_min_bytes=1024, frame_max_bytes=1024, window_min_bytes=1 << 20)
NOISE = np.random.default_rng(0).standard_normal(LAYOUT.elements).astype(np.float32)
ALL = np.arange(LAYOUT.rows)


def first(quota: int):
    """Rows in ascending order; the first ones are the quota."""
    return lambda layout, view: Selection(view.eligible, min(quota, len(view.eligible)))


def raw(iteration: int = 1, quota: int = LAYOUT.rows, **more: object) -> Request:
    return Request(iteration, codec_by_name("raw"), first(quota), **more)


def outbox_of(vector: np.ndarray, *, settles: bool = False, probed: bool = True, **link: float) -> Outbox:
    parameters = np.arange(LAYOUT.elements, dtype=np.float32)
    window = Window(replace(LINK, **link))
    if probed:
        window.meter.sent(0.0, 1)
        window.meter.acknowledged(0.001, 1, 0.0)
    outbox = Outbox(Residual(LAYOUT, vector.copy()), window, Snapshot(LAYOUT, parameters, settles=settles))
    outbox.link_ready()
    return outbox


def drained(outbox: Outbox, now: float = 0.001) -> list[Rows]:
    return list(iter(lambda: outbox.next_frame(now), None))


def sum_of(frames: list[Rows]) -> np.ndarray:
    total = LAYOUT.zeros()
    for frame in frames:
        codec_by_id(frame.codec).add(LAYOUT, frame.payload, frame.rows, total, 1.0)
    return total


def test_frames_are_numbered_and_hold_the_rows_once():
    outbox = outbox_of(NOISE)
    transfer = outbox.begin(0.001, raw())
    frames = drained(outbox)
    assert [frame.number for frame in frames] == list(range(1, len(frames) + 1)) and len(frames) > 3
    assert sorted(np.concatenate([frame.rows for frame in frames])) == ALL.tolist()
    assert [frame.quota_end for frame in frames] == [False] * (len(frames) - 1) + [True]
    assert transfer.finished(0.001) and transfer.quota_frame == frames[-1].number
    assert transfer.size == outbox.in_flight and transfer.rows == LAYOUT.rows
    assert all(len(frame.payload) + ROWS_OVERHEAD_BYTES <= LINK.frame_max_bytes for frame in frames)
    np.testing.assert_array_equal(sum_of(frames), NOISE)
    assert not outbox.empty and not outbox.settled
    outbox.acknowledged(0.5, frames[-1].number)
    assert outbox.empty and outbox.in_flight == 0 and outbox.delivered == len(frames)
    assert transfer.quota_done == 0.5 and outbox.quota_s(9.0) == pytest.approx(0.499)


def test_zero_rows_are_told_first_and_cost_no_payload():
    vector = NOISE.copy()
    vector[LAYOUT.offsets[3] : LAYOUT.offsets[5]] = 0
    outbox = outbox_of(vector)
    transfer = outbox.begin(0.001, raw(announce_zeros=True))
    frames = drained(outbox)
    assert frames[0].rows.tolist() == [3, 4] and len(frames[0].payload) == 0 and not frames[0].quota_end
    assert (transfer.zero_rows, transfer.rows) == (2, LAYOUT.rows - 2)
    outbox = outbox_of(vector)
    outbox.begin(0.001, raw(announce_zeros=False))
    assert outbox.source.own.stamps[3] == 1
    assert all(len(frame.payload) for frame in drained(outbox))


def test_only_what_was_sent_can_be_acknowledged():
    outbox = outbox_of(NOISE)
    outbox.begin(0.001, raw())
    frames = drained(outbox)
    with pytest.raises(RemoteProtocolError, match=f"up to {len(frames)}, got {len(frames) + 1}"):
        outbox.acknowledged(0.1, len(frames) + 1)
    outbox.acknowledged(0.1, 2)
    assert [frame.number for frame in outbox.unacknowledged()] == list(range(3, len(frames) + 1))
    outbox.acknowledged(0.2, 1)  # an old one changes nothing
    assert outbox.delivered == 2
    outbox.link_lost()
    with pytest.raises(RemoteProtocolError, match="at least 2 frames, which were acknowledged, got 1"):
        outbox.resume(0.3, 1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_a_cut_loses_nothing_and_doubles_nothing(data):
    """Whatever had arrived: what the peer has and what is left are the whole, and lost numbers are used again."""
    outbox = outbox_of(NOISE)
    delivered: list[Rows] = []
    for iteration in range(1, data.draw(st.integers(1, 4)) + 1):
        outbox.begin(0.001, raw(iteration))
        sent = [frame for _ in range(data.draw(st.integers(0, 8))) if (frame := outbox.next_frame(0.001)) is not None]
        if sent and data.draw(st.booleans()):
            outbox.acknowledged(0.002, sent[0].number)
        acknowledged = outbox.sent_frames - len(outbox.unacknowledged())
        received = data.draw(st.integers(acknowledged, outbox.sent_frames))
        outbox.link_lost()
        assert outbox.next_frame(0.002) is None
        expected = len([frame for frame in sent if frame.number > received])
        arrived, restored = outbox.resume(0.002, received)
        assert restored == expected and arrived == received - acknowledged
        assert outbox.sent_frames == received and outbox.settled
        delivered += [frame for frame in sent if frame.number <= received]
        np.testing.assert_array_equal(sum_of(delivered) + outbox.source.total(), NOISE)
    assert [frame.number for frame in delivered] == list(range(1, len(delivered) + 1))


def test_a_peer_that_forgot_everything_is_numbered_anew():
    outbox = outbox_of(NOISE)
    outbox.send_state()
    outbox.next_frame(0.001)
    outbox.snapshot.cancel()
    outbox.begin(0.001, raw(5))
    drained(outbox)
    outbox.restart()
    assert (outbox.sent_frames, outbox.settled, outbox.snapshot.left) == (0, True, False)
    np.testing.assert_array_equal(outbox.source.own.vector, NOISE)
    assert not outbox.source.own.stamps.any()
    outbox.renumber(7)
    assert (outbox.source.own.stamps == 7).all()


def test_rows_beyond_the_quota_are_sent_up_to_the_deadline():
    outbox = outbox_of(NOISE, initial_rate_bps=8e5, window_s=5.0)
    transfer = outbox.begin(0.001, raw(quota=2, limit_s=0.02))  # 2000 bytes of link time
    frames = drained(outbox)
    assert frames[0].quota_end and transfer.cancelled and transfer.finished(0.001)
    assert 2 < transfer.rows < LAYOUT.rows
    row_bytes = 4 * 16 + 2
    assert 2000 - row_bytes < outbox.in_flight <= 2000 + ROWS_OVERHEAD_BYTES + row_bytes  # the last frame's own head
    assert outbox.in_flight - frame_bytes(frames[-1]) < 2000
    full = outbox_of(NOISE, initial_rate_bps=8e5, window_s=5.0)
    transfer = full.begin(0.001, raw(quota=10, limit_s=0.005))  # 500 bytes, which the quota takes
    assert np.concatenate([frame.rows for frame in drained(full)]).tolist() == list(range(10))
    assert transfer.cancelled and transfer.finished(0.001)
    late = outbox_of(NOISE, initial_rate_bps=8e5, window_s=5.0)
    transfer = late.begin(0.001, raw(quota=4, limit_s=0.0))
    assert np.concatenate([frame.rows for frame in drained(late)]).tolist() == [0, 1, 2, 3]  # the quota at any time
    assert transfer.finished(0.001)


def test_the_prediction_of_a_quota_is_what_is_on_its_way_at_the_measured_rate():
    outbox = outbox_of(NOISE, initial_rate_bps=8e5)
    outbox.begin(0.001, raw())
    drained(outbox)
    expected_s = outbox.in_flight * 8 / 8e5 + outbox.meter.round_trip_s
    assert outbox.quota_s(0.001) == pytest.approx(expected_s)


# -- parameters ------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.floats(-50, 2000), min_size=1, max_size=60))
def test_a_snapshot_is_sent_row_by_row_whatever_the_room(rooms):
    """Each row once, ascending, at least one in a frame, and no more than there is room for."""
    snapshot = Snapshot(LAYOUT, NOISE.copy(), settles=False)
    copy, seen = LAYOUT.zeros(), []
    sink = Snapshot(LAYOUT, copy, settles=False)
    snapshot.send_all()
    for room in rooms:
        if not snapshot.left:
            break
        rows, payload = snapshot.take(room)
        assert len(rows) == 1 or len(payload) <= room
        seen += rows.tolist()
        sink.apply(snapshot.codec, Rows(1, 0, snapshot.codec.wire_id, True, False, rows, payload))
        assert np.flatnonzero(snapshot.due).tolist() == [row for row in ALL if row not in seen]
    assert seen == ALL[: len(seen)].tolist()
    np.testing.assert_array_equal(copy[: LAYOUT.offsets[len(seen)]], NOISE[: LAYOUT.offsets[len(seen)]])
    assert snapshot.left == (len(seen) < LAYOUT.rows)
    np.testing.assert_array_equal(snapshot.parameters, NOISE)


def test_rows_that_are_written_replace_what_was_there():
    sink = Snapshot(LAYOUT, np.full(LAYOUT.elements, 7.0, dtype=np.float32), settles=False)
    rows = np.array([1, 3])
    payload = sink.codec.encode(LAYOUT, NOISE, rows, consume=False)
    sink.apply(sink.codec, Rows(1, 0, sink.codec.wire_id, True, False, rows, payload))
    for row in ALL:
        part = slice(LAYOUT.offsets[row], LAYOUT.offsets[row + 1])
        np.testing.assert_array_equal(sink.parameters[part], NOISE[part] if row in (1, 3) else 7.0)


@pytest.mark.parametrize("settles", [True, False])
def test_parameters_come_before_rows_and_lost_ones_are_due_again(settles):
    outbox = outbox_of(NOISE, settles=settles)
    outbox.begin(0.001, raw())
    outbox.send_state()
    assert not outbox.idle
    frames = []
    while outbox.snapshot.left:
        frames.append(outbox.next_frame(0.001))
    assert all(frame.absolute for frame in frames)
    np.testing.assert_array_equal(sum_of(frames), outbox.snapshot.parameters)
    # A server's parameters contain what the peer lacks; what a worker has pending is not in its replica.
    np.testing.assert_array_equal(outbox.source.own.vector, LAYOUT.zeros() if settles else NOISE)
    outbox.link_lost()
    outbox.resume(0.002, 2)
    assert np.flatnonzero(outbox.snapshot.due).tolist() == np.concatenate([one.rows for one in frames[2:]]).tolist()
    again = outbox.next_frame(0.002)
    assert again.absolute and again.number == 3
