"""Timing-only layouts and what serves them: codes, minima, and the rules of the MTA time, against plain ones."""

from __future__ import annotations

import json
import random
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.codecs import REGISTRY, Fitting, TimingOnly, codec_by_id, codec_by_name, codec_for
from rowcast.config import LinkSettings, ServerSettings, WorkerSettings
from rowcast.delivery.inbox import Inbox
from rowcast.delivery.outbox import Outbox
from rowcast.delivery.residual import Residual
from rowcast.delivery.snapshot import Snapshot
from rowcast.delivery.window import Window
from rowcast.drivers.virtual import Device, Simulation
from rowcast.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from rowcast.links import Trace
from rowcast.rows import Layout
from rowcast.rows.outline import Outline
from rowcast.sync import ArtifactTime, MinimumTracker, MtaTime, parse_policy
from rowcast.sync.artifact import GROUP_ROWS, artifact_share, select_groups
from rowcast.sync.mta import MAX_AGE, T_LOW_S, minimum_share
from rowcast.testing import ScriptedWorker, VirtualTeam
from rowcast.training import ServerNode, WorkerNode, WorkerState
from rowcast.training.ledger import Ledger
from rowcast.training.member import Member, MemberState
from rowcast.training.timing_ledger import TimingLedger
from rowcast.wire import Rows

#: 26 rows and 63 elements.
LAYOUT = Layout.from_shapes([("weight", (24, 2)), ("bias", (14,)), ("scale", ())], small_tensor=1)
TIMING_ONLY = LAYOUT.timing_only()
quick = settings(deadline=None, derandomize=True)
CODES = [name for name in REGISTRY if name != "zero"]


# -- codes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CODES)
def test_a_timing_only_code_has_the_sizes_of_the_real_one(name):
    real = codec_by_name(name)
    timing = codec_for(TIMING_ONLY, real)
    assert isinstance(timing, TimingOnly) and codec_for(LAYOUT, real) is real
    assert codec_by_id(timing.wire_id) is timing and timing.wire_id != real.wire_id
    np.testing.assert_array_equal(timing.row_bytes(TIMING_ONLY), real.row_bytes(LAYOUT))
    rows = np.array([0, 5, 24, 25])
    amounts = np.arange(1, TIMING_ONLY.rows + 1, dtype=np.float32)
    payload = timing.encode(TIMING_ONLY, amounts, rows)
    assert len(payload) == real.row_bytes(LAYOUT)[rows].sum()
    timing.check(TIMING_ONLY, payload, rows)
    assert np.flatnonzero(amounts == 0).tolist() == rows.tolist()
    timing.add(TIMING_ONLY, payload, rows, amounts, 1.0)
    assert (amounts[rows] == 1).all()
    with pytest.raises(RemoteProtocolError, match="payload"):
        # How long a row of a fitted code is, only its content tells: a byte at least.
        timing.check(TIMING_ONLY, payload[: len(rows) - 1] if isinstance(real, Fitting) else payload[1:], rows)


@pytest.mark.parametrize("name", CODES)
def test_a_server_with_content_refuses_a_timing_only_frame(name):
    code = codec_for(TIMING_ONLY, codec_by_name(name))
    rows = np.arange(LAYOUT.rows)
    payload = np.zeros(int(code.row_bytes(TIMING_ONLY).sum()), dtype=np.uint8)
    frame = Rows(1, 1, code.wire_id, False, True, rows, payload)
    inbox = Inbox(LAYOUT)
    with pytest.raises(RemoteProtocolError, match="sizes only"):
        inbox.accept(frame)
    assert inbox.received == 0

    team = VirtualTeam(LAYOUT, "bsp", [ScriptedWorker("robot", lambda n, x: 0 * x, 1000)])
    team.run(until=5.05)
    member = team.server.members["robot"]
    before = team.server.parameters.copy()
    late = Rows(member.inbox.received + 1, member.iteration + 1, code.wire_id, False, True, rows, payload)
    with pytest.raises(RemoteProtocolError, match="sizes only"):
        team.server.receive(team.now, member.link, late)
    np.testing.assert_array_equal(team.server.parameters, before)


def test_a_timing_only_code_is_no_setting():
    with pytest.raises(ConfigError, match="unknown codec"):
        parse_policy("bsp?codec=timing-raw")


def test_a_timing_only_layout_is_another_layout():
    assert TIMING_ONLY.digest != LAYOUT.digest
    assert TIMING_ONLY.rows == TIMING_ONLY.elements == LAYOUT.rows and len(TIMING_ONLY.zeros()) == LAYOUT.rows
    np.testing.assert_array_equal(TIMING_ONLY.lengths, LAYOUT.lengths)
    again = Layout.from_outline(Outline.read(TIMING_ONLY.to_table()))
    assert again.is_timing_only and again.digest == TIMING_ONLY.digest
    assert not Layout.from_outline(Outline.read(LAYOUT.to_table())).is_timing_only
    node = WorkerNode("robot", LAYOUT, LAYOUT.zeros())
    with pytest.raises(LocalProtocolError, match="timing-only"):
        node.accumulate_rows(np.ones(LAYOUT.rows, dtype=np.float32))


# -- the tally ---------------------------------------------------------------------------------------------------------


class _Books:
    """A ledger or a tally with members, and one way to tell both what happens."""

    def __init__(self, layout, ledger):
        self.layout, self.ledger = layout, ledger
        self.codec = codec_for(layout, codec_by_name("raw"))
        self.members = {}

    def admit(self, name):
        snapshot = Snapshot(self.layout, self.ledger.parameters, settles=True)
        outbox = Outbox(Residual(self.layout, self.layout.zeros()), Window(LinkSettings()), snapshot)
        member = Member(name, b"", outbox, Inbox(self.layout), MemberState.COMPUTING, gated=True)
        self.members[name] = member
        self.ledger.admit(member)

    def push(self, rows):
        update = np.ones_like(self.layout.zeros())
        frame = Rows(1, 1, self.codec.wire_id, False, True, rows, self.codec.encode(self.layout, update, rows))
        self.ledger.add(self.codec, frame, self.members.values())

    def send(self, name, rows):
        """A pull begins and sends these rows; returns which rows were owed."""
        member = self.members[name]
        self.ledger.bring_up(member)
        owed = self.owed(name)
        self.codec.encode(self.layout, member.owed.source.own.vector, rows)
        return owed

    def owed(self, name):
        sums = np.add.reduceat(self.members[name].owed.source.own.vector, self.layout.offsets[:-1])
        return np.flatnonzero(sums).tolist()


ROWS = st.sets(st.integers(0, LAYOUT.rows - 1)).map(lambda rows: np.array(sorted(rows), dtype=np.int64))
ACTIONS = st.one_of(
    st.tuples(st.just("admit"), st.integers(0, 3), st.none()),
    st.tuples(st.just("push"), st.none(), ROWS),
    st.tuples(st.just("send"), st.integers(0, 3), ROWS),
    st.tuples(st.just("dismiss"), st.integers(0, 3), st.none()),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(ACTIONS, max_size=25))
def test_a_tally_owes_the_rows_that_a_ledger_owes(actions):
    both = [
        _Books(LAYOUT, Ledger(LAYOUT, LAYOUT.zeros(), strict=False)),
        _Books(TIMING_ONLY, TimingLedger(TIMING_ONLY, TIMING_ONLY.zeros())),
    ]
    for books in both:
        books.admit("0")
    for action, index, rows in actions:
        name = str(index)
        if action == "admit" and name not in both[0].members:
            for books in both:
                books.admit(name)
        elif action == "push":
            for books in both:
                books.push(rows)
        elif action == "send" and name in both[0].members:
            real, timing = (books.send(name, rows) for books in both)
            assert real == timing
        elif action == "dismiss" and name in both[0].members:
            for books in both:
                books.ledger.dismiss(books.members[name])
                assert name not in books.ledger.arrivals.current()
    nothing = np.empty(0, dtype=np.int64)
    for name in both[0].members:
        real, timing = (books.send(name, nothing) for books in both)
        assert real == timing


@pytest.mark.parametrize(
    "ledger",
    [Ledger(LAYOUT, LAYOUT.zeros(), strict=False), TimingLedger(TIMING_ONLY, TIMING_ONLY.zeros())],
    ids=["real", "timing only"],
)
def test_who_is_owed_more_since_is_known_once(ledger):
    books = _Books(ledger.layout, ledger)
    books.admit("0")
    member = books.members["0"]
    for owes_more in (False, True, False):
        if owes_more:
            books.push(np.arange(2))
        member.dirty = False
        books.ledger.bring_up(member)
        assert member.dirty is owes_more


def journals_of_a_run(layout, policy, rates, computes, cuts):
    """The journals of a small team; updates are 1 everywhere, real or timing only."""
    entropy = random.Random(0).randbytes
    calm = {"heartbeat_s": 3600.0, "silence_limit_s": 3600.0, "patience_s": 3600.0}
    server = ServerNode(
        parse_policy(policy), settings=ServerSettings(**calm, expected_workers=len(rates)), entropy=entropy
    )
    simulation = Simulation(server)
    for index, (rate, compute_s) in enumerate(zip(rates, computes, strict=True)):
        node = WorkerNode(f"robot-{index}", layout, layout.zeros(), settings=WorkerSettings(**calm), entropy=entropy)
        trace, device = Trace.constant(rate), Device(compute_s)
        if layout.is_timing_only:
            simulation.add_timing_only(node, device, trace, trace)
        else:
            simulation.add(node, device, trace, trace, _ones(simulation, node))
    for time, index in cuts:
        simulation.clock.at(time, simulation.cut, f"robot-{index}", 0.3)
    simulation.run(20.0)
    nodes = [server, *(robot.node for robot in simulation.robots.values())]
    # How the parameters came is another matter: those of a timing-only team do not.
    wanted = ("push", "gate", "step", "link_down", "resume")
    return [[json.dumps(record) for record in node.journal.records if record["event"] in wanted] for node in nodes]


def _ones(simulation, node):
    """What :meth:`Simulation.add_timing_only` does, with real elements."""

    def hand_in():
        proposed = node.replica - np.float32(1)
        node.accumulate([proposed[spec.start : spec.stop] for spec in LAYOUT.tensors], 1.0)
        simulation.computed(simulation.robots[node.name])

    def resume():
        if node.state is WorkerState.COMPUTING:
            wait_s = simulation.gradient_s(simulation.robots[node.name])
            simulation.clock.at(simulation.clock.now + wait_s, hand_in, priority=1)

    return resume


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.sampled_from(["bsp?codec=raw", "ssp:2?codec=raw", "asp?codec=raw", "powersgd:1"]),
    st.lists(st.floats(5e3, 1e5), min_size=2, max_size=2),
    st.lists(st.floats(0.1, 1.5), min_size=2, max_size=2),
    st.lists(st.tuples(st.floats(0.1, 15.0), st.integers(0, 1)), max_size=2),
)
def test_a_timing_only_run_takes_the_time_of_a_real_one(policy, rates, computes, cuts):
    """The same events with the same bytes at the same moments."""
    real, timing = (journals_of_a_run(layout, policy, rates, computes, cuts) for layout in (LAYOUT, TIMING_ONLY))
    assert len(real[1]) > 3
    if cuts and policy.startswith("bsp"):
        return  # what a ledger keeps back from a pull that is begun again, a tally does not
    for ours, theirs in zip(real, timing, strict=True):
        assert ours == theirs


def test_a_timing_only_update_counts_for_its_share_of_the_team():
    """By which the slots of FLOWN are given; a real update says it itself."""
    server, entropy = ServerNode(parse_policy("flown:2"), settings=ServerSettings(expected_workers=4)), random.Random(0)
    simulation, trace = Simulation(server), Trace.constant(1e6)
    for index in range(4):
        node = WorkerNode(f"robot-{index}", TIMING_ONLY, TIMING_ONLY.zeros(), entropy=entropy.randbytes)
        simulation.add_timing_only(node, Device(0.5), trace, trace)
    simulation.run(10.0)
    assert [member.samples for member in server.members.values()] == [1 / 4] * 4


@pytest.mark.parametrize("cuts", [[], [(6.0, 0), (9.0, 1)]])
def test_a_timing_only_team_shares_a_stream(cuts):
    """As many steps as with rows of each worker's own."""
    steps = {}
    for pulls in ("own", "common"):
        journals = journals_of_a_run(TIMING_ONLY, f"rowcast:4?pulls={pulls}", [1e5] * 3, [0.2] * 3, cuts)
        steps[pulls] = [sum('"step"' in line for line in journal) for journal in journals[1:]]
    assert min(steps["own"]) > 50
    np.testing.assert_allclose(steps["common"], steps["own"], atol=3)


# -- levels and times against plain rules ------------------------------------------------------------------------------


@quick
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.one_of(st.none(), st.integers(-2, 4))), max_size=60))
def test_levels_know_the_lowest(changes):
    levels, plain = MinimumTracker(), {}
    assert levels.lowest() is None
    for name, number in changes:
        if number is None:
            levels.remove(name)
            plain.pop(name, None)
        else:
            levels.set(name, number)
            plain[name] = number
        assert levels.lowest() == min(plain.values(), default=None)
        assert len(levels) == len(plain)
        assert all(levels[name] == number for name, number in plain.items())
        assert all((name in levels) == (name in plain) for name in "abcdef")


TIMES = st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.5, 1.0, 2.0])
REPORTS = st.tuples(st.sampled_from("abcd"), st.integers(0, 6), TIMES, st.one_of(st.none(), TIMES))


@quick
@given(st.lists(st.one_of(REPORTS, st.sampled_from("abcd")), max_size=40), st.integers(0, 8))
def test_mta_time_is_the_slowest_fresh_quota_below_the_median_gradient(changes, newest):
    time, quotas, computes = MtaTime(), {}, {}
    for change in changes:
        if isinstance(change, str):
            time.remove(change)
            quotas.pop(change, None)
            computes.pop(change, None)
        else:
            worker, iteration, quota_s, compute_s = change
            time.report(worker, iteration, quota_s, compute_s)
            quotas[worker] = (iteration, quota_s)
            if compute_s is not None:
                known = computes.get(worker)
                computes[worker] = compute_s if known is None else 0.8 * known + 0.2 * compute_s
        assert all(time.compute_s(worker) == computes.get(worker) for worker in "abcd")
    if not computes:
        assert time.value_s(newest) == T_LOW_S
        return
    high = max(statistics.median(computes.values()), T_LOW_S)
    fresh = [quota for iteration, quota in quotas.values() if newest - iteration <= MAX_AGE and quota <= high]
    expected = min(max(max(fresh), T_LOW_S), high) if fresh else high
    assert time.value_s(newest) == expected


# -- the artifact's rules ----------------------------------------------------------------------------------------------


def test_artifact_time_by_example():
    time = ArtifactTime()
    time.admit("a")
    time.admit("b")
    assert time.limit_s("a") == time.limit_s("b") == 5.0  # not everybody has made a transfer
    time.moved("a", 3.0)
    assert time.limit_s("a") == 5.0
    time.moved("b", 1.0)
    assert time.limit_s("a") == time.limit_s("b") == 0.0  # nobody leads by two
    time.moved("a", 2.0)
    assert time.limit_s("a") == 0.0
    time.moved("a", 2.0)
    assert time.limit_s("a") == 3.0 and time.limit_s("b") == 0.0  # the longest of the recent
    for _ in range(30):
        time.moved("a", 0.001)
    mean_s = (3.0 + 1.0 + 2.0 + 2.0 + 30 * 0.001) / 34
    assert time.limit_s("a") == pytest.approx(mean_s)
    for _ in range(2000):
        time.moved("a", 0.001)
    assert time.limit_s("a") == 0.1  # never less
    time.admit("c")
    assert time.limit_s("c") == 0.0  # it stands where the slowest stands
    time.remove("b")
    time.remove("c")
    assert time.limit_s("a") == 0.0  # alone, it leads nobody
    assert time.limit_s("gone") == 0.0
    time.moved("gone", 1.0)


@quick
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.01, 0.5, 2.0, 7.0])), max_size=80))
def test_artifact_time_is_the_plain_rule(transfers):
    time = ArtifactTime()
    counts, durations = dict.fromkeys("abc", 0), []
    for worker in counts:
        time.admit(worker)
    for worker, duration_s in transfers:
        time.moved(worker, duration_s)
        counts[worker] += 1
        durations.append(duration_s)
        slowest = min(counts.values())
        for name, count in counts.items():
            if slowest == 0:
                expected = 5.0
            elif count - slowest < 2:
                expected = 0.0
            else:
                expected = max(max(durations[-30:]), sum(durations) / len(durations), 0.1)
            assert time.limit_s(name) == pytest.approx(expected)


def leading(race=0.0):
    """A time of a team in which 'a' leads 'b' by one iteration, and transfers under a limit have taken 3 s."""
    time = ArtifactTime(race)
    time.admit("a")
    time.admit("b")
    for worker in "baaa":
        time.moved(worker, 3.0)
    return time


def test_a_minimum_takes_no_time_and_counts_when_it_begins():
    time = leading()
    assert time.grant("b") == 0.0  # its pull of the minimum is in the sender's buffer: it counts
    assert time.limit_s("a") == 0.0  # so 'a' leads by one transfer only
    time.pulled("b", 99.0)
    time.pushed("b", 99.0)  # of the minimum as well
    time.moved("a", 0.0)
    time.moved("a", 0.0)
    assert time.grant("a") == 3.0  # neither 99 s was a transfer's time
    time.pulled("a", 5.0)
    assert time.limit_s("a") == 5.0
    time.pushed("a", 7.0)
    assert time.limit_s("a") == 7.0


@pytest.mark.parametrize(("race", "lost"), [(0.0, 0), (0.25, 10), (0.5, 20), (1.0, 40)])
def test_a_lead_of_one_iteration_loses_the_race_so_often(race, lost):
    time = leading(race)
    granted = []
    for _ in range(40):
        granted.append(time.grant("a"))
        if granted[-1] == 0.0:  # counted at once
            time.moved("b", 0.0)
        else:
            time.pulled("a", 3.0)
            time.moved("b", 0.0)
    assert granted.count(0.0) == lost
    time.moved("a", 0.0)
    time.moved("a", 0.0)
    assert time.grant("a") > 0  # who leads by more is in no race


def test_artifact_share_adds_the_second_part():
    assert artifact_share(0) == artifact_share(1) == 1.0
    assert artifact_share(4) == minimum_share(4)
    assert artifact_share(5) == pytest.approx(minimum_share(5) + 0.03)
    assert artifact_share(40) == pytest.approx(minimum_share(40) + 0.115)
    assert artifact_share(100) == pytest.approx(minimum_share(100) + 0.115)


def groups(eligible, *, stamps=None, means=None, quota=0.0, rows=5 * GROUP_ROWS, size=10):
    stamps = np.zeros(rows, dtype=np.int32) if stamps is None else stamps
    means = np.ones(rows, dtype=np.float32) if means is None else means
    sizes = np.full(rows, size, dtype=np.int64)
    return select_groups(np.asarray(eligible, dtype=np.int64), stamps, means, sizes, quota_bytes=quota)


def test_groups_go_by_age_then_by_mean_then_by_place():
    rows = np.arange(5 * GROUP_ROWS)
    stamps = np.full(len(rows), 7, dtype=np.int32)
    stamps[3 * GROUP_ROWS + 17] = 2  # one old row makes its group the oldest
    means = np.ones(len(rows), dtype=np.float32)
    means[GROUP_ROWS : 2 * GROUP_ROWS] = 3.0
    chosen = groups(rows, stamps=stamps, means=means, quota=10.0 * 2 * GROUP_ROWS)
    assert (chosen.order[::GROUP_ROWS] // GROUP_ROWS).tolist() == [3, 1, 0, 2, 4]
    assert chosen.quota == 2 * GROUP_ROWS
    np.testing.assert_array_equal(np.sort(chosen.order), rows)


@pytest.mark.parametrize(("quota", "expected"), [(0.0, 1), (14_000.0, 1), (16_000.0, 2), (1e9, 5)])
def test_as_many_groups_as_come_nearest_to_the_quota(quota, expected):
    assert groups(np.arange(5 * GROUP_ROWS), quota=quota).quota == expected * GROUP_ROWS


@pytest.mark.parametrize(("rows", "expected"), [(0.0, 1), (1.0, 1), (1001.0, 2), (3999.5, 4), (1e9, 5)])
def test_the_artifact_counts_rows_in_whole_groups(rows, expected):
    eligible = np.arange(5 * GROUP_ROWS)
    plain = np.zeros(len(eligible))
    sizes = np.where(eligible < GROUP_ROWS, 1, 100)
    chosen = select_groups(eligible, plain.astype(np.int32), plain, sizes, quota_bytes=0.0, quota_rows=rows)
    assert chosen.quota == expected * GROUP_ROWS


def test_groups_of_what_is_there():
    assert len(groups([]).order) == groups([]).quota == 0
    chosen = groups([3, 4, 4321], quota=20.0)
    assert chosen.order.tolist() == [3, 4, 4321] and chosen.quota == 2


@quick
@given(ROWS, st.floats(0, 400), st.integers(0, 2**32 - 1))
def test_every_row_is_in_the_order_once(eligible, quota, seed):
    random_numbers = np.random.default_rng(seed)
    rows = LAYOUT.rows
    chosen = select_groups(
        eligible,
        random_numbers.integers(0, 5, rows).astype(np.int32),
        random_numbers.random(rows),
        random_numbers.integers(1, 30, rows),
        quota_bytes=quota,
    )
    assert sorted(chosen.order.tolist()) == eligible.tolist()
    assert 0 <= chosen.quota <= len(eligible)
