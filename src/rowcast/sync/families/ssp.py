"""Stale synchronous parallel (Ho et al., NIPS 2013): nobody is further ahead of the slowest than the slack."""

from __future__ import annotations

from rowcast.sync.family import Family, needed
from rowcast.sync.policy import Policy

__all__ = ["SSP"]


def _build(name: str, slack: int | None) -> Policy:
    return Policy(name, needed(name, slack), 1.0, granularity="model")


SSP = Family("ssp:S", "Stale synchronous. Slack S, the whole model in each push and pull.", _build)
