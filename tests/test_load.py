"""A large team that finishes together, and a node that was busy: what it costs, and that nobody loses the link."""

from __future__ import annotations

import asyncio
import threading
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rowcast.delivery.arrivals as arrivals_module
from live import LAYOUT as LIVE_LAYOUT
from live import LIMIT_S, LiveServer, Robot, eventually, start_of
from rowcast.codecs import REGISTRY, codec_by_name, codec_for
from rowcast.config import LinkSettings, ServerSettings, WorkerSettings
from rowcast.delivery.arrivals import Arrivals, decode_small
from rowcast.delivery.floored import Floored
from rowcast.delivery.residual import Residual
from rowcast.drivers.sockets.connection import Connection
from rowcast.errors import LinkLost
from rowcast.rows import Layout
from rowcast.session import Link
from rowcast.testing import VirtualTeam
from rowcast.training import WorkerNode
from rowcast.wire import Ack, Heartbeat, Rows, Waiting
from teams import LAYOUT, Books, events, finished, replicas_agree, worker

FAMILIES = ["bsp", "rog:4", "rowcast"]


# -- a large team ------------------------------------------------------------------------------------------------------


class Counted:
    """Counts what a server node does: row frames that it takes in, codecs called for them, messages it is asked for."""

    def __init__(self, monkeypatch, node):
        self.frames = self.decoded = self.polls = self.received = 0
        self._inside = False
        for codec in {id(codec): codec for codec in REGISTRY.values()}.values():
            monkeypatch.setattr(codec, "add", self._counting(codec.add))
        receive, poll, on_rows = node.receive, node.poll, node._incoming.handlers[Rows]

        def count_rows(now, member, message):
            self.frames += 1
            self._inside = True
            on_rows(now, member, message)
            self._inside = False

        def count_receive(now, link, message):
            self.received += 1
            receive(now, link, message)

        def count_poll(now, link):
            self.polls += 1
            return poll(now, link)

        node.receive, node.poll = count_receive, count_poll
        node._incoming.handlers = {**node._incoming.handlers, Rows: count_rows}

    def _counting(self, add):
        def count(*arguments):
            self.decoded += self._inside
            add(*arguments)

        return count


@pytest.mark.parametrize("policy", FAMILIES)
def test_what_a_frame_costs_does_not_grow_with_the_team(policy, monkeypatch):
    """A frame is decoded once, whoever is owed; and who has finished is not looked at for each frame of the others."""
    cost = {}
    for count in (10, 40):
        scripts = [worker(f"robot{i:02d}", iterations=2, compute_s=0.1 + 0.001 * i, seed=i) for i in range(count)]
        team = VirtualTeam(
            LAYOUT,
            f"{policy}{'&' if '?' in policy else '?'}codec=onebit",
            scripts,
            server_settings=ServerSettings(expected_workers=count),
            link_settings=LinkSettings(frame_min_bytes=64, window_min_bytes=256, frame_s=0.001),
        )
        with monkeypatch.context() as patch:
            counted = Counted(patch, team.server)
            finished(team)
        replicas_agree(team)
        assert 0 < counted.decoded <= counted.frames
        cost[count] = counted.polls / counted.received
    assert cost[40] < 2.5 * cost[10], cost


@pytest.mark.parametrize("policy", FAMILIES)
def test_a_crowd_finishes_together_over_sockets(policy, monkeypatch, request):
    monkeypatch.syspath_prepend(request.config.rootpath / "benchmarks")
    from crowd import Crowd

    with LiveServer(policy, expected_workers=40) as server:

        async def run():
            crowd = Crowd(LIVE_LAYOUT, 40, 2)
            await crowd.run("127.0.0.1", server.port, LIMIT_S)
            return crowd

        crowd = asyncio.run(run())
        assert [one.lost for one in crowd.workers if one.lost] == []
        assert crowd.off() < 1e-4
        first = crowd.workers[0].node.replica
        assert max(float(np.abs(one.node.replica - first).max()) for one in crowd.workers) < 1e-3


def test_a_fault_in_a_crowd_ends_its_run(monkeypatch, request):
    """It is raised at once, and not after the limit, nor tried again."""
    monkeypatch.syspath_prepend(request.config.rootpath / "benchmarks")
    from crowd import Crowd, Light

    def broken(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(Light, "on_read", broken)
    with LiveServer("bsp", expected_workers=2) as server:

        async def run():
            await Crowd(LIVE_LAYOUT, 2, 2).run("127.0.0.1", server.port, LIMIT_S)

        with pytest.raises(MemoryError, match="no room"):
            asyncio.run(run())


# -- what is noted -----------------------------------------------------------------------------------------------------

WIDE = Layout.from_shapes([("weight", (12, 5)), ("bias", (14,))], small_tensor=1)
ROWS = st.sets(st.integers(0, WIDE.rows - 1), min_size=1).map(lambda rows: np.array(sorted(rows), dtype=np.int64))
STEPS = st.one_of(
    st.tuples(st.just("push"), st.sampled_from(["raw", "half", "onebit", "zero"]), ROWS, st.integers(0, 9)),
    st.tuples(st.just("take"), st.integers(0, 2), ROWS),
    st.tuples(st.just("look"), st.integers(0, 2)),
    st.tuples(st.just("limit"), st.integers(0, 2), st.integers(0, 9)),
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(STEPS, max_size=40), st.booleans(), st.sampled_from([8, 40, 1 << 16]))
def test_what_is_noted_is_what_would_have_been_added_at_once(steps, streams, large):
    """To the bit: vector, stamps, rows that have changed. Also where updates are large, and where there are many."""
    floor = np.zeros(WIDE.rows, dtype=np.int32)
    arrivals = Arrivals(WIDE)
    arrivals._most = 100

    def backlog():
        return Floored(WIDE, WIDE.zeros(), floor) if streams else Residual(WIDE, WIDE.zeros())

    lazy, eager = [backlog() for _ in range(3)], [backlog() for _ in range(3)]
    for k, one in enumerate(lazy):
        one.subscribe(str(k), arrivals)
    random = np.random.default_rng(0)
    before, arrivals_module.LARGE_ELEMENTS = arrivals_module.LARGE_ELEMENTS, large
    try:
        for action, *more in steps:
            if action == "push":
                name, rows, iteration = more
                codec = codec_for(WIDE, codec_by_name(name))
                update = random.standard_normal(WIDE.elements, dtype=np.float32)
                frame = Rows(1, iteration, codec.wire_id, False, False, rows, codec.encode(WIDE, update, rows))
                lacked = floor[rows] if streams else None
                if streams:
                    arrivals.touch(floor[rows])
                for one in eager:
                    if iteration <= one.limit:
                        one.take_in(codec, frame, lacked)
                floor[rows] += 1
                arrivals.add(codec, frame, decode_small(WIDE, codec, frame))
            elif action == "take":
                index, rows = more
                codec = codec_by_name("onebit")
                payloads = [one[index].take(rows, codec, 5)[0].tobytes() for one in (lazy, eager)]
                assert payloads[0] == payloads[1]
            elif action == "look":
                assert lazy[more[0]].vector.tobytes() == eager[more[0]].vector.tobytes()
                assert not streams or lazy[more[0]].lacking() == eager[more[0]].lacking()
            else:
                index, limit = more
                lazy[index].catch_up()
                lazy[index].limit = eager[index].limit = limit
    finally:
        arrivals_module.LARGE_ELEMENTS = before
    for one, other in zip(lazy, eager, strict=True):
        assert one.vector.tobytes() == other.vector.tobytes()
        assert one.stamps.tobytes() == other.stamps.tobytes()
        if streams:
            assert one.changed.tobytes() == other.changed.tobytes()
            assert one.lacking() == other.lacking()


def test_what_is_noted_is_a_part_of_a_model():
    layout = Layout.from_shapes([("weight", (1000, 1000))])
    arrivals = Arrivals(layout)
    backlogs = [Residual(layout, layout.zeros()) for _ in range(3)]
    for k, one in enumerate(backlogs):
        one.subscribe(str(k), arrivals)
    codec = codec_by_name("raw")
    update = np.ones(layout.elements, dtype=np.float32)
    for k in range(400):
        rows = np.arange(20, dtype=np.int64) + 20 * (k % 50)
        frame = Rows(k + 1, 1, codec.wire_id, False, False, rows, codec.encode(layout, update, rows, consume=False))
        arrivals.add(codec, frame, decode_small(layout, codec, frame))
    noted = sum(value.nbytes for value in vars(arrivals).values() if isinstance(value, np.ndarray))
    assert noted < layout.elements * 4 / 2
    for one in backlogs:
        np.testing.assert_array_equal(one.vector, 8.0)


# -- a node that was busy ----------------------------------------------------------------------------------------------


def test_a_server_reads_before_it_takes_a_link_for_dead():
    team = VirtualTeam(LAYOUT, "bsp", [worker("robot0", iterations=50)])
    team.run(1.0)
    node, link = team.server, team.server.members["robot0"].link
    late = link.heard_at + 25.0
    assert node.on_timer(late) == []  # it was busy: perhaps something has arrived long since
    node.heard(late, link)
    assert node.on_timer(late) == []
    silent_at = late + node.settings.silence_limit_s
    assert node.on_timer(silent_at) == []  # in time, but the driver reads once more
    assert node.next_wake() == silent_at
    assert [cause for _, cause in node.on_timer(silent_at)] == ["silent for 10 s"]


def test_a_worker_reads_before_it_takes_the_server_for_dead():
    node = WorkerNode("robot0", LAYOUT, LAYOUT.zeros())
    node.link_up(0.0, Link("server"))
    node.on_timer(25.0)
    node.heard(25.0)
    node.on_timer(35.0)
    assert node.next_wake() == 35.0
    with pytest.raises(LinkLost, match="nothing came from the server"):
        node.on_timer(35.0)


@pytest.mark.parametrize("policy", FAMILIES)
def test_a_machine_that_slept_cuts_nobody(policy):
    """The clocks of server and workers jump by a minute; all that was silent meanwhile is heard again."""
    with LiveServer(f"{policy}?codec=raw", expected_workers=2) as server:
        robots = [Robot(server, f"robot{k}", steps=6, pause_at=3) for k in range(2)]
        for robot in robots:
            assert robot.at_pause.wait(LIMIT_S)
        heard = server.ask(lambda node: {name: one.link.heard_at for name, one in node.members.items()})
        for loop in (server._loop, *(robot.team._network.loop for robot in robots)):
            slept = threading.Event()

            def sleep(loop=loop, slept=slept):
                time = loop.time
                loop.time = lambda: time() + 60.0
                slept.set()

            loop.call_soon_threadsafe(sleep)
            assert slept.wait(LIMIT_S)
        eventually(
            lambda: server.ask(
                lambda node: all(
                    one.link is not None and one.link.heard_at > heard[one.name] + 60 for one in node.members.values()
                )
            )
        )
        for robot in robots:
            robot.go_on.set()
        for robot in robots:
            robot.done()
        assert not [one for one in server.events("link_down") if "silent" in one["cause"]]
        assert len(server.events("link_up")) == 2
        np.testing.assert_array_equal(robots[0].team.replica, robots[1].team.replica)


# -- what a server keeps of a worker -----------------------------------------------------------------------------------


def test_figures_under_ever_new_names_do_not_fill_the_server():
    team = VirtualTeam(LAYOUT, "bsp", [worker("robot0", iterations=50)])
    team.run(1.0)
    node, link = team.server, team.server.members["robot0"].link
    for k in range(100):
        node.receive(1.0, link, Heartbeat({f"{k}-{j}-{'x' * 90}": 1.0 for j in range(60)}))
    node.receive(1.0, link, Heartbeat({"y" * 5000: 1.0, "rate_bps": 5.0}))
    metrics = node.members["robot0"].metrics
    assert len(metrics) <= 65 and max(map(len, metrics)) <= 100
    assert metrics["rate_bps"] == 5.0  # what was there first stays, and stays up to date
    (dropped,) = events(team, "server", "dropped")
    assert dropped["peer"] == "robot0" and "64 names" in dropped["why"]
    assert ["dropped figures" in text for text in node.notices if text.startswith("robot0: ")] == [True]


def test_a_worker_says_once_that_it_reports_under_too_many_names():
    node = WorkerNode("robot0", LAYOUT, LAYOUT.zeros())
    for k in range(1000):
        node.report(float(k), {f"loss-{k}": 1.0, "loss": float(k)})
    assert len(node.metrics) == 60 and node.metrics["loss"] == 999.0
    assert len([one for one in node.journal.records if one["event"] == "dropped"]) == 1
    assert len([one for one in node.journal.records if one["event"] == "metric"]) == 2000  # the journal has them all
    assert len([text for text in node.notices if "display" in text]) == 1


def test_acknowledgements_and_heartbeats_that_wait_count_once():
    link = Link("robot0")
    for number in range(1000):
        link.say(Ack(number))
    link.say(Waiting(1, "robot1"))
    for _ in range(1000):
        link.say(Heartbeat())
    assert list(link.control) == [Ack(999), Waiting(1, "robot1"), Heartbeat()]


def test_who_reads_nothing_is_cut_with_a_line():
    """It sends frames, and takes nothing of what it is told: the queue ends, the connection with it."""
    team = VirtualTeam(LAYOUT, "bsp", [worker("robot0", iterations=50)])
    team.run(1.0)
    node, member = team.server, team.server.members["robot0"]
    with pytest.raises(LinkLost, match="reads nothing"):
        for k in range(100_000):
            node.team.notifier.say(member.link, Waiting(k, "somebody"))
            node.receive(1.0, member.link, Heartbeat())
    assert member.link.closing and not member.link.control
    (dropped,) = events(team, "server", "dropped")
    assert dropped["peer"] == "robot0" and "reads nothing" in dropped["why"]
    assert "robot0: dropped its connection" in node.notices[-1]


def test_nothing_is_read_from_who_does_not_read():
    """Back-pressure: with much waiting for it, a peer is left unread; once it has taken that, reading goes on."""
    owner, transport = Mock(), Mock()
    owner.on_read.return_value = None
    owner.position.return_value = owner.committed_to.return_value = 0
    connection = Connection(owner)
    connection.link = Link("robot0")
    transport.is_closing.return_value = False
    connection._transport = transport
    connection._writable = False
    for k in range(100):
        connection.link.say(Waiting(k, "somebody"))
    connection.buffer_updated(0)
    connection.buffer_updated(0)
    transport.pause_reading.assert_called_once_with()
    transport.resume_reading.assert_not_called()
    owner.next_message = lambda connection: connection.link.next_control(0.0)
    connection.write_on()
    transport.resume_reading.assert_called_once_with()
    assert not connection.link.control


@pytest.mark.parametrize("policy", [*FAMILIES, "rowcast?pulls=common"])
def test_workers_that_crash_and_return_under_new_names_leave_two_vectors_behind(policy):
    limits = ServerSettings(expected_workers=2, absence_limit_s=1.0, absent_workers=2)
    crashing = [worker(f"crash{k}", iterations=600, compute_s=0.5) for k in range(6)]
    team = VirtualTeam(
        LAYOUT, policy, [worker("robot0", iterations=60, compute_s=0.5), crashing[0]], server_settings=limits
    )
    books = Books(team)
    for k in range(6):
        if k:
            team.at(3.0 * k, lambda k=k: team.start(crashing[k]))
        team.at(3.0 * k + 2.5, lambda k=k: books.kill(f"crash{k}"))
    kept = []
    for time in np.arange(0.5, 22.0, 0.5):
        team.at(time, lambda: kept.append(len(team.server.members)))
    finished(team)
    books.check()
    replicas_agree(team)
    assert max(kept) <= 2 + 1 + 2  # two that live, the one that is just gone, and two absent ones
    forgotten = events(team, "server", "dropped")
    assert [one["peer"] for one in forgotten] == ["crash0", "crash1", "crash2", "crash3"]
    assert all("absent_workers" in one["why"] for one in forgotten)


@pytest.mark.parametrize("codec", ["raw", "onebit"])
@pytest.mark.parametrize("policy", [*FAMILIES, "flown:2", "rowcast?pulls=common"])
def test_who_was_forgotten_returns_and_nothing_is_lost_or_doubled(policy, codec):
    """Cut in the middle of pushes and pulls, away until it is forgotten, back: its frames count once.

    Also where the link is lost again before the worker hears that it was forgotten, and after.
    """
    for seed, (cut_at, again_s) in enumerate([(0.61, 0.021), (0.9, 0.07), (1.13, 0.2), (1.37, 0.5)]):
        scripts = [worker(f"robot{k}", iterations=30, compute_s=0.2, rate_bps=2e4, delay_s=0.02) for k in range(3)]
        team = VirtualTeam(
            LAYOUT,
            f"{policy}{'&' if '?' in policy else '?'}codec={codec}",
            scripts,
            seed=seed,
            server_settings=ServerSettings(expected_workers=3, absence_limit_s=1.0, absent_workers=0),
        )
        books = Books(team)
        team.at(cut_at, lambda team=team: team.cut("robot1", 2.5))
        team.at(cut_at + 2.5 + again_s, lambda team=team: team.cut("robot1", 0.1))
        books.check_at(*np.arange(cut_at, 8.0, 0.05))
        finished(team)
        books.check()
        replicas_agree(team)
        assert [one["peer"] for one in events(team, "server", "dropped")] == ["robot1"]
        hows = [one["how"] for one in events(team, "server", "join") if one["peer"] == "robot1"]
        assert hows[1] == "receive"


@pytest.mark.parametrize("policy", FAMILIES)
def test_who_was_forgotten_returns_over_sockets(policy):
    slow = WorkerSettings(join_limit_s=LIMIT_S, reconnect_first_s=1.0, reconnect_cap_s=1.0)
    limits = {"expected_workers": 2, "absence_limit_s": 0.1, "absent_workers": 0, "heartbeat_s": 0.05}
    with LiveServer(f"{policy}?codec=raw", **limits) as server:
        robots = [
            Robot(server, "robot0", steps=12, pause_at=6),
            Robot(server, "robot1", steps=12, pause_at=4, update=10, settings=slow),
        ]
        assert robots[1].at_pause.wait(LIMIT_S)
        robots[1].go_on.set()
        eventually(lambda: robots[1].iteration > 4)
        assert server.cut("robot1")
        eventually(lambda: server.events("dropped", peer="robot1"))
        eventually(lambda: len(server.events("join", peer="robot1")) == 2)  # it is back
        robots[0].go_on.set()
        for robot in robots:
            robot.done()
        assert server.events("join", peer="robot1")[-1]["how"] in ("receive", "equal")
        computed = sum(robot.team.node.computed for robot in robots)
        moved = start_of() - robots[0].team.replica
        np.testing.assert_allclose(np.add.reduceat(moved, LIVE_LAYOUT.offsets[:-1]), computed, rtol=1e-5)
        np.testing.assert_allclose(robots[0].team.replica, robots[1].team.replica, rtol=0, atol=1e-3)
        assert server.ask(lambda node: node.frames_applied["robot1"]) > 0


def test_nothing_is_written_within_the_call_that_there_is_room_again():
    """A write that failed there would end the connection twice: asyncio then fails itself, and ends the thread."""

    async def run() -> None:
        owner, transport = Mock(), Mock()
        connection = Connection(owner)
        connection.connection_made(transport)
        transport.is_closing.return_value = False
        owner.committed_to.return_value = owner.position.return_value = 0
        waiting = [Heartbeat()]
        owner.next_message = lambda _: waiting.pop() if waiting else None
        connection.link = Link("robot0")
        connection.pause_writing()
        connection.pump()
        connection.resume_writing()
        transport.write.assert_not_called()
        await asyncio.sleep(0)
        transport.write.assert_called_once()
        owner.after_write.assert_called_once_with()
        waiting.append(Heartbeat())
        connection.resume_writing()
        connection.pause_writing()
        await asyncio.sleep(0)
        connection.pump()
        transport.write.assert_called_once()

    asyncio.run(run())
