"""Messages of every kind for tests of the wire, and decoders for them."""

from __future__ import annotations

import dataclasses
from typing import get_type_hints

import msgspec
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from rowcast.wire import FrameDecoder, FrameEncoder, Request, RowLimits, Rows, Subtree
from rowcast.wire.messages import CONTROL, Ack

ROWS = 5000
KINDS = tuple(CONTROL.values())

FORMS = {
    bool: st.booleans(),
    int: st.one_of(st.integers(0, 300), st.integers(0, 2**31 - 1)),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bytes: st.binary(max_size=40),
    str: st.text(st.characters(codec="utf-8"), max_size=40),
}
METRICS = st.dictionaries(FORMS[str], FORMS[float], max_size=4)
STREAMS = st.integers(0, 255)
TENSORS = st.lists(st.integers(0, 2000), max_size=6).map(tuple)


def prove(examples):
    return settings(max_examples=examples, deadline=None, derandomize=True)


@st.composite
def control_messages(draw, kinds=KINDS):
    kind = draw(st.sampled_from(kinds))
    hints = get_type_hints(kind)
    forms = {name: FORMS.get(hints[name], METRICS) for name in kind.__struct_fields__}
    if kind is Ack:
        forms["stream"] = STREAMS
    if kind is Subtree:
        forms["below"] = st.lists(st.binary(max_size=16), max_size=5).map(tuple)
    if kind is Request:
        forms["up"] = forms["down"] = forms["codecs"] = TENSORS
    return kind(**{name: draw(form) for name, form in forms.items()})


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
def row_messages(draw, rows=ROWS, stream=0):
    return Rows(
        number=draw(st.integers(0, 2**64 - 1)),
        iteration=draw(st.integers(0, 2**31 - 1)),
        codec=draw(st.integers(0, 255)),
        absolute=draw(st.booleans()),
        quota_end=draw(st.booleans()),
        rows=draw(ascending(rows)),
        payload=np.frombuffer(draw(st.binary(max_size=200)), dtype=np.uint8),
        stream=stream,
    )


messages = st.one_of(control_messages(), row_messages())


def decoder(rows=ROWS, trusted=True, streams=(0,)):
    """A decoder that takes rows on some streams; on none where there are no rows."""
    new = FrameDecoder()
    new.trusted = trusted
    new.streams.update((stream, RowLimits(rows)) for stream in streams if rows)
    return new


def same(one, other):
    """Whether two messages say the same."""
    if not isinstance(one, Rows):
        return one == other
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(Rows)
    )


def kept(message):
    """The message, to be looked at after more has arrived."""
    return dataclasses.replace(message, payload=message.payload.copy()) if isinstance(message, Rows) else message


def changed(message, **changes):
    """The message with other values in some fields."""
    replace = dataclasses.replace if isinstance(message, Rows) else msgspec.structs.replace
    return replace(message, **changes)


def stream_of(*sent):
    """The frames of one direction of a connection."""
    encoder = FrameEncoder()
    return b"".join(encoder.encode(message) for message in sent)
