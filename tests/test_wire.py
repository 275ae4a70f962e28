"""Bytes and messages: what goes in comes out, and whatever comes in, only RemoteProtocolError comes out."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raw_frames import framed, framed_as_version_1
from rowcast.errors import RemoteProtocolError, StreamDamaged, VersionMismatch
from rowcast.rows import Layout
from rowcast.rows.outline import Outline
from rowcast.wire import HEADER_BYTES, Ack, Challenge, FrameEncoder, LayoutTable, Rows, encode
from rowcast.wire.frames import MAX_STRANGER_BYTES, frame_bytes, message_bytes
from rowcast.wire.index import decode_index, encode_index
from rowcast.wire.messages import CONTROL
from wire_messages import ROWS, ascending, control_messages, decoder, kept, messages, prove, same, stream_of

# -- there and back --------------------------------------------------------------------------------------------


@prove(150)
@given(messages)
def test_every_message_comes_back_as_it_was(message):
    data = encode(message)
    [back] = decoder().feed(data)
    assert type(back) is type(message)
    assert same(message, back)
    assert message_bytes(message) == len(data)
    if isinstance(message, Rows):
        assert frame_bytes(message) == len(data)


@pytest.mark.parametrize("kind", CONTROL.values(), ids=lambda kind: kind.__name__)
def test_every_kind_of_message(kind):
    @prove(10)
    @given(control_messages((kind,)))
    def there_and_back(message):
        assert list(decoder().feed(encode(message))) == [message]

    there_and_back()


@pytest.mark.parametrize(
    ("rows", "form", "size"),
    [
        (np.arange(7, 90), 0, 4),
        (np.array([4999]), 0, 4),
        (np.array([1, 50, 300]), 1, 6),
        (np.array([1, 256, 257]), 1, 8),
        (np.array([0, 65535]), 1, 7),
        (np.array([0, 65536]), 2, 8),
        (np.arange(0, 400, 2), 3, 58),
    ],
    ids=["run", "one", "gaps", "wide gap", "widest gap", "gap beyond u16", "bitmap"],
)
def test_each_form_of_the_index_block(rows, form, size):
    chosen, block = encode_index(rows)
    assert (chosen, len(block)) == (form, size)
    back, used = decode_index(form, memoryview(block + b"tail"), len(rows), 100_000)
    assert np.array_equal(back, rows)
    assert used == size


@prove(150)
@given(ascending())
def test_the_index_block_is_never_longer_than_its_rows_are_many(rows):
    form, block = encode_index(rows)
    back, used = decode_index(form, memoryview(block), len(rows), ROWS)
    assert np.array_equal(back, rows)
    assert used == len(block) <= 4 * len(rows)


@prove(40)
@given(st.lists(messages, min_size=1, max_size=5), st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_a_stream_may_be_cut_anywhere(sent, sizes):
    data = stream_of(*sent)
    reader, got, place, turn = decoder(), [], 0, 0
    while place < len(data):
        piece = data[place : place + sizes[turn % len(sizes)]]
        got.extend(kept(message) for message in reader.feed(piece))
        place, turn = place + len(piece), turn + 1
    assert len(got) == len(sent)
    assert all(same(one, other) for one, other in zip(sent, got, strict=True))


def test_a_frame_split_at_every_byte():
    message = Rows(7, 3, 1, False, True, np.array([1, 5, 6]), np.arange(24, dtype=np.uint8))
    data = encode(message)
    for cut in range(len(data) + 1):
        reader = decoder()
        got = [*reader.feed(data[:cut]), *reader.feed(data[cut:])]
        assert len(got) == 1
        assert same(got[0], message)


def test_bytes_written_into_the_buffer_are_not_copied():
    reader = decoder()
    data = encode(Ack(5))
    place = reader.buffer(100)
    assert len(place) >= 100
    place[: len(data)] = data
    assert list(reader.filled(len(data))) == [Ack(5)]


def test_a_payload_stays_valid_until_the_next_buffer_call():
    reader = decoder()
    first = Rows(1, 1, 1, False, False, np.array([0]), np.full(4000, 7, dtype=np.uint8))
    seen = [(message.number, int(message.payload.sum())) for message in reader.feed(stream_of(*[first] * 40))]
    assert seen == [(1, 28_000)] * 40


# -- garbage ---------------------------------------------------------------------------------------------------


def drink(reader, data, step=None):
    """Feed everything; only RemoteProtocolError may come out."""
    try:
        for start in range(0, len(data), step or max(len(data), 1)):
            list(reader.feed(data[start : start + (step or len(data))]))
    except RemoteProtocolError:
        return True
    return False


@prove(150)
@given(st.binary(max_size=300), st.booleans(), st.sampled_from([0, 1, ROWS]))
def test_random_bytes(data, trusted, rows):
    drink(decoder(rows, trusted), data)


@prove(150)
@given(st.sampled_from([5, *CONTROL]), st.binary(max_size=120), st.sampled_from([0, 1, ROWS]))
def test_random_content_in_a_valid_frame(kind, body, rows):
    """The checksum is no protection: whoever sends garbage may well sum it up."""
    drink(decoder(rows), framed(kind, body))


@prove(200)
@given(messages, st.data())
def test_mutated_content_in_a_valid_frame(message, data):
    body = bytearray(encode(message)[HEADER_BYTES:])
    for _ in range(data.draw(st.integers(1, 3))):
        if body:
            place = data.draw(st.integers(0, len(body) - 1))
            body[place] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, body[place] ^ 1]))
    body = body[: data.draw(st.integers(0, len(body)))] if data.draw(st.booleans()) else body
    rows = data.draw(st.sampled_from([1, 40, ROWS]))
    reader = decoder(rows)
    try:
        for got in reader.feed(framed(message.KIND, bytes(body))):
            if isinstance(got, Rows):
                assert 1 <= len(got.rows) <= rows
                assert got.rows[0] >= 0
                assert got.rows[-1] < rows
                assert (np.diff(got.rows) > 0).all()
    except RemoteProtocolError:
        pass


@prove(100)
@given(messages, st.integers(0, 10**6), st.integers(1, 255))
def test_a_damaged_frame_is_noticed(message, place, flip):
    data = bytearray(encode(message, sequence=1))
    place %= len(data)
    data[place] ^= flip
    # At once, whatever was hit: nobody waits for the end of a frame whose length grew.
    reader = decoder()
    list(reader.feed(encode(Ack(1))))
    with pytest.raises(StreamDamaged):
        list(reader.feed(bytes(data)))


@pytest.mark.parametrize("place", range(HEADER_BYTES))
def test_a_damaged_header_is_noticed_before_its_body_is_there(place):
    """Also in the middle of a connection, and whatever other bits are set."""
    for bit in range(8):
        reader = decoder()
        assert list(reader.feed(encode(Ack(1)))) == [Ack(1)]
        header = bytearray(encode(LayoutTable(b"x" * 1000, 0), sequence=1)[:HEADER_BYTES])
        header[place] ^= 1 << bit
        with pytest.raises(StreamDamaged):
            list(reader.feed(bytes(header)))


@prove(60)
@given(st.lists(messages, min_size=2, max_size=6), st.data())
def test_frames_that_are_lost_doubled_or_exchanged_are_noticed(sent, data):
    """A hole at the border of two frames leaves whole frames: the next one tells."""
    encoder = FrameEncoder()
    frames = [encoder.encode(message) for message in sent]
    place = data.draw(st.integers(0, len(frames) - 2))
    match data.draw(st.sampled_from(["lost", "doubled", "exchanged"])):
        case "lost":
            del frames[place]
        case "doubled":
            frames.insert(place, frames[place])
        case "exchanged":
            frames[place : place + 2] = frames[place + 1], frames[place]
    with pytest.raises(StreamDamaged, match="lost or doubled"):
        list(decoder().feed(b"".join(frames)))


def test_frames_are_counted_beyond_what_their_header_holds():
    encoder, reader = FrameEncoder(), decoder()
    for _ in range(70):
        assert len(list(reader.feed(b"".join(encoder.encode(Ack(1)) for _ in range(1000))))) == 1000
    assert reader.frames == 70_000
    assert encoder.sent == reader.arrived


@prove(60)
@given(messages, st.data())
def test_a_truncated_frame_is_waited_for(message, data):
    whole = encode(message)
    assert list(decoder().feed(whole[: data.draw(st.integers(0, len(whole) - 1))])) == []


def test_a_stream_that_was_refused_stays_refused():
    reader = decoder()
    assert drink(reader, b"GET / HTTP/1.1\r\n\r\n")
    assert drink(reader, encode(Ack(1)))


def test_another_protocol_is_named():
    with pytest.raises(RemoteProtocolError, match=r"b'GET / HT'.*right port"):
        list(decoder().feed(b"GET / HTTP/1.1\r\n"))


@pytest.mark.parametrize(
    "data",
    [
        framed_as_version_1(1, bytes(53)),
        framed(1, bytes(53), version=2),
        framed(1, b"of another form", version=9),
        framed(99, b"", version=3),
    ],
    ids=["1", "2", "9", "3"],
)
def test_another_version_is_told_what_to_do(data):
    """It is believed from the first frame of a connection, when that is whole."""
    reader = decoder(trusted=False)
    assert list(reader.feed(data[:-1])) == []
    with pytest.raises(VersionMismatch, match=f"version 4, the peer speaks {data[2]}; install the same version"):
        list(reader.feed(data[-1:]))


@pytest.mark.parametrize("version", [0, 1, 2, 3, 9, 255])
def test_a_damaged_version_is_damage_and_no_other_version(version):
    data = bytearray(encode(Challenge(bytes(16), bytes(16), False)))
    data[2] = version
    with pytest.raises(StreamDamaged):
        list(decoder().feed(bytes(data)))
    body = bytearray(framed(1, bytes(53), version=version or 7))
    body[-1] ^= 1
    with pytest.raises(StreamDamaged):
        list(decoder().feed(bytes(body)))
    old = bytearray(framed_as_version_1(1, bytes(53)))
    old[-1] ^= 1
    with pytest.raises(StreamDamaged):
        list(decoder().feed(bytes(old)))


def test_a_version_is_believed_in_the_first_frame_only():
    reader = decoder()
    assert list(reader.feed(encode(Ack(1)))) == [Ack(1)]
    with pytest.raises(StreamDamaged, match="version 4 as before, got 9"):
        list(reader.feed(framed(6, bytes(8), version=9, sequence=1)))


def test_a_stranger_may_say_little():
    long = LayoutTable(b"x" * (MAX_STRANGER_BYTES + 1), 0)
    header = encode(long)[:HEADER_BYTES]
    assert list(decoder().feed(encode(long))) == [long]
    with pytest.raises(RemoteProtocolError, match=f"at most {MAX_STRANGER_BYTES} bytes"):
        list(decoder(trusted=False).feed(header))
    assert list(decoder(trusted=False).feed(encode(Ack(1)))) == [Ack(1)]


def test_rows_before_the_handshake_are_refused():
    message = Rows(1, 1, 1, False, False, np.array([0]), np.zeros(4, dtype=np.uint8))
    with pytest.raises(RemoteProtocolError, match="handshake"):
        list(decoder(rows=0).feed(encode(message)))


def test_a_long_announcement_allocates_nothing():
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match="at most"):
            list(decoder().feed(framed(6, b"", length=0xFFFFFFFF)))
        for form in range(4):
            head = struct.pack(">QIBBBI", 1, 1, 1, 0, form, 0xFFFFFFFF)
            assert drink(decoder(), framed(5, head + b"\xff" * 8))
        assert drink(decoder(), framed(3, b"\xff\xff\xff\xff"))
        assert drink(decoder(), framed(12, b"\xff\xff"))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "table",
    [
        b"",
        b"[]",
        b'{"small_tensor":1000,"max_row":65536,"tensors":[["w",[34359738368,1]]]}',
        b'{"small_tensor":1,"max_row":1,"tensors":[["w",[1,34359738368]]]}',
        b'{"small_tensor":1,"max_row":1,"tensors":[["w",[1099511627776,1099511627776]]]}',
        b'{"small_tensor":1,"max_row":1,"tensors":[["w",[-1]]]}',
        b'{"small_tensor":1,"max_row":1,"tensors":[["w",[1.5]]]}',
        b'{"small_tensor":1,"max_row":1,"tensors":[[7,[1]]]}',
        b'{"small_tensor":1,"max_row":1,"tensors":[["w",[true]]]}',
        b'{"small_tensor":1,"max_row":1,"tensors":[["w",[1]],["w",[1]]]}',
        b'{"small_tensor":1,"max_row":1,"tensors":[]}',
        b"[" * 100_000,
        b'{"small_tensor":1,"max_row":1,"tensors":{"ab":1}}',
        b"\xff\xfe",
    ],
)
def test_a_bad_layout_table_costs_no_memory(table):
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match="layout table"):
            Layout.from_outline(Outline.read(table))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
