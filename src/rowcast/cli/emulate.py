"""``rowcast emulate``: policies compared on real sockets, over links that this machine makes."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rowcast.cli.options import limit_threads, options_from
from rowcast.errors import ConfigError
from rowcast.experiment.emulation_settings import EmulationSettings
from rowcast.experiment.loading import loading

if TYPE_CHECKING:
    from rich.console import Console

    from rowcast.tasks import TaskOptions

__all__ = ["emulate"]


def _task_options(settings: Mapping[str, Any]) -> type:
    """The options of the task that was named."""
    with loading():
        from rowcast.tasks import load_task

    return load_task(settings["emulate"].task).options_type()


# What both classes have is meant for the emulation: it stands last.
@options_from(task=_task_options, emulate=EmulationSettings)
def emulate(
    emulate: EmulationSettings,
    task: TaskOptions,
    out: Annotated[Path, typer.Option(help="Folder for journals, results and report.")] = Path("emulate-out"),
    clean: Annotated[
        bool,
        typer.Option("--clean", help="Remove what an emulation left that was killed, and run nothing."),
    ] = False,
) -> None:
    """Run each policy with real processes in network namespaces of this machine, and draw the report.

    Nothing of it can be reached from elsewhere. Each run takes its --minutes; Ctrl-C ends it, and the same command
    goes on where it was.
    """
    from rowcast.cli.streams import PlainConsole

    console = PlainConsole()
    if clean:
        _clean(console)
        return
    _take_rights(emulate)
    from rowcast.tasks.options import written_options

    settings = replace(emulate, task_options=(*emulate.task_options, *written_options(task.given)))
    _run(settings, out, console)


def _clean(console: Console) -> None:
    """Remove what emulations left that were killed, and say what it was."""
    from rowcast.drivers.netns.cleaning import clean

    cleaned = clean()
    for each in cleaned.left:
        console.print(each, highlight=False, soft_wrap=True)
    many = len(cleaned.namespaces)
    if not many and not cleaned.left:
        console.print("nothing of an emulation that was killed is left", highlight=False)
    elif many:
        ended = f", and ended {len(cleaned.processes)} processes in them" if cleaned.processes else ""
        console.print(f"removed {many} namespaces with their interfaces{ended}", highlight=False)


def _take_rights(settings: EmulationSettings) -> None:
    """Go on if networks can be made here; a user without the rights goes on in a user namespace.

    Raises:
        ConfigError: neither is possible.
        SystemExit: the command has ended that ran there.
    """
    from rowcast.drivers.netns.kernel_shaper import why_not_kernel
    from rowcast.drivers.netns.rights import enter_user_namespace, why_not

    reason = why_not_kernel() if settings.medium.shaper == "kernel" else why_not()
    if reason is None:
        return
    if os.geteuid() == 0:
        raise ConfigError(reason)
    enter_user_namespace([sys.executable, "-m", "rowcast", *sys.argv[1:]])


def _run(settings: EmulationSettings, out: Path, console: Console) -> None:
    """Run what is not finished, and draw the report."""
    from rich.text import Text

    from rowcast.cli.emulated import shown
    from rowcast.cli.progress import ComparisonDisplay

    with loading():
        from rowcast.experiment import run_comparison
        from rowcast.report import write_report
    limit_threads(1)  # the processors belong to the robots
    try:
        with ComparisonDisplay(console) as display:
            cells = run_comparison(settings, out, progress=display.shows)
    except KeyboardInterrupt:
        console.print(f"what is finished is kept in {out}: the same command goes on", highlight=False)
        raise
    for each in shown(cells, out):
        console.print(Text(each) if isinstance(each, str) else each, soft_wrap=True)
    console.print(f"{len(cells)} runs are finished; the report is {write_report(out)}", highlight=False)
