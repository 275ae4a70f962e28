"""``rowcast split bench``: methods side by side, over a real link."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rowcast.cli.options import options_from
from rowcast.cli.split.models import Address, ModelText
from rowcast.cli.streams import PlainConsole
from rowcast.experiment.inference.settings import CameraSettings, MethodSettings

__all__ = ["bench"]


@options_from(methods=MethodSettings, camera=CameraSettings)
def bench(
    methods: MethodSettings,
    camera: CameraSettings,
    address: Address,
    model: ModelText,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for journals, tables and figures.")] = Path(
        "split-bench-out"
    ),
    quiet: Annotated[bool, typer.Option(help="No live line.")] = False,
) -> None:
    """Ask a server with each method in turn, with the same inputs at the same rate, and compare."""
    from rowcast.cli.split.ask import inputs_of
    from rowcast.cli.split.live import LiveLine
    from rowcast.cli.split.models import captured
    from rowcast.cli.split.results import Observer, finish
    from rowcast.experiment.inference.methods import Comparer, Summary, empty_folder

    with LiveLine(PlainConsole(), quiet=quiet) as line:
        known = captured(model, camera.example, camera.threads, line)
        empty_folder(out)
        comparer = Comparer(address, known, inputs_of(camera, known), camera, out, Observer(line))
        runs = comparer.run_all(methods.methods)
        Summary(f"{model} with {address}", runs, {**asdict(methods), **asdict(camera)}, camera.deadline_s).save(out)
        finish(out, line)
