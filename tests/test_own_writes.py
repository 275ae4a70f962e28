"""What a worker expects of the parameters for certain: the replica, less its own contributions that have not come back.

Values are whole numbers, so that all sums are exact in float32.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.codecs import codec_by_name
from rowcast.config import ServerSettings, WorkerSettings
from rowcast.delivery.residual import Residual
from rowcast.rows import Layout
from rowcast.testing import VirtualTeam
from rowcast.training.proposal.own_writes import OwnWrites
from rowcast.training.proposal.sent_writes import SentWrites
from rowcast.wire import Rows
from teams import LAYOUT, finished, links, worker

SMALL = Layout.from_shapes([("weight", (5, 3)), ("bias", (2,))], small_tensor=1)
RAW = codec_by_name("raw")
ACTIONS = ("compute", "send", "hear", "answer", "arrive", "others", "cut")


class Exchange:
    """A worker and a server that exchange rows one frame at a time, and what of the worker is where.

    Attributes:
        computed: everything that the worker has computed; ``at_server``, ``returned``: what of it the server's
            parameters and the replica hold.
    """

    def __init__(self, *, small: bool = False, room: int = 1 << 20) -> None:
        self.server, self.replica = SMALL.zeros(), SMALL.zeros()
        self.computed, self.at_server, self.returned = SMALL.zeros(), SMALL.zeros(), SMALL.zeros()
        self.residual = Residual(SMALL, SMALL.zeros())
        self.flight: deque[tuple[Rows, np.ndarray]] = deque()
        self.heard = self.number = 0
        self.down: deque[tuple[np.ndarray, np.ndarray, np.ndarray] | int] = deque()
        self.own: OwnWrites | SentWrites
        if small:
            self.own = SentWrites(SMALL, self.replica, self.on_their_way, room)
        else:
            self.own = OwnWrites(SMALL, self.replica, self.on_their_way)
        self.residual.follower = self.own

    def on_their_way(self) -> list[Rows]:
        return [message for message, _ in self.flight]

    def act(self, action: str, random: np.random.Generator) -> None:
        rows = np.flatnonzero(random.random(SMALL.rows) < 0.6)
        elements = np.concatenate([np.arange(SMALL.offsets[row], SMALL.offsets[row + 1]) for row in rows] or [rows])
        if action == "compute":
            step = random.integers(-9, 10, SMALL.elements)
            self.computed += step
            self.residual.vector += step
            self.residual.measured = False
        elif action == "send" and len(rows):
            payload, before = self.residual.take(rows, RAW, self.number)
            self.number += 1
            self.flight.append((Rows(self.number, 1, RAW.wire_id, False, False, rows, payload), before))
        elif action == "hear":
            waiting = [message for message, _ in self.flight if message.number > self.heard]
            if waiting:
                self.heard = waiting[0].number
                RAW.add(SMALL, waiting[0].payload, waiting[0].rows, self.server, -1.0)
                RAW.add(SMALL, waiting[0].payload, waiting[0].rows, self.at_server, 1.0)
                self.down.append(self.heard)
        elif action == "answer":
            self.down.append((rows, elements, np.stack([self.server, self.at_server])[:, elements]))
        elif action == "arrive" and self.down:
            message = self.down.popleft()
            if isinstance(message, int):
                self.acknowledged(message)
            else:
                self.replica[message[1]], self.returned[message[1]] = message[2]
                self.own.arrived(message[0])
        elif action == "others":
            self.server += random.integers(-9, 10, SMALL.elements)
        elif action == "cut":
            self.down.clear()
            self.acknowledged(self.heard)  # what the server has, it says when the worker is back
            while self.flight:
                self.residual.put_back(*self.flight.pop())
            self.number = self.heard

    def acknowledged(self, number: int) -> None:
        while self.flight and self.flight[0][0].number <= number:
            self.flight.popleft()

    def check(self) -> None:
        unreturned = self.computed - self.residual.vector - self.returned
        np.testing.assert_array_equal(self.own.expected, self.replica - unreturned)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from(ACTIONS), min_size=5, max_size=60), st.booleans())
def test_expected_is_the_replica_less_what_is_sent_and_has_not_come_back(
    seed: int, actions: list[str], small: bool
) -> None:
    random, exchange = np.random.default_rng(seed), Exchange(small=small)
    for action in actions:
        exchange.act(action, random)
        exchange.check()


@pytest.mark.parametrize("small", [False, True])
def test_a_row_that_is_on_its_way_whenever_it_arrives_follows_the_others_all_the_same(small: bool) -> None:
    """It stood still while nothing but the moments was to blame at which frames met."""
    random, exchange = np.random.default_rng(0), Exchange(small=small)
    for _ in range(30):
        for action in ("compute", "send", "hear", "others", "answer", "send", "arrive", "arrive"):
            exchange.act(action, random)
            exchange.check()
    assert np.abs(exchange.replica).min() > 0


# -- in little memory ------------------------------------------------------------------------------------------


def test_frames_are_let_go_of_when_all_of_their_rows_are_back() -> None:
    random, exchange = np.random.default_rng(1), Exchange(small=True)
    assert isinstance(exchange.own, SentWrites)
    for _ in range(10):
        for action in ("compute", "send", "hear", "arrive"):
            exchange.act(action, random)
    assert exchange.own.kept_bytes > 0
    exchange.replica[:], exchange.returned[:] = exchange.server, exchange.at_server
    exchange.own.arrived(np.arange(SMALL.rows))
    exchange.check()
    assert exchange.own.kept_bytes == 0 and exchange.own.forgotten == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from(ACTIONS), min_size=20, max_size=80), st.integers(1, 200))
def test_beyond_their_room_the_oldest_frames_are_forgotten_and_the_rest_is_as_before(
    seed: int, actions: list[str], room: int
) -> None:
    """What is forgotten is as good as back: nothing of it is left when everything has come."""
    random, exchange = np.random.default_rng(seed), Exchange(small=True, room=room)
    assert isinstance(exchange.own, SentWrites)
    for action in actions:
        exchange.act(action, random)
        assert exchange.own.kept_bytes <= room
        if not exchange.own.forgotten:
            exchange.check()
    exchange.act("cut", random)  # nothing is on its way, and everything that the server has comes
    exchange.replica[:], exchange.returned[:] = exchange.server, exchange.at_server
    exchange.own.arrived(np.arange(SMALL.rows))
    exchange.check()


def test_the_bytes_that_are_counted_are_those_that_are_kept_alive() -> None:
    own = SentWrites(SMALL, SMALL.zeros(), list, 1 << 20)
    rows, whole = np.arange(3), np.zeros(1000, dtype=np.uint8)
    own.sent(RAW, whole[:36], rows)
    assert own.kept_bytes == 1000 + 4 * len(rows)


# -- a team of one is serial SGD -------------------------------------------------------------------------------


def serial(policy: str, rate: object, cuts: list[float], iterations: int = 40) -> None:
    """Each gradient is computed exactly where all steps before it lead."""
    start = np.random.default_rng(3).integers(-500, 500, LAYOUT.elements).astype(np.float32)
    at, seen = start.copy(), []

    def gradient(index: int, parameters: np.ndarray) -> np.ndarray:
        seen.append(index)
        np.testing.assert_array_equal(parameters, at)
        step = np.rint(0.25 * (parameters - 100 * np.sin(index))).astype(np.float32)
        np.subtract(at, step, out=at)
        return step

    script = worker("robot0", iterations=iterations, rate_bps=rate, compute_s=0.05, initial=start, gradient=gradient)
    team = VirtualTeam(
        LAYOUT,
        policy,
        [script],
        server_settings=ServerSettings(expected_workers=1, silence_limit_s=100.0),
        worker_settings=WorkerSettings(silence_limit_s=100.0),
    )
    for time in cuts:
        team.at(time, lambda: team.cut("robot0", 0.3))
    finished(team)
    assert seen == list(range(iterations))
    np.testing.assert_array_equal(team.server.parameters, at)


@settings(max_examples=25, deadline=None)
@given(
    links(), st.lists(st.floats(0.3, 4.0), max_size=3), st.sampled_from([1, 4, 16]), st.sampled_from(["own", "team"])
)
def test_alone_every_gradient_is_computed_where_serial_sgd_computes_it(
    rate: object, cuts: list[float], slack: int, anticipate: str
) -> None:
    serial(f"rowcast:{slack}?codec=raw&adapt=off&auto_lr=off&anticipate={anticipate}", rate, cuts)


@pytest.mark.parametrize("pulls", ["own", "common"])
@pytest.mark.parametrize("rate_bps", [5e3, 2e4, 1e6])
def test_alone_with_either_kind_of_pulls(pulls: str, rate_bps: float) -> None:
    serial(f"rowcast:8?codec=raw&adapt=off&auto_lr=off&pulls={pulls}", rate_bps, [1.0, 2.1])


# -- what the code has left ------------------------------------------------------------------------------------


def test_what_is_pending_is_fresh_until_a_code_has_left_something() -> None:
    residual = Residual(SMALL, SMALL.zeros())
    residual.follower = OwnWrites(SMALL, SMALL.zeros(), list)
    residual.vector[:] = np.arange(1.0, 1.0 + SMALL.elements)
    residual.measured = False
    np.testing.assert_array_equal(residual.fresh(), np.ones(SMALL.rows))
    rows = np.arange(SMALL.rows)[:3]
    residual.take(rows, codec_by_name("onebit"), 1)
    fresh = residual.fresh()
    np.testing.assert_array_equal(fresh[:3], np.zeros(3))  # all of it was left
    np.testing.assert_array_equal(fresh[3:], np.ones(SMALL.rows - 3))

    left = np.abs(residual.vector[:3]).sum()
    residual.vector[:3] *= 4
    residual.measured = False
    assert residual.fresh()[0] == pytest.approx(1 - 1 / 16)
    residual.vector[:3] /= 8  # less than was left
    residual.measured = False
    assert residual.fresh()[0] == 0.0
    assert residual.left[0] == pytest.approx(left)
    residual.take(rows, RAW, 2)  # the code leaves nothing
    residual.vector[:3] = 1.0
    residual.measured = False
    assert residual.fresh()[0] == 1.0
