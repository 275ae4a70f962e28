"""``rowcast split profile``: what each operator of a model takes on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rowcast.cli.split.models import ModelText
from rowcast.cli.streams import PlainConsole
from rowcast.errors import ConfigError

if TYPE_CHECKING:
    from rowcast.graphs import Graph, Profile

__all__ = ["profile"]

#: So many operators are shown.
SLOWEST = 8


def profile(
    model: ModelText,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The profile (JSON).", show_default=False)],
    example: Annotated[
        str | None,
        typer.Option(
            "--example",
            help="What forward is called with: a shape, such as 1x480x640x3:uint8, or a function of the file.",
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Measure for so long; minutes on a robot.")] = 5.0,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Processor threads to compute with.")] = 1,
    join: Annotated[
        Path | None,
        typer.Option(
            "--join",
            metavar="FILE",
            help="What this command wrote on the server: FILE of --out gets its times beside those of this machine, "
            "the robot.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Measure a model on this machine, for 'rowcast split plan' and for robots that ask.

    Run it on the server, copy the file, and run it on the robot with --join: the result has the times of both.
    """
    from rowcast.cli.split.live import LiveLine
    from rowcast.cli.split.models import captured
    from rowcast.graphs import load_profile, save_profile
    from rowcast.split.profiling import joined, measure

    if join is not None:
        load_profile(join)  # refused before it takes seconds
    with LiveLine(PlainConsole()) as line:
        known = captured(model, example, threads, line)
        line.shows(f"measuring for {seconds:g} s")
        times = measure(known, seconds=seconds)
    if join is not None:
        graph, there = load_profile(join)
        if (difference := known.graph.difference(graph)) is not None:
            raise ConfigError(f"--join {join}: it is the profile of another model: {difference}; measure one on both")
        times = joined(times, there)
    try:
        save_profile(out, known.graph, times)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror}") from error
    typer.echo("\n".join(_describe(known.graph, times, both=join is not None)))
    typer.echo(f"written to {out}")


def _describe(graph: Graph, times: Profile, *, both: bool) -> list[str]:
    """The slowest operators, and the whole."""
    from rowcast.report.plans import table_lines
    from rowcast.report.table import table_of

    slowest = sorted(range(len(graph)), key=lambda op: -times.robot_s[op])[:SLOWEST]
    rows: list[tuple[str | float, ...]] = [
        (
            graph.label(op),
            1e3 * float(times.robot_s[op]),
            100 * float(times.robot_s[op]) / max(times.local_s, 1e-12),
            *([1e3 * float(times.server_s[op])] if both else []),
            graph.ops[op].bytes / 1e3,
        )
        for op in slowest
    ]
    columns = ["operator", "robot_ms" if both else "ms", "share_%", *(["server_ms"] if both else []), "kB"]
    lines = [
        f"the {len(rows)} slowest of {len(graph)} operators",
        *table_lines(table_of(columns, rows)),
        f"whole model {1e3 * times.local_s:.4g} ms, 99th percentile {1e3 * times.sustained_s:.4g} ms, smallest kernel "
        f"{1e6 * times.robot_floor_s:.3g} us",
    ]
    if both:
        lines.append(f"server {1e3 * float(times.server_s.sum()):.4g} ms")
    return lines
