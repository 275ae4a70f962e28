"""Streams in virtual time: when batches begin, what waits, what is dropped and given away; nothing here waits."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from rowcast.config import ServerSettings, WorkerSettings
from rowcast.drivers.virtual import Device, Gifts, Simulation, VirtualStream, VirtualWorker
from rowcast.energy import worker_energy
from rowcast.errors import SourceEnded
from rowcast.journal import Journal
from rowcast.links import Trace
from rowcast.rows import Layout
from rowcast.streams import Feed, Injection, RateTrace, parse_batch, parse_buffer, parse_streams
from rowcast.sync import parse_policy
from rowcast.training import ServerNode
from rowcast.training.supplier import Supplier

CALM = {"heartbeat_s": 600.0, "silence_limit_s": 3600.0, "patience_s": 600.0}
LAYOUT = Layout.from_shapes([("weight", (20, 30)), ("bias", (30,))])


@dataclass
class Team:
    """Robots with streams that propose a constant with each batch.

    Attributes:
        batches: for each robot what each of its batches held.
        ended: names of those whose stream was over, with the time.
    """

    rule: str
    buffer: str
    rates: Iterable[RateTrace | None]
    policy: str = "bsp"
    devices: Iterable[Device] = (Device(0.1, samples=64),)
    inject: Injection | None = None
    samples: Iterable[int] | None = None
    link_bps: float = 1e8
    seed: int = 0

    def __post_init__(self) -> None:
        entropy = random.Random(self.seed)
        traces = list(self.rates)
        settings = ServerSettings(expected_workers=len(traces), absence_limit_s=86_400.0, **CALM)
        server = ServerNode(parse_policy(self.policy), settings=settings, entropy=entropy.randbytes)
        self.simulation = Simulation(server)
        self.journals: list[Journal] = []
        self.streams: list[VirtualStream] = []
        self.feeds: list[Feed] = []
        self.batches: list[list[list[Any]]] = []
        self.ended: dict[str, float] = {}
        kinds = list(self.devices)
        gifts = None if self.inject is None else Gifts(self.inject, len(traces), self.seed)
        for index, trace in enumerate(traces):
            journal = Journal(f"robot-{index}")
            worker = VirtualWorker(
                self.simulation,
                journal.node,
                kinds[index % len(kinds)],
                (Trace.constant(self.link_bps), Trace.constant(self.link_bps)),
                entropy=entropy.randbytes,
                settings=WorkerSettings(**CALM),
                journal=journal,
            )
            feed = Feed(parse_batch(self.rule), parse_buffer(self.buffer))
            # What a sample is says whose it was, and which.
            numbers = itertools.count(1) if self.samples is None else self.samples
            own = zip(itertools.repeat(index), numbers)
            stream = VirtualStream(worker, feed, trace, own, sample_bytes=1000, gifts=gifts, index=index)
            self.journals.append(journal)
            self.streams.append(stream)
            self.feeds.append(feed)
            self.batches.append([])
            worker.train(lambda worker=worker, stream=stream, seen=self.batches[-1]: self._train(worker, stream, seen))

    def _train(self, worker: VirtualWorker, stream: VirtualStream, seen: list[list[Any]]) -> None:
        worker.start(LAYOUT, np.zeros(LAYOUT.elements, np.float32))
        try:
            while True:
                seen.extend(stream.next() for _ in range(worker.local_steps))
                worker.exchange(([worker.replica[:600] + 1e-3, worker.replica[600:] + 1e-3], 0.5, None))
        except SourceEnded:
            self.ended[worker.name] = worker.now
            worker.finish(wait=False)

    def run(self, seconds: float) -> Team:
        self.simulation.run(seconds)
        return self

    def steps(self, robot: int) -> list[dict[str, Any]]:
        return [record for record in self.journals[robot].records if record["event"] == "step"]

    def mean(self, field: str, robot: int, skip: int = 3) -> float:
        return float(np.mean([step[field] for step in self.steps(robot)[skip:]]))


def constant(*rates: float) -> list[RateTrace]:
    return [RateTrace.constant(rate) for rate in rates]


# -- the three rules ---------------------------------------------------------------------------------------------------


def test_a_fixed_batch_waits_for_the_slowest_stream() -> None:
    """64 samples at 12 a second: 64/12 s an iteration, whatever the others have (algorithms.md 5)."""
    team = Team("fixed:64", "persist", constant(12, 40, 75)).run(60)
    for robot in range(3):
        ends = [step["t"] for step in team.steps(robot)]
        assert np.diff(ends) == pytest.approx([64 / 12] * (len(ends) - 1), abs=1e-3)
        assert {step["samples"] for step in team.steps(robot)} == {64}
    slow, fast = team.steps(0)[3], team.steps(2)[3]
    assert slow["starve_s"] == pytest.approx(64 / 12 - 0.1, abs=0.01) and slow["stall_s"] == pytest.approx(0, abs=0.01)
    assert fast["starve_s"] == 0 and fast["stall_s"] == pytest.approx(64 / 12 - 0.1, abs=0.01)
    # The queue of the fast one grows by 75 * 64/12 - 64 samples an iteration.
    queued = [step["queued"] for step in team.steps(2)]
    assert np.diff(queued[2:]) == pytest.approx([75 * 64 / 12 - 64] * (len(queued) - 3), abs=1)


def test_a_rate_batch_is_what_came_in_a_second() -> None:
    team = Team("rate:1s", "truncate:1s", constant(12, 40, 75)).run(30)
    for robot, rate in enumerate((12, 40, 75)):
        assert {step["samples"] for step in team.steps(robot)[2:]} <= {rate - 1, rate}  # as measured
        assert np.diff([step["t"] for step in team.steps(robot)[2:]]) == pytest.approx(1.0, abs=0.01)
        assert team.mean("age_s", robot) == pytest.approx(0.5, abs=0.05)
    assert team.mean("starve_s", 2) == pytest.approx(1 - 75 / 64 * 0.1, abs=0.02)


@pytest.mark.parametrize("policy", ["bsp", "rowcast"])
def test_shares_of_a_team_batch_sum_up_to_it(policy: str) -> None:
    """In proportion to what the streams bring, so that all wait as long: B / sum of the rates."""
    rates = (12, 40, 60, 75)
    team = Team("team:256", "truncate:1s", constant(*rates), policy=policy).run(60)
    shares = [feed.share for feed in team.feeds]
    assert None not in shares and sum(share or 0 for share in shares) == 256
    for robot, rate in enumerate(rates):
        assert team.mean("samples", robot) == pytest.approx(256 * rate / 187, rel=0.06)
        # A share may be off by the dead band of 5 %.
        period = float(np.mean(np.diff([step["t"] for step in team.steps(robot)[3:]])))
        assert period == pytest.approx(256 / 187, rel=0.06)
    of_all = [
        sum(step[robot]["samples"] for robot in range(4)) for step in zip(*map(team.steps, range(4)), strict=False)
    ]
    assert of_all[8:] == pytest.approx([256] * len(of_all[8:]), abs=13)


def test_a_team_batch_goes_by_what_the_processor_takes_where_that_is_less() -> None:
    slow, quick = Device(6.4, samples=64), Device(0.064, samples=64)  # 10 and 1000 samples a second
    team = Team("team:100", "truncate:1s", constant(40, 40), devices=[slow, quick]).run(60)
    assert [feed.share for feed in team.feeds] == pytest.approx([20, 80], abs=2)
    assert team.mean("dropped", 0) == pytest.approx(30 * 2, rel=0.1)  # of 40 a second, for two seconds


def test_each_step_is_one_measurement_of_the_speed(monkeypatch):
    measured = []
    monkeypatch.setattr(Supplier, "worked", lambda self, samples, seconds: measured.append((samples, seconds)))
    team = Team("fixed:32", "persist", constant(50.0)).run(20.0)
    assert measured == [(32, pytest.approx(step["compute_s"], abs=1e-6)) for step in team.steps(0)]


def test_batches_follow_the_measured_speed() -> None:
    """Dynamic batching: after the first steps all compute as long, without streams and with them."""
    devices = [Device(0.1, samples=64), Device(0.4, samples=64)]
    for rates in ([None, None], constant(2000, 2000)):
        team = Team("speed:1000", "truncate:1s", rates, devices=devices).run(40)
        first, last = team.steps(0)[0], team.steps(0)[-1]
        assert first["samples"] == 500 and last["samples"] == 800 and team.steps(1)[-1]["samples"] == 200
        assert last["compute_s"] == pytest.approx(800 / 64 * 0.1, abs=0.01)
        assert team.mean("compute_s", 1) == pytest.approx(800 / 64 * 0.1, abs=0.01)
        assert team.mean("stall_s", 0) == pytest.approx(0, abs=0.02)
        starved = team.mean("starve_s", 0)
        assert starved == pytest.approx(0, abs=1e-6)
    # A stream that is slower than its processor holds all: speed knows nothing of streams.
    team = Team("speed:1000", "truncate:1s", constant(100, 1000), devices=devices).run(60)
    assert team.mean("starve_s", 0) == pytest.approx(8 - 800 / 64 * 0.1, abs=0.1)
    assert team.mean("samples", 0) == 800


# -- invariants --------------------------------------------------------------------------------------------------------

PATTERNS = ("S1", "S2", "S1~10", "12/40/60/75")
RULES = (("fixed:64", "persist"), ("fixed:64", "truncate:1s"), ("rate:1s", "truncate:1s"), ("team:256", "truncate:1s"))


@pytest.mark.parametrize("policy", ["bsp", "rowcast"])
@pytest.mark.parametrize(("rule", "buffer"), RULES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_nothing_is_lost_and_the_queue_is_bounded(policy: str, rule: str, buffer: str, pattern: str) -> None:
    seconds = 12.0
    rates = parse_streams(pattern).team(4, 1)
    team = Team(rule, buffer, rates, policy=policy)
    most: list[int] = [0] * 4
    for look in np.arange(0.5, seconds + 0.25, 0.5).tolist():
        team.run(look)
        for robot, (stream, trace) in enumerate(zip(team.streams, rates, strict=True)):
            stream.look()
            # Everything that has come was trained, dropped or waits.
            now = team.simulation.now
            assert stream.arrived == trace.count_until(now)
            assert stream.arrived == stream.trained + stream.dropped + stream.queued
            most[robot] = max(most[robot], stream.queued)
    for robot, trace in enumerate(rates):
        steps = team.steps(robot)
        trained = list(itertools.chain.from_iterable(team.batches[robot]))
        # In order, each once, and a drop is a gap.
        assert trained == sorted(set(trained)) and len(trained) == team.streams[robot].trained
        assert sum(step["dropped"] for step in steps) <= team.streams[robot].dropped
        if buffer == "truncate:1s":
            # At every moment one second of the stream and a batch, at most; a rate is measured over ten seconds.
            fastest = max(trace.rate_at(t) for t in np.arange(0.0, seconds, 0.5).tolist())
            batch = max(step["samples"] for step in steps)
            assert max(most[robot], *(step["queued"] for step in steps)) <= fastest + batch
            assert max(step["age_s"] for step in steps) <= 1 + 2 * batch / min(
                trace.rate_at(t) for t in np.arange(0.0, seconds, 0.5).tolist()
            )
        else:
            assert team.streams[robot].dropped == 0
        energy = worker_energy(team.journals[robot].records, start_s=0.0, end_s=seconds)
        assert energy.states is not None and energy.states.total_s == pytest.approx(seconds, abs=1e-3)
        starved = energy.states.starve_s + energy.states.starve_overlap_s
        assert starved == pytest.approx(sum(step["starve_s"] for step in steps), abs=1e-3)
        assert (energy.states.starve_overlap_s > 0) == (policy == "rowcast" and starved > 0)


@pytest.mark.parametrize("policy", ["bsp", "rowcast"])
def test_the_same_seed_gives_the_same_journals(policy: str) -> None:
    def journals() -> list[list[dict[str, Any]]]:
        rates = parse_streams("S1~10").team(4, 3)
        team = Team("team:256", "truncate:1s", rates, policy=policy, inject=Injection(0.5, 0.25), seed=3).run(30)
        return [journal.records for journal in team.journals]

    assert journals() == journals()


def test_the_parts_of_a_step_add_up() -> None:
    """Also where a step computes on several batches, and where nothing comes for a while."""
    silent = RateTrace([0.0, 5.0, 20.0], [50.0, 0.0, 50.0], 40.0)
    team = Team("fixed:32", "persist", [silent, *constant(60)], policy="localsgd:3").run(60)
    for robot in range(2):
        steps = team.steps(robot)
        assert {step["samples"] for step in steps} == {96}
        for before, step in itertools.pairwise(steps):
            parts = sum(step[name] for name in ("starve_s", "compute_s", "communicate_s", "stall_s"))
            assert parts == pytest.approx(step["t"] - before["t"], abs=1e-5)
            assert step["compute_s"] == pytest.approx(3 * 0.05, abs=1e-5)
    assert max(step["starve_s"] for step in team.steps(0)) > 14  # the silence


def test_the_work_of_push_and_pull_comes_once_for_each_iteration() -> None:
    device = Device(0.1, encode_s=0.5, decode_s=0.25, samples=64)
    team = Team("fixed:32", "persist", constant(1000), policy="localsgd:3", devices=[device]).run(10)
    first, *others = (step["compute_s"] for step in team.steps(0))
    assert first == pytest.approx(3 * 0.05 + 0.5) and others == pytest.approx([3 * 0.05 + 0.75] * len(others))


def test_drawn_times_are_those_of_each_gradient() -> None:
    """A spread is drawn for each batch, and scaled by its samples."""
    device = Device(0.1, 0.3, seed=7, samples=64)
    team = Team("fixed:16", "persist", constant(1000), devices=[device]).run(3)
    taken = [step["compute_s"] for step in team.steps(0)]
    assert taken == pytest.approx([device.gradient_s(n) / 4 for n in range(len(taken))], abs=2e-6)


@pytest.mark.parametrize(
    "trace",
    [RateTrace.constant(37.0), RateTrace([0.0, 2.0, 5.0], [10.0, 0.0, 75.0], 7.5), RateTrace([0.0, 1.0], [0.0, 3.0])],
    ids=["constant", "periodic", "late"],
)
def test_samples_come_one_by_one_as_all_together(trace: RateTrace) -> None:
    times = trace.times_of(100, 900)
    assert times.tolist() == pytest.approx([trace.time_of(100 + k) for k in range(900)])
    assert [trace.count_until(time) for time in times.tolist()] == list(range(101, 1001))


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_stream_that_is_over_ends_its_worker() -> None:
    """What is left is the last batch; the others go on."""
    team = Team("fixed:64", "persist", constant(64, 640), samples=range(200)).run(30)
    assert team.ended.keys() == {"robot-0", "robot-1"}
    for robot in range(2):
        assert [len(batch) for batch in team.batches[robot]] == [64, 64, 64, 8]
        assert [step["samples"] for step in team.steps(robot)] == [64, 64, 64, 8]
        assert team.streams[robot].arrived == team.streams[robot].trained == 200
    assert team.ended["robot-0"] == pytest.approx(200 / 64, abs=0.2)


def test_the_end_of_a_long_queue_is_found_when_it_comes_to_it() -> None:
    """More wait than are drawn ahead: how many there are is not known before."""
    team = Team("fixed:64", "persist", constant(100, 10), samples=range(5000)).run(700)
    trained = list(itertools.chain.from_iterable(team.batches[0]))
    assert trained == [(0, n) for n in range(5000)]
    assert [len(batch) for batch in team.batches[0]] == [64] * 78 + [8]


def samples_of(kind: type[Exception]) -> Iterator[int]:
    yield from range(10)
    raise kind("over")


def test_samples_may_say_that_they_are_over() -> None:
    team = Team("fixed:8", "persist", constant(100), samples=samples_of(SourceEnded)).run(5)
    assert [len(batch) for batch in team.batches[0]] == [8, 2] and "robot-0" in team.ended


# -- injection ---------------------------------------------------------------------------------------------------------


def test_donors_give_the_others_some_of_their_batch() -> None:
    """floor(beta b) samples to each other robot, which trains on them with its next batch; all of it is counted."""
    inject = Injection(0.25, 0.1)
    team = Team("fixed:64", "persist", constant(64, 64, 64, 64), inject=inject).run(30)
    kept = [team.steps(robot) for robot in range(4)]
    for step, of_robots in enumerate(zip(*kept, strict=False)):
        donors = [robot for robot in range(4) if inject.gives(step, robot, 4, 0)]
        assert len(donors) == 1
        assert [one["exposed"] for one in of_robots] == [18 if robot in donors else 0 for robot in range(4)]
        assert all(one["exposed_bytes"] == 1000 * one["exposed"] for one in of_robots)
        before = [robot for robot in range(4) if step and inject.gives(step - 1, robot, 4, 0)]
        for robot, batch in enumerate(team.batches[k][step] for k in range(4)):
            foreign = [sample for sample in batch if sample[0] != robot]
            # Of this step where the donor's batch began earlier.
            assert {owner for owner, _ in foreign} <= {*before, *donors}
            assert len(batch) == 64 + len(foreign) == of_robots[robot]["samples"]
    own = [sum(sample[0] == robot for sample in itertools.chain(*team.batches[robot])) for robot in range(4)]
    assert own == [stream.trained for stream in team.streams]
    received = sum(sample[0] != robot for robot in range(4) for sample in itertools.chain(*team.batches[robot]))
    given = sum(6 * 3 for step in range(len(team.batches[0])))
    assert given - 3 * 6 <= received <= given


def test_what_is_given_takes_link_time() -> None:
    """Up once for each donor, down once for each receiver, before the rows."""
    plain = Team("fixed:64", "persist", constant(640, 640), link_bps=1e5).run(60)
    giving = Team("fixed:64", "persist", constant(640, 640), link_bps=1e5, inject=Injection(1.0, 0.25)).run(60)
    # 16 samples of 1 kB each way, one after the other, at 100 kbit/s.
    extra = giving.mean("communicate_s", 0) + giving.mean("stall_s", 0)
    extra -= plain.mean("communicate_s", 0) + plain.mean("stall_s", 0)
    assert extra == pytest.approx(2 * 16 * 8000 / 1e5, rel=0.02)
    assert giving.mean("push_bytes", 0) == plain.mean("push_bytes", 0)


def test_a_slow_robot_is_not_given_more_than_it_has_itself() -> None:
    quick, slow = Device(0.1), Device(5.0)
    team = Team("fixed:16", "truncate:1s", constant(200, 200), policy="asp", devices=[quick, slow],
                inject=Injection(1.0, 1.0)).run(40)  # fmt: skip
    assert max(map(len, team.batches[1])) == 32
    gifts = Gifts(Injection(1.0, 1.0), 2, 0)
    assert gifts.give(0, 0, [1, 2, 3]) == gifts.give(1, 0, [4, 5, 6]) == 3
    assert set(gifts.take(1, 3)) == {4, 5, 6} and gifts.take(1, 3) == []  # the newest
