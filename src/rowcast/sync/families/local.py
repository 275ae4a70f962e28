"""Several optimizer steps on parameters of one's own between two exchanges: federated averaging, and DiLoCo."""

from __future__ import annotations

import dataclasses

from rowcast.errors import ConfigError
from rowcast.sync.family import Family
from rowcast.sync.policy import Policy

__all__ = ["DILOCO", "LOCALSGD"]


def _localsgd(name: str, steps: int | None) -> Policy:
    if not steps:
        raise ConfigError(
            f"policy {name!r}: expected a number of local steps, 1 or more, behind a colon, for example "
            f"'{name.partition(':')[0]}:8'"
        )
    return Policy(name, 0, 1.0, granularity="model", local_steps=steps)


def _diloco(name: str, steps: int | None) -> Policy:
    # The outer learning rate and momentum are those that the paper recommends.
    return dataclasses.replace(_localsgd(name, steps), outer_lr=0.7, outer_momentum=0.9)


LOCALSGD = Family(
    "localsgd:H",
    "Federated averaging. Slack 0; a worker makes H steps on parameters of its own, then their sum is exchanged.",
    _localsgd,
)
DILOCO = Family(
    "diloco:H",
    "The same, and Nesterov momentum over what is exchanged: `outer_lr` 0.7, `outer_momentum` 0.9.",
    _diloco,
)
