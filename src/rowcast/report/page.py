"""The report of a comparison: a PNG and a CSV of each figure, and one page that holds them all."""

from __future__ import annotations

import base64
import itertools
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rowcast.energy.accuracy import HOLD, WINDOW
from rowcast.errors import ConfigError, visible
from rowcast.report.cells import Experiment, Scene, read_experiment
from rowcast.report.drawings import JOULES, SECONDS, draw_bars, draw_curves, draw_micro, draw_sensitivity
from rowcast.report.exhibits import (
    MOST_LANES,
    Groups,
    accuracy_sheet,
    composition_sheet,
    energy_sheet,
    micro_sheet,
    paired_sheet,
    power_sheet,
    sensitivity_sheets,
    summary_sheet,
    target_sheet,
    timeline_sheet,
)
from rowcast.report.hour_figure import draw_hour
from rowcast.report.intervals import CONFIDENCE
from rowcast.report.results import write_results
from rowcast.report.sheet import Sheet, Value, sheet_of
from rowcast.report.timeline import state_shares
from rowcast.version import __version__

__all__ = ["Exhibit", "write_report"]

REPORT = "report"
PAGE = "report.html"
#: An interval that is narrower than this share of its mean is rounding.
_NOISE = 1e-12


@dataclass(frozen=True)
class Exhibit:
    """A figure with its numbers, or a table alone.

    Attributes:
        name: of its files, without the suffix.
        title, caption: of the page; the caption says which numbers of the journals it is made from.
        sheet: the numbers; ``shown``: the same as a table of the page has them.
        draw: writes the figure to a path; ``None`` for a table.
    """

    name: str
    title: str
    caption: str
    sheet: Sheet
    shown: Sheet
    draw: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class _Section:
    title: str
    exhibits: tuple[Exhibit, ...]


def write_report(folder: str | Path) -> Path:
    """Draw what is in the folder of a comparison (or of a demo): ``FOLDER/report/*.png``, ``*.csv``, ``report.html``.

    The page needs no other file and no network: the figures are in it. ``FOLDER/results.jsonl`` is renewed as well.

    Returns:
        The page.

    Raises:
        ConfigError: no finished cell, a journal that cannot be read, a library of the extra ``demo`` that is not
            installed, or a file that cannot be written.
    """
    environment = _environment()
    experiment = read_experiment(folder)
    write_results(experiment)
    target = experiment.folder / REPORT
    try:
        target.mkdir(exist_ok=True)
        for stale in [*target.glob("*.png"), *target.glob("*.csv"), *target.glob(PAGE)]:
            stale.unlink()
    except OSError as error:
        raise ConfigError(f"report {target}: cannot be used: {error.strerror}") from error
    notes: list[str] = []
    sections = list(_sections(experiment, notes))
    page = environment.get_template("report.html.j2").render(
        title=f"Comparison of policies: {visible(experiment.folder.resolve().name)}",
        sections=[
            {"title": section.title, "exhibits": [_written(exhibit, target) for exhibit in section.exhibits]}
            for section in sections
        ],
        notes=notes,
        cells=len(experiment.cells),
        missing=experiment.missing,
        confidence=f"{100 * CONFIDENCE:g}",
        settings=experiment.settings or experiment.cells[0].settings,
        **_version_table(experiment),
        runs=experiment.cells,
    )
    path = target / PAGE
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"report {path}: cannot be written: {error.strerror}") from error
    return path


def _environment() -> Any:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise ConfigError("reports need jinja2, which is not installed: pip install 'rowcast[demo]'") from error
    loader = PackageLoader("rowcast.report", "templates")

    def finalized(value: Any) -> Any:
        """Whatever the page says: names of others are text, without what turns or hides it."""
        return visible(value, len(value)) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=loader,
        autoescape=True,
        finalize=finalized,
        undefined=StrictUndefined,
        trim_blocks=False,
        keep_trailing_newline=True,
    )
    environment.filters["shown"] = shown
    return environment


def shown(value: Any) -> str:
    """A value as the page shows it: four digits or so; the CSV file has them all."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return visible(str(value), 2000)


def _written(exhibit: Exhibit, target: Path) -> dict[str, Any]:
    """Write the files of an exhibit; gives what the page needs."""
    exhibit.sheet.save_csv(target / f"{exhibit.name}.csv")
    image = ""
    if exhibit.draw is not None:
        path = target / f"{exhibit.name}.png"
        exhibit.draw(path)
        image = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
    return {**vars(exhibit), "image": image}


# -- what is on the page -----------------------------------------------------------------------------------------------


def _sections(experiment: Experiment, notes: list[str]) -> Iterator[_Section]:
    scenes = experiment.scenes
    for scene, suffix in zip(scenes, _suffixes(scenes), strict=True):
        groups = experiment.by_policy(scene)
        yield _Section(str(scene), tuple(_of_scene(experiment, groups, scene, suffix, notes)))
    exhibits = [_sensitivity(axis, sheet, scenes[0]) for axis, sheet in sensitivity_sheets(experiment).items()]
    if exhibits:
        yield _Section("Sensitivity", tuple(exhibits))
    power = power_sheet(experiment.power)
    caption = f"Source: {experiment.power.source}. Server and looks at the accuracy are left out."
    yield _Section("Power", (Exhibit("power-states", "Power states", caption, power, power),))


#: What accuracy is drawn against -> label of the axis, and what the caption says of it.
CURVES: Mapping[str, tuple[str, str]] = {
    "steps": ("steps (iterations of each robot)", "iteration at which each robot measured"),
    "time": ("time (s)", "time of each measurement"),
    "energy": ("energy of the team (J)", "time of each measurement and events 'step', priced by the power states"),
}


def _of_scene(experiment: Experiment, groups: Groups, scene: Scene, suffix: str, notes: list[str]) -> Iterator[Exhibit]:
    summary = summary_sheet(groups)
    yield Exhibit(
        f"summary{suffix}",
        "What the runs came to",
        "Events 'step' and 'metric' of all robots; mean and 95 % interval.",
        summary,
        _across(summary),
    )
    paired = paired_sheet(groups)
    if paired.rows:
        yield Exhibit(
            f"paired{suffix}",
            f"Against {next(iter(groups))}, seed by seed",
            "As the summary, each run against the one with the same seed and so the same links: percentages by their "
            "difference, all else by its ratio.",
            paired,
            _across(paired),
        )
    composition = composition_sheet(groups)
    yield Exhibit(
        f"composition{suffix}",
        "Average time composition of a step",
        "Events 'step': compute_s, communicate_s, stall_s; the mean over all steps of all robots of a run, then over "
        "seeds.",
        composition,
        composition,
        partial(draw_bars, composition, SECONDS),
    )
    for along, (label, source) in CURVES.items():
        sheet = accuracy_sheet(groups, along)
        notes += [
            f"accuracy against {along}, {scene}: {policy} has no measurements that all robots share"
            for policy in groups
            if policy not in sheet.distinct("policy")
        ]
        if sheet.rows:
            yield Exhibit(
                f"accuracy-{along}{suffix}",
                f"Accuracy against {along}",
                f"Events 'metric' named accuracy: {source}; each robot with its own replica, then the mean over "
                "robots and seeds where all of them have been. Band: 95 % interval.",
                sheet,
                sheet,
                partial(draw_curves, sheet, label),
            )
    targets = target_sheet(groups)
    if targets.rows:
        yield Exhibit(
            f"targets{suffix}",
            "Time and energy until an accuracy is kept",
            f"Moving average of the team's accuracy over {WINDOW} looks, kept for {HOLD}; the looks are as far apart "
            "for all. '>' marks a bound: a seed did not get there. Targets: what all runs kept, and what all seeds "
            "of one policy kept.",
            targets,
            targets,
        )
    else:
        notes.append(f"time and energy until an accuracy is kept, {scene}: a run has too few looks at the accuracy")
    energy = energy_sheet(groups, experiment.power)
    yield Exhibit(
        f"energy{suffix}",
        "Energy of a step",
        f"Seconds in each state, from events 'step', by {experiment.power.source}. Server and looks at the accuracy "
        "are left out.",
        energy,
        energy,
        partial(draw_bars, energy, JOULES),
    )
    yield _timeline(groups, suffix)
    yield from _micro(groups, suffix)


def _timeline(groups: Groups, suffix: str) -> Exhibit:
    sheet = timeline_sheet(groups)
    run = next(iter(groups.values()))[0]
    return Exhibit(
        f"timeline{suffix}",
        f"Who computed, sent and stalled, and when, seed {run.seed}",
        "Events 'step': compute_s, communicate_s, stall_s, in bins, and below step by step; where a push ends and a "
        "pull begins is right to about the quota. Thin: overlap_s. Line: the trace under the robot's link towards the "
        f"server, where the run left it. At most {MOST_LANES} robots; the table has the totals of the CSV file.",
        sheet,
        state_shares(sheet),
        partial(draw_hour, sheet),
    )


def _micro(groups: Groups, suffix: str) -> Iterator[Exhibit]:
    sheet = micro_sheet(groups)
    if sheet.rows:
        run = next(iter(groups.values()))[0]
        title = f"Micro-events of {run.robots[0].name}, seed {run.seed}"
        yield Exhibit(
            f"micro-events{suffix}",
            title,
            "Events 'step' of one robot: rate_bps, push_share, staleness, drawn at the end of each step; grey: the "
            "trace under the robot's link towards the server, where the run left it.",
            sheet,
            sheet,
            partial(draw_micro, sheet, title),
        )


def _sensitivity(axis: str, sheet: Sheet, scene: Scene) -> Exhibit:
    return Exhibit(
        f"sensitivity-{axis}",
        f"Sensitivity to the {axis}",
        f"As the summary, with another {axis}; all else as in: {scene}. Whiskers: 95 % interval.",
        sheet,
        sheet,
        partial(_draw_sensitivity, sheet, axis),
    )


def _draw_sensitivity(sheet: Sheet, axis: str, path: Path) -> None:
    draw_sensitivity(sheet, axis, path)


def _across(summary: Sheet) -> Sheet:
    """Measures with a line for each policy, as one reads them."""
    measures = summary.distinct("measure")

    def line(policy: str) -> list[Value]:
        own = summary.where(policy=policy)
        found = [own.where(measure=measure).rows for measure in measures]
        cells = [_cell(*rows[0][-4:]) if rows else "" for rows in found]
        return [policy, *cells, max(int(count) for count in own.numbers("seeds"))]

    return sheet_of(("policy", *measures, "seeds"), (line(policy) for policy in summary.distinct("policy")))


def _cell(mean: Value, low: Value, high: Value, count: Value) -> str:
    if mean is None:
        return ""
    assert isinstance(mean, float)
    if not isinstance(high, float):
        return shown(mean)
    half = high - mean
    return f"{shown(mean)} ± {shown(half if half > _NOISE * abs(mean) else 0.0)}"


def _suffixes(scenes: Sequence[Scene]) -> list[str]:
    """What the names of the files of each scene end in: nothing for a single one, else its links and devices."""
    if len(scenes) == 1:
        return [""]
    found: list[str] = []
    for scene in scenes:
        plain = re.sub(r"[^A-Za-z0-9.]+", "-", f"{Path(scene.links).name}-{scene.devices_name}").strip("-.")
        numbered = (f"-{plain}" if k == 1 else f"-{plain}-{k}" for k in itertools.count(1))
        found.append(next(name for name in numbered if name not in found))
    return found


def _version_table(experiment: Experiment) -> dict[str, Any]:
    """Versions of what ran (several where the runs differ) and of what drew."""
    ran: dict[str, str] = {}
    for name in {name for cell in experiment.cells for name in cell.versions}:
        ran[name] = ", ".join(sorted({str(cell.versions.get(name)) for cell in experiment.cells}))
    here = {"rowcast": __version__, "python": platform.python_version()}
    for name in ("numpy", "scipy", "matplotlib", "jinja2"):
        try:
            here[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"ran": ran, "versions": here, "names": list(dict.fromkeys([*here, *sorted(ran)]))}
