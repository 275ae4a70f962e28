"""``rowcast report``: draws a comparison from its journals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report"]


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="What 'rowcast compare', 'demo', 'stream demo', 'split bench' or 'split demo' wrote.",
        ),
    ],
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="Policy that all others are held against: time and energy to the level that it kept, and how far "
            "behind it they are at equal samples. By default bsp where it ran, otherwise the first.",
        ),
    ] = None,
) -> None:
    """Draw the finished runs of a folder: DIR/report/report.html, with a PNG and a CSV of each figure."""
    from rowcast.report import write_report

    typer.echo(f"the report is {write_report(folder, reference)}")
