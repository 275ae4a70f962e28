"""Split inference, what needs planners only: how long the minimum cut takes, and what serial plans take on the traces.

Times of operators, and the rates of the link, are those measured by the LOPInfer artifact, where they are on this
machine. The latencies are predictions: the rate is known at the start of each inference, the round trip takes 5 ms, and
0.944 of the rate carries bytes of tensors.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import Figure, arguments, best_s, finish
from lopinfer import ARTIFACT, MODELS, read_model
from rowcast.graphs import Graph, Op, Profile
from rowcast.planning import CostModel, LinkCosts, Plan, chain, local, offload, pipeline

#: Mean latency asked of images of one byte a value: ms indoors and outdoors. kapao's image is one already; what is
#: asked of it needs a lossless code for images, which is no part of planning.
ASKED = {"VGG19_BN": (36.0, 50.0), "ResNet152": (43.0, 51.0), "DenseNet121": (39.0, 45.0)}
#: What a rate of 0 in a trace stands for (bit/s): they are rounded to 8 Mbit/s, and this is the middle of 0 .. 4.
ROUNDED_DOWN_BPS = 2e6
ENVIRONMENTS = ("indoors", "outdoors")


@dataclass(frozen=True)
class Rates:
    """Rates of a trace (bit/s), and the share of its time that each counts."""

    rates_bps: list[float]
    shares: list[float]

    @staticmethod
    def read(path: Path) -> Rates:
        """From ``time_s,mbps``; each rate counts until the next line."""
        with path.open(encoding="utf-8", newline="") as stream:
            rows = [
                (float(row["time_s"]), float(row["mbps"]) * 1e6 or ROUNDED_DOWN_BPS) for row in csv.DictReader(stream)
            ]
        times, rates = np.array(rows).T
        known = np.unique(rates[:-1])
        lasted = np.array([np.diff(times)[rates[:-1] == rate].sum() for rate in known])
        return Rates(known.tolist(), (lasted / lasted.sum()).tolist())

    def mean_ms(self, costs: CostModel, planner: Callable[[CostModel], Plan]) -> float:
        """The mean latency over the time of the trace where the plan is made for each rate."""
        latencies = [planner(costs.at_rate(rate)).latency_s for rate in self.rates_bps]
        return 1e3 * float(np.dot(latencies, self.shares))


def large_graph(operators: int) -> tuple[Graph, Profile]:
    """A model of blocks with skips, as long as asked: what the minimum cut is timed on where nothing was measured."""
    random = np.random.default_rng(0)
    sizes = random.integers(50_000, 3_000_000, operators).tolist()
    ops = [
        Op(() if index == 0 else (index - 1, index - 4) if index % 4 == 0 else (index - 1,), size)
        for index, size in enumerate(sizes)
    ]
    robot_s = random.uniform(0, 2e-4, operators)
    return Graph(ops, [operators - 1]), Profile(robot_s, robot_s * random.uniform(0.1, 0.5, operators))


def time_of_the_cut(name: str, graph: Graph, profile: Profile) -> Figure:
    """The slowest of the rates of a link, the network of the graph made anew for each cut."""
    costs = CostModel(graph, profile, LinkCosts.symmetric(80e6))
    slowest = max(
        best_s(lambda rate=rate: pipeline(anew(costs.at_rate(rate))), 5) for rate in (8e6, 40e6, 80e6, 160e6, 232e6)
    )
    bound = 20.0 if len(graph) >= 500 else None
    return Figure(f"minimum cut, {name}", 1e3 * slowest, "ms", bound, note=f"{len(graph)} operators")


def anew(costs: CostModel) -> CostModel:
    """The same with a graph that no planner has seen."""
    return CostModel(Graph(costs.graph.ops, costs.graph.outputs), costs.profile, costs.link)


def against_the_bounds(model: str, graph: Graph, profile: Profile) -> list[Figure]:
    """By how much the best cuts differ from the artifact's best single cut, over 1 .. 29 MB/s without overhead."""
    with (ARTIFACT / "bounds_by_bandwidth.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["model"] == model]
    differences = []
    for row in rows:
        rate = 8e6 * float(row["bw_MBps"])
        costs = CostModel(graph, profile, LinkCosts(rate, rate, 0.0, 1.0, 0.0))
        best = float(row["best_layer_cut_ms"])
        differences.append([1e3 * planner(costs).latency_s - best for planner in (chain, pipeline)])
    single, cut = np.array(differences).T
    return [
        Figure(f"best single cut, {model}", float(np.abs(single).max()), "ms off", 0.051, note=f"{len(rows)} rates"),
        Figure(f"minimum cut of {model} above it", float(cut.max()), "ms", 0.051, note=f"lowest {cut.min():.3f}"),
    ]


def on_the_traces(model: str, graph: Graph, profile: Profile, small: tuple[Graph, Profile] | None) -> list[Figure]:
    """Mean latencies; ``small``: the same model with an input of one byte a value."""
    figures = []
    link = LinkCosts.symmetric(80e6)
    for place, environment in enumerate(ENVIRONMENTS):
        rates = Rates.read(ARTIFACT / "bandwidth" / f"{environment}.csv")
        kinds = [("", graph, profile)] if small is None else [("float32", graph, profile), ("uint8", *small)]
        for kind, one, its in kinds:
            costs = CostModel(one, its, link)
            always = ", ".join(
                f"{planner(costs).method} {rates.mean_ms(costs, planner):.1f}" for planner in (local, offload)
            )
            bound = ASKED[model][place] if kind == "uint8" else None
            name = " ".join(filter(None, [model, kind, environment]))
            figures.append(Figure(name, rates.mean_ms(costs, pipeline), "ms, mean", bound, note=f"always {always}"))
    return figures


def main() -> None:
    options = arguments(__doc__).parse_args()
    figures = [time_of_the_cut("a made-up model", *large_graph(40 if options.tiny else 700))]
    title = "Split inference: planners"
    if ARTIFACT.exists() and not options.tiny:
        for model in MODELS:
            path = ARTIFACT / "profiles" / f"{model}.csv"
            graph, profile = read_model(path)
            small = read_model(path, graph.ops[0].bytes // 4) if model in ASKED else None
            figures += [time_of_the_cut(model, graph, profile), *against_the_bounds(model, graph, profile)]
            figures += on_the_traces(model, graph, profile, small)
    elif not options.tiny:
        title += " (the measurements of the LOPInfer artifact are not on this machine)"
    finish(title, figures, options)


if __name__ == "__main__":
    main()
