"""What a server computes next: who is computed together, who waits for whom, and who is told to come later."""

from __future__ import annotations

import dataclasses

import pytest

from inference_peers import COSTS, DOWN, HALF, MODEL, RAW, TRUTH, Guest, Host, answer_of, request, rows
from inferences import OFFLOAD, TWO, World, costs_of, image_of, plan_of, same, truth
from rowcast.drivers.virtual.profiled import ProfileEngine
from rowcast.links import Trace
from rowcast.wire import Answer, Busy, Drop

FORWARD_S = 0.02


class Clocked(Host):
    """A server whose time is told."""

    def __init__(self, robots, **settings):
        super().__init__(**settings)
        self.now = 0.0
        self.guests = [Guest(self.server, f"robot{number}") for number in range(robots)]

    def at(self, now):
        self.now = now
        for guest in self.guests:
            guest.now = now
        return self

    def take(self):
        return self.server.take_work(self.now)

    def done(self, works, seconds=FORWARD_S):
        made, _ = self.engine.run(works)
        self.server.work_done(self.now, "serve", works, made, seconds)


def whole(guest, number=1, **more):
    """A request, and all of its rows."""
    frame = guest.frame = getattr(guest, "frame", 0) + 1
    guest.say(request(number, **more), rows(frame, 0, 12, of=number))


def busy_of(guest):
    found = [message for message in guest.heard() if isinstance(message, Busy)]
    return found[0] if found else None


def test_requests_of_several_robots_are_computed_together():
    host = Clocked(3, batch_limit=8, batch_wait_s=0.002)
    for guest in host.guests:
        whole(guest)
    assert host.take() == () and host.server.next_wake() == pytest.approx(0.002)
    host.at(0.002)
    works = host.take()
    assert len(works) == 3
    host.done(works, 0.03)
    for guest in host.guests:
        heard = guest.heard()
        assert same(answer_of(heard), TRUTH)
        assert heard[-1].compute_s == pytest.approx(0.03) and heard[-1].queued_s == pytest.approx(0.002)
    records = [record for record in host.server.journal.records if record["event"] == "answer"]
    assert [record["batch"] for record in records] == [3, 3, 3]


def test_a_full_batch_does_not_wait_and_the_rest_is_next():
    host = Clocked(5, batch_limit=2)
    for guest in host.guests:
        whole(guest)
    sizes = []
    for now in (0.0, 0.01, 0.02, 0.03):
        if works := host.at(now).take():
            sizes.append(len(works))
            host.done(works)
    assert sizes == [2, 2, 1]


def test_who_is_alone_waits_for_nobody():
    host = Clocked(1)
    whole(host.guests[0])
    assert len(host.take()) == 1
    single = Clocked(3, batch_limit=1)
    whole(single.guests[0])
    assert len(single.take()) == 1


def test_what_comes_while_the_engine_works_is_computed_together_behind_it():
    host = Clocked(4)
    whole(host.guests[0])
    works = host.at(0.002).take()
    assert len(works) == 1
    for place, guest in enumerate(host.guests[1:]):
        host.at(0.003 + place / 1000)
        whole(guest)
        assert host.take() == ()
    host.at(0.1).done(works)
    assert len(host.take()) == 3


def test_a_slow_robot_never_holds_anothers_request():
    """Of one half of the rows has come: the others are computed as if it were not there."""
    host = Clocked(3)
    slow, *fast = host.guests
    slow.say(request(), rows(1, 0, 6))
    for guest in fast:
        whole(guest)
    works = host.at(0.002).take()
    assert len(works) == 2
    host.done(works)
    assert all(same(answer_of(guest.heard()), TRUTH) for guest in fast)
    slow.say(rows(2, 6, 12))
    host.done(host.at(0.004).take())
    assert same(answer_of(slow.heard()), TRUTH)


def test_slabs_of_one_are_computed_beside_the_whole_requests_of_others():
    host = Clocked(2)
    streaming, other = host.guests
    streaming.say(request(slabs=2), dataclasses.replace(rows(1, 0, 6), quota_end=True))
    whole(other)
    works = host.take()
    assert [len(work.pieces) for work in works] == [1] and works[0].key[0] == host.server.robots["robot0"].serial
    streaming.say(rows(2, 6, 12))  # it comes while the engine works
    host.done(works, 0.001)
    sizes = []
    for now in (0.003, 0.004):
        works = host.at(now).take()
        sizes.append(len(works))
        host.done(works)
    assert sizes == [1, 1]
    for guest in host.guests:
        assert same(answer_of(guest.heard()), TRUTH)
    assert host.engine.held == set()


def test_only_what_fits_is_computed_together():
    """Another part of the model, or another codec of the answer, is another batch."""
    host = Clocked(3)
    one, other, third = host.guests
    whole(one)
    whole(other, codecs=(RAW, HALF))
    whole(third, down=DOWN[:1], codecs=(RAW,))
    sizes = []
    for now in (0.002, 0.004, 0.006):
        works = host.at(now).take()
        sizes.append(len(works))
        host.done(works)
    assert sizes == [1, 1, 1]


def test_too_many_are_told_when_to_come_back():
    host = Clocked(4, queue_limit=2, batch_limit=1, forward_s=FORWARD_S)
    for guest in host.guests[:2]:
        whole(guest)
    late = host.guests[2]
    late.say(request())
    busy = busy_of(late)
    assert busy.number == 1 and busy.wait_s == pytest.approx(2 * FORWARD_S) and "2 requests wait" in busy.cause
    assert host.server.turned_away == 1
    host.done(host.take(), 0.2)
    host.guests[3].say(request())
    assert busy_of(host.guests[3]) is None  # there is room again


def test_who_would_be_late_is_told_at_once():
    host = Clocked(3, batch_limit=1, forward_s=FORWARD_S)
    whole(host.guests[0])
    works = host.take()
    whole(host.guests[1], deadline_s=2.1 * FORWARD_S)
    assert busy_of(host.guests[1]) is None
    whole(host.guests[2], deadline_s=2.9 * FORWARD_S)
    busy = busy_of(host.guests[2])
    assert "computed in 0.06 s, after its deadline" in busy.cause and busy.wait_s == pytest.approx(2 * FORWARD_S)
    host.done(works)


def test_who_finds_nobody_before_him_is_computed_whatever_it_took_before():
    """Otherwise a server whose first computation was slow would turn everybody away for ever."""
    host = Clocked(2, batch_limit=1, forward_s=5.0)
    for number in (1, 2):
        whole(host.guests[0], number, deadline_s=0.1)
        works = host.take()
        assert len(works) == 1
        host.done(works, 0.01)
        assert same(answer_of(host.guests[0].heard(), number), TRUTH)


def test_what_is_late_before_its_turn_is_not_computed():
    host = Clocked(2, batch_limit=1)
    whole(host.guests[0])
    works = host.at(0.01).take()
    whole(host.guests[1], deadline_s=0.05)
    host.at(0.2).done(works, 0.19)
    assert host.take() == ()
    assert "its deadline was over" in busy_of(host.guests[1]).cause
    assert not host.server.robots["robot1"].tasks


def test_what_is_dropped_in_the_queue_or_in_the_middle_is_not_answered():
    host = Clocked(3)
    for guest in host.guests:
        whole(guest)
    host.guests[0].say(Drop(1))
    works = host.at(0.002).take()
    assert len(works) == 2
    host.guests[1].say(Drop(1))
    assert [work.cancelled for work in works] == [True, False]
    host.done(works)
    answers = [[m for m in guest.heard() if isinstance(m, Answer)] for guest in host.guests]
    assert [len(found) for found in answers] == [0, 0, 1]
    for key in host.server.take_forgotten():
        host.engine.forget(key)
    assert host.engine.held == set()


def test_what_was_stopped_in_the_middle_does_not_tell_how_long_it_takes():
    host = Clocked(2, batch_limit=1, forward_s=FORWARD_S)
    for number in range(1, 6):
        whole(host.guests[0], number)
        works = host.take()
        host.guests[0].say(Drop(number))
        host.done(works, 1e-6)
    whole(host.guests[0], 6)
    works = host.take()
    host.guests[1].say(request(deadline_s=1.5 * FORWARD_S))
    assert "after its deadline" in busy_of(host.guests[1]).cause
    host.done(works)


def test_in_virtual_time_the_fast_do_not_wait_for_the_slow():
    """One robot's link is a hundred times slower; the others' answers take as long as without it."""
    latency_s = {}
    for slow in (False, True):
        world = World(MODEL, COSTS, plan_of(COSTS, TWO, 3), batch_wait_s=0.002)
        for name in ("fast0", "fast1"):
            world.add(name)
        if slow:
            world.add("slow", Trace.constant(8e4))
        for number in range(20):
            for name in world.asked:
                world.at(0.1 + number / 20, world.ask, name)
        world.run(10.0)
        for name in world.asked:
            world.check(name)
        latency_s[slow] = max(one.latency_s for one in world.check("fast0").values())
    assert latency_s[True] < latency_s[False] + COSTS.profile.server_s.sum()


def test_an_overloaded_server_answers_as_many_as_it_can_and_robots_the_rest():
    costs = costs_of(MODEL, robot_s=0.08, server_s=0.04)
    world = World(
        MODEL, costs, plan_of(costs, OFFLOAD), engine=ProfileEngine, batch_limit=1, queue_limit=4, forward_s=0.04
    )
    names = [f"robot{number}" for number in range(8)]
    for place, name in enumerate(names):
        world.add(name, deadline_s=0.16)
        for number in range(20):
            world.at(0.1 + number / 5 + place / 45, world.ask, name)
    world.run(10.0)
    outcomes = [outcome for name in names for outcome in world.check(name).values()]
    assert len(outcomes) == 160 and not any(outcome.missed for outcome in outcomes)
    by = [outcome.by for outcome in outcomes]
    server = world.simulation.server
    assert server.turned_away > 0 and by.count("robot") > 20
    assert by.count("server") > 0.6 * (4.0 / 0.04)
    assert world.engine._runs == {}


def test_answers_depend_on_the_image_of_each_robot():
    """Batched or not, nobody gets the answer of another one."""
    world = World(MODEL, COSTS, plan_of(COSTS, OFFLOAD))
    for number in range(4):
        world.add(f"robot{number}")
        world.at(0.1, world.ask, f"robot{number}", image_of(MODEL, 100 + number))
    world.run(2.0)
    values = [world.outcome(f"robot{number}").value for number in range(4)]
    for number, value in enumerate(values):
        assert same(value, truth(MODEL, image_of(MODEL, 100 + number)))
    assert not same(values[0], values[1])
    batches = {record["batch"] for record in world.journals["server"].records if record["event"] == "answer"}
    assert max(batches) > 1
