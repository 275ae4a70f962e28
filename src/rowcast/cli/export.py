"""``rowcast export``: a run in the files of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["export"]


def export(
    run: Annotated[
        Path,
        typer.Argument(help="A folder of journals (*.jsonl) of one run, or one of them.", metavar="RUN"),
    ],
    to: Annotated[
        str,
        typer.Option("--to", help="mcap, tensorboard, csv, parquet or wandb-offline.", metavar="TARGET"),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="File or folder to write, which is not there yet; by default the name of the run, in this folder.",
            metavar="PATH",
        ),
    ] = None,
    session: Annotated[
        int, typer.Option("--session", help="Session of each journal to begin with: 0 is the first, -1 the last.")
    ] = -1,
) -> None:
    """Write what the journals of a run say for another program: Foxglove, TensorBoard, a table, Weights & Biases."""
    from rowcast.export import export_run

    written = export_run(run, to, out, session)
    robots = len(written.robots)
    typer.echo(f"written to {written.path}: {written.records} records, {robots} robot{'s' * (robots != 1)}")
