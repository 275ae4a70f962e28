"""Asynchronous parallel: nobody waits for anybody."""

from __future__ import annotations

from rowcast.errors import ConfigError
from rowcast.sync.family import Family
from rowcast.sync.policy import Policy

__all__ = ["ASP"]


def _build(name: str, slack: int | None) -> Policy:
    if slack is not None:
        raise ConfigError(f"policy {name!r}: asp takes no number; write 'asp'")
    return Policy(name, None, 1.0, granularity="model")


ASP = Family("asp", "Asynchronous. No gate, the whole model in each push and pull.", _build)
