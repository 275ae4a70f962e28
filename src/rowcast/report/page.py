"""The report of a comparison: a PNG and a CSV of each figure, and one page that holds them all."""

from __future__ import annotations

import base64
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rowcast.errors import ConfigError, visible
from rowcast.report.inference_sections import inference_sections
from rowcast.report.inferences import SUMMARY, exactness_lines, read_comparison
from rowcast.report.intervals import CONFIDENCE
from rowcast.report.measures import at_the_end, step_count
from rowcast.report.read import read_experiment
from rowcast.report.reference import check_reference
from rowcast.report.results import write_results
from rowcast.report.sections import Section, TableOrFigure, sections
from rowcast.report.table import shown
from rowcast.report.values import Experiment
from rowcast.version import __version__

__all__ = ["write_report"]

REPORT = "report"
PAGE = "report.html"


def write_report(folder: str | Path, reference: str | None = None) -> Path:
    """Draw what is in the folder of a comparison (or of a demo): ``FOLDER/report/*.png``, ``*.csv``, ``report.html``.

    The page needs no other file and no network: the figures are in it. ``FOLDER/results.jsonl`` is renewed as well,
    where policies of training were compared.

    Args:
        folder: that of the comparison.
        reference: the policy that all others are held against: time and energy to the level that it kept, and how far
            behind it they are at equal samples. ``None``: bsp where it ran, otherwise the first policy.

    Returns:
        The page.

    Raises:
        ConfigError: no finished run, none of the reference, a journal that cannot be read, a library of the extra
            ``demo`` that is not installed, or a file that cannot be written.
    """
    environment = _environment()
    if (Path(folder) / SUMMARY).is_file():
        if reference is not None:
            raise ConfigError(
                f"reference {reference!r}: expected a folder in which policies of training were compared; {folder} has "
                "runs of split inference; leave the reference away"
            )
        return _write_inferences(environment, Path(folder))
    experiment = read_experiment(folder)
    if reference is not None:
        check_reference(experiment, reference)
    write_results(experiment)
    target = _emptied(experiment.folder / REPORT)
    found, notes = sections(experiment, reference)
    return _write_page(
        environment,
        target,
        title=f"Comparison of policies: {visible(experiment.folder.resolve().name)}",
        sections=found,
        notes=notes,
        lines=[],
        count=len(experiment.runs),
        missing=experiment.missing,
        confidence=f"{100 * CONFIDENCE:g}",
        settings=experiment.settings or experiment.runs[0].settings,
        **_version_table([run.versions for run in experiment.runs]),
        **_run_table(experiment),
    )


def _write_inferences(environment: Any, folder: Path) -> Path:
    """The page of what ``rowcast split bench`` or ``rowcast split demo`` left."""
    comparison = read_comparison(folder)
    return _write_page(
        environment,
        _emptied(folder / REPORT),
        title=f"Split inference: {visible(folder.resolve().name)}",
        sections=inference_sections(comparison),
        notes=[],
        lines=exactness_lines(comparison),
        count=len(comparison.runs),
        missing=0,
        confidence="",
        settings=comparison.settings,
        **_version_table([comparison.versions]),
        runs=[],
        ends=[],
    )


def _emptied(target: Path) -> Path:
    """The folder of the report, without what was there."""
    try:
        target.mkdir(exist_ok=True)
        for stale in [*target.glob("*.png"), *target.glob("*.csv"), *target.glob(PAGE)]:
            stale.unlink()
    except OSError as error:
        raise ConfigError(f"report {target}: cannot be used: {error.strerror}") from error
    return target


def _write_page(environment: Any, target: Path, *, sections: Sequence[Section], **values: Any) -> Path:
    """Write the figures, and the page around them."""
    parts = [{"title": each.title, "parts": [_written(part, target) for part in each.parts]} for each in sections]
    page = environment.get_template("report.html.j2").render(sections=parts, **values)
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


def _written(part: TableOrFigure, target: Path) -> dict[str, Any]:
    """Write the files of a figure or table; gives what the page needs."""
    part.numbers.save_csv(target / f"{part.name}.csv")
    image = ""
    if part.draw is not None:
        path = target / f"{part.name}.png"
        part.draw(path)
        image = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
    return {**vars(part), "image": image}


def _run_table(experiment: Experiment) -> dict[str, Any]:
    """A line for each run."""
    ends = [at_the_end(metric) for metric in experiment.metrics]
    runs = [
        {
            "folder": run.folder.name,
            "policy": run.policy,
            "seed": run.seed,
            "steps": step_count(run),
            "ends": [end.of(run) for end in ends],
        }
        for run in experiment.runs
    ]
    return {"runs": runs, "ends": [end.name for end in ends]}


def _version_table(of_runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Versions of what ran (several where the runs differ) and of what drew."""
    ran: dict[str, str] = {}
    for name in {name for versions in of_runs for name in versions}:
        ran[name] = ", ".join(sorted({str(versions.get(name)) for versions in of_runs}))
    here = {"rowcast": __version__, "python": platform.python_version()}
    for name in ("numpy", "scipy", "matplotlib", "jinja2"):
        try:
            here[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"ran": ran, "versions": here, "names": list(dict.fromkeys([*here, *sorted(ran)]))}
