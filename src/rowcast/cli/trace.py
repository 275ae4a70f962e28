"""``rowcast trace``: statistics, synthesis and figures of bandwidth traces."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from rowcast.errors import ConfigError, visible
from rowcast.links import PROFILES, Trace, differences, fit, named_trace, save_csv, synthesise

__all__ = ["app", "describe"]

app = typer.Typer(
    name="trace",
    help="Bandwidth traces: statistics, synthesis, figures.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Source = Annotated[
    str,
    typer.Argument(
        metavar="FILE|PROFILE",
        help=f"A trace file, a profile ({', '.join(PROFILES)}) or constant:MBPS.",
        show_default=False,
    ),
]
Seconds = Annotated[float, typer.Option("--seconds", help="Length of what is synthesised.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Which trace of this kind.")]
Low = Annotated[
    float | None,
    typer.Option("--low", min=0.0, help="Mbit/s below which it counts as low; 5 % of the best rate if not given."),
]


@app.command("stats")
def stats(source: Source, seconds: Seconds = 600.0, seed: Seed = 0, low: Low = None) -> None:
    """Print the statistics of a trace file, or of a trace of a profile."""
    typer.echo("\n".join(describe(named_trace(source, seed, seconds), _bps(low))))


@app.command("synth")
def synth(
    source: Source,
    out: Annotated[Path, typer.Option("--out", help="CSV file to write.", show_default=False)],
    seconds: Seconds = 600.0,
    seed: Seed = 0,
) -> None:
    """Write a synthetic trace: of a profile, or like a trace file (the model is fitted to it).

    Says in what it is not like the file, within the tolerances that an hour of it usually keeps.
    """
    if not 0 < seconds < math.inf:
        raise ConfigError(f"--seconds: expected a finite time above 0, got {seconds:g}")
    outside: list[str] = []
    if source in PROFILES:
        trace = synthesise(PROFILES[source], seed, seconds)
    else:
        wanted = named_trace(source)
        if math.isinf(wanted.duration_s):
            trace = wanted.cut(0.0, seconds)  # one rate for ever is its own model
        else:
            trace = synthesise(fit(wanted), seed, seconds)
            outside = [f"not like the source: {difference}" for difference in differences(wanted, trace)]
    if outside:
        outside.append("another --seed may be nearer, and more --seconds; docs/links.md says what the model keeps")
    save_csv(trace, out)
    typer.echo("\n".join([*describe(trace), *outside, f"written to {out}"]))


@app.command("plot")
def plot(
    source: Source,
    out: Annotated[Path, typer.Option("--out", help="Figure to write (.png, .svg, .pdf).", show_default=False)],
    seconds: Seconds = 600.0,
    seed: Seed = 0,
    low: Low = None,
) -> None:
    """Draw the rate of a trace over time, and how often it is how high."""
    from rowcast.report.trace_figure import draw_trace

    draw_trace(named_trace(source, seed, seconds), out, _bps(low))
    typer.echo(f"written to {out}")


def describe(trace: Trace, low_bps: float | None = None) -> list[str]:
    """The statistics of a trace as lines of text."""
    found = trace.stats(low_bps)
    episodes = np.array(found.low_episodes_s)
    percentiles = {
        5: found.p5_bps,
        25: found.p25_bps,
        50: found.p50_bps,
        75: found.p75_bps,
        95: found.p95_bps,
    }
    if math.isinf(trace.duration_s):
        length = "without end"
    else:
        length = f"{trace.duration_s:.6g} s, {len(trace.rates_bps)} steps, then {'again' if trace.loop else 'nothing'}"
    lines = {
        "trace": visible(trace.name),
        "length": length,
        "mean": f"{_mbps(found.mean_bps)} Mbit/s",
        "percentiles": ", ".join(f"{share} %: {_mbps(rate)}" for share, rate in percentiles.items()) + " Mbit/s",
        "best": f"{_mbps(found.best_bps)} Mbit/s",
        "change of 20 %": _every(found.change_20_s),
        "change of 40 %": _every(found.change_40_s),
        "memory": _memory(found.autocorrelation_s),
        f"below {_mbps(found.low_bps)} Mbit/s": f"{100 * found.share_low:.1f} % of the time",
        "nothing at all": f"{100 * found.share_zero:.1f} % of the time",
    }
    if episodes.size and math.isfinite(trace.duration_s):
        lines["low episodes"] = (
            f"{episodes.size}; mean {episodes.mean():.3g} s, median {np.median(episodes):.3g} s,"
            f" longest {episodes.max():.3g} s"
        )
    width = max(map(len, lines)) + 2
    return [f"{name:{width}}{value}" for name, value in lines.items()]


def _mbps(bps: float) -> str:
    return f"{bps / 1e6:.3g}"


def _every(seconds: float) -> str:
    return "never" if math.isinf(seconds) else f"every {seconds:.3g} s"


def _memory(seconds: float) -> str:
    return "no change" if math.isinf(seconds) else f"autocorrelation falls to 1/e in {seconds:.3g} s"


def _bps(mbps: float | None) -> float | None:
    if mbps is not None and not math.isfinite(mbps):
        raise ConfigError(f"--low: expected a finite rate in Mbit/s, got {mbps:g}")
    return None if mbps is None else mbps * 1e6
