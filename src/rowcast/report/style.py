"""What all figures have in common: colours, axes, and how they are written.

matplotlib comes with the extra ``demo`` and is imported only when a figure is drawn; it draws into a file,
never onto a screen. Colours are from the set of Okabe and Ito (2008), which stays apart for the
colour-blind; where colours could be confused, marker and line style differ too.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from rowcast.errors import ConfigError, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "FAINT",
    "FAMILIES",
    "INK",
    "STARVE_COLOUR",
    "STATE_COLOURS",
    "WHY_NO_FIGURES",
    "can_draw",
    "figure_legend",
    "headline",
    "line_styles",
    "new_figure",
    "plain_axes",
    "plot_marked",
    "seconds_text",
]

#: State of a worker -> (colour, colour of text upon it). The order is that of a step.
STATE_COLOURS: Mapping[str, tuple[str, str]] = {
    "compute": ("#0072B2", "white"),
    "communicate": ("#E69F00", "black"),
    "stall": ("#C4C4C4", "black"),
}
#: The wait for data, which comes before: colour, and colour of text upon it.
STARVE_COLOUR = ("#CC79A7", "black")
#: Policy family (the text before a colon) -> colour; the same in every figure.
FAMILIES: Mapping[str, str] = {
    "bsp": "#000000",
    "ssp": "#E69F00",
    "asp": "#56B4E9",
    "flown": "#CC79A7",
    "rog": "#0072B2",
    "rowcast": "#D55E00",
}
#: Rule of batches (the text before a colon) -> colour; the same in every figure.
RULES: Mapping[str, str] = {
    "fixed": "#000000",
    "rate": "#E69F00",
    "team": "#D55E00",
    "speed": "#0072B2",
}
_OTHER = "#009E73"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", "-.", ":")
INK, FAINT = "#222222", "#8A8A8A"
_DPI = 150
#: Inches of a letter of a legend, about, and of what stands before a text; share of a figure beside the headline.
_LETTER, _HANDLE, _BESIDE = 0.07, 0.7, 0.8


def line_styles(policies: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Colour by family or rule, line style by place within the family, marker by place in the figure."""
    seen: dict[str, Iterator[int]] = {}
    for place, policy in enumerate(policies):
        family = policy.partition(":")[0]
        colour = FAMILIES.get(family) or RULES.get(family, _OTHER)
        within = next(seen.setdefault(colour, count()))
        yield colour, _LINES[within % len(_LINES)], _MARKERS[place % len(_MARKERS)]


def plot_marked(
    axes: Axes, along: Sequence[float], values: Sequence[float], name: str, style: tuple[str, str, str]
) -> None:
    """A line with about ten marks.

    Args:
        axes: where.
        along, values: of the same length.
        name: for the legend.
        style: as :func:`line_styles` has it.
    """
    colour, line, marker = style
    axes.plot(
        along,
        values,
        color=colour,
        linestyle=line,
        linewidth=1.8,
        marker=marker,
        markersize=5.5,
        markevery=max(1, len(along) // 10),
        markeredgecolor="white",
        markeredgewidth=0.7,
        label=name,
        zorder=3,
    )


def plain_axes(axes: Axes, grid: str) -> None:
    """Axes with two faint lines, and a grid along 'x', 'y' or 'both'."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(color=FAINT, labelcolor=INK)
    axes.grid(axis=grid, color="#E4E4E4", linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def seconds_text(value: float) -> str:
    """Seconds with about two digits that matter."""
    digits = 1 if value >= 9.995 else 2 if value >= 0.0995 or value == 0 else 3
    return f"{value:.{digits}f}"


def figure_legend(figure: Figure, axes: Axes) -> None:
    """A legend of what is in ``axes``, at the right of the headline: in two rows where one would run into it.

    Where both would, it stands below.
    """
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        columns = len(labels) if len(labels) <= 4 else -(-len(labels) // 2)
        entry = _LETTER * max(map(len, labels)) + _HANDLE
        room = figure.get_figwidth()
        if columns * entry <= _BESIDE * room:
            figure.legend(handles, labels, loc="outside upper right", ncols=columns, frameon=False)
        else:
            figure.legend(handles, labels, loc="outside lower center", ncols=max(1, int(room // entry)), frameon=False)


def headline(figure: Figure, text: str) -> None:
    """The title of a figure, at the left."""
    figure.suptitle(visible(text), x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)


#: What a command says that goes on without figures.
WHY_NO_FIGURES = "no figures: they need matplotlib, which is not installed; pip install 'rowcast[demo]'"


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return find_spec("matplotlib") is not None


@contextmanager
def new_figure(path: str | Path, *, width: float, height: float) -> Iterator[Figure]:
    """An empty figure (inches) that is written to ``path`` at the end.

    Names in it are text: no formula between dollar signs, and no warning for a letter that the font lacks.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("figures need matplotlib, which is not installed: pip install 'rowcast[demo]'") from error
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        try:
            figure.savefig(path, dpi=_DPI)
        except (OSError, ValueError) as error:  # ValueError: a suffix that matplotlib does not know
            raise ConfigError(f"figure {path}: cannot be written: {error}") from error
