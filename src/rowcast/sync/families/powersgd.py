"""PowerSGD (Vogels, Karimireddy and Jaggi, NeurIPS 2019): matrices travel as two factors of a low rank."""

from __future__ import annotations

from rowcast.errors import ConfigError
from rowcast.sync.family import Family
from rowcast.sync.policy import Policy

__all__ = ["POWERSGD"]


def _build(name: str, rank: int | None) -> Policy:
    if not rank:
        raise ConfigError(
            f"policy {name!r}: expected a rank, 1 or more, behind a colon, for example '{name.partition(':')[0]}:2'"
        )
    return Policy(name, 0, 1.0, granularity="model", rule="factored", codec="raw", rank=rank)


POWERSGD = Family(
    "powersgd:R",
    "PowerSGD. Slack 0; each matrix travels as two factors of rank R in two exchanges of an iteration, everything else "
    "as it is.",
    _build,
)
