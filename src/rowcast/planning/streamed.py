"""Layer splits whose tensors travel row by row: robot, link and server work at the same time, on other rows.

The input is cut into slabs of rows. What the row rules allow of each operator after each slab is computed then, and
the new rows of a tensor that crosses follow the earlier ones over the link. Clocks of robot, link up, server and link
down are advanced slab by slab::

    robot += own work;  up = max(up, robot) + transfer;  server = max(server, up + messages) + its work;  down likewise

Work includes coding: each slab is coded and decoded by itself; the robot decodes an answer beside its other work. An
operator takes ``t(rows) = max(t * share, min(t, floor))`` for a share of its rows: not less than the launch of a
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
from rowcast.planning.coding import Coding
from rowcast.planning.costs import Codings, CostModel, Floats, LinkCosts, ServerMask
from rowcast.planning.layers import Prefixes, crossing_down, crossing_up, from_cut, local, offload, pipeline
from rowcast.planning.plan import LATENCY, Objective, Plan

__all__ = ["SLABS", "Amounts", "slab_amounts", "streamed", "streamed_plan", "undivided"]

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
    allowed = Prefixes.of(costs, objective)
    streams = not _returns(costs, mask)
    # A codec that costs more than it saves while nothing else is done may be free beside the transfer.
    ways = [costs.codings(objective), costs.least_link] if costs.tensors else [costs.codings(objective)]
    for count in slabs:
        work = _Slabs.of(costs, count)
        for codings in ways:
            clocks = _prefix_clocks(costs, work, codings)
            value = objective.value(clocks.latency_s, clocks.joules(costs))
            plans = [_priced(costs, from_cut(costs.graph, allowed.best(value)), work, codings)]
            if streams:
                plans.append(_priced(costs, mask, work, codings))
            best = min([best, *plans], key=objective.of)
    return best


def undivided(costs: CostModel, objective: Objective = LATENCY, slabs: Sequence[int] = SLABS) -> Plan:
    """The best where one side computes all of it: the robot, or the server with inputs whole or in slabs of rows.

    Arguments and errors as of :func:`streamed`.
    """
    everything = np.array([bool(op.inputs) for op in costs.graph.ops])
    whole = [local(costs, objective), offload(costs, objective)]
    return min([*whole, *(streamed_plan(costs, everything, count, objective) for count in slabs)], key=objective.of)


def streamed_plan(costs: CostModel, on_server: ServerMask, slabs: int, objective: Objective = LATENCY) -> Plan:
    """The plan with these operators (bool [ops]) on the server and so many slabs, priced; 1 slab: the serial plan.

    Args:
        objective: what the codecs are chosen for.

    Raises:
        ConfigError: fewer than one slab, or several and the robot would go on with what the server made.
    """
    codings = costs.codings(objective)
    if slabs == 1:
        return costs.plan("streamed", on_server, codings)
    if _returns(costs, on_server):
        raise ConfigError("streamed: the robot would compute on what comes back from the server; use a serial plan")
    return _priced(costs, on_server, _Slabs.of(costs, slabs), codings)


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
            _seconds(share, profile.robot_s, profile.robot_floor_s, profile.robot_step_s),
            _seconds(share, profile.server_s, profile.server_floor_s, profile.server_step_s),
        )


def _seconds(share: Floats, whole_s: Floats, floor_s: float, step_s: float) -> Floats:
    """float64 [ops, slabs]: ``max(t * share, min(t, floor))`` where there is something to do, a part of it a step more.

    An operator that takes no time is none: an input of the model.
    """
    whole = whole_s[:, None]
    steps = step_s * ((share < 1) & (whole > 0))
    times: Floats = np.where(share > 0, np.maximum(whole * share, np.minimum(whole, floor_s)) + steps, 0.0)
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


#: Places in the last axis of what tensors that cross take: seconds of coding on the robot, bytes, seconds of frames and
#: of coding on the server, tensors with new rows, and seconds of messages (counted in the first slab).
ROBOT, BYTES, FRAMES, SERVER, ROWS, MESSAGES = range(6)


def _per_tensor(costs: CostModel, new: Floats, coding: Coding) -> Floats:
    """float64 [ops, slabs, 6]: what the new rows of each tensor take in one direction.

    A message's own cost (half of a round trip) is paid once for each tensor, however many slabs it travels in: the
    slabs follow each other at once.
    """
    rows = new > 0
    frames = rows.copy()
    frames[np.arange(len(new)), frames.argmax(axis=1)] = False  # its first frame is the message that is paid anyway
    messages = np.zeros_like(new)
    messages[:, 0] = costs.link.message_s
    return np.stack(
        [
            coding.robot_s[:, None] * new,
            (costs.bytes * coding.ratio)[:, None] * new,
            costs.link.frame_s * frames,
            coding.server_s[:, None] * new,
            rows.astype(np.float64),
            messages,
        ],
        axis=-1,
    )


@dataclass(frozen=True, eq=False)
class Amounts:
    """What each slab of a plan takes: float64 [slabs], and [slabs, 6] of the tensors that cross."""

    robot_s: Floats
    server_s: Floats
    up: Floats
    down: Floats


def slab_amounts(costs: CostModel, on_server: ServerMask, slabs: int, codings: Codings) -> Amounts:
    """Those of a plan."""
    return _amounts(costs, on_server, _Slabs.of(costs, slabs), codings)


def _amounts(costs: CostModel, on_server: ServerMask, work: _Slabs, codings: Codings) -> Amounts:
    up, down = (
        _per_tensor(costs, work.new, coding)[crosses].sum(axis=0)
        for coding, crosses in zip((codings.up, codings.down), costs.crossings(on_server), strict=True)
    )
    return Amounts(work.robot_s[~on_server].sum(axis=0), work.server_s[on_server].sum(axis=0), up, down)


def _prefix_clocks(costs: CostModel, work: _Slabs, codings: Codings) -> _Clocks:
    """Those of all cuts of the order, [ops + 1]."""
    graph = costs.graph
    robot_s, server_s = np.array(work.robot_s), np.array(work.server_s)
    inputs = list(graph.inputs)
    always = robot_s[inputs].sum(axis=0)
    robot_s[inputs] = server_s[inputs] = 0.0
    zero = np.zeros((1, robot_s.shape[1]))
    return _advance(
        costs.link,
        np.concatenate([zero, np.cumsum(robot_s, axis=0)]) + always,
        np.concatenate([np.cumsum(server_s[::-1], axis=0)[::-1], zero]),
        crossing_up(graph, _per_tensor(costs, work.new, codings.up)),
        crossing_down(graph, _per_tensor(costs, work.new, codings.down)),
    )


def _mask_clocks(costs: CostModel, on_server: ServerMask, work: _Slabs, codings: Codings) -> _Clocks:
    """Those of one plan, [1]."""
    amounts = _amounts(costs, on_server, work, codings)
    return _advance(costs.link, *(each[None] for each in (amounts.robot_s, amounts.server_s, amounts.up, amounts.down)))


def _advance(link: LinkCosts, robot_s: Floats, server_s: Floats, up: Floats, down: Floats) -> _Clocks:
    """The clocks slab by slab; float64 [plans, slabs], and [plans, slabs, 6] of the tensors that cross."""
    plans, slabs = robot_s.shape
    robot_s = robot_s + up[..., ROBOT]
    server_s = server_s + up[..., SERVER] + down[..., SERVER]
    up_message_s, down_message_s = up[:, 0, MESSAGES], down[:, 0, MESSAGES]
    up_s = up[..., BYTES] * link.up_s_per_byte() + up[..., FRAMES]
    down_s = down[..., BYTES] * link.down_s_per_byte() + down[..., FRAMES]
    robot, sent, server, returned, there = (np.zeros(plans) for _ in range(5))
    for slab in range(slabs):
        robot = robot + robot_s[:, slab]
        goes, comes = up[:, slab, ROWS] > 0.5, down[:, slab, ROWS] > 0.5
        sent = np.where(goes, np.maximum(sent, robot) + up_s[:, slab], sent)
        server = np.where(goes, np.maximum(server, sent + up_message_s), server) + server_s[:, slab]
        returned = np.where(comes, np.maximum(returned, server) + down_s[:, slab], returned)
        there = np.where(comes, np.maximum(there, returned + down_message_s) + down[:, slab, ROBOT], there)
    return _Clocks(
        np.maximum(np.maximum(robot, server), there),
        robot + down[..., ROBOT].sum(axis=1),
        server_s.sum(axis=1),
        up_s.sum(axis=1) + up_message_s,
        down_s.sum(axis=1) + down_message_s,
    )


def _priced(costs: CostModel, on_server: ServerMask, work: _Slabs, codings: Codings) -> Plan:
    clocks = _mask_clocks(costs, on_server, work, codings)
    robot_s, server_s, up_s, down_s = (
        float(part[0]) for part in (clocks.robot_s, clocks.server_s, clocks.up_s, clocks.down_s)
    )
    return dataclasses.replace(
        costs.plan("streamed", on_server, codings),
        latency_s=float(clocks.latency_s[0]),
        interval_s=max(robot_s, server_s, up_s + down_s),
        energy_j=float(clocks.joules(costs)[0]),
        robot_s=robot_s,
        server_s=server_s,
        up_s=up_s,
        down_s=down_s,
        slabs=work.new.shape[1],
    )
