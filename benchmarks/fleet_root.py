"""A part of ``fleet.py``: what the root of a tree costs, beside a server with as many workers in place of relays.

The server's node alone, as in ``pulls.py``; relays tell it how many workers are below them.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from common import Figure
from memory import model_sized
from pulls import Team, Worker, resident_bytes
from rowcast.rows import Layout
from rowcast.wire import Hello, Message, Subtree

__all__ = ["POLICY", "alone", "root"]

T = TypeVar("T")
POLICY = "rowcast:8?codec={}&pulls=common"
MEMBERS, LEAVES_OF_ONE = 100, 100
ITERATIONS, TURNS = 3, 3
#: A part of the reference layout, as ``pulls.py`` has it for large teams: a vector of 4.2 MB.
PART = Layout.from_shapes([(f"block{k}", [512, 509]) for k in range(4)])
FEW_ROWS = Layout.from_shapes([("block", [64, 32])])


class RelayTeam(Team):
    """A server whose workers are relays: each tells what is below it, behind its introduction."""

    def say(self, worker: Worker, message: Message) -> None:
        super().say(worker, message)
        if isinstance(message, Hello):
            super().say(worker, Subtree(LEAVES_OF_ONE, (message.session,)))


@dataclass(frozen=True)
class RootCost:
    """What a server took.

    Attributes:
        cpu_s: processor time for an iteration of one of its members, the least of several iterations (s).
        vectors: arrays of the model's size that hang on it, the most.
        resident_bytes: what the process grew by, at the most.
        leaves: workers among whom its members share updates.
    """

    cpu_s: float
    vectors: float
    resident_bytes: int
    leaves: int


def root_cost(kind: type[Team], layout: Layout, members: int, iterations: int) -> RootCost:
    """Drive a server alone: in an iteration each member pushes its whole update, and takes all that it is owed."""
    policy = POLICY.format("onebit")
    kind(FEW_ROWS, policy, 2).iterate(1)  # kernels are loaded
    before = resident_bytes()
    team = kind(layout, policy, members)
    costs, vectors = [], 0.0
    for iteration in range(1, 1 + iterations):
        team.cpu_s = 0.0
        team.iterate(iteration)
        costs.append(team.cpu_s / members)
        vectors = max(vectors, model_sized(team.server, layout))
    # The most, and not what is left: members that are left behind for a moment hold a vector each, and whether the
    # system has its pages back at the end is chance.
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return RootCost(min(costs), vectors, most - before, team.server.gate.leaves)


def root(*, tiny: bool) -> list[Figure]:
    """What 100 relays cost the root, in terms of what 100 workers do; each run in a process of its own, in turns."""
    layout, members = (FEW_ROWS, 8) if tiny else (PART, MEMBERS)
    found: dict[type[Team], list[RootCost]] = {Team: [], RelayTeam: []}
    for _ in range(1 if tiny else TURNS):
        for kind, costs in found.items():
            costs.append(alone(root_cost, kind, layout, members, 1 if tiny else ITERATIONS, here=tiny))
    plain, relays = found[Team], found[RelayTeam]
    if (counted := relays[0].leaves) != LEAVES_OF_ONE * members:
        raise RuntimeError(f"root: expected {LEAVES_OF_ONE * members} leaves below {members} relays, got {counted}")
    cpu = [min(one.cpu_s for one in costs) for costs in (plain, relays)]
    memory = [statistics.median(one.resident_bytes for one in costs) for costs in (plain, relays)]
    vectors = [max(one.vectors for one in costs) for costs in (plain, relays)]
    bound, name = (None if tiny else 1.2), f"{members} relays / {members} workers"
    return [
        Figure(
            f"root, {name}: processor time",
            cpu[1] / cpu[0],
            "ratio",
            bound,
            note=f"{1e3 * cpu[1]:.2f} and {1e3 * cpu[0]:.2f} ms for an iteration of one of them",
        ),
        Figure(
            f"root, {name}: resident memory",
            memory[1] / max(memory[0], 1),
            "ratio",
            bound,
            note=f"{memory[1] / 1e6:.1f} and {memory[0] / 1e6:.1f} MB; {counted} leaves",
        ),
        Figure(
            f"root, {name}: model-sized arrays",
            vectors[1] / vectors[0],
            "ratio",
            bound,
            note=f"{vectors[1]:.2f} and {vectors[0]:.2f}",
        ),
    ]


def alone(function: Callable[..., T], *given: object, here: bool = False) -> T:
    """What a function of a script returns, called in a process of its own, or ``here``."""
    if here:
        return function(*given)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *given).result()
