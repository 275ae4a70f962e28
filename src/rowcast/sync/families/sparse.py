"""A few large numbers of what is pending, and a residual that decays in place of momentum: SparseLoCo and DeMo."""

from __future__ import annotations

import dataclasses

from rowcast.errors import ConfigError
from rowcast.sync.families.local import LOCALSGD
from rowcast.sync.family import Family
from rowcast.sync.policy import Policy

__all__ = ["DEMO", "SPARSELOCO"]


def _sparseloco(name: str, steps: int | None) -> Policy:
    return dataclasses.replace(LOCALSGD.build(name, steps), codec="topk64", pull_codec="topk16", feedback=0.95)


def _demo(name: str, slack: int | None) -> Policy:
    if slack is not None:
        raise ConfigError(f"policy {name!r}: demo takes no number; write 'demo'")
    return Policy(name, 0, 1.0, granularity="model", codec="dct128", pull_codec="dct32", feedback=0.999)


SPARSELOCO = Family(
    "sparseloco:H",
    "SparseLoCo. As `localsgd:H`; of each row the few largest elements travel, coarsely, and what remains decays.",
    _sparseloco,
)
DEMO = Family(
    "demo",
    "Decoupled momentum, without the sign. Slack 0; of each row the few largest components of a cosine transform "
    "travel, and what remains decays: that is the momentum.",
    _demo,
)
