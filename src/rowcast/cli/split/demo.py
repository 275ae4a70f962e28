"""``rowcast split demo``: a robot, a server and a link that fades, on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from rowcast.cli.options import options_from
from rowcast.cli.streams import PlainConsole
from rowcast.experiment.inference.settings import SplitDemoSettings
from rowcast.experiment.loading import loading

__all__ = ["demo"]


@options_from(demo=SplitDemoSettings)
def demo(
    demo: SplitDemoSettings,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for journals, tables and figures.")] = Path(
        "demo-split-out"
    ),
) -> None:
    """Run a small ResNet on camera images with each method, over the same fading link, on loopback, and compare."""
    with loading():
        from rowcast.cli.split.live import LiveLine
        from rowcast.cli.split.results import Observer, finish
        from rowcast.experiment.inference.demo import run_split_demo

    began = time.monotonic()
    with LiveLine(PlainConsole()) as line:
        run_split_demo(demo, out, Observer(line))
        finish(out, line)
        line.says(f"took {time.monotonic() - began:.0f} s; everything is in {out}")
