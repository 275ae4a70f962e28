"""Frames that arrive: in order, each once, checked before anything is changed."""

from __future__ import annotations

import numpy as np
import pytest

from rowcast.codecs import codec_by_name
from rowcast.delivery.inbox import Inbox
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout
from rowcast.wire import Rows

LAYOUT = Layout.from_shapes([("weight", (6, 5)), ("bias", (7,))], small_tensor=1)


def frame(number: int, code: str = "raw", *, absolute: bool = False, cut: int = 0) -> Rows:
    codec, rows = codec_by_name(code), np.array([0, 2, 5])
    payload = codec.encode(LAYOUT, np.ones(LAYOUT.elements, dtype=np.float32), rows)
    return Rows(number, 1, codec.wire_id, absolute, False, rows, payload[: len(payload) - cut])


def test_each_frame_is_accepted_once_and_in_order():
    inbox = Inbox(LAYOUT)
    for number in (1, 2, 3):
        assert inbox.accept(frame(number)) is codec_by_name("raw")
        assert inbox.received == number
        for old in range(number + 1):
            assert inbox.accept(frame(old)) is None
    assert inbox.received == 3


def test_a_gap_is_refused_and_changes_nothing():
    inbox = Inbox(LAYOUT)
    inbox.accept(frame(1))
    with pytest.raises(RemoteProtocolError, match="expected number 2, got 3"):
        inbox.accept(frame(3))
    assert inbox.received == 1
    assert inbox.accept(frame(2)) is not None


@pytest.mark.parametrize("code", ["raw", "half", "onebit"])
def test_a_payload_of_another_length_is_refused_and_changes_nothing(code: str):
    inbox = Inbox(LAYOUT)
    with pytest.raises(RemoteProtocolError):
        inbox.accept(frame(1, code, cut=1))
    assert inbox.received == 0
    assert inbox.accept(frame(1, code)) is codec_by_name(code)


def test_a_duplicate_is_not_even_looked_at():
    inbox = Inbox(LAYOUT)
    inbox.accept(frame(1))
    assert inbox.accept(frame(1, cut=3)) is None


def test_absolute_rows_are_raw():
    inbox = Inbox(LAYOUT)
    with pytest.raises(RemoteProtocolError, match="raw codec, got half"):
        inbox.accept(frame(1, "half", absolute=True))
    assert inbox.received == 0
    assert inbox.accept(frame(1, "raw", absolute=True)) is codec_by_name("raw")
