"""Where everybody is: a live table on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rowcast.energy.live import ENERGY_J, POWER_W
from rowcast.errors import ConfigError, visible
from rowcast.metric import Metric

if TYPE_CHECKING:
    from typing_extensions import Self

    from rowcast.training.member import MemberStatus

__all__ = ["DemoDisplay", "LiveDisplay", "TeamDisplay", "on_terminal"]

#: Where the output is not a terminal: seconds between two reports.
PLAIN_EVERY_S = 10.0
#: Characters of a line, and of the name of a worker in it, at most.
LONGEST, LONGEST_NAME = 20_000, 40
#: Space within columns (above, right, below, left): where there is room, with more columns, and with yet more.
_PADDINGS = (0, 1, 0, 1), (0, 1, 0, 0), (0, 0, 0, 0)
#: Figures that every worker reports, whatever it trains.
_OF_THE_NODE = ("loss", "rate_bps", "share", "staleness", "samples", "queued", POWER_W, ENERGY_J)


def on_terminal(console: Console) -> bool:
    """Whether somebody looks at it: a file is none, also where FORCE_COLOR wants colours in it."""
    return console.is_terminal and console.file.isatty()


class LiveDisplay:
    """Something that changes: live on a terminal, a plain line now and then elsewhere.

    Args:
        console: where to.
        quiet: show nothing but what is said.
        plain_every_s: seconds between two plain lines.
        next_plain: when the first one may come (s, monotonic).
    """

    def __init__(
        self, console: Console, *, quiet: bool = False, plain_every_s: float = PLAIN_EVERY_S, next_plain: float = 0.0
    ) -> None:
        self._console = console
        self._quiet = quiet
        self._plain_every_s = plain_every_s
        self._next_plain = next_plain
        # Errors and warnings of the log pass above it instead of through it.
        self._live = (
            Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)
            if on_terminal(console) and not quiet
            else None
        )

    def __enter__(self) -> Self:
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

    def _update(self, whole: Callable[[], RenderableType], line: Callable[[], str], *, now: bool = False) -> None:
        """Show the whole of it on a terminal; elsewhere a line, if one is due, or wanted now."""
        if self._live is not None:
            self._live.update(whole(), refresh=True)
        elif not self._quiet and (now or time.monotonic() >= self._next_plain):
            self._next_plain = time.monotonic() + self._plain_every_s
            self.says(line())


class TeamDisplay(LiveDisplay):
    """Shows one line for each worker.

    Args:
        console: where to.
        quiet: show nothing but what is said.
        metrics: of the task, those that are shown; where none is known, the first figure that a worker reports.
    """

    def __init__(self, console: Console, *, quiet: bool = False, metrics: Sequence[Metric] = ()) -> None:
        super().__init__(console, quiet=quiet)
        self._metrics = metrics

    def shows(self, title: str, lines: Sequence[MemberStatus]) -> None:
        """Where everybody is now."""
        self._update(lambda: team_table(title, lines, self._metrics), lambda: plain(title, lines, self._metrics))


class DemoDisplay:
    """Puts what a demo tells on the display.

    Args:
        display: where to.
    """

    def __init__(self, display: TeamDisplay) -> None:
        self._display = display

    def says(self, text: str) -> None:
        """Something began or ended."""
        self._display.says(text)

    def shows(self, run: str, left_s: float, total_s: float, lines: list[MemberStatus]) -> None:
        """Where everybody is."""
        self._display.shows(f"{run}: {left_s:.0f} of {total_s:.0f} s left", lines)


def team_table(title: str, lines: Sequence[MemberStatus], metrics: Sequence[Metric] = ()) -> Table:
    """The table; fits 80 columns with two metrics."""
    metrics = metrics or _reported(lines)
    streams = _streams(lines)
    table = Table(
        title=Text(visible(title), "bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=_PADDINGS[min(streams + (len(metrics) > 1), 2)],
    )
    table.add_column("worker", no_wrap=True)
    headings = [_heading(metric.name, 8 if streams else 12) for metric in metrics] or ["metric"]
    for name in (
        *("steps", *headings, *(["batch", "queue"] if streams else [])),
        *("link\nMbit/s", "rows\nsent", "behind"),
    ):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for line in lines:
        measured = [text for _, text in _measured(line, metrics)]
        fed = _fed(line) if streams else ()
        texts = (str(line.iteration), *measured, *fed, *_texts(line))
        table.add_row(Text(visible(line.name, LONGEST_NAME)), *map(Text, texts))
    if not lines:
        table.add_row("nobody yet")
    return table


def plain(title: str, lines: Sequence[MemberStatus], metrics: Sequence[Metric] = ()) -> str:
    """The same on one line; where several metrics are shown, with their names."""
    metrics = metrics or _reported(lines)
    parts = []
    for line in lines:
        rate, share, behind, state = _texts(line)
        name = visible(line.name, LONGEST_NAME)
        found = _measured(line, metrics)
        measured = found[0][1] if len(found) == 1 else ", ".join(map(" ".join, found))
        fed = "batch {}, queue {}, ".format(*_fed(line)) if _streams([line]) else ""
        parts.append(
            f"{name}: step {line.iteration}, {measured}, {fed}{rate} Mbit/s, rows {share}, behind {behind}, {state}"
        )
    return f"{title} | " + (" | ".join(parts) or "nobody yet")


def _heading(name: str, most: int) -> str:
    """The name of a metric in a narrow column: a line for each word, and for each part of a long one."""
    lines: list[str] = []
    for word in name.split("_"):
        parts = 1 if len(word) <= most else -(-len(word) // (most - 1))
        size = -(-len(word) // parts) or 1
        pieces = [word[start : start + size] for start in range(0, len(word), size)]
        lines += [*(f"{piece}-" for piece in pieces[:-1]), *pieces[-1:]]
    return "\n".join(lines)


def _reported(lines: Sequence[MemberStatus]) -> tuple[Metric, ...]:
    """The first figure of a task that somebody reports, if anybody does; its unit is not known here."""
    for line in lines:
        for name in line.metrics:
            if name not in _OF_THE_NODE:
                with contextlib.suppress(ConfigError):
                    return (Metric(name),)
    return ()


def _measured(line: MemberStatus, metrics: Sequence[Metric]) -> list[tuple[str, str]]:
    """Name and value of each metric, as far as they are known."""
    return [(metric.name, metric.written(line.metrics.get(metric.name))) for metric in metrics] or [("metric", "-")]


def _streams(lines: Sequence[MemberStatus]) -> bool:
    """Whether somebody is fed by a stream."""
    return any("queued" in line.metrics for line in lines)


def _fed(line: MemberStatus) -> tuple[str, str]:
    """Samples of the newest batch, and the most that waited for it."""
    batch, queue = (line.metrics.get(name) for name in ("samples", "queued"))
    return ("-" if batch is None else f"{batch:.0f}"), ("-" if queue is None else f"{queue:.0f}")


def _texts(line: MemberStatus) -> tuple[str, str, str, str]:
    """Rate, share of the rows, staleness and state."""
    metrics = line.metrics

    def text(name: str, form: str, factor: float = 1.0) -> str:
        return form.format(metrics[name] * factor) if name in metrics else "-"

    state = line.state if line.waited_s < 0.5 else f"{line.state} {line.waited_s:.0f} s"
    return (
        text("rate_bps", "{:.3g}", 1e-6),
        text("share", "{:.0f} %", 100.0),
        str(line.staleness),
        state,
    )
