"""What a link does to bytes beside cutting them off: damage, loss, a standstill. It costs time, and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest

import bitflips
from live import LiveServer, Robot, eventually, start_of
from raw_frames import framed
from relay import Relay, Swallow, flip
from rowcast.config import LinkSettings, ServerSettings, WorkerSettings
from rowcast.delivery.outbox import Outbox
from rowcast.delivery.residual import Residual
from rowcast.delivery.snapshot import Snapshot
from rowcast.delivery.window import Window
from rowcast.drivers.sockets import Endpoint
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout
from rowcast.session import Link
from rowcast.session.liveness import MARGIN, Progress
from rowcast.sync import parse_policy
from rowcast.training import ServerNode
from rowcast.wire import Ack, Heartbeat, Hello, LayoutTable, PushEnd, RowLimits, Rows, StateEnd, encode
from teams import events

POLICIES = bitflips.POLICIES
DIRECTIONS = bitflips.DIRECTIONS
#: rog:4 sends rows beyond the quota for a tenth of a second only; all policies get through the same offsets.
STEPS = 4

each_policy = pytest.mark.parametrize("policy", POLICIES, ids=["bsp", "rog", "rowcast"])
each_direction = pytest.mark.parametrize("direction", DIRECTIONS)


# -- on real sockets ---------------------------------------------------------------------------------------------------


def nothing_lost(server, *robots):
    for robot in robots:
        robot.done()
    moved = start_of() - server.node.parameters
    np.testing.assert_array_equal(moved, sum(robot.computed for robot in robots))
    for robot in robots:
        np.testing.assert_array_equal(robot.team.replica, server.node.parameters)


@each_policy
@each_direction
def test_a_flipped_bit_is_a_cut_link(policy, direction):
    """In the handshake, in rows, in the middle of nowhere: the worker comes back, and nothing is lost or doubled."""
    places = [20, 300, 20_001, 5002, 9003]
    with LiveServer(policy, expected_workers=2) as server, Relay(server.port, flip(direction, places)) as relay:
        robots = [
            Robot(Endpoint("127.0.0.1", relay.port), "hit", steps=STEPS, update=1),
            Robot(server, "other", steps=STEPS, update=100),
        ]
        nothing_lost(server, *robots)
        assert relay.connections > 2
        assert server.events("resume", peer="hit")
        assert {record["error"] for record in server.events("error")} <= {"StreamDamaged", "refused: name", "no hello"}


@each_policy
@each_direction
def test_swallowed_acknowledgements_do_not_stop_the_team(policy, direction):
    """The connection stands and heartbeats pass: the frame behind the hole tells."""
    swallow = Swallow(direction, Ack.KIND)
    with LiveServer(policy, expected_workers=2) as server, Relay(server.port, swallow) as relay:
        hit = Robot(Endpoint("127.0.0.1", relay.port), "hit", steps=STEPS, update=1, pause_at=2)
        other = Robot(server, "other", steps=STEPS, update=100)
        eventually(hit.at_pause.is_set)
        swallow.open.set()
        hit.go_on.set()
        nothing_lost(server, hit, other)
        assert swallow.swallowed > 0
        assert server.events("resume", peer="hit")


# -- each byte of a session --------------------------------------------------------------------------------------------


@each_policy
@each_direction
def test_a_damaged_byte_costs_nothing_but_time(policy, direction):
    """A sample; ``make fuzz`` takes each byte."""
    random = np.random.default_rng(0)
    length = bitflips.bytes_of(policy, direction)
    for byte in random.integers(0, length, 40):
        bitflips.flip(policy, direction, int(byte), 1 << int(random.integers(8)))
    for byte in random.integers(0, length, 10):
        bitflips.lose(policy, direction, int(byte), int(random.integers(1, 200)))


@each_policy
@each_direction
def test_any_message_may_be_swallowed(policy, direction):
    """A byte stream with a hole that ends at the borders of frames, as any other hole, is noticed."""
    for first, length in bitflips.frames_of(policy)[direction]:
        bitflips.lose(policy, direction, first, length)


# -- a standstill ------------------------------------------------------------------------------------------------------


def causes(team, node):
    return [record["cause"] for record in events(team, node, "link_down")]


@each_policy
def test_a_server_that_acknowledges_nothing_is_left_and_asked_again(policy):
    """It lives, its heartbeats come, and no frame is missing: only the limit helps."""
    team = bitflips.team_of(policy, cut=False)
    poll = team.server.poll

    def deaf(now, link):
        message = poll(now, link)
        while isinstance(message, Ack) and link.peer == bitflips.HIT and 0.03 < now < 15.0:
            message = poll(now, link)
        return message

    team.server.poll = deaf
    team.run(bitflips.LIMIT_S)
    bitflips.check(team)
    assert any("nothing acknowledged for 2" in cause for cause in causes(team, bitflips.HIT))
    assert team.now < 60


@each_policy
def test_a_worker_that_acknowledges_nothing_is_cut_off(policy):
    team = bitflips.team_of(policy, cut=False)
    node = team.workers[bitflips.HIT].node
    poll = node.poll

    def deaf(now):
        message = poll(now)
        while isinstance(message, Ack) and now < 15.0:
            message = poll(now)
        return message

    node.poll = deaf
    team.run(bitflips.LIMIT_S)
    bitflips.check(team)
    assert any("nothing acknowledged for 2" in cause for cause in causes(team, "server"))
    assert team.now < 60


@each_policy
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_frame_that_is_never_finished_is_given_up(policy, direction):
    """A header with the right checksum announces far more than comes: heartbeats are swallowed by it for minutes."""
    team = bitflips.team_of(policy, cut=False)

    def announce():
        robot = team.workers[bitflips.HIT]
        to_server = direction == "up"
        link = robot.server_link if to_server else robot.worker_link
        deliver = team._to_server if to_server else team._to_worker
        deliver(robot, framed(Rows.KIND, b"", sequence=link.decoder.frames, length=1 << 20))

    team.at(0.06, announce)
    team.run(bitflips.LIMIT_S)
    bitflips.check(team)
    assert any("stuck" in cause for node in team.journals for cause in causes(team, node))
    assert team.now < 60


SMALL = Layout.from_shapes([("weight", (8, 3))], small_tensor=1)


def link_at(now):
    link = Link("peer")
    link.opened(now)
    link.decoder.trusted, link.decoder.streams[0] = True, RowLimits(SMALL.rows)
    return link


def hear(link, now, data):
    link.heard(now)
    return list(link.decoder.feed(data))


def outbox_of(vector, **settings):
    """An outbox of a worker that has ``vector`` pending."""
    snapshot = Snapshot(SMALL, SMALL.zeros(), settles=False)
    return Outbox(Residual(SMALL, vector), Window(LinkSettings(**settings)), snapshot)


def sending(now=0.0, **settings):
    """An outbox with one frame on its way."""
    outbox = outbox_of(np.ones(24, dtype=np.float32), **settings)
    outbox.link_ready()
    outbox.send_everything(now, 1)
    assert outbox.next_frame(now) is not None
    return outbox


def cut(progress, *where):
    """The first time it is a doubt; nothing was read meanwhile, so the second time it is certain."""
    assert progress.cut(*where) is None
    return progress.cut(*where)


def test_nothing_on_the_way_has_no_limit():
    outbox = outbox_of(SMALL.zeros())
    link, progress = link_at(0.0), Progress(20.0)
    assert progress.due_at(link, outbox, 0) == math.inf
    assert progress.cut(1e6, link, outbox, 0) is None


def test_the_limit_follows_what_was_measured():
    link, progress = link_at(0.0), Progress(20.0)
    assert progress.due_at(link, sending(), 0) == 20.0
    slow = sending(initial_rate_bps=1000.0, frame_min_bytes=10_000, window_min_bytes=10_000)
    expected_s = slow.in_flight * 8 / 1000.0
    assert progress.due_at(link, slow, 0) == pytest.approx(max(20.0, MARGIN * expected_s))
    crawling = sending(initial_rate_bps=1000.0)
    crawling.meter._average /= 1000
    assert progress.due_at(link, crawling, 0) > 1000


def test_a_slow_transfer_that_makes_progress_is_not_stuck_for_its_sender():
    """The peer tells that bytes arrive; when they all have, or none come any more, the limit counts."""
    link, outbox, progress = link_at(0.0), sending(), Progress(20.0)
    link.encoder.encode(outbox.unacknowledged()[0])
    for second in range(0, 300, 5):
        hear(link, second, encode(Heartbeat(arrived=second // 5), second // 5))
        link.told(second, second // 5)
        assert progress.cut(second + 15.0, link, outbox, 0) is None
    last = 295.0
    link.told(last + 1, second // 5)  # nothing new
    assert progress.due_at(link, outbox, 0) == last + 20.0
    link.told(last + 2, 10_000)  # all of it, and what came behind
    link.told(last + 10, 20_000)  # is no news of the rows
    assert progress.due_at(link, outbox, 0) == last + 22.0
    assert "nothing acknowledged" in cut(progress, last + 22.0, link, outbox, 0)


def test_acknowledgements_behind_a_slow_frame_are_waited_for():
    """What comes back is held up by a large frame on a link that has become slow."""
    link, outbox, progress = link_at(0.0), sending(), Progress(20.0)
    large = encode(Rows(1, 1, 1, False, False, np.arange(3), np.zeros(3000, dtype=np.uint8)))
    step = len(large) // 60
    for second in range(60):
        assert hear(link, float(second), large[second * step : (second + 1) * step]) == []
        assert progress.cut(second + 0.9, link, outbox, 0) is None
    assert len(hear(link, 60.0, large[60 * step :])) == 1
    assert progress.due_at(link, outbox, 0) >= 79.0


def test_a_frame_that_comes_slowly_is_not_stuck_and_one_that_does_not_come_is():
    outbox = outbox_of(SMALL.zeros())
    large = encode(Rows(1, 1, 1, False, False, np.arange(3), np.zeros(10_000, dtype=np.uint8)))
    link, progress = link_at(0.0), Progress(20.0)
    for second in range(150):
        assert hear(link, float(second), large[second * 65 : (second + 1) * 65]) == []
        assert progress.cut(second + 0.9, link, outbox, 0) is None
    stuck, progress = link_at(0.0), Progress(20.0)
    for second in range(20):
        hear(stuck, float(second), large[second * 4 : (second + 1) * 4])
        assert progress.cut(second + 0.9, stuck, outbox, 0) is None
    assert "80 of 10039 bytes of a frame came in 20 s" in cut(progress, 20.0, stuck, outbox, 0)


def test_the_limit_doubles_until_something_is_delivered():
    """A link on which one frame takes longer than the limit gets it through in the end."""
    link, outbox, progress = link_at(0.0), sending(), Progress(20.0)
    now = 0.0
    for limit_s in (20.0, 40.0, 80.0, 160.0):
        assert progress.due_at(link, outbox, 0) == now + limit_s
        now += limit_s
        assert cut(progress, now, link, outbox, 0) is not None
        outbox.link_lost()
        outbox.resume(now, 0)
        assert outbox.next_frame(now) is None  # nothing was chosen anew
        outbox.send_everything(now, 1)
        assert outbox.next_frame(now) is not None
        link = link_at(now)
    outbox.acknowledged(now, 1)
    outbox.source.own.vector += 1
    outbox.send_everything(now, 2)
    assert outbox.next_frame(now) is not None
    assert progress.due_at(link, outbox, 0) == now + 20.0


def test_who_asks_late_waits_for_what_may_have_arrived_meanwhile():
    """A machine that slept for an hour: the acknowledgement lies in the socket, or comes within a heartbeat."""
    link, outbox, progress = link_at(0.0), sending(), Progress(20.0, heartbeat_s=1.0)
    assert progress.cut(3600.0, link, outbox, 0) is None
    assert progress.due_at(link, outbox, 0) == 3601.0
    assert progress.cut(3600.5, link, outbox, 0) is None
    assert "nothing acknowledged" in progress.cut(3601.0, link, outbox, 0)
    link, outbox, progress = link_at(0.0), sending(), Progress(20.0, heartbeat_s=1.0)
    assert progress.cut(3600.0, link, outbox, 0) is None
    outbox.acknowledged(3600.5, 1)
    assert progress.cut(3601.0, link, outbox, 0) is None
    assert progress.due_at(link, outbox, 0) == math.inf


# -- whole frames that are wrong ---------------------------------------------------------------------------------------


def refusing(team, times):
    """The server takes the end of a push for wrong, so often."""
    receive, left = team.server.receive, [times]

    def refuse(now, link, message):
        if isinstance(message, PushEnd) and link.peer == bitflips.HIT and left[0]:
            left[0] -= 1
            raise RemoteProtocolError("a fault of this server")
        receive(now, link, message)

    team.server.receive = refuse
    return left


def test_a_refusal_in_the_middle_of_the_work_is_tried_again():
    team = bitflips.team_of("bsp?codec=raw")
    left = refusing(team, 5)
    team.run(bitflips.LIMIT_S)
    bitflips.check(team)
    assert left == [0]


def test_a_fault_that_stays_ends_the_worker_with_its_reason():
    team = bitflips.team_of("bsp?codec=raw")
    left = refusing(team, 1000)
    team.workers[bitflips.HIT].node.settings = WorkerSettings(refusals_limit=3)
    team.run(bitflips.LIMIT_S)
    assert "a fault of this server" in str(team.failures[bitflips.HIT])
    assert left == [1000 - 4]


def test_a_fault_of_the_server_ends_the_worker_too():
    team = bitflips.team_of("rog:4?codec=raw")
    node = team.workers[bitflips.HIT].node
    receive = node.receive

    def wrong(now, message):
        if isinstance(message, Rows) and node.joined:
            raise RemoteProtocolError("rows that cannot be")
        receive(now, message)

    node.receive = wrong
    team.run(bitflips.LIMIT_S)
    assert "rows that cannot be" in str(team.failures[bitflips.HIT])
    errors = events(team, bitflips.HIT, "error")
    assert len(errors) == node.settings.refusals_limit + 1


def test_a_second_layout_must_be_the_first_one():
    """Only the first table tells the rows; another one is refused, and the same one again is not (after a cut)."""
    server = ServerNode(parse_policy("bsp"), settings=ServerSettings())
    link = Link("robot")
    server.link_up(0.0, link)
    server.receive(0.0, link, Hello("robot", bytes(16), b"", b"", SMALL.digest, b"", b"", False, 0, 0))
    server.receive(0.0, link, LayoutTable(SMALL.to_table(), 0))
    server.receive(0.0, link, LayoutTable(SMALL.to_table(), 0))
    longer = Layout.from_shapes([("weight", (800, 3))], small_tensor=1)
    with pytest.raises(RemoteProtocolError, match="the one that this worker has told before"):
        server.receive(0.0, link, LayoutTable(longer.to_table(), 0))
    assert link.decoder.streams[0].rows == SMALL.rows
    payload = np.zeros(4 * SMALL.elements, dtype=np.uint8)
    server.receive(0.0, link, Rows(1, 0, 1, True, False, np.arange(SMALL.rows), payload))
    server.receive(0.0, link, StateEnd())
