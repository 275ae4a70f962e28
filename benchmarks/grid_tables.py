"""The tables of ``grid.py``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from common import Figure
from grid_judge import Judged
from grid_race import Course
from rowcast.report import interval

__all__ = ["print_cells", "print_courses", "print_standings", "winners"]


def print_cells(judged: Sequence[Judged], policy: str) -> None:
    """A row for each cell, in this order."""
    rows = []
    for each in judged:
        read = "" if each.read > 0.99 else f" of {each.read:.0%}"
        rows.append(
            (
                each.cell.name,
                f"{each.values[0]:.2f}",
                f"{each.values[1]:.2f}",
                _mean(each.end),
                f"{_mean(each.worst)} at {each.worst_at:.0%}{read}",
                f"{each.allowed:.2f}" if each.trains else "bsp does not train",
                ", ".join(map(str, each.diverged)),
                _mean(each.slower) if each.slower else "",
            )
        )
    heads = ("cell", "bsp", policy, "below at the end", "furthest below", "allowed", "diverged", "time / bsp")
    _print(f"{policy} against bsp that never waits, at equal samples; the worst first", heads, rows)


def print_courses(courses: Sequence[Course], policy: str) -> None:
    """A row for each cell and kind of link, and how often who was first."""
    rows = []
    for course in courses:
        means, best = course.means(), course.best(policy)
        rows.append(
            (
                course.name,
                _seconds(means[policy]),
                best if np.isfinite(means[best]) else "nobody",
                _seconds(means[best]),
                f"{course.ratio(policy):.2f}",
                _seconds(means.get("bsp", float("inf"))),
            )
        )
    _print("Time to accuracy (s); the worst first", ("cell", policy, "best other", "takes", "ratio", "bsp"), rows)


def winners(courses: Sequence[Course]) -> list[Figure]:
    """How often who was first; printed too."""
    counted: Counter[str] = Counter()
    for course in courses:
        means = course.means()
        first = min(means, key=lambda policy: means[policy])
        counted[first if np.isfinite(means[first]) else "nobody"] += 1
    _print("Who gets there first", ("policy", "cells"), [(name, str(count)) for name, count in counted.most_common()])
    return [Figure(f"{name} gets there first", count, f"of {len(courses)}") for name, count in counted.most_common()]


def print_standings(standings: Sequence[tuple[str, Judged]]) -> None:
    """The other policies at equal samples."""
    rows = []
    for policy in dict.fromkeys(policy for policy, _ in standings):
        own = [judged for name, judged in standings if name == policy and judged.trains]
        if not own:
            continue
        worst = max(own, key=lambda judged: judged.excess)
        rows.append(
            (
                policy,
                f"{sum(np.mean(each.end) <= each.allowed for each in own)} of {len(own)}",
                f"{np.mean([np.mean(each.end) / each.allowed for each in own]):.2f}",
                f"{worst.cell.name}: {np.mean(worst.end):.2f} of {worst.allowed:.2f}",
                str(sum(map(len, (each.diverged for each in own)))),
            )
        )
    heads = ("policy", "cells within the bound at the end", "below bsp / allowed, mean", "worst", "diverged")
    _print("The others at equal samples, in the cells of the race", heads, rows)


def _mean(values: Sequence[float]) -> str:
    """Of the seeds, with half of its 95 % interval."""
    if not np.isfinite(values).all():
        return f"{np.mean(values):.2f}"
    found = interval(values)
    return f"{found.mean:.2f}" if found.high is None else f"{found.mean:.2f} ±{found.half:.2f}"


def _seconds(value: float) -> str:
    return f"{value:.0f}" if np.isfinite(value) else "-"


def _print(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title)
    for head in heads:
        table.add_column(head, justify="left" if head in ("cell", "policy", "best other", "worst") else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    # Names are not cut, also where nobody looks at a terminal.
    (console if console.is_terminal else Console(width=160)).print(table)
