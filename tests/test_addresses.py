"""Where a worker looks for its server: as the user has said, and as the server has told."""

from __future__ import annotations

import socket

import pytest

from rowcast.drivers.sockets.addresses import Addresses, in_words

FIRST, SECOND, THIRD, FOURTH = (("10.0.0.1", 1), ("10.0.0.2", 2), ("10.0.0.3", 3), ("fe80::4", 4))


def test_the_one_that_does_not_answer_is_tried_last():
    addresses = Addresses([FIRST, SECOND, FIRST])
    assert addresses.all() == [FIRST, SECOND]
    addresses.leave()
    assert addresses.all() == [SECOND, FIRST]


@pytest.mark.parametrize(("told", "standby"), [("10.0.0.3:3", THIRD), ("[fe80::4]:4", FOURTH)])
def test_a_standby_that_is_told_takes_the_place_of_the_last_one_and_of_none_that_was_given(told, standby):
    addresses = Addresses([FIRST])
    addresses.learn(told)
    addresses.learn("")  # it is gone: that is where it was
    assert addresses.all() == [FIRST, standby]
    addresses.learn("10.0.0.2:2")
    assert addresses.all() == [FIRST, SECOND]
    addresses.learn("10.0.0.1:1")
    assert addresses.all() == [FIRST, SECOND]
    addresses.learn(told)
    assert addresses.all() == [FIRST, SECOND, standby]


def test_what_is_no_address_is_not_tried():
    addresses = Addresses([FIRST])
    addresses.learn("nowhere")
    addresses.learn("10.0.0.2:2")
    assert addresses.all() == [FIRST, SECOND]


def test_why_a_server_could_not_be_reached_is_said_in_words():
    assert in_words(TimeoutError()) == "no answer"
    assert "nobody listens" in in_words(ConnectionRefusedError(111, "Connection refused"))
    assert "cannot be resolved (unknown)" in in_words(socket.gaierror(-2, "unknown"))
    assert in_words(OSError(113, "No route to host")) == "No route to host"
