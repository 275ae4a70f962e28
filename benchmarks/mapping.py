"""Team mapping and positioning (CRIMP): the worth of a shared map, one-bit codes with delay, and policies on links.

Everything runs on one thread. ``room`` and ``kitchen`` compare a team on links that nobody waits for with robots that
share nothing. ``delay`` sends one-bit rows both ways, eight steps late, to a team in one process. ``outdoor`` compares
policies on fading links, each at its own best learning rate of a stated grid; ``weights`` compares averaging weights;
``speed`` times a step, a frame and a run. Runs in virtual time are kept in ``--out`` and go on there. What limits a run
is the processor: sampling and interpolation of the points of a step, and the points of a frame. ``--data`` is a folder
with recorded frames (npz), without which ``kitchen`` is left out.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from common import Figure, arguments, best_s, finish
from rowcast.codecs import codec_by_name
from rowcast.experiment import Comparison, run_comparison
from rowcast.experiment.runners.virtual import one_thread
from rowcast.optim.shared import shared_parameters
from rowcast.report import read_experiment, write_report
from rowcast.report.curves import metric_over
from rowcast.report.measures import energy_to, final_value
from rowcast.report.values import Run
from rowcast.tasks.crimp import CrimpTask, CrimpWorker
from rowcast.tasks.crimp.pixels import usable_pixels
from rowcast.tasks.loading import load_task

PARTS = ("room", "kitchen", "delay", "outdoor", "weights", "speed")
WORKERS = 4
#: Virtual seconds of one gradient, as the prototype took them.
COMPUTE_S = 1.0
IDEAL = "bsp?codec=raw"
POLICIES = ("bsp", "rog:4", "rowcast")
#: Learning rates that each policy chooses from, by its mean ATE at the end.
RATES = (0.08, 0.16, 0.32)
DELAY_STEPS = 8
#: The robots stand for a minute and then move, and all look so often.
OUTDOOR_S, LOOK_S = 300.0, 10.0
#: How soon others are found there is told by looks that are closer together, since a level counts once the mean of
#: five looks keeps it.
EARLY_S, EARLY_LOOK_S = 120.0, 2.0
#: A robot of a policy with slack is never long without a look.
WEIGHTS_LOOK_S = 60.0
#: Frames of the localisation test of each of four robots at such a look.
OUTDOOR_TESTS = 30


class Bench:
    """Runs what figures need, each run once.

    Args:
        out: keeps runs in virtual time.
        data: folder of recorded frames.
        seeds: how many.
        tiny: a second's worth of it.
        jobs: runs in virtual time at the same time.
    """

    def __init__(self, out: Path, data: Path | None, seeds: int, *, tiny: bool, jobs: int) -> None:
        self.out, self.data, self.seeds, self.tiny, self.jobs = out, data, range(seeds), tiny, jobs
        self._small: dict[str, object] = (
            {"frames": 4, "visit_frames": 4, "tests": 4, "rays": 32, "first_s": 1.0, "frame_every_s": 1.0}
            if tiny
            else {}
        )

    def compared(
        self,
        name: str,
        task: str,
        policies: Sequence[str],
        links: str,
        seconds: float,
        options: Sequence[str] = (),
        *,
        every_s: float | None = None,
    ) -> dict[str, list[Run]]:
        """Finished runs in virtual time by policy."""
        folder = self.out / name
        recorded = task != "crimp-room"
        if self.tiny:
            seconds, every_s = 12.0, 2.0
        run_comparison(
            Comparison(
                task=task,
                data=str(self.data) if recorded else None,
                task_options=(*options, *(f"{key}={value}" for key, value in self._small.items() if not recorded)),
                policies=tuple(policies),
                links=(links,),
                devices=(f"{COMPUTE_S:g}",),
                workers=(WORKERS,),
                seeds=tuple(self.seeds),
                hours=seconds / 3600,
                eval_every_s=seconds - 1.0 if every_s is None else every_s,
            ),
            folder,
            jobs=0 if self.tiny else self.jobs,
        )
        experiment = read_experiment(folder)
        return experiment.by_policy(experiment.base)

    def task(self, name: str, seed: int, options: Mapping[str, object] | None = None) -> CrimpTask:
        """A task to be run in this process."""
        given: dict[str, object] = dict(options or {})
        if name == "crimp-room":
            given |= self._small
        task = load_task(name).build(given, data_dir=None if name == "crimp-room" else self.data, seed=seed)
        assert isinstance(task, CrimpTask)
        return task

    def steps(self, workers: Sequence[CrimpWorker]) -> int:
        """Mapping steps until the last frame has been mapped as long as the others."""
        settings = workers[0].task.settings
        if self.tiny:
            return 4
        frames = max(len(worker.view.own) for worker in workers)
        return int(settings.first_s + settings.frame_every_s * (frames - 1))


def team_of(task: CrimpTask, now: list[float]) -> list[CrimpWorker]:
    """The robots of a team in this process; ``now`` holds the seconds of their clocks."""
    workers = [task.worker(index, WORKERS) for index in range(WORKERS)]
    for worker in workers:
        worker.clock = lambda: now[0]
    return workers


def alone(bench: Bench, task: CrimpTask) -> list[dict[str, float]]:
    """Robots that share nothing, each with its own map, for as many steps as a team."""
    now = [0.0]
    workers = team_of(task, now)
    for step in range(bench.steps(workers)):
        now[0] = step * COMPUTE_S
        for worker in workers:
            worker.compute()
            worker.optimizer.step()
    return [worker.evaluate() for worker in workers]


def delayed(bench: Bench, task: CrimpTask, code: str, delay: int) -> list[dict[str, float]]:
    """A team whose updates go up and down in a code with error feedback and arrive so many steps later.

    Nobody applies its own step before it comes back.
    """
    now = [0.0]
    workers = team_of(task, now)
    layout = shared_parameters(workers[0].model, workers[0].optimizer).layout
    codec, rows = codec_by_name(code), np.arange(layout.rows)
    grids = [worker.model.grid.detach().numpy().reshape(-1) for worker in workers]
    pending = [layout.zeros() for _ in workers]
    owed = [layout.zeros() for _ in workers]
    way: deque[list[np.ndarray]] = deque()

    def sent(vector: np.ndarray) -> np.ndarray:
        found = layout.zeros()
        codec.add(layout, codec.encode(layout, vector, rows), rows, found, 1.0)  # the rest stays in the vector
        return found

    for step in range(bench.steps(workers)):
        now[0] = step * COMPUTE_S
        for worker, grid, mine in zip(workers, grids, pending, strict=True):
            before = grid.copy()
            worker.compute()
            worker.optimizer.step()
            mine += before - grid
            grid[:] = before
        total = np.sum([sent(mine) for mine in pending], axis=0)
        for each in owed:
            each += total
        way.append([sent(each) for each in owed])
        if len(way) > delay:
            for grid, change in zip(grids, way.popleft(), strict=True):
                grid -= change
    return [worker.evaluate() for worker in workers]


def mean_of(results: Sequence[Mapping[str, float]], name: str) -> float:
    return fmean(each[name] for each in results)


def ended(runs: Sequence[Run], name: str) -> list[float]:
    """A metric at the end of each run, mean of the robots."""
    found = []
    for run in runs:
        metric = next(each for each in run.metrics if each.name == name)
        value = final_value(run, metric)
        assert value is not None
        found.append(value)
    return found


def at_second(run: Run, name: str, second: float) -> float:
    """The mean over the robots of the last value that each measured until then."""
    values = []
    for robot in run.robots:
        series = robot.measured[name]
        values.append(float(series.values[np.flatnonzero(series.times_s <= second + COMPUTE_S)[-1]]))
    return fmean(values)


def listed(values: Sequence[float]) -> str:
    return "seeds " + ", ".join(f"{value:.3g}" for value in values)


def shared_worth(bench: Bench, task: str, where: str) -> tuple[list[Run], list[list[dict[str, float]]]]:
    """Runs of a team on links that nobody waits for, and of robots alone."""
    workers = team_of(bench.task(task, 0), [0.0])
    seconds = bench.steps(workers) * COMPUTE_S
    ideal = bench.compared(f"{where}-ideal", task, [IDEAL], "constant:100000", seconds)[IDEAL]
    return ideal, [alone(bench, bench.task(task, seed)) for seed in bench.seeds]


def room(bench: Bench) -> Iterator[Figure]:
    ideal, lone = shared_worth(bench, "crimp-room", "room")
    for name, title, unit, bound, at_least in (
        ("ate", "own ATE", "m", 0.06, False),
        ("aligned_ate", "own ATE, aligned", "m", None, False),
        ("visit_ate", "visit ATE", "m", 0.06, False),
        ("visit_share", "visit within 10 cm", "%", 90.0, True),
        ("localisation_error", "localisation, median", "m", None, False),
        ("localised_share", "localised within 5 cm and 2 degrees", "%", None, False),
        ("hit_share", "visit depth, hit", "%", 95.0, True),
        ("depth_l1", "visit depth, median L1", "m", 0.03, False),
        ("touched_rows", "rows touched by a step", "rows", None, False),
    ):
        values = ended(ideal, name)
        yield Figure(f"room, ideal link: {title}", fmean(values), unit, bound, at_least, listed(values))
    for name, title, unit, bound, at_least in (
        ("ate", "own ATE", "m", None, False),
        ("visit_ate", "visit ATE", "m", 0.5, True),
        ("hit_share", "visit depth, hit", "%", 50.0, False),
    ):
        values = [mean_of(each, name) for each in lone]
        yield Figure(f"room, alone: {title}", fmean(values), unit, bound, at_least, listed(values))


def kitchen(bench: Bench) -> Iterator[Figure]:
    ideal, lone = shared_worth(bench, "crimp-redkitchen", "kitchen")
    team = ended(ideal, "ate")
    single = [mean_of(each, "ate") for each in lone]
    yield Figure("kitchen: team ATE", fmean(team), "m", 0.035, False, listed(team))
    yield Figure("kitchen: team ATE over alone", fmean(team) / fmean(single), "", 0.6, False, f"alone {listed(single)}")
    found = ended(ideal, "localisation_error")
    yield Figure("kitchen: localisation, median", fmean(found), "m", 0.03, False, listed(found))
    found = [mean_of(each, "localisation_error") for each in lone]
    yield Figure("kitchen, alone: localisation, median", fmean(found), "m", 0.05, True, listed(found))


def delay(bench: Bench) -> Iterator[Figure]:
    ideal = [mean_of(delayed(bench, bench.task("crimp-room", seed), "raw", 0), "ate") for seed in bench.seeds]
    late = [
        mean_of(delayed(bench, bench.task("crimp-room", seed), "onebit", DELAY_STEPS), "ate") for seed in bench.seeds
    ]
    yield Figure("ideal: ATE", fmean(ideal), "m", None, False, listed(ideal))
    note = f"{listed(late)}; one bit both ways, {DELAY_STEPS} steps late"
    moved = [
        mean_of(delayed(bench, bench.task("crimp-room", seed, {"momentum": 0.9}), "onebit", DELAY_STEPS), "ate")
        for seed in bench.seeds
    ]
    yield Figure("one bit and delay, momentum 0.9: ATE", fmean(moved), "m", None, False, listed(moved))
    yield Figure("one bit and delay: ATE over ideal", fmean(late) / fmean(ideal), "", 1.4, False, note)


def outdoor(bench: Bench) -> Iterator[Figure]:
    rates = RATES[:1] if bench.tiny else RATES
    by_rate = {
        rate: bench.compared(
            f"outdoor-{rate:g}",
            "crimp-room",
            POLICIES,
            "outdoor",
            OUTDOOR_S,
            [f"lr={rate:g}", f"tests={OUTDOOR_TESTS}"],
            every_s=LOOK_S,
        )
        for rate in rates
    }
    errors = {policy: {rate: fmean(ended(by_rate[rate][policy], "ate")) for rate in rates} for policy in POLICIES}
    best = {policy: min(each, key=each.__getitem__) for policy, each in errors.items()}
    for policy, each in errors.items():
        note = f"{listed(ended(by_rate[best[policy]][policy], 'ate'))}; " + ", ".join(
            f"lr {rate:g}: {error:.3g}" for rate, error in each.items()
        )
        yield Figure(f"outdoor, {policy}: ATE", each[best[policy]], "m", None, False, note)
    for title, chosen, bound in (("each its best lr", best, True), ("lr 0.08", dict.fromkeys(POLICIES, 0.08), False)):
        ratio = errors["rowcast"][chosen["rowcast"]] / errors["bsp"][chosen["bsp"]]
        yield Figure(f"outdoor, {title}: ATE of rowcast over that of bsp", ratio, "", 0.75 if bound else None)
        yield from found_early(bench, chosen, title, bound)


def found_early(bench: Bench, rates: Mapping[str, float], title: str, bound: bool) -> Iterator[Figure]:
    """How soon robots are found in what others map, and what it costs, each policy at its learning rate.

    Args:
        title: of the figures.
        bound: whether they are what bounds are asked of.
    """
    early = {}
    for policy, rate in rates.items():
        name, options = f"outdoor-early-{rate:g}-{policy.replace(':', '-')}", [f"lr={rate:g}", f"tests={OUTDOOR_TESTS}"]
        found = bench.compared(name, "crimp-room", [policy], "outdoor", EARLY_S, options, every_s=EARLY_LOOK_S)
        early[policy] = found[policy]
    bounds = {"bsp": (0.06, True), "rowcast": (0.03, False)} if bound else {}
    for second in (20.0, 60.0):
        errors = {
            policy: [at_second(run, "localisation_error", second) for run in runs] for policy, runs in early.items()
        }
        for policy, values in errors.items():
            asked = bounds.get(policy, (None, False)) if second == 60.0 else (None, False)
            name = f"outdoor, {title}, {policy}: localisation after {second:g} s, median"
            yield Figure(name, fmean(values), "m", *asked, listed(values))
        means = [fmean(errors[policy]) for policy in ("rowcast", "rog:4", "bsp")]
        name = f"outdoor, {title}: rog:4 between them after {second:g} s"
        yield Figure(name, float(means == sorted(means)), "1 is yes", 1.0 if bound else None, True)
    spent = {policy: [energy_to_level(run, 0.05) for run in runs] for policy, runs in early.items()}
    for policy, joules in spent.items():
        name = f"outdoor, {title}, {policy}: energy to 0.05 m of localisation"
        yield Figure(name, fmean(joules), "J", None, False, listed(joules))
    saved = 1 - fmean(spent["rowcast"]) / fmean(spent["bsp"])
    name = f"outdoor, {title}: energy that rowcast saves over bsp until then"
    yield Figure(name, 100 * saved, "%", 40.0 if bound else None, True)


def energy_to_level(run: Run, level: float) -> float:
    """Joules of the team until its median error of localisation stays at a level; of a run that did not get there, all
    that it spent: a lower bound."""
    metric = next(each for each in run.metrics if each.name == "localisation_error")
    curve = metric_over(run, metric, "time")
    assert curve is not None
    return energy_to(run, curve.every(run.settings["eval_every_s"]), metric, level).value


def weights(bench: Bench) -> Iterator[Figure]:
    """What a step weighs, at the learning rates at which they take the same steps, on the links of ``outdoor``."""
    for title, policy, options in (
        ("1 (sum), lr 0.08", "rog:4", ["lr=0.08"]),
        ("1/members, lr 0.08", "rog:4", ["lr=0.08", "weight=0"]),
        ("1/members, lr 0.32", "rog:4", ["lr=0.32", "weight=0"]),
        ("each row's contributors, lr 0.08", "rog:4?row_weights=contributors", ["lr=0.08", "weight=0"]),
    ):
        slug = title.replace(" ", "").replace("/", "-")
        runs = bench.compared(
            f"weights-{slug}", "crimp-room", [policy], "outdoor", OUTDOOR_S, options, every_s=WEIGHTS_LOOK_S
        )[policy]
        values = ended(runs, "ate")
        yield Figure(f"weight {title}: ATE", fmean(values), "m", None, False, listed(values))


def speed(bench: Bench) -> Iterator[Figure]:
    task = bench.task("crimp-room", 0)
    now = [0.0]
    workers = team_of(task, now)
    began = time.process_time()
    frame_s = []
    for step in range(bench.steps(workers)):
        now[0] = step * COMPUTE_S
        for worker in workers:
            before = time.process_time()
            arrived = worker.arrive()
            if arrived and step:
                frame_s.append((time.process_time() - before) / arrived)
            worker.compute()
            worker.optimizer.step()
    run_s = time.process_time() - began
    worker = workers[0]

    def step_once() -> None:
        worker.compute()
        worker.optimizer.step()

    frames = sum(each.taken for each in workers)
    yield Figure("tracking a frame", 1e3 * (fmean(frame_s) if frame_s else 0.0), "ms", 30.0)
    yield Figure("a mapping step", 1e3 * best_s(step_once, 2 if bench.tiny else 50), "ms", 10.0)
    yield Figure("a run of 4 robots", run_s, "s of processor", 45.0, False, f"{frames} frames")
    pixels = usable_pixels(worker.view.own, 0, task.settings)
    yield Figure("pixels of a frame", float(len(pixels)), "", None, False, f"{task.settings.track_pixels} are tracked")
    began = time.process_time()
    worker.evaluate()
    yield Figure("a look at all metrics of a robot", time.process_time() - began, "s of processor")
    folder = bench.out / "room-ideal"
    if folder.is_dir():
        began = time.process_time()
        write_report(folder)
        yield Figure("report of its runs", time.process_time() - began, "s of processor", 20.0)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="recorded frames (npz), for the part 'kitchen'")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"which of {', '.join(PARTS)}")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument("--jobs", type=int, default=1, help="runs in virtual time at the same time (default 1)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep runs here, and go on with what is here")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts: unknown {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}")
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder, one_thread():
        bench = Bench(
            options.out or Path(folder),
            options.data,
            1 if options.tiny else options.seeds,
            tiny=options.tiny,
            jobs=options.jobs,
        )
        functions = {
            "room": room,
            "kitchen": kitchen,
            "delay": delay,
            "outdoor": outdoor,
            "weights": weights,
            "speed": speed,
        }
        for part in parts:
            if part == "kitchen" and options.data is None:
                continue
            figures += functions[part](bench)
    left_out = "; left out: kitchen (no --data)" if "kitchen" in parts and options.data is None else ""
    finish(f"Team mapping and positioning, {len(bench.seeds)} seeds{left_out}", figures, options)


if __name__ == "__main__":
    main()
