"""``rowcast split plan``: why each method of splitting an inference wins or loses on a link."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rowcast.config import as_number
from rowcast.errors import ConfigError

if TYPE_CHECKING:
    from rowcast.graphs import Graph
    from rowcast.links import Trace
    from rowcast.planning import CostModel, Objective, Plan, TensorCosts

__all__ = ["plan"]

#: Methods whose time line is drawn.
DRAWN = ("local", "offload", "pipeline", "streamed")
#: Rates of the figure: so many, from so much below to so much above those of the trace.
STEPS, BELOW, ABOVE = 40, 4.0, 2.0


def plan(
    profile: Annotated[Path, typer.Argument(metavar="PROFILE", help="A measured profile of a model (JSON).")],
    trace: Annotated[
        str, typer.Option("--trace", metavar="FILE|PROFILE", help="The link: as for 'rowcast trace stats'.")
    ] = "outdoor",
    objective: Annotated[
        str, typer.Option("--objective", help="latency, energy, or both: 'latency+0.05*energy' (s, s/J).")
    ] = "latency",
    codec: Annotated[
        list[str] | None,
        typer.Option(
            "--codec",
            metavar="NAME=RATIO[,ENCODE,DECODE]",
            help="A codec that inputs may travel with: its share of the bytes, ns to encode and to decode a byte.",
            show_default=False,
        ),
    ] = None,
    inner_codec: Annotated[
        list[str] | None,
        typer.Option(
            "--inner-codec",
            metavar="NAME=RATIO[,ENCODE,DECODE]",
            help="The same for tensors inside the model and its answer.",
            show_default=False,
        ),
    ] = None,
    deadline_ms: Annotated[
        float | None,
        typer.Option("--deadline-ms", help="From input to answer: shows what a late start of the robot does for it."),
    ] = None,
    round_trip_ms: Annotated[float, typer.Option("--round-trip-ms", help="Of a small message.")] = 5.0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for figures and CSV files.", show_default=False)
    ] = None,
) -> None:
    """Why each method of splitting an inference wins or loses on a link: tables, and figures with --out."""
    from rowcast.graphs import load_profile
    from rowcast.links import named_trace
    from rowcast.planning import CostModel, LateStart, LinkCosts, Objective

    graph, times = load_profile(profile)
    if deadline_ms is not None:
        LateStart.of(times, deadline_ms / 1e3)  # refuses what cannot be kept
    link = named_trace(trace)
    if math.isinf(link.duration_s):
        link = link.cut(0.0, 60.0)  # one rate for ever: a minute of it shows as much
    wanted = Objective.named(objective)
    tensors = _codecs(graph, codec or [], "--codec", inputs=True)
    tensors += _codecs(graph, inner_codec or [], "--inner-codec", inputs=False)
    rate_bps = link.stats().p50_bps or link.stats().mean_bps
    if not rate_bps > 0:
        raise ConfigError(f"--trace: nothing ever passes on {link.name}; expected a link with a rate above 0")
    symmetric = LinkCosts.symmetric(max(rate_bps, 1.0), round_trip_ms / 1e3)
    costs = CostModel(graph, times, symmetric, tensors=tuple(tensors))
    typer.echo("\n".join(_describe(profile.name, costs, link, wanted, deadline_ms)))
    if out is not None:
        _draw(profile.stem, costs, link, wanted, out)


def _codecs(graph: Graph, texts: list[str], option: str, *, inputs: bool) -> list[TensorCosts]:
    """Codecs that were named, for the inputs of a model or for all its other tensors."""
    from rowcast.planning import TensorCosts

    ops = frozenset(index for index in range(len(graph)) if (index in graph.inputs) == inputs)
    found = []
    for text in texts:
        name, _, values = text.partition("=")
        numbers = [as_number(value) for value in values.split(",")]
        given = [number for number in numbers if number is not None]
        if len(given) != len(numbers) or len(given) not in (1, 3):
            raise ConfigError(
                f"{option}: expected NAME=RATIO or NAME=RATIO,ENCODE,DECODE, as in deflate=0.6, got {text!r}"
            )
        ratio, encode_ns, decode_ns = given if len(given) == 3 else (given[0], 0.0, 0.0)
        found.append(TensorCosts(name, ratio, encode_ns / 1e9, decode_ns / 1e9, ops=ops))
    return found


def _describe(name: str, costs: CostModel, link: Trace, objective: Objective, deadline_ms: float | None) -> list[str]:
    from rowcast.planning import plan_table, streamed
    from rowcast.report.plans import changes_table, replay_table, table_lines, why_table

    graph, times, stats = costs.graph, costs.profile, link.stats()
    sizes = float(costs.bytes[list(graph.inputs)].sum()), float(costs.bytes[list(graph.outputs)].sum())
    lines = [
        f"{name}: {len(graph)} operators, {sizes[0] / 1e3:.4g} kB in, {sizes[1] / 1e3:.4g} kB out; "
        f"robot {1e3 * times.local_s:.4g} ms, server {1e3 * float(times.server_s.sum()):.4g} ms",
        f"{link.name}: {stats.mean_bps / 1e6:.3g} Mbit/s on average, "
        f"nothing passes {100 * stats.share_zero:.3g} % of the time",
    ]
    percentiles = {5: stats.p5_bps, 50: stats.p50_bps, 95: stats.p95_bps}
    for rate in sorted({rate for rate in percentiles.values() if rate >= 1.0}):
        below = " and ".join(f"{share} %" for share, its in percentiles.items() if its == rate)
        lines += ["", f"at {rate / 1e6:.3g} Mbit/s ({below} of the time the link is as slow or slower)"]
        lines += table_lines(why_table(costs.at_rate(rate), objective), below="why")
    best = stats.best_bps
    changes = plan_table(lambda at: streamed(at, objective), costs, best / 1000, best)
    lines += ["", "streamed, which plan from which rate on", *table_lines(changes_table(changes, costs))]
    lines += ["", "over the trace, an inference every 0.1 s, the rate measured on the way"]
    deadline_s = None if deadline_ms is None else deadline_ms / 1e3
    return lines + table_lines(replay_table(costs, link, objective, deadline_s=deadline_s))


def _draw(name: str, costs: CostModel, link: Trace, objective: Objective, out: Path) -> None:
    import numpy as np

    from rowcast.planning import PLANNERS
    from rowcast.report.inference_figure import draw_inference, plan_spans
    from rowcast.report.plans import rates_table, why_table
    from rowcast.report.rates_figure import draw_rates

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be made: {error.strerror}") from error
    stats, rate_mbps = link.stats(), costs.link.up_bps / 1e6
    slowest = min(rate for rate in (stats.p5_bps, costs.link.up_bps) if rate > 0)
    rates = np.geomspace(max(slowest / BELOW, 1.0), max(stats.best_bps * ABOVE, 2.0), STEPS).tolist()
    table = rates_table(costs, rates, objective)
    table.save_csv(out / "rates.csv")
    why_table(costs, objective).save_csv(out / "why.csv")
    draw_rates(table, out / "rates.png", f"{name} on {link.name}", link)
    panels: dict[str, Plan] = {}
    for method in DRAWN:
        plan = PLANNERS[method](costs, objective)
        same = next((name for name, other in panels.items() if plan.same_work(other)), "")
        panels = {name: other for name, other in panels.items() if name != same}
        panels[f"{same}, {method}" if same else method] = plan
    spans = {name: plan_spans(costs, plan) for name, plan in panels.items()}
    draw_inference(spans, out / "inference.png", f"{name}: one inference at {rate_mbps:.3g} Mbit/s")
    typer.echo(f"written to {out}: rates.png, rates.csv, inference.png, why.csv")
