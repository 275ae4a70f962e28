"""The fields of control messages: what travels, what a peer of another release may say, and what nobody may."""

from __future__ import annotations

import math
import tracemalloc

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raw_frames import framed
from rowcast.errors import LocalProtocolError, RemoteProtocolError
from rowcast.wire import HEADER_BYTES, Ack, Ask, Challenge, Heartbeat, Hello, LayoutTable, Waiting, encode
from rowcast.wire.auth import matches, server_proof, worker_proof
from rowcast.wire.fields import pack, unpack
from rowcast.wire.frames import MAX_CONTROL_BYTES
from wire_messages import KINDS, control_messages, decoder, prove

#: The fields that each message of protocol version 4 had from the beginning, in order. Later ones follow behind them,
#: with a default; who changes this table changes ``PROTOCOL_VERSION``.
VERSION_4 = {
    "Challenge": "server nonce secret_needed",
    "Hello": "name session nonce proof layout state server joined iteration received | training trained wish",
    "Proof": "proof",
    "LayoutTable": "part left",
    "Welcome": "how server policy epoch members iteration received state | training origin positions",
    "Ack": "number | stream arrived",
    "Ask": "iteration weight rate_bps",
    "Grant": "iteration held_s",
    "PushEnd": "iteration quota_s compute_s rate_bps skipped | positions",
    "Go": "iteration mta_time_s held_s staleness members epoch",
    "PullEnd": "iteration",
    "Notice": "text",
    "Probe": "number wanted | filling",
    "Echo": "number | filling release clock",
    "Computed": "iteration compute_s rate_bps size skipped",
    "Horizon": "horizon newest slack members epoch counted",
    "Cancel": "iteration",
    "StateEnd": "",
    "Start": "iteration members epoch",
    "Lead": "leads",
    "Served": "server live version requests forward_s",
    "Request": "number up down codecs slabs deadline_s",
    "Drop": "number",
    "Answer": "number version compute_s queued_s",
    "Busy": "number wait_s cause",
    "Supply": "rate total | most",
    "Share": "samples rate",
    "Subtree": "leaves below",
    "Through": "relay",
    "Returned": "number lags",
    "Peer": "",
    "Follow": "server nonce proof term leads address team policy release",
    "Followed": "server team term promise",
    "Piece": "snapshot number data left",
    "Stored": "next",
    "Ballot": "term log_term server",
    "Vote": "term granted highest served",
    "Withdrawal": "term server",
    "NewTerm": "term standby",
    "Heartbeat": "| metrics arrived",
    "Waiting": "iteration reason",
    "Finish": "iteration wait",
    "Farewell": "received",
    "Leave": "cause",
    "Refusal": "code text",
}

#: What a newer release might have behind the fields of today.
anything = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.binary(max_size=20), st.text("aä")
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text("ab", max_size=3), inner, max_size=3)),
    max_leaves=8,
)


def elements(message):
    """The fields of a message as they travel, each as plain values."""
    return msgspec.msgpack.decode(pack(message))


def received(kind, *values):
    """The message that a peer has sent as an array of ``values``."""
    [message] = decoder().feed(framed(kind.KIND, msgspec.msgpack.encode(values)))
    return message


# -- other releases ----------------------------------------------------------------------------------------------------


def test_fields_are_added_at_the_end_only():
    assert {kind.__name__ for kind in KINDS} == set(VERSION_4)
    for kind in KINDS:
        needed, _, optional = VERSION_4[kind.__name__].partition("|")
        begun = [*needed.split(), *optional.split()]
        assert kind.__struct_fields__[: len(begun)] == tuple(begun), kind
        assert len(kind.__struct_fields__) - len(kind.__struct_defaults__) == len(needed.split()), kind


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_older_peer_leaves_out_what_was_added_later(kind):
    """Each field with a default may be missing, and has it then."""
    optional = [field for field in msgspec.structs.fields(kind) if not field.required]

    @prove(5)
    @given(control_messages((kind,)))
    def read(message):
        values = elements(message)
        for missing in range(1, len(optional) + 1):
            older = received(kind, *values[:-missing])
            for field in optional[-missing:]:
                made = field.default_factory
                assert getattr(older, field.name) == (field.default if made is msgspec.NODEFAULT else made())
            for name in kind.__struct_fields__[:-missing]:
                assert getattr(older, name) == getattr(message, name)

    read()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_field_without_a_default_may_not_be_missing(kind):
    needed = len(kind.__struct_fields__) - len(kind.__struct_defaults__)

    @prove(5)
    @given(control_messages((kind,)))
    def read(message):
        for count in range(needed):
            with pytest.raises(RemoteProtocolError, match=f"{kind.__name__}: fields that cannot be read: .*at least"):
                received(kind, *elements(message)[:count])

    read()


@prove(100)
@given(control_messages(), st.lists(anything, min_size=1, max_size=4))
def test_fields_of_a_newer_peer_are_skipped(message, more):
    assert received(type(message), *elements(message), *more) == message


def test_what_is_skipped_is_not_built_and_cannot_be_nested_without_end():
    """A newer peer's fields cost nothing but the bytes of their frame."""
    known = msgspec.msgpack.encode(7)
    long = b"".join((b"\x94", known, b"\x00\x00", b"\xdd\x00\x01\x00\x00", b"\xc0" * (1 << 16)))
    frame = framed(Ack.KIND, long)
    deep = framed(Ack.KIND, b"\x94" + known + b"\x00\x00" + b"\x91" * 100_000)
    reader, other = decoder(), decoder()
    for each in (reader, other):
        each.buffer(1 << 18)
    tracemalloc.start()
    try:
        assert list(reader.feed(frame)) == [Ack(7)]
        with pytest.raises(RemoteProtocolError, match="Ack: fields that cannot be read"):
            list(other.feed(deep))
        assert tracemalloc.get_traced_memory()[1] < 64 << 10
    finally:
        tracemalloc.stop()


# -- what nobody may say -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "values", "text"),
    [
        (Ack, [-1], "Expected `int` >= 0 - at `number`"),
        (Ack, [1.0], "Expected `int`, got `float` - at `number`"),
        (Ack, [True], "Expected `int`, got `bool` - at `number`"),
        (Ack, ["1"], "Expected `int`, got `str` - at `number`"),
        (Ack, [1, 256], "Expected `int` <= 255 - at `stream`"),
        (Ask, [1, math.nan, 1.0], "expected a finite number - at `weight`"),
        (Ask, [1, 1.0, math.inf], "expected a finite number - at `rate_bps`"),
        (Ask, [1, -math.inf, 1.0], "expected a finite number - at `weight`"),
        (Ask, [1, None, 1.0], "got `None` - at `weight`"),
        (Challenge, ["text", b"", False], "Expected `bytes`, got `str` - at `server`"),
        (Challenge, [b"", b"", 1], "Expected `bool`, got `int` - at `secret_needed`"),
        (Waiting, [1, b"bytes"], "Expected `str`, got `bytes` - at `reason`"),
        (Heartbeat, [[1.0]], "Expected `object`, got `array` - at `metrics`"),
        (Heartbeat, [{"loss": math.nan}], "expected a finite number - at `metrics"),
        (Heartbeat, [{"loss": "low"}], "Expected `float`, got `str` - at `metrics"),
        (Heartbeat, [{str(n): 1.0 for n in range(65)}], "Expected `object` of length <= 64 - at `metrics`"),
    ],
)
def test_types_and_bounds_are_strict(kind, values, text):
    with pytest.raises(RemoteProtocolError) as caught:
        received(kind, *values)
    assert str(caught.value).startswith(f"{kind.__name__}: fields that cannot be read: ")
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x91",
        b"\x91\xcd\x01",
        b"\x91\x01\x02",
        b"\x81\xa6number\x01",
        b"\x01",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff\x01",
    ],
)
def test_bytes_that_are_no_array_of_fields_are_refused(body):
    with pytest.raises(RemoteProtocolError, match="Ack: fields that cannot be read"):
        list(decoder().feed(framed(Ack.KIND, body)))


def test_a_text_that_is_no_utf_8_is_refused():
    for body in (b"\x92\x01\xa2\xff\xfe", b"\x92\x01\xa3\xed\xb2\x80"):
        with pytest.raises(RemoteProtocolError, match="Waiting: fields that cannot be read"):
            list(decoder().feed(framed(Waiting.KIND, body)))


@pytest.mark.parametrize("count", [65, 1 << 15, (1 << 32) - 1])
def test_a_heartbeat_of_many_metrics_is_refused_before_they_are_read(count):
    entries = b"".join(b"\xa3" + n.to_bytes(3, "big").hex()[-3:].encode() + b"\x01" for n in range(20_000))
    frame = framed(Heartbeat.KIND, b"\x91\xdf" + count.to_bytes(4, "big") + entries)
    reader = decoder()
    reader.buffer(1 << 18)
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match="length <= 64"):
            list(reader.feed(frame))
        assert tracemalloc.get_traced_memory()[1] < 16 << 10
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("count", [0, 127, 128, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
def test_counts_reach_as_far_as_64_bits(count):
    assert list(decoder().feed(encode(Ack(count)))) == [Ack(count)]


# -- what cannot be sent -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (Ack(-1), "number"),
        (Ack(1 << 64), ""),
        (Ack("five"), "number"),
        (Ack(None), "number"),
        (Ack(1, 256), "stream"),
        (Ack(object()), "object"),
        (Ask(1, math.nan, 1.0), "weight"),
        (Ask(1, 1.0, math.inf), "rate_bps"),
        (Waiting(0, b"bytes"), "reason"),
        (Waiting(0, "lone \udc80 surrogate"), ""),
        (Heartbeat({"loss": "low"}), ""),
        (Heartbeat([1.0]), ""),
        (Challenge(bytes(16), bytes(16), 1), "secret_needed"),
    ],
)
def test_what_the_form_cannot_hold_is_our_mistake(message, name):
    with pytest.raises(LocalProtocolError, match=f"^{type(message).__name__}: cannot be sent: .*{name}"):
        encode(message)


def test_numbers_of_numpy_travel_as_plain_ones():
    sent = Ask(np.int64(3), np.float64(0.25), np.float32(8.0))
    assert encode(sent) == encode(Ask(3, 0.25, 8.0))
    assert encode(Challenge(b"", b"", np.bool_(True))) == encode(Challenge(b"", b"", True))


def test_a_heartbeat_keeps_what_can_be_read_by_the_other_end():
    many = {f"metric {i}": float(i) for i in range(100)}
    [back] = decoder().feed(encode(Heartbeat({"bad": float("nan"), **many, "worse": float("inf")}, 7)))
    assert back == Heartbeat(dict([*many.items()][:64]), 7)


@pytest.mark.parametrize("letter", ["a", "ä", "😀"])
def test_the_name_of_a_metric_is_measured_in_bytes_at_both_ends(letter):
    """128 bytes are kept by who sends, and taken by who receives; one character more is neither."""
    longest = letter * (128 // len(letter.encode()))
    [back] = decoder().feed(encode(Heartbeat({longest: 1.0, longest + letter: 2.0})))
    assert back.metrics == {longest: 1.0}
    assert received(Heartbeat, {longest: 1.0}) == back
    with pytest.raises(RemoteProtocolError, match=r"Heartbeat: .*(128 bytes, got 13\d|length <= 128)"):
        received(Heartbeat, {longest + letter: 1.0})


def test_the_longest_control_message_is_bounded_on_both_sides():
    with pytest.raises(LocalProtocolError, match=f"at most {MAX_CONTROL_BYTES}"):
        encode(LayoutTable(b"x" * MAX_CONTROL_BYTES, 0))
    with pytest.raises(RemoteProtocolError, match=f"at most {MAX_CONTROL_BYTES}"):
        list(decoder().feed(framed(LayoutTable.KIND, b"x" * (MAX_CONTROL_BYTES + 1))))


@prove(40)
@given(control_messages())
def test_messages_stay_as_they_were_made(message):
    for name in message.__struct_fields__:
        with pytest.raises(AttributeError, match="immutable"):
            setattr(message, name, getattr(message, name))


# -- the proof of the secret -------------------------------------------------------------------------------------------

CHALLENGE = Challenge(b"s" * 16, b"n" * 16, True)
HELLO = Hello("robot0", b"1" * 16, b"2" * 16, b"", b"3" * 16, b"4" * 16, b"", False, 0, 0)


def test_the_proof_covers_every_field():
    replace = msgspec.structs.replace
    proof = worker_proof(b"secret", CHALLENGE, HELLO)
    assert matches(proof, worker_proof(b"secret", CHALLENGE, replace(HELLO, proof=b"anything")))
    assert not matches(proof, server_proof(b"secret", CHALLENGE, HELLO))
    assert not matches(proof, worker_proof(b"other", CHALLENGE, HELLO))
    answer = server_proof(b"secret", CHALLENGE, HELLO)
    assert not matches(answer, server_proof(b"secret", CHALLENGE, replace(HELLO, proof=b"anything")))
    for name in Challenge.__struct_fields__:
        other = replace(CHALLENGE, **{name: changed_value(getattr(CHALLENGE, name))})
        assert not matches(proof, worker_proof(b"secret", other, HELLO))
        assert not matches(answer, server_proof(b"secret", other, HELLO))
    for name in Hello.__struct_fields__:
        other = replace(HELLO, **{name: changed_value(getattr(HELLO, name))})
        assert not matches(answer, server_proof(b"secret", CHALLENGE, other))
        if name != "proof":
            assert not matches(proof, worker_proof(b"secret", CHALLENGE, other))


def changed_value(value):
    if isinstance(value, bool):
        return not value
    return value + {int: 1, str: "x", bytes: b"x"}[type(value)]


@prove(30)
@given(st.lists(anything, max_size=3), st.lists(anything, max_size=3), st.integers(0, 3))
def test_peers_of_other_releases_prove_the_secret_to_each_other(more, other, missing):
    """What is proved is what travelled: also fields that this release does not know, or that the peer does not."""
    challenge = received(Challenge, *elements(CHALLENGE), *more)
    values = elements(HELLO)
    values = [*values[: len(values) - missing], *(() if missing else other)]
    place = Hello.__struct_fields__.index("proof")
    unproved = received(Hello, *values)
    assert values[place] == b""
    values[place] = worker_proof(b"secret", challenge, unproved)
    hello = received(Hello, *values)
    assert matches(hello.proof, worker_proof(b"secret", challenge, hello))
    for body in (msgspec.msgpack.encode([*values, 0]), msgspec.msgpack.encode([*values[:-1], "x"])):
        forged = unpack_or_none(Hello, body)
        if forged is not None:
            assert not matches(hello.proof, worker_proof(b"secret", challenge, forged))
    stranger = received(Challenge, *elements(CHALLENGE), *more, 0)
    assert not matches(hello.proof, worker_proof(b"secret", stranger, hello))
    assert not matches(server_proof(b"secret", challenge, hello), server_proof(b"secret", stranger, hello))


def unpack_or_none(kind, body):
    try:
        return unpack(kind, memoryview(body))
    except RemoteProtocolError:
        return None


def test_what_was_received_and_is_changed_is_proved_as_it_would_be_sent():
    [hello] = decoder().feed(encode(HELLO))
    assert hello.body == encode(HELLO)[HEADER_BYTES:] == HELLO.body
    other = msgspec.structs.replace(hello, name="robot1")
    assert other.body == encode(other)[HEADER_BYTES:] != hello.body
