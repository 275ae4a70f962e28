"""FLOWN's slots: each clause of algorithms.md section 4, and a team that lives by it."""

from __future__ import annotations

import heapq
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.errors import ConfigError
from rowcast.sync.flown import (
    GRAIN_S,
    MEMORY_S,
    TRANSFERS,
    Candidate,
    Direction,
    FlownScheduler,
    Request,
    choose,
    lag_threshold,
    late_share,
)

#: A transfer of one million bit: 1 s at 1 Mbit/s.
SIZE = 125_000


def wait(worker: str, since: float = 0.0, direction: Direction = Direction.PUSH) -> Request:
    return Request(worker, direction, since)


def chosen(
    candidates: dict[str, Candidate],
    *,
    waiting: str | None = None,
    taken: int = 0,
    limit_s: float = 2.0,
    slack: int = 4,
) -> str:
    """The initials of those who may begin, best first; everybody waits unless said otherwise."""
    requests = [wait(worker, since) for since, worker in enumerate(candidates if waiting is None else waiting)]
    found = choose(requests, candidates, taken=taken, size_bytes=SIZE, limit_s=limit_s, slack=slack, longest=16)
    return "".join(request.worker for request in found)


def at(*mbps: float, iteration: int = 10, samples: float = 1.0) -> Candidate:
    return Candidate(iteration, samples, tuple(1e6 * rate for rate in mbps))


# -- the probability of being late -------------------------------------------------------------------------------


def test_q_is_the_share_of_rates_that_are_too_slow() -> None:
    assert late_share([1e6, 1e6, 0.4e6, 0.1e6], SIZE, 2.0) == 0.5
    assert late_share([0.5e6], SIZE, 2.0) == 0.0  # exactly gamma_T is in time
    assert late_share([0.0], SIZE, 1e9) == 1.0
    assert late_share([], SIZE, 2.0) == 0.0
    assert late_share([1.0], SIZE, math.inf) == 0.0


# -- who goes first ----------------------------------------------------------------------------------------------


def test_at_most_so_many_transfers_at_once() -> None:
    team = {name: at(1.0) for name in "abcd"}
    assert chosen(team) == "ab"
    assert chosen(team, taken=1) == "a"
    assert chosen(team, taken=2) == ""
    assert chosen(team, waiting="") == ""
    assert chosen(team, waiting="d") == "d"


def test_the_score_is_samples_times_the_probability_of_being_in_time() -> None:
    assert chosen({"a": at(1.0, samples=1), "b": at(1.0, samples=3), "c": at(1.0, samples=2)}) == "bc"
    # c has most samples, but is late in two of three rates: 4 * 1/3 is less than 2 and 1.5.
    shaky = at(3.0, 0.1, 0.1, samples=4)
    assert chosen({"a": at(1.0, samples=1.5), "b": at(1.0, samples=2), "c": shaky}) == "ba"


def test_equal_scores_go_by_rate_then_by_patience_then_by_name() -> None:
    assert chosen({"a": at(1.0), "b": at(3.0), "c": at(2.0)}) == "bc"
    assert chosen({"b": at(1.0), "c": at(1.0), "a": at(1.0)}) == "bc"
    requests = [wait("b"), wait("a")]
    found = choose(requests, {"a": at(1.0), "b": at(1.0)}, taken=1, size_bytes=SIZE, limit_s=2.0, slack=4, longest=16)
    assert found == [wait("a")]


def test_who_is_predicted_to_be_late_stays_out_though_a_slot_is_free() -> None:
    assert chosen({"a": at(1.0), "b": at(0.4)}) == "a"
    assert chosen({"b": at(0.4)}, taken=1) == ""


def test_when_all_are_late_the_best_one_goes_alone() -> None:
    team = {"a": at(0.1, samples=2), "b": at(0.3), "c": at(0.2, samples=9)}
    assert chosen(team) == "b"  # every score is 0: the fastest
    assert chosen(team, taken=1) == ""
    assert chosen({"a": at(0.0)}) == "a"


def test_a_link_of_which_nothing_is_known_is_tried() -> None:
    assert chosen({"a": at(1.0), "b": at()}) == "ba"
    assert chosen({"a": at(), "b": at()}, limit_s=math.inf) == "ab"


# -- who is behind -----------------------------------------------------------------------------------------------


def test_who_is_too_far_behind_goes_first_however_slow() -> None:
    fast = {"a": at(1.0), "b": at(1.0), "c": at(1.0)}
    slow = at(0.25, iteration=10 - 15)
    assert chosen({**fast, "d": slow}) == "ab"  # S_i is 4 * 1.0 / 0.25 = 16: one more
    assert chosen({**fast, "d": at(0.25, iteration=10 - 16)}) == "da"
    # The newest counts though it does not wait; of two, the one further behind is first.
    late = {"d": at(1.0, iteration=3), "e": at(1.0, iteration=2)}
    assert chosen({**fast, **late}, waiting="de") == "ed"
    assert chosen({**fast, **late}, waiting="abcde", taken=1) == "e"


def test_the_limit_of_slots_holds_for_them_too() -> None:
    team = {"a": at(1.0), **{name: at(0.1, iteration=-90) for name in "bcd"}}
    assert chosen(team) == "bc"
    assert chosen(team, taken=2) == ""


@pytest.mark.parametrize(
    ("slack", "rate", "median", "threshold"),
    [
        (4, 1e6, 1e6, 4),
        (4, 0.5e6, 1e6, 8),
        (4, 2e6, 1e6, 2),
        (4, 3e6, 1e6, 1),  # 1.33, rounded
        (4, 1e9, 1e6, 1),  # never below 1
        (4, 1e3, 1e6, 16),  # never above S_max
        (4, 0.0, 1e6, 16),
        (4, None, 1e6, 4),
        (4, None, None, 4),
        (0, 1e6, 1e6, 1),
        (40, None, None, 16),
    ],
)
def test_the_threshold_of_a_worker(slack: int, rate: float | None, median: float | None, threshold: int) -> None:
    assert lag_threshold(slack, rate, median, 16) == threshold


# -- the books of the slots --------------------------------------------------------------------------------------


def names(requests: list[Request]) -> str:
    return "".join(request.worker for request in requests)


TEAM = dict.fromkeys("abc", (0, 1.0))


def test_slots_are_given_kept_and_given_back() -> None:
    scheduler = FlownScheduler(4)
    for time, worker in enumerate("abc"):
        scheduler.ask(time, worker, Direction.PUSH)
    assert names(scheduler.admit(3.0, TEAM, SIZE)) == "ab"
    assert (names(scheduler.active), names(scheduler.waiting)) == ("ab", "c")
    assert scheduler.admit(4.0, TEAM, SIZE) == []
    scheduler.done(5.0, "a")
    scheduler.done(5.0, "nobody")
    assert names(scheduler.admit(5.0, TEAM, SIZE)) == "c"
    scheduler.ask(6.0, "a", Direction.PULL)
    assert scheduler.admit(6.0, TEAM, SIZE) == [] and scheduler.waiting == [wait("a", 6.0, Direction.PULL)]
    scheduler.withdraw("b")  # its link was lost
    assert names(scheduler.admit(6.0, TEAM, SIZE)) == "a"
    scheduler.remove("a")
    scheduler.remove("c")
    assert not scheduler.active and not scheduler.waiting


def test_who_asks_again_after_a_cut_waits_again() -> None:
    scheduler = FlownScheduler(4, slots=1)
    scheduler.ask(0.0, "a", Direction.PUSH)
    scheduler.ask(0.0, "b", Direction.PUSH)
    assert names(scheduler.admit(0.0, TEAM, SIZE)) == "a"
    scheduler.ask(1.0, "a", Direction.PUSH)
    assert names(scheduler.admit(1.0, TEAM, SIZE)) == "b"
    assert scheduler.waiting == [wait("a", 1.0)]


def test_who_does_not_count_waits_until_it_does() -> None:
    scheduler = FlownScheduler(4)
    scheduler.ask(0.0, "z", Direction.PUSH)
    assert scheduler.admit(0.0, TEAM, SIZE) == [] == scheduler.admit(0.0, {}, SIZE)
    assert names(scheduler.admit(1.0, {**TEAM, "z": (0, 1.0)}, SIZE)) == "z"


@pytest.mark.parametrize(
    ("slack", "behind", "first"), [(0, 0, "a"), (0, 1, "b"), (2, 7, "a"), (2, 8, "b"), (3, 11, "a"), (3, 12, "b")]
)
def test_who_is_four_times_the_slack_behind_goes_first_though_its_link_carries_nothing(
    slack: int, behind: int, first: str
) -> None:
    """And at least one iteration."""
    scheduler = FlownScheduler(slack, slots=1)
    for worker, rate_bps in (("a", 1e6), ("b", 0.0)):
        scheduler.observe(0.0, worker, Direction.PUSH, rate_bps)
        scheduler.ask(0.0, worker, Direction.PUSH)
    team = {"a": (20, 1.0), "b": (20 - behind, 1.0)}
    assert names(scheduler.admit(0.0, team, SIZE)) == first


def test_gamma_is_twice_the_median_of_the_last_complete_transfers() -> None:
    scheduler = FlownScheduler(4, slots=3)
    assert scheduler.limit_s == math.inf

    def transfer(seconds: float, *, cut: bool = False) -> None:
        scheduler.ask(0.0, "a", Direction.PUSH)
        scheduler.admit(0.0, TEAM, SIZE)
        scheduler.withdraw("a") if cut else scheduler.done(seconds, "a")

    for seconds in (1.0, 9.0, 2.0):
        transfer(seconds)
    transfer(0.001, cut=True)
    assert scheduler.limit_s == 4.0
    for _ in range(TRANSFERS):
        transfer(5.0)
    assert scheduler.limit_s == 10.0


def test_a_rate_is_the_mean_of_the_last_ten_seconds_and_not_the_newest() -> None:
    scheduler = FlownScheduler(4, slots=1)
    scheduler.ask(0.0, "a", Direction.PUSH)
    scheduler.admit(0.0, TEAM, SIZE)
    scheduler.done(1.0, "a")  # gamma_T is 2 s
    scheduler.observe(0.0, "a", Direction.PUSH, 1e4)
    scheduler.observe(5.0, "a", Direction.PUSH, 1e6)
    scheduler.observe(5.0, "b", Direction.PUSH, 6e5)
    order = []
    for now in (6.0, 11.0):
        for worker in "ab":
            scheduler.ask(now, worker, Direction.PUSH)
        order.append(names(scheduler.admit(now, TEAM, SIZE)))
        for worker in "ab":
            scheduler.withdraw(worker)
    assert order == ["b", "a"]


def test_rates_are_those_of_the_direction_and_of_the_last_ten_seconds() -> None:
    scheduler = FlownScheduler(4, slots=1)
    scheduler.ask(0.0, "a", Direction.PUSH)
    scheduler.admit(0.0, TEAM, SIZE)
    scheduler.done(1.0, "a")  # gamma_T is 2 s

    def first(now: float, direction: Direction) -> str:
        for worker in "ab":
            scheduler.ask(now, worker, direction)
        found = names(scheduler.admit(now, TEAM, SIZE))
        for worker in "ab":
            scheduler.withdraw(worker)
        return found

    scheduler.observe(0.0, "a", Direction.PUSH, 1e4)
    scheduler.observe(0.0, "b", Direction.PUSH, 1e6)
    scheduler.observe(0.0, "a", Direction.PULL, 1e6)
    scheduler.observe(0.0, "b", Direction.PULL, 1e4)
    assert first(1.0, Direction.PUSH) == "b" and first(1.0, Direction.PULL) == "a"
    # The newest is kept however old; with a newer one the old ones are forgotten.
    assert first(1000.0, Direction.PUSH) == "b"
    scheduler.observe(1000.0, "a", Direction.PUSH, 5e6)
    assert first(1000.0, Direction.PUSH) == "a"
    scheduler.observe(1000.0 + GRAIN_S / 2, "a", Direction.PUSH, 1e4)  # the same moment: the newest
    assert first(1001.0, Direction.PUSH) == "b"
    scheduler.observe(1001.0, "a", Direction.PUSH, 9e6)
    assert first(1001.5, Direction.PUSH) == "b"  # late in one of two
    assert first(1000.0 + MEMORY_S + 0.5, Direction.PUSH) == "a"
    scheduler.remove("a")
    assert first(1012.0, Direction.PUSH) == "a"  # unknown again: tried


@pytest.mark.parametrize(("slack", "slots"), [(-1, 2), (4, 0)])
def test_numbers_out_of_range_are_refused(slack: int, slots: int) -> None:
    with pytest.raises(ConfigError, match="expected a slack of 0 or more and 1 slot or more"):
        FlownScheduler(slack, slots=slots)


# -- a team ------------------------------------------------------------------------------------------------------


def live(rates: list[list[float]], slack: int, slots: int, seed: int, seconds: float) -> tuple[list[int], int]:
    """Workers that compute, push and pull for so long; finished iterations of each, and most transfers at once."""
    chance = random.Random(seed)
    scheduler = FlownScheduler(slack, slots=slots)
    iterations = [0] * len(rates)
    events: list[tuple[float, int, str]] = [(0.0, who, "computed") for who in range(len(rates))]
    most = 0
    while events and events[0][0] < seconds:
        now, who, what = heapq.heappop(events)
        name = str(who)
        if what == "computed":
            scheduler.ask(now, name, Direction.PUSH)
        elif what == "push":
            scheduler.done(now, name)
            iterations[who] += 1
            scheduler.ask(now, name, Direction.PULL)
        else:
            scheduler.done(now, name)
            heapq.heappush(events, (now + chance.uniform(0.1, 2.0), who, "computed"))
        team = {str(k): (iteration, 1.0) for k, iteration in enumerate(iterations)}
        for request in scheduler.admit(now, team, SIZE):
            rate = chance.choice(rates[int(request.worker)])
            ends = now + 8 * SIZE / rate
            scheduler.observe(ends, request.worker, request.direction, rate)
            heapq.heappush(events, (ends, int(request.worker), request.direction.value))
        most = max(most, len(scheduler.active))
        assert scheduler.active or not scheduler.waiting  # somebody always goes on
    return iterations, most


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from([2e4, 2e5, 1e6, 2e7]), min_size=1, max_size=3), min_size=1, max_size=6),
    st.integers(0, 5),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_everybody_goes_on_for_ever_and_the_slots_are_never_exceeded(
    rates: list[list[float]], slack: int, slots: int, seed: int
) -> None:
    half, _ = live(rates, slack, slots, seed, 3000.0)
    whole, most = live(rates, slack, slots, seed, 6000.0)
    assert most <= slots
    assert all(later > earlier > 0 for earlier, later in zip(half, whole, strict=True))


def test_a_slow_worker_falls_behind_and_holds_nobody_back() -> None:
    """There is no gate, and so no bound on staleness (algorithms.md section 4)."""
    alone, _ = live([[5e6]] * 3, 2, 2, 0, 2000.0)
    together, _ = live([[5e6]] * 3 + [[1e6]], 2, 2, 0, 2000.0)
    assert min(together[:3]) > 0.7 * min(alone)
    assert 150 < together[3] < 0.7 * min(together[:3])
