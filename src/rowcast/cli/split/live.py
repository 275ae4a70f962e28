"""Where an inference is: a live line on a terminal, a plain one now and then elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.text import Text

from rowcast.cli.display import LONGEST, PLAIN_EVERY_S, LiveDisplay
from rowcast.errors import visible
from rowcast.experiment.inference.camera import Tally

__all__ = ["LiveLine", "camera_line", "rate_text"]


class LiveLine(LiveDisplay):
    """Shows one line that changes.

    Args:
        console: where to.
        quiet: show nothing but what is said.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        super().__init__(console, quiet=quiet, next_plain=time.monotonic() + PLAIN_EVERY_S)

    def shows(self, text: str) -> None:
        """Where it is now."""
        self._update(lambda: Text(visible(text, LONGEST)), lambda: text)


def camera_line(tally: Tally, left_s: float, rate_bps: float) -> str:
    """What came of a camera's inputs so far, and the rate of the link (bit/s)."""
    newest = tally.newest
    parts = [f"{left_s:.0f} s left", f"link {rate_text(rate_bps)}"]
    if newest is not None:
        parts += [f"plan {newest.plan}", f"{1e3 * newest.latency_s:.0f} ms", f"age {1e3 * newest.age_s:.0f} ms"]
    parts.append(", ".join(f"{count} by {who}" for who, count in sorted(tally.by.items())) or "no answer yet")
    if tally.deadline_s is not None or tally.late:
        parts.append(f"{tally.late} missed")
    if tally.superseded:
        parts.append(f"{tally.superseded} superseded")
    if newest is not None:
        parts.append(f"{tally.joules:.3g} J")
    return " | ".join(parts)


def rate_text(rate_bps: float) -> str:
    """A rate as one says it; unknown before the first measurement."""
    return f"{rate_bps / 1e6:.3g} Mbit/s" if rate_bps > 0 else "unknown"
