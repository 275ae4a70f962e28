"""``rowcast compare``: policies compared over tasks, links, teams and seeds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rowcast.cli.options import options_from
from rowcast.experiment.settings import Comparison

if TYPE_CHECKING:
    from rowcast.tasks import TaskOptions

__all__ = ["compare"]


def _task_options(settings: Mapping[str, Any]) -> type:
    """The options of the task that was named."""
    from rowcast.tasks import load_task

    return load_task(settings["compare"].task).options_type()


# What both classes have is meant for the comparison: it stands last.
@options_from(task=_task_options, compare=Comparison)
def compare(
    compare: Comparison,
    task: TaskOptions,
    out: Annotated[Path, typer.Option(help="Folder for journals, results and report.")] = Path("compare-out"),
    jobs: Annotated[
        int | None, typer.Option(help="Runs at the same time; one for each processor if not given.")
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where starting models are kept, or 'off'; by default the user's cache."),
    ] = None,
) -> None:
    """Run each policy with each seed, link and team, and draw the report.

    Ctrl-C ends it; the same command goes on where it was, and repeats nothing that is finished.
    """
    from rowcast.cli.progress import ComparisonDisplay
    from rowcast.cli.streams import PlainConsole
    from rowcast.experiment import run_comparison
    from rowcast.experiment.starting import CACHE_VARIABLE
    from rowcast.report import write_report
    from rowcast.tasks.options import written_options

    settings = replace(compare, task_options=(*compare.task_options, *written_options(task.given)))
    if cache is not None:  # the processes of the runs inherit it
        os.environ[CACHE_VARIABLE] = cache
    console = PlainConsole()
    try:
        with ComparisonDisplay(console) as display:
            cells = run_comparison(settings, out, jobs=jobs, progress=display.shows)
    except KeyboardInterrupt:
        console.print(
            f"what is finished is kept in {out}: the same command goes on, 'rowcast report {out}' draws what is there",
            highlight=False,
            soft_wrap=True,
        )
        raise
    page = write_report(out)
    console.print(f"{len(cells)} runs are finished; the report is {page}", highlight=False, soft_wrap=True)
