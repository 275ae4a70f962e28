"""How far the training of a starting model is: it comes before a run, and takes minutes with a large data set."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Preparing", "now_and_then"]

#: Between two lines about it (s).
SAY_EVERY_S = 5.0


@dataclass(frozen=True)
class Preparing:
    """What a run tells in place of virtual seconds while its starting model is trained.

    Attributes:
        share: what is done, 0 .. 1.
    """

    share: float


def now_and_then(say: Callable[[str], None], every_s: float = SAY_EVERY_S) -> Callable[[float], None]:
    """A listener for :meth:`rowcast.tasks.Task.pretrain` that says a line every few seconds.

    A training that takes less says nothing.
    """
    began = last = time.monotonic()

    def tell(share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if share < 1 and now >= last + every_s:
            last = now
            left_s = (now - began) * (1 - share) / share
            say(f"training the starting model: {100 * share:.0f} %, about {left_s:.0f} s left")

    return tell
