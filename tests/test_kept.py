"""A worker that is killed and goes on from a picture and notes: nothing is doubled, and what is lost is counted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rowcast.config import LinkSettings, ServerSettings
from rowcast.sync import parse_policy
from rowcast.testing import VirtualTeam
from rowcast.testing.shelf import Shelf
from rowcast.training import WorkerState
from rowcast.training.kept import SESSION_NOTES, Acknowledged, Finishing, Joined, Received, Replay, Resumed, Sent
from rowcast.training.member import MemberState
from teams import LAYOUT, POLICIES, Books, events, finished, members, names_of, outages, worker

SMALL_FRAMES = LinkSettings(frame_min_bytes=64, window_min_bytes=256, frame_s=0.001)
FAMILIES = [*POLICIES, "diloco:2", "sparseloco:2"]
EVERY, SECOND, FOURTH = 1, 2, 4
TOLERANCE = 2e-5


def prove(examples):
    return settings(
        max_examples=examples, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
    )


class Witness(Shelf):
    """A shelf beside which everything is written down that nobody has after a crash: the truth to compare with.

    Attributes:
        strike: called once so many notes more were taken; negative: never.
    """

    def __init__(self, team, name, pictures):
        super().__init__(pictures)
        self.team, self.name = team, name
        self.countdown, self.strike = -1, lambda: None
        self.base = np.zeros(LAYOUT.elements)  # computed when each row was last delivered behind the picture, or then
        self.left = np.zeros(LAYOUT.rows)  # sum |.| of what was pending of it once it was
        self.open = {}

    @property
    def computed(self):
        return self.team.computed[self.name]

    def note(self, note):
        super().note(note)
        match note:
            case Sent():
                self.open[note.message.number] = note.message.rows, self.computed.copy(), note.left
            case Acknowledged():
                self.applied(note.number)
            case Resumed() | Joined():
                self.applied(note.received)
                self.open.clear()
        self.countdown -= 1
        if self.countdown == 0:
            self.team.at(self.team.now, self.strike)

    def turn(self, now, node):
        taken = self.picture
        super().turn(now, node)
        if self.picture is not taken:
            self.base[:], self.left[:] = self.computed, 0
            self.open.clear()

    def applied(self, number):
        for key in [key for key in self.open if key <= number]:
            rows, computed, left = self.open.pop(key)
            for row, size in zip(rows, left, strict=True):
                part = slice(LAYOUT.offsets[row], LAYOUT.offsets[row + 1])
                self.base[part], self.left[row] = computed[part], size


class Story:
    """A team, of which one robot is killed and goes on.

    Attributes:
        lost: for each crash, what the robot had and has not any more, float64 [elements].
    """

    def __init__(self, policy, scripts, *, name="robot1", every=EVERY, seed=0, **more):
        self.team = team = VirtualTeam(LAYOUT, policy, scripts, seed=seed, link_settings=SMALL_FRAMES, **more)
        self.books = Books(team)
        self.name = name
        self.witness = Witness(team, name, lambda n: n % every == 0)
        self.witness.strike = self.crash
        self.lost, self.farewells = [], 0
        self.watch_farewells()
        team.shelves[name] = self.witness
        team.workers[name].node.notebook = self.witness
        team.workers[name].script.pictures = self.witness._pictures

    @property
    def node(self):
        return self.team.workers[self.name].node

    def may_crash(self):
        one = self.team.workers[self.name]
        there = self.team.server.parameters is not None and self.team.server.gate.opened
        return there and not one.killed and one.node.failure is None and one.node.state is not WorkerState.DONE

    def crash(self, down_s=0.0):
        """Kill the robot now, and start it again."""
        if self.may_crash():
            self.books.kill(self.name)
            self.team.at(self.team.now + down_s, self.restart)

    def restart(self):
        team, name = self.team, self.name
        before, kept = self.books.undelivered(name), self.witness.picture is not None
        received = team.server.received_from(name, self.node.server_life)
        team.restart(name)
        after = self.books.undelivered(name) if kept else np.zeros(LAYOUT.elements)
        self.books.lost -= after
        if kept:
            self.lost.append(before - after)
            if received is not None:
                self.witness.applied(received)
            self.explain(before - after)
            self.witness.base[:] = self.witness.computed  # what is lost by now cannot be lost once more
        self.witness.open.clear()

    def explain(self, lost):
        """What is lost is what was computed since a row was delivered, or since the picture; and what the code left."""
        gone = self.witness.computed - self.witness.base
        starts = LAYOUT.offsets[:-1]
        most = np.add.reduceat(np.abs(gone), starts) + 2 * self.witness.left
        over = np.add.reduceat(np.abs(lost), starts) - most
        assert over.max() <= TOLERANCE * 10, over
        if not self.witness.left.any():
            np.testing.assert_allclose(lost, gone, rtol=0, atol=TOLERANCE)

    def watch_farewells(self):
        """Who is told goodbye holds the team's model at that moment; the robot may return later and change it."""
        journal = self.team.journals["server"]
        keep = journal._sink

        def sink(record):
            keep(record)
            if record["event"] == "drained":
                replica = self.team.workers[record["peer"]].node.replica
                np.testing.assert_allclose(replica, self.team.server.parameters, rtol=0, atol=2e-4)
                self.farewells += 1

        journal._sink = sink

    def to_the_end(self):
        finished(self.team)
        self.books.check()
        assert self.farewells


def robots(iterations=12, paces=(0.05, 0.1, 0.2), rates=(1e5, 2e4, 1e6)):
    return [
        worker(f"robot{i}", iterations=iterations, compute_s=pace, rate_bps=rate)
        for i, (pace, rate) in enumerate(zip(paces, rates, strict=True))
    ]


@prove(20)
@given(st.data())
def test_a_killed_worker_goes_on_and_nothing_is_doubled(data):
    """Invariants 2, 3 and 5 with kills at any moment, and pictures of any age."""
    scripts = data.draw(members(count=data.draw(st.integers(2, 3)), iterations=data.draw(st.integers(2, 10))))
    family = data.draw(st.sampled_from(FAMILIES))
    text = f"{family}{'&' if '?' in family else '?'}codec={data.draw(st.sampled_from(['raw', 'half', 'onebit']))}"
    every = data.draw(st.sampled_from([EVERY, EVERY, SECOND, FOURTH]))
    story = Story(
        text,
        scripts,
        every=every,
        seed=data.draw(st.integers(0, 9)),
        server_settings=ServerSettings(
            expected_workers=data.draw(st.integers(1, len(scripts))),
            absence_limit_s=data.draw(st.sampled_from([0.3, 2.0])),
        ),
    )
    team = story.team
    story.witness.countdown = data.draw(st.integers(-1, 60))
    for time, down_s in data.draw(
        st.lists(st.tuples(st.floats(0.0, 5.0), st.sampled_from([0.0, 0.1, 4.0])), max_size=4)
    ):
        team.at(time, lambda down_s=down_s: story.crash(down_s))
    for time, name, down_s in data.draw(outages(names_of(scripts), most=3)):
        team.at(time, lambda name=name, down_s=down_s: team.workers[name].killed or team.cut(name, down_s))
    story.books.check_at(*data.draw(st.lists(st.floats(0.0, 8.0), max_size=6)))
    story.to_the_end()
    slack = parse_policy(text).slack
    if slack is not None:
        assert max(team.gaps, default=0) <= slack
    if every == EVERY and parse_policy(text).feedback == 1:  # what decays at the end is no loss
        assert max((float(np.abs(lost).max()) for lost in story.lost), default=0.0) <= TOLERANCE


@prove(12)
@given(st.data())
def test_robots_and_servers_that_die_in_turn_lose_nothing_that_was_kept(data):
    """A new server knows nobody: robots bring it what they have, and those that were killed what was kept."""
    family = data.draw(st.sampled_from(FAMILIES))
    text = f"{family}{'&' if '?' in family else '?'}codec={data.draw(st.sampled_from(['raw', 'onebit']))}"
    scripts = data.draw(members(count=2, iterations=data.draw(st.integers(4, 8))))
    story = Story(text, scripts, server_settings=ServerSettings(expected_workers=1))
    story.explain = lambda lost: None  # what a server had not acknowledged when it died is not delivered
    team = story.team

    def restart():
        if team.server.parameters is not None:
            story.books.restart_server()

    for time in data.draw(st.lists(st.floats(0.5, 4.0), min_size=1, max_size=2)):
        team.at(time, restart)
    for time, down_s in data.draw(st.lists(st.tuples(st.floats(0.3, 4.0), st.sampled_from([0.0, 0.5])), max_size=3)):
        team.at(time, lambda down_s=down_s: story.crash(down_s))
    story.books.check_at(*data.draw(st.lists(st.floats(0.0, 6.0), max_size=4)))
    finished(team)
    story.books.check()
    if parse_policy(text).feedback == 1:  # what decays at the end is no loss
        assert max((float(np.abs(lost).max()) for lost in story.lost), default=0.0) <= TOLERANCE


@pytest.mark.parametrize("policy", ["bsp?codec=raw", "rowcast:3?codec=onebit"])
def test_the_property_notices_a_row_that_is_delivered_twice(policy, monkeypatch):
    """A control: what the server has applied behind the picture is taken to be pending still."""
    monkeypatch.setattr(Replay, "_applied", lambda self, one: None)
    noticed = 0
    for time in (1.2, 2.5, 3.6):
        story = Story(policy, robots(), every=FOURTH)
        story.team.at(time, story.crash)
        try:
            story.to_the_end()
        except AssertionError:
            noticed += 1
    assert noticed


@pytest.mark.parametrize("policy", ["bsp?codec=raw", "rowcast:3?codec=onebit"])
def test_every_phase_of_a_step_can_be_the_last_one(policy):
    """Killed behind one note after the other: before and behind frames, acknowledgements and iterations."""
    seen = set()
    for count in range(1, 60, 3):
        story = Story(policy, robots(iterations=2))
        story.witness.countdown = count
        kinds = []
        note = story.witness.note
        story.witness.note = lambda one, kinds=kinds, note=note: (kinds.append(type(one)), note(one))
        story.to_the_end()
        if story.lost:
            seen.add(kinds[count - 1])
            assert float(np.abs(story.lost[0]).max()) <= TOLERANCE
    assert {Sent, Received, Acknowledged} <= seen


def test_notes_that_are_cut_off_lose_more_and_double_nothing():
    """Power is lost: of the notes only the first are there. The server tells what came behind them."""
    gave_up = []

    @prove(12)
    @given(st.data())
    def cut_off(data):
        family = data.draw(st.sampled_from(["bsp", "ssp:3", "rog:4", "rowcast:3", "rowcast:3?pulls=common", "asp"]))
        codec = data.draw(st.sampled_from(["raw", "onebit"]))
        story = Story(f"{family}{'&' if '?' in family else '?'}codec={codec}", robots(), every=FOURTH)
        witness, share = story.witness, data.draw(st.floats(0.0, 1.0))

        def explain(lost):
            """As ever, or all that was pending is given up."""
            gave_up.append(not story.team.undelivered(story.name).any())
            if not gave_up[-1]:
                Story.explain(story, lost)

        def crash():
            if story.may_crash() and witness.picture is not None:
                del witness.notes[int(share * len(witness.notes)) :]
                story.crash()

        story.explain = explain
        story.team.at(data.draw(st.floats(1.0, 3.0)), crash)
        story.to_the_end()

    cut_off()
    assert True in gave_up
    assert False in gave_up


def shrinking(seed):
    """Contributions that add to every element, each time less: over all lives of a robot."""
    chance = np.random.default_rng(int(seed * 1e9))
    scales = iter(0.7**k for k in itertools.count())
    return lambda n, x: (next(scales) * chance.random(LAYOUT.elements)).astype(np.float32)


class Flickering(Story):
    """A robot that is killed behind a certain note, and later loses its power behind another.

    Then its notes of the life between are lost but for those that were flushed. What was on its way is lost both times.
    Its contributions add to every element: what is pending after a crash is what was, or less.

    Args:
        policy: of the team.
        counts: notes from the beginning to the first crash, and from there to the second.
        flushed: kinds of notes that are there after a loss of power, with all before them.
        every: pictures are taken behind each iteration that this divides.
        name: of the robot.
    """

    def __init__(self, policy, counts, flushed, every, name="robot1"):
        scripts = robots(iterations=10, rates=(1e5, 6e3, 1e6))
        for script in scripts:
            script.gradient, script.delay_s = shrinking(ord(script.name[-1])), 0.05
        super().__init__(policy, scripts, name=name)
        self.counts, self.flushed, self.every, self.too_much = list(counts), flushed, every, []
        self.safe = 0  # so many notes behind the picture were there at the first crash
        self.witness._pictures = self.picture_of

    def picture_of(self, iteration):
        """The first one starts the countdown."""
        due = self.witness.picture is None or iteration % self.every == 0
        if self.witness.picture is None:
            self.witness.countdown = self.counts.pop(0)
        if due:
            self.safe = 0
        return due

    def crash(self, down_s=0.0):
        if self.may_crash() and self.witness.picture is not None:
            if self.too_much:
                self.lose_power()
            self.safe = len(self.witness.notes)
            self.team.cut(self.name, 0.0)
            super().crash(down_s)
            self.witness.countdown = self.counts.pop(0) if self.counts else -1

    def lose_power(self):
        notes = self.witness.notes
        flushed = max((k + 1 for k, note in enumerate(notes) if isinstance(note, self.flushed)), default=0)
        del notes[max(flushed, self.safe) :]

    def restart(self):
        self.before = self.books.undelivered(self.name)
        super().restart()

    def explain(self, lost):
        after = self.before - lost
        self.too_much.append(max(float((after - self.before).max()), float(-after.min())))


def flicker(policy, counts, flushed=SESSION_NOTES):
    """How much is pending once too often, or taken back, after each of two crashes behind so many notes."""
    story = Flickering(policy, counts, flushed, every=100)
    story.to_the_end()
    return story.too_much


@pytest.mark.parametrize(
    "policy", ["bsp?codec=raw", "ssp:3?codec=raw", "rog:2?codec=raw", "rowcast:3?codec=raw&adapt=off"]
)
def test_a_robot_that_is_killed_and_then_loses_its_power_doubles_nothing(policy):
    times = []
    for counts in itertools.product(range(1, 60, 12), (1, 4, 12)):
        times += flicker(policy, counts)
    assert len(times) > 15 and max(times) <= TOLERANCE


def test_the_property_notices_a_session_that_is_not_flushed():
    """A control: frames bear numbers that others bore before, and the note that says so is gone."""
    flushed = tuple(kind for kind in SESSION_NOTES if kind is not Resumed)
    noticed = 0
    for first in (33, 37, 41, 45):
        assert max(flicker("rog:2?codec=raw", (first, 4))) <= TOLERANCE
        try:
            noticed += max(flicker("rog:2?codec=raw", (first, 4), flushed), default=0) > TOLERANCE
        except AssertionError:  # nobody goes on: the team waits for rows that are taken to be delivered
            noticed += 1
    assert noticed


def test_a_robot_that_loses_its_power_at_its_farewell_delivers_nothing_again():
    """The server has dropped it as finished, and what it had noted of its last frames is gone."""
    story = Flickering("rog:4?codec=raw", (-1,), SESSION_NOTES, every=1, name="robot0")
    keep = story.team.journals["server"]._sink

    def sink(record):
        keep(record)
        if record["event"] == "drained" and record["peer"] == story.name and not story.too_much:
            story.team.at(story.team.now, crash)

    def crash():
        assert any(isinstance(note, Sent) for note in story.witness.notes)
        story.lose_power()
        assert isinstance(story.witness.notes[-1], Finishing)
        story.crash()

    story.team.journals["server"]._sink = sink
    story.to_the_end()
    assert len(story.too_much) == 1 and max(story.too_much) <= TOLERANCE


def told(story):
    return events(story.team, story.name, "recovered")


def test_what_is_lost_is_in_the_journal_and_told_to_the_user():
    story = Story("rowcast:3?codec=onebit", robots(), every=100)
    story.witness._pictures = lambda n: n == 2
    story.team.at(1.5, story.crash)
    notices = []
    story.team.at(1.51, lambda: notices.append(story.node.notices))
    story.to_the_end()
    [record] = told(story)
    iterations = record["iteration"] - 2
    assert iterations > 1
    assert record["how"] == "resumed"
    assert record["lost_iterations"] == iterations
    assert record["lost_rows"] > 0
    assert float(np.abs(story.lost[0]).sum()) <= record["lost"]
    assert record["cause"] == ""
    assert f"robot1: goes on where its process was killed, at iteration {record['iteration']}; of the last " in (
        " ".join(notices[0])
    )


def test_without_notes_all_that_was_pending_is_given_up_and_counted():
    story = Story("rog:4?codec=onebit", robots(), every=100)
    story.witness._pictures = lambda n: n == 2
    story.witness.keeps = False
    story.explain = lambda lost: None
    story.team.at(1.5, story.crash)
    story.to_the_end()
    [record] = told(story)
    assert "the server has applied" in record["cause"]
    assert record["how"] == "joined"  # it had acknowledged more than is known here
    assert record["lost"] > 0


def test_a_server_that_was_restored_from_an_older_state_is_joined_anew():
    """It tells of fewer frames than it had acknowledged: the worker comes back and joins; nothing is doubled."""
    story = Story("rog:4?codec=onebit", robots())
    team = story.team

    def crash():
        inbox, before = team.server.members["robot1"].inbox, story.witness
        story.crash()
        inbox.received = 0
        assert before.picture is not None

    story.explain = lambda lost: None
    team.at(1.5, crash)
    finished(team)
    [record] = told(story)
    assert record["how"] == "joined"
    causes = [record["cause"] for record in events(team, "robot1", "link_down")]
    assert any("the server had acknowledged" in cause and "joining anew" in cause for cause in causes)


def test_who_is_killed_while_it_brings_the_parameters_to_a_new_server_keeps_what_is_pending():
    story = Story(
        "rog:4?codec=onebit", robots(rates=(2e4, 2e4, 2e4)), server_settings=ServerSettings(expected_workers=1)
    )
    story.explain = lambda lost: None
    team = story.team

    def strike():
        story.books.restart_server()
        team.at(team.now + 0.02, seeding)

    def seeding():
        member = team.server.members.get(story.name)
        if member is None or member.state is not MemberState.SEEDING or not member.inbox.received:
            assert team.now < 10.0
            team.at(team.now + 0.005, seeding)
            return
        story.books.kill(story.name)
        team.at(team.now, story.restart)

    team.at(1.5, strike)
    for name in ("robot0", "robot2"):
        team.at(1.4, lambda name=name: team.cut(name, 3.0))
    story.to_the_end()
    assert len(story.lost) == 1
    assert float(np.abs(story.lost[0]).max()) <= TOLERANCE
    assert told(story)[0]["cause"] == ""


@pytest.mark.parametrize("others", [True, False])
def test_a_new_server_is_brought_what_was_kept(others):
    """Everything was off: robots come back with what they had, and the new server takes it from them."""
    story = Story("rog:2?codec=raw", robots(iterations=10))
    team = story.team
    kept = []

    def strike():
        story.books.kill("robot1")
        for name in ("robot0", "robot2"):
            if not others:
                story.books.kill(name)
        story.books.restart_server()
        team.at(team.now + 0.5, restart)

    def restart():
        team.restart("robot1")
        story.books.lost -= story.books.undelivered("robot1")
        kept.append((story.node.replica.copy(), story.node.iteration))

    team.at(1.5, strike)
    finished(team)
    story.books.check()
    [record] = told(story)
    assert record["how"] == "joined"
    assert kept[0][1] > 1
    last = [one["iteration"] for one in events(team, "robot1", "step")]
    assert max(last) >= kept[0][1]
