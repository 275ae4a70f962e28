"""``rowcast validate``: measured runs, replayed in virtual time."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from rowcast.cli.streams import PlainConsole

__all__ = ["validate"]


def validate(
    data: Annotated[Path, typer.Option(help="Folder with the measured runs of the ROG artifact.")],
    check: Annotated[bool, typer.Option("--check", help="Exit 1 when a figure is further off than accepted.")] = False,
    run: Annotated[str | None, typer.Option(help="Only these runs, separated by commas.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here.")] = None,
) -> int:
    """Replay measured runs in virtual time, and print measured against simulated figures."""
    from rowcast.errors import ConfigError, near_match
    from rowcast.experiment.validate import read_measurements, replay

    layout, runs = read_measurements(data)
    wanted = [name.strip() for name in run.split(",")] if run is not None else [each.name for each in runs]
    for name in wanted:
        if name not in {each.name for each in runs}:
            raise ConfigError(f"unknown run {name!r}; {near_match(name, [each.name for each in runs])}")
    console = PlainConsole()
    with console.status("reading") as status:
        results = replay(layout, runs, only=wanted, progress=lambda name: status.update(f"replaying {name}"))
    table = Table(title="Measured against simulated")
    for head in ("run", "figure", "measured", "simulated", "off by", "accepted"):
        table.add_column(head, justify="left" if head in ("run", "figure") else "right")
    short = []
    for result in results:
        for what, measured, simulated, within in result.figures():
            off = simulated / measured - 1
            table.add_row(result.run, what, f"{measured:.2f}", f"{simulated:.2f}", f"{off:+.1%}", f"{within:.0%}")
            if abs(off) > within:
                short.append(f"{result.run}: {what}: off by {off:+.1%}, accepted {within:.0%}")
    console.print(table)
    if json_ is not None:
        try:
            json_.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{json_}: cannot be written: {error.strerror}") from error
    if not check:
        return 0
    for line in short:
        console.print(f"NOT MET: {line}", highlight=False)
    if not short:
        console.print(f"met: all {4 * len(results)} bounds", highlight=False)
    return 1 if short else 0
