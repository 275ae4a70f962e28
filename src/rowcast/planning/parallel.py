"""Data and tensor parallelism between a robot and a server, as "New Problems in Distributed Inference for DNN Models on
Robotic IoT" analyses them: why neither shortens one inference over a wireless link."""

from __future__ import annotations

import dataclasses

import numpy as np

from rowcast.errors import ConfigError
from rowcast.planning.coding import RAW, Coding, select
from rowcast.planning.costs import CostModel
from rowcast.planning.layers import local, offload
from rowcast.planning.plan import LATENCY, Objective, Plan

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
    here, there = local(costs), offload(costs, objective)
    shares = [_shared(costs, here, there, inputs, remote) for remote in range(inputs + 1)]
    return min(shares, key=objective.of)


def _shared(costs: CostModel, here: Plan, there: Plan, inputs: int, remote: int) -> Plan:
    """``remote`` of the inputs on the server."""
    own = inputs - remote
    robot_s = own * here.robot_s + remote * there.robot_s
    busiest_s = max(there.robot_s, there.up_s, there.server_s, there.down_s)
    remote_s = there.latency_s + (remote - 1) * busiest_s if remote else 0.0
    latency_s = max(robot_s, remote_s)
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
        coding_s=remote * there.coding_s,
    )


def tensor(costs: CostModel, objective: Objective = LATENCY) -> Plan:
    """Every operator is split between the sides, and its parts are put together by an all-reduce before the next one.

    Over k devices ``T = sum(t_i / k + 2 * (k - 1) / k * bytes_i / rate + message)``. Here k = 2, and the shares of an
    operator are such that both sides end at the same time: ``t_i = robot_i * server_i / (robot_i + server_i)``, but
    not less than the launch of a kernel; the method is not blamed for a slow robot. In an all-reduce of two, each
    sends half of the tensor for its sum and half for its result, in both directions at the same time; what is coded
    both sides encode and decode at the same time. Operators without a tensor (a shape that is read) exchange nothing.
    """
    profile, graph = costs.profile, costs.graph
    both = profile.robot_s + profile.server_s
    even_s = np.divide(profile.robot_s * profile.server_s, both, out=np.zeros_like(both), where=both > 0)
    least_s = np.maximum(
        np.minimum(profile.robot_s, profile.robot_floor_s), np.minimum(profile.server_s, profile.server_floor_s)
    )
    computed_s = float(np.maximum(even_s, least_s).sum())
    exchanged = (costs.bytes > 0) & np.array([bool(reads) for reads in graph.reads])
    exchange = _all_reduce(costs, objective)
    inputs = np.zeros(len(graph), dtype=bool)
    inputs[list(graph.inputs)] = True
    start = costs.codings(objective).up

    def total(name: str) -> float:
        return float(getattr(start, name)[inputs].sum() + getattr(exchange, name)[exchanged].sum())

    latency_s = computed_s + total("elapsed_s")
    robot_s = computed_s + total("robot_s")
    start_s, fixed_s = float(start.link_s[inputs].sum()), 2 * costs.link.message_s * int(exchanged.sum())
    exchanged_bytes = costs.travelling_bytes(exchange, exchanged)
    start_codecs, codecs = costs.codecs_of(start, inputs), costs.codecs_of(exchange, exchanged)
    uncoded = (RAW,) * len(graph.inputs), (RAW,) * int(exchanged.sum())
    return Plan(
        "tensor",
        frozenset(np.flatnonzero(exchanged).tolist()),
        (*graph.inputs, *np.flatnonzero(exchanged).tolist()),
        tuple(np.flatnonzero(exchanged).tolist()),
        latency_s=latency_s,
        interval_s=latency_s,
        energy_j=costs.joules(latency_s, robot_s, total("link_s")),
        robot_s=robot_s,
        server_s=computed_s + total("server_s"),
        up_s=start_s + fixed_s + exchanged_bytes * costs.link.up_s_per_byte(),
        down_s=fixed_s + exchanged_bytes * costs.link.down_s_per_byte(),
        up_bytes=costs.travelling_bytes(start, inputs) + exchanged_bytes,
        down_bytes=exchanged_bytes,
        exact=costs.exact(start, inputs) and costs.exact(exchange, exchanged),
        up_codecs=(*(start_codecs or uncoded[0]), *(codecs or uncoded[1])) if start_codecs or codecs else (),
        down_codecs=codecs,
        coding_s=total("robot_s"),
    )


def _all_reduce(costs: CostModel, objective: Objective) -> Coding:
    """What it takes to put each operator's tensor together, ``link_s`` that of the slower direction."""
    link, size = costs.link, costs.bytes
    s_per_byte = max(link.up_s_per_byte(), link.down_s_per_byte())

    def option(ratio: float, coding_s_per_byte: float, server_speed: float) -> Coding:
        robot_s = size * coding_s_per_byte
        server_s = robot_s / server_speed
        link_s = 2 * link.message_s + size * ratio * s_per_byte
        elapsed_s = link_s + np.maximum(robot_s, server_s)
        none = np.zeros(len(size), dtype=np.intp)
        return Coding(none, np.full(len(size), ratio), robot_s, server_s, link_s, elapsed_s)

    options = [option(1.0, 0.0, 1.0)]
    options += [option(c.ratio, c.encode_s_per_byte + c.decode_s_per_byte, c.server_speed) for c in costs.tensors]
    return select(options, costs.tensors, costs.worth(objective))
