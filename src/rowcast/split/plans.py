"""What a robot with a captured model decides with: its profile, what codecs leave of its inputs, plans by rate."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from rowcast.codecs.tensors import tensor_codec_by_name
from rowcast.energy import PowerStates
from rowcast.errors import ConfigError, near_match
from rowcast.graphs import Profile, load_profile
from rowcast.inference import Planning
from rowcast.planning import (
    PLANNERS,
    ByRate,
    CostModel,
    LateStart,
    LinkCosts,
    Objective,
    PlanTable,
    RateEstimator,
    TensorCosts,
    local,
    plan_table,
    undivided,
)
from rowcast.split.captured import Captured

__all__ = ["METHODS", "PlanMaker", "check_method", "coding_costs", "profile_from"]

#: How the plans of a robot are made -> the planner. Those that need several robots or split operators are no plans of
#: a robot and a server.
METHODS = {
    "rowcast": PLANNERS["streamed"],
    **{name: PLANNERS[name] for name in ("local", "offload", "chain", "pipeline")},
}

#: Those that let both compute on one answer.
DIVIDING = ("rowcast", "chain", "pipeline")

#: Rates (bit/s) between which plans are made.
LOWEST_BPS, HIGHEST_BPS = 1e5, 2e9
#: Rates that are asked; in between, plans change where the better of two neighbours does.
STEPS = 24
#: Assumed of a link before anything has travelled (bit/s).
INITIAL_BPS = 5e7
#: A codec is timed so often.
TIMED = 3

T = TypeVar("T")


def profile_from(captured: Captured, path: str | Path) -> Profile:
    """The profile in a file that ``rowcast split profile`` has written.

    Raises:
        ConfigError: the file cannot be read, or it is of another model.
    """
    graph, profile = load_profile(Path(path))
    if graph.digest != captured.graph.digest:
        raise ConfigError(
            f"{path}: it is the profile of another model: {graph.difference(captured.graph)}; measure this one with "
            "'rowcast split profile'"
        )
    return profile


def check_method(method: str) -> None:
    """Whether there is such a method.

    Raises:
        ConfigError: there is none.
    """
    if method not in METHODS:
        raise ConfigError(f"method: unknown method {method!r}; {near_match(method, METHODS)}")


def coding_costs(captured: Captured, inputs: Sequence[torch.Tensor], names: Sequence[str]) -> tuple[TensorCosts, ...]:
    """What codecs leave of such inputs, and how long they take here.

    Args:
        captured: the model.
        inputs: tensors of ``graph.inputs``.
        names: the codecs to try.
    """
    found = []
    for name in names:
        codec = tensor_codec_by_name(name)
        for op, given in zip(captured.graph.inputs, inputs, strict=True):
            tensor = captured.tensors[op]
            if tensor is None or tensor.dtype.name not in codec.dtypes:
                continue
            array = np.ascontiguousarray(given.cpu().numpy())
            payload, encode_s = _timed(functools.partial(codec.encode, array, tensor))
            _, decode_s = _timed(functools.partial(codec.decode, payload, tensor))
            size = tensor.nbytes
            ops = frozenset({op})
            found.append(TensorCosts(name, len(payload) / size, encode_s / size, decode_s / size, ops=ops))
    return tuple(found)


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """What some work gives, and its median time (s). The first time does not count: it loads what it runs."""
    result = work()
    times = []
    for _ in range(TIMED):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return result, statistics.median(times)


@dataclass(frozen=True, eq=False)
class PlanMaker:
    """Makes what a robot decides with.

    Attributes:
        captured: the model.
        profile: its times.
        deadline_s: an answer is wanted so long after the input, or ``None``.
        fallback: the robot computes the whole model where the server does not answer in time.
        objective: what plans minimise.
        power: what the robot draws.
        method: a name of :data:`METHODS`: who makes the plans.
        codecs: what codecs take and leave.
        rate: what is known of the link; it goes on with what it knows.
        round_trip_s: of the link (s).
        live: the server's parameters change: no answer is computed by both.
    """

    captured: Captured
    profile: Profile
    deadline_s: float | None
    fallback: bool
    objective: Objective
    power: PowerStates
    method: str = "rowcast"
    codecs: tuple[TensorCosts, ...] = ()
    rate: RateEstimator = field(default_factory=lambda: RateEstimator(INITIAL_BPS))
    round_trip_s: float = 0.005
    live: bool = False

    def costs(self) -> CostModel:
        """The cost model, at any rate."""
        link = LinkCosts.symmetric(1e7, self.round_trip_s)
        return CostModel(self.captured.graph, self.profile, link, self.power, self.codecs)

    def served_in(self, forward_s: float) -> PlanMaker:
        """For a server that takes so long for the whole model: in proportion to the robot where no more is known."""
        known = float(self.profile.server_s.sum())
        if forward_s <= 0 or known > 0:
            return self
        share = forward_s / max(self.profile.local_s, 1e-9)
        times = self.profile
        profile = replace(
            times,
            server_s=times.robot_s * share,
            server_floor_s=times.robot_floor_s * share,
            server_step_s=times.robot_step_s * share,
        )
        return replace(self, profile=profile)

    def planning(self) -> Planning:
        """Plans for all rates.

        Raises:
            ConfigError: the robot cannot keep the deadline by itself.
        """
        costs = self.costs()
        late = None
        if self.fallback:
            late = (
                LateStart.without_deadline(self.profile)
                if self.deadline_s is None
                else LateStart.of(self.profile, self.deadline_s)
            )
        table = self._table(costs)
        chooser = ByRate(table, self.rate, late, costs.link.goodput)
        return Planning(chooser, local(costs), self.profile.sustained_s, self.power)

    def _table(self, costs: CostModel) -> PlanTable:
        planner = undivided if self.live and self.method in DIVIDING else METHODS[self.method]
        return plan_table(lambda at_rate: planner(at_rate, self.objective), costs, LOWEST_BPS, HIGHEST_BPS, STEPS)
