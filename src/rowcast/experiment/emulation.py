"""The runs of ``rowcast emulate``: those of a comparison in virtual time, on real sockets."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from rowcast.errors import ConfigError
from rowcast.experiment.cell import Cell
from rowcast.experiment.emulation_settings import EmulationSettings
from rowcast.experiment.medium_settings import QUEUE_MS
from rowcast.experiment.plan import plan_cells
from rowcast.links import load_team, load_trace
from rowcast.links.topics import TopicAddress

__all__ = ["plan_emulation"]


def plan_emulation(settings: EmulationSettings) -> list[Cell]:
    """Check what the settings name, and list the runs.

    Raises:
        ConfigError: a recorded trace is shorter than a run, and not to be repeated.
        RowcastError: as :func:`~rowcast.experiment.plan.plan_cells`.
    """
    cells = plan_cells(settings.comparison)
    for link in {} if settings.links_repeat else dict.fromkeys(cell.links for cell in cells):
        _check_length(link, 60.0 * settings.minutes)
    return [
        replace(cell, driver="netns", medium=settings.medium, link=settings.link, transport="direct", queue_ms=QUEUE_MS)
        for cell in cells
    ]


def _check_length(link: str, seconds: float) -> None:
    """Whether what was recorded lasts for a run."""
    path = Path(link)
    is_recorded = path.is_file() or TopicAddress.parse(link) is not None
    traces = load_team(path) if path.is_dir() else [load_trace(link)] if is_recorded else []
    shortest = min((trace.duration_s for trace in traces), default=seconds)
    if shortest < seconds:
        raise ConfigError(
            f"links {link}: expected a trace of {seconds:g} s or more, got {shortest:g} s; take --minutes "
            f"{math.floor(shortest / 6) / 10:g}, or --links-repeat, with which it starts again"
        )
