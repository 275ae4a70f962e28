"""Links of a simulation that carry packets of TCP: heads, acknowledgements, and the order of what was handed over."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from rowcast.drivers.virtual import Device, VirtualWorker
from rowcast.drivers.virtual.lane import HEAD_BYTES, SEGMENT_BYTES, Lane, TcpLane
from rowcast.experiment.plan import plan_cells
from rowcast.experiment.settings import Comparison
from rowcast.journal import Journal
from rowcast.links import Trace
from rowcast.session import Link
from rowcast.wire import Heartbeat
from test_journal_hashes import LAYOUT, LINKS, POLICIES, WORKER, team_of, traces

FULL = Trace(np.array([0.0]), np.array([8e3]), "constant", loop=True, duration_s=1.0)


class Recorder:
    """Stands for the simulation: what is begun, in order."""

    def __init__(self) -> None:
        self.begun: list[object] = []

    def begin(self, now: float, lane: Lane, message: object) -> None:
        self.begun.append(message)


def lanes(kind: type[Lane]) -> tuple[Recorder, Lane, Lane]:
    recorder = Recorder()
    pair = [kind(recorder, key, FULL, 0.0) for key in (0, 1)]
    for lane in pair:
        lane.connection = Link("robot")
    return recorder, *pair


@pytest.mark.parametrize(
    ("sizes", "heads"),
    [([1], 1), ([SEGMENT_BYTES], 1), ([SEGMENT_BYTES + 1], 2), ([100, 100, 100], 1), ([1000, 1000], 2), ([5000], 4)],
)
def test_each_packet_has_a_head_and_segments_are_filled_up(sizes, heads):
    _, lane, _ = lanes(TcpLane)
    assert sum(map(lane.wire_bytes, sizes)) == sum(sizes) + heads * HEAD_BYTES


def test_a_segment_is_not_filled_up_after_a_pause():
    _, lane, other = lanes(TcpLane)
    total = 0
    for _ in range(3):
        lane.carry(0.0, Heartbeat())
        total += lane.wire_bytes(100)
        assert lane.passed(other) == Heartbeat()
    assert total == 3 * (100 + HEAD_BYTES)


def test_what_was_handed_over_first_goes_first():
    recorder, lane, other = lanes(TcpLane)
    messages = [Heartbeat(arrived=k) for k in range(4)]
    for message in messages:
        assert lane.takes(0.0)
        lane.carry(0.0, message)
    assert recorder.begun == messages[:1]
    for k in range(4):
        assert lane.passed(other) == messages[k]
        lane.follow(1.0)
    assert recorder.begun == messages and lane.passed(other) is None
    direct = lanes(Lane)[1]
    direct.carry(0.0, messages[0])
    assert not direct.takes(0.0)  # what comes later may overtake what the node still has


def test_full_segments_are_acknowledged_on_the_other_way_if_that_is_busy():
    _, lane, other = lanes(TcpLane)
    for busy in (False, True):
        if busy:
            other.carry(0.0, Heartbeat())
        lane.carry(0.0, Heartbeat())
        lane.wire_bytes(6 * SEGMENT_BYTES)
        lane.passed(other)
        assert other.burden == (3 * HEAD_BYTES if busy else 0)


def test_a_lost_link_loses_what_waits():
    recorder, lane, other = lanes(TcpLane)
    lane.carry(0.0, Heartbeat(arrived=1))
    lane.carry(0.0, Heartbeat(arrived=2))
    lane.clear()
    assert lane.passed(other) is None
    lane.follow(1.0)
    assert len(recorder.begun) == 1


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
