"""Minimum cut of a network: Dinic's algorithm, with distances counted from the sink.

Source: Dinitz, "Algorithm for solution of a problem of maximum flow in networks with power estimation", 1970.
Capacities are whole numbers, so that the cut is exact and nothing depends on rounding.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.rows.kernels import compiled_serial

__all__ = ["SINK", "SOURCE", "Arcs", "minimum_cut"]

Ints = npt.NDArray[np.int64]

#: The first two nodes of each network.
SOURCE, SINK = 0, 1


class Arcs:
    """Which nodes of a network are connected; what the connections hold is given to :func:`minimum_cut`.

    Args:
        nodes: how many there are, source and sink included.
        tails, heads: int64 [arcs]: where each arc begins and ends.
    """

    def __init__(self, nodes: int, tails: Ints, heads: Ints) -> None:
        # Arc 2 * i is the i-th one, 2 * i + 1 the way back.
        self.heads = np.stack([heads, tails], axis=1).ravel()
        begins = np.stack([tails, heads], axis=1).ravel()
        self.order = np.argsort(begins, kind="stable").astype(np.int64)
        self.starts = np.searchsorted(begins[self.order], np.arange(nodes + 1)).astype(np.int64)


def minimum_cut(arcs: Arcs, capacities: Ints) -> tuple[int, npt.NDArray[np.bool_]]:
    """The least total capacity of arcs whose removal parts source and sink.

    Args:
        arcs: the network.
        capacities: int64 [arcs], 0 or more.

    Returns:
        The capacity of the cut, and bool [nodes]: which nodes are on the side of the sink. Of several minimum cuts it
        is the one with the fewest nodes there.
    """
    residual = np.zeros(2 * len(capacities), dtype=np.int64)
    residual[::2] = capacities
    flow, distances = _dinic(arcs.starts, arcs.order, arcs.heads, residual)
    return int(flow), distances >= 0


@compiled_serial
def _distances(starts: Ints, order: Ints, heads: Ints, residual: Ints, distance: Ints, queue: Ints) -> None:
    """Steps from each node to the sink over arcs with room, -1 where there is no way."""
    distance[:] = -1
    distance[SINK] = 0
    queue[0] = SINK
    first, behind = 0, 1
    while first < behind:
        node = queue[first]
        first += 1
        for at in range(starts[node], starts[node + 1]):
            arc = order[at]
            before = heads[arc]
            if distance[before] < 0 and residual[arc ^ 1] > 0:
                distance[before] = distance[node] + 1
                queue[behind] = before
                behind += 1


@compiled_serial
def _augment(starts: Ints, order: Ints, heads: Ints, residual: Ints, distance: Ints, cursor: Ints, path: Ints) -> int:
    """Fill all shortest ways from source to sink; gives the flow that was added."""
    added = 0
    length = 0
    node = SOURCE
    while True:
        if node == SINK:
            room = residual[path[0]]
            for step in range(1, length):
                room = min(room, residual[path[step]])
            added += room
            full = -1
            for step in range(length):
                arc = path[step]
                residual[arc] -= room
                residual[arc ^ 1] += room
                if full < 0 and residual[arc] == 0:
                    full = step
            length = full
            node = heads[path[full] ^ 1]
            continue
        while cursor[node] < starts[node + 1]:
            arc = order[cursor[node]]
            if residual[arc] > 0 and distance[heads[arc]] == distance[node] - 1:
                break
            cursor[node] += 1
        if cursor[node] < starts[node + 1]:
            path[length] = order[cursor[node]]
            length += 1
            node = heads[path[length - 1]]
        elif length == 0:
            return added
        else:
            length -= 1
            node = heads[path[length] ^ 1]
            cursor[node] += 1


@compiled_serial
def _dinic(starts: Ints, order: Ints, heads: Ints, residual: Ints) -> tuple[int, Ints]:
    nodes = len(starts) - 1
    distance, queue, path = np.empty(nodes, np.int64), np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    flow = 0
    _distances(starts, order, heads, residual, distance, queue)
    while distance[SOURCE] >= 0:
        flow += _augment(starts, order, heads, residual, distance, starts[:-1].copy(), path)
        _distances(starts, order, heads, residual, distance, queue)
    return flow, distance
