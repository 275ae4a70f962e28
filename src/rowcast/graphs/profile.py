"""How long each operator of a graph takes on the robot and on the server."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.errors import ConfigError
from rowcast.graphs.graph import Graph

__all__ = ["SINGLE", "Profile", "Seconds"]

#: Numbers of a profile that are one for all operators.
SINGLE = ("robot_floor_s", "server_floor_s", "local_p99_s", "robot_step_s", "server_step_s")

Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Profile:
    """Measured times of the operators of one graph, on one robot and one server.

    Attributes:
        robot_s: float64 [ops], seconds of each operator on the robot, for one input.
        server_s: float64 [ops], the same on the server.
        robot_floor_s: the least that one operator takes on the robot, however few rows it computes: the launch of a
            kernel.
        server_floor_s: the same on the server.
        robot_step_s: what an operator takes on top, on the robot, each time that it computes a part of its rows: slices
            are made, and small ones are computed less well.
        server_step_s: the same on the server.
        local_p99_s: the whole model on the robot, 99th percentile of a run long enough to be warm; 0: the sum of
            ``robot_s``. A robot is slower after minutes than after seconds, and a deadline is kept with this figure.

    Raises:
        ConfigError: vectors of different length, a time that is negative or not a number.
    """

    robot_s: Seconds
    server_s: Seconds
    robot_floor_s: float = 0.0
    server_floor_s: float = 0.0
    local_p99_s: float = 0.0
    robot_step_s: float = 0.0
    server_step_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("robot_s", "server_s"):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=np.float64))
            getattr(self, name).flags.writeable = False
        if self.robot_s.ndim != 1 or self.robot_s.shape != self.server_s.shape:
            raise ConfigError(
                f"profile: expected one time for each operator on both sides, got {self.robot_s.shape} on the robot "
                f"and {self.server_s.shape} on the server"
            )
        for name in ("robot_s", "server_s", *SINGLE):
            values = np.atleast_1d(getattr(self, name))
            wrong = values[~((values >= 0) & np.isfinite(values))]
            if len(wrong):
                raise ConfigError(f"profile: expected seconds, 0 or more, in {name}, got {wrong[0]}")

    def check(self, graph: Graph) -> None:
        """Whether it has a time for each operator of ``graph``.

        Raises:
            ConfigError: it is the profile of another graph.
        """
        if len(self.robot_s) != len(graph):
            raise ConfigError(
                f"profile: it has times of {len(self.robot_s)} operators, the graph has {len(graph)}; "
                "measure this model again"
            )

    @property
    def local_s(self) -> float:
        """The whole model on the robot (s)."""
        return float(self.robot_s.sum())

    @property
    def sustained_s(self) -> float:
        """The whole model on the robot, 99th percentile of a long run (s); never below :attr:`local_s`."""
        return max(self.local_p99_s, self.local_s)

    def faster(self, robot: float = 1.0, server: float = 1.0) -> Profile:
        """The same model where robot and server are so many times as fast; kernel floors and steps shrink with them.

        Raises:
            ConfigError: a factor that is not above 0.
        """
        if not (robot > 0 and server > 0):
            raise ConfigError(f"profile: expected factors above 0, got robot {robot} and server {server}")
        return Profile(
            self.robot_s / robot,
            self.server_s / server,
            self.robot_floor_s / robot,
            self.server_floor_s / server,
            self.local_p99_s / robot,
            self.robot_step_s / robot,
            self.server_step_s / server,
        )
