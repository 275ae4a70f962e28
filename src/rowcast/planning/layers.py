"""Layer splits: which operators the robot computes, and which the server.

:func:`pipeline` finds the best split of any graph as a minimum cut, :func:`chain` the best one that cuts the order of
operators at one place, as Neurosurgeon does, and :func:`heavy_load` the place with the most answers a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rowcast.graphs import Graph
from rowcast.planning.costs import CostModel, Floats
from rowcast.planning.flow import SINK, SOURCE, Arcs, Ints, minimum_cut
from rowcast.planning.plan import LATENCY, Objective, Plan

__all__ = ["Prefixes", "chain", "heavy_load", "local", "offload", "pipeline"]

#: Parts of a second (with another objective: of its unit) that are one unit of capacity.
UNIT = 1e-9
#: More than any cut costs, and far from the end of int64: 2.9 years in nanoseconds, many of which can be added up.
INFINITE = 1 << 56
#: No tensor or operator costs more, so that thousands of them cost less than that.
MOST = 1 << 44


def local(costs: CostModel, objective: Objective = LATENCY) -> Plan:
    """Everything on the robot; nothing travels. ``objective`` changes nothing."""
    return costs.plan("local", np.zeros(len(costs.graph), dtype=bool))


def offload(costs: CostModel, objective: Objective = LATENCY) -> Plan:
    """The input goes up, the server computes, the answer comes down; ``objective`` decides on codecs only."""
    return costs.plan("offload", from_cut(costs.graph, 0), costs.codings(objective))


def pipeline(costs: CostModel, objective: Objective = LATENCY) -> Plan:
    """The best layer split that there is, serial: a minimum cut, each tensor priced once in each direction.

    Source: DADS (Hu et al., INFOCOM 2019), corrected: an operator on the server costs its time there, one on the
    robot its time there, a tensor that crosses its transfer, up or down. Equal costs: the robot computes.
    """
    network = _network(costs.graph)
    codings = costs.codings(objective)

    def priced(elapsed_s: Floats, robot_s: Floats, link_s: Floats) -> Ints:
        joules = costs.joules(elapsed_s, robot_s, link_s)
        return np.rint(np.minimum(objective.value(elapsed_s, joules) / UNIT, MOST)).astype(np.int64)

    profile, nothing = costs.profile, np.zeros(len(costs.graph))
    robot = priced(profile.robot_s, profile.robot_s, nothing)
    server = priced(profile.server_s, nothing, nothing)
    # What an operator costs on either side decides nothing: only the rest has to flow.
    both = np.minimum(robot, server)
    prices = np.stack(
        [
            server - both,
            robot - both,
            *(priced(way.elapsed_s, way.robot_s, way.link_s) for way in (codings.up, codings.down)),
        ]
    )
    capacities = np.full(len(network.kinds), INFINITE, dtype=np.int64)
    finite = network.kinds < len(prices)
    capacities[finite] = prices[network.kinds[finite], network.of[finite]]
    _, beyond = minimum_cut(network.arcs, capacities)
    return costs.plan("pipeline", beyond[2 : 2 + len(costs.graph)], codings)


def chain(costs: CostModel, objective: Objective = LATENCY) -> Plan:
    """The best of all places at which the order of operators can be cut: what is before it stays on the robot.

    Source: Neurosurgeon (Kang et al., ASPLOS 2017). On a graph that is no chain it can miss the best split.
    """
    prefixes = Prefixes.of(costs, objective)
    best = prefixes.best(objective.value(prefixes.latency_s, prefixes.joules(costs)))
    return costs.plan("chain", from_cut(costs.graph, best), costs.codings(objective))


def heavy_load(costs: CostModel, objective: Objective = LATENCY) -> Plan:
    """The place to cut at which most inputs a second are answered, where they never run out.

    It minimises ``max(robot, link, server)``, up and down on one channel; of equal ones the first that the objective
    prefers. Finding the best cut of any graph is NP-hard (DADS); this looks at cuts of the order only.
    """
    prefixes = Prefixes.of(costs, objective)
    busiest = np.maximum(np.maximum(prefixes.robot_s, prefixes.server_s), prefixes.link_s)
    busiest[~prefixes.allowed] = np.inf
    value = objective.value(prefixes.latency_s, prefixes.joules(costs))
    value[busiest > busiest.min()] = np.inf
    return costs.plan("heavy load", from_cut(costs.graph, prefixes.best(value)), costs.codings(objective))


@dataclass(frozen=True, eq=False)
class Prefixes:
    """All cuts of the order of operators at one place: cut ``c`` has operators ``c`` and later on the server.

    Inputs of the model stay on the robot in each of them.

    Attributes:
        allowed: bool [ops + 1], not between operators that are joined.
        latency_s: float64 [ops + 1], of the serial plans.
        robot_s, server_s: float64 [ops + 1], computation on each side, coding included.
        link_s: float64 [ops + 1], transfers in both directions.
        computed_s, served_s: float64 [ops + 1], computation on each side without coding.
    """

    allowed: npt.NDArray[np.bool_]
    latency_s: Floats
    robot_s: Floats
    server_s: Floats
    link_s: Floats
    computed_s: Floats
    served_s: Floats

    @staticmethod
    def of(costs: CostModel, objective: Objective) -> Prefixes:
        """Those of a cost model; O(operators + edges)."""
        graph, profile = costs.graph, costs.profile
        inputs = list(graph.inputs)
        at_robot = np.concatenate([[0.0], np.cumsum(profile.robot_s)])
        at_server = np.concatenate([np.cumsum(profile.server_s[::-1])[::-1], [0.0]])
        # Inputs are computed on the robot wherever the cut is.
        for index in inputs:
            at_robot[: index + 1] += profile.robot_s[index]
            at_server[: index + 1] -= profile.server_s[index]
        codings = costs.codings(objective)
        up, down = (
            np.stack([way.elapsed_s, way.robot_s, way.server_s, way.link_s], axis=1)
            for way in (codings.up, codings.down)
        )
        elapsed_s, robot_s, server_s, link_s = (crossing_up(graph, up) + crossing_down(graph, down)).T
        return Prefixes(
            _allowed(graph),
            at_robot + at_server + elapsed_s,
            at_robot + robot_s,
            at_server + server_s,
            link_s,
            at_robot,
            at_server,
        )

    def joules(self, costs: CostModel) -> Floats:
        """float64 [ops + 1]: what the robot spends."""
        return costs.joules(self.latency_s, self.robot_s, self.link_s)

    def best(self, value: Floats) -> int:
        """The allowed cut with the least value; of equal ones the one with most on the robot."""
        least = np.where(self.allowed, value, np.inf)
        return len(least) - 1 - int(np.argmin(least[::-1]))


def crossing_up(graph: Graph, amount: Floats) -> Floats:
    """For each cut of the order the sum of ``amount`` (float64 [ops] or [ops, k]) over the tensors that go up."""
    steps = np.zeros((len(graph) + 2, *amount.shape[1:]))
    for index, readers in enumerate(graph.consumers):
        if readers:
            steps[index + 1 if graph.reads[index] else 0] += amount[index]
            steps[max(readers) + 1] -= amount[index]
    total: Floats = np.cumsum(steps, axis=0)[:-1]
    return total


def crossing_down(graph: Graph, amount: Floats) -> Floats:
    """For each cut of the order the sum of ``amount`` (float64 [ops] or [ops, k]) over the tensors that come down."""
    total = np.zeros((len(graph) + 1, *amount.shape[1:]))
    for index in graph.outputs:
        if graph.reads[index]:
            total[: index + 1] += amount[index]
    return total


def from_cut(graph: Graph, cut: int) -> npt.NDArray[np.bool_]:
    """bool [ops]: operators from ``cut`` on, but for the inputs of the model."""
    mask = np.arange(len(graph)) >= cut
    mask[list(graph.inputs)] = False
    return mask


def _allowed(graph: Graph) -> npt.NDArray[np.bool_]:
    allowed = np.ones(len(graph) + 1, dtype=bool)
    for index, op in enumerate(graph.ops):
        if op.joined:
            allowed[op.inputs[0] + 1 : index + 1] = False
    return allowed


@dataclass(frozen=True, eq=False)
class _Network:
    """The minimum cut's network of a graph.

    Attributes:
        kinds: int64 [arcs]: which price is an arc's capacity: 0 server, 1 robot, 2 up, 3 down, 4 infinite.
        of: int64 [arcs]: the operator whose price it is.
    """

    arcs: Arcs
    kinds: Ints
    of: Ints


SERVER, ROBOT, UP, DOWN, PINNED = range(5)


@lru_cache(maxsize=8)
def _network(graph: Graph) -> _Network:
    """Source side: robot. Operators are nodes 2 and up; a tensor that several operators read has a node for each
    direction, so that it is paid once."""
    arcs: list[tuple[int, int, int, int]] = []
    nodes = 2 + len(graph)
    answer = set(graph.outputs)
    for index, readers in enumerate(graph.consumers):
        node = 2 + index
        arcs.append((SOURCE, node, SERVER if graph.reads[index] else PINNED, index))
        arcs.append((node, SINK, ROBOT, index))
        if len(readers) == 1 and index not in answer:
            arcs.append((node, 2 + readers[0], UP, index))
            arcs.append((2 + readers[0], node, DOWN, index))
        elif readers or index in answer:
            up, down = nodes, nodes + 1
            nodes += 2
            arcs.append((node, up, UP, index))
            arcs.append((down, node, DOWN, index))
            for reader in readers:
                arcs.append((up, 2 + reader, PINNED, index))
                arcs.append((2 + reader, down, PINNED, index))
            if index in answer:
                arcs.append((SOURCE, down, PINNED, index))
        op = graph.ops[index]
        if op.joined:
            arcs.append((2 + op.inputs[0], node, PINNED, index))
            arcs.append((node, 2 + op.inputs[0], PINNED, index))
    tails, heads, kinds, of = np.array(arcs, dtype=np.int64).T
    return _Network(Arcs(nodes, np.ascontiguousarray(tails), np.ascontiguousarray(heads)), kinds, of)
