"""Data and tensor parallelism between a robot and a server, as "New Problems in Distributed Inference for DNN Models on
Robotic IoT" analyses them: why neither shortens one inference over a wireless link."""

from __future__ import annotations

import dataclasses

import numpy as np

from rowcast.errors import ConfigError
from rowcast.planning.costs import LATENCY, CostModel, Objective, Plan
from rowcast.planning.layers import local, offload

__all__ = ["data", "tensor"]


def data(costs: CostModel, objective: Objective = LATENCY, inputs: int = 1) -> Plan:
    """Each side answers whole inputs of a batch; the best share of them goes to the server.

    Inputs on the server overlap: while one is computed the next one travels. Latency is that of the whole batch. One
    input cannot be shared: the plan is then the better of :func:`local` and :func:`offload`.

    Args:
        inputs: the size of the batch, 1 or more.

    Raises:
        ConfigError: no input.
    """
    if inputs < 1:
        raise ConfigError(f"data: expected a batch of 1 input or more, got {inputs}")
    here, there = local(costs), offload(costs)
    shares = [_shared(costs, here, there, inputs, remote) for remote in range(inputs + 1)]
    return min(shares, key=objective.of)


def _shared(costs: CostModel, here: Plan, there: Plan, inputs: int, remote: int) -> Plan:
    """``remote`` of the inputs on the server."""
    own = inputs - remote
    robot_s = own * here.robot_s + remote * there.robot_s
    stages = (there.up_s, there.server_s, there.down_s)
    remote_s = there.robot_s + sum(stages) + (remote - 1) * max(stages) if remote else 0.0
    latency_s = max(own * here.robot_s, remote_s)
    up_s, down_s = remote * there.up_s, remote * there.down_s
    return dataclasses.replace(
        there if remote else here,
        method="data",
        latency_s=latency_s,
        interval_s=max(robot_s, remote * there.server_s, up_s + down_s) / inputs,
        energy_j=costs.joules(latency_s, robot_s, up_s + down_s),
        robot_s=robot_s,
        server_s=remote * there.server_s,
        up_s=up_s,
        down_s=down_s,
        up_bytes=remote * there.up_bytes,
        down_bytes=remote * there.down_bytes,
        inputs=inputs,
    )


def tensor(costs: CostModel, objective: Objective = LATENCY) -> Plan:
    """Every operator is split between the sides, and its parts are put together by an all-reduce before the next one.

    Over k devices ``T = sum(t_i / k + 2 * (k - 1) / k * bytes_i / rate + message)``. Here k = 2, and the shares of an
    operator are such that both sides end at the same time: ``t_i = robot_i * server_i / (robot_i + server_i)``, but
    not less than the launch of a kernel; the method is not blamed for a slow robot. In an all-reduce of two, each
    sends half of the tensor for its sum and half for its result, in both directions at the same time. Operators
    without a tensor (a shape that is read) exchange nothing. ``objective`` changes nothing.
    """
    profile, graph = costs.profile, costs.graph
    both = profile.robot_s + profile.server_s
    even_s = np.divide(profile.robot_s * profile.server_s, both, out=np.zeros_like(both), where=both > 0)
    least_s = np.maximum(
        np.minimum(profile.robot_s, profile.robot_floor_s), np.minimum(profile.server_s, profile.server_floor_s)
    )
    computed_s = float(np.maximum(even_s, least_s).sum())
    exchanged = (costs.bytes > 0) & np.array([bool(reads) for reads in graph.reads])
    link = costs.link
    rounds = int(exchanged.sum())
    total = float(costs.bytes[exchanged].sum())
    up_s = 2 * rounds * link.message_s + total * link.up_s_per_byte()
    down_s = 2 * rounds * link.message_s + total * link.down_s_per_byte()
    link_s = max(up_s, down_s)
    inputs = list(graph.inputs)
    start_s = float(costs.up_s[inputs].sum())
    latency_s = start_s + computed_s + link_s
    return Plan(
        "tensor",
        frozenset(np.flatnonzero(exchanged).tolist()),
        (*graph.inputs, *np.flatnonzero(exchanged).tolist()),
        tuple(np.flatnonzero(exchanged).tolist()),
        latency_s=latency_s,
        interval_s=latency_s,
        energy_j=costs.joules(latency_s, computed_s, start_s + link_s),
        robot_s=computed_s,
        server_s=computed_s,
        up_s=start_s + up_s,
        down_s=down_s,
        up_bytes=int(costs.bytes[inputs].sum() + total),
        down_bytes=int(total),
    )
