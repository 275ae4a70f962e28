"""What came of one inference, as the robot that asked for it sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rowcast.energy import PowerStates
from rowcast.errors import RowcastError
from rowcast.planning import Plan

__all__ = ["Outcome", "Spent"]

#: An answer that is later than its deadline by so much (s) is in time: it was begun at the deadline less what it takes.
ROUNDING_S = 1e-9


@dataclass
class Spent:
    """What the robot did for one inference.

    Attributes:
        robot_s: it computed (s).
        sending_s: rows of it were on their way to the server, and no older ones (s).
        up_bytes, down_bytes: row frames of it, headers included.
        server_s, queued_s: what the server says that it computed, and that the request waited there (s).
    """

    robot_s: float = 0.0
    sending_s: float = 0.0
    up_bytes: int = 0
    down_bytes: int = 0
    server_s: float = 0.0
    queued_s: float = 0.0

    def joules(self, seconds: float, power: PowerStates) -> float:
        """Energy of the robot in ``seconds``: from when its turn came to the answer (J); the server's is excluded.

        The board draws ``stall_w`` all the time, and each kind of work what it takes on top.
        """
        seconds = max(seconds, 0.0)  # its turn never came
        robot_s, sending_s = min(self.robot_s, seconds), min(self.sending_s, seconds)
        above = (power.compute_w - power.stall_w) * robot_s + (power.communicate_w - power.stall_w) * sending_s
        return power.stall_w * seconds + above


@dataclass(frozen=True, eq=False)
class Outcome:
    """An inference that is over.

    Attributes:
        ticket: what :meth:`AskerNode.ask` has returned.
        value: the answer; ``None`` in a simulation, and where there is an error.
        by: ``"robot"``, ``"server"`` or ``"both"`` computed it; empty where nobody did.
        plan: how it was begun; ``None`` where it never was.
        asked_at, done_at: when the input came, and when this was there (s).
        deadline_at: when it was wanted (s), or ``None``.
        version: of the server's parameters; 0 where the robot computed it alone.
        joules: what the robot has spent since its turn came (J); inputs that wait cost nothing.
        spent: what it did.
        error: why there is no answer, or ``None``.
        superseded: a newer input took its place before its turn came.
    """

    ticket: int
    value: Any
    by: str
    plan: Plan | None
    asked_at: float
    done_at: float
    deadline_at: float | None
    version: int = 0
    joules: float = 0.0
    spent: Spent = field(default_factory=Spent)
    error: RowcastError | None = None
    superseded: bool = False

    @property
    def latency_s(self) -> float:
        """From the input to the answer (s)."""
        return self.done_at - self.asked_at

    @property
    def exact(self) -> bool:
        """Whether the answer is that of the undivided model, but for the order of floating-point sums."""
        return self.by == "robot" or self.plan is None or self.plan.exact

    @property
    def missed(self) -> bool:
        """Whether it came after its deadline, or not at all."""
        late = self.deadline_at is not None and self.done_at > self.deadline_at + ROUNDING_S
        return (late or self.error is not None) and not self.superseded
