"""Rehearsal: what is kept of a stream, and what is drawn of that."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.errors import ConfigError, LocalProtocolError
from rowcast.streams import MOST_REHEARSED, Importance, Reservoir, parse_rehearsal

KINDS = [Reservoir, Importance]

#: What is done to a rehearsal: so many samples come, or so many are drawn and their losses told.
CALLS = st.lists(
    st.one_of(st.tuples(st.just("add"), st.integers(0, 40)), st.tuples(st.just("draw"), st.integers(0, 50)))
)


def played(kind, calls, capacity, seed):
    """What each draw gave, and what is kept in the end; after each call the bounds hold."""
    rehearsal, came, drawn = kind(capacity, seed), 0, []
    for call, count in calls:
        if call == "add":
            rehearsal.add(range(came, came + count), [1 + item % 7 for item in range(came, came + count)])
            came += count
        else:
            drawn.append(rehearsal.draw(count))
            assert len(set(drawn[-1])) == len(drawn[-1]) == min(count, len(rehearsal))
            assert all(0 <= item < came for item in drawn[-1])
            rehearsal.told([item % 3 for item in drawn[-1]])
        assert len(rehearsal) == min(capacity, came) and rehearsal.seen == came and rehearsal.capacity == capacity
    return drawn, sorted(rehearsal.draw(capacity))


@pytest.mark.parametrize("kind", KINDS)
@given(calls=CALLS, capacity=st.integers(1, 30), seed=st.integers(0, 2**64))
def test_memory_is_bounded_and_the_same_calls_give_the_same(kind, calls, capacity, seed):
    assert played(kind, calls, capacity, seed) == played(kind, calls, capacity, seed)


@given(calls=CALLS, capacity=st.integers(1, 30), seed=st.integers(0, 2**32))
def test_what_a_reservoir_keeps_does_not_depend_on_draws_or_portions(calls, capacity, seed):
    _, kept = played(Reservoir, calls, capacity, seed)
    came = sum(count for call, count in calls if call == "add")
    at_once = Reservoir(capacity, seed)
    at_once.add(range(came))
    assert sorted(at_once.draw(capacity)) == kept


def shares(made, runs):
    """How often each of 20 samples was in what ``made`` gives for a seed, over so many seeds."""
    counts = np.zeros(20)
    for seed in range(runs):
        counts[made(seed)] += 1
    return counts / runs


def assert_close(found, expected, runs):
    """Within five standard deviations of a share that so many runs estimate."""
    expected = np.asarray(expected)
    assert np.all(np.abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / runs)), (found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_each_sample_of_the_stream_is_kept_with_the_same_chance(kind):
    """However long ago it came; of losses that are not known each counts as much as the others."""

    def kept(seed):
        rehearsal = kind(6, seed)
        rehearsal.add(range(12))
        rehearsal.add(range(12, 20))
        return rehearsal.draw(6)

    assert_close(shares(kept, 3000), np.full(20, 6 / 20), 3000)


@pytest.mark.parametrize("kind", KINDS)
def test_each_that_is_kept_is_drawn_with_the_same_chance(kind):
    def drawn(seed):
        rehearsal = kind(20, seed)
        rehearsal.add(range(20))
        return rehearsal.draw(5)

    assert_close(shares(drawn, 3000), np.full(20, 5 / 20), 3000)


def test_pairs_are_kept_as_often_as_of_a_uniform_draw():
    """Algorithm R is exact: not only each sample, each set of them is as likely as the others."""
    runs, counts = 3000, {}
    for seed in range(runs):
        reservoir = Reservoir(2, seed)
        reservoir.add(range(6))
        pair = tuple(sorted(reservoir.draw(2)))
        counts[pair] = counts.get(pair, 0) + 1
    assert len(counts) == math.comb(6, 2)
    assert_close(np.array(list(counts.values())) / runs, np.full(15, 1 / 15), runs)


def test_importance_draws_in_proportion_to_the_losses():
    losses = np.arange(1, 21, dtype=float)

    def drawn(seed):
        importance = Importance(20, seed)
        importance.add(range(20), losses.tolist())
        return importance.draw(1)

    assert_close(shares(drawn, 4000), losses / losses.sum(), 4000)


def test_importance_draws_by_the_loss_that_it_was_told_last():
    """One that has become easy is drawn seldom, one that is not a number stays as it was."""

    def drawn(seed):
        importance = Importance(20, seed)
        importance.add(range(20), [1.0] * 20)
        importance.told([9.0 if item < 2 else math.nan if item < 4 else 1.0 for item in importance.draw(20)])
        return importance.draw(1)

    assert_close(shares(drawn, 4000), np.array([9.0] * 2 + [1.0] * 18) / 36, 4000)


def test_importance_keeps_the_costly_ones_and_lets_the_easy_ones_go():
    """Ten of a hundred cost twenty times as much; of half of these it is told later that they have become easy."""

    def kept(seed):
        importance = Importance(10, seed)
        importance.add(range(10), [20.0] * 10)
        drawn = importance.draw(10)
        importance.told([0.0 if item < 5 else 20.0 for item in drawn])
        importance.add(range(10, 20), [1.0] * 10)
        return importance.draw(10)

    found = shares(kept, 1000)
    assert found[5:10].min() > 0.9 and found[:5].max() < 0.1 and found[10:].min() > 0.35


def test_a_sample_of_unknown_loss_counts_as_the_costliest():
    def drawn(seed):
        importance = Importance(20, seed)
        importance.add(range(18), [1.0] * 17 + [4.0])
        importance.add([18, 19])
        return importance.draw(1)

    assert_close(shares(drawn, 4000), np.array([1.0] * 17 + [4.0] * 3) / 29, 4000)


def test_what_is_learned_perfectly_is_still_drawn():
    importance = Importance(5, 0)
    importance.add(range(5), [0.0, 0.0, -1.0, 0.0, 0.0])
    assert sorted(importance.draw(5)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_losses_that_belong_to_nothing_are_refused(kind):
    rehearsal = kind(4, 0)
    with pytest.raises(LocalProtocolError, match="a draw that nothing was added since"):
        rehearsal.told([])
    rehearsal.add("abc")
    rehearsal.draw(2)
    with pytest.raises(ConfigError, match="told: expected 2 losses, got 3"):
        rehearsal.told([1.0, 1.0, 1.0])
    rehearsal.told([1.0, 1.0])
    rehearsal.add("d")
    with pytest.raises(LocalProtocolError, match="a draw that nothing was added since"):
        rehearsal.told([1.0, 1.0])
    with pytest.raises(ConfigError, match="add: expected a loss for each of 2 samples, got 1"):
        rehearsal.add("ef", [1.0])
    assert rehearsal.seen == 4, "what is refused changes nothing"
    with pytest.raises(ConfigError, match="draw: expected 0 or more samples, got -1"):
        rehearsal.draw(-1)


@pytest.mark.parametrize(
    ("text", "kind", "capacity"),
    [
        ("reservoir:200", Reservoir, 200),
        (" importance:1 ", Importance, 1),
        ("200", Reservoir, 200),
        (200, Reservoir, 200),
        (f"reservoir:{MOST_REHEARSED}", Reservoir, MOST_REHEARSED),
        ("off", None, 0),
        (0, None, 0),
        (None, None, 0),
    ],
)
def test_a_text_says_what_is_kept(text, kind, capacity):
    found = parse_rehearsal(text)
    assert found is None if kind is None else type(found) is kind and found.capacity == capacity


def test_the_seed_decides():
    kept = []
    for seed in (0, 0, 1):
        rehearsal = parse_rehearsal("reservoir:10", seed)
        rehearsal.add(range(1000))
        kept.append(rehearsal.draw(10))
    assert kept[0] == kept[1] != kept[2]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("reservoire:200", "rehearsal 'reservoire:200' is unknown; did you mean 'reservoir:200'"),
        ("", "rehearsal '' is unknown"),
        ("reservoir", "rehearsal reservoir: expected 1..1000000 samples, as in reservoir:200"),
        ("reservoir:0", "rehearsal reservoir:0: expected 1..1000000 samples"),
        ("importance:1000001", "rehearsal importance:1000001: expected 1..1000000 samples"),
        ("reservoir:2e3", "rehearsal reservoir:2e3: expected 1..1000000 samples"),
        (-5, "rehearsal '-5' is unknown"),
        (True, "rehearsal 'True' is unknown"),
    ],
)
def test_a_text_that_says_nothing_is_refused(text, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        parse_rehearsal(text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("capacity", "seed"), [(0, 0), (True, 0), (MOST_REHEARSED + 1, 0), (1.5, 0), (5, -1), (5, "a")]
)
def test_a_capacity_or_a_seed_out_of_range_is_refused(kind, capacity, seed):
    with pytest.raises(ConfigError, match=r"rehearsal: (capacity|seed): expected"):
        kind(capacity, seed)
