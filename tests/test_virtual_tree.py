"""Trees of relays in the simulation: messages over a medium, robots that compute, timing-only layouts."""

from __future__ import annotations

import random

import numpy as np
import pytest

from rowcast.config import LinkSettings, ServerSettings, WorkerSettings
from rowcast.drivers.virtual import Device, Simulation, TreeSimulation, VirtualWorker
from rowcast.drivers.virtual.uplink import MessageUplink
from rowcast.errors import ConfigError, LocalProtocolError
from rowcast.experiment.timing_tree import timing_tree
from rowcast.journal import Journal
from rowcast.links import Trace
from rowcast.links.channel import SharedAirtime
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.training import ServerNode, WorkerNode, WorkerState
from rowcast.training.relay import RelayNode
from rowcast.wire import Rows

LAYOUT = Layout.from_shapes([("block", (6, 8)), ("bias", (5,))])
#: Worker k adds to element k of each row of the first tensor.
WIDE, ROWS = 8, 6
CALM = {"heartbeat_s": 3600.0, "silence_limit_s": 3600.0, "patience_s": 3600.0}
LINKS = LinkSettings(frame_s=0.05, window_s=0.1)
PLAIN = "rowcast:{}?codec=raw&trust=0&auto_lr=off&elastic=off&refine=off&adapt=off"
SLACK_8 = PLAIN.format(8)
FAST = Trace.constant(1e6)


def settings_of(expected: int) -> ServerSettings:
    return ServerSettings(**CALM, expected_workers=expected, gather_s=0.0, absence_limit_s=86_400.0)


class Tree:
    """A simulation of a tree whose leaves are made by ``add``."""

    def __init__(self, shape, add, policy=SLACK_8, uplink=FAST, seed=0, **more):
        self.policy, self.uplink, self.made = parse_policy(policy), uplink, 0
        self.entropy = random.Random(seed).randbytes
        self.add = add
        server = ServerNode(self.policy, settings=settings_of(shape[0]), link_settings=LINKS, entropy=self.entropy)
        self.simulation = TreeSimulation(server, **more)
        self.grow(self.simulation, "relay", shape)

    def relay(self, name, expected, policy=None):
        return RelayNode(
            name,
            policy or self.policy,
            settings=settings_of(expected),
            worker_settings=WorkerSettings(**CALM),
            link_settings=LINKS,
            entropy=self.entropy,
        )

    def grow(self, part, name, shape):
        wide, *deeper = shape
        for number in range(wide):
            if deeper:
                relay = self.relay(f"{name}-{number}", deeper[0])
                self.grow(part.add_relay(relay, self.uplink, self.uplink), relay.name, deeper)
            else:
                self.add(self, part, self.made)
                self.made += 1


def hollow(tree, part, number):
    """A robot of which only the time matters."""
    layout = LAYOUT.timing_only()
    node = WorkerNode(
        f"robot-{number}",
        layout,
        layout.zeros() + np.float32(1),
        settings=WorkerSettings(**CALM),
        link_settings=LINKS,
        entropy=tree.entropy,
    )
    part.add_timing_only(node, Device(0.1 + 0.01 * number), FAST, FAST)


def summing(iterations):
    """Makes robots that add 1 to their own elements, and to those that all share, in each iteration."""

    def add(tree, part, number):
        worker = VirtualWorker(
            part,
            f"robot-{number}",
            Device(0.05 + 0.01 * number),
            (FAST, FAST),
            entropy=tree.entropy,
            settings=WorkerSettings(**CALM),
            link_settings=LINKS,
        )

        def loop():
            worker.start(LAYOUT, LAYOUT.zeros())
            for _ in range(iterations):
                with worker.hold():
                    proposed = worker.replica.copy()
                    block = proposed[: ROWS * WIDE].reshape(ROWS, WIDE)
                    block[:, number] -= 1.0
                    proposed[ROWS * WIDE :] -= 1.0
                    worker.accumulate([proposed[spec.start : spec.stop] for spec in LAYOUT.tensors], 1.0)
                worker.exchange()
            worker.finish()

        worker.train(loop)

    return add


def expected(workers, iterations):
    total = LAYOUT.zeros()
    total[: ROWS * WIDE].reshape(ROWS, WIDE)[:, :workers] = -iterations
    total[ROWS * WIDE :] = -workers * iterations
    return total


def settled(tree, workers, iterations):
    """Nothing is lost, nothing doubled, and all replicas are the root's."""
    simulation = tree.simulation
    assert simulation.finished
    np.testing.assert_array_equal(simulation.server.ledger.parameters, expected(workers, iterations))
    for leaf in simulation.leaves():
        np.testing.assert_array_equal(leaf.node.replica, simulation.server.ledger.parameters)


def steps(robot):
    return [record for record in robot.node.journal.records if record["event"] == "step"]


@pytest.mark.parametrize("pulls", ["own", "common"])
@pytest.mark.parametrize("shape", [(2, 2), (3, 1), (2, 2, 2)], ids=lambda shape: "x".join(map(str, shape)))
def test_every_replica_moves_by_the_sum_of_the_root(shape, pulls):
    tree = Tree(shape, summing(12), f"{PLAIN.format(8)}&pulls={pulls}")
    tree.simulation.run(1e4)
    settled(tree, int(np.prod(shape)), 12)


@pytest.mark.parametrize("channel", [None, SharedAirtime])
def test_cuts_of_robots_and_of_relays_lose_and_double_nothing(channel):
    tree = Tree((2, 2), summing(40), uplink=Trace.constant(1e5), channel=channel and channel())
    simulation = tree.simulation
    relay = simulation.relays["relay-0"]
    simulation.run(0.0)
    began = simulation.clock.now
    for number in range(8):
        simulation.clock.at(began + 0.2 + 0.31 * number, simulation.cut, f"relay-{number % 2}", 0.05)
        simulation.clock.at(began + 0.3 + 0.29 * number, relay.cut, f"robot-{number % 2}", 0.03)
    simulation.run(1e4)
    settled(tree, 4, 40)
    downs = [record for record in relay.relay.journal.records if record["event"] == "link_down"]
    assert len(downs) >= 8


def test_all_of_a_tree_start_at_once_and_share_with_all():
    tree = Tree((2, 3), hollow)
    simulation = tree.simulation
    simulation.run(6.0)
    leaves = list(simulation.leaves())
    assert [leaf.node.name for leaf in leaves] == [f"robot-{number}" for number in range(6)]
    assert {leaf.node.members for leaf in leaves} == {6}
    assert simulation.server.gate.leaves == 6
    slowest = int(6.0 / 0.15)  # the slack lets nobody get further ahead
    for leaf in leaves:
        assert slowest - 2 <= len(steps(leaf)) <= slowest + 8
    assert {part.now for part in simulation.parts()} == {6.0}


def test_no_robot_is_further_ahead_than_the_slack_across_relays():
    furthest = []

    def slow_last(tree, part, number):
        hollow(tree, part, number)
        robot = part.robots[f"robot-{number}"]
        robot.device = Device(0.05 if number < 3 else 0.4)

    tree = Tree((2, 2), slow_last, PLAIN.format(3))
    leaves = list(tree.simulation.leaves())
    tree.simulation.run(10.0, every_s=0.0, progress=lambda now: furthest.append([leaf.rounds for leaf in leaves]))
    # The slow one has finished ``rounds``; who starts iteration n + 1 holds everybody's up to n - slack.
    assert max(max(rounds) - min(rounds) for rounds in furthest) == 3 + 1
    assert leaves[3].rounds >= 22


def test_what_passes_between_a_relay_and_the_root_takes_time_on_its_link():
    tree = Tree((2, 3), hollow, uplink=Trace.constant(4e3))
    simulation = tree.simulation
    simulation.run(30.0)
    for below in simulation.relays.values():
        peer = below._peer
        assert 0 < 8 * peer.bytes_up <= 4e3 * 30.0
        assert 0 < 8 * peer.bytes_down <= 4e3 * 30.0
    slow = [len(steps(leaf)) for leaf in simulation.leaves()]
    fast = Tree((2, 3), hollow)
    fast.simulation.run(30.0)
    assert sum(slow) < 0.8 * sum(len(steps(leaf)) for leaf in fast.simulation.leaves())


def test_a_relay_sends_one_sum_where_its_robots_send_three():
    tree = Tree((2, 3), hollow)
    simulation = tree.simulation
    counted = {"root": 0, "below": 0}
    simulation.run(0.0)
    for part in simulation.parts():
        place = "below" if part.above else "root"
        hear = part._hear

        def look(now, link, message, place=place, hear=hear):
            counted[place] += type(message) is Rows and len(message.rows)
            hear(now, link, message)

        part._hear = look
    simulation.run(10.0)
    assert 0 < counted["root"] <= 0.5 * counted["below"]
    assert simulation.delivered == sum(part.messages for part in simulation.parts()) > simulation.messages


@pytest.mark.parametrize("shape", [(2, 2), (2, 1, 2)])
def test_the_same_seed_gives_the_same_journals(shape):
    def journals():
        tree = Tree(shape, hollow, uplink=Trace.constant(2e4), seed=3)
        tree.simulation.run(5.0)
        return [part.server.journal.records for part in tree.simulation.parts()], [
            leaf.node.journal.records for leaf in tree.simulation.leaves()
        ]

    assert journals() == journals()


def test_a_relay_that_comes_later_is_counted():
    tree = Tree((2, 2), hollow)
    simulation = tree.simulation
    simulation.run(2.0)
    below = simulation.add_relay(tree.relay("late", 1), FAST, FAST)
    hollow(tree, below, 9)
    simulation.run(6.0)
    assert simulation.server.gate.leaves == 5
    assert {leaf.node.members for leaf in simulation.leaves()} == {5}
    assert len(steps(below.robots["robot-9"])) > 5


def test_delays_hold_for_the_links_of_a_relay():
    tree = Tree((1, 1), hollow, delay_s={"relay-0": 0.4})
    simulation = tree.simulation
    simulation.run(0.0)
    first = {}
    for part in simulation.parts():
        hear = part._hear

        def look(now, link, message, part=part, hear=hear):
            if type(message) is Rows:
                first.setdefault(part.above is None, now)
            hear(now, link, message)

        part._hear = look
    simulation.run(3.0)
    assert first[True] - first[False] >= 0.4


# -- bad input -----------------------------------------------------------------------------------------------------


def test_a_name_is_there_once_at_each_server():
    tree = Tree((2, 2), hollow)
    simulation = tree.simulation
    with pytest.raises(LocalProtocolError, match="a robot or a relay named 'relay-0' is there already"):
        simulation.add_relay(tree.relay("relay-0", 2), FAST, FAST)
    with pytest.raises(LocalProtocolError, match="a robot or a relay named 'robot-1' is there already"):
        simulation.relays["relay-0"].add_relay(tree.relay("robot-1", 2), FAST, FAST)
    tree.made = 0
    with pytest.raises(LocalProtocolError, match="a robot or a relay named 'robot-0' is there already"):
        hollow(tree, simulation.relays["relay-0"], 0)


def test_the_root_is_below_no_relay_and_alone_is_run():
    simulation = Tree((1, 1), hollow).simulation
    with pytest.raises(LocalProtocolError, match="expected the root of the tree, got the part below a relay"):
        simulation.relays["relay-0"].run(1.0)
    with pytest.raises(LocalProtocolError, match="expected the part below a relay, got the root"):
        _ = simulation.relay


def test_a_delay_of_a_relays_robots_is_checked():
    tree = Tree((1, 1), hollow)
    with pytest.raises(ConfigError, match="delay of a link: expected a finite time"):
        tree.simulation.add_relay(tree.relay("other", 1), FAST, FAST, delay_s=-1.0)
    assert "other" not in tree.simulation.relays


def test_nothing_is_said_above_without_a_connection():
    uplink = MessageUplink(Tree((1, 1), hollow).simulation.relays["relay-0"])
    with pytest.raises(LocalProtocolError, match="relay relay-0: expected a connection to the server above, got none"):
        uplink.poll(0.0)


def test_a_relay_with_another_policy_ends_the_run():
    tree = Tree((1, 1), hollow)
    below = tree.simulation.add_relay(tree.relay("other", 1, parse_policy(PLAIN.format(4))), FAST, FAST)
    hollow(tree, below, 1)
    with pytest.raises(ConfigError, match="relay other: expected the policy of the server above, rowcast:8"):
        tree.simulation.run(10.0)


def test_a_tree_that_is_not_complete_does_not_start():
    tree = Tree((2, 2), hollow)
    below = tree.simulation.add_relay(tree.relay("other", 2), FAST, FAST)
    hollow(tree, below, 7)  # its relay waits for one more
    tree.simulation.run(100.0)
    assert not tree.simulation.started
    assert all(leaf.rounds == 0 for leaf in tree.simulation.leaves())


# -- timing only ---------------------------------------------------------------------------------------------------


def timed(workers, relays, policy="rowcast:8?codec=onebit&pulls=common"):
    pair = (FAST, FAST)
    journals = [Journal(f"robot-{index}") for index in range(workers)]
    return timing_tree(policy, LAYOUT, [Device(0.2)] * workers, [pair] * workers, [pair] * relays, journals)


def test_a_timing_tree_has_its_workers_below_relays_in_turn():
    tree = timed(6, 2)
    tree.run(5.0)
    assert [list(below.robots) for below in tree.relays.values()] == [
        ["robot-0", "robot-1", "robot-2"],
        ["robot-3", "robot-4", "robot-5"],
    ]
    assert {leaf.node.members for leaf in tree.leaves()} == {6}
    assert all(leaf.node.state is WorkerState.COMPUTING and leaf.rounds >= 20 for leaf in tree.leaves())
    assert not tree.robots and isinstance(tree, Simulation)


@pytest.mark.parametrize(("workers", "relays"), [(5, 2), (1, 2), (4, 0)])
def test_workers_that_cannot_be_shared_evenly_are_refused(workers, relays):
    with pytest.raises(ConfigError, match=f"as many workers below each, got {relays} relays and {workers} workers"):
        timed(workers, relays)


def test_a_timing_tree_streams_rows():
    with pytest.raises(ConfigError, match="relay: expected a policy that streams rows"):
        timed(4, 2, "bsp")
