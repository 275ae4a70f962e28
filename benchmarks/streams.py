"""Streams of unequal rates (ScaDLES): fixed batches, batches by the rate, and batches that the whole team shares.

Virtual time, real gradients, the settings of the prototype: 16 robots, Fashion-MNIST, a CNN of 52,138 parameters, SGD
0.05 with momentum 0.9, 2 ms a sample, about 0.4 s to exchange the whole model in each step. Runs are kept in ``--out``
and go on there: an interruption costs what was under way. What limits time to accuracy is the data that arrives:
``fixed:64`` waits ``64 / slowest rate`` for each step, the others do not.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common import Figure, arguments, finish
from fashion import PARAMETERS, Fashion, make_cnn, write_noise
from rowcast.experiment import Cell, Comparison, run_comparison
from rowcast.experiment.folder import cell_folder
from rowcast.experiment.runners.links import model_bytes
from rowcast.journal import read_journal
from rowcast.rows import Layout
from rowcast.streams import AdaptiveTopK, compresses, parse_streams

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "shared" / "data" / "fashion_mnist"
PARTS = ("s1", "s1p", "s2", "outdoor", "inject", "topk")

WORKERS, TINY_WORKERS = 16, 3
#: Seconds of the gradient of one sample.
SAMPLE_S = 0.002
#: Seconds of one direction of an exchange of the whole model, uncompressed.
ONE_WAY_S = 0.2
#: Robots and what each computes of a step in the trials of injection and of top-k (ScaDLES's own size is 16).
SKEWED, TOPK_DEVICES, SMALL_BATCH, TOPK_STEPS = 10, 8, 38, 150


@dataclass(frozen=True)
class Setting:
    """One comparison.

    Attributes:
        name: of its folder.
        streams, seeds, batches, policies, inject: as ``rowcast compare`` takes them.
        seconds: of virtual time.
        links: ``None``: an exchange takes as long as the prototype's, and nobody waits for a link.
    """

    name: str
    streams: tuple[str, ...]
    seeds: tuple[int, ...]
    batches: tuple[str, ...]
    seconds: float
    policies: tuple[str, ...] = ("bsp?codec=raw",)
    inject: tuple[str, ...] = ("0",)
    links: str | None = None
    workers: int | None = None
    options: tuple[str, ...] = ("looking=1",)  # all hold the same, or nearly
    every_s: float = 5.0


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        accuracy: (time s, %) of each look.
        steps: every step record of every robot.
        seconds: when it ended.
    """

    cell: Cell
    accuracy: list[tuple[float, float]]
    steps: list[dict]
    seconds: float

    def time_to(self, target: float) -> float:
        """When the mean of three looks in a row was first ``target`` % (s); infinite: not within the run."""
        times = [time for time, _ in self.accuracy]
        means = np.convolve([value for _, value in self.accuracy], np.ones(3) / 3, "valid")
        return next((time for time, mean in zip(times[2:], means, strict=False) if mean >= target), float("inf"))

    def accuracy_at(self, time_s: float) -> float:
        """Mean of the last five looks until then, of all robots that looked (%)."""
        looks = sorted({time for time, _ in self.accuracy if time <= time_s})[-5:]
        return statistics.mean(value for time, value in self.accuracy if time in looks)

    @property
    def age_s(self) -> float:
        """Mean age of a trained sample (s)."""
        samples = sum(step["samples"] for step in self.steps)
        return sum(step["age_s"] * step["samples"] for step in self.steps) / max(samples, 1)


def whole_model_link() -> str:
    """A link on which the whole model takes as long as the prototype's, in the units of a comparison."""
    layout = Layout.from_shapes([(name, tuple(value.shape)) for name, value in make_cnn().named_parameters()])
    assert layout.elements == PARAMETERS
    scale = model_bytes(layout) / Fashion.reference_bytes
    return f"constant:{8e-6 * 4 * layout.elements / ONE_WAY_S / scale:.0f}"


def team_of(args) -> str:
    """The batch of the whole team: 64 for each robot."""
    return f"team:{64 * (TINY_WORKERS if args.tiny else WORKERS)}"


def run(setting: Setting, args) -> list[Result]:
    """The runs of a comparison, finished now or before."""
    out = args.out / setting.name
    comparison = Comparison(
        task=str(HERE / "fashion.py") + ":Fashion",
        data=str(args.data),
        task_options=setting.options,
        policies=setting.policies,
        links=(setting.links or whole_model_link(),),
        workers=(setting.workers or (TINY_WORKERS if args.tiny else WORKERS),),
        devices=(f"{64 * SAMPLE_S:g}@64",),
        hours=setting.seconds / 3600,
        seeds=setting.seeds,
        streams=setting.streams,
        batch=setting.batches,
        inject=setting.inject,
        eval_every_s=setting.every_s,
    )
    cells = run_comparison(comparison, out, jobs=args.jobs)
    return [result_of(cell, cell_folder(out, cell)) for cell in cells]


def result_of(cell: Cell, folder: Path) -> Result:
    accuracy, steps = [], []
    for path in sorted(folder.glob("robot-*.jsonl")):
        for record in read_journal(path):
            if record["event"] == "step":
                steps.append(record)
            elif record["event"] == "metric" and record["name"] == "accuracy":
                accuracy.append((record["t"], record["value"]))
    return Result(cell, sorted(accuracy), steps, max((step["t"] for step in steps), default=0.0))


def by_batch(results: Iterable[Result]) -> Iterator[tuple[int, dict[str, Result]]]:
    """For each seed the runs by the name of their batch rule."""
    found: dict[int, dict[str, Result]] = {}
    for result in results:
        found.setdefault(result.cell.seed, {})[result.cell.feeding.batch.partition(":")[0]] = result
    yield from sorted(found.items())


def slowest(streams: str, seed: int, workers: int = WORKERS) -> float:
    return min(trace.rate_at(0) for trace in parse_streams(streams).team(workers, seed))


# -- numbers 1, 2 and 3 ------------------------------------------------------------------------------------------------


def low_rates(name: str, streams: str, target: float, seeds: tuple[int, ...], seconds: float, args) -> list[Figure]:
    """Low and scattered rates: what waiting for the slowest costs; who does not wait gets two fifths of the time."""
    waiting = Setting(f"{name}-fixed", (streams,), seeds, ("fixed:64",), seconds, every_s=args.every_s)
    others = Setting(name, (streams,), seeds, ("rate:1s", team_of(args)), 0.4 * seconds, every_s=args.every_s)
    figures = []
    for seed, runs in by_batch([*run(waiting, args), *run(others, args)]):
        fixed_s = runs["fixed"].time_to(target)
        where = f"{streams} seed {seed}, slowest {slowest(streams, seed):g}/s"
        figures.append(Figure(f"{where}: fixed, time to {target:g} %", fixed_s, "s"))
        for rule in ("rate", "team"):
            own_s = runs[rule].time_to(target)
            note = f"{own_s:.0f} s, {step_s(runs[rule]):.2f} s a step, fixed {step_s(runs['fixed']):.2f}"
            bound = None if args.tiny else 3.0
            figures.append(Figure(f"  fixed : {rule}", fixed_s / own_s, "", bound, at_least=True, note=note))
        figures += queues(runs, args)
    return figures


def step_s(result: Result) -> float:
    return result.seconds / max(len(result.steps) / result.cell.workers, 1)


def queues(runs: dict[str, Result], args) -> list[Figure]:
    """Truncated queues beside their bound: what one second brings, and a batch."""
    figures = []
    for rule, result in runs.items():
        if rule == "fixed":
            figures.append(Figure("  fixed: mean age of a trained sample", result.age_s, "s"))
            queued = sum(max(s["queued"] for s in result.steps if s["node"] == node) for node in nodes(result))
            figures.append(Figure("  fixed: queues of the team at the end", queued, "samples"))
            continue
        rates = parse_streams(result.cell.feeding.rates).team(result.cell.workers, result.cell.seed)
        beyond = 0.0
        for step in result.steps:
            rate = rates[int(step["node"].rpartition("-")[2])].rate_at(0)
            beyond = max(beyond, step["queued"] / (rate + largest_batch(result, step["node"])))
        figures.append(Figure(f"  {rule}: largest queue over its bound", beyond, "", None if args.tiny else 1.0))
        figures.append(Figure(f"  {rule}: mean age of a trained sample", result.age_s, "s", None if args.tiny else 1.0))
    return figures


def nodes(result: Result) -> list[str]:
    return sorted({step["node"] for step in result.steps})


_BATCHES: dict[tuple[int, str], int] = {}


def largest_batch(result: Result, node: str) -> int:
    key = id(result), node
    if key not in _BATCHES:
        _BATCHES[key] = max(step["samples"] for step in result.steps if step["node"] == node)
    return _BATCHES[key]


def high_rates(args) -> list[Figure]:
    """High rates: a window of one second makes batches that cost accuracy, a batch of the team does not."""
    seconds, long = (5.0, 5.0) if args.tiny else (150.0, 280.0)
    seeds = args.seeds
    short = Setting("s2", ("S2",), seeds, ("fixed:64", team_of(args)), seconds, every_s=args.every_s)
    windows = Setting("s2-rate", ("S2",), seeds, ("rate:1s",), long, every_s=args.every_s)
    rates = dict(by_batch(run(windows, args)))
    found = list(by_batch(run(short, args)))
    asked = not args.tiny
    team, fixed = ([runs[rule] for _, runs in found] for rule in ("team", "fixed"))
    rate = [rates[seed]["rate"] for seed, _ in found]
    team_s, fixed_s = ([each.time_to(84.0) for each in runs] for runs in (team, fixed))
    ends = {"team": seconds, "fixed": seconds, "rate": long}
    team_end, fixed_end, rate_end = (
        [each.accuracy_at(ends[rule]) for each in runs]
        for rule, runs in (("team", team), ("fixed", fixed), ("rate", rate))
    )
    return [
        Figure(
            "S2: team : fixed, mean time to 84 %",
            statistics.mean(team_s) / statistics.mean(fixed_s),
            "",
            1.1 if asked else None,
            note=f"{listed(team_s, 0)} and {listed(fixed_s, 0)} s; a step {listed(map(step_s, team), 2)} s",
        ),
        Figure(
            f"  team below fixed after {seconds:g} s, mean",
            statistics.mean(fixed_end) - statistics.mean(team_end),
            "points",
            0.5 if asked else None,
            note=f"{listed(team_end, 1)} and {listed(fixed_end, 1)} %",
        ),
        Figure(
            f"  rate after {long:g} s below fixed after {seconds:g} s, mean",
            statistics.mean(fixed_end) - statistics.mean(rate_end),
            "points",
            note=f"{listed(rate_end, 1)} %",
        ),
        Figure("  team: mean age of a trained sample", statistics.mean(each.age_s for each in team), "s"),
    ]


def listed(values: Iterable[float], digits: int) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)


# -- number 4 ----------------------------------------------------------------------------------------------------------


def outdoors(args) -> list[Figure]:
    """Our policy on links that fade, with data that arrives slowly."""
    seconds = 10.0 if args.tiny else 900.0
    setting = Setting(
        "outdoor",
        ("S1",),
        args.seeds,
        (team_of(args),),
        seconds,
        policies=("bsp", "rowcast"),
        links="outdoor",
        every_s=args.every_s,
    )
    results = run(setting, args)
    figures = []
    for seed in args.seeds:
        runs = {result.cell.policy: result for result in results if result.cell.seed == seed}
        ours, bsp = runs["rowcast"], runs["bsp"]
        usable = sum(min(trace.rate_at(0), 1 / SAMPLE_S) for trace in parse_streams("S1").team(len(nodes(ours)), seed))
        asked = not args.tiny
        figures += [
            Figure(
                f"S1 seed {seed}, outdoor: rowcast, of the bound by data and compute",
                100 * trained_each_s(ours) / usable,
                "%",
                90.0 if asked else None,
                at_least=True,
                note=f"{trained_each_s(ours):.0f} samples/s of {usable:.0f}, bsp {trained_each_s(bsp):.0f}; "
                f"a step {step_s(ours):.2f} and {step_s(bsp):.2f} s",
            ),
            Figure(
                "  time to 80 %, rowcast : bsp (at most, where bsp does not come there)",
                ours.time_to(80.0) / min(bsp.time_to(80.0), seconds),
                "",
                0.5 if asked else None,
                note=f"{ours.time_to(80.0):.0f} and {bsp.time_to(80.0):.0f} s in {seconds:g} s",
            ),
        ]
    return figures


def trained_each_s(result: Result) -> float:
    """Samples that the team was trained on in a second."""
    return sum(step["samples"] for step in result.steps) / result.seconds


# -- number 7 ----------------------------------------------------------------------------------------------------------


def injections(args) -> list[Figure]:
    """One class a device: statistics of batch norm that stay local need samples of others."""
    figures = []
    for norm in (True, False):
        steps = 10 if args.tiny else 200 if norm else 100
        injected = ("0", "0.1/0.1") if args.tiny else ("0", "0.05/0.05", "0.1/0.1", "0.25/0.25")
        setting = Setting(
            f"inject-{'norm' if norm else 'plain'}",
            ("64",),
            args.seeds,
            ("fixed:64",),
            steps + 2.0,
            inject=injected,
            workers=SKEWED,
            options=("skew=true", f"norm={str(norm).lower()}", f"looking={SKEWED}"),
            every_s=args.every_s * 2,
        )
        results = run(setting, args)
        for inject in injected:
            same = [result for result in results if (result.cell.feeding.inject or "0") == inject]
            exposed = statistics.mean(
                sum(step["exposed"] for step in result.steps) / (len(result.steps) / SKEWED) for result in same
            )
            for until in (100, 200) if steps == 200 else (steps,):
                value = statistics.mean(result.accuracy_at(until + 2.0) for result in same)
                bound = {"0": 45.0, "0.1/0.1": 75.0}.get(inject) if norm and until == 200 else None
                name = f"batch norm {'local' if norm else 'none'}, inject {inject}, {until} steps"
                note = f"{exposed:.0f} samples exposed a step"
                figures.append(Figure(name, value, "% accuracy", bound, at_least=inject != "0", note=note))
    return figures


def top_k(args) -> list[Figure]:
    """Adaptive top-k beside plain top-k with error feedback: compressed rounds, numbers sent, accuracy."""
    steps = 5 if args.tiny else TOPK_STEPS
    figures = []
    for ratio, delta in ((0.1, 0.1), (0.1, 0.3), (0.01, 0.3), (0.01, 0.6), (0.01, 1.0), (0.01, 0.0)):
        accuracy, cnc, sent = [], [], []
        for seed in args.seeds:
            found = trained_with_top_k(ratio, delta, steps, seed, args)
            for values, value in zip((accuracy, cnc, sent), found, strict=True):
                values.append(value)
        name = {0.0: "all of it", 1.0: "plain top-k with error feedback"}.get(delta, f"adaptive, delta {delta:g}")
        note = f"CNC {statistics.mean(cnc):.2f}, floats {statistics.mean(sent):.3f} of all"
        figures.append(Figure(f"top-k {ratio:g}, {name}", 100 * statistics.mean(accuracy), "% accuracy", note=note))
    return figures


def trained_with_top_k(ratio: float, delta: float, steps: int, seed: int, args) -> tuple[float, float, float]:
    """Accuracy, CNC ratio, and numbers sent of those of whole gradients, after so many steps of all devices."""
    task = Fashion.build({"batch": SMALL_BATCH}, data_dir=args.data, seed=seed)
    model = task.worker(0, TOPK_DEVICES).model
    optimizer = task.make_optimizer(model)
    batches = [iter(task.batches(device, TOPK_DEVICES)) for device in range(TOPK_DEVICES)]
    elements = sum(value.numel() for value in model.parameters())
    devices = [AdaptiveTopK(ratio, delta, elements) for _ in range(TOPK_DEVICES)]
    for _ in range(steps):
        votes = []
        for device, own in zip(devices, batches, strict=True):
            model.zero_grad()
            task.loss(model, next(own)).backward()
            votes.append(device.look(torch.cat([value.grad.ravel() for value in model.parameters()]).numpy()))
        compress = compresses(votes)
        mean = torch.from_numpy(np.mean([device.send(compress) for device in devices], axis=0))
        place = 0
        for value in model.parameters():
            value.grad = mean[place : place + value.numel()].reshape(value.shape)
            place += value.numel()
        optimizer.step()
    with torch.no_grad():
        right = (model(task.test_images.float() / 255).argmax(1) == task.test_labels).float().mean()
    whole = elements * steps * TOPK_DEVICES
    return float(right), devices[0].cnc, sum(device.floats for device in devices) / whole


# -- all ---------------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=Path("streams-out"), help="runs are kept here, and go on")
    parser.add_argument("--only", default=",".join(PARTS), help="parts: " + ", ".join(PARTS))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    args = parser.parse_args()
    args.seeds, args.every_s = ((0,), 10.0) if args.tiny else ((0, 1, 2), 3.0)
    if args.tiny:
        args.data, args.jobs = args.out / "noise", 0
        write_noise(args.data, 2000)
    elif not args.data.is_dir():
        print(f"{args.data}: no such folder; give that of Fashion-MNIST with --data", file=sys.stderr)
        raise SystemExit(2)
    torch.set_num_threads(1)
    # The slowest of S1' is not always 12 a second, and the ratio is that of the waits: seeds in which it is.
    skewed = tuple(seed for seed in range(200) if slowest("S1'", seed) == 12.0)[: len(args.seeds)]
    low_s, lower_s = (12.0, 12.0) if args.tiny else (1200.0, 800.0)
    parts = {
        "s1": lambda: low_rates("s1", "S1", 84.0, args.seeds, low_s, args),
        "s1p": lambda: low_rates("s1p", "S1'", 80.0, skewed, lower_s, args),
        "s2": lambda: high_rates(args),
        "outdoor": lambda: outdoors(args),
        "inject": lambda: injections(args),
        "topk": lambda: top_k(args),
    }
    figures = [figure for name in args.only.split(",") for figure in parts[name]()]
    finish("Streams", figures, args)


if __name__ == "__main__":
    main()
