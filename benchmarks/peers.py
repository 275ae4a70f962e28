"""The same job on the same links with what a user would otherwise install: beside Rowcast PyTorch's DDP on gloo
(float32, float16, PowerSGD), Flower, hivemind and torchft, each as its documentation recommends it.

Real processes in namespaces of one machine, an access point and a robot each, and the packets go through the medium of
``rowcast emulate``: exact to the packet, the same trace for each contender. ``pip install 'rowcast[peers,emulate]'``
has them all; one that is not installed is named, and the others go on.

What is the same for all: the task (CRUDA), its starting model, the parts of the data, batch, learning rate, momentum
and seed; one thread; what a gradient takes (``--pace``: the computation is stretched to it); the links; TCP's
congestion control (``--congestion-control``; by default the machine's, and it is printed), MTU 1500 and buffers of the
system. Everybody connects, and has the starting model, before the time begins. Robots only keep their models now and
then; they are evaluated when everything is over. Links are as slow as in ``rowcast demo``: at the best rate of its
trace a link carries the model, in one bit an element as Rowcast's published policies send it, in 0.67 times the time of
a gradient. That ratio is the one published for ROG; a float32 model takes 32 times as long.

How each contender is configured, and why, is in its own file: ``peers_rowcast.py``, ``peers_ddp.py``,
``peers_flower.py``, ``peers_hivemind.py``, ``peers_torchft.py``. Where one has a number of local steps that decides how
it does, some are tried, and the best one is reported.

Two scenarios: ``plain``; and ``outage``, shorter, in which the link of robot 1 carries nothing for a minute. Each run
is kept in ``--out`` and not run again; a run takes its ``--minutes``, and a minute or two to begin and to evaluate. Run
nothing beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common import Figure, arguments, finish
from peers_contenders import CONTENDERS, Contender, missing
from peers_job import Job
from peers_net import Links, Outage, run
from peers_results import Result, evaluated
from rowcast.drivers.netns.rights import why_not
from rowcast.errors import ConfigError, RowcastError, WorkerFailed, near_match
from rowcast.experiment.local_team import starting_point
from rowcast.experiment.runners.links import model_bytes
from rowcast.experiment.starting import keep_starting_state
from rowcast.tasks import find_task

PLAIN, OUTAGE = "plain", "outage"
#: Seconds to send the model in one bit an element at the best rate of a trace, per second of computation.
RATIO = 0.67
OUTAGE_S = 60.0
AWAY = 1
#: The share of its steps that the slowest of the others has to make in the outage.
STEPPING = 0.8
#: Of a family whose local steps are tried, the one that meets the outage.
IN_OUTAGE = ("rowcast", "ddp", "ddp:fp16", "ddp:powersgd", "flower:8", "hivemind:32", "torchft", "torchft:32")


def main() -> None:
    args = _arguments().parse_args()
    if args.tiny:
        _tiny(args)
    chosen, scenarios = _chosen(args.parts, CONTENDERS, "parts"), _chosen(args.scenarios, _SCENARIOS, "scenarios")
    if (reason := why_not()) is not None:
        raise SystemExit(reason)
    console = Console()
    try:
        bench = Bench(args, console)
        for scenario in scenarios:
            for name in chosen:
                if scenario == PLAIN or name in IN_OUTAGE or args.parts != "all":
                    bench.run(CONTENDERS[name], scenario)
    except RowcastError as error:
        raise SystemExit(str(error)) from None
    results = bench.results(scenarios)
    _show(console, bench, results)
    finish("peers", _figures(bench, results), args, table=False)


def _arguments() -> argparse.ArgumentParser:
    parser = arguments("the same job on the same links with what a user would otherwise install")
    parser.add_argument("--data", metavar="FOLDER", help="of the data set: Fashion-MNIST, say; 'cruda-digits' has none")
    parser.add_argument("--task", default="cruda", help="a CRUDA task (default: the one whose data the folder holds)")
    parser.add_argument(
        "--out", type=Path, default=Path("bench-out/peers"), metavar="FOLDER", help="where runs are kept"
    )
    parser.add_argument("--parts", default="all", help=f"contenders, by commas: {', '.join(CONTENDERS)}")
    parser.add_argument("--scenarios", default="all", help="plain, outage")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long a contender trains")
    parser.add_argument("--outage-minutes", type=float, default=4.0, help="the same with the outage, in its middle")
    parser.add_argument("--outage-s", type=float, default=OUTAGE_S, help="how long robot 1 has no link (s)")
    parser.add_argument("--workers", type=int, default=4, help="robots")
    parser.add_argument("--pace", type=float, default=1.0, metavar="S", help="what a gradient takes on a robot")
    parser.add_argument("--links", default="outdoor", help="as of rowcast demo --trace")
    parser.add_argument("--seed", type=int, default=0, help="of data, model and links")
    parser.add_argument("--test-images", type=int, default=1000, help="of a look")
    parser.add_argument("--every-s", type=float, default=10.0, help="between two looks (s)")
    parser.add_argument("--congestion-control", metavar="NAME", help="of TCP on all hosts; by default the machine's")
    return parser


_SCENARIOS = (PLAIN, OUTAGE)


def _tiny(args: argparse.Namespace) -> None:
    """Two contenders that need no package, a few seconds each, on links that carry them."""
    args.task, args.data, args.workers, args.pace = "cruda-digits", None, 2, 0.1
    args.parts, args.scenarios, args.links = "rowcast,ddp:fp16", PLAIN, "constant:10"
    args.minutes, args.every_s, args.test_images = 0.1, 1.0, 100


def _chosen(text: str, known: Sequence[str] | dict[str, Contender], what: str) -> list[str]:
    if text == "all":
        return list(known)
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise SystemExit(f"--{what}: {name!r} is unknown; {near_match(name, list(known))}")
    return names


class Bench:
    """Job, links and the folder of the runs.

    Args:
        args: of the command line.
        console: where it is told how far it is.

    Raises:
        RowcastError: as the task and the links have it; the folder holds runs of other settings.
    """

    def __init__(self, args: argparse.Namespace, console: Console) -> None:
        self._args = args
        self._console = console
        self.out: Path = args.out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        found = find_task(args.task, args.data)
        self.task = found.name
        self._options = found.kind.limit_tests({"pretrain_epochs": 1} if args.tiny else {}, args.test_images)
        task = found.kind.build(self._options, data_dir=args.data, seed=args.seed)
        state = keep_starting_state(task, self.out / "states", code=found.code)
        if state is None:
            raise ConfigError(f"task {args.task!r}: expected a CRUDA task, which keeps its starting model")
        self._state = state.resolve()
        layout, _ = starting_point(task, args.workers)
        self.elements = layout.elements
        self.model_bytes = model_bytes(layout)
        self.best_bps = 8 * self.model_bytes / (RATIO * args.pace)
        self.not_run: dict[str, str] = {}
        self._check_settings()

    def seconds(self, scenario: str) -> float:
        """How long a run trains."""
        return 60.0 * float(self._args.minutes if scenario == PLAIN else self._args.outage_minutes)

    def run(self, contender: Contender, scenario: str) -> None:
        """Run it, if it was not; what keeps it from being run is in :attr:`not_run`.

        Raises:
            RowcastError: no network can be made here.
        """
        name = f"{scenario}, {contender.name}"
        if self._file(contender.name, scenario).exists():
            return
        if (reason := missing(contender)) is not None:
            self._say(f"{name}: {reason}")
            self.not_run[contender.name] = reason
            return
        folder = self._file(contender.name, scenario).parent
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        job, links = self._job(folder, scenario), self._links(scenario)
        try:
            with self._console.status(name) as status:
                told = run(contender, job, links, _teller(status.update, name))
                status.update(f"{name}: evaluating")
                result = evaluated(contender.name, scenario, job, told, links)
        except WorkerFailed as error:
            self._say(f"{name}: {error}")
            self.not_run[contender.name] = str(error)
            return
        self._file(contender.name, scenario).write_text(json.dumps(asdict(result)) + "\n", encoding="utf-8")
        self._say(f"{name}: {result.steps:.0f} steps, {result.end:.1f} %, {result.bytes / 1e6:.1f} MB")

    def results(self, scenarios: Sequence[str]) -> dict[tuple[str, str], Result]:
        """Those that are kept, by scenario and contender; of all contenders, also of those that were not asked for."""
        found = {}
        for scenario in scenarios:
            for name in CONTENDERS:
                file = self._file(name, scenario)
                if file.exists():
                    found[scenario, name] = Result(**json.loads(file.read_text(encoding="utf-8")))
        return found

    def _file(self, contender: str, scenario: str) -> Path:
        return self.out / scenario / contender.replace(":", "-") / "result.json"

    def _job(self, folder: Path, scenario: str) -> Job:
        args = self._args
        data = None if args.data is None else str(Path(args.data).resolve())
        return Job(
            self.task,
            data,
            args.seed,
            self._options,
            str(self._state),
            args.workers,
            args.pace,
            self.seconds(scenario),
            args.every_s,
            str(folder),
        )

    def _links(self, scenario: str) -> Links:
        args, outage = self._args, None
        if scenario == OUTAGE:
            begin_s = (self.seconds(OUTAGE) - args.outage_s) / 2
            outage = Outage(AWAY, begin_s, begin_s + args.outage_s)
        return Links(args.links, self.best_bps, args.congestion_control, outage)

    def _check_settings(self) -> None:
        """The runs that are kept are of the same settings."""
        later = ("out", "parts", "scenarios", "json", "check", "data")
        asked = {name: value for name, value in sorted(vars(self._args).items()) if name not in later}
        asked["task"] = self.task
        file = self.out / "settings.json"
        if not file.exists():
            file.write_text(json.dumps(asked, indent=1) + "\n", encoding="utf-8")
            return
        kept = json.loads(file.read_text(encoding="utf-8"))
        for name, value in asked.items():
            if kept.get(name) != value:
                raise ConfigError(
                    f"{self.out}: holds runs with {name} {kept.get(name)!r}, asked for {value!r}; choose another --out"
                )

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _teller(update: Callable[[str], None], name: str) -> Callable[[str], None]:
    return lambda text: update(f"{name}: {text}")


# -- what came of it ---------------------------------------------------------------------------------------------------

_Results = dict[tuple[str, str], Result]


def _best_peer(results: _Results) -> Result | None:
    """The one that is most accurate at the end."""
    peers = [each for (scenario, name), each in results.items() if scenario == PLAIN and name != "rowcast"]
    return max(peers, key=lambda each: each.end, default=None)


def _figures(bench: Bench, results: _Results) -> list[Figure]:
    figures = []
    for (scenario, name), each in results.items():
        if scenario == PLAIN:
            figures.append(Figure(f"{name}: accuracy after {each.seconds / 60:g} minutes", each.end, "%"))
            figures.append(
                Figure(f"{name}: bytes on the links", each.bytes / 1e6, "MB", note=f"{each.steps:.0f} steps")
            )
    own, peer = results.get((PLAIN, "rowcast")), _best_peer(results)
    if own is not None and peer is not None:
        takes_s, own_s = peer.reaches_s(peer.end), own.reaches_s(peer.end)
        share = own_s / takes_s if takes_s else math.inf
        said = f"{peer.contender}: {peer.end:.1f} %, there after {takes_s:.0f} s; rowcast {own_s:.0f} s"
        figures.append(Figure("rowcast: time to what the best peer reaches / its time", share, "", 1 / 3, note=said))
    for (scenario, name), each in results.items():
        if scenario != OUTAGE:
            continue
        before, during, _ = each.in_outage()
        share = during / before if before else math.nan
        bound = STEPPING if name == "rowcast" else None
        said = f"{before:.0f}, {during:.0f} steps; longest pause {each.longest_pause_s():.0f} s"
        title = f"{name}: steps of the slowest of the others in the outage / before"
        figures.append(Figure(title, share, "", bound, at_least=True, note=said))
    return figures


def _show(console: Console, bench: Bench, results: _Results) -> None:
    controls = sorted({each.congestion_control for each in results.values()})
    console.print(
        f"{bench.task}: {bench.elements:,} parameters, {4 * bench.elements / 1e6:.2f} MB in float32, "
        f"{bench.model_bytes / 1e3:.0f} kB in one bit an element; links of {bench.best_bps / 1e6:.2f} Mbit/s at best; "
        f"congestion control {', '.join(controls) or 'not known'}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if any(scenario == PLAIN for scenario, _ in results) or bench.not_run:
        _show_plain(console, bench, results)
    if any(scenario == OUTAGE for scenario, _ in results):
        _show_outage(console, results)
    for name, contender in CONTENDERS.items():
        if name in bench.not_run:
            console.print(f"{name}: not run: {bench.not_run[name]}", highlight=False, markup=False, soft_wrap=True)
        elif any(name == ran for _, ran in results):
            console.print(f"{name}: {contender.says}", highlight=False, markup=False, soft_wrap=True)
    for (scenario, name), each in results.items():
        for said in each.ended.values():
            console.print(f"{scenario}, {name}: {said}", highlight=False, markup=False, soft_wrap=True)


def _show_plain(console: Console, bench: Bench, results: _Results) -> None:
    seconds, best = bench.seconds(PLAIN), _best_peer(results)
    level = None if best is None else best.end
    table = Table(title=f"{seconds / 60:g} minutes")
    heads = ["contender", "steps", "rounds", "MB", *(f"after {part * seconds / 60:.3g} min" for part in (1 / 3, 1))]
    for head in [*heads, "to the best peer's" if level is None else f"to {level:.1f} %"]:
        table.add_column(head, justify="left" if head == "contender" else "right")
    for name in CONTENDERS:
        each = results.get((PLAIN, name))
        if each is None:
            if name in bench.not_run:
                table.add_row(name, "not run")
            continue
        reached = math.inf if level is None else each.reaches_s(level)
        table.add_row(
            name,
            f"{each.steps:.0f}",
            "" if each.rounds is None else str(each.rounds),
            f"{each.bytes / 1e6:.1f}",
            f"{each.at(seconds / 3):.1f} %",
            f"{each.end:.1f} %",
            f"{reached:.0f} s" if math.isfinite(reached) else "not",
        )
    console.print(table)


def _show_outage(console: Console, results: _Results) -> None:
    shown = {name: each for (scenario, name), each in results.items() if scenario == OUTAGE}
    gap = next(iter(shown.values())).outage or {}
    table = Table(title=f"robot {AWAY} without a link for {gap['end_s'] - gap['begin_s']:g} s: steps of the others")
    for head in ("contender", "before", "in it", "after", "longest pause", "the robot's next step", "ended"):
        table.add_column(head, justify="left" if head == "contender" else "right")
    for name, each in shown.items():
        back_s = each.back_s()
        table.add_row(
            name,
            *(f"{steps:.0f}" for steps in each.in_outage()),
            f"{each.longest_pause_s():.0f} s",
            f"{back_s:.0f} s after it" if math.isfinite(back_s) else "none",
            ", ".join(sorted(each.ended)) or "nobody",
        )
    console.print(table)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: namespaces and processes go
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("peers: interrupted; what is finished is kept, and the same command goes on")
