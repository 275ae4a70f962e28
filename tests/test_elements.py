"""The code ``elements``: what travels of a row, in how many bytes, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.codecs import codec_by_id, codec_by_name, codec_for
from rowcast.codecs.elements import Elements
from rowcast.config import LinkSettings, ServerSettings
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout
from rowcast.testing import DurableTeam, VirtualTeam, check_codec
from teams import Books, captured, finished, noise, replicas_agree, start_of, worker

CODE = codec_by_name("elements")
LAYOUT = Layout.from_shapes([("wide", (6, 300)), ("long", (2, 3000)), ("bias", (9,)), ("one", ())])
ALL = np.arange(LAYOUT.rows)
#: Bytes of one in 64 elements of each row: number, scale, places and sizes.
FEW = int((3 + 2 * np.ceil(LAYOUT.lengths / 64)).sum())
#: Of a length that needs gaps of two bytes, and such as say: go on.
FAR = Layout.from_shapes([("far", (2, 140_000))], max_row=200_000)


def drawn(layout=LAYOUT, seed=0, scale=1.0):
    """Most elements are small, few are large, as in updates."""
    random = np.random.default_rng(seed)
    tails = random.gamma(0.3, 1.0, layout.elements) * random.standard_normal(layout.elements)
    return (scale * tails).astype(np.float32)


def read(payload, rows, layout=LAYOUT):
    """What the documented format says, in plain Python: for each row places, and sizes."""
    found, at = {}, 0
    for row in rows:
        count, shift = 0, 0
        while True:
            byte = int(payload[at])
            at += 1
            count |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        places, place = [], -1
        if count:
            (scale,) = np.array([0, 0, payload[at], payload[at + 1]], dtype=np.uint8).view("<f4")
            at += 2
        for _ in range(count):
            gap = int(payload[at])
            at += 1
            if gap == 255:
                gap = 0
                while True:
                    far = int(payload[at]) + 256 * int(payload[at + 1])
                    at += 2
                    gap += far
                    if far < 65535:
                        gap += 255
                        break
                    if int(payload[at]) < 255:
                        gap += int(payload[at])
                        at += 1
                        break
                    at += 1
            place += 1 + gap
            places.append(place)
        if count > 1:
            sizes = payload[at : at + count].view(np.int8) * (scale / np.float32(128))
            at += count
        else:
            sizes = np.array([scale] if count else [], dtype=np.float32)
        found[int(row)] = places, sizes
    assert at == len(payload)
    return found


@pytest.mark.parametrize("room", [100, 400, 1500, 5000])
def test_what_the_format_says_is_what_is_decoded(room):
    vector = drawn()
    before = vector.copy()
    payload = CODE.fit(LAYOUT, vector, room).encode(LAYOUT, vector, ALL)
    decoded = LAYOUT.zeros()
    CODE.add(LAYOUT, payload, ALL, decoded, 1.0)
    for row, (places, sizes) in read(payload, ALL).items():
        expected = np.zeros(int(LAYOUT.lengths[row]), dtype=np.float32)
        expected[places] = sizes
        np.testing.assert_allclose(decoded[LAYOUT.offsets[row] : LAYOUT.offsets[row + 1]], expected, rtol=1e-6)
    np.testing.assert_allclose(decoded + vector, before, rtol=1e-6, atol=1e-6)


def test_gaps_of_any_length():
    vector = FAR.zeros()
    places = [0, 254, 255, 510, 511, 66_045, 131_835, 139_999]  # gaps of 253, 0, 254, 0, 65533, 65789 and 8163
    vector[places] = 1.0
    vector[140_000 + 139_999] = -2.0
    payload = Elements(0.5, FAR.lengths).encode(FAR, vector, np.arange(2), consume=False)
    CODE.check(FAR, payload, np.arange(2))
    (found, sizes), (single, size) = read(payload, range(2), FAR).values()
    assert found == places and (sizes == 1.0).all()
    assert single == [139_999] and size == [-2.0]
    decoded = FAR.zeros()
    CODE.add(FAR, payload, np.arange(2), decoded, 1.0)
    np.testing.assert_array_equal(decoded, vector)


@pytest.mark.parametrize("room", [50, 100, 400, 1500, 5000])
def test_all_rows_take_no_more_than_the_room_unless_it_is_less_than_one_in_64_elements_take(room):
    vector = drawn()
    fitted = CODE.fit(LAYOUT, vector, room)
    assert fitted.row_bytes(LAYOUT).sum() <= max(room, FEW)
    payload = fitted.encode(LAYOUT, vector, ALL)
    assert len(payload) <= fitted.row_bytes(LAYOUT).sum()
    assert len(payload) > 0.8 * max(room, FEW)


@given(seed=st.integers(0, 1000), room=st.integers(60, 20_000), grown=st.floats(0.0, 30.0))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_no_row_takes_more_than_its_limit_whatever_was_added_since(seed, room, grown):
    vector = drawn(seed=seed)
    fitted = CODE.fit(LAYOUT, vector, room)
    vector += np.float32(grown) * drawn(seed=seed + 1)
    for row in ALL:
        payload = fitted.encode(LAYOUT, vector, np.array([row]), consume=False)
        assert len(payload) <= fitted.row_bytes(LAYOUT)[row]
        CODE.check(LAYOUT, payload, np.array([row]))


def test_the_largest_of_a_row_travels_and_beyond_the_threshold_nothing_is_left():
    vector = drawn()
    fitted = CODE.fit(LAYOUT, vector, 1500)
    for row, (places, _) in read(fitted.encode(LAYOUT, vector, ALL, consume=False), ALL).items():
        sizes = np.abs(vector[LAYOUT.offsets[row] : LAYOUT.offsets[row + 1]])
        assert int(sizes.argmax()) in places
        step = 2.0 ** np.ceil(np.log2(sizes.max())) / 256
        assert set(np.flatnonzero(sizes > max(fitted.threshold, step))) <= set(places)


def test_of_equal_elements_one_travels_where_not_all_fit():
    vector = LAYOUT.zeros()
    vector[::3] = -0.5
    fitted = CODE.fit(LAYOUT, vector, 50)
    found = read(fitted.encode(LAYOUT, vector, ALL), ALL)
    assert [len(places) for places, _ in found.values()] == [1] * LAYOUT.rows
    CODE.check(LAYOUT, fitted.encode(LAYOUT, vector, ALL), ALL)


def test_what_seven_bits_say_leaves_nothing():
    for size in (1.0, 3.0, 0.7109375):
        vector = LAYOUT.zeros()
        vector[:10] = np.array([np.float32(size).view(np.uint32) & 0xFFFF0000], dtype=np.uint32).view(np.float32)
        before = vector.copy()
        payload = Elements(0.0, np.full(LAYOUT.rows, 99)).encode(LAYOUT, vector, np.array([0]))
        assert not vector.any()
        CODE.add(LAYOUT, payload, np.array([0]), vector, 1.0)
        np.testing.assert_array_equal(vector, before)


def test_what_rounds_to_nothing_stays():
    vector = LAYOUT.zeros()
    vector[0], vector[1], vector[2] = 0.9, 0.0039, 0.0040  # half a step is 1 / 256 = 0.00391
    payload = Elements(0.0, np.full(LAYOUT.rows, 99)).encode(LAYOUT, vector, np.array([0]))
    ((places, sizes),) = read(payload, [0]).values()
    assert places == [0, 2]
    np.testing.assert_array_equal(sizes, [115 / 128, 1 / 128])
    assert vector[1] == np.float32(0.0039)


def test_subnormal_numbers_and_zeros_take_a_byte():
    vector = LAYOUT.zeros()
    vector[5] = 1e-42
    assert list(CODE.encode(LAYOUT, vector, np.array([0, 1]))) == [0, 0]


@pytest.mark.parametrize("room", [400.0, 900.0, 1e6])
def test_fitted_forms_keep_the_promises_of_codecs(room):
    class Fitted(Elements):
        """Each vector is fitted before it is encoded."""

        def row_bytes(self, layout):
            return layout.once("fitted", lambda layout: CODE.fit(layout, drawn(layout), room).row_bytes(layout))

    check_codec(Fitted())


# -- what is refused -----------------------------------------------------------------------------------------------


def payload_of(*parts):
    return np.array([byte for part in parts for byte in part], dtype=np.uint8)


ONE = (0x80, 0x3F)  # a scale of 1


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        ([()], "the bytes of its rows"),
        ([(1,)], "the bytes of its rows"),
        ([(1,), ONE], "the bytes of its rows"),
        ([(1,), ONE, (0,), (7,)], "the bytes of its rows"),
        ([(1,), ONE, (255, 1)], "the bytes of its rows"),
        ([(2,), ONE, (0, 0), (1,)], "the bytes of its rows"),
        ([(0x80, 0x80, 0x80, 0x80, 0x80, 1)], "the bytes of its rows"),
        ([(0x81, 0)], "the bytes of its rows"),  # a number in more bytes than it takes
        ([(1,), (0, 0), (0,)], "finite scales"),
        ([(1,), (0x80, 0x7F), (0,)], "finite scales"),
        ([(1,), (0xC0, 0xFF), (0,)], "finite scales"),
        ([(2,), (0x80, 0xBF), (0, 0), (1, 1)], "finite scales"),
        ([(1,), ONE, (255, 45, 0)], "places inside of their rows"),
        ([(2,), ONE, (200, 100), (1, 1)], "places inside of their rows"),
        ([(0xFF, 0x7F), ONE], "places inside of their rows"),
        ([(2,), ONE, (0, 0), (0, 1)], "sizes of 1 .. 127 steps"),
        ([(2,), ONE, (0, 0), (1, 128)], "sizes of 1 .. 127 steps"),
    ],
)
def test_what_no_correct_peer_sends_is_refused(parts, complaint):
    with pytest.raises(RemoteProtocolError, match=f"elements payload: expected {complaint}"):
        CODE.check(LAYOUT, payload_of(*parts), np.array([0]))


def test_what_a_correct_peer_sends_is_not():
    CODE.check(LAYOUT, payload_of((1,), ONE, (255, 44, 0)), np.array([0]))
    CODE.check(LAYOUT, payload_of((1,), (0x80, 0xBF), (0,)), np.array([0]))
    CODE.check(LAYOUT, payload_of((2,), ONE, (0, 0), (1, 129)), np.array([0]))
    CODE.check(LAYOUT, payload_of((0,)), np.array([0]))


@given(st.binary(max_size=80), st.integers(1, 9))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_whatever_bytes_arrive(data, count):
    payload = np.frombuffer(data, dtype=np.uint8)
    rows = ALL[:count]
    try:
        CODE.check(LAYOUT, payload, rows)
    except RemoteProtocolError:
        return
    decoded = LAYOUT.zeros()
    CODE.add(LAYOUT, payload, rows, decoded, 1.0)
    assert np.isfinite(decoded).all()


# -- its other forms -----------------------------------------------------------------------------------------------


def test_with_buffers_the_room_is_that_of_all():
    layout = Layout.from_shapes([("wide", (6, 300)), ("mean", (40,))], small_tensor=1, buffers=1)
    code = codec_for(layout, CODE)
    vector = drawn(layout)
    fitted = code.fit(layout, vector, 600.0)
    rows = np.arange(layout.rows)
    before = vector.copy()
    payload = fitted.encode(layout, vector, rows)
    assert 300 < len(payload) <= fitted.row_bytes(layout).sum() <= 600
    registered = codec_by_id(fitted.wire_id)
    registered.check(layout, payload, rows)
    decoded = layout.zeros()
    registered.add(layout, payload, rows, decoded, 1.0)
    np.testing.assert_allclose(decoded + vector, before, atol=1e-5)
    start = layout.offsets[layout.parameter_rows]
    np.testing.assert_allclose(decoded[start:], before[start:], rtol=1e-2, atol=1e-3)
    with pytest.raises(RemoteProtocolError, match="bytes more for the rows of its buffers"):
        registered.check(layout, payload[:3], rows)


@pytest.mark.parametrize("room", [50.0, 400.0, 5000.0, 1e9])
def test_without_content_rows_take_the_room(room):
    layout = LAYOUT.timing_only()
    fitted = codec_for(layout, CODE).fit(layout, layout.zeros(), room)
    total = fitted.row_bytes(layout).sum()
    assert total <= max(room, FEW)
    assert total > 0.9 * min(max(room, FEW), 2 * LAYOUT.elements)
    payload = fitted.encode(layout, layout.zeros(), ALL)
    assert len(payload) == total
    codec_by_id(fitted.wire_id).check(layout, payload, ALL)
    with pytest.raises(RemoteProtocolError, match="expected a byte for each row"):
        codec_by_id(fitted.wire_id).check(layout, payload[:3], ALL)


def test_without_a_room_nothing_is_fitted():
    assert CODE.fit(LAYOUT, drawn(), math.inf) is CODE


# -- in a team -----------------------------------------------------------------------------------------------------

#: 3,120 elements, in one bit each 450 bytes; links carry 250 bytes in the time of a step. The model takes 10 s.
SLIM = Layout.from_shapes([("weight", (24, 130))])
SLOW_BPS = 8 * 250 / 0.2
FRAMES = LinkSettings(frame_min_bytes=64, window_min_bytes=256, frame_s=0.05, window_s=0.1)


def slow_team(policy, kind=VirtualTeam, **more):
    scripts = [
        worker(
            f"robot{i}",
            layout=SLIM,
            initial=start_of(SLIM),
            gradient=noise(i, SLIM),
            iterations=20,
            rate_bps=SLOW_BPS,
            compute_s=0.2,
        )
        for i in range(3)
    ]
    return kind(SLIM, policy, scripts, link_settings=FRAMES, **more)


@pytest.mark.parametrize("policy", ["rowcast:1", "rowcast:1?pulls=common"])
def test_a_link_that_cannot_carry_the_quota_gets_elements_and_nothing_is_lost(policy, monkeypatch):
    fitted = []
    fit = Elements.fit

    def spied(self, layout, vector, room):
        fitted.append(fit(self, layout, vector, room).row_bytes(layout).sum() / max(room, 24 * 9))
        return fit(self, layout, vector, room)

    monkeypatch.setattr(Elements, "fit", spied)
    team = slow_team(policy)
    books = Books(team)
    team.at(13.1, lambda: team.cut("robot1", 0.4))
    team.at(16.3, lambda: team.cut("robot2", 0.2))
    books.check_at(5.0, 13.3, 18.0)
    finished(team)
    books.check()
    replicas_agree(team)
    assert len(fitted) > 20 and max(fitted) <= 1


def test_a_server_that_is_captured_while_rows_travel_in_elements_goes_on():
    team = slow_team("rowcast:1", DurableTeam, server_settings=ServerSettings(expected_workers=3))
    team.run(15.0)
    codecs = [member.owed.transfer.codec for member in team.server.team.members.values() if member.owed.transfer]
    assert any(isinstance(codec, Elements) and codec.threshold > 0 for codec in codecs)
    again = captured(team)
    for member, (_, same) in zip(team.server.team.members.values(), again.team.members.items(), strict=True):
        if member.owed.transfer is not None:
            assert same.owed.transfer.codec.threshold == member.owed.transfer.codec.threshold
