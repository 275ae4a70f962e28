"""``rowcast demo``: policies compared on this machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from rowcast.cli.options import limit_threads, options_from
from rowcast.cli.streams import PlainConsole
from rowcast.experiment.loading import loading
from rowcast.experiment.settings import DemoSettings

__all__ = ["demo", "run_live"]


@options_from(demo=DemoSettings)
def demo(
    demo: DemoSettings,
    out: Annotated[Path, typer.Option(help="Folder for journals, summary and figures.")] = Path("demo-out"),
) -> None:
    """Train with each policy over the same fading links, on loopback, and compare.

    The links are scaled so that sending the whole encoded model at the best rate takes 0.67 of the computing time.
    """
    with loading():
        from rowcast.cli.results import finish
        from rowcast.experiment import run_demo
    run_live(demo, out, run_demo, finish)


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
    metric = find_task(settings.task, settings.data).kind.metrics[0]
    try:
        with TeamDisplay(console, metric=metric) as display:
            runs = run(settings, out, DemoDisplay(display))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finish(settings, runs, out, console)
    console.print(f"took {time.monotonic() - began:.0f} s; everything is in {out}", highlight=False)
