"""FLOWN: no gate, and transfers of whole models that the server schedules (:mod:`rowcast.sync.flown`)."""

from __future__ import annotations

from rowcast.sync.family import Family, needed
from rowcast.sync.policy import Policy

__all__ = ["FLOWN"]


def _build(name: str, lag: int | None) -> Policy:
    # The gate is open: FLOWN bounds no staleness (algorithms.md 4).
    return Policy(name, None, 1.0, granularity="model", rule="slotted", lag=needed(name, lag))


FLOWN = Family(
    "flown:S",
    "FLOWN. No gate, but at most two whole models travel at once, pushes and pulls together. The server gives the "
    "slots to those that count most and will not be late, and first to those about S iterations behind the newest.",
    _build,
)
