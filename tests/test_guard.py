"""The guard: updates that are too large, members that compute against the others, and the books that stay right."""

from __future__ import annotations

import numpy as np
import pytest

from rowcast.codecs import codec_by_name
from rowcast.codecs.base import starts
from rowcast.config import ServerSettings
from rowcast.rows import Layout
from rowcast.testing import DurableTeam, VirtualTeam
from rowcast.training.guard import Guard
from rowcast.training.guard.guard import PROBATION, STRIKES
from rowcast.training.guard.loops import sketch
from rowcast.training.guard.watched import WINDOW
from rowcast.wire import Rows
from teams import CODECS, LAYOUT, POLICIES, Books, captured, finished, noise, quadratic, replicas_agree, worker

WIDE = Layout.from_shapes([("weight", (40, 30)), ("bias", (40,))], small_tensor=1)


def rows_of(layout, iteration, values, rows=None):
    """An update in the code that loses nothing."""
    rows = np.arange(layout.rows) if rows is None else np.asarray(rows)
    payload = np.concatenate([values[layout.offsets[k] : layout.offsets[k + 1]] for k in rows]).astype(np.float32)
    return Rows(1, iteration, codec_by_name("raw").wire_id, False, True, rows, payload.view(np.uint8))


class Arriving:
    """A guard, and what it let count of each member."""

    def __init__(self, layout=WIDE, *, quarantines=True, alike=False, seed=0):
        self.guard = Guard(layout, quarantines=quarantines, alike=alike)
        self.layout = layout
        self.iteration = 0
        self.incidents = []
        self.counted = {}
        self.sent = layout.zeros().astype(np.float64)
        self.applied = layout.zeros().astype(np.float64)
        self._chance = np.random.default_rng(seed)
        self._way = self._chance.standard_normal(layout.elements)

    def sound(self, scale=1.0):
        """An update that points where the team goes, with noise of its own."""
        return (scale * (self._way + 2 * self._chance.standard_normal(self.layout.elements))).astype(np.float32)

    def round(self, updates):
        """One iteration of each member."""
        self.iteration += 1
        raw = codec_by_name("raw")
        for name, update in updates.items():
            code, message = self.guard.judge(name, raw, rows_of(self.layout, self.iteration, update))
            counted = self.layout.zeros()
            code.add(self.layout, message.payload, message.rows, counted, 1.0)
            self.counted[name] = counted
            self.sent += np.nan_to_num(update, nan=0.0, posinf=0.0, neginf=0.0)
            self.applied += counted
        self.incidents += self.guard.take_incidents()

    def events(self, kind, name=None):
        return [each for each in self.incidents if each.event == kind and name in (None, each.peer)]

    def balanced(self):
        """What was applied is what was sent, and what the guard counted."""
        starts = self.layout.offsets[:-1]
        books = np.add.reduceat(self.sent, starts) + self.guard.surplus
        np.testing.assert_allclose(np.add.reduceat(self.applied, starts), books, atol=1e-2)


def team(arriving, mad=None, count=4):
    """What four members send, one of them in its own way."""
    updates = {f"robot{i}": arriving.sound() for i in range(count)}
    if mad is not None:
        updates["robot1"] = mad(updates["robot1"])
    return updates


def test_sound_updates_are_not_touched():
    arriving = Arriving()
    for _ in range(200):
        arriving.round(team(arriving))
    assert not arriving.incidents
    assert not arriving.guard.surplus.any()


@pytest.mark.parametrize("count", [2, 3, 4, 16])
def test_what_is_too_large_is_scaled_down_whoever_comes_first(count):
    arriving = Arriving(quarantines=False)
    for _ in range(20):
        arriving.round({"robot1": 100 * arriving.sound()} | team(arriving, lambda u: 100 * u, count))
    usual = np.linalg.norm(arriving.counted["robot0"])
    # In a team of less than four the median of the others is itself moved by the mad one: the band stays wide.
    assert np.linalg.norm(arriving.counted["robot1"]) < (4 if count > 3 else 10) * usual
    assert {each.peer for each in arriving.events("clipped")} == {"robot1"}
    assert np.linalg.norm(arriving.applied) < 40 * count * usual
    arriving.balanced()


def test_a_learning_rate_that_changes_for_all_is_no_fault():
    arriving = Arriving()
    for scale in (1.0, 0.1, 10.0, 0.01, 1.0):
        for _ in range(20):
            arriving.round({f"robot{i}": arriving.sound(scale) for i in range(4)})
    assert not arriving.events("quarantined")


def test_a_member_that_alone_sees_a_class_is_no_fault():
    arriving = Arriving()
    own = arriving.layout.zeros()
    own[: arriving.layout.offsets[2]] = 30.0  # two rows that others hardly move
    quiet = np.ones(arriving.layout.elements, dtype=np.float32)
    quiet[: arriving.layout.offsets[2]] = 0.01
    for _ in range(60):
        updates = {f"robot{i}": arriving.sound() * quiet for i in range(4)}
        updates["robot1"] = arriving.sound()
        arriving.round(updates)
    assert not arriving.incidents


@pytest.mark.parametrize(
    ("cause", "mad"), [("norm", lambda update: 100 * update), ("direction", lambda update: -update)]
)
def test_a_mad_member_is_put_aside_and_returns_when_it_is_in_line(cause, mad):
    arriving = Arriving()
    for _ in range(40):
        arriving.round(team(arriving, mad))
    (put_aside,) = arriving.events("quarantined")
    assert (put_aside.peer, put_aside.fields["cause"]) == ("robot1", cause)
    assert put_aside.fields["iteration"] >= STRIKES
    assert not arriving.counted["robot1"].any()
    assert "robot1 is put aside" in put_aside.text
    arriving.balanced()
    for _ in range(PROBATION + 40):
        arriving.round(team(arriving))
    (released,) = arriving.events("released")
    assert released.peer == "robot1"
    assert arriving.counted["robot1"].any()
    assert len(arriving.events("quarantined")) == 1
    arriving.balanced()


def test_what_it_did_lately_is_taken_back_to_the_last_bit_of_the_books():
    arriving = Arriving()
    sound = arriving.layout.zeros().astype(np.float64)
    while not arriving.events("quarantined"):
        updates = team(arriving, lambda update: -update)
        sound += sum(update for name, update in updates.items() if name != "robot1")
        arriving.round(updates)
        assert arriving.iteration < 2 * WINDOW
    for _ in range(2):  # what is owed travels with the next rows
        updates = team(arriving, lambda update: -update)
        sound += sum(update for name, update in updates.items() if name != "robot1")
        arriving.round(updates)
    np.testing.assert_allclose(arriving.applied, sound, atol=1e-3)


def test_where_the_others_do_not_agree_nobody_is_put_aside():
    arriving = Arriving()
    ways = [arriving.sound(0.3) for _ in range(4)]
    for _ in range(100):
        arriving.round({f"robot{i}": ways[i] + arriving.sound(0.001) for i in range(4)})
    assert not arriving.events("quarantined")


TWO_LAYERS = Layout.from_shapes([("first", (40, 30)), ("last", (40, 30))], small_tensor=1)


@pytest.mark.parametrize(("alike", "put_aside"), [(False, []), (True, ["robot1"])])
def test_a_member_whose_last_layers_alone_point_against_the_others(alike, put_aside):
    """So does one that alone sees a class, and one whose labels are wrong: only who knows the data can tell."""
    arriving = Arriving(TWO_LAYERS, alike=alike)
    own = Arriving(TWO_LAYERS, seed=1)
    last = TWO_LAYERS.offsets[40]
    for _ in range(60):
        updates = team(arriving, lambda update: np.concatenate([own.sound()[:last], -update[last:]]))
        arriving.round(updates)
    assert [each.peer for each in arriving.events("quarantined")] == put_aside
    assert not arriving.events("clipped")


@pytest.mark.parametrize("alike", [False, True])
def test_a_member_that_turns_around_all_layers_is_put_aside(alike):
    arriving = Arriving(TWO_LAYERS, alike=alike)
    for _ in range(30):
        arriving.round(team(arriving, lambda update: -update))
    assert [(each.peer, each.fields["cause"]) for each in arriving.events("quarantined")] == [("robot1", "direction")]


def unlike(arriving, kind):
    """Four members whose losses are quadratic, with targets that point against each other.

    The last one is like the others ("sound"), its sign is flipped ("flipped"), or it sees what all the others see
    ("sees all").
    """
    chance = np.random.default_rng(3)
    own = chance.standard_normal((4, arriving.layout.elements))
    targets = own - 0.5 * (own.sum(axis=0) - own)
    if kind == "sees all":
        targets[3] = own[:3].sum(axis=0)
    velocity = np.zeros_like(targets)
    for _ in range(60):
        downhill = targets - arriving.applied + 0.5 * chance.standard_normal(targets.shape)
        if kind == "flipped":
            downhill[3] *= -1
        velocity = 0.9 * velocity + 0.01 * downhill
        arriving.round({f"robot{i}": velocity[i].astype(np.float32) for i in range(4)})
    return [(each.peer, each.fields["cause"]) for each in arriving.events("quarantined")]


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize(("kind", "found"), [("sound", []), ("sees all", []), ("flipped", [("robot3", "ascent")])])
def test_who_climbs_is_found_where_all_see_different_things(kind, found, alike):
    assert unlike(Arriving(alike=alike), kind) == found


def test_a_sketch_keeps_inner_products():
    chance = np.random.default_rng(0)
    rows = np.arange(0, WIDE.rows, 2)
    places = starts(WIDE.lengths[rows])
    one, two = (chance.standard_normal(places[-1]).astype(np.float32) for _ in range(2))
    first, second = (sketch(values, places, WIDE.offsets[rows], 4096) for values in (one, two))
    np.testing.assert_allclose(first @ first, one @ one, rtol=0.1)
    assert abs(first @ second - one @ two) < 0.1 * np.linalg.norm(one) * np.linalg.norm(two)
    half = len(rows) // 2
    parts = [
        sketch(part, starts(WIDE.lengths[each]), WIDE.offsets[each], 4096)
        for part, each in ((one[: places[half]], rows[:half]), (one[places[half] :], rows[half:]))
    ]
    np.testing.assert_allclose(parts[0] + parts[1], first, atol=1e-5)


def test_of_two_members_nobody_is_put_aside():
    arriving = Arriving()
    for _ in range(60):
        arriving.round(team(arriving, lambda update: -update, 2))
    assert not arriving.events("quarantined")


def test_numbers_that_are_none_do_not_count():
    arriving = Arriving(quarantines=False)
    for _ in range(5):
        arriving.round(team(arriving))
    broken = arriving.sound()
    broken[3] = np.nan
    broken[40] = np.inf
    arriving.round({"robot1": broken})
    arriving.round({"robot1": arriving.sound()})
    assert np.isfinite(arriving.applied).all()
    assert [each.fields["rows"] for each in arriving.events("clipped", "robot1")] == [2]


def test_who_was_put_aside_and_leaves_returns_as_it_went():
    arriving = Arriving()
    for _ in range(40):
        arriving.round(team(arriving, lambda update: -update))
    arriving.guard.forget("robot1")
    arriving.guard.forget("robot2")
    arriving.round(team(arriving, lambda update: -update))
    assert not arriving.counted["robot1"].any()
    assert arriving.counted["robot2"].any()


# -- in a team ----------------------------------------------------------------------------------------------------


def guarded(policy, guard, gradient, *, iterations=60, layout=LAYOUT):
    """A team of four with one target, the last of which has a gradient of its own."""
    scripts = [
        worker(
            f"robot{i}",
            iterations=iterations,
            layout=layout,
            compute_s=0.1,
            gradient=gradient(quadratic(1, layout, 0.01)) if i == 3 else quadratic(1, layout, 0.01),
        )
        for i in range(4)
    ]
    settings = ServerSettings(expected_workers=4, gather_s=0.0, guard=guard)
    return VirtualTeam(layout, policy, scripts, server_settings=settings)


def test_a_restart_forgets_nothing_of_it():
    scripts = [worker(f"robot{i}", iterations=40, compute_s=0.1, gradient=noise_of(i)) for i in range(4)]
    running = DurableTeam(
        LAYOUT, "rog:4", scripts, server_settings=ServerSettings(expected_workers=4, guard="quarantine")
    )
    running.run(3.0)
    guard, same = running.server.team.model.guard, captured(running).team.model.guard
    assert guard.quarantined() == same.quarantined() == ["robot3"]
    assert any("robot3 is put aside" in notice for notice in running.workers["robot3"].node.notices)
    (record,) = [record for record in running.journals["server"].records if record["event"] == "quarantined"]
    assert record["peer"] == "robot3" and record["cause"] == "norm"


def noise_of(index):
    """Updates of one size, but for the last robot."""
    ordinary = noise(index)
    return (lambda n, x: 100 * ordinary(n, x)) if index == 3 else ordinary


def flipped(gradient):
    return lambda n, x: -gradient(n, x)


@pytest.mark.parametrize("policy", [*POLICIES, "localsgd:2", "diloco:2"])
def test_the_books_stay_right_under_every_policy(policy):
    running = guarded(policy, "quarantine", flipped)
    books = Books(running)
    running.at(1.1, lambda: running.cut("robot3", 0.4))
    running.at(2.3, lambda: running.cut("robot1", 0.2))
    books.check_at(0.5, 1.5, 3.0)
    finished(running)
    books.check()
    replicas_agree(running)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("policy", ["bsp", "rog:4", "rowcast:4", "rowcast:4?pulls=common"])
def test_with_every_code(policy, codec):
    text = f"{policy}{'&' if '?' in policy else '?'}codec={codec}"
    running = guarded(text, "quarantine", lambda gradient: lambda n, x: 30 * gradient(n, x))
    books = Books(running)
    books.check_at(0.5, 1.5, 3.0)
    finished(running)
    books.check()
    replicas_agree(running)
    assert running.server.surplus.any()
