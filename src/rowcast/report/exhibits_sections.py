"""The parts of a page that show what replicas look like: pictures and plans of the first seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from rowcast.exhibits import PICTURES
from rowcast.report.exhibits_figure import draw_pictures, draw_plan
from rowcast.report.exhibits_tables import (
    PictureLine,
    Shown,
    picture_lines,
    picture_table,
    plan_summary,
    plan_table,
    read_shown,
    shown_plans,
)
from rowcast.report.parts import TableOrFigure
from rowcast.report.values import Groups, Run

__all__ = ["draw_exhibits", "exhibit_parts"]

#: Policies and lines of pictures that one figure has room for.
MOST_POLICIES, MOST_LINES = 9, 12
TITLE = "What the replicas show"


def exhibit_parts(groups: Groups, suffix: str, conditions: object, notes: list[str]) -> Iterator[TableOrFigure]:
    """The figures of a page; none where no robot shows anything.

    Args:
        groups: the runs.
        suffix: what the names of the files end in.
        conditions: of the runs, in words.
        notes: take a sentence for each thing that is left out.

    Raises:
        ConfigError: a file of exhibits that is damaged.
    """
    shown = read_shown({policy: runs[0] for policy, runs in groups.items()})
    seeds = sorted({runs[0].seed for runs in groups.values()})
    seed = f"seed {', '.join(map(str, seeds))}"
    yield from _parts(shown, suffix, seed, conditions, notes)


def draw_exhibits(runs: Mapping[str, Run], folder: Path, notes: list[str]) -> list[Path]:
    """Draw the same figures for one run of each policy into a folder; gives their files.

    Raises:
        ConfigError: as :func:`exhibit_parts`, or a figure cannot be drawn.
    """
    files = []
    for part in _parts(read_shown(runs), "", "the run", "this run", notes):
        assert part.draw is not None
        files.append(folder / f"{part.name}.png")
        part.draw(files[-1])
    return files


def _parts(shown: Shown, suffix: str, seed: str, conditions: object, notes: list[str]) -> Iterator[TableOrFigure]:
    showing = [policy for policy, robots in shown.items() if any(robots.values())]
    if not showing:
        return
    silent = [policy for policy in shown if policy not in showing]
    if silent:
        notes.append(f"what the replicas show, {conditions}: no robot of {', '.join(silent)} shows anything")
    if len(showing) > MOST_POLICIES:
        notes.append(f"what the replicas show, {conditions}: {', '.join(showing[MOST_POLICIES:])}")
    drawn = {policy: shown[policy] for policy in showing[:MOST_POLICIES]}
    yield from _pictures(picture_lines(drawn), suffix, seed, conditions, notes)
    for plan in shown_plans(drawn):
        yield TableOrFigure(
            f"exhibits-{plan.name}{suffix}",
            plan.title or plan.name,
            f"What each robot shows at the end, {seed}. A square has the colour of the robot with the largest weight "
            "there. The table has a line for each way.",
            plan_table(plan),
            plan_summary(plan),
            partial(draw_plan, plan),
        )


def _pictures(
    lines: list[PictureLine], suffix: str, seed: str, conditions: object, notes: list[str]
) -> Iterator[TableOrFigure]:
    if len(lines) > MOST_LINES:
        notes.append(f"pictures of the replicas, {conditions}: {len(lines) - MOST_LINES} of {len(lines)} lines")
        lines = lines[:MOST_LINES]
    if lines:
        table = picture_table(lines)
        yield TableOrFigure(
            f"exhibits-{PICTURES}{suffix}",
            TITLE,
            f"At the end, {seed}, with what the robots have of the team's model then; of several robots that show a "
            "picture, the first. White: not a number.",
            table,
            table,
            partial(draw_pictures, lines, TITLE),
        )
