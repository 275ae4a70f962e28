"""Streams in the protocol: what is delivered, where a stream goes on after a crash, and who gets which share."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from one_line import ROWS, Line, rows_of
from rowcast.codecs import codec_by_name
from rowcast.config import ServerSettings
from rowcast.errors import ConfigError, LinkLost, RemoteProtocolError
from rowcast.rows import Layout
from rowcast.session import Link
from rowcast.streams import Feed, parse_batch
from rowcast.sync import parse_policy
from rowcast.testing import VirtualTeam
from rowcast.training import ServerNode, WorkerNode, WorkerState
from rowcast.wire import Message, PushEnd, Rows, Share, Supply
from rowcast.wire.fields import MAX_PLACES
from teams import LAYOUT, finished, worker

TEAM = parse_batch("team:100")


def stepped(line: Line, now: float, positions: bytes) -> list[Message]:
    """One iteration whose data reaches up to ``positions``, as far as the messages get; what the worker sent."""
    line.worker.read_to(positions)
    line.step(now)
    return line.pass_on(now)


# -- exactly once ------------------------------------------------------------------------------------------------------


def streaming_line(policy: str, limits: ServerSettings | None = None) -> Line:
    line = Line(policy, limits=limits)
    line.pass_on(0.0)
    line.worker.supplier.supply(TEAM, 10.0)
    line.pass_on(0.0)
    return line


@pytest.mark.parametrize("policy", ["bsp?codec=raw", "ssp:2?codec=raw"])
@pytest.mark.parametrize("frames", [0, 1, 5, 13, 20])
def test_a_push_that_a_crash_cut_off_counts_not_at_all(policy: str, frames: int) -> None:
    """The worker dies behind so many frames of its second push: the model is that of one push, and so are positions."""
    line = streaming_line(policy)
    stepped(line, 1.0, b"one")
    np.testing.assert_array_equal(line.server.parameters, np.full(ROWS.elements, -1.0, np.float32))
    line.worker.read_to(b"two")
    line.step(2.0)
    link, sent = line.server.members["robot"].link, 0
    while sent < frames and (said := line.worker.poll(2.0)) is not None:
        line.server.receive(2.0, link, said)
        sent += len(rows_of([said]))
        if (heard := line.server.poll(2.0, link)) is not None:
            line.worker.receive(2.0, heard)
    np.testing.assert_array_equal(line.server.parameters, np.full(ROWS.elements, -1.0, np.float32))
    line.server.link_down(3.0, link, "kill -9")
    line.begin_life(4.0)
    line.pass_on(4.0)
    assert line.worker.resumed_positions == b"one"
    np.testing.assert_array_equal(line.worker.replica, np.full(ROWS.elements, -1.0, np.float32))
    line.worker.supplier.supply(TEAM, 10.0)
    stepped(line, 5.0, b"two")
    np.testing.assert_array_equal(line.server.parameters, np.full(ROWS.elements, -2.0, np.float32))
    line.server.link_down(6.0, line.server.members["robot"].link, "kill -9")
    line.begin_life(7.0)
    line.pass_on(7.0)
    assert line.worker.resumed_positions == b"two"


def test_a_push_that_a_cut_interrupts_goes_on_where_it_was() -> None:
    """The link is cut, and nobody dies: what was staged stays, and counts once."""
    line = streaming_line("bsp?codec=raw")
    line.worker.read_to(b"one")
    line.step(1.0)
    link = line.server.members["robot"].link
    for _ in range(6):
        line.server.receive(1.0, link, line.worker.poll(1.0))
    line.cut(2.0)
    line.connect(3.0)
    line.pass_on(3.0)
    assert line.worker.state is WorkerState.COMPUTING and line.worker.resumed_positions == b""
    np.testing.assert_array_equal(line.server.parameters, np.full(ROWS.elements, -1.0, np.float32))
    assert line.server.team.positions == {"robot": b"one"}


def test_a_push_under_way_says_how_far_its_own_data_reaches() -> None:
    """Behind an exchange that a Ctrl-C left to itself the loop reads the next batch before the push has ended."""
    line = streaming_line("bsp?codec=raw")
    line.worker.read_to(b"one")
    line.step(1.0)
    line.worker.read_to(b"two")
    line.pass_on(1.0)
    assert line.server.team.positions == {"robot": b"one"}


def test_positions_that_no_message_has_room_for_are_refused() -> None:
    line = streaming_line("bsp?codec=raw")
    line.worker.read_to(bytes(MAX_PLACES))
    with pytest.raises(ConfigError, match=f"at most {MAX_PLACES} bytes, got {MAX_PLACES + 1}: read fewer partitions"):
        line.worker.read_to(bytes(MAX_PLACES + 1))
    line.step(1.0)
    line.pass_on(1.0)
    assert line.server.team.positions == {"robot": bytes(MAX_PLACES)}


def test_rows_that_are_staged_count_when_the_worker_finishes() -> None:
    """What a lossy code had left is sent behind the last push."""
    line = streaming_line("bsp?codec=onebit")
    stepped(line, 1.0, b"one")
    line.step(2.0, np.linspace(-1, 1, ROWS.elements, dtype=np.float32))
    line.pass_on(2.0)
    line.worker.finish(3.0)
    line.pass_on(3.0)
    assert line.worker.state is WorkerState.DONE and line.worker.delivered.newest() == 2
    wanted = -1.0 - np.linspace(-1, 1, ROWS.elements, dtype=np.float32)
    np.testing.assert_allclose(line.server.parameters, wanted, atol=1e-5)
    assert line.server.frames_applied["robot"] == line.worker.outbox.sent_frames


def pushed_in_part(line: Line, now: float, frames: int) -> None:
    """The worker makes a step, and so many frames of it are acknowledged."""
    line.step(now)
    link = line.server.members["robot"].link
    for _ in range(frames):
        line.server.receive(now, link, line.worker.poll(now))
        line.worker.receive(now, line.server.poll(now, link))


@pytest.mark.parametrize("policy", ["bsp?codec=raw", "ssp:2?codec=raw"])
def test_rows_that_are_staged_count_when_their_worker_is_forgotten(policy: str) -> None:
    """It has heard that they are there: when it comes back it sends only the others."""
    line = streaming_line(policy, ServerSettings(absence_limit_s=1.0, absent_workers=0))
    stepped(line, 1.0, b"one")
    pushed_in_part(line, 2.0, 6)
    line.cut(2.0)
    line.server.on_timer(60.0)
    assert not line.server.members
    line.connect(61.0)
    line.pass_on(61.0)
    line.worker.finish(62.0)
    line.pass_on(62.0)
    assert line.worker.state is WorkerState.DONE
    np.testing.assert_array_equal(line.server.parameters, np.full(ROWS.elements, -2.0, np.float32))


def test_an_update_before_the_start_is_refused_and_not_staged() -> None:
    line = streaming_line("bsp?codec=raw", ServerSettings(expected_workers=2))
    member, codec, rows = line.server.members["robot"], codec_by_name("raw"), np.arange(1)
    payload = codec.encode(ROWS, np.ones(ROWS.elements, np.float32), rows)
    update = Rows(member.inbox.received + 1, 1, codec.wire_id, False, False, rows, payload)
    with pytest.raises(RemoteProtocolError, match="expected no update before the start"):
        line.server.receive(1.0, member.link, update)
    assert member.staged == []


def test_a_push_that_never_ends_takes_only_so_much_memory() -> None:
    """What was staged counts before it takes more than two models."""
    line = streaming_line("bsp?codec=raw")
    line.step(1.0)
    link, most = line.server.members["robot"].link, 0
    before = line.server.frames_applied["robot"]
    frame = line.worker.poll(1.0)
    assert isinstance(frame, Rows)
    for number in range(frame.number, frame.number + 999):
        line.server.receive(1.0, link, dataclasses.replace(frame, number=number))
        member = line.server.members["robot"]
        most = max(most, sum(len(rows.payload) + 1024 for _, rows in member.staged))
    assert 0 < most <= 2 * (ROWS.elements * 4 + ROWS.rows * 2048)
    counted, staged = line.server.frames_applied["robot"] - before, len(member.staged)
    assert counted + staged == 999 and counted > staged
    assert line.server.parameters[0] == -counted


@pytest.mark.parametrize("policy", ["rog:4?codec=raw", "rowcast:4?codec=raw"])
def test_where_a_push_is_not_whole_the_server_knows_no_positions(policy: str) -> None:
    line = streaming_line(policy)
    stepped(line, 1.0, b"one")
    assert line.server.members["robot"].staged is None
    line.server.link_down(2.0, line.server.members["robot"].link, "kill -9")
    line.begin_life(3.0)
    line.pass_on(3.0)
    assert line.worker.resumed_positions == b""


def test_a_worker_without_a_stream_is_not_staged() -> None:
    line = Line("bsp?codec=raw")
    line.pass_on(0.0)
    stepped(line, 1.0, b"")
    assert line.server.members["robot"].staged is None and not line.server.team.positions


def test_a_team_that_begins_anew_forgets_how_far_data_was_read() -> None:
    line = streaming_line("bsp?codec=raw")
    stepped(line, 1.0, b"one")
    line.server._admission.begin_anew(2.0, "a test")
    assert not line.server.team.positions


# -- delivered ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["bsp", "ssp:3?codec=raw", "rog:4", "rowcast:4", "rowcast:2?pulls=common"])
def test_what_is_delivered_is_at_the_server(policy: str) -> None:
    """Each iteration adds 1 to every parameter, in the raw code: what the server lacks is newer than 'delivered'."""
    exact = policy if "codec" in policy else policy + ("&" if "?" in policy else "?") + "codec=raw&adapt=off"
    exact = exact if policy.startswith("rowcast") else exact.replace("&adapt=off", "")
    exact += "&auto_lr=off&anticipate=off" if policy.startswith("rowcast") else ""
    ones = lambda n, x: np.ones(LAYOUT.elements, np.float32)  # noqa: E731
    rates = (3e3, 1e6)
    scripts = [
        worker(f"robot{place}", iterations=12, rate_bps=rate, gradient=ones, weight=1.0, initial=LAYOUT.zeros())
        for place, rate in enumerate(rates)
    ]
    team = VirtualTeam(LAYOUT, exact, scripts)
    lags = []

    def look() -> None:
        for name in ("robot0", "robot1"):
            if name not in team.workers:
                continue
            node = team.workers[name].node
            delivered, done = node.delivered.newest(), node.delivered.finished
            assert 0 <= delivered <= done
            assert node.pending.max(initial=0.0) <= done - delivered + 1e-6
            lags.append(done - delivered)

    for tick in range(1, 200):
        team.at(tick * 0.05, look)
    finished(team, until=300.0)
    assert max(lags) >= 1
    for name in ("robot0", "robot1"):
        node = team.workers[name].node
        assert node.delivered.newest() == node.delivered.finished == 12


def test_a_push_that_has_not_ended_has_not_arrived() -> None:
    """Its rows are acknowledged, and would be dropped if its worker left now: nothing of its data may be committed."""
    line = streaming_line("bsp?codec=raw")
    stepped(line, 1.0, b"one")
    assert line.worker.arrived == 1
    line.step(2.0)
    line.pass_on(2.0, lost=(PushEnd,))
    assert line.worker.outbox.settled and line.worker.arrived == 1
    np.testing.assert_array_equal(line.server.parameters, np.full(ROWS.elements, -1.0, np.float32))
    line.cut(3.0)
    line.connect(4.0)
    line.pass_on(4.0)
    assert line.worker.arrived == 2


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_nothing_counts_as_delivered_before_its_last_row_is_acknowledged(data: st.DataObject) -> None:
    """Acknowledgements are withheld, links cut, and the server counts anew: a delivered iteration is at the server."""
    policy = data.draw(st.sampled_from(["bsp?codec=raw", "ssp:3?codec=raw", "rog:2?codec=raw"]))
    line = Line(policy)
    line.pass_on(0.0)
    now = 0.0
    for _ in range(data.draw(st.integers(1, 8))):
        now += 1.0
        if line.worker.state is WorkerState.COMPUTING:
            line.step(now)
        held = data.draw(st.booleans())
        if held:
            lost = data.draw(st.sampled_from([(PushEnd,), ()]))
            line.pass_on(now, lambda message: None, lost)
            line.cut(now)
            line.connect(now)
        line.pass_on(now)
        delivered = line.worker.delivered.newest()
        applied = -float(line.server.parameters.max())
        assert delivered <= applied + 1e-5 and delivered <= line.worker.delivered.finished


# -- shares ------------------------------------------------------------------------------------------------------------


class Shared:
    """A server and workers that supply; messages are handed over at once."""

    def __init__(self, names: list[str]) -> None:
        layout = Layout.from_shapes([("weight", (4, 4))], small_tensor=1)
        self.server = ServerNode(parse_policy("asp?codec=raw"), settings=ServerSettings(expected_workers=len(names)))
        self.nodes = {name: WorkerNode(name, layout, layout.zeros()) for name in names}
        self.links: dict[str, tuple[Link, Link]] = {}
        self.said: list[Message] = []
        for name in names:
            self.connect(name)
        self.pass_on()

    def connect(self, name: str) -> None:
        self.links[name] = Link("server"), Link(name)
        self.nodes[name].link_up(0.0, self.links[name][0])
        self.server.link_up(0.0, self.links[name][1])

    def pass_on(self) -> None:
        moved = True
        while moved:
            moved = False
            self.server.take_ready()
            for name, (_up, down) in self.links.items():
                if (message := self.nodes[name].poll(0.0)) is not None:
                    moved = True
                    self.said.append(message)
                    self.server.receive(0.0, down, message)
                if (message := self.server.poll(0.0, down)) is not None:
                    moved = True
                    self.said.append(message)
                    self.nodes[name].receive(0.0, message)
            assert all(up is node.link for (up, _), node in zip(self.links.values(), self.nodes.values(), strict=True))

    def supply(self, rule: str = "team:100", **rates: float) -> dict[str, int | None]:
        for name, rate in rates.items():
            self.nodes[name].supplier.supply(parse_batch(rule), rate)
        self.pass_on()
        return {name: node.supplier.share for name, node in self.nodes.items()}


def test_the_team_shares_its_batch_in_proportion() -> None:
    team = Shared(["a", "b", "c"])
    assert team.supply(a=10.0) == {"a": 100, "b": None, "c": None}
    assert team.supply(b=30.0, c=0.0) == {"a": 25, "b": 75, "c": 0}
    assert team.supply(c=20.0) == {"a": 17, "b": 50, "c": 33}
    assert team.supply(c=30.0) == {"a": 14, "b": 43, "c": 43}
    assert team.nodes["a"].supplier.team_rate == pytest.approx(70.0)


def test_what_changes_by_less_than_the_dead_band_is_not_said() -> None:
    team = Shared(["a", "b"])
    team.supply(a=10.0, b=10.0)
    before = len(team.said)
    assert team.supply(a=10.4, b=9.6) == {"a": 50, "b": 50}
    assert len(team.said) == before
    assert team.supply(a=12.0) == {"a": 55, "b": 45}
    assert team.supply("team:200", a=12.0) == {"a": 109, "b": 45}


def test_in_a_large_team_only_those_are_told_whose_share_changes_much() -> None:
    names = [f"w{place}" for place in range(20)]
    team = Shared(names)
    shares = team.supply("team:2000", **dict.fromkeys(names, 10.0))
    assert sum(share or 0 for share in shares.values()) == pytest.approx(2000, rel=0.05)
    before = len(team.said)
    changed = team.supply("team:2000", w3=15.0)
    assert changed["w3"] == 146 and changed["w19"] == 100 and len(team.said) < before + 20
    again = len(team.said)
    assert team.supply("team:2000", w3=15.8)["w3"] == 154 and len(team.said) == again + 2
    assert team.supply("team:2000", w5=40.0)["w19"] == 84


def test_what_a_worker_cannot_take_goes_to_the_others() -> None:
    team = Shared(["a", "b", "c"])
    team.supply("team:100/30", a=80.0)
    assert team.nodes["a"].supplier.share == 30
    assert team.supply(b=10.0, c=10.0) == {"a": 30, "b": 35, "c": 35}
    assert team.supply("team:100/60", a=80.0) == {"a": 60, "b": 20, "c": 20}
    assert team.supply(a=80.0) == {"a": 80, "b": 10, "c": 10}
    feed = Feed(parse_batch("team:100/30"))
    feed.told(None, 2, 0.0)
    assert feed.share == 30


def test_those_who_come_and_go_change_the_shares() -> None:
    team = Shared(["a", "b"])
    assert team.supply(a=10.0, b=30.0) == {"a": 25, "b": 75}
    team.nodes["b"].leave(1.0, "enough")
    message = team.nodes["b"].poll(1.0)
    with pytest.raises(LinkLost, match="enough"):
        team.server.receive(1.0, team.links["b"][1], message)
    team.server.link_down(1.0, team.links.pop("b")[1], "left")
    del team.nodes["b"]
    team.pass_on()
    assert team.supply() == {"a": 100}


def test_a_new_life_without_a_stream_has_no_share() -> None:
    team = Shared(["a", "b"])
    assert team.supply(a=10.0, b=30.0) == {"a": 25, "b": 75}
    team.server.link_down(1.0, team.links["b"][1], "kill -9")
    layout = team.nodes["b"].layout
    team.nodes["b"] = WorkerNode("b", layout, layout.zeros())
    team.connect("b")
    team.pass_on()
    assert team.supply() == {"a": 100, "b": None}


def test_in_a_large_team_few_are_told_that_one_has_gone() -> None:
    names = [f"w{place}" for place in range(40)]
    team = Shared(names)
    team.supply("team:4000", **dict.fromkeys(names, 10.0))
    team.nodes["w7"].leave(1.0, "enough")
    with pytest.raises(LinkLost, match="enough"):
        team.server.receive(1.0, team.links["w7"][1], team.nodes["w7"].poll(1.0))
    team.server.link_down(1.0, team.links.pop("w7")[1], "left")
    del team.nodes["w7"]
    before = len(team.said)
    team.pass_on()
    assert not [one for one in team.said[before:] if isinstance(one, Share)]


def test_a_share_that_a_cut_took_is_told_again() -> None:
    team = Shared(["a", "b"])
    team.supply(a=10.0, b=30.0)
    team.nodes["a"].link_down(1.0, "cut")
    team.server.link_down(1.0, team.links["a"][1], "cut")
    team.nodes["a"].supplier.share = None
    team.connect("a")
    team.pass_on()
    assert team.nodes["a"].supplier.share == 25


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=5))
@settings(max_examples=30, deadline=None)
def test_all_shares_together_are_the_batch(rates: list[float]) -> None:
    names = [f"robot-{place}" for place in range(len(rates))]
    team = Shared(names)
    shares = team.supply(**dict(zip(names, rates, strict=True)))
    assert sum(share or 0 for share in shares.values()) == 100


@pytest.mark.parametrize(("rate", "total"), [(-5.0, 100), (1e308, 100), (1.0, (1 << 64) - 1)])
def test_supplies_that_no_honest_worker_sends_are_refused(rate: float, total: int) -> None:
    team = Shared(["a", "b"])
    assert team.supply(a=10.0, b=30.0) == {"a": 25, "b": 75}
    with pytest.raises(RemoteProtocolError, match="samples/s and a batch of at most"):
        team.server.receive(0.0, team.links["a"][1], Supply(rate, total))
    assert team.supply(b=90.0) == {"a": 10, "b": 90}


def test_the_slower_of_stream_and_processor_counts() -> None:
    team = Shared(["a", "b"])
    team.nodes["a"].supplier.worked(10, 1.0)
    assert team.supply(a=1000.0, b=30.0) == {"a": 25, "b": 75}
    team.nodes["b"].supplier.worked(90, 1.0)
    assert team.supply("speed:100", a=1000.0, b=30.0) == {"a": 10, "b": 90}
