"""What no layer split can be faster than, however robot, link and server overlap."""

from __future__ import annotations

import math
from collections.abc import Callable

from rowcast.planning.costs import CostModel
from rowcast.planning.layers import Prefixes, crossing_up
from rowcast.planning.plan import LATENCY

__all__ = ["overlap_bound_s"]

GOLDEN = (math.sqrt(5) - 1) / 2
#: Steps of a search; each leaves 0.62 of the range.
STEPS = 45


def overlap_bound_s(costs: CostModel) -> float:
    """The latency (s) where work could be divided at will and nothing ever waited.

    Each share of the work is cut at any one place of the order of operators; robot, link up and server are busy all the
    time and none longer than the bound; no row is computed or sent twice, coding and the way down are free::

        minimise T  with  sum(w) = 1, w >= 0,  sum(w * robot) <= T, sum(w * up) <= T, sum(w * server) <= T

    What is searched is the dual, ``max over a + b + c = 1 of min over cuts of (a * robot + b * up + c * server)``: each
    of its values is a bound, the best one is that of the linear programme.
    """
    prefixes = Prefixes.of(costs, LATENCY)
    up_s = crossing_up(costs.graph, costs.least_link.up.link_s)
    robot_s, up_s, server_s = (amount[prefixes.allowed] for amount in (prefixes.computed_s, up_s, prefixes.served_s))

    def least(first: float, second: float) -> float:
        rest = second * up_s + (1 - second) * server_s
        return float((first * robot_s + (1 - first) * rest).min())

    return _highest(lambda first: _highest(lambda second: least(first, second)))


def _highest(concave: Callable[[float], float]) -> float:
    """The maximum of a concave function on 0 .. 1, by golden section."""
    low, high = 0.0, 1.0
    left, right = high - GOLDEN, low + GOLDEN
    at_left, at_right = concave(left), concave(right)
    best = max(concave(low), concave(high), at_left, at_right)
    for _ in range(STEPS):
        if at_left < at_right:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = concave(right)
        else:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = concave(left)
        best = max(best, at_left, at_right)
    return best
