"""Several row streams on one connection: each with its own numbers and bounds, none of them for whom it is not open."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raw_frames import framed
from rowcast.errors import LocalProtocolError, RemoteProtocolError
from rowcast.session import Link
from rowcast.wire import HEADER_BYTES, Ack, Cancel, FrameDecoder, FrameEncoder, Heartbeat, RowLimits, Rows, encode
from rowcast.wire.frames import MAX_CONTROL_BYTES, MAX_ROWS_BYTES, frame_bytes, message_bytes
from wire_messages import ROWS, control_messages, decoder, kept, prove, row_messages, same

STREAMS = (0, 1, 7, 255)


def rows_of(stream, number=1, rows=(0,), payload_bytes=4):
    return Rows(number, 1, 1, False, False, np.array(rows), np.zeros(payload_bytes, dtype=np.uint8), stream)


streamed = st.sampled_from(STREAMS).flatmap(lambda stream: row_messages(stream=stream))


@prove(60)
@given(
    st.lists(st.one_of(streamed, control_messages()), min_size=1, max_size=8),
    st.lists(st.integers(1, 60), min_size=1, max_size=20),
)
def test_streams_and_control_messages_share_a_connection(sent, sizes):
    encoder, reader = FrameEncoder(), decoder(streams=STREAMS)
    data = b"".join(encoder.encode(message) for message in sent)
    assert len(data) == sum(message_bytes(message) for message in sent)
    got, place, turn = [], 0, 0
    while place < len(data):
        piece = data[place : place + sizes[turn % len(sizes)]]
        got.extend(kept(message) for message in reader.feed(piece))
        place, turn = place + len(piece), turn + 1
    assert len(got) == len(sent)
    assert all(same(one, other) for one, other in zip(sent, got, strict=True))


def test_two_interleaved_streams_count_their_own_frames():
    """Each stream numbers and acknowledges its rows from one on; the connection counts the frames of both."""
    encoder, reader, back, heard = FrameEncoder(), decoder(streams=(0, 3)), FrameEncoder(), decoder()
    sent = {0: 0, 3: 0}
    for stream in (0, 3, 3, 0, 3, 0, 0):
        sent[stream] += 1
        [message] = reader.feed(encoder.encode(rows_of(stream, sent[stream])))
        assert (message.stream, message.number) == (stream, sent[stream])
        [ack] = heard.feed(back.encode(Ack(message.number, message.stream)))
        assert (ack.stream, ack.number) == (stream, sent[stream])
    assert sent == {0: 4, 3: 3}
    assert reader.frames == heard.frames == 7


def test_a_stream_costs_no_bytes():
    one, other = rows_of(0), rows_of(255)
    assert len(encode(one)) == len(encode(other)) == frame_bytes(other) == message_bytes(other)
    assert encode(one)[HEADER_BYTES:] == encode(other)[HEADER_BYTES:]


def test_a_frame_under_another_number_stays_in_its_stream():
    assert rows_of(7).numbered(9).stream == 7


def test_acknowledgements_are_of_the_first_stream_unless_they_say_so():
    assert Ack(5).stream == 0
    assert rows_of(0).stream == Rows(1, 1, 1, False, False, np.array([0]), np.zeros(4, dtype=np.uint8)).stream


def test_each_stream_has_bounds_of_its_own():
    reader = FrameDecoder()
    reader.trusted = True
    reader.streams.update({0: RowLimits(10), 1: RowLimits(100, row_bytes=4)})
    encoder = FrameEncoder()
    assert len([*reader.feed(encoder.encode(rows_of(0, rows=(9,), payload_bytes=0)))]) == 1
    assert len([*reader.feed(encoder.encode(rows_of(1, rows=(99,))))]) == 1
    with pytest.raises(RemoteProtocolError, match="expected 1 rows below 10,"):
        list(reader.feed(encoder.encode(rows_of(0, rows=(10,)))))


def test_a_stream_whose_rows_must_weigh_something_says_so():
    reader = decoder(streams=(0,))
    reader.streams[1] = RowLimits(ROWS, row_bytes=4)
    light = rows_of(1, rows=range(1000), payload_bytes=100)
    with pytest.raises(RemoteProtocolError, match="at least 4 bytes for each of 1000 rows"):
        list(reader.feed(encode(light)))
    assert len([*decoder(streams=(1,)).feed(encode(light))]) == 1


@pytest.mark.parametrize(("open_streams", "stream"), [((0,), 1), ((0, 3), 255), ((3,), 0)])
def test_rows_of_an_unknown_stream_are_refused_by_their_header(open_streams, stream):
    """Nothing is set aside for what follows, and nobody waits for it."""
    reader = decoder(streams=open_streams)
    header = framed(Rows.KIND, b"", length=MAX_ROWS_BYTES, stream=stream)
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match=rf"expected a stream of \[.*\], got {stream}"):
            list(reader.feed(header))
        assert tracemalloc.get_traced_memory()[1] < 64 << 10
    finally:
        tracemalloc.stop()


def test_a_stream_that_was_closed_is_unknown_again():
    reader, encoder = decoder(streams=(0, 1)), FrameEncoder()
    assert len([*reader.feed(encoder.encode(rows_of(1)))]) == 1
    del reader.streams[1]
    with pytest.raises(RemoteProtocolError, match="got 1"):
        list(reader.feed(encoder.encode(rows_of(1, 2))))


def test_rows_before_the_handshake_are_refused_by_their_header():
    with pytest.raises(RemoteProtocolError, match="handshake"):
        list(decoder(rows=0).feed(encode(rows_of(0))[:HEADER_BYTES]))


@prove(40)
@given(control_messages(), st.integers(1, 255))
def test_a_control_message_belongs_to_no_stream(message, stream):
    body = encode(message)[HEADER_BYTES:]
    with pytest.raises(RemoteProtocolError, match=f"expected stream 0, got {stream}"):
        list(decoder(streams=STREAMS).feed(framed(message.KIND, body, stream=stream)))


def test_a_long_control_message_is_refused_whatever_stream_it_names():
    with pytest.raises(RemoteProtocolError, match=f"at most {MAX_CONTROL_BYTES}"):
        list(decoder().feed(framed(Ack.KIND, b"", length=MAX_CONTROL_BYTES + 1, stream=9)))


@pytest.mark.parametrize("stream", [-1, 256])
def test_a_stream_that_no_header_can_name_is_our_mistake(stream):
    with pytest.raises(LocalProtocolError, match=f"0 .. 255, got {stream}"):
        encode(rows_of(stream))


def test_rows_that_no_header_can_announce_are_our_mistake():
    head = len(encode(rows_of(5, payload_bytes=0))) - HEADER_BYTES
    longest = rows_of(5, payload_bytes=MAX_ROWS_BYTES - head)
    [back] = decoder(streams=(5,)).feed(encode(longest))
    assert same(back, longest)
    with pytest.raises(LocalProtocolError, match=f"at most {MAX_ROWS_BYTES} bytes, got {MAX_ROWS_BYTES + 1}"):
        encode(rows_of(5, payload_bytes=MAX_ROWS_BYTES - head + 1))


def test_what_is_known_of_a_frame_that_is_not_whole_leaves_its_stream_aside():
    reader, data = decoder(streams=(255,)), encode(rows_of(255, payload_bytes=1000))
    assert list(reader.feed(data[:100])) == []
    assert reader.unfinished == (100, len(data))


def test_an_acknowledgement_supersedes_those_of_its_own_stream_only():
    link = Link("peer")
    for message in (Ack(1), Ack(2), Ack(1, 3), Ack(2, 3), Ack(3), Heartbeat(), Heartbeat(arrived=5), Cancel(1), Ack(4)):
        link.say(message)
    assert [*link.control] == [Ack(2), Ack(2, 3), Ack(3), Heartbeat(arrived=5), Cancel(1), Ack(4)]
