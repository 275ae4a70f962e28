"""``rowcast compare``: policies compared over tasks, links, teams and seeds."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rowcast.config import load_tables
from rowcast.errors import ConfigError
from rowcast.sync import policy_forms

if TYPE_CHECKING:
    from rowcast.experiment import Comparison

__all__ = ["compare"]


def compare(
    out: Annotated[Path, typer.Option(help="Folder for journals, results and report.")] = Path("compare-out"),
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file with a table [compare]; options win over it.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="A built-in task; cruda-idx, -npz or -images for data of your own; or cruda: the data decide."
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Folder of the data set.")] = None,
    policies: Annotated[
        str | None, typer.Option(help=f"Separated by commas (bsp,ssp:4,rog:4): {policy_forms()}.")
    ] = None,
    links: Annotated[str | None, typer.Option(help="outdoor, constant:MBPS or trace files, by commas.")] = None,
    links_reuse: Annotated[
        bool | None, typer.Option("--links-reuse", help="Robots beyond the files of a folder of traces share them.")
    ] = None,
    channel: Annotated[str | None, typer.Option(help="How transfers at the same time share the medium.")] = None,
    workers: Annotated[str | None, typer.Option(help="Robots of the team; several sizes by commas.")] = None,
    batch: Annotated[str | None, typer.Option(help="Images of one step; several by commas.")] = None,
    devices: Annotated[
        str | None, typer.Option(help="Seconds of a gradient: 2.18, 2/2/8, 2.18~0.2 or a CSV file; several by commas.")
    ] = None,
    hours: Annotated[float | None, typer.Option(help="How long each run trains, in virtual time.")] = None,
    seeds: Annotated[str | None, typer.Option(help="How many, or a list by commas ('7,' is seed 7 alone).")] = None,
    eval_every_s: Annotated[
        float | None, typer.Option("--eval-every-s", help="Virtual seconds between two looks at the accuracy.")
    ] = None,
    driver: Annotated[str | None, typer.Option(help="What runs the team: virtual.")] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Runs at the same time; one for each processor if not given.")
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where starting models are kept, or 'off'; by default the user's cache."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override another setting, or one of the task (lr, optimizer, alpha, ...); repeatable.",
        ),
    ] = None,
) -> None:
    """Run each policy with each seed, link and team, and draw the report.

    Ctrl-C ends it; the same command goes on where it was, and repeats nothing that is finished.
    """
    given = {
        "task": task,
        "data": data,
        "policies": _words(policies),
        "links": _words(links),
        "links_reuse": links_reuse,
        "channel": channel,
        "workers": _numbers("workers", workers),
        "batch": _numbers("batch", batch),
        "devices": _words(devices),
        "hours": hours,
        "seeds": _seeds(seeds),
        "eval_every_s": eval_every_s,
        "driver": driver,
    }
    from rowcast.cli.progress import ComparisonDisplay
    from rowcast.cli.streams import PlainConsole
    from rowcast.experiment import Comparison, run_comparison
    from rowcast.experiment.starting import CACHE_VARIABLE
    from rowcast.report import write_report
    from rowcast.tasks import TaskOptions
    from rowcast.tasks.settings import written_options

    # JSON is TOML as far as texts, numbers and lists of them go.
    overrides = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    # What both have is meant for the comparison: it stands later.
    tables = load_tables({"task": TaskOptions, "compare": Comparison}, config, overrides=[*overrides, *(set_ or [])])
    settings: Comparison = tables["compare"]
    settings = replace(settings, task_options=(*settings.task_options, *written_options(tables["task"].given)))
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


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _numbers(option: str, text: str | None) -> list[Any] | None:
    words = _words(text)
    if words is None:
        return None
    try:
        return [float(word) if "." in word or "e" in word.lower() else int(word) for word in words]
    except ValueError:
        raise ConfigError(f"--{option}: expected numbers, separated by commas, got {text!r}") from None


def _seeds(text: str | None) -> int | list[Any] | None:
    numbers = _numbers("seeds", text)
    if numbers is None or text is None:
        return None
    return numbers if "," in text or len(numbers) != 1 else numbers[0]
