"""``rowcast stream``: what a stream of samples is like, and how one trains on it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from rowcast.cli.options import PanelCommand
from rowcast.cli.stream_demo import demo
from rowcast.errors import ConfigError, SourceEnded, visible
from rowcast.streams import Source

__all__ = ["app", "describe"]

app = typer.Typer(
    name="stream",
    help="Streams of samples: statistics, and a demo of training on them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

#: Samples at a time, and how long to wait for some (s).
AT_MOST, WAIT_S = 256, 0.2


@app.callback()
def _group() -> None:
    """Streams of samples: statistics, and a demo of training on them."""


app.command("demo", cls=PanelCommand)(demo)


@app.command("stats")
def stats(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A file (.csv, .csv.gz, .mcap, .db3), a folder (rosbag2), or KIND://PLACE; options behind '?'.",
            show_default=False,
        ),
    ],
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.0, help="Read for so long, or to its end; 0: to its end only.")
    ] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Read a source and print how much comes how fast. Nothing is committed or left behind."""
    if not math.isfinite(seconds):
        raise ConfigError(f"--seconds: expected a finite time, got {seconds:g}")
    from rowcast.sources import make_source

    figures = _read(make_source(source, look=True), seconds or math.inf)
    typer.echo(json.dumps(figures, indent=2) if as_json else "\n".join(describe(source, figures)))


def _read(source: Source, seconds: float) -> dict[str, Any]:
    """The figures of what comes within so many seconds."""
    from rowcast.sources.stats import StreamStats

    found = StreamStats()
    source.open()
    try:
        until = time.monotonic() + seconds
        ended = False
        while (left := until - time.monotonic()) > 0:
            try:
                samples = source.take(AT_MOST, min(left, WAIT_S))
            except SourceEnded:
                ended = True
                break
            found.add(time.monotonic(), samples)
        return {
            **found.figures(),
            "ended": ended,
            "lag": source.lag(),
            "dropped": dict(source.dropped),
            "trouble": source.trouble,
        }
    finally:
        source.close()


def describe(name: str, figures: Mapping[str, Any]) -> list[str]:
    """The figures as lines of text."""
    lines = {
        "source": visible(name),
        "samples": f"{figures['samples']}{', then its end' if figures['ended'] else ''}",
        "seconds": f"{_number(figures['seconds'])} by {_TIMES[figures['times']]}",
        "rate": f"mean {_number(figures['rate_mean'])}, lowest {_number(figures['rate_lowest'])}, "
        f"highest {_number(figures['rate_highest'])} samples/s in windows of 1 s",
        "largest gap": f"{_number(figures['largest_gap_s'])} s",
        "bytes a sample": f"mean {_number(figures['bytes_mean'])}, most {_number(figures['bytes_most'])}, in memory",
        "lag": "cannot be told" if figures["lag"] is None else f"{figures['lag']} samples",
    }
    if figures["times_back"]:
        lines["times go back"] = f"{figures['times_back']} times"
    for partition, position in sorted(figures["positions"].items()):
        lines[f"position of {visible(partition, 60)}"] = str(position)
    for reason, count in sorted(figures["dropped"].items()):
        lines[f"dropped: {visible(reason, 60)}"] = str(count)
    if figures["trouble"]:
        lines["trouble"] = visible(figures["trouble"])
    width = max(map(len, lines)) + 2
    return [f"{key:{width}}{value}" for key, value in lines.items()]


_TIMES = {"own": "the times of the samples", "arrival": "their arrival, since they have no times"}


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.6g}"
