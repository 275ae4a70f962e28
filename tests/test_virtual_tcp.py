"""Links of a simulation that carry packets of TCP: heads, a queue that drops, windows, time-outs, and the order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.drivers.netns.medium import Medium, MediumLink, Verdict
from rowcast.drivers.sockets.tcp import NOTSENT_LOWAT_BYTES
from rowcast.drivers.virtual import Device, VirtualWorker
from rowcast.drivers.virtual.clock import Clock
from rowcast.drivers.virtual.lane import Lane
from rowcast.drivers.virtual.tcp.congestion import BETA, INITIAL_WINDOW, Cubic
from rowcast.drivers.virtual.tcp.lane import HEAD_BYTES, QUEUE_PACKETS, QUEUE_S, UNSENT_BYTES, Packet, TcpLane
from rowcast.drivers.virtual.tcp.receiver import DELAYED_S, Receiver
from rowcast.drivers.virtual.tcp.sender import GRAIN_S, LEAST_TIMEOUT_S, SEGMENT_BYTES, Sender
from rowcast.errors import ConfigError
from rowcast.experiment.emulation_settings import EmulationSettings
from rowcast.experiment.medium_settings import MediumSettings
from rowcast.experiment.plan import plan_cells
from rowcast.experiment.settings import Comparison
from rowcast.journal import Journal
from rowcast.links import Trace
from rowcast.links.channel import Independent
from rowcast.session import Link
from rowcast.wire import Heartbeat, Message
from rowcast.wire.frames import message_bytes
from test_journal_hashes import LAYOUT, LINKS, POLICIES, WORKER, team_of, traces


class Wire:
    """Stands for a simulation with one robot: two lanes over a channel, and what they hand over."""

    def __init__(self, up: Trace, down: Trace | None = None, *, delay_s: float = 0.0, queue_s: float = QUEUE_S) -> None:
        self.clock, self.channel, self.queue_s, self.started = Clock(), Independent(), queue_s, True
        self.up, self.down = self.lanes = [
            TcpLane(self, key, trace, delay_s) for key, trace in enumerate((up, down or up))
        ]
        self.down.robot = object()
        self.said = dict.fromkeys(self.lanes, 0)
        self.delivered: dict[TcpLane, list[tuple[float, int]]] = {}
        self.waiting: dict[TcpLane, deque[tuple[int, Message]]] = {}
        for lane in self.lanes:
            self.channel.add(lane.key, lane.trace)
            self.delivered[lane], self.waiting[lane] = [], deque()

    def connect(self, *, at_once: bool = True) -> None:
        """Make a connection; with ``at_once`` as before a team starts, without the packets that begin one."""
        link = Link("robot")
        self.started = not at_once
        for lane in self.lanes:
            lane.connection = link
        for lane in self.lanes:
            lane.opened(self.clock.now)
        self.started = True

    def say(self, lane: TcpLane, size: int) -> None:
        """Hand over a message of so many bytes as soon as the socket takes it."""
        message = Heartbeat(arrived=self.said[lane])
        self.said[lane] += 1
        self.waiting[lane].append((size - message_bytes(message), message))
        self.pump(lane)

    def pump(self, lane: TcpLane) -> None:
        while self.waiting[lane] and lane.takes(self.clock.now):
            lane.burden, message = self.waiting[lane].popleft()
            lane.carry(self.clock.now, message)

    def hand_over(self, lane: TcpLane, message: Message) -> None:
        self.delivered[lane].append((self.clock.now, message.arrived))
        self.pump(lane)

    def lane_of(self, key: int) -> Lane:
        return self.lanes[key]

    def in_force(self, trace: Trace) -> Trace:
        return trace

    def put(self, now: float, lane: Lane, size_bytes: int) -> None:
        self.channel.begin(now, lane.key, 8 * size_bytes)

    def run(self, until_s: float = 1e6) -> None:
        """Let time pass until then, or until nothing is left to happen."""
        clock, channel = self.clock, self.channel
        while (time := min(channel.next_finish(), clock.next)) <= until_s and time < np.inf:
            if channel.next_finish() <= clock.next:
                clock.now = time
                for key in channel.finished(time):
                    self.lanes[key].passed()
            else:
                clock.step()


class Way:
    """Two ends of a stream, a fixed way between them, and packets that get lost on it: the n-th that is sent, or at a
    time.
    """

    def __init__(self, one_way_s: float, lost: Callable[[int, float], bool] = lambda count, now: False) -> None:
        self.sender, self.receiver, self.one_way_s, self.lost = Sender(), Receiver(), one_way_s, lost
        self.sent: list[tuple[float, int, int]] = []
        self.reached: list[tuple[float, int]] = []
        self._events: list[tuple[float, int, Callable[[float], None]]] = []

    def write(self, size: int) -> None:
        self.sender.write(0.0, size)

    def run(self, until_s: float) -> None:
        now = 0.0
        self._send(now)
        while True:
            due = min(self.sender.due, self._events[0][0] if self._events else np.inf, self.receiver.ack_at)
            if due > until_s or due == np.inf:
                return
            now = max(now, due)
            if self._events and self._events[0][0] <= now:
                heappop(self._events)[2](now)
            elif self.receiver.ack_at <= now:
                self._acknowledge(now)
            else:
                self.sender.timer(now)
            self._send(now)

    def _send(self, now: float) -> None:
        while (segment := self.sender.take(now)) is not None:
            self.sent.append((now, segment.begin, segment.end))
            if not self.lost(len(self.sent) - 1, now):
                self._at(now + self.one_way_s, partial(self._arrive, segment.begin, segment.end))

    def _arrive(self, begin: int, end: int, now: float) -> None:
        before = self.receiver.next
        self.receiver.segment(now, begin, end)
        if self.receiver.next > before:
            self.reached.append((now, self.receiver.next))

    def _acknowledge(self, now: float) -> None:
        upto, blocks = self.receiver.next, self.receiver.blocks
        self.receiver.acknowledged()
        self._at(now + self.one_way_s, lambda then: self.sender.acknowledge(then, upto, blocks))

    def _at(self, time: float, action: Callable[[float], None]) -> None:
        heappush(self._events, (time, len(self.sent) + len(self.reached) + len(self._events), action))


class Queue(TcpLane):
    """A lane of which only the queue and the link matter."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.out: list[tuple[float, int]] = []

    def _arrives(self, connection: Link | None, packet: Packet) -> None:
        self.out.append((self.simulation.clock.now, packet.begin))


def constant(bps: float) -> Trace:
    return Trace(np.array([0.0]), np.array([bps]), "constant", loop=True, duration_s=1.0)


def with_outage(bps: float, begin_s: float, end_s: float) -> Trace:
    return Trace(
        np.array([0.0, begin_s, end_s]), np.array([bps, 0.0, bps]), "outage", loop=False, duration_s=float("inf")
    )


# -- packets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "heads"),
    [([100], 1), ([SEGMENT_BYTES], 1), ([SEGMENT_BYTES + 1], 2), ([1000, 1000], 2), ([5000], 4)],
)
def test_each_packet_has_a_head(sizes, heads):
    wire = Wire(constant(8e8))
    wire.connect()
    for size in sizes:
        wire.say(wire.up, size)
    wire.run()
    assert wire.up.counts.packets_out == heads
    assert wire.up.counts.bytes_out == sum(sizes) + heads * HEAD_BYTES
    assert wire.down.counts.bytes_out == wire.down.counts.packets_out * HEAD_BYTES  # acknowledgements
    assert wire.down.counts.packets_out == -(-heads // 2)


def test_segments_are_filled_up_while_there_is_more():
    """What the window holds back is sent in full segments, however it was handed over."""
    wire = Wire(constant(8e6), delay_s=0.05)
    wire.connect()
    for _ in range(40):
        wire.say(wire.up, 1000)
    wire.run()
    packets = wire.up.counts.packets_out
    assert packets == INITIAL_WINDOW + -(-(40 - INITIAL_WINDOW) * 1000 // SEGMENT_BYTES)


def test_the_queue_is_that_of_the_emulation():
    assert MediumLink(constant(1.0)).queue_s == QUEUE_S == MediumSettings().queue_ms / 1e3
    assert MediumLink(constant(1.0)).queue_packets == QUEUE_PACKETS
    assert UNSENT_BYTES == NOTSENT_LOWAT_BYTES
    settings = EmulationSettings(medium=MediumSettings(queue_ms=80.0))
    assert [cell.queue_ms for cell in plan_cells(settings.comparison)] == [80.0] * 3
    with pytest.raises(ConfigError, match="--queue-ms: 80 goes with --transport tcp"):
        Comparison(queue_ms=80.0)


@given(
    st.lists(st.tuples(st.floats(0.0, 0.05), st.integers(1, SEGMENT_BYTES)), min_size=1, max_size=60),
    st.lists(st.sampled_from([0.0, 1e5, 1e6, 8e6]), min_size=1, max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_packets_fare_as_in_the_medium_of_the_emulation(arrivals, rates):
    """The same packets at the same times: the same are dropped, and the others come out at the same time."""
    trace = Trace(0.1 * np.arange(len(rates)), np.array(rates), "drawn", loop=False, duration_s=float("inf"))
    wire, medium = Wire(trace), Medium("independent", {0: MediumLink(trace)})
    lane, now = Queue(wire, 0, trace, 0.0), 0.0
    wire.lanes[0] = lane
    for number, (pause_s, size) in enumerate(arrivals):
        now += pause_s
        wire.run(now)
        wire.clock.now = now
        full = lane.counts.packets_full
        lane._enqueue(now, Packet(number, number + size, 0, (), False))
        verdict = medium.arrive(now, 0, HEAD_BYTES + size, number)
        assert (verdict is Verdict.FULL) == (lane.counts.packets_full > full)
    wire.run(1e5)
    assert lane.out == [(time, number) for time, _, number in medium.departed(1e5)]


# -- what a link carries ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay_s", [0.0, 0.005, 0.05])
@pytest.mark.parametrize("bps", [1e6, 5e6])
def test_a_long_transfer_reaches_the_rate_of_the_link(bps, delay_s):
    size = int(bps * 20 / 8)
    wire = Wire(constant(bps), delay_s=delay_s, queue_s=1.0)
    wire.connect()
    for _ in range(100):
        wire.say(wire.up, size // 100)
    wire.run()
    ideal_s = size * (1 + HEAD_BYTES / SEGMENT_BYTES) * 8 / bps
    assert ideal_s < wire.delivered[wire.up][-1][0] < 1.03 * ideal_s + 10 * delay_s


def test_a_short_queue_drops_and_a_long_one_does_not():
    """The product of rate and delay is 33 packets: five in the queue do not bridge a window that was cut."""
    took = {}
    for queue_s in (0.001, 0.2):
        wire = Wire(constant(1e7), delay_s=0.02, queue_s=queue_s)
        wire.connect()
        for _ in range(100):
            wire.say(wire.up, 100_000)
        wire.run()
        assert [number for _, number in wire.delivered[wire.up]] == list(range(100))
        took[queue_s] = wire.delivered[wire.up][-1][0]
        assert wire.up.counts.packets_full > 0
        assert wire.up.sender.sent_again >= wire.up.counts.packets_full
    assert took[0.2] < 1.1 * 8e7 * 1500 / SEGMENT_BYTES / 1e7
    assert 1.1 * took[0.2] < took[0.001] < 2 * took[0.2]


def test_what_a_full_queue_dropped_takes_its_bytes_again():
    """Nothing is sent more often than it was dropped, where nothing times out: SACK tells what is missing."""
    wire = Wire(constant(1e7), delay_s=0.02)
    wire.connect()
    for _ in range(30):
        wire.say(wire.up, 100_000)
    wire.run()
    assert wire.up.counts.packets_full == wire.up.sender.sent_again > 0


def test_an_outage_holds_five_packets_back_and_drops_the_others():
    trace = with_outage(1e6, 1.0, 4.0)
    wire = Wire(trace, constant(1e6))
    wire.connect()
    for _ in range(100):
        wire.say(wire.up, 5000)
    wire.run(3.99)
    assert len(wire.up.queue) >= QUEUE_PACKETS
    assert wire.up.counts.packets_full > 0  # the time-out has sent more
    wire.run()
    assert [number for _, number in wire.delivered[wire.up]] == list(range(100))
    assert wire.delivered[wire.up][-1][0] < 3.0 + 1.1 * 100 * 5000 * 1.04 * 8 / 1e6


def test_determinism():
    def run() -> tuple[list[tuple[float, int]], int, int]:
        wire = Wire(with_outage(3e5, 2.0, 3.3), constant(2e6), delay_s=0.004)
        wire.connect()
        for index in range(60):
            wire.clock.at(0.1 * index, partial(wire.say, wire.up, 3000 + 500 * (index % 7)))
            wire.clock.at(0.13 * index, partial(wire.say, wire.down, 8000))
        wire.run()
        return wire.delivered[wire.up] + wire.delivered[wire.down], wire.up.counts.bytes_in, wire.down.counts.bytes_in

    assert run() == run()


RATES = st.sampled_from([0.0, 2e4, 1e5, 1e6, 1e7])


@given(
    st.lists(st.tuples(RATES, st.floats(0.05, 3.0)), min_size=1, max_size=8),
    st.lists(st.tuples(RATES, st.floats(0.05, 3.0)), min_size=1, max_size=8),
    st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans(), st.integers(100, 30_000)), min_size=1, max_size=30),
    st.sampled_from([0.0, 0.003, 0.08]),
)
@settings(max_examples=80, deadline=None)
def test_every_byte_comes_out_once_and_in_order(up, down, said, delay_s):
    def trace(steps: list[tuple[float, float]]) -> Trace:
        rates, lengths = zip(*steps, (1e6, 1.0), strict=True)  # it carries something in the end
        return Trace(np.cumsum((0.0, *lengths[:-1])), np.array(rates), "drawn", loop=False, duration_s=float("inf"))

    wire = Wire(trace(up), trace(down), delay_s=delay_s)
    wire.connect(at_once=False)
    now, total = 0.0, dict.fromkeys(wire.lanes, 0)
    for pause_s, goes_up, size in said:
        now += pause_s
        lane = wire.up if goes_up else wire.down
        total[lane] += size
        wire.clock.at(now, wire.say, lane, size)
    wire.run()
    for lane in wire.lanes:
        numbers = [number for _, number in wire.delivered[lane]]
        assert numbers == list(range(sum(goes_up == (lane is wire.up) for _, goes_up, _ in said)))
        times = [time for time, _ in wire.delivered[lane]]
        assert times == sorted(times)
        assert lane.receiver.next == lane.sender.end == lane.sender.acknowledged == total[lane]
        assert lane.idle and not lane.busy
        assert lane.counts.packets_in == lane.counts.packets_out + lane.counts.packets_full
        assert lane.counts.bytes_in == lane.counts.bytes_out + lane.counts.bytes_full


# -- connections -----------------------------------------------------------------------------------------------------


def test_a_connection_begins_with_three_packets():
    wire = Wire(constant(1e9), delay_s=0.05)
    wire.connect(at_once=False)
    assert not wire.up.takes(0.0) and not wire.down.takes(0.0)
    wire.say(wire.up, 200)
    wire.say(wire.down, 200)
    wire.run()
    assert wire.delivered[wire.up][0][0] == pytest.approx(0.15, abs=1e-4)
    assert wire.delivered[wire.down][0][0] == pytest.approx(0.2, abs=1e-4)


def test_its_first_packet_is_tried_again_after_a_second():
    """The link comes back after 2.5 s: the packets of 0 and 1 s have waited in its queue."""
    wire = Wire(with_outage(1e6, 1e-6, 2.5))
    wire.connect(at_once=False)
    wire.say(wire.up, 200)
    wire.run(2.4)
    assert len(wire.up.queue) == 2
    wire.run()
    assert wire.delivered[wire.up][0][0] == pytest.approx(2.5, abs=0.01)


def test_a_socket_takes_more_when_half_has_left():
    wire = Wire(constant(8e6))
    wire.connect()
    size, handed = 2000, 0
    while wire.up.takes(0.0):
        wire.up.burden = size
        wire.up.carry(0.0, Heartbeat())
        handed += 1
    sent = INITIAL_WINDOW * SEGMENT_BYTES
    assert UNSENT_BYTES <= wire.up.sender.unsent < UNSENT_BYTES + size + 100
    assert handed * size + handed * message_bytes(Heartbeat()) == pytest.approx(sent + UNSENT_BYTES, abs=2 * size)
    while not wire.up.takes(wire.clock.now):
        wire.run(wire.channel.next_finish())
    assert UNSENT_BYTES // 4 < wire.up.sender.unsent < UNSENT_BYTES // 2


def test_a_lost_link_loses_what_waits():
    wire = Wire(constant(1e4))
    wire.connect()
    wire.say(wire.up, 500)
    wire.say(wire.up, 500)
    for lane in wire.lanes:
        wire.channel.abort(0.0, lane.key)
        lane.connection = None
        lane.clear()
    wire.connect()
    wire.say(wire.up, 300)
    wire.run()
    assert [number for _, number in wire.delivered[wire.up]] == [2]
    assert wire.delivered[wire.up][0][0] == pytest.approx((300 + HEAD_BYTES) * 8 / 1e4)


# -- the ends of a stream --------------------------------------------------------------------------------------------


def test_bytes_behind_a_gap_wait_for_it():
    receiver = Receiver()
    receiver.segment(0.0, 0, 100)
    assert (receiver.next, receiver.ack_at, receiver.blocks) == (100, DELAYED_S, ())
    receiver.segment(0.01, 200, 300)
    assert (receiver.next, receiver.ack_at, receiver.blocks) == (100, 0.01, ((200, 300),))
    receiver.acknowledged()
    receiver.segment(0.02, 400, 500)
    assert receiver.blocks == ((400, 500), (200, 300))  # the newest first
    receiver.segment(0.03, 300, 400)
    assert receiver.blocks == ((200, 500),)
    receiver.acknowledged()
    receiver.segment(0.04, 100, 200)
    assert (receiver.next, receiver.ack_at, receiver.blocks) == (500, 0.04, ())


def test_every_second_segment_is_acknowledged_at_once():
    receiver = Receiver()
    for index, wanted in enumerate((0.0 + DELAYED_S, 1.0)):
        receiver.segment(float(index), 100 * index, 100 * index + 100)
        assert receiver.ack_at == wanted
    receiver.acknowledged()
    receiver.segment(2.0, 100, 200)  # it came before
    assert receiver.ack_at == 2.0


def test_one_loss_is_repaired_within_a_round_trip():
    way = Way(0.05, lambda count, now: count == 3)
    way.write(10 * SEGMENT_BYTES)
    way.run(10.0)
    assert way.sender.acknowledged == 10 * SEGMENT_BYTES
    assert way.sender.sent_again == 1 and len(way.sent) == 11
    assert way.reached[-1] == (pytest.approx(0.15), 10 * SEGMENT_BYTES)
    assert way.sender.congestion.window == pytest.approx(BETA * INITIAL_WINDOW)


def test_a_lost_tail_is_found_by_a_probe_after_two_round_trips():
    way = Way(0.01, lambda count, now: 4 <= count < 8)
    way.sender.measured(0.02)
    way.write(8 * SEGMENT_BYTES)
    way.run(10.0)
    assert way.sender.acknowledged == 8 * SEGMENT_BYTES
    probe_s = way.sent[8][0]
    assert way.sent[8][2] == 8 * SEGMENT_BYTES  # the last one tells of all that is missing
    assert probe_s < 0.02 + 2.5 * 0.02
    assert way.reached[-1][0] < probe_s + 4 * 0.02


def test_a_time_out_doubles_until_something_is_acknowledged():
    """RFC 6298: nothing gets through for 3 s; the wait after it is what was waited before, at most."""
    way = Way(0.01, lambda count, now: now < 3.0)
    way.sender.measured(0.02)
    way.write(4 * SEGMENT_BYTES)
    way.run(30.0)
    assert way.sender.acknowledged == 4 * SEGMENT_BYTES
    tried = sorted({time for time, begin, _ in way.sent if begin == 0})
    waits = np.diff(tried)[1:]  # the first is behind the probe of the tail
    assert waits[1:] / waits[:-1] == pytest.approx([2.0] * (len(waits) - 1))
    assert tried[1] == pytest.approx(2 * 0.02 + GRAIN_S + 0.02 + LEAST_TIMEOUT_S)
    resumed_s = way.reached[0][0]
    assert 3.0 < resumed_s < 3.0 + 3.0
    assert resumed_s == pytest.approx(min(time for time in tried if time >= 3.0) + 0.01)
    assert way.sender.timeout_s < 0.5  # and is as before
    assert way.reached[-1][0] < resumed_s + 0.2


def test_a_time_out_that_was_none_changes_nothing():
    """Everything is only late: the window stays, and nothing beyond the first segment is sent again."""
    sender = Sender()
    sender.measured(0.02)
    sender.write(0.0, 6 * SEGMENT_BYTES)
    while sender.take(0.0) is not None:
        pass
    window = sender.congestion.window
    for _ in range(2):  # the probe, then the time-out
        now = sender.due
        sender.timer(now)
        assert sender.take(now) is not None
    assert sender.congestion.window == 1.0 and sender.in_flight == 1
    sender.acknowledge(now + 0.001, SEGMENT_BYTES)
    again = sender.sent_again
    sender.acknowledge(now + 0.002, 3 * SEGMENT_BYTES)
    assert sender.congestion.window == window
    assert sender.take(now + 0.002) is None and sender.sent_again == again
    sender.acknowledge(now + 0.003, 6 * SEGMENT_BYTES)
    assert sender.in_flight == 0 and sender.due == np.inf


@given(st.sets(st.integers(0, 120), max_size=60), st.integers(1, 80), st.sampled_from([0.0005, 0.02, 0.3]))
@settings(max_examples=80, deadline=None)
def test_whatever_gets_lost_arrives(lost, segments, one_way_s):
    way = Way(one_way_s, lambda count, now: count in lost)
    way.write(segments * SEGMENT_BYTES - 7)
    way.run(1e5)
    assert way.sender.acknowledged == way.receiver.next == segments * SEGMENT_BYTES - 7
    assert way.receiver.blocks == () and way.sender.in_flight == 0 and way.sender.due == np.inf
    assert all(before < after for (_, before), (_, after) in pairwise(way.reached))
    assert {(begin, end) for _, begin, end in way.sent} == {
        (begin, min(begin + SEGMENT_BYTES, way.sender.end)) for begin in range(0, way.sender.end, SEGMENT_BYTES)
    }
    assert len(way.sent) == segments + way.sender.sent_again


# -- the window ------------------------------------------------------------------------------------------------------


def test_slow_start_doubles_and_only_a_full_window_grows():
    way = Way(0.05)
    way.write(200 * SEGMENT_BYTES)
    way.run(0.31)
    counts = [sum(start <= time < start + 0.09 for time, _, _ in way.sent) for start in (0.0, 0.1, 0.2)]
    assert counts == [INITIAL_WINDOW, 2 * INITIAL_WINDOW, 4 * INITIAL_WINDOW]
    idle = Way(0.05)
    for second in range(20):
        idle.sender.write(float(second), 2 * SEGMENT_BYTES)
        idle.run(second + 0.9)
    assert idle.sender.congestion.window == INITIAL_WINDOW


def test_the_window_is_as_large_as_before_a_loss_after_the_time_of_the_cubic_function():
    """RFC 9438: K = cbrt(W (1 - 0.7) / 0.4) s."""
    cubic = Cubic()
    cubic.window = cubic.threshold = 200.0
    cubic.lost()
    assert cubic.window == cubic.threshold == pytest.approx(140.0)
    back_s = np.cbrt(200.0 * 0.3 / 0.4)
    round_trip_s, now = 0.1, 0.0
    while now < back_s:
        cubic.acknowledged(now, int(cubic.window), round_trip_s)
        now += round_trip_s
    assert cubic.window == pytest.approx(200.0, rel=0.01)
    before = cubic.window
    for _ in range(10):
        cubic.acknowledged(now, int(cubic.window), round_trip_s)
        now += round_trip_s
    assert before < cubic.window < 1.02 * before  # it stays there for a while


def test_the_window_after_a_time_out_and_after_a_pause():
    cubic = Cubic()
    cubic.window = 40.0
    cubic.timed_out(30)
    assert (cubic.window, cubic.threshold) == (1.0, pytest.approx(0.7 * 30))
    cubic.acknowledged(0.0, 4, 0.1)
    assert cubic.window == 5.0
    cubic.undo()
    assert (cubic.window, cubic.threshold) == (40.0, np.inf)
    cubic.idle(1.5)
    assert cubic.window == 20.0
    cubic.idle(9.0)
    assert cubic.window == INITIAL_WINDOW


# -- teams -----------------------------------------------------------------------------------------------------------


def same(policy: str, one: np.ndarray, other: np.ndarray) -> None:
    """Whole numbers to the last bit; the outer optimizer of ``diloco`` makes fractions, which are rounded."""
    np.testing.assert_allclose(one, other, rtol=1e-6 if policy.startswith("diloco") else 0)


def content_run(policy: str, *, tcp: bool, cut: bool = False) -> tuple[np.ndarray, float, int]:
    """Eight iterations of three robots; the server's parameters, when all was over, and bytes that were pushed."""
    records: dict[str, list[dict]] = {}

    def journal(name):
        return Journal(name, records.setdefault(name, []).append)

    code = "&codec=raw" if "?" in policy else "?codec=raw"
    simulation, entropy = team_of(policy + code, journal, tcp=tcp)
    replicas = []

    def train(worker, amount):
        worker.start(LAYOUT, LAYOUT.zeros())
        for _ in range(8):
            with worker.hold():
                proposed = worker.replica - np.float32(amount)
                worker.accumulate([proposed[spec.start : spec.stop] for spec in LAYOUT.tensors], 1.0)
            worker.exchange()
        worker.finish()
        replicas.append(worker.replica.copy())

    for index, trace in enumerate(traces()):
        worker = VirtualWorker(
            simulation,
            f"robot-{index}",
            Device(0.4),
            (trace, trace),
            entropy=entropy,
            settings=WORKER,
            link_settings=LINKS,
            journal=journal(f"robot-{index}"),
        )
        worker.train(partial(train, worker, 2**index))
    if cut:
        simulation.clock.at(3.0, partial(simulation.cut, "robot-0", 1.0))
        simulation.clock.at(5.5, partial(simulation.cut, "robot-1", 0.7))
    simulation.run(300.0)
    assert simulation.finished
    for replica in replicas:
        same(policy, replica, simulation.server.parameters)
    pushed = sum(one.get("push_bytes", 0) for own in records.values() for one in own if one["event"] == "step")
    ended_s = max(one["t"] for own in records.values() for one in own)
    return simulation.server.parameters, ended_s, pushed


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("cut", [False, True])
def test_nothing_is_lost_and_nothing_is_counted_twice(policy, cut):
    """All updates are whole numbers: however they travel, the sum is the same to the last bit (invariants 2 and 5)."""
    parameters, _, _ = content_run(policy, tcp=True, cut=cut)
    expected, _, _ = content_run(policy, tcp=False)
    same(policy, parameters, expected)


def test_heads_take_their_time():
    """With phases a run is what its bytes take: longer by the heads, and by no more than heads and order can cost."""
    _, direct_s, direct = content_run("bsp", tcp=False)
    _, tcp_s, pushed = content_run("bsp", tcp=True)
    assert pushed == pytest.approx(direct, rel=0.03)  # frames, and so heads, are cut where the measured rate says
    assert direct_s * 1.01 < tcp_s < direct_s * 1.4


def test_a_comparison_says_how_messages_travel():
    for transport in ("direct", "tcp"):
        (cell,) = plan_cells(Comparison(policies=("bsp",), links=("outdoor",), seeds=1, transport=transport))
        assert cell.transport == transport
        assert ("transport" in cell.written()) == (transport == "tcp")  # runs of before go on
