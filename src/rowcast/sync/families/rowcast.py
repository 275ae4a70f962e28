"""Rowcast's own: rows in both directions all the time, the staleness bounded end to end, nobody waits in an outage."""

from __future__ import annotations

from rowcast.errors import ConfigError
from rowcast.sync.family import Family
from rowcast.sync.policy import Policy, stream_shares

__all__ = ["ROWCAST"]

#: Iterations of staleness, end to end, that are allowed where no number is written: while nobody stalls, and to begin
#: with and where there are stalls.
DEFAULT_SLACK, MOST_SLACK = 16, 64
#: Iterations beyond it that a robot in an outage computes.
DEFAULT_AHEAD = 96
#: An update counts at most so many times the median of a worker's last ones.
DEFAULT_TRUST = 2.0


def _build(name: str, slack: int | None) -> Policy:
    bound = DEFAULT_SLACK if slack is None else slack
    if not bound:
        raise ConfigError(f"policy {name!r}: expected a slack of 1 or more; with 0 nothing can overlap, write 'bsp'")
    share, pull_share = stream_shares(bound)
    return Policy(
        name,
        bound,
        share,
        pull_share=pull_share,
        rule="streamed",
        elastic=True,
        ahead=DEFAULT_AHEAD,
        anticipate="team",
        adapt=True,
        refine=True,
        auto=slack is None,
        most_slack=MOST_SLACK if slack is None else 0,
        auto_lr=True,
        trust=DEFAULT_TRUST,
    )


ROWCAST = Family(
    "rowcast:S",
    "Row by row, all the time: rows flow in both directions while the next gradient is computed. The slack bounds "
    "the staleness end to end; nobody waits for a robot in an outage. `rowcast` alone adapts it: 64 at most, and less, "
    "to 16, where nobody stalls.",
    _build,
    options=("elastic", "ahead", "anticipate", "adapt", "refine", "auto", "most_slack", "auto_lr", "pulls"),
)
