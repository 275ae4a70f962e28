"""The sections of a page on runs with streams: their figures and tables by batch, buffer, injection and top-k."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from rowcast.metric import Metric
from rowcast.report.comparison import curve_table
from rowcast.report.curve_figure import CurvePanel, draw_curves
from rowcast.report.measures import words_of
from rowcast.report.parts import Section, TableOrFigure, targets_part, with_levels
from rowcast.report.stream_figure import draw_queues
from rowcast.report.stream_tables import PARTS, StreamGroup, queue_table, stream_groups, stream_table
from rowcast.report.targets import target_table
from rowcast.report.values import Experiment

__all__ = ["stream_sections"]


def stream_sections(experiment: Experiment) -> list[Section]:
    """A section for each team and stream; none where no batch is made by a rule."""
    groups = stream_groups(experiment)
    names = [""] if len(groups) == 1 else [f"-{place}" for place in range(1, len(groups) + 1)]
    return [
        Section(f"Streams: {group.team}", tuple(_parts(group, experiment.metrics, name)))
        for group, name in zip(groups, names, strict=True)
    ]


def _parts(group: StreamGroup, metrics: Sequence[Metric], suffix: str) -> Iterator[TableOrFigure]:
    primary = metrics[0]
    numbers = stream_table(group, metrics)
    targets = target_table(group.groups, primary)
    yield TableOrFigure(
        f"streams{suffix}",
        "What the streams came to",
        "Events 'step' of all robots: samples, dropped, queued, age_s (mean over samples), exposed, starve_s; sums "
        f"over the team. Time until a level of the {words_of(primary)} is kept: as the targets by policy, '>' is a "
        "bound. Exposed are raw samples that left their robot. Mean and 95 % interval over seeds.",
        numbers,
        with_levels(PARTS, group.parts, numbers, targets, primary.unit),
    )
    yield from targets_part(f"stream-targets{suffix}", words_of(primary), "batch", "section", targets)
    curves = curve_table(group.groups, primary, "time")
    if curves.rows:
        name = words_of(primary)
        yield TableOrFigure(
            f"stream-{primary.name}{suffix}",
            f"{name[:1].upper()}{name[1:]} against time, by batch",
            f"Events 'metric' named {primary.name}: time of each measurement; each robot with its own replica, then "
            "the mean over robots and seeds where all of them have been. Band: 95 % interval.",
            curves,
            curves,
            partial(draw_curves, [CurvePanel(curves, "time (s)")], primary),
        )
    queues = queue_table(group)
    if queues.rows:
        yield TableOrFigure(
            f"queues{suffix}",
            "What waits, and for how long",
            "Events 'step' of the first seed: queued (the most that waited at one time since the batch before; mean "
            "over the robots, and the largest) and age_s, of the newest step of each robot.",
            queues,
            queues,
            partial(draw_queues, queues),
        )
