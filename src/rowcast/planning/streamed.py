"""Layer splits whose tensors travel row by row: robot, link and server work at the same time, on other rows.

The input is cut into slabs of rows. What the row rules allow of each operator after each slab is computed then, and
the new rows of a tensor that crosses follow the earlier ones over the link. Clocks of robot, link up, server and link
down are advanced slab by slab::

    robot += own work;  up = max(up, robot) + transfer;  server = max(server, up + messages) + its work;  down likewise

An operator takes ``t(rows) = max(t * share, min(t, floor))`` for a share of its rows: not less than the launch of a
kernel, and not more than all rows at once take. One slab is the serial plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rowcast.errors import ConfigError
from rowcast.graphs import Graph
from rowcast.planning.costs import LATENCY, CostModel, Floats, Objective, Plan, ServerMask
from rowcast.planning.layers import Prefixes, crossing_down, crossing_up, from_cut, pipeline

__all__ = ["SLABS", "streamed", "streamed_plan"]

#: Numbers of slabs that :func:`streamed` tries.
SLABS = (2, 4, 8, 16)


def streamed(costs: CostModel, objective: Objective = LATENCY, slabs: Sequence[int] = SLABS) -> Plan:
    """The best of all places to cut the order of operators, of the minimum cut, and of several numbers of slabs.

    Where no streamed plan is better than the best serial one it is that one, with ``slabs`` 1: streaming is never
    chosen where it would lose.

    Args:
        slabs: numbers of slabs to try, each 1 or more.

    Raises:
        ConfigError: a number of slabs below 1.
    """
    serial = pipeline(costs, objective)
    mask = costs.mask(serial.on_server)
    best = dataclasses.replace(serial, method="streamed")
    allowed = Prefixes.of(costs)
    for count in slabs:
        work = _Slabs.of(costs, count)
        clocks = _prefix_clocks(costs, work)
        value = objective.value(clocks.latency_s, clocks.joules(costs))
        plans = [_priced(costs, from_cut(costs.graph, allowed.best(value)), work)]
        if not _returns(costs, mask):
            plans.append(_priced(costs, mask, work))
        best = min([best, *plans], key=objective.of)
    return best


def streamed_plan(costs: CostModel, on_server: ServerMask, slabs: int) -> Plan:
    """The plan with these operators (bool [ops]) on the server and so many slabs, priced; 1 slab: the serial plan.

    Raises:
        ConfigError: fewer than one slab, or several and the robot would go on with what the server made.
    """
    if _returns(costs, on_server):
        if slabs == 1:
            return costs.plan("streamed", on_server)
        raise ConfigError("streamed: the robot would compute on what comes back from the server; use a serial plan")
    return _priced(costs, on_server, _Slabs.of(costs, slabs))


def _returns(costs: CostModel, on_server: ServerMask) -> bool:
    """Whether an operator on the robot reads a tensor that is made on the server."""
    made, read = costs.edges
    return bool((on_server[made] & ~on_server[read]).any())


@lru_cache(maxsize=32)
def schedule(graph: Graph, slabs: int) -> tuple[Floats, Floats]:
    """How far each operator is after each slab: it follows from the row rules alone.

    Returns:
        float64 [ops, slabs] twice: the share of its tensor's rows that are computed, and the share of its work that is
        done, which is more where an operator sums up rows as they come. All are 1 after the last slab.

    Raises:
        ConfigError: fewer than one slab.
    """
    if slabs < 1:
        raise ConfigError(f"streamed: expected 1 slab or more, got {slabs}")
    done, worked = np.empty((2, len(graph), slabs))
    for slab in range(slabs):
        rows = [0] * len(graph)
        for index, op in enumerate(graph.ops):
            if graph.reads[index]:
                there = graph.read_rows(index, rows)
                rows[index] = op.rule.can(there)
            else:
                there = rows[index] = -(-op.rows * (slab + 1) // slabs)
            done[index, slab] = rows[index] / op.rows
            worked[index, slab] = there / op.rule.rows if op.rule.incremental else done[index, slab]
    return done, worked


@dataclass(frozen=True, eq=False)
class _Slabs:
    """What each slab brings.

    Attributes:
        new: float64 [ops, slabs]: share of each tensor's rows that the slab completes.
        robot_s, server_s: float64 [ops, slabs]: what they take.
    """

    new: Floats
    robot_s: Floats
    server_s: Floats

    @staticmethod
    def of(costs: CostModel, slabs: int) -> _Slabs:
        profile = costs.profile
        done, worked = schedule(costs.graph, slabs)
        share = np.diff(worked, axis=1, prepend=0.0)
        return _Slabs(
            np.diff(done, axis=1, prepend=0.0),
            _seconds(share, profile.robot_s, profile.robot_floor_s),
            _seconds(share, profile.server_s, profile.server_floor_s),
        )


def _seconds(share: Floats, whole_s: Floats, floor_s: float) -> Floats:
    """float64 [ops, slabs]: ``max(t * share, min(t, floor))`` where there is something to do."""
    whole = whole_s[:, None]
    times: Floats = np.where(share > 0, np.maximum(whole * share, np.minimum(whole, floor_s)), 0.0)
    return times


@dataclass(frozen=True, eq=False)
class _Clocks:
    """float64 [plans]: when the answer is there, and how long robot, server and link worked."""

    latency_s: Floats
    robot_s: Floats
    server_s: Floats
    up_s: Floats
    down_s: Floats

    def joules(self, costs: CostModel) -> Floats:
        return costs.joules(self.latency_s, self.robot_s, self.up_s + self.down_s)


@dataclass(frozen=True, eq=False)
class _Transfers:
    """What travels in one direction.

    A message's own cost (half of a round trip) is paid once for each tensor, however many slabs it travels in: the
    slabs follow each other at once.

    Attributes:
        link_s: float64 [plans, slabs]: how long the link is busy.
        rows: float64 [plans, slabs]: tensors of which new rows travel.
        message_s: float64 [plans]: of all tensors.
    """

    link_s: Floats
    rows: Floats
    message_s: Floats

    def arrive(self, clock: Floats, ready: Floats, slab: int) -> tuple[Floats, Floats]:
        """The link's clock behind a slab that is ready then, and when the slab is there."""
        sends = self.rows[:, slab] > 0.5
        after = np.where(sends, np.maximum(clock, ready) + self.link_s[:, slab], clock)
        return after, np.where(sends, after + self.message_s, 0.0)


def _per_tensor(costs: CostModel, new: Floats, s_per_byte: float) -> Floats:
    """float64 [ops, slabs]: how long the link is busy with the new rows of each tensor."""
    frames = new > 0
    frames[np.arange(len(new)), frames.argmax(axis=1)] = False  # its first frame is the message that is paid anyway
    times: Floats = costs.bytes[:, None] * new * s_per_byte + costs.link.frame_s * frames
    return times


def _prefix_clocks(costs: CostModel, work: _Slabs) -> _Clocks:
    """Those of all cuts of the order, [ops + 1]."""
    graph = costs.graph
    robot_s, server_s = np.array(work.robot_s), np.array(work.server_s)
    inputs = list(graph.inputs)
    always = robot_s[inputs].sum(axis=0)
    robot_s[inputs] = server_s[inputs] = 0.0
    zero = np.zeros((1, robot_s.shape[1]))
    messages = np.full(len(graph), costs.link.message_s)
    rows = (work.new > 0).astype(np.float64)
    up = _per_tensor(costs, work.new, costs.link.up_s_per_byte())
    down = _per_tensor(costs, work.new, costs.link.down_s_per_byte())
    return _advance(
        np.concatenate([zero, np.cumsum(robot_s, axis=0)]) + always,
        np.concatenate([np.cumsum(server_s[::-1], axis=0)[::-1], zero]),
        _Transfers(crossing_up(graph, up), crossing_up(graph, rows), crossing_up(graph, messages)),
        _Transfers(crossing_down(graph, down), crossing_down(graph, rows), crossing_down(graph, messages)),
    )


def _mask_clocks(costs: CostModel, on_server: ServerMask, work: _Slabs) -> _Clocks:
    """Those of one plan, [1]."""
    up, down = costs.crossings(on_server)
    link, new, rows = costs.link, work.new, (work.new > 0).astype(np.float64)
    up_s = _per_tensor(costs, new, link.up_s_per_byte())[up].sum(axis=0, keepdims=True)
    down_s = _per_tensor(costs, new, link.down_s_per_byte())[down].sum(axis=0, keepdims=True)
    return _advance(
        work.robot_s[~on_server].sum(axis=0, keepdims=True),
        work.server_s[on_server].sum(axis=0, keepdims=True),
        _Transfers(up_s, rows[up].sum(axis=0, keepdims=True), link.message_s * up.sum(keepdims=True)),
        _Transfers(down_s, rows[down].sum(axis=0, keepdims=True), link.message_s * down.sum(keepdims=True)),
    )


def _advance(robot_s: Floats, server_s: Floats, up: _Transfers, down: _Transfers) -> _Clocks:
    """The clocks slab by slab; float64 [plans, slabs] each."""
    plans, slabs = robot_s.shape
    robot, sent, server, returned, there = (np.zeros(plans) for _ in range(5))
    for slab in range(slabs):
        robot = robot + robot_s[:, slab]
        sent, arrived = up.arrive(sent, robot, slab)
        server = np.maximum(server, arrived) + server_s[:, slab]
        returned, answered = down.arrive(returned, server, slab)
        there = np.maximum(there, answered)
    return _Clocks(
        np.maximum(np.maximum(robot, server), there),
        robot,
        server_s.sum(axis=1),
        up.link_s.sum(axis=1) + up.message_s,
        down.link_s.sum(axis=1) + down.message_s,
    )


def _priced(costs: CostModel, on_server: ServerMask, work: _Slabs) -> Plan:
    clocks = _mask_clocks(costs, on_server, work)
    robot_s, server_s, up_s, down_s = (
        float(part[0]) for part in (clocks.robot_s, clocks.server_s, clocks.up_s, clocks.down_s)
    )
    return dataclasses.replace(
        costs.plan("streamed", on_server),
        latency_s=float(clocks.latency_s[0]),
        interval_s=max(robot_s, server_s, up_s + down_s),
        energy_j=float(clocks.joules(costs)[0]),
        robot_s=robot_s,
        server_s=server_s,
        up_s=up_s,
        down_s=down_s,
        slabs=work.new.shape[1],
    )
