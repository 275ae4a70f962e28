"""A log that several read: encoded once, read at each one's own pace, and nothing lost whatever becomes of a link."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.codecs import codec_by_id
from rowcast.config import LinkSettings
from rowcast.delivery.backlog import MAX_STAMP
from rowcast.delivery.cursor import Cursor
from rowcast.delivery.floored import Floored
from rowcast.delivery.outbox import Outbox
from rowcast.delivery.shared_log import NOTHING_HELD, SharedLog
from rowcast.delivery.snapshot import Snapshot
from rowcast.delivery.transfer import Request
from rowcast.delivery.window import Window
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.wire import Rows
from rowcast.wire.frames import frame_bytes

LAYOUT = Layout.from_shapes([("weight", (60, 16)), ("bias", (30,))], small_tensor=1)
LINK = LinkSettings(frame_min_bytes=64, window_min_bytes=1 << 20, frame_s=0.002)


@dataclass
class Peer:
    """A worker at the other end: what was sent to it and has not arrived, and what it has."""

    outbox: Outbox
    values: np.ndarray
    received: int = 0
    wire: list[Rows] = field(default_factory=list)

    @property
    def cursor(self) -> Cursor:
        assert isinstance(self.outbox.source, Cursor)
        return self.outbox.source

    def arrive(self) -> None:
        """The oldest frame on its way arrives."""
        message = self.wire.pop(0)
        assert message.number == self.received + 1
        self.received = message.number
        codec = codec_by_id(message.codec)
        if message.absolute:
            codec.encode(LAYOUT, self.values, message.rows)
            codec.add(LAYOUT, message.payload, message.rows, self.values, 1.0)
        else:
            codec.add(LAYOUT, message.payload, message.rows, self.values, -1.0)

    def cut(self, now: float) -> tuple[int, int]:
        """What was on its way is lost, and the link is back at once."""
        self.wire.clear()
        self.outbox.link_lost()
        return self.outbox.resume(now, self.received)

    def in_flight(self) -> np.ndarray:
        total = LAYOUT.zeros()
        for message in self.outbox.unacknowledged():
            if message.number > self.received and not message.absolute:
                codec_by_id(message.codec).add(LAYOUT, message.payload, message.rows, total, 1.0)
        return total


class Team:
    """A log with readers, the parameters it belongs to, and the time."""

    peer: type[Peer] = Peer

    def __init__(self, readers: int, policy: str = "rowcast:4?pulls=common") -> None:
        self.now = 0.0
        self.newest = 0
        self.policy = parse_policy(policy)
        self.floor = np.zeros(LAYOUT.rows, dtype=np.int32)
        self.parameters = LAYOUT.zeros()
        self.log = SharedLog(
            lambda: self.policy, LAYOUT, LINK, self.floor, choose_s=0.0, step_s=lambda: 1.0, newest=lambda: self.newest
        )
        self.random = np.random.default_rng(0)
        self.peers = [self.join(f"robot{k}") for k in range(readers)]

    def join(self, name: str) -> Peer:
        """A worker that has the parameters as they are."""
        window = Window(LINK)
        snapshot = Snapshot(LAYOUT, self.parameters, settles=True)
        peer = self.peer(Outbox(Cursor(name, self.log, window), window, snapshot), self.parameters.copy())
        peer.outbox.link_ready()
        self.log.count(name, True)
        # The round trip is known, so that frames are not held back for a probe.
        window.meter.sent(self.now, 1)
        window.meter.acknowledged(self.now, 1, self.now)
        return peer

    def add(self) -> None:
        """An iteration of everybody: all rows change."""
        update = self.random.standard_normal(LAYOUT.elements).astype(np.float32)
        self.log.touch(np.arange(LAYOUT.rows))
        self.log.residual.vector += update
        self.log.residual.measured = False
        self.parameters -= update
        self.newest += 1
        self.floor[:] = self.newest

    def send(self, peer: Peer, *, draining: bool = False) -> bool:
        self.now += 1e-4
        frame = peer.outbox.next_frame(self.now) or peer.outbox.follow(self.now, draining=draining)
        if frame is not None:
            peer.wire.append(frame)
        return frame is not None

    def deliver(self, peer: Peer) -> None:
        """Send what there is; all of it arrives."""
        while self.send(peer):
            peer.arrive()
            peer.outbox.acknowledged(self.now, peer.received)

    def check(self, peer: Peer) -> None:
        """What a worker has, lacks, and has on its way, are the parameters."""
        if peer.outbox.snapshot.left or any(one.absolute for one in peer.outbox.unacknowledged()):
            return
        missing = peer.outbox.source.total() + peer.in_flight()
        np.testing.assert_allclose(peer.values - missing, self.parameters, rtol=0, atol=1e-4)

    def drain(self, peer: Peer) -> None:
        """Nobody adds anything any longer: all that the worker lacks is sent, and arrives."""
        while not peer.outbox.empty:
            if not self.send(peer, draining=True) and not peer.wire and not peer.outbox.empty:
                assert not peer.outbox.follows
                peer.outbox.send_everything(self.now, self.newest)
            while peer.wire:
                peer.arrive()
                peer.outbox.acknowledged(self.now, peer.received)
        np.testing.assert_allclose(peer.values, self.parameters, rtol=0, atol=1e-4)


def test_readers_are_sent_the_same_frames_under_their_own_numbers():
    team = Team(2)
    fast, slow = team.peers
    team.add()
    assert team.send(fast) and team.send(fast) and team.send(slow)
    first, second, other = *fast.wire, *slow.wire
    assert (first.number, second.number, other.number) == (1, 2, 1)
    assert first.payload is other.payload and first.rows is other.rows
    assert (fast.cursor.place, slow.cursor.place, team.log.head) == (2, 1, 2)
    for peer in team.peers:
        team.check(peer)


@pytest.mark.parametrize(("sizes", "expected"), [((2000, 1000), 1000), ((2000, 100), 2000 // 8)])
def test_frames_are_as_short_as_the_slowest_link_wants_but_not_below_an_eighth_of_the_longest(sizes, expected):
    team = Team(2, "rowcast:4?pulls=common&codec=raw&adapt=off")
    for peer, size in zip(team.peers, sizes, strict=True):
        peer.outbox.window.target_bytes = lambda now, size=size: size
    team.add()
    assert team.send(team.peers[0])
    row_bytes = frame_bytes(team.peers[0].wire[0]) / len(team.peers[0].wire[0].rows)
    assert expected - row_bytes < frame_bytes(team.peers[0].wire[0]) <= expected


def test_the_log_keeps_what_somebody_may_have_to_be_sent_again():
    team = Team(2)
    one, other = team.peers
    team.add()
    for _ in range(3):
        team.send(one)
        team.send(other)
    assert (one.cursor.needs, one.cursor.place, team.log.first) == (0, 3, 0)
    one.arrive()
    one.outbox.acknowledged(team.now, 1)
    assert one.cursor.needs == 1
    assert one.cut(team.now) == (0, 2)
    assert (one.cursor.needs, one.cursor.place) == (1, 1)
    assert not len(one.cursor.own.vector)  # it reads the log again; that costs no vector
    team.check(one)
    for peer in team.peers:
        team.deliver(peer)
        team.check(peer)


def test_what_falls_out_of_the_log_becomes_arrears_and_they_are_freed():
    team = Team(2)
    fast, slow = team.peers
    slow.outbox.link_lost()
    for _ in range(6):
        team.add()
        team.deliver(fast)
    assert len(slow.cursor.own.vector) == LAYOUT.elements and slow.cursor.lacking() == 0
    assert slow.cursor.place <= team.log.head
    team.check(slow)
    assert slow.cursor.horizon(team.newest) == 0 and fast.cursor.horizon(team.newest) >= team.newest - 1
    slow.outbox.resume(team.now, 0)
    slow.outbox.begin(team.now, Request(team.newest, team.policy.row_codec, team.policy.choose_pull))
    team.deliver(slow)
    team.deliver(slow)
    assert not len(slow.cursor.own.vector) and slow.cursor.lacking() == MAX_STAMP
    team.check(slow)


def test_rows_are_chosen_among_all_that_a_worker_lacks():
    """Once it is sent rows of its own, what it has not read of the log is part of them."""
    team = Team(2, "rowcast:4?pulls=common&refine=off")
    fast, slow = team.peers
    team.add()
    team.deliver(fast)
    assert slow.cursor.place < team.log.head and not len(slow.cursor.own.vector)
    unread = slow.cursor.total()
    transfer = slow.outbox.begin(team.now, Request(1, team.policy.row_codec, team.policy.choose_pull))
    assert slow.cursor.place == team.log.head and len(transfer.order) > 0
    np.testing.assert_allclose(slow.cursor.total(), unread, rtol=0, atol=1e-6)


def test_a_frame_that_was_folded_while_it_was_on_its_way_is_not_read_again():
    team = Team(2, "rowcast:4?pulls=common&refine=off")
    fast, slow = team.peers
    team.add()
    team.deliver(fast)
    assert team.send(slow)
    slow.cursor.fold()
    slow.cut(team.now)
    assert slow.cursor.place == team.log.head and len(slow.cursor.own.vector)
    team.check(slow)


def test_state_is_as_the_log_has_it():
    """A newcomer between two frames: what is in the common residual is left out, and comes in the log."""
    team = Team(1)
    team.add()
    team.send(team.peers[0])
    late = team.join("late")
    late.values[:] = np.nan
    late.outbox.send_state()
    while late.outbox.snapshot.left:
        assert team.send(late)
        if team.newest < 4:
            team.add()
            team.send(team.peers[0])  # the log goes on meanwhile
    while late.wire:
        late.arrive()
    late.outbox.acknowledged(team.now, late.received)
    team.check(late)
    assert not np.isnan(late.values).any()


def test_who_has_arrears_is_sent_state_without_the_log_between():
    """What the log holds of rows that were sent before joins the arrears, and comes in the policy's order."""
    team = Team(2)
    fast, slow = team.peers
    team.add()
    team.send(fast)
    slow.cursor.fold()
    slow.outbox.send_state()
    for _ in range(8):
        assert team.send(slow) and slow.outbox.snapshot.left
    team.add()
    while team.send(fast):
        fast.arrive()
    assert len(slow.cursor.own.vector) and slow.cursor.place < team.log.head
    while slow.outbox.snapshot.left:
        assert team.send(slow) and slow.wire[-1].absolute
    assert slow.cursor.place == team.log.head
    while slow.wire:
        slow.arrive()
    slow.outbox.acknowledged(team.now, slow.received)
    team.check(slow)


def test_who_reads_no_longer_takes_all_that_it_lacks():
    team = Team(2)
    stays, goes = team.peers
    team.add()
    team.send(stays)
    team.send(goes)
    lacks = goes.cursor.total().copy()
    assert not team.log.clean  # some of it is in no frame yet
    goes.outbox.detach()
    assert isinstance(goes.outbox.source, Floored) and not goes.outbox.follows
    np.testing.assert_allclose(goes.outbox.source.total(), lacks, rtol=0, atol=1e-6)
    goes.outbox.detach()  # once more changes nothing
    goes.cut(team.now)  # a frame of the log that was on its way is its own now
    team.check(goes)
    theirs = team.parameters.copy()
    team.add()  # what comes from now on is not for it
    team.deliver(stays)
    team.parameters[:], later = theirs, team.parameters.copy()
    team.drain(goes)
    team.parameters[:] = later
    team.drain(stays)


def test_nobody_waits_for_who_has_left():
    team = Team(2)
    stays, goes = team.peers
    for _ in range(3):
        team.add()
        team.deliver(stays)
    assert stays.cursor.horizon(team.newest) < team.newest  # beyond the quota rows wait for all to be near the head
    goes.outbox.close()
    for _ in range(3):
        team.add()
        team.deliver(stays)
    assert stays.cursor.horizon(team.newest) == team.newest
    assert team.log.first == team.log.head - 1 == stays.cursor.place - 1  # the last one goes with the next


class Weather(Team):
    """Things that may happen to a team; one that makes no sense now does nothing."""

    detached = False

    def on_add(self, peer: Peer) -> None:
        if not self.detached:  # who reads the log no longer lacks nothing of what comes
            self.add()

    def on_join(self, peer: Peer) -> None:
        if len(self.peers) < 4:
            late = self.join(f"late{len(self.peers)}")
            late.values[:] = 0
            late.outbox.send_state()
            self.peers.append(late)

    def on_send(self, peer: Peer) -> None:
        self.send(peer)

    def on_arrive(self, peer: Peer) -> None:
        if peer.wire:
            peer.arrive()

    def on_ack(self, peer: Peer) -> None:
        peer.outbox.acknowledged(self.now, peer.received)

    def on_cut(self, peer: Peer) -> None:
        peer.cut(self.now)

    def on_lost(self, peer: Peer) -> None:
        peer.outbox.link_lost()
        assert not self.send(peer)
        peer.cut(self.now)

    def on_begin(self, peer: Peer) -> None:
        peer.outbox.begin(self.now, Request(self.newest, self.policy.row_codec, self.policy.choose_pull))

    def on_deliver(self, peer: Peer) -> None:
        if not peer.wire and not peer.outbox.snapshot.left:
            self.deliver(peer)

    def on_detach(self, peer: Peer) -> None:
        if not peer.outbox.snapshot.left:
            peer.outbox.detach()
            self.detached = True


HAPPENS = sorted(name for name in vars(Weather) if name.startswith("on_"))


def go_through(team, steps):
    """What ``steps`` say, then all links deliver, and everything is drained; looks at everybody behind each."""
    for action, index in steps:
        getattr(team, action)(team.peers[index % len(team.peers)])
        for one in team.peers:
            team.check(one)
    for peer in team.peers:
        while peer.wire:
            peer.arrive()
        peer.outbox.acknowledged(team.now, peer.received)
        team.drain(peer)
        team.check(peer)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.sampled_from(HAPPENS), st.integers(0, 3)), max_size=60),
    st.sampled_from(["", "&refine=off", "&codec=half"]),
)
def test_nothing_is_lost_and_nothing_is_doubled(steps, options):
    team = Weather(2, f"rowcast:4?pulls=common{options}")
    go_through(team, steps)


@dataclass
class Reader(Peer):
    """A peer that is told with each frame up to which contribution it holds the rows of it."""

    said: dict[int, np.ndarray] = field(default_factory=dict)
    holds: np.ndarray = field(default_factory=lambda: np.full(LAYOUT.rows, NOTHING_HELD, dtype=np.int64))

    def arrive(self) -> None:
        message = self.wire[0]
        super().arrive()
        self.holds[message.rows] = np.maximum(self.holds[message.rows], self.said[message.number])


class Counted(Weather):
    """Contribution k to a row adds 2^k to its first element, so that one sees in a row which of them it holds."""

    peer = Reader
    #: So many bits has a float32.
    MOST = 22

    def __init__(self, readers: int, policy: str) -> None:
        self.stamp = 0
        self.touched: list[list[int]] = [[] for _ in range(LAYOUT.rows)]  # stamps of the contributions to each row
        super().__init__(readers, policy)
        self.log.holds = lambda rows: np.full(len(rows), self.stamp, dtype=np.int64)

    def add(self) -> None:
        """A contribution to some rows."""
        if self.stamp == self.MOST:
            return
        self.stamp += 1
        rows = np.flatnonzero(self.random.random(LAYOUT.rows) < 0.6)
        self.log.touch(rows)
        for row in rows:
            value = np.float32(2.0 ** len(self.touched[row]))
            self.log.residual.vector[LAYOUT.offsets[row]] += value
            self.parameters[LAYOUT.offsets[row]] -= value
            self.touched[row].append(self.stamp)
        self.log.residual.measured = False
        self.newest += 1
        self.floor[:] = self.newest

    def send(self, peer: Peer, *, draining: bool = False) -> bool:
        assert isinstance(peer, Reader)
        sent = super().send(peer, draining=draining)
        if sent:
            said = peer.outbox.newest_holds()
            rows = peer.wire[-1].rows
            peer.said[peer.wire[-1].number] = np.full(len(rows), self.stamp) if said is None else said
        return sent

    def check(self, peer: Peer) -> None:
        """What a worker was told that it holds of a row it holds; and it was told of all that it holds without gaps."""
        assert isinstance(peer, Reader)
        super().check(peer)
        for row, stamps in enumerate(self.touched):
            held = int(-peer.values[LAYOUT.offsets[row]])
            without_gaps = ((held + 1) & ~held).bit_length() - 1
            told = sum(stamp <= peer.holds[row] for stamp in stamps)
            assert told <= without_gaps, (row, stamps, held, peer.holds[row])
            assert told == without_gaps or held >> without_gaps, (row, stamps, held, peer.holds[row])


def test_rows_of_the_arrears_are_as_old_as_the_place_in_the_log_from_which_on_it_is_read():
    """They are sent after the log has gone on, and hold nothing of that."""
    team = Counted(2, "rowcast:4?pulls=common&codec=raw&refine=off")
    fast, slow = team.peers
    assert isinstance(slow, Reader)
    team.add()
    team.deliver(fast)
    slow.outbox.begin(team.now, Request(1, team.policy.row_codec, team.policy.choose_pull))
    place = slow.cursor.place
    team.add()
    while team.send(fast):
        fast.arrive()
    assert slow.cursor.place == place < team.log.head
    ahead = np.concatenate([entry.message.rows for entry in team.log.frames(place)])
    assert team.send(slow)
    rows = slow.wire[0].rows
    assert np.isin(rows, ahead).any() and (slow.said[1] == 1).any()
    slow.arrive()
    assert set(slow.holds[rows]) <= {1, NOTHING_HELD}
    team.check(slow)


#: What makes the readers' places differ.
OFTEN = ["on_add", "on_arrive", "on_send", "on_send"]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.sampled_from(HAPPENS + OFTEN), st.integers(0, 3)), min_size=40, max_size=80),
    st.sampled_from(["", "&refine=off"]),
)
def test_what_is_said_of_a_row_is_what_was_there_when_it_was_encoded(steps, options):
    team = Counted(2, f"rowcast:4?pulls=common&codec=raw{options}")
    go_through(team, steps)


@pytest.mark.parametrize("readers", [1, 5])
def test_what_is_sent_is_encoded_once(readers):
    team = Team(readers, "rowcast:4?pulls=common&refine=off")
    team.add()
    for peer in team.peers:
        team.deliver(peer)
    assert {peer.received for peer in team.peers} == {team.log.head}
    assert team.log.head > 1
