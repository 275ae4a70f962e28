"""A worker as the server knows it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rowcast.nodes.inbox import Inbox
from rowcast.nodes.outbox import Outbox
from rowcast.nodes.port import Port

__all__ = ["Member", "MemberStatus", "Stage"]


class Stage(enum.Enum):
    """What the server does for a member."""

    SEEDING = "seeding"  #: it sends the first parameters
    RECEIVING = "receiving"  #: it is sent the parameters
    COMPUTING = "computing"  #: it computes or pushes
    WAITING = "waiting"  #: it is held at the gate
    PULLING = "pulling"  #: it is sent what it is owed
    DRAINING = "draining"  #: it has finished and is sent everything


@dataclass(eq=False)
class Member:
    """One worker of the team, connected or not.

    Attributes:
        session: the life of the worker; another one means that it started afresh.
        owed: what it has not received yet.
        inbox: what came from it.
        iteration: newest iteration whose push has ended.
        quota_iteration: newest iteration whose quota has arrived.
        begun_iteration: newest iteration of which anything has arrived: it holds the pull of the one before.
        later: what slack 0 keeps back from it: updates of others of an iteration that it has not begun.
        port: its connection, or ``None`` while the link is down.
        gated: the gate counts it.
        lost_at: when its link was lost (s).
        dirty: something was added to what it is owed since the last drain began.
        metrics: what it reported last, for a progress display.
    """

    name: str
    session: bytes
    owed: Outbox
    inbox: Inbox
    stage: Stage
    iteration: int = 0
    quota_iteration: int = 0
    begun_iteration: int = 0
    later: npt.NDArray[np.float32] | None = None
    port: Port | None = None
    gated: bool = False
    lost_at: float = 0.0
    waiting_since: float = 0.0
    next_notice: float = 0.0
    cancelled_iteration: int = 0
    finish_wait: bool = True
    dirty: bool = True
    push_rows: int = 0
    push_zero_rows: int = 0
    push_bytes: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    def owed_from(self, iteration: int, slack: int | None) -> npt.NDArray[np.float32]:
        """The vector that an update of ``iteration`` is added to.

        With slack 0 a worker computes on exactly the sum of all iterations up to its own. A fast worker may push
        the next one while a slow link still pulls this one, so that waits in :attr:`later` for :meth:`begin`.
        """
        if slack != 0 or not self.gated or iteration <= self.begun_iteration:
            return self.owed.vector
        if self.later is None:
            self.later = np.zeros_like(self.owed.vector)
        return self.later

    def begin(self, iteration: int) -> None:
        """It has begun ``iteration``: what was kept back for that is owed."""
        if iteration > self.begun_iteration:
            self.begun_iteration = iteration
            self.owe_later()

    def owe_later(self) -> None:
        """Nothing is kept back any longer."""
        if self.later is not None:
            self.owed.vector += self.later
            self.owed.measured = False
            self.later[:] = 0
            self.dirty = True


@dataclass(frozen=True)
class MemberStatus:
    """A line of the progress display.

    Attributes:
        state: what it is doing, or since when its link is down.
        iteration: iterations finished.
        staleness: iterations behind the fastest.
        waited_s: seconds held at the gate so far, 0 when it is not.
        metrics: what it reported last.
    """

    name: str
    state: str
    iteration: int
    staleness: int
    waited_s: float
    metrics: dict[str, float]
