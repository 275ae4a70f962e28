"""ROG (MICRO 2022): row by row, a quota of the oldest rows, then others while the MTA time lasts."""

from __future__ import annotations

import dataclasses

from rowcast.errors import ConfigError, near_match
from rowcast.sync.artifact import artifact_share
from rowcast.sync.family import Family, needed
from rowcast.sync.mta import minimum_share
from rowcast.sync.policy import Policy

__all__ = ["ROG"]


def _build(name: str, slack: int | None) -> Policy:
    threshold = needed(name, slack)
    return Policy(name, threshold, minimum_share(threshold), speculative=True)


def _compat(policy: Policy, value: str) -> Policy:
    """The policy with the rules of the software that ``value`` names."""
    if value != "artifact":
        raise ConfigError(f"policy {policy.name!r}: unknown compat {value!r}; {near_match(value, ('artifact',))}")
    assert policy.slack is not None
    return dataclasses.replace(policy, share=artifact_share(policy.slack), mta="artifact", counts="groups")


ROG = Family(
    "rog:S",
    "Row by row. Slack S, a quota of the oldest rows, then others while the MTA time lasts.",
    _build,
    options=("mta", "counts", "race", "compat"),
    adapt={"compat": _compat},
)
