"""Two-step compression: elements beyond a threshold that fills the link, in gaps and sizes of 8 bits.

B. Sudharsan et al., "Global deep learning on IoT devices", IEEE Internet Computing 25(3), 2021, doi
10.1109/MIC.2021.3053711; what we make of it is in algorithms.md 3.6.
"""

from __future__ import annotations

from rowcast.sync.family import Family, needed
from rowcast.sync.mta import minimum_share
from rowcast.sync.policy import Policy

__all__ = ["TWOSTEP"]

#: Part of a threshold that is kept when the next one is measured.
DEFAULT_SMOOTH = 0.9


def _build(name: str, slack: int | None) -> Policy:
    bound = needed(name, slack)
    return Policy(name, bound, minimum_share(bound), codec="elements", rule="threshold", smooth=DEFAULT_SMOOTH)


TWOSTEP = Family(
    "twostep:S",
    "Two-step compression. Slack S; of what is pending the elements beyond a threshold travel, which follows the rate "
    "of the link so that a push takes as long as the gradient, or `budget_s`; and of the oldest rows the largest.",
    _build,
    options=("budget_s", "smooth"),
)
