"""What the robots of some runs show of their replicas (:mod:`rowcast.exhibits`): for figures, and as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rowcast.exhibits import EXHIBITS, Exhibit, Path2d, Picture, Plan, load_exhibits
from rowcast.report.table import Table, Value, table_of
from rowcast.report.values import Array, Run

__all__ = [
    "REFERENCE",
    "PictureLine",
    "Shown",
    "ShownPlan",
    "Squares",
    "path_name",
    "picture_lines",
    "picture_table",
    "plan_summary",
    "plan_table",
    "read_shown",
    "shown_plans",
    "squares_of",
]

#: For each policy and robot what the robot shows.
Shown = Mapping[str, Mapping[str, Sequence[Exhibit]]]
#: What stands above pictures that are the same for all policies.
REFERENCE = "what it is"
#: Corners of squares that differ by less than this share of their size are the same.
_SAME_CORNER = 1e-3


def read_shown(runs: Mapping[str, Run]) -> Shown:
    """What lies beside the journals of the robots, for each policy of one run of it.

    Raises:
        ConfigError: a file that is not what a run leaves there.
    """
    found: dict[str, dict[str, Sequence[Exhibit]]] = {}
    for policy, run in runs.items():
        files = {robot.name: run.folder / f"{robot.name}{EXHIBITS}" for robot in run.robots}
        found[policy] = {name: load_exhibits(path) for name, path in files.items() if path.is_file()}
    return found


# -- pictures ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PictureLine:
    """Pictures that stand in one line.

    Attributes:
        row: its number.
        references: what is the same for all policies, each once.
        pictures: of each policy, with the name of the robot that shows each; of several robots the first counts.
    """

    row: int
    references: tuple[tuple[str, Picture], ...]
    pictures: Mapping[str, tuple[tuple[str, Picture], ...]]


def picture_lines(shown: Shown) -> list[PictureLine]:
    """The lines of the figure of the pictures, in order of their numbers; nothing where nobody shows one."""
    references: dict[tuple[int, str], tuple[str, Picture]] = {}
    pictures: dict[str, dict[tuple[int, str], tuple[str, Picture]]] = {policy: {} for policy in shown}
    for policy, robots in shown.items():
        for robot, items in robots.items():
            for item in items:
                if isinstance(item, Picture):
                    place = references if item.reference else pictures[policy]
                    place.setdefault((item.row, item.name), (robot, item))

    def of(row: int, found: Mapping[tuple[int, str], tuple[str, Picture]]) -> tuple[tuple[str, Picture], ...]:
        return tuple(pair for (own, _), pair in found.items() if own == row)

    rows = sorted({row for found in (references, *pictures.values()) for row, _ in found})
    return [
        PictureLine(row, of(row, references), {policy: of(row, found) for policy, found in pictures.items()})
        for row in rows
    ]


def picture_table(lines: Sequence[PictureLine]) -> Table:
    """Of each picture the smallest, largest and mean value, and the share of its values that are numbers."""
    columns = ("policy", "picture", "row", "title", "robot", "unit", "low", "high", "mean", "numbers (%)")
    rows: list[tuple[Value, ...]] = []
    for line in lines:
        for policy, pairs in ((REFERENCE, line.references), *line.pictures.items()):
            for robot, item in pairs:
                rows.append((policy, item.name, line.row, item.title, robot, item.unit, *_numbers_of(item)))
    return table_of(columns, rows)


def _numbers_of(item: Picture) -> tuple[Value, ...]:
    finite = item.pixels[np.isfinite(item.pixels)].astype(np.float64)
    share = 100 * finite.size / item.pixels.size
    if not finite.size:
        return None, None, None, share
    return float(finite.min()), float(finite.max()), float(finite.mean()), share


# -- plans -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Squares:
    """Those squares of a plan in which one robot has the largest weight: their size, and corners float64 [n, 2]."""

    size: float
    corners: Array


@dataclass(frozen=True, eq=False)
class ShownPlan:
    """The plans of one name.

    Attributes:
        name, title, unit: of the first of them.
        robots: names of all robots that show one.
        plans: of each policy, by robot; empty for a policy without one.
    """

    name: str
    title: str
    unit: str
    robots: tuple[str, ...]
    plans: Mapping[str, Mapping[str, Plan]]


def shown_plans(shown: Shown) -> list[ShownPlan]:
    """The plans, each with those of all policies and robots, in the order in which they are shown."""
    names: dict[str, Plan] = {}
    for robots in shown.values():
        for items in robots.values():
            for item in items:
                if isinstance(item, Plan):
                    names.setdefault(item.name, item)
    return [_plan_of(first, shown) for first in names.values()]


def _plan_of(first: Plan, shown: Shown) -> ShownPlan:
    plans = {
        policy: {
            robot: item
            for robot, items in robots.items()
            for item in items
            if isinstance(item, Plan) and item.name == first.name
        }
        for policy, robots in shown.items()
    }
    robots = tuple(dict.fromkeys(robot for own in plans.values() for robot in own))
    return ShownPlan(first.name, first.title, first.unit, robots, plans)


def squares_of(plans: Mapping[str, Plan]) -> dict[str, Squares]:
    """Whose each square is, of those in which somebody has a weight above 0; of equal ones the first robot's."""
    found = [(robot, plan.cells) for robot, plan in plans.items() if plan.cells is not None]
    if not found:
        return {}
    corners = np.concatenate([cells.corners for _, cells in found])
    weights = np.concatenate([cells.weights for _, cells in found])
    owners = np.concatenate([np.full(len(cells.weights), k) for k, (_, cells) in enumerate(found)])
    sizes = np.concatenate([np.full(len(cells.weights), cells.size) for _, cells in found])
    keys = np.round(corners / (sizes[:, None] * _SAME_CORNER)).astype(np.int64)
    order = np.lexsort((owners, -weights, keys[:, 1], keys[:, 0]))
    order = order[weights[order] > 0]
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = (np.diff(keys[order], axis=0) != 0).any(axis=1)
    chosen = order[first]
    return {
        robot: Squares(cells.size, corners[np.sort(chosen[owners[chosen] == k])])
        for k, (robot, cells) in enumerate(found)
    }


def path_name(path: Path2d) -> str:
    """The label of a way, and that it is a true one where it is."""
    return f"{path.label} (true)" if path.true and "true" not in path.label else path.label


def plan_table(plan: ShownPlan) -> Table:
    """What is drawn: the points of all ways, the squares, and the obstacles of the first robot of each policy."""
    unit = f" ({plan.unit})" if plan.unit else ""
    columns = ("policy", "robot", "what", "number", *(f"{name}{unit}" for name in ("x", "y", "width", "height")))
    return table_of(columns, (row for policy, own in plan.plans.items() for row in _plan_rows(policy, own)))


def _plan_rows(policy: str, plans: Mapping[str, Plan]) -> Iterator[tuple[Value, ...]]:
    for robot, item in list(plans.items())[:1]:
        for k, (x0, y0, x1, y1) in enumerate(item.obstacles.tolist()):
            yield policy, robot, "obstacle", k, x0, y0, x1 - x0, y1 - y0
    for robot, item in plans.items():
        for path in item.paths:
            name = path_name(path)
            for k, (x, y) in enumerate(path.points.tolist()):
                yield policy, robot, name, k, x, y, None, None
    for robot, squares in squares_of(plans).items():
        for k, (x, y) in enumerate(squares.corners.tolist()):
            yield policy, robot, "square", k, x, y, squares.size, squares.size


def plan_summary(plan: ShownPlan) -> Table:
    """A line for each way: its points and length; and how many squares are its robot's."""
    unit = f" ({plan.unit})" if plan.unit else ""
    rows: list[tuple[Value, ...]] = []
    for policy, own in plan.plans.items():
        squares = squares_of(own)
        for robot, item in own.items():
            count = len(squares[robot].corners) if robot in squares else None
            rows += [
                (policy, robot, path_name(path), len(path.points), _length(path.points), count) for path in item.paths
            ]
    return table_of(("policy", "robot", "way", "points", f"length{unit}", "squares of the robot"), rows)


def _length(points: Array) -> float:
    """Of the pieces between neighbours that are numbers."""
    return float(np.nansum(np.linalg.norm(np.diff(points, axis=0), axis=1)))
