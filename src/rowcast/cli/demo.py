"""``rowcast demo``: policies compared on this machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rowcast.cli.exits import ExitCode
from rowcast.cli.options import limit_threads, options_from
from rowcast.cli.streams import PlainConsole
from rowcast.experiment.loading import loading
from rowcast.experiment.settings import DemoSettings

if TYPE_CHECKING:
    from rowcast.tasks import TaskOptions

__all__ = ["demo", "run_live"]


def _task_options(settings: Mapping[str, Any]) -> type:
    """The options of the task that was named."""
    with loading():
        from rowcast.tasks import load_task

    return load_task(settings["demo"].task).options_type()


# What both classes have is meant for the demo: it stands last.
@options_from(task=_task_options, demo=DemoSettings)
def demo(
    demo: DemoSettings,
    task: TaskOptions,
    out: Annotated[Path, typer.Option(help="Folder for journals, summary and figures.")] = Path("demo-out"),
    fault: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Play a fault script instead, with a small team on real sockets, and say what held.",
        ),
    ] = None,
) -> int:
    """Train with each policy over the same fading links, on loopback, and compare.

    The links are scaled so that sending the whole encoded model at the best rate takes 0.67 of the computing time. Data
    that come by a clock come in step with --pace, unless the options of the task say when (--set, or a table [task]).
    """
    if fault is not None:
        from rowcast.cli.fault import play_fault

        return play_fault(fault, out)
    with loading():
        from rowcast.cli.results import finish
        from rowcast.experiment import run_demo
    run_live(replace(demo, task_options=task.given), out, run_demo, finish)
    return ExitCode.FINE


def run_live(settings: Any, out: Path, run: Callable[..., Any], finish: Callable[..., None]) -> None:
    """Run a demo with its live display, and show what came of it.

    Args:
        settings: of the demo; they name the task and its data.
        out: folder of the demo.
        run: called with the settings, the folder and an observer; returns the runs.
        finish: called with the settings, the runs, the folder and the console.
    """
    with loading():
        from rowcast.cli.display import DemoDisplay, TeamDisplay
        from rowcast.tasks import find_task

    # The server's kernels are small; the processors belong to the workers.
    limit_threads(1)
    console = PlainConsole()
    began = time.monotonic()
    metrics = find_task(settings.task, settings.data).kind.shown_metrics()
    try:
        with TeamDisplay(console, metrics=metrics) as display:
            runs = run(settings, out, DemoDisplay(display))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finish(settings, runs, out, console)
    console.print(f"took {time.monotonic() - began:.0f} s; everything is in {out}", highlight=False)
