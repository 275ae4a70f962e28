"""Split inference, what needs planners only: how long the minimum cut takes, and what plans come to on recorded links.

Times of operators, and the rates of the link, are those measured by the LOPInfer artifact, where they are on this
machine. The round trip takes 5 ms, and 0.944 of the rate carries bytes of tensors. First come predictions, which know
the rate of each inference, then replays, in which it is measured (``split_replay.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import Figure, arguments, best_s, finish
from lopinfer import DATA, ENVIRONMENTS, read_model, read_trace, rows_of, value_bytes
from rowcast.graphs import Graph, Identity, Op, Profile
from rowcast.links import Trace
from rowcast.planning import CostModel, LinkCosts, Plan, chain, local, offload, pipeline, streamed
from split_replay import lossless, made_up, newest_only, with_deadline, without_deadline


@dataclass(frozen=True)
class Rates:
    """Rates of a trace (bit/s), and the share of its time that each counts."""

    rates_bps: list[float]
    shares: list[float]

    @staticmethod
    def of(trace: Trace) -> Rates:
        """Those of one pass through a trace."""
        lasted = np.diff(np.append(trace.times_s, trace.duration_s))
        known, which = np.unique(trace.rates_bps, return_inverse=True)
        shares = np.bincount(which, lasted) / trace.duration_s
        return Rates(known.tolist(), shares.tolist())

    def mean_ms(self, costs: CostModel, planner: Callable[[CostModel], Plan]) -> float:
        """The mean latency over the time of the trace where the plan is made for each rate."""
        latencies = [planner(costs.at_rate(rate)).latency_s for rate in self.rates_bps]
        return 1e3 * float(np.dot(latencies, self.shares))


def large_graph(operators: int) -> tuple[Graph, Profile]:
    """A model of blocks with skips, as long as asked: what the minimum cut is timed on where nothing was measured."""
    random = np.random.default_rng(0)
    sizes = random.integers(50_000, 3_000_000, operators).tolist()
    ops = [
        Op(() if index == 0 else (index - 1, index - 4) if index % 4 == 0 else (index - 1,), size, Identity(224))
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


def time_of_slabs(graph: Graph, profile: Profile) -> Figure:
    """A streamed plan for a rate: all cuts of the order with four numbers of slabs; what follows from rows is kept."""
    costs = CostModel(graph, profile, LinkCosts.symmetric(80e6))
    seconds = best_s(lambda: streamed(costs.at_rate(60e6)), 5)
    return Figure("streamed plan, a made-up model", 1e3 * seconds, "ms", note=f"{len(graph)} operators")


def anew(costs: CostModel) -> CostModel:
    """The same with a graph that no planner has seen."""
    return CostModel(Graph(costs.graph.ops, costs.graph.outputs), costs.profile, costs.link)


def against_the_bounds(artifact: Path, model: str, graph: Graph, profile: Profile) -> list[Figure]:
    """By how much the best cuts differ from the artifact's best single cut, over 1 .. 29 MB/s without overhead."""
    rows = [row for row in rows_of(artifact / "bounds_by_bandwidth.csv") if row["model"] == model]
    if not rows:
        return []
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


def predicted(artifact: Path, model: str) -> list[Figure]:
    """Mean latencies where the rate of each inference is known and stays: with the artifact's input, and as bytes."""
    path = artifact / "profiles" / f"{model}.csv"
    graph, profile = read_model(path)
    width = value_bytes(path)
    kinds = [(f"{8 * width} bits a value", graph)]
    if width > 1:
        kinds.append(("8 bits a value", read_model(path, graph.ops[0].bytes // width)[0]))
    figures = []
    for environment in ENVIRONMENTS:
        rates = Rates.of(read_trace(artifact, environment))
        for kind, one in kinds:
            costs = CostModel(one, profile, LinkCosts.symmetric(80e6))
            always = ", ".join(
                f"{planner(costs).method} {rates.mean_ms(costs, planner):.1f}" for planner in (local, offload)
            )
            name = f"{model} {environment}, {kind}, predicted"
            figures.append(Figure(name, rates.mean_ms(costs, pipeline), "ms, mean", note=f"always {always}"))
    return figures


def of_the_artifact(artifact: Path, images: Path, models: list[str]) -> list[Figure]:
    """Everything that is made of its measurements; all models whose profiles are there."""
    code, words = lossless(images)
    figures = [Figure("lossless code", code.ratio, "of raw", note=words)]
    for model in models:
        graph, profile = read_model(artifact / "profiles" / f"{model}.csv")
        figures += [time_of_the_cut(model, graph, profile), *against_the_bounds(artifact, model, graph, profile)]
        figures += predicted(artifact, model)
        for part in (without_deadline, with_deadline, newest_only):
            figures += part(artifact, model, code)
    return figures


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        default=DATA,
        metavar="PARENT",
        help="the folder with lopinfer-artifact/ and rgbd_redkitchen/; all profiles in the former are taken",
    )
    options = parser.parse_args()
    large = large_graph(40 if options.tiny else 700)
    figures = [time_of_the_cut("a made-up model", *large), time_of_slabs(*large), *made_up()]
    title = "Split inference: planners"
    artifact = options.data / "lopinfer-artifact"
    models = sorted(path.stem for path in (artifact / "profiles").glob("*.csv"))
    if models and not options.tiny:
        images = options.data / "rgbd_redkitchen" / "redkitchen_160x120.npz"
        figures += of_the_artifact(artifact, images, models)
    elif not options.tiny:
        title += f" (the measurements of the LOPInfer artifact are not in {options.data})"
    finish(title, figures, options)


if __name__ == "__main__":
    main()
