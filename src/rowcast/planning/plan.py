"""A plan of one inference, and what makes one better than another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.config import as_number
from rowcast.errors import ConfigError

__all__ = ["ENERGY", "LATENCY", "Objective", "Plan"]

Floats = npt.NDArray[np.float64]
#: What two sums of the same seconds may differ by.
ROUNDING_S = 1e-12


@dataclass(frozen=True)
class Objective:
    """What a planner minimises: ``latency`` times seconds plus ``energy`` times joules.

    Raises:
        ConfigError: a weight that is negative or not a number, or both 0.
    """

    latency: float = 1.0
    energy: float = 0.0

    def __post_init__(self) -> None:
        weights = (self.latency, self.energy)
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise ConfigError(
                f"objective: expected weights of 0 or more, one of them above 0, got latency {self.latency} "
                f"and energy {self.energy}"
            )

    @staticmethod
    def named(text: str) -> Objective:
        """``"latency"``, ``"energy"``, or both as in ``"latency+0.05*energy"`` (s, and s for each J).

        Raises:
            ConfigError: none of the three.
        """
        if text in ("latency", "energy"):
            return LATENCY if text == "latency" else ENERGY
        head, star, tail = text.removeprefix("latency+").partition("*")
        weight = as_number(head)
        if not text.startswith("latency+") or not star or tail != "energy" or weight is None:
            raise ConfigError(f"objective: expected 'latency', 'energy' or 'latency+0.05*energy', got {text!r}")
        return Objective(1.0, weight)

    def value(self, seconds: Floats, joules: Floats) -> Floats:
        """What seconds and joules are worth together."""
        total: Floats = self.latency * seconds + self.energy * joules
        return total

    def of(self, plan: Plan) -> float:
        """What a plan is worth; less is better."""
        return self.latency * plan.latency_s + self.energy * plan.energy_j


LATENCY = Objective(1.0, 0.0)
ENERGY = Objective(0.0, 1.0)


@dataclass(frozen=True)
class Plan:
    """Where each operator is computed, what travels, and what that is predicted to take.

    Attributes:
        method: the planner.
        on_server: operators that the server computes; the robot computes the rest.
        up: operators whose tensors travel from robot to server.
        down: operators whose tensors travel from server to robot.
        latency_s: from the input to the answer (s).
        interval_s: time between two answers where inputs never run out (s): that of the busiest of robot, link and
            server, up and down on one channel.
        energy_j: what the robot spends (J); the server's energy is excluded.
        robot_s, server_s: computation on each side, coding of tensors included (s).
        up_s, down_s: transfers in each direction, messages included (s).
        up_bytes, down_bytes: of the tensors that travel, as they travel.
        exact: whether the answer is that of the undivided model, but for the order of floating-point sums.
        slabs: into how many groups of rows the input is cut; 1: each tensor travels whole.
        inputs: how many inputs the plan answers at once; energy, seconds and bytes are those of all.
        up_codecs, down_codecs: how each tensor of ``up`` and ``down`` travels; empty: all as they are.
        coding_s: the part of ``robot_s`` in which tensors are coded (s).
    """

    method: str
    on_server: frozenset[int]
    up: tuple[int, ...]
    down: tuple[int, ...]
    latency_s: float
    interval_s: float
    energy_j: float
    robot_s: float
    server_s: float
    up_s: float
    down_s: float
    up_bytes: int
    down_bytes: int
    exact: bool = True
    slabs: int = 1
    inputs: int = 1
    up_codecs: tuple[str, ...] = ()
    down_codecs: tuple[str, ...] = ()
    coding_s: float = 0.0

    @property
    def where(self) -> str:
        """``"robot"``, ``"server"`` or ``"both"``: who computes the model."""
        if not self.on_server:
            return "robot"
        return "both" if self.robot_s - self.coding_s > ROUNDING_S else "server"

    @property
    def kind(self) -> str:
        """What it comes to, whoever has made it: ``"local"``, ``"offload"``, ``"pipeline"`` or ``"streamed"``."""
        if self.slabs > 1:
            return "streamed"
        return {"robot": "local", "server": "offload", "both": "pipeline"}[self.where]

    def same_work(self, other: Plan) -> bool:
        """Whether both do the same, whatever they predict."""
        mine, its = ((p.on_server, p.slabs, p.inputs, p.up_codecs, p.down_codecs) for p in (self, other))
        return mine == its
