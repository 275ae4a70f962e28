"""Where to compute an inference: on the robot, on the server, or on both, and what that is predicted to take.

All planners calculate with one :class:`CostModel` and give a :class:`Plan`, so that they can be compared. The answer of
a plan is that of the undivided model, unless a codec that is not exact was allowed and chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rowcast.planning.bounds import overlap_bound_s
from rowcast.planning.choice import Always, ByRate, Chooser, Decision, LateStart
from rowcast.planning.coding import PIECES, TensorCosts, carried
from rowcast.planning.costs import CostModel, LinkCosts
from rowcast.planning.course import PLACES, Job, Span, course, follow
from rowcast.planning.layers import chain, heavy_load, local, offload, pipeline
from rowcast.planning.parallel import data, tensor
from rowcast.planning.plan import ENERGY, LATENCY, Objective, Plan
from rowcast.planning.rate import RateEstimate, RateEstimator
from rowcast.planning.replay import Answers, replay, replay_newest
from rowcast.planning.streamed import SLABS, streamed, streamed_plan, undivided
from rowcast.planning.table import PlanTable, plan_table

__all__ = [
    "ENERGY",
    "LATENCY",
    "PIECES",
    "PLACES",
    "PLANNERS",
    "SLABS",
    "Always",
    "Answers",
    "ByRate",
    "Chooser",
    "CostModel",
    "Decision",
    "Job",
    "LateStart",
    "LinkCosts",
    "Objective",
    "Plan",
    "PlanTable",
    "RateEstimate",
    "RateEstimator",
    "Span",
    "TensorCosts",
    "carried",
    "chain",
    "course",
    "data",
    "follow",
    "heavy_load",
    "local",
    "offload",
    "overlap_bound_s",
    "pipeline",
    "plan_table",
    "replay",
    "replay_newest",
    "streamed",
    "streamed_plan",
    "tensor",
    "undivided",
]

#: Name of a method -> its planner, for one input.
PLANNERS: Mapping[str, Callable[[CostModel, Objective], Plan]] = {
    "local": local,
    "offload": offload,
    "data": data,
    "tensor": tensor,
    "chain": chain,
    "pipeline": pipeline,
    "heavy load": heavy_load,
    "streamed": streamed,
}
