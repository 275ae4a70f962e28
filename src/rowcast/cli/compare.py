"""``rowcast compare``: policies compared over tasks, links, teams and seeds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rowcast.cli.options import options_from
from rowcast.errors import ConfigError
from rowcast.experiment.settings import Comparison

if TYPE_CHECKING:
    from rich.console import Console

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
    on: Annotated[
        str,
        typer.Option(
            metavar="PLACE",
            help="Where runs take place: local, processes here; ray, a Ray cluster of this machine; or ray:ADDRESS, a "
            "Ray cluster that is there (ray:auto, ray:HOST:PORT).",
        ),
    ] = "local",
    list_cells: Annotated[
        bool, typer.Option("--list-cells", help="Print the key of each run that is not finished, and run nothing.")
    ] = False,
    cell: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Run only this one of them, and draw no report; repeatable."),
    ] = None,
) -> None:
    """Run each policy with each seed, link and team, and draw the report.

    Ctrl-C ends it; the same command goes on where it was, and repeats nothing that is finished.
    """
    from rowcast.cli.streams import PlainConsole
    from rowcast.experiment import pending_cells
    from rowcast.experiment.starting import CACHE_VARIABLE
    from rowcast.tasks.options import written_options

    settings = replace(compare, task_options=(*compare.task_options, *written_options(task.given)))
    if list_cells:
        if cell or on != "local":
            raise ConfigError("--list-cells: runs nothing, got --cell or --on beside it; leave one of them away")
        for each in pending_cells(settings, out):
            typer.echo(each.name)
        return
    if cache is not None:  # the processes of the runs inherit it
        os.environ[CACHE_VARIABLE] = cache
    _run(settings, out, cell, PlainConsole(), jobs=jobs, on=on)


def _run(settings: Comparison, out: Path, keys: list[str] | None, console: Console, **how: Any) -> None:
    """Run all cells and draw the report; or those with some keys, if there are any."""
    from rowcast.cli.progress import ComparisonDisplay
    from rowcast.experiment import run_comparison, run_some_cells
    from rowcast.report import write_report

    def says(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    try:
        with ComparisonDisplay(console) as display:
            if keys:
                cells = run_some_cells(settings, out, keys, progress=display.shows, **how)
            else:
                cells = run_comparison(settings, out, progress=display.shows, **how)
    except KeyboardInterrupt:
        says(f"what is finished is kept in {out}: the same command goes on, 'rowcast report {out}' draws what is there")
        raise
    if keys:
        says(f"{len(cells)} runs are finished in {out}; without --cell the same command draws the report of all")
    else:
        says(f"{len(cells)} runs are finished; the report is {write_report(out)}")
