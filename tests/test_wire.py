"""Bytes and messages: what goes in comes out, and whatever comes in, only RemoteProtocolError comes out."""

from __future__ import annotations

import dataclasses
import struct
import tracemalloc
from typing import get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raw_frames import framed, framed_as_version_1
from rowcast.codecs import codec_by_id
from rowcast.config import ServerSettings
from rowcast.errors import LocalProtocolError, RemoteProtocolError, StreamDamaged, VersionMismatch
from rowcast.rows import Layout
from rowcast.rows.outline import Outline
from rowcast.testing import VirtualTeam
from rowcast.wire import (
    HEADER_BYTES,
    Ack,
    Challenge,
    FrameDecoder,
    FrameEncoder,
    Heartbeat,
    Hello,
    LayoutTable,
    Rows,
    Waiting,
    encode,
)
from rowcast.wire.auth import matches, server_proof, worker_proof
from rowcast.wire.fields import pack, unpack
from rowcast.wire.frames import MAX_CONTROL_BYTES, MAX_STRANGER_BYTES, frame_bytes
from rowcast.wire.index import decode_index, encode_index
from rowcast.wire.messages import CONTROL
from teams import LAYOUT, worker

ROWS = 5000
KINDS = tuple(CONTROL.values())

FORMS = {
    bool: st.booleans(),
    int: st.one_of(st.integers(0, 300), st.integers(0, 2**31 - 1)),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bytes: st.binary(max_size=40),
    str: st.text(st.characters(codec="utf-8"), max_size=40),
}


def prove(examples):
    return settings(max_examples=examples, deadline=None, derandomize=True)


@st.composite
def control_messages(draw, kinds=KINDS):
    kind = draw(st.sampled_from(kinds))
    hints = get_type_hints(kind)
    metrics = st.dictionaries(FORMS[str], FORMS[float], max_size=4)
    return kind(**{field.name: draw(FORMS.get(hints[field.name], metrics)) for field in dataclasses.fields(kind)})


@st.composite
def ascending(draw, rows=ROWS):
    """Row indices of every pattern that the index block has a form for."""
    kind = draw(st.sampled_from(["run", "any", "dense", "far"]))
    if kind == "run":
        first = draw(st.integers(0, rows - 1))
        return np.arange(first, draw(st.integers(first + 1, rows)), dtype=np.int64)
    seed = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = {"any": draw(st.floats(0.001, 0.4)), "dense": draw(st.floats(0.4, 0.99)), "far": 0.0004}[kind]
    chosen = np.flatnonzero(seed.random(rows) < share)
    return chosen.astype(np.int64) if len(chosen) else np.array([rows - 1])


@st.composite
def row_messages(draw, rows=ROWS):
    return Rows(
        number=draw(st.integers(0, 2**64 - 1)),
        iteration=draw(st.integers(0, 2**31 - 1)),
        codec=draw(st.integers(0, 255)),
        absolute=draw(st.booleans()),
        quota_end=draw(st.booleans()),
        rows=draw(ascending(rows)),
        payload=np.frombuffer(draw(st.binary(max_size=200)), dtype=np.uint8),
    )


messages = st.one_of(control_messages(), row_messages())


def decoder(rows=ROWS, trusted=True):
    new = FrameDecoder()
    new.rows, new.trusted = rows, trusted
    return new


def same(one, other):
    if not isinstance(one, Rows):
        return one == other
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(Rows)
    )


def stream_of(*sent):
    """The frames of one direction of a connection."""
    encoder = FrameEncoder()
    return b"".join(encoder.encode(message) for message in sent)


# -- there and back --------------------------------------------------------------------------------------------


@prove(150)
@given(messages)
def test_every_message_comes_back_as_it_was(message):
    data = encode(message)
    [back] = decoder().feed(data)
    assert type(back) is type(message)
    assert same(message, back)
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
        for message in reader.feed(piece):
            if isinstance(message, Rows):
                message = dataclasses.replace(message, payload=message.payload.copy())
            got.append(message)
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
        framed(1, b"of another form", version=9),
        framed(99, b"", version=3),
    ],
    ids=["1", "9", "3"],
)
def test_another_version_is_told_what_to_do(data):
    """It is believed from the first frame of a connection, when that is whole."""
    reader = decoder(trusted=False)
    assert list(reader.feed(data[:-1])) == []
    with pytest.raises(VersionMismatch, match=f"version 2, the peer speaks {data[2]}; install the same version"):
        list(reader.feed(data[-1:]))


@pytest.mark.parametrize("version", [0, 1, 3, 9, 255])
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
    with pytest.raises(StreamDamaged, match="version 2 as before, got 9"):
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


# -- what cannot be sent ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        Ack(-1),
        Ack(1 << 64),
        Ack("five"),
        Waiting(0, b"bytes"),
        Waiting(0, "lone \udc80 surrogate"),
    ],
)
def test_what_the_form_cannot_hold_is_our_mistake(message):
    with pytest.raises(LocalProtocolError, match=type(message).__name__):
        encode(message)


def test_a_heartbeat_keeps_what_can_be_read_by_the_other_end():
    many = {f"metric {i}": float(i) for i in range(100)}
    [back] = decoder().feed(encode(Heartbeat({**many, "bad": float("nan")})))
    assert len(back.metrics) == 64
    assert back.metrics.items() <= many.items()


@pytest.mark.parametrize("letter", ["a", "ä", "😀"])
def test_the_name_of_a_metric_is_measured_in_bytes_at_both_ends(letter):
    """128 bytes are kept by who sends, and taken by who receives; one character more is neither."""
    longest = letter * (128 // len(letter.encode()))
    frame = encode(Heartbeat({longest: 1.0, longest + letter: 2.0}))
    [back] = decoder().feed(frame)
    assert back.metrics == {longest: 1.0}
    body = pack(Heartbeat({longest: 1.0}))
    size = len(longest.encode())
    place = body.index(size.to_bytes(4, "big") + longest.encode())
    too_long = (size + len(letter.encode())).to_bytes(4, "big") + (longest + letter).encode()
    forged = body[:place] + too_long + body[place + 4 + size :]
    with pytest.raises(RemoteProtocolError, match=f"at most 128 bytes, got {size + len(letter.encode())}"):
        unpack(Heartbeat, memoryview(forged))


def test_the_longest_control_message_is_bounded_on_both_sides():
    with pytest.raises(LocalProtocolError, match=f"at most {MAX_CONTROL_BYTES}"):
        encode(LayoutTable(b"x" * MAX_CONTROL_BYTES, 0))
    with pytest.raises(RemoteProtocolError, match=f"at most {MAX_CONTROL_BYTES}"):
        list(decoder().feed(framed(LayoutTable.KIND, b"x" * (MAX_CONTROL_BYTES + 1))))


# -- the proof of the secret -----------------------------------------------------------------------------------


def test_the_proof_covers_every_field():
    challenge = Challenge(b"s" * 16, b"n" * 16, True)
    hello = Hello("robot0", b"1" * 16, b"2" * 16, b"", b"3" * 16, b"4" * 16, b"", False, 0, 0)
    proof = worker_proof(b"secret", challenge, hello)
    assert matches(proof, worker_proof(b"secret", challenge, dataclasses.replace(hello, proof=b"anything")))
    assert not matches(proof, server_proof(b"secret", challenge, hello))
    assert not matches(proof, worker_proof(b"other", challenge, hello))
    assert not matches(proof, worker_proof(b"secret", dataclasses.replace(challenge, nonce=b"m" * 16), hello))
    for field in dataclasses.fields(Hello):
        value = getattr(hello, field.name)
        if field.name == "proof":
            continue
        if isinstance(value, bool):
            other = not value
        else:
            other = value + {int: 1, str: "x", bytes: b"x"}[type(value)]
        assert not matches(proof, worker_proof(b"secret", challenge, dataclasses.replace(hello, **{field.name: other})))


# -- garbage that reads well: messages that have no place in the conversation -----------------------------------


def team_at(time, policy="asp"):
    """Two workers in the middle of it: joining, computing, pushing, waiting or pulling, as the time falls."""
    scripts = [
        worker("robot0", iterations=10_000, compute_s=0.05, rate_bps=1e5, delay_s=0.01),
        worker("robot1", iterations=10_000, compute_s=0.05, rate_bps=1e5, delay_s=0.01),
    ]
    team = VirtualTeam(LAYOUT, policy, scripts, server_settings=ServerSettings(expected_workers=1, absence_limit_s=0.5))
    team.run(time)
    return team


huge = st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1])


@st.composite
def garbage(draw):
    """Messages of every kind, many of them with numbers that may just fit."""
    message = draw(st.one_of(control_messages(), row_messages(LAYOUT.rows)))
    changes = {}
    for name in ("number", "iteration", "received", "members"):
        if hasattr(message, name) and draw(st.booleans()):
            changes[name] = draw(st.one_of(st.integers(0, 12), huge))
    if isinstance(message, Rows):
        changes["codec"] = draw(st.integers(0, 4))
        if draw(st.booleans()):
            sizes = codec_by_id(min(changes["codec"], 3)).row_bytes(LAYOUT)
            changes["payload"] = np.zeros(int(sizes[message.rows].sum()), dtype=np.uint8)
    return dataclasses.replace(message, **changes)


def inject(deliver, robot, port, message):
    """``message`` arrives between others; those that are on their way do not count it."""
    frames = port.decoder.frames
    deliver(robot, encode(message, frames & 0xFFFF))
    port.decoder.frames = frames


def everybody_else_goes_on(team):
    team.kill("robot1")
    before = team.workers["robot0"].computed
    team.run(team.now + 3.0)
    assert team.workers["robot0"].computed > before


conversations = st.tuples(
    st.lists(garbage(), min_size=1, max_size=6), st.floats(0.0, 0.6), st.sampled_from(["asp", "bsp", "rog:4"])
)


@prove(120)
@given(conversations)
def test_the_server_survives_any_message_and_so_do_the_others(conversation):
    sent, time, policy = conversation
    team = team_at(time, policy)
    one = team.workers["robot1"]
    port = one.server_port
    for message in sent:
        if one.connected and one.server_port is port:
            inject(team._to_server, one, port, message)
    # What a member pushed may have changed the model, but it stops nobody.
    everybody_else_goes_on(team)


@prove(120)
@given(conversations)
def test_the_worker_survives_any_message(conversation):
    sent, time, policy = conversation
    team = team_at(time, policy)
    one = team.workers["robot1"]
    port = one.worker_port
    for message in sent:
        if one.connected and one.worker_port is port:
            inject(team._to_worker, one, port, message)
    team.run(time + 0.3)
    assert one.node.members >= 1
    everybody_else_goes_on(team)


def test_garbage_on_a_link_costs_that_link_only():
    """And the robot behind it comes back: who damaged its bytes is not known."""
    team = team_at(0.5, "ssp:2")
    team._to_server(team.workers["robot1"], b"\x00garbage")
    team.run(3.0)
    [error] = [record for record in team.journals["server"].records if record["event"] == "error"]
    assert error["peer"] == "robot1"
    assert error["error"] == "StreamDamaged"
    assert not team.failures
    [resumed] = [record for record in team.journals["server"].records if record["event"] == "resume"]
    assert resumed["peer"] == "robot1"
    everybody_else_goes_on(team)
