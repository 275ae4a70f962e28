"""A bound on the size of an update: so many times the median of a worker's last ones."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from rowcast.delivery.residual import Residual
from rowcast.errors import ConfigError
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.training.proposal.contribution import Contribution
from rowcast.training.proposal.replica import Replica
from rowcast.training.proposal.trust import Trust

LAYOUT = Layout.from_shapes([("weight", (3, 4)), ("bias", (3,))])


def shares(sizes: list[float], most: float) -> list[float]:
    trust = Trust()
    return [trust.share(size, most) for size in sizes]


def test_what_is_larger_is_shortened_to_the_bound_once_there_are_enough() -> None:
    assert shares([1.0] * 7 + [9.0], 2.0) == [1.0] * 8, "seven updates do not tell what is usual"
    assert shares([1.0] * 8 + [2.0, 8.0], 2.0) == [1.0] * 9 + [0.25]
    assert shares([1.0] * 8 + [8.0], 0.0) == [1.0] * 9


def test_what_was_shortened_is_remembered_as_it_counted() -> None:
    """So a leap that stays is followed by doubling, in about as many updates as are remembered."""
    trust = Trust()
    counted = [trust.share(size, 2.0) * size for size in [1.0] * 32 + [100.0] * 200]
    assert counted[32] == 2.0 and counted[-1] == 100.0
    assert all(later <= 2 * max(counted[:k]) for k, later in enumerate(counted) if k)


def test_a_momentum_that_builds_up_is_never_shortened() -> None:
    for momentum in (0.5, 0.9, 0.95):
        sizes = [(1 - momentum ** (k + 1)) / (1 - momentum) for k in range(200)]
        assert shares(sizes, 2.0) == [1.0] * 200


def test_nothing_and_no_number_leave_what_is_usual_alone() -> None:
    assert shares([0.0] * 10 + [5.0], 2.0) == [1.0] * 11
    assert shares([1.0] * 8 + [math.inf, math.nan, 1.0], 2.0) == [1.0] * 11


def contribution() -> tuple[Contribution, Residual, Replica]:
    replica, residual = Replica(LAYOUT, LAYOUT.zeros()), Residual(LAYOUT, LAYOUT.zeros())
    return Contribution(replica, residual), residual, replica


def offer(made: Contribution, policy: str, update: float, weight: float = 0.25) -> None:
    values = np.full(LAYOUT.elements, -update, dtype=np.float32)
    made.add(parse_policy(policy), [values[spec.start : spec.stop] for spec in LAYOUT.tensors], weight)
    made.end(parse_policy(policy))


def test_the_books_hold_what_counted() -> None:
    made, residual, replica = contribution()
    policy = "rowcast?trust=4"
    for _ in range(8):
        offer(made, policy, 1.0)
    before, size = residual.vector.copy(), made.size
    offer(made, policy, 64.0)
    assert made.share == pytest.approx(4 / 64, rel=1e-6)
    assert np.abs(residual.vector - before).sum() == pytest.approx(made.size, rel=1e-5)
    assert made.size <= 4.01 * size
    booked = [replica.computed[k] for k in range(LAYOUT.rows)]
    kept = [residual.vector[LAYOUT.offsets[k] : LAYOUT.offsets[k + 1]].sum() for k in range(LAYOUT.rows)]
    assert booked == pytest.approx(kept, rel=1e-5)
    residual.measure()
    sums = [np.abs(residual.vector[LAYOUT.offsets[k] : LAYOUT.offsets[k + 1]]).sum() for k in range(LAYOUT.rows)]
    assert residual.abs_sums.tolist() == pytest.approx(sums, rel=1e-5)


def test_weights_and_learning_rates_are_no_growth() -> None:
    made, _, _ = contribution()
    chance = random.Random(0)
    for _ in range(40):
        made.inner_lr = 10.0 ** chance.uniform(-4, 0)
        offer(made, f"rowcast?outer_lr={chance.uniform(1, 2)}", made.inner_lr, weight=chance.uniform(0.01, 1))
        assert made.share == 1.0


def test_no_other_policy_has_a_bound() -> None:
    for name in ("bsp", "ssp:4", "asp", "rog:4", "flown:4", "localsgd:8", "diloco:8", "sparta", "demo"):
        assert parse_policy(name).trust == 0
    assert parse_policy("rowcast").trust == 2
    assert parse_policy("bsp?trust=3").trust == 3
    for wrong in ("0.5", "-1", "inf", "nan"):
        with pytest.raises(ConfigError, match="trust"):
            parse_policy(f"rowcast?trust={wrong}")
    with pytest.raises(ConfigError, match="would keep its momentum; take trust=0 or outer_momentum=0"):
        parse_policy("rowcast?outer_momentum=0.5")
    assert parse_policy("rowcast?outer_momentum=0.5&trust=0").outer_momentum == 0.5
