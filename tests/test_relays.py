"""Relays in virtual time: trees of them whose links are cut, and whose servers die at any moment."""

from __future__ import annotations

import dataclasses
import random
from itertools import pairwise

import numpy as np
import pytest

from rowcast.codecs import codec_by_name
from rowcast.config import LinkSettings
from rowcast.delivery.cursor import Cursor
from rowcast.delivery.inbox import Inbox
from rowcast.delivery.outbox import Outbox
from rowcast.delivery.shared_log import SharedLog
from rowcast.delivery.snapshot import Snapshot
from rowcast.delivery.window import Window
from rowcast.durability import records
from rowcast.errors import ConfigError, RowcastError
from rowcast.rows import Layout
from rowcast.streams import parse_batch
from rowcast.sync import parse_policy
from rowcast.testing.tree import VirtualTree
from rowcast.testing.virtual import ScriptedWorker
from rowcast.training.member import Member, MemberState
from rowcast.training.relay import RelayNode
from rowcast.training.relay.passage import Passage
from rowcast.training.rules.returns import Applied, Returning, Returns
from rowcast.wire import Message, Returned, Rows

PLAIN = "rowcast:{}?codec=raw&adapt=off&trust=0&auto_lr=off"
LAYOUT = Layout.from_shapes([("block", (6, 8)), ("bias", (5,))])
#: Where the contribution of a worker is: in element k of each row of the first tensor it is worker k's.
WIDE = 8
ROWS = 6


def whole(number: int, iterations: int = 12, **more: object) -> ScriptedWorker:
    """A worker that adds 1 to its own element of each row in each iteration, and to one that all share."""

    def gradient(count: int, seen: np.ndarray) -> np.ndarray:
        update = LAYOUT.zeros()
        update[: ROWS * WIDE].reshape(ROWS, WIDE)[:, number] = 1.0
        update[ROWS * WIDE :] = 1.0
        return update

    return ScriptedWorker(
        f"w{number}",
        gradient,
        iterations,
        compute_s=0.05 + 0.01 * number,
        weight=1.0,
        rate_bps=1e6,
        delay_s=0.003,
        **more,
    )


def tree_of(shape: tuple[int, ...], *, slack: int = 8, seed: int = 0, pulls: str = "own", make=whole, **more: object):
    policy = f"{PLAIN.format(slack)}&pulls={pulls}"
    return VirtualTree(LAYOUT, policy, shape, make, seed=seed, rate_bps=5e5, **more)


def expected(workers: int, iterations: int = 12) -> np.ndarray:
    total = LAYOUT.zeros()
    total[: ROWS * WIDE].reshape(ROWS, WIDE)[:, :workers] = iterations
    total[ROWS * WIDE :] = workers * iterations
    return -total


def settle(tree: VirtualTree, workers: int, iterations: int = 12, until: float = 200.0) -> None:
    """The tree ends, and nothing was lost, nothing doubled, and all replicas are the root's."""
    tree.run(until)
    for leaf in tree.leaves:
        assert leaf.node.failure is None and leaf.node.over, (leaf.node.name, leaf.node.state, leaf.node.failure)
    np.testing.assert_array_equal(tree.root.server.ledger.parameters, expected(workers, iterations))
    for leaf in tree.leaves:
        np.testing.assert_array_equal(leaf.node.replica, tree.root.server.ledger.parameters)


def balanced(tree: VirtualTree) -> None:
    """Invariant 5 at each server: a replica is the parameters of the server, less what it is owed."""
    for server in tree.servers:
        if server.server.ledger is not None:
            assert server.imbalance() == 0.0


def moving(leaf) -> np.ndarray:
    """How many iterations of each worker a replica holds, for each row: [rows, workers]."""
    return -leaf.node.replica[: ROWS * WIDE].reshape(ROWS, WIDE)


def schedule(tree: VirtualTree, seed: int, faults: int, until_s: float, *, roots: bool = True) -> dict[str, int]:
    """Cut links and kill servers at random moments; returns how often each was done."""
    draw = random.Random(seed)
    done = {"cut": 0, "crash": 0, "snapshot": 0}
    last = {"at": 0.0}

    def cut() -> None:
        leaf = draw.choice(tree.leaves)
        home = next(server for server in tree.servers if leaf in server.workers.values())
        if not leaf.node.over:
            home.disconnect(leaf, "cut", draw.uniform(0.0, 0.4))
            done["cut"] += 1

    def cut_above() -> None:
        branch = draw.choice(list(tree.branches.values()))
        if not branch.relay.over and branch.above is not None:
            branch.above.disconnect(branch._peer, "cut", draw.uniform(0.0, 0.4))
            done["cut"] += 1

    def crash() -> None:
        servers = tree.servers if roots else list(tree.branches.values())
        draw.choice(servers).crash_server(written=draw.random() < 0.5)
        done["crash"] += 1
        balanced(tree)

    def snapshot() -> None:
        draw.choice(tree.servers).snapshot()
        done["snapshot"] += 1

    for time in sorted(draw.uniform(0.05, until_s) for _ in range(faults)):
        what = draw.choice([cut, cut_above, crash, crash, snapshot])
        tree.clock.at(time, what)
        last["at"] = time
    return done


@pytest.mark.parametrize("pulls", ["own", "common"])
@pytest.mark.parametrize(
    "shape", [(2, 2), (2, 3), (2, 2, 2), (1, 3), (3, 1)], ids=lambda shape: "x".join(map(str, shape))
)
def test_every_replica_moves_by_the_sum_of_the_root(shape, pulls):
    tree = tree_of(shape, pulls=pulls)
    tree.run(0.5)
    balanced(tree)
    settle(tree, int(np.prod(shape)))
    assert {leaf.node.members for leaf in tree.leaves} <= set(range(1, int(np.prod(shape)) + 1))


def test_workers_below_relays_share_an_iteration_with_all_of_the_tree():
    tree = tree_of((2, 3))
    tree.run(0.6)
    assert [leaf.node.members for leaf in tree.leaves] == [6] * 6
    assert tree.root.server.gate.leaves == 6


@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 2)], ids=["2 levels", "3 levels"])
@pytest.mark.parametrize("pulls", ["own", "common"])
@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_or_doubled_while_servers_die(shape, pulls, seed):
    """Root and relays die with what was not committed, or with it; links are cut in the middle of frames."""
    tree = tree_of(shape, seed=100 * seed, pulls=pulls)
    done = schedule(tree, seed, 14, 1.2)
    settle(tree, int(np.prod(shape)))
    assert done["crash"] >= 2


def test_a_relay_that_does_not_know_what_it_has_sent_loses_or_doubles():
    """The control: without the record of frames out, what was passed up is not known to have been."""
    seeds, wrong = range(6), 0
    for seed in seeds:
        tree = tree_of((2, 2), seed=seed)
        for branch in tree.branches.values():
            forget_sent(branch)
        schedule(tree, seed, 10, 1.0, roots=False)
        try:
            settle(tree, 4, until=8.0)
        except (AssertionError, RowcastError):
            wrong += 1
    assert wrong > len(seeds) / 2  # in the others nothing was on its way, or a snapshot had it


def forget_sent(branch) -> None:
    """When this relay is built again, it does not hear what it was asked to send above."""
    keep = branch.crash_server

    def crash(*, written: bool = False) -> None:
        log, upper = branch.log, branch.relay.upper
        links = {number for link, number in branch._host._numbers.items() if link.upward}
        if written:
            log.committed_to = len(log.records)
        if upper is not None:
            polled = [next(iter(records.decode([record]))) for record in log.records]
            log.records = [
                records.encode(records.Swept()) if isinstance(one, records.Polled) and one.link in links else record
                for one, record in zip(polled, log.records, strict=True)
            ]
        keep(written=False)

    branch.crash_server = crash


@pytest.mark.parametrize("slack", [2, 4, 8])
@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 2)], ids=["2 levels", "3 levels"])
def test_staleness_is_bounded_from_end_to_end(shape, slack):
    """Invariants 2 and 3: who starts iteration n + 1 holds everybody's contributions up to n - slack, of each row."""
    starts: list[float] = []

    def watched(number: int) -> ScriptedWorker:
        return whole(number, 25)

    tree = tree_of(shape, slack=slack, seed=slack, make=watched)
    workers = int(np.prod(shape))
    for leaf in tree.leaves:
        gradient = leaf.script.gradient

        def look(count: int, seen: np.ndarray, leaf=leaf, gradient=gradient) -> np.ndarray:
            if not leaf.node.beyond:
                starts.append(leaf.node.iteration - float(moving(leaf)[:, :workers].min()))
            return gradient(count, seen)

        leaf.script.gradient = look
    settle(tree, workers, 25)
    assert len(starts) > 20 * workers
    assert max(starts) <= slack
    assert max(starts) >= 1


def watch_own(tree: VirtualTree) -> list[int]:
    """Whenever a worker computes: what is expected, less what is pending, holds all that it has computed, once.

    Returns:
        Of each of these moments whether something was on its way; filled as they come.
    """
    looks: list[int] = []
    for number, leaf in enumerate(tree.leaves):
        gradient = leaf.script.gradient

        def look(count: int, seen: np.ndarray, leaf=leaf, number=number, gradient=gradient) -> np.ndarray:
            own = (leaf.node.expected - leaf.node.pending)[: ROWS * WIDE].reshape(ROWS, WIDE)[:, number]
            np.testing.assert_array_equal(own, np.full(ROWS, -float(count)))
            looks.append(int((leaf.node.expected != leaf.node.replica).any()))
            return gradient(count, seen)

        leaf.script.gradient = look
    return looks


@pytest.mark.parametrize(
    ("pulls", "faults", "seed"),
    [("own", 0, 1), ("own", 8, 1), ("common", 0, 1), *(("common", 8, seed) for seed in range(8))],
)
@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 2)], ids=["2 levels", "3 levels"])
def test_a_worker_sees_each_of_its_own_contributions_once(shape, pulls, faults, seed):
    """Wherever in the tree they are, and however old the frames of a common log are that hold them."""
    tree = tree_of(shape, pulls=pulls, seed=seed, make=lambda number: whole(number, 30))
    looks = watch_own(tree)
    schedule(tree, seed, faults, 1.5)
    settle(tree, int(np.prod(shape)), 30)
    assert sum(looks) > len(looks) / 4, "in these moments something was on its way"


@pytest.mark.parametrize(
    ("shape", "seed"), [((2, 2), 11), ((2, 2), 13), ((2, 2), 17), ((2, 2, 2), 5), ((2, 2, 2), 10), ((2, 2, 2), 17)]
)
def test_who_was_left_behind_by_a_common_log_sees_its_own_contributions_once(shape, seed, monkeypatch):
    """On slow links the log is folded into what a worker or a relay alone is owed."""
    draw = random.Random(seed)
    places: list[int] = []
    holds = Cursor.holds

    def counted(cursor: Cursor, rows: np.ndarray, place: int) -> np.ndarray:
        places.append(place)
        return holds(cursor, rows, place)

    def make(number: int) -> ScriptedWorker:
        return dataclasses.replace(whole(number, 40), rate_bps=draw.choice([5e3, 2e4, 1e5, 1e6]))

    monkeypatch.setattr(Cursor, "holds", counted)
    policy = f"{PLAIN.format(8)}&pulls=common"
    tree = VirtualTree(LAYOUT, policy, shape, make, seed=seed, rate_bps=lambda _: draw.choice([1e4, 3e4, 1e5, 5e5]))
    looks = watch_own(tree)
    schedule(tree, seed, 12, 6.0)
    settle(tree, int(np.prod(shape)), 40, until=2000.0)
    assert sum(looks) > len(looks) / 4
    assert min(places) < 0 <= max(places), "rows of the log were sent, and others of what one alone was owed"


class Root:
    """The log of a root, two that read it, and what is said to them."""

    def __init__(self, **below: tuple[bytes, ...]) -> None:
        links = LinkSettings(window_min_bytes=1 << 20)
        policy = parse_policy(f"{PLAIN.format(8)}&pulls=common")
        self.newest, self.now = 0, 0.0
        floor = np.zeros(LAYOUT.rows, dtype=np.int32)
        self.log = SharedLog(
            lambda: policy, LAYOUT, links, floor, choose_s=0.0, step_s=lambda: 1.0, newest=lambda: self.newest
        )
        self.returning = Returning(Applied())
        self.members = {}
        for name, sessions in below.items():
            window = Window(links)
            owed = Outbox(Cursor(name, self.log, window), window, Snapshot(LAYOUT, LAYOUT.zeros(), settles=True))
            owed.link_ready()
            self.log.count(name, True)
            self.members[name] = Member(name, b"", owed, Inbox(LAYOUT), MemberState.COMPUTING, below=sessions)

    def hear(self, name: str, number: int) -> None:
        """A frame of all rows comes from this member; it is acknowledged at once."""
        rows, values = np.arange(LAYOUT.rows), np.ones(LAYOUT.elements, dtype=np.float32)
        raw = codec_by_name("raw")
        message = Rows(number, number, raw.wire_id, False, False, rows, raw.encode(LAYOUT, values, rows))
        self.newest = number
        self.returning.taken(self.members[name], message, self.log)
        self.log.touch(rows)
        self.log.residual.take_in(raw, message, None)

    def say(self, name: str) -> list[Message]:
        """All that this member can be sent now; it arrives."""
        member, said = self.members[name], []
        self.now += 1.0
        while (message := self.returning.before(member, member.owed.follow(self.now))) is not None:
            said += [message] if (rows := self.returning.take_next(member)) is None else [message, rows]
        member.owed.acknowledged(self.now + 0.1, member.owed.sent_frames)
        return said


def test_an_acknowledgement_that_overtakes_an_older_frame_of_the_log_says_nothing_of_it():
    """The root has acknowledged frame 2 before it sends the relay the rows that it had encoded behind frame 1."""
    root = Root(relay=(b"r" * 16,), robot=())
    root.hear("relay", 1)
    first = root.say("robot")
    assert [type(one) for one in first] == [Rows] * len(first) and root.log.head == len(first)
    root.hear("relay", 2)
    told, *old = root.say("relay")[: 2 * len(first)]
    assert told == Returned(1, b"") and old[1::2] == [Returned(1, b"")] * (len(first) - 1)
    numbers = iter([1, 2])
    passage = Passage(LAYOUT.rows, lambda: next(numbers))
    for _ in range(2):
        passage.taken(np.arange(LAYOUT.rows))
        passage.sent(codec_by_name("raw"), np.zeros(0, np.uint8), np.arange(LAYOUT.rows))
    for rows in old[::2]:
        passage.arrived(rows.rows, np.full(len(rows.rows), told.number))
    assert set(passage.stamps(np.arange(LAYOUT.rows))) == {1}


def test_nothing_is_said_of_rows_that_hold_all_that_was_acknowledged_nor_to_a_worker():
    root = Root(relay=(b"r" * 16,), robot=())
    for number in (1, 2, 3):
        root.hear("relay", number)
        said = root.say("relay")
        assert said and {type(one) for one in said} == {Rows}
    assert {type(one) for one in root.say("robot")} == {Rows}


def test_rows_that_were_said_and_not_sent_are_forgotten_with_the_link():
    root = Root(relay=(b"r" * 16,), robot=())
    root.hear("relay", 1)
    root.say("robot")
    root.hear("relay", 2)
    relay = root.members["relay"]
    assert root.returning.before(relay, relay.owed.follow(0.0)) == Returned(1, b"")
    relay.owed.link_lost()
    root.returning.link_lost(relay)
    assert root.returning.take_next(relay) is None
    relay.owed.resume(0.0, 0)
    assert root.say("relay")[0] == Returned(1, b""), "it is said again with the rows"


def test_what_is_told_of_rows_is_exact_in_its_byte():
    """A lag of 255 or more says that nothing of a row has come back."""
    returns = Returns(11)
    for number in range(11, 311):
        returns.taken(number, 2 * number)
    told = returns.told(np.array([620, 110, 109, 20, 620], dtype=np.int64))
    assert told.number == 310 and list(told.lags) == [0, 255, 255, 255, 0]
    assert returns.told(np.array([620, 619, 618], dtype=np.int64)) == Returned(310, bytes([0, 1, 1]))
    assert returns.told(np.array([999, 700], dtype=np.int64)) == Returned(310, b"")


def test_a_frame_that_never_arrived_has_not_come_back():
    """Frames are lost newest first; their numbers are used again."""
    numbers = iter([1, 2, 2, 3])
    passage = Passage(4, lambda: next(numbers))
    raw, rows = codec_by_name("raw"), np.arange(4)
    passage.taken(rows[:2])
    passage.sent(raw, np.zeros(0, np.uint8), rows[:2])
    passage.taken(rows[1:3])
    passage.sent(raw, np.zeros(0, np.uint8), rows[1:3])
    passage.lost(raw, np.zeros(0, np.uint8), rows[1:3])
    passage.taken(rows[3:])
    passage.sent(raw, np.zeros(0, np.uint8), rows[1:])
    passage.arrived(rows, 1)
    assert list(passage.stamps(rows)) == [3, 1, 0, 0]
    passage.arrived(rows[2:], np.array([2, 1]))
    assert list(passage.stamps(rows)) == [3, 1, 3, 0]
    passage.restart()
    assert list(passage.stamps(rows)) == [3, 3, 3, 3]


@pytest.mark.parametrize("codec", ["onebit", "half"])
def test_lossy_codes_lose_nothing_in_a_tree(codec):
    """What a code has left is sent on at the end, at each level."""
    rng = np.random.default_rng(0)
    moves = rng.standard_normal((4, LAYOUT.elements)).astype(np.float32)

    def make(number: int) -> ScriptedWorker:
        return ScriptedWorker(f"w{number}", lambda count, seen: moves[number] * (1 + count % 3), 15, weight=0.25)

    policy = f"rowcast:8?codec={codec}&trust=0&auto_lr=off"
    tree = VirtualTree(LAYOUT, policy, (2, 2), make, rate_bps=5e5)
    tree.run()
    times = sum(1 + count % 3 for count in range(15))
    np.testing.assert_allclose(tree.root.server.ledger.parameters, -0.25 * times * moves.sum(axis=0), atol=2e-3)
    for leaf in tree.leaves:
        np.testing.assert_allclose(leaf.node.replica, tree.root.server.ledger.parameters, atol=2e-4)


def test_a_relay_whose_link_is_down_lets_those_below_compute_on():
    tree = tree_of((2, 2), slack=4, make=lambda number: whole(number, 40))
    tree.run(0.8)
    branch = tree.branches["relay-0"]
    before = [leaf.node.iteration for leaf in branch.leaves()]
    branch.above.disconnect(branch._peer, "cut", 1.5)
    tree.run(2.2)
    after = [leaf.node.iteration for leaf in branch.leaves()]
    assert min(b - a for a, b in zip(before, after, strict=True)) > 8
    others = [leaf.node.iteration for leaf in tree.branches["relay-1"].leaves()]
    assert min(others) > 20  # nobody waits for a relay in an outage
    settle(tree, 4, 40)


def test_a_worker_that_comes_later_and_one_that_dies_are_counted_in_the_whole_tree():
    tree = tree_of((2, 2), make=lambda number: whole(number, 60))
    tree.run(1.0)
    branch = tree.branches["relay-1"]
    branch.start(whole(5, 10))
    tree.run(2.0)
    assert tree.root.server.gate.leaves == 5
    assert {leaf.node.members for leaf in tree.leaves} == {5}
    tree.run()
    assert all(leaf.node.over for leaf in tree.leaves)
    total = expected(4, 60)
    total[: ROWS * WIDE].reshape(ROWS, WIDE)[:, 5] -= 10
    total[ROWS * WIDE :] -= 10
    np.testing.assert_array_equal(tree.root.server.ledger.parameters, total)


@pytest.mark.parametrize("policy", ["bsp", "rog:4", "ssp:2"])
def test_policies_that_push_and_pull_are_refused(policy):
    with pytest.raises(ConfigError, match="relay: expected a policy that streams rows, as 'rowcast:8', got"):
        RelayNode("relay-1", parse_policy(policy))


def test_a_policy_whose_rows_count_among_contributors_is_refused():
    with pytest.raises(ConfigError, match="row_weights=members"):
        RelayNode("relay-1", parse_policy("rowcast:8?row_weights=contributors"))


def test_iterations_pass_up_one_by_one():
    """The server above hears of each iteration, in order."""
    tree = tree_of((1, 2))
    settle(tree, 2)
    pushes = [
        e["iteration"] for e in tree.root.journals["server"].records if e["event"] == "push" and e["peer"] == "relay-0"
    ]
    assert pushes == sorted(pushes)
    assert all(b - a == 1 for a, b in pairwise(pushes))


# -- bad input -----------------------------------------------------------------------------------------------------


def pass_until(tree: VirtualTree, time: float) -> None:
    while tree.clock.next <= time:
        tree.clock.step()


def regraft(branch, there) -> None:
    """A relay is told to connect to another server."""
    branch.above.disconnect(branch._peer, "moved")
    branch._peer.killed = True
    del branch.above.branches[branch.name]
    branch.above = there
    branch._peer = there.graft(branch)


@pytest.mark.parametrize("time", [0.0, 0.5])
def test_a_relay_below_itself_is_refused(time):
    """relay-0 is told to connect to its own child, before anybody has joined or later."""
    tree = tree_of((1, 1, 2))
    pass_until(tree, time)
    upper, lower = tree.branches["relay-0"], tree.branches["relay-0-0"]
    for leaf in lower.workers.values():  # nothing is on its way when it changes
        if time:
            lower.disconnect(leaf, "away", 100.0)
    while time and not upper.relay.upper.outbox.settled:
        tree.clock.step()
    regraft(upper, lower)
    pass_until(tree, time + 5.0)
    failures = [str(branch.relay.failure) for branch in (upper, lower) if branch.relay.failure is not None]
    assert any("would be below itself; look at what each relay is connected to" in text for text in failures)


def test_a_relay_that_connects_to_itself_is_refused():
    tree = tree_of((1, 2))
    branch = tree.branches["relay-0"]
    regraft(branch, branch)
    pass_until(tree, 2.0)
    assert isinstance(branch.relay.failure, ConfigError)
    assert "relay relay-0 would be below itself" in str(branch.relay.failure)


def test_a_relay_with_another_policy_than_the_server_above_says_which_it_needs():
    tree = tree_of((1, 2), slack=8)
    branch = tree.branches["relay-0"]
    branch.relay.policy_name = "rowcast:4"
    tree.run(2.0)
    assert isinstance(branch.relay.failure, ConfigError)
    assert str(branch.relay.failure).startswith("relay relay-0: expected the policy of the server above, rowcast:8?")
    assert "got rowcast:4; start it with --policy rowcast:8?" in str(branch.relay.failure)


def test_a_worker_whose_model_differs_is_refused_by_a_relay():
    tree = tree_of((1, 2))
    tree.run(0.5)
    branch = tree.branches["relay-0"]
    branch.layout = Layout.from_shapes([("block", (6, 8)), ("bias", (4,))])
    branch.start(ScriptedWorker("other", lambda count, seen: seen, 3))
    branch.layout = LAYOUT
    tree.run(1.0)
    assert "bias" in str(branch.failures["other"])


def move(tree: VirtualTree, name: str, there, *, settle_first: bool):
    """A worker goes to another server, with what it has in memory."""
    home = next(server for server in tree.servers if name in server.workers)
    leaf = home.workers[name]
    if not settle_first:
        home.workers[name].link.frozen = True  # what is on its way may have arrived, or not
        tree.run(tree.now + 0.2)
        assert not leaf.node.outbox.settled
    home.disconnect(leaf, "moved")
    del home.workers[name]
    there.workers[name] = leaf
    there.computed[name] = home.computed[name]
    there._carry(leaf)
    leaf.node.search.again_from(tree.now)
    there.connect(leaf)
    return leaf


def test_a_worker_with_frames_on_their_way_is_not_let_go_to_another_relay():
    """Nobody there could know which of them have arrived: they would count twice."""
    tree = tree_of((2, 2), make=lambda number: whole(number, 40))
    tree.run(0.6)
    leaf = move(tree, "w0", tree.branches["relay-1"], settle_first=False)
    tree.run(tree.now + 1.0)
    assert (
        "frames of w0 are on their way to relay relay-0, and relay relay-1 cannot know which" in leaf.node.turned_away
    )
    assert "w0" not in tree.branches["relay-1"].server.frames_applied


def test_a_worker_that_is_settled_may_change_its_relay():
    tree = tree_of((2, 2), make=lambda number: whole(number, 40))
    tree.run(0.6)
    leaf = tree.branches["relay-0"].workers["w0"]
    while not leaf.node.outbox.settled:
        tree.clock.step()
    move(tree, "w0", tree.branches["relay-1"], settle_first=True)
    settle(tree, 4, 40)


def test_parameters_of_its_own_are_not_for_a_worker_of_a_tree_that_trains():
    tree = tree_of((1, 2), make=lambda number: whole(number, 30))
    tree.run(0.6)
    branch = tree.branches["relay-0"]
    branch.start(whole(3, 3))
    late = branch.workers["w3"]
    branch.disconnect(late, "again")
    late.node.client._wish = "mine"
    branch.connect(late)
    tree.run(1.2)
    assert "the server above the relay holds; w3 wants its own" in str(branch.failures["w3"])


def test_a_batch_is_shared_among_all_workers_of_the_tree():
    """Rates 1 and 3 below one relay, 2 and 2 below the other: shares of 80 samples."""
    rates = [1.0, 3.0, 2.0, 2.0]
    tree = tree_of((2, 2), make=lambda number: whole(number, 60))
    tree.run(0.6)
    rule = parse_batch("team:80")
    for leaf, rate in zip(tree.leaves, rates, strict=True):
        leaf.node.supplier.supply(rule, rate)
        home = next(server for server in tree.servers if leaf in server.workers.values())
        home.attend(leaf)
    tree.run(1.5)
    assert [leaf.node.supplier.share for leaf in tree.leaves] == [10, 30, 20, 20]
    assert {leaf.node.supplier.team_rate for leaf in tree.leaves} == {8.0}


@pytest.mark.parametrize("given_up", [False, True])
def test_a_relay_that_dies_while_it_tries_to_connect_tries_again(given_up):
    """What it has noted last is that it tries, and nobody will tell it what came of that."""
    tree = tree_of((2, 2), make=lambda number: whole(number, 30))
    pass_until(tree, 0.6)
    branch = tree.branches["relay-0"]
    branch.above.disconnect(branch._peer, "gone")
    branch.host.connecting(tree.now, "the server above")
    if given_up:
        branch.relay.upper.fail(ConfigError("the server above was away for too long"))
    branch.snapshot()
    assert branch.relay.connect_at is None
    branch.crash_server()
    assert branch.relay.connect_at == tree.now
    settle(tree, 4, 30)


def test_a_relay_that_had_given_up_goes_on_from_its_log_when_it_is_started_again():
    """What made it give up may be mended by then; what it had taken in counts."""
    tree = tree_of((2, 2), make=lambda number: whole(number, 30))
    pass_until(tree, 0.6)
    branch = tree.branches["relay-0"]
    branch.above.disconnect(branch._peer, "gone")
    branch.relay.upper.fail(ConfigError("the server above was away for too long"))
    branch.snapshot()
    pass_until(tree, 1.0)
    assert branch.relay.connect_at is None
    branch.crash_server()
    assert branch.relay.failure is None
    settle(tree, 4, 30)
