"""Pushes and pulls of elements beyond a threshold, which follows what each link gives (algorithms.md 3.6).

Two-step compression (Sudharsan et al., IEEE Internet Computing 25(3), 2021). Each worker has a threshold of its own for
what it pushes, the server one for each worker for what that pulls. The gate is that of other pushes and pulls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowcast.codecs import Above
from rowcast.delivery.backlog import Due
from rowcast.delivery.outbox import Outbox
from rowcast.delivery.transfer import Request
from rowcast.sync import Policy, Threshold
from rowcast.training.member import Member
from rowcast.training.rules.phased import PhasedRule, PhasedWorker
from rowcast.wire.frames import ROWS_OVERHEAD_BYTES
from rowcast.wire.index import index_bytes

if TYPE_CHECKING:
    from rowcast.training.core import WorkerCore
    from rowcast.training.team import Team

__all__ = ["ThresholdRule", "ThresholdWorker"]


def _rows_room(outbox: Outbox, now: float, budget_s: float, due: Due) -> float:
    """Bytes for rows, so that all frames of a transfer take ``budget_s`` seconds of the link at the measured rate."""
    size = outbox.meter.rate_bps(now) / 8 * budget_s
    if len(due.zeros):
        size -= ROWS_OVERHEAD_BYTES + index_bytes(due.zeros)
    return outbox.window.rows_room(now, size)


class ThresholdRule(PhasedRule):
    """Takes members from their push to the end of their pull, of which a threshold says what is in it."""

    def __init__(self, team: Team) -> None:
        super().__init__(team)
        self._thresholds: dict[str, Threshold] = {}

    def reset(self) -> None:
        self._thresholds.clear()

    def remove(self, member: Member) -> None:
        self._thresholds.pop(member.name, None)

    def pull_request(self, now: float, member: Member, limit_s: float) -> Request:
        request, policy, owed = super().pull_request(now, member, limit_s), self.team.policy, member.owed
        if not policy.selects_pulled:
            return request
        threshold = self._thresholds.setdefault(member.name, Threshold(policy.smooth)) if owed.meter.measured else None
        budget_s = policy.budget_s or self.team.gate.push_time.compute_s(member.name) or 0.0

        def above(due: Due) -> Above:
            # Rows that are zero are not announced in a pull.
            room = owed.window.rows_room(now, owed.meter.rate_bps(now) / 8 * budget_s)
            return policy.above_pull(due.eligible, due.stamps, request.iteration, room, threshold)

        return request._replace(above=above)


class ThresholdWorker(PhasedWorker):
    """Pushes what is beyond its threshold."""

    def __init__(self, node: WorkerCore) -> None:
        super().__init__(node)
        self._threshold: Threshold | None = None

    def push_request(self, now: float, policy: Policy, limit_s: float) -> Request:
        request, outbox = super().push_request(now, policy, limit_s), self.node.outbox
        if self._threshold is None and outbox.meter.measured:
            self._threshold = Threshold(policy.smooth)
        threshold = self._threshold
        budget_s = policy.budget_s or self.node.step.compute_s

        def above(due: Due) -> Above:
            room = _rows_room(outbox, now, budget_s, due)
            return policy.above_push(due.eligible, due.stamps, request.iteration, room, threshold)

        return request._replace(above=above)
