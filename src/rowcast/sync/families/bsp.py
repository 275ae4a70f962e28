"""Bulk synchronous parallel: everybody waits for everybody, each time."""

from __future__ import annotations

from rowcast.errors import ConfigError
from rowcast.sync.family import Family
from rowcast.sync.policy import Policy

__all__ = ["BSP"]


def _build(name: str, slack: int | None) -> Policy:
    if slack not in (None, 0):
        raise ConfigError(f"policy {name!r}: bsp takes no number; write 'bsp', or 'ssp:{slack}' for slack {slack}")
    return Policy(name, 0, 1.0, granularity="model")


BSP = Family("bsp", "Bulk synchronous. Slack 0, the whole model in each push and pull.", _build)
