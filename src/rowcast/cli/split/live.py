"""Where an inference is: a live line on a terminal, a plain one now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from rowcast.cli.display import LONGEST, PLAIN_EVERY_S, on_terminal
from rowcast.errors import visible
from rowcast.experiment.inference.camera import Tally

__all__ = ["LiveLine", "camera_line", "rate_text"]


class LiveLine:
    """Shows one line that changes.

    Args:
        console: where to.
        quiet: show nothing but what is said.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._next_plain = time.monotonic() + PLAIN_EVERY_S
        self._live = (
            Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)
            if on_terminal(console) and not quiet
            else None
        )

    def __enter__(self) -> LiveLine:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def says(self, text: str) -> None:
        """A line that stays."""
        self._console.print(Text(visible(text, LONGEST)), soft_wrap=True)
        self._console.file.flush()

    def shows(self, text: str) -> None:
        """Where it is now."""
        if self._live is not None:
            self._live.update(Text(visible(text, LONGEST)), refresh=True)
        elif not self._quiet and time.monotonic() >= self._next_plain:
            self._next_plain = time.monotonic() + PLAIN_EVERY_S
            self.says(text)


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
