"""SPARTA (EXO labs, 2025): everybody trains a model of its own, of which a small part is averaged in each step.

M. Beton, M. Baioumy, T. van der Ouderaa, M. Reed, S. Howes, A. Cheema and G. Vrabie, "Improving the Efficiency of
Distributed Training using Sparse Parameter Averaging" (2025, OpenReview stFPf3gzq1), and its software, EXO Gym, whose
default share is ours.
"""

from __future__ import annotations

from rowcast.errors import ConfigError
from rowcast.sync.family import Family
from rowcast.sync.policy import Policy

__all__ = ["SPARTA"]

#: Share of the parameters that is averaged in each iteration; published are 0.0005 to 0.05.
DEFAULT_SHARE = 0.005


def _build(name: str, number: int | None) -> Policy:
    if number is not None:
        raise ConfigError(
            f"policy {name!r}: sparta takes no number; write the share that is averaged behind a question mark, for "
            f"example 'sparta?share={DEFAULT_SHARE}'"
        )
    return Policy(name, 0, DEFAULT_SHARE, pull_share=1.0, codec="raw", anticipate="team", order="random")


def _order(policy: Policy, value: str) -> Policy:
    """The policy itself: what is averaged is drawn at random."""
    if value != "random":
        raise ConfigError(f"policy {policy.name!r}: order: expected 'random', got {value!r}; leave order out")
    return policy


SPARTA = Family(
    "sparta",
    "Sparse parameter averaging. Everybody trains a model of its own; in each step rows drawn at random, the same at "
    "all workers, are averaged over the workers (`share` of them, 0.005). Slack 0.",
    _build,
    adapt={"order": _order},
)
