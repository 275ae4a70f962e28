"""What the server keeps for one worker of a policy that streams."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.sync import UsualInterval
from rowcast.training.member import MemberState
from rowcast.wire import Horizon

__all__ = ["STREAMED", "StreamedMember"]

#: States of a worker that is sent rows all the time.
STREAMED = frozenset({MemberState.COMPUTING, MemberState.WAITING})


@dataclass(eq=False)
class StreamedMember:
    """What the server keeps for a worker of a streaming policy.

    Attributes:
        versions: int32 [rows], newest iteration whose contribution to each row is here, in the worker's own count.
        own: newest iteration it has finished, in its own count.
        shift: add it to the worker's count to get the gate's.
        told: the last horizon it was told, or ``None``.
        choose_at: its rows are not chosen anew before (s).
        outdated: the order of its rows is that of an iteration before.
        steady_since: since when it has caught up, while it does not count (s).
        left_at, absences: when it last left the gate (s), and how often it did lately.
        oldest: the oldest of ``versions``.
        step_s: what its last gradient took (s).
        heard_at: when it last told of an iteration (s).
    """

    versions: npt.NDArray[np.int32]
    interval: UsualInterval
    own: int = 0
    shift: int = 0
    told: Horizon | None = None
    choose_at: float = 0.0
    outdated: bool = False
    steady_since: float | None = None
    left_at: float = 0.0
    absences: int = 0
    oldest: int = 0
    step_s: float = 1.0
    heard_at: float = -math.inf

    @property
    def begun(self) -> bool:
        """It has finished an iteration here."""
        return self.heard_at != -math.inf

    @property
    def may_start(self) -> bool:
        """What it was told allows the next iteration."""
        return self.told is not None and self.own - self.told.horizon <= self.told.slack

    @property
    def beyond(self) -> bool:
        """It has gone on although the gate was shut."""
        return self.told is not None and self.own - self.told.horizon > self.told.slack + 1
