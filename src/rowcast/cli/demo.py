"""``rowcast demo``: policies compared on this machine."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rowcast.cli.options import limit_threads
from rowcast.cli.streams import PlainConsole
from rowcast.sync import policy_forms

if TYPE_CHECKING:
    from rowcast.training.member import MemberStatus

__all__ = ["demo"]


def demo(
    policies: Annotated[
        str, typer.Option(help=f"Policies to compare, separated by commas: {policy_forms()}.")
    ] = "bsp,rog:4,rowcast",
    seconds: Annotated[float, typer.Option(help="How long each policy trains.")] = 40.0,
    seed: Annotated[int, typer.Option(min=0, help="Of data, model, fog and links.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for journals, summary and figures.")] = Path("demo-out"),
    workers: Annotated[int, typer.Option(help="Robots of the team.")] = 4,
    task: Annotated[str, typer.Option(help="cruda-digits, cruda-fashion-mnist or cruda-cifar10.")] = "cruda-digits",
    data: Annotated[str | None, typer.Option(help="Folder of the data set.")] = None,
    pace: Annotated[float | None, typer.Option(help="Seconds of one gradient on a robot.")] = None,
    trace: Annotated[str, typer.Option(help="All links: outdoor, constant:MBPS or a trace file.")] = "outdoor",
    eval_every: Annotated[int | None, typer.Option(help="Steps between two looks at the accuracy.")] = None,
) -> None:
    """Train with each policy over the same fading links, on loopback, and compare.

    The links are scaled so that sending the whole encoded model at the best rate takes 0.67 of the computing time.
    """
    from rowcast.cli.display import TeamDisplay
    from rowcast.cli.results import finish
    from rowcast.experiment import DemoSettings, run_demo

    # The server's kernels are small; the processors belong to the workers.
    limit_threads(1)
    changes = {"pace_s": pace, "eval_every": eval_every}
    settings = DemoSettings(
        policies=tuple(part.strip() for part in policies.split(",") if part.strip()),
        seconds=seconds,
        seed=seed,
        workers=workers,
        task=task,
        data=data,
        trace=trace,
        **{key: value for key, value in changes.items() if value is not None},  # type: ignore[arg-type]
    )
    console = PlainConsole()
    began = time.monotonic()
    try:
        with TeamDisplay(console) as display:
            runs = run_demo(settings, out, _Observer(display))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finish(settings, runs, out, console)
    console.print(f"took {time.monotonic() - began:.0f} s; everything is in {out}", highlight=False)


class _Observer:
    """Puts what the experiment tells on the display."""

    def __init__(self, display: object) -> None:
        from rowcast.cli.display import TeamDisplay

        assert isinstance(display, TeamDisplay)
        self._display = display

    def says(self, text: str) -> None:
        self._display.says(text)

    def shows(self, policy: str, left_s: float, total_s: float, lines: list[MemberStatus]) -> None:
        self._display.shows(f"{policy}: {left_s:.0f} of {total_s:.0f} s left", lines)
