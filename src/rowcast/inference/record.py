"""An inference in the journal."""

from __future__ import annotations

from rowcast.inference.outcome import Outcome
from rowcast.journal import Journal
from rowcast.session.texts import shorten

__all__ = ["record"]


def record(journal: Journal, now: float, outcome: Outcome, rate_bps: float) -> None:
    """Write an inference that is over, at the rate that was measured last (bit/s)."""
    plan, spent = outcome.plan, outcome.spent
    journal.record(
        now,
        "inference",
        ticket=outcome.ticket,
        by=outcome.by,
        plan=None if plan is None else plan.kind,
        slabs=None if plan is None else plan.slabs,
        predicted_s=None if plan is None else plan.latency_s,
        latency_s=outcome.latency_s,
        deadline_s=None if outcome.deadline_at is None else outcome.deadline_at - outcome.asked_at,
        missed=outcome.missed,
        exact=outcome.exact,
        superseded=outcome.superseded,
        robot_s=spent.robot_s,
        sending_s=spent.sending_s,
        server_s=spent.server_s,
        queued_s=spent.queued_s,
        up_bytes=spent.up_bytes,
        down_bytes=spent.down_bytes,
        rate_bps=rate_bps,
        version=outcome.version,
        joules=outcome.joules,
        error=None if outcome.error is None else shorten(f"{type(outcome.error).__name__}: {outcome.error}"),
    )
