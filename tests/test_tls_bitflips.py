"""Bits that are flipped inside TLS: a part of each session; ``make fuzz`` flips all."""

from __future__ import annotations

import random

import pytest

import tls_bitflips
from tls_bitflips import DIRECTIONS, Session, flip, lengths

#: So many bytes of a session stand for one of them.
STRIDE = 24


def test_a_session_that_nobody_harms():
    session = Session().run()
    assert session.connections == 1 and not session.flipped
    assert all(count > 1000 for count in session.carried.values())


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_no_flipped_bit_changes_a_parameter(direction):
    """One bit of each 24 bytes: of the handshake, the proofs, the rows, the goodbyes."""
    chance = random.Random(7)
    ended = 0
    for start in range(0, lengths()[direction], STRIDE):
        case = (direction, start + chance.randrange(STRIDE), chance.randrange(8))
        session = Session((case[0], case[1], 1 << case[2])).run()
        ended += session.connections > 1
    # All but the last goodbyes: there the link ends anyway.
    assert ended >= lengths()[direction] // STRIDE - 8


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_record_that_announces_too_much_or_too_little(direction):
    """Its length has no checksum: the receiver waits for what will not come, and must notice."""
    for place in Session().run().records[direction]:
        for byte, bit in ((3, 3), (3, 5), (4, 2)):
            assert flip(direction, place + byte, bit) or place > lengths()[direction] - 10


def test_the_test_can_fail(monkeypatch):
    """Without TLS's check a flipped bit would be seen: here one bit of a parameter is changed by hand."""
    session = Session()
    real = session._train

    def train():
        real()
        if session.server.layout is not None and session._steps == 1:
            session.server.parameters[5] += 1

    monkeypatch.setattr(session, "_train", train)
    with pytest.raises(AssertionError):
        session.run()


def test_every_bit_is_among_the_cases():
    wanted = 8 * sum(lengths().values())
    assert sum(1 for _ in tls_bitflips.cases()) == wanted
    assert flip("up", 3, 0)
