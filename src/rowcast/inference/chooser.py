"""Which plan for an input that comes now."""

from __future__ import annotations

from typing import Protocol

from rowcast.inference.uplink import RateSink
from rowcast.planning import Plan

__all__ = ["Chooser"]


class Chooser(RateSink, Protocol):
    """Which plan, at the rate that was measured.

    Attributes:
        local: the plan that computes everything on the robot.
        local_s: what that takes, 99th percentile of a long run (s): so long before its deadline it is begun.
    """

    @property
    def local(self) -> Plan: ...

    @property
    def local_s(self) -> float: ...

    def welcomed(self, forward_s: float) -> None:
        """A server takes ``forward_s`` for the whole model."""

    def plan(self, now: float) -> Plan:
        """The plan for an input that comes now."""

    def rate_bps(self, now: float) -> float:
        """The rate up that is expected now (bit/s)."""

    def codecs(self, plan: Plan) -> dict[int, int]:
        """The tensor codec (``wire_id``) of each tensor that travels; others travel as they are."""
