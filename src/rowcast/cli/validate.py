"""``rowcast validate``: measured runs, replayed in virtual time."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rowcast.cli.streams import PlainConsole

if TYPE_CHECKING:
    from rich.console import Console

    from rowcast.experiment import Replay

__all__ = ["validate"]


def validate(
    data: Annotated[Path, typer.Option(help="Folder with measured runs; docs/simulator.md lists its files.")],
    runs: Annotated[
        Path | None,
        typer.Option(help="Table that says more of each run; by default runs.toml or runs.csv in the folder."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 when a figure is further off than accepted.")] = False,
    run: Annotated[str | None, typer.Option(help="Only these runs, separated by commas.")] = None,
    compat: Annotated[
        str | None, typer.Option(help="Whose rules the runs of rog:S go by: artifact, artifact-rules or none.")
    ] = None,
    startup: Annotated[
        int | None, typer.Option(min=0, help="So many first iterations compute for as long as they did.")
    ] = None,
    json_: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here.")] = None,
) -> int:
    """Replay measured runs in virtual time, and print measured against simulated figures, run by run."""
    from rowcast.errors import ConfigError, RowcastError
    from rowcast.experiment import read_run, run_settings, validate_run

    changes: dict[str, Any] = {} if startup is None else {"startup_steps": startup}
    only = None if run is None else [name.strip() for name in run.split(",") if name.strip()]
    wanted = run_settings(data, runs, only, compat=compat, **changes)
    console = PlainConsole()
    results: list[Replay] = []
    failure: RowcastError | None = None
    for settings in wanted:
        with console.status(f"replaying {settings.name}"):
            try:
                result = validate_run(read_run(data, settings))
            except RowcastError as error:
                # The other runs are read and shown; this one ends the command with its error.
                failure = failure or error
                console.print(f"{settings.name}: {error}", soft_wrap=True)
                continue
        results.append(result)
        _show(console, result)
        if json_ is not None:
            try:
                json_.write_text(json.dumps([asdict(each) for each in results], indent=1) + "\n", encoding="utf-8")
            except OSError as error:
                raise ConfigError(f"{json_}: cannot be written: {error.strerror}") from error
    if failure is not None:
        raise failure
    return _verdict(console, results) if check else 0


def _show(console: Console, result: Replay) -> None:
    """What came out of one run."""
    console.print(f"{result.run}: {result.policy}", soft_wrap=True)
    table = Table()
    for head in ("run", "figure", "measured", "simulated", "off by", "accepted"):
        table.add_column(head, justify="left" if head in ("run", "figure") else "right")
    for figure in result.figures:
        table.add_row(
            result.run,
            figure.what,
            f"{figure.measured:.2f}",
            f"{figure.simulated:.2f}",
            f"{figure.off:+.1%}",
            f"{figure.within:.0%}",
        )
    console.print(table)
    costs = result.costs
    console.print(
        f"{result.run}: the server's work is {costs.push_s:.3f} s for a push and {costs.pull_s:.3f} s for a pull",
        soft_wrap=True,
    )
    for note in result.notes:
        console.print(f"{result.run}: {note}", soft_wrap=True)


def _verdict(console: Console, results: list[Replay]) -> int:
    short = [(result.run, figure) for result in results for figure in result.figures if not figure.met]
    for name, figure in short:
        console.print(
            f"NOT MET: {name}: {figure.what}: off by {figure.off:+.1%}, accepted {figure.within:.0%}",
            soft_wrap=True,
        )
    if not short:
        checked = ", ".join(f"{len(result.figures)} of {result.run}" for result in results)
        total = sum(len(result.figures) for result in results)
        console.print(f"met: all {total} bounds ({checked})", soft_wrap=True)
    return 1 if short else 0
