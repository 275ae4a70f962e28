"""Rows that count among those that contribute to them: the counting, the books, and what training comes to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from live import LAYOUT as LIVE_LAYOUT
from live import LiveServer, Robot, eventually, parts_of, start_of
from loops import run_team
from rowcast.codecs import codec_by_name
from rowcast.errors import ConfigError
from rowcast.experiment.audit import ServerAudit, WorkerAudit, prove
from rowcast.optim import Optimizer
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.testing import VirtualTeam
from rowcast.training.proposal.row_weights import WINDOW, RowWeights
from rowcast.wire import Rows
from teams import LAYOUT, Books, finished, replicas_agree, worker

TEAM = ("a", "b", "c")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# -- counting ----------------------------------------------------------------------------------------------------


class Arrivals:
    """Rows of a layout of 4 rows and 8 elements that arrive at a server."""

    layout = Layout.from_shapes([("weight", (4, 2))], small_tensor=1)

    def __init__(self, team=TEAM):
        self.weights, self.team = RowWeights(self.layout), team

    def factor(self, name, iteration, rows, value=1.0):
        """Send rows with one value everywhere, or nothing (value 0); times what they are applied."""
        rows = np.array(rows)
        raw = codec_by_name("raw" if value else "zero")
        vector = np.full(self.layout.elements, value, dtype=np.float32)
        payload = raw.encode(self.layout, vector, rows) if value else np.zeros(0, dtype=np.uint8)
        message = Rows(1, iteration, raw.wire_id, False, False, rows, payload)
        before = self.weights.surplus.copy()
        codec, applied = self.weights.weigh(name, raw, message, self.team)
        if applied is message:
            return [1.0] * len(rows)
        moved = self.layout.zeros()
        codec.add(self.layout, applied.payload, applied.rows, moved, 1.0)
        sums = moved.reshape(4, 2).sum(1)
        np.testing.assert_allclose(
            self.weights.surplus - before, sums - 2 * value * np.isin(np.arange(4), rows), rtol=1e-4, atol=1e-9
        )
        return (sums[rows] / (2 * value)).tolist()

    def rounds(self, contributions, count=WINDOW, first=1):
        """So many iterations of everybody: name to rows that it contributes to."""
        for iteration in range(first, first + count):
            for name, rows in contributions.items():
                if rest := sorted({0, 1, 2, 3} - set(rows)):
                    self.factor(name, iteration, rest, 0.0)
                if rows:
                    self.factor(name, iteration, rows)


def test_a_row_counts_among_those_that_contribute_to_it():
    arrivals = Arrivals()
    contributions = {"a": [0, 1, 3], "b": [1, 3], "c": [3]}
    arrivals.rounds(contributions, count=1)
    assert arrivals.factor("a", 2, [0, 1, 3]) == [1.0, 1.0, 1.0]  # nobody is known to leave a row alone
    arrivals.rounds(contributions, count=WINDOW + 1, first=2)
    assert arrivals.factor("a", WINDOW + 3, [0, 1, 3]) == [3.0, 1.5, 1.0]
    assert arrivals.factor("c", WINDOW + 3, [0]) == [1.5]  # from now on two of them


def test_where_everybody_contributes_the_update_is_applied_as_it_came():
    arrivals = Arrivals()
    arrivals.rounds({name: [0, 1, 2, 3] for name in TEAM}, count=3 * WINDOW)
    assert not arrivals.weights.surplus.any()


def test_what_a_code_has_left_of_a_row_is_no_contribution():
    arrivals = Arrivals()
    for iteration in range(1, 60):
        left = max(0.6**iteration, 1e-30)  # error feedback leaves less and less, and never nothing
        arrivals.factor("a", iteration, [0])
        arrivals.factor("b", iteration, [0], left)
        arrivals.factor("c", iteration, [0], 0.0)
    assert arrivals.factor("a", 60, [0]) == [3.0]


def test_who_is_not_heard_of_contributes_as_before_and_a_newcomer_to_all():
    arrivals = Arrivals(("a", "b"))
    arrivals.rounds({"a": [0, 1], "b": [1]}, count=WINDOW + 1)
    arrivals.rounds({"a": [0, 1]}, count=5 * WINDOW, first=WINDOW + 2)  # b is in an outage
    assert arrivals.factor("a", 200, [0, 1]) == [2.0, 1.0]
    arrivals.team = ("a", "b", "c")
    assert arrivals.factor("a", 201, [0, 1]) == [1.5, 1.0]
    arrivals.team = ("a", "b")
    arrivals.weights.forget("b")
    assert arrivals.factor("a", 202, [0, 1]) == [1.0, 1.0]  # another life of b is a newcomer


def test_the_option_is_one_of_every_family():
    for family in ("bsp", "ssp:2", "asp", "flown:2", "localsgd:2", "diloco:2", "rog:4", "rowcast", "rowcast:4"):
        assert parse_policy(family).row_weights == "members"
        assert parse_policy(f"{family}?row_weights=contributors").row_weights == "contributors"
    with pytest.raises(ConfigError, match=r"unknown row_weights 'contributor'.*contributors"):
        parse_policy("bsp?row_weights=contributor")


# -- the books ---------------------------------------------------------------------------------------------------


def touching(seed, own, layout=LAYOUT):
    """Updates of rows of one's own and of some that others touch too."""

    def gradient(n, x):
        chance = np.random.default_rng((seed, n))
        rows = np.append(own, chance.integers(layout.rows))
        update = layout.zeros()
        for row in rows:
            place = slice(layout.offsets[row], layout.offsets[row + 1])
            update[place] = chance.standard_normal(layout.lengths[row])
        return update

    return gradient


@pytest.mark.parametrize("codec", ["raw", "onebit"])
@pytest.mark.parametrize("policy", ["bsp", "ssp:3", "rog:4", "rowcast:3", "rowcast:8", "rowcast:3?pulls=common"])
def test_nothing_is_lost_or_doubled(policy, codec):
    scripts = [
        worker(f"robot{i}", iterations=32, compute_s=0.1, gradient=touching(i, np.arange(6 * i, 6 * i + 6)))
        for i in range(3)
    ]
    text = f"{policy}{'&' if '?' in policy else '?'}codec={codec}&row_weights=contributors"
    team = VirtualTeam(LAYOUT, text, scripts)
    books = Books(team)
    for time, name, down_s in ((0.3, "robot0", 0.2), (0.9, "robot1", 0.0), (2.1, "robot2", 3.0), (2.5, "robot0", 0.2)):
        team.at(time, lambda name=name, down_s=down_s: team.cut(name, down_s))
    books.check_at(0.5, 1.0, 2.0, 3.0)
    finished(team)
    books.check()
    replicas_agree(team)
    assert np.abs(team.server.surplus).max() > 0.1


@pytest.mark.parametrize("policy", ["bsp", "rog:4", "rowcast"])
def test_dense_updates_move_the_team_as_without_the_option(policy):
    ends = []
    for option in ("members", "contributors"):
        team = VirtualTeam(LAYOUT, f"{policy}?row_weights={option}", [worker(f"robot{i}", iterations=30) for i in "01"])
        finished(team)
        ends.append(team.server.parameters)
    assert not team.server.surplus.any()
    np.testing.assert_allclose(*ends, atol=1e-5)  # the name of the policy is longer: rows come in another order


HALF = LIVE_LAYOUT.offsets[100]


class HalfRobot(Robot):
    """Contributes to the first half of the rows only."""

    def run(self):
        try:
            self.team.start(LIVE_LAYOUT, start_of())
            while self.team.iteration < self.steps:
                with self.team.hold():
                    proposed = self.team.replica.copy()
                    proposed[:HALF] -= np.float32(2)
                    self.team.accumulate(parts_of(proposed), 1.0)
                self.team.exchange()
            self.team.finish()
        except BaseException as error:
            self.error = error
            self.team.leave()


#: Where a link is slow the code `sparse` sends too much of a row and takes it back later: that may count once where the
#: rest has counted twice. So once and twice what was computed are no limits there.
ADAPTED = "rowcast?auto_lr=off&anticipate=off"


@pytest.mark.parametrize("policy", ["bsp", "rog:4", f"{ADAPTED}&adapt=off", ADAPTED])
def test_over_sockets_every_row_is_accounted_for(policy):
    """Two robots, one of which touches half of the rows: whole numbers, so that all sums are exact."""
    steps = 3 * WINDOW
    with LiveServer(
        f"{policy}{'&' if '?' in policy else '?'}codec=raw&row_weights=contributors", expected_workers=2
    ) as server:
        robots = [Robot(server, "all", steps=steps, update=2), HalfRobot(server, "half", steps=steps)]
        audits = [WorkerAudit.of(robot.done().team.node, metrics={}, busy_s=[0.0], paces_s=[0.0]) for robot in robots]
        eventually(lambda: not server.ask(lambda node: node.members))
        audit = server.ask(lambda node: ServerAudit.of(node, LIVE_LAYOUT, start_of()))
    report = prove(audit, audits)
    assert report.clean and report.lost == report.doubled == report.rows_off == 0, report
    # What both touch has moved by the sum of both; what one touches, by up to twice what it sent.
    moved = start_of() - audit.final
    assert (moved[:HALF] == 4 * steps).mean() > 0.99
    if policy != ADAPTED:
        assert (moved[HALF:] >= 2 * steps).all() and (moved[HALF:] <= 4 * steps).all()
    assert moved[HALF:].mean() > 2 * steps or policy.startswith("rowcast")  # there iterations may pass unannounced


# -- training ----------------------------------------------------------------------------------------------------

COMMON, OWN, CLASSES, LENGTH, WIDTH = 12, 24, 3, 8, 16


def bags(robots, count, seed, *, own):
    """Bags of words, and which class the words speak for; with ``own``, each robot reads words of its own."""
    meaning = torch.randn(COMMON + robots * OWN, CLASSES, generator=torch.Generator().manual_seed(5))
    chance = torch.Generator().manual_seed(seed)
    parts = []
    for robot in range(robots):
        first, last = (COMMON + robot * OWN, COMMON + (robot + 1) * OWN) if own else (0, COMMON)
        bag = torch.randint(first, last, (count, LENGTH), generator=chance)
        parts.append((bag, meaning[bag].sum(1).argmax(1)))
    return parts


def embedding_loss(policy, *, own, robots=3, steps=50):
    """Held-out loss of an embedding that a team has trained with SparseAdam; ``None``: robots alone, each its part."""
    parts, tests = bags(robots, 64, 1, own=own), bags(robots, 200, 2, own=own)
    ends = []

    def model_of():
        torch.manual_seed(0)
        words = nn.EmbeddingBag(COMMON + robots * OWN, WIDTH, mode="sum", sparse=True)
        classes = nn.Linear(WIDTH, CLASSES).requires_grad_(False)
        return nn.Sequential(words, classes)

    def train(model, optimizer, part):
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(part[0]), part[1]).backward()
            optimizer.step()

    def loss(model, some):
        with torch.no_grad():
            return float(np.mean([float(nn.functional.cross_entropy(model(bag), target)) for bag, target in some]))

    def loop(index, worker):
        model = model_of()
        optimizer = Optimizer(torch.optim.SparseAdam([model[0].weight], lr=0.02), model, worker)
        train(model, optimizer, parts[index])
        optimizer.close()
        ends.append((loss(model, tests), model[0].weight.detach().numpy()))

    if policy is None:
        for part, test in zip(parts, tests, strict=True):
            model = model_of()
            train(model, torch.optim.SparseAdam([model[0].weight], lr=0.02), part)
            ends.append((loss(model, [test]), model[0].weight.detach().numpy()))
        return float(np.mean([end[0] for end in ends])), ends[0][1]
    run_team(policy, robots, loop)
    for _, weight in ends[1:]:
        np.testing.assert_allclose(weight, ends[0][1], atol=1e-5)
    return ends[0]


@pytest.mark.parametrize("policy", ["bsp", "rog:4", "rowcast"])
def test_robots_that_touch_rows_of_their_own_learn_as_fast_as_alone(policy):
    alone, _ = embedding_loss(None, own=True)
    plain, _ = embedding_loss(policy, own=True)
    weighed, _ = embedding_loss(f"{policy}?row_weights=contributors", own=True)
    assert weighed < 1.2 * alone and weighed < 0.9 * plain, (alone, plain, weighed)


def test_robots_that_touch_the_same_rows_learn_as_without_the_option():
    _, plain = embedding_loss("bsp", own=False)
    _, weighed = embedding_loss("bsp?row_weights=contributors", own=False)
    np.testing.assert_array_equal(weighed, plain)
