"""Figures of what robots show of their replicas: pictures side by side, and plans with ways and squares."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rowcast.errors import ConfigError, visible
from rowcast.exhibits import Picture, Plan
from rowcast.report.exhibits_tables import REFERENCE, PictureLine, ShownPlan, squares_of
from rowcast.report.style import FAINT, INK, headline, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = ["draw_pictures", "draw_plan"]

#: Inches of a picture, of the words below it, of what stands above all of them, and beside them.
_PICTURE, _WORDS, _HEADINGS, _BESIDE = 2.3, 0.32, 0.6, 0.9
#: Letters that a picture has room for above it and below it.
_LETTERS_ABOVE, _LETTERS_BELOW = 21, 32
#: Height over width of a cell, at least and at most.
_FLATTEST, _TALLEST = 0.4, 2.0
#: Panels side by side, inches of one, and of its axes.
_ACROSS, _PANEL, _AXES = 3, 4.2, 0.7
#: Inches of an entry of the legend of a plan.
_ENTRY = 1.25
#: Of each robot in turn; Okabe and Ito (2008).
_ROBOTS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F", "#000000")
#: Share of white in the colour of a square.
_WHITE = 0.72
_OBSTACLE = "#9A9A9A"


# -- pictures ----------------------------------------------------------------------------------------------------------


def draw_pictures(lines: Sequence[PictureLine], title: str, path: str | Path) -> None:
    """A column for what is the same for all policies, and one for each policy; a line for each number of a row.

    Args:
        lines: at least one.
        title: of the figure.
        path: file to write; its suffix gives the format.

    Raises:
        ConfigError: matplotlib is not installed, there is nothing to draw, or the file cannot be written.
    """
    if not lines:
        raise ConfigError("no pictures to draw")
    # Of each heading as many columns as the line with the most of its pictures needs.
    shown = [{REFERENCE: line.references, **line.pictures} for line in lines]
    widths = {name: max(len(line[name]) for line in shown) for name in shown[0]}
    columns = sum(widths.values())
    heights = [_PICTURE * _shape(line) for line in shown]
    width = _PICTURE * columns + _BESIDE
    height = sum(heights) + _WORDS * len(lines) + _HEADINGS
    with new_figure(path, width=max(width, 5.0), height=height) as figure:
        figure.set_layout_engine("compressed")  # for pictures, whose shape is given
        axes = figure.subplots(len(lines), columns, squeeze=False, height_ratios=heights)
        for place, (line, cells) in enumerate(zip(shown, axes, strict=True)):
            _draw_line(figure, line, widths, list(cells), headed=place == 0)
        headline(figure, title)


def _shape(line: Mapping[str, Sequence[tuple[str, Picture]]]) -> float:
    """Height over width of the cells of a line."""
    shapes = [item.pixels.shape[0] / item.pixels.shape[1] for pairs in line.values() for _, item in pairs]
    return float(np.clip(max(shapes), _FLATTEST, _TALLEST))


def _draw_line(
    figure: Figure,
    line: Mapping[str, Sequence[tuple[str, Picture]]],
    widths: Mapping[str, int],
    cells: list[Axes],
    *,
    headed: bool,
) -> None:
    """The pictures of one line, and at its end the scale of their colours."""
    scale: Picture | None = None
    image: AxesImage | None = None
    place = 0
    for name, count in widths.items():
        if headed and count:
            heading = textwrap.fill(visible(name), _LETTERS_ABOVE * count)
            cells[place].set_title(heading, loc="left", fontsize=11, fontweight="bold", color=INK)
        for k in range(count):
            axes = cells[place + k]
            if k >= len(line[name]):
                axes.set_axis_off()
                continue
            item = line[name][k][1]
            drawn = _draw_picture(axes, item)
            if item.pixels.ndim == 2 and scale is None:
                scale, image = item, drawn
            _caption(axes, item, scale)
        place += count
    if image is not None and scale is not None:
        figure.colorbar(image, ax=cells, pad=0.01, aspect=12, label=visible(scale.unit))


def _draw_picture(axes: Axes, item: Picture) -> AxesImage:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    if item.pixels.ndim == 3:
        return axes.imshow(item.pixels, interpolation="nearest")
    values = np.ma.masked_invalid(item.pixels)
    return axes.imshow(values, vmin=item.low, vmax=item.high, cmap="viridis", interpolation="nearest")


def _caption(axes: Axes, item: Picture, scale: Picture | None) -> None:
    """What a picture is, below it; with its range where its colours mean something else than those of the scale."""
    text = visible(item.title)
    if item.pixels.ndim == 2 and scale is not None and _range(item) != _range(scale):
        text = f"{text} ({item.low:g} to {item.high:g} {visible(item.unit)})"
    axes.set_xlabel("\n".join(textwrap.wrap(text, _LETTERS_BELOW)[:2]), fontsize=9, color=INK)


def _range(item: Picture) -> tuple[float, float, str]:
    return item.low, item.high, item.unit


# -- plans -------------------------------------------------------------------------------------------------------------


def draw_plan(plan: ShownPlan, path: str | Path) -> None:
    """A panel for each policy: obstacles grey, true ways dotted, estimated ones solid, a colour for each robot.

    A square has a light tint of the colour of the robot with the largest weight there. All panels show the same place.

    Raises:
        ConfigError: matplotlib is not installed, or the file cannot be written.
    """
    policies = list(plan.plans)
    low, high = _extent(plan)
    across = min(len(policies), _ACROSS)
    down = -(-len(policies) // across)
    shape = float(np.clip((high[1] - low[1]) / (high[0] - low[0]), _FLATTEST, _TALLEST))
    width, height = max(_PANEL * across + _AXES, 6.0), (_PANEL * shape + _AXES) * down + _HEADINGS
    with new_figure(path, width=width, height=height) as figure:
        panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        colours = {robot: _ROBOTS[k % len(_ROBOTS)] for k, robot in enumerate(plan.robots)}
        unit = f" ({visible(plan.unit)})" if plan.unit else ""
        for axes in panels.flat[len(policies) :]:
            axes.set_axis_off()
        for axes, policy in zip(panels.flat, policies, strict=False):
            _draw_place(axes, plan.plans[policy], colours)
            axes.set_title(visible(policy), loc="left", fontsize=11, fontweight="bold", color=INK)
            axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
            plain_axes(axes, grid="both")
        for axes in panels[:, 0]:
            axes.set_ylabel(f"y{unit}")
        for k, axes in enumerate(panels.flat[: len(policies)]):
            if k + across >= len(policies):
                axes.set_xlabel(f"x{unit}")
                axes.tick_params(labelbottom=True)
        handles = _legend(plan, colours)
        columns = min(len(handles), int(width / _ENTRY))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
        headline(figure, plan.title)


def _extent(plan: ShownPlan) -> tuple[list[float], list[float]]:
    """The lower left and the upper right corner of all that is drawn, with a margin."""
    parts = [np.zeros((0, 2))]
    for own in plan.plans.values():
        for item in own.values():
            parts += [path.points for path in item.paths]
            parts += [item.obstacles[:, :2], item.obstacles[:, 2:]]
        parts += [squares.corners + shift for squares in squares_of(own).values() for shift in (0.0, squares.size)]
    points = np.concatenate(parts)
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return [0.0, 0.0], [1.0, 1.0]
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.03 * float((high - low).max()) or 0.5
    return (low - margin).tolist(), (high + margin).tolist()


def _draw_place(axes: Axes, plans: Mapping[str, Plan], colours: Mapping[str, str]) -> None:
    """The ways of all robots of a run, over their squares and the obstacles."""
    from matplotlib.collections import PolyCollection

    for robot, squares in squares_of(plans).items():
        corners = squares.size * np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        tint = _tint(colours[robot])
        axes.add_collection(
            PolyCollection(list(squares.corners[:, None] + corners), facecolors=tint, edgecolors=tint, lw=0.2)
        )
    for item in list(plans.values())[:1]:
        x0, y0, x1, y1 = item.obstacles.T
        outlines = np.stack((x0, y0, x1, y0, x1, y1, x0, y1), axis=1).reshape(-1, 4, 2)
        axes.add_collection(PolyCollection(list(outlines), facecolors=_OBSTACLE, edgecolors="none", zorder=2))
    for robot, item in plans.items():
        for path in item.paths:
            style = (0, (1, 1.4)) if path.true else "-"
            axes.plot(*path.points.T, color=colours[robot], linestyle=style, linewidth=1.6, zorder=3 + (not path.true))


def _tint(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    red, green, blue = (_WHITE + (1 - _WHITE) * part for part in to_rgb(colour))
    return red, green, blue


def _legend(plan: ShownPlan, colours: Mapping[str, str]) -> list[Artist]:
    """Whose each colour is, and what lines and grey areas are, as far as they are drawn."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    items = [item for own in plan.plans.values() for item in own.values()]
    handles: list[Artist] = [
        Patch(facecolor=_tint(colour), edgecolor=colour, label=visible(robot)) for robot, colour in colours.items()
    ]
    kinds = {path.true for item in items for path in item.paths}
    if True in kinds:
        handles.append(Line2D([], [], color=INK, linestyle=(0, (1, 1.4)), label="true way"))
    if False in kinds:
        handles.append(Line2D([], [], color=INK, label="estimated way"))
    if any(len(item.obstacles) for item in items):
        handles.append(Patch(facecolor=_OBSTACLE, label="obstacle"))
    return handles
