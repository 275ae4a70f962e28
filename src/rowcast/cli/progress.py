"""How far a comparison is: bars with the time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rowcast.cli.display import LiveDisplay
from rowcast.errors import visible

if TYPE_CHECKING:
    from rowcast.experiment import ComparisonProgress

__all__ = ["ComparisonDisplay"]

#: Where the output is not a terminal: seconds between two lines, if no run is finished meanwhile.
PLAIN_EVERY_S = 60.0


class ComparisonDisplay(LiveDisplay):
    """Shows the runs under way and the time left.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console, plain_every_s=PLAIN_EVERY_S)
        self._finished = -1

    def shows(self, progress: ComparisonProgress) -> None:
        """Where the comparison is now."""
        news = progress.finished != self._finished
        self._update(lambda: _bars(progress), lambda: headline(progress), now=news)
        self._finished = progress.finished


def headline(progress: ComparisonProgress) -> str:
    """The whole of it in one line."""
    left = "" if progress.left_s is None else f", about {duration(progress.left_s)} left"
    text = f"{progress.finished} of {progress.total} runs finished, {len(progress.running)} under way"
    if progress.preparing:
        shares = ", ".join(f"{100 * share:.0f} %" for _, share in progress.preparing)
        text += f", starting models trained: {shares}"
    return text + left


def duration(seconds: float) -> str:
    """Seconds as one says them: ``45 s``, ``3 min``, ``2 h 05 min``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _bars(progress: ComparisonProgress) -> Table:
    table = Table.grid(padding=(0, 1))
    table.title, table.title_justify = Text(headline(progress), "bold"), "left"
    preparing = dict(progress.preparing)
    for cell, done_s in progress.running:
        share = 100 * preparing.get(cell, done_s / cell.seconds)
        what = " of its starting model" if cell in preparing else ""
        bar = ProgressBar(total=100, completed=share, width=24)
        table.add_row(Text(visible(cell.name)), bar, f"{share:3.0f} %{what}")
    return table
