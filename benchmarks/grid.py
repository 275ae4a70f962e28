"""Where a policy is weak: teams of 1 to 16 robots, learning rates, optimizers, shards and links, on five small jobs.

Each cell of the grid is trained with ``--policy`` (``rowcast``) and compared with ``bsp`` on links that never make
anybody wait, at equal samples. Rates are multiples of the best one for ``bsp``, which a first stage finds for each job
and optimizer. The worst cells stand first. Parts, of which ``--parts`` chooses:

- ``cells``: the policy against ``bsp`` in each cell;
- ``race``: time to accuracy against all other policies.

What has trained is kept in the folder ``--out``, and not run again: the command can be ended with Ctrl-C and called
again. After a change of the policy's code give another folder, or ``--again``.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from common import SHARED, Figure, arguments, finish
from grid_cells import JOBS, GridCell, all_cells, chosen, ladder
from grid_judge import WINDOW, Judged, Line, judge
from grid_race import WIFI_FOLDER, Race, race_cells, rivals
from grid_runs import Grid, Wanted, run_all, save_json
from grid_tables import print_cells, print_courses, print_standings, winners
from rowcast.energy import smoothed
from rowcast.errors import RowcastError
from rowcast.sync import parse_policy

PARTS = ("cells", "race")
#: Seeds of the first stage.
LADDER_SEEDS = 2
#: So many rates are tried beyond those of the ladder at most, in one direction.
MOST_MORE = 5
#: With ``--tiny`` runs are so many times shorter, and only these race.
TINY = 40.0
TINY_OTHERS = ("bsp", "rog:4", "localsgd:4")


def find_rates(grid: Grid, cells: Sequence[GridCell], jobs: int, *, few: bool = False) -> dict[tuple[str, str], float]:
    """The learning rate with which ``bsp`` ends best, for each job and optimizer that the cells have.

    Where the best is the lowest or the highest that was tried, one more is tried beyond it.

    Args:
        few: two rates only are tried.
    """
    pairs = {(cell.job, cell.optimizer) for cell in cells} | {(cell.job, "momentum") for cell in cells}
    tried = {pair: ladder(pair[1])[2:4] if few else ladder(pair[1]) for pair in sorted(pairs)}
    more: dict[tuple[str, str], tuple[int, int]] = dict.fromkeys(tried, (0, 0))
    while True:
        wanted = [each for pair, rates in tried.items() for lr in rates for each in _trials(*pair, lr)]
        run_all(grid, wanted, jobs, "rates of bsp")
        ends = {pair: {lr: _end(grid, *pair, lr) for lr in rates} for pair, rates in tried.items()}
        best = {pair: max(own, key=lambda lr: own[lr]) for pair, own in ends.items()}
        edges = [
            pair for pair, rates in tried.items() if best[pair] in (rates[0], rates[-1]) and max(more[pair]) < MOST_MORE
        ]
        if few or not edges:
            break
        for pair in edges:
            below, above = more[pair]
            more[pair] = (below + 1, above) if best[pair] == tried[pair][0] else (below, above + 1)
            tried[pair] = ladder(pair[1], *more[pair])
    table = [{"job": job, "optimizer": name, "best": best[job, name], "ends": ends[job, name]} for job, name in tried]
    save_json(grid.out / "rates.json", table)
    return best


def _trials(job: str, optimizer: str, lr: float) -> list[Wanted]:
    cell = GridCell(job, optimizer=optimizer, links="fast")
    return [Wanted(cell, lr, "bsp", seed) for seed in range(LADDER_SEEDS)]


def _end(grid: Grid, job: str, optimizer: str, lr: float) -> float:
    """Where ``bsp`` ends, mean over the seeds; what is no number is worst."""
    ends = [smoothed(grid.line(each).curve.values, WINDOW)[-1] for each in _trials(job, optimizer, lr)]
    return float(np.nan_to_num(np.mean(ends), nan=-np.inf))


class Rates:
    """The learning rates that are best for ``bsp``, and what it gains with them in the base cells of the jobs."""

    def __init__(self, grid: Grid, best: Mapping[tuple[str, str], float], seeds: int) -> None:
        self._grid, self.best, self.seeds = grid, best, range(seeds)

    def of(self, cell: GridCell) -> float:
        return cell.rate * self.best[cell.job, cell.optimizer]

    def wanted(self, cell: GridCell, policy: str, seed: int) -> Wanted:
        """The run of a policy in a cell."""
        return Wanted(cell, self.of(cell), policy, seed)

    def bases(self, jobs: Iterable[str]) -> list[Wanted]:
        """What :meth:`usual` reads."""
        return [self.wanted(GridCell(job).reference, "bsp", seed) for job in sorted(set(jobs)) for seed in self.seeds]

    def usual(self, job: str) -> float:
        """What ``bsp`` gains in the base cell of a job."""
        return float(np.mean([self._grid.line(each).gained for each in self.bases([job])]))


def judge_cells(
    grid: Grid, cells: Sequence[GridCell], rates: Rates, policy: str, jobs: int, *, again: bool
) -> list[Judged]:
    """The policy in each of the cells, the worst first."""
    paced = [cell for cell in cells if cell.links == "fast"]
    references = list(dict.fromkeys([*(cell.reference for cell in cells), *paced]))
    of_bsp = [rates.wanted(cell, "bsp", seed) for seed in rates.seeds for cell in references]
    run_all(grid, [*rates.bases(cell.job for cell in cells), *of_bsp], jobs, "bsp")
    ours = [rates.wanted(cell, policy, seed) for seed in rates.seeds for cell in cells]
    run_all(grid, ours, jobs, policy, again=policy if again else "")

    def lines(cell: GridCell, which: str) -> dict[int, Line]:
        return {seed: grid.line(rates.wanted(cell, which, seed)) for seed in rates.seeds}

    usual = {job: rates.usual(job) for job in {cell.job for cell in cells}}
    judged = [
        judge(
            cell,
            lines(cell.reference, "bsp"),
            lines(cell, policy),
            usual[cell.job],
            lines(cell, "bsp") if cell in paced else None,
        )
        for cell in cells
    ]
    return sorted(judged, key=lambda each: -each.excess)


def summarise(judged: Sequence[Judged]) -> list[Figure]:
    """How many cells keep each bound."""
    training = [each for each in judged if each.trains]
    figures = [Figure("cells", len(judged), ""), Figure("cells where bsp trains", len(training), "")]
    for title, kept in (
        ("within the bound at the end", [np.mean(each.end) <= each.allowed for each in training]),
        ("within the bound from a tenth on", [np.mean(each.worst) <= each.allowed for each in training]),
        ("not below bsp at the end", [np.mean(each.end) <= 0 for each in training]),
        ("without a seed that diverges where bsp does not", [not each.diverged for each in judged]),
    ):
        figures.append(Figure(f"cells {title}", float(np.sum(kept)), f"of {len(kept)}"))
    return figures


def race(grid: Grid, cells: Sequence[GridCell], rates: Rates, options: argparse.Namespace) -> list[Figure]:
    """Time to accuracy in those of the cells that are raced in, and the others at equal samples there."""
    named = {dataclasses.replace(cell, links="outdoor") for cell in cells}
    raced = [cell for cell in race_cells(present_jobs(grid)) if cell in named]
    if not raced:
        print("race: none of the cells is raced in; it takes the base cells, and others of the first job")
        return []
    if options.tiny:
        wifi: dict[str, list[Path]] = {}
    else:
        wifi = {raced[0].job: sorted((options.data / WIFI_FOLDER).glob("*.csv"))}
        if not wifi[raced[0].job]:
            print(f"left out: recorded Wi-Fi: no traces in {options.data / WIFI_FOLDER}; give its parent with --data")
    run_all(grid, rates.bases(cell.job for cell in raced), options.jobs, "bsp")
    lr_of = {cell: rates.of(cell) for cell in raced}
    others = TINY_OTHERS if options.tiny else rivals(options.policy)
    contest = Race(grid, options.policy, others, lr_of, options.seeds, options.jobs, again=options.again)
    courses = sorted(contest.run(raced, wifi), key=lambda course: -np.nan_to_num(course.ratio(options.policy)))
    print_courses(courses, options.policy)
    standings = contest.standings(raced, {cell.job: rates.usual(cell.job) for cell in raced})
    print_standings(standings)
    beside = [
        dataclasses.replace(figure, name=f"{policy}, {figure.name}", bound=None)
        for policy, judged in standings
        for figure in judged.figures()
    ]
    return [*(course.figure(options.policy) for course in courses), *winners(courses), *beside]


def present_jobs(grid: Grid) -> list[str]:
    """Those whose data are there."""
    return [job for job in JOBS if grid.has(job)]


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--policy", default="rowcast", help="what is judged, for example 'rowcast?auto_lr=off'")
    parser.add_argument("--cells", default="*", metavar="PATTERN", help="which, as 'digits/*/slow', by commas")
    parser.add_argument("--parts", default=",".join(PARTS), help="which figures, by commas")
    parser.add_argument("--seeds", type=int, default=3, help="of each cell")
    parser.add_argument("--strength", type=int, default=3, choices=(2, 3), help="of the covering array")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="runs at the same time")
    parser.add_argument("--data", type=Path, default=SHARED.parents[1], help="folder of the data sets and traces")
    parser.add_argument("--out", type=Path, default=Path("bench-out/grid"), help="folder of what was trained")
    parser.add_argument("--again", action="store_true", help="run the policy again: its code has changed")
    parser.add_argument("--list", action="store_true", help="only print the names of the cells")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts: expected some of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    grid = Grid(options.out, options.data, shorter=TINY if options.tiny else 1)
    present = present_jobs(grid)
    if absent := sorted(set(JOBS) - set(present)):
        print(f"left out: {', '.join(absent)}: no data in {options.data}; give its parent with --data")
    cells = chosen(all_cells(present, options.strength), options.cells)
    if options.list:
        print("\n".join(cell.name for cell in cells))
        return
    if not cells:
        parser.error(f"--cells: {options.cells!r} fits none; --list prints their names")
    try:
        parse_policy(options.policy)
        figures: list[Figure] = []
        rates = Rates(grid, find_rates(grid, cells, options.jobs, few=options.tiny), options.seeds)
        if "cells" in parts:
            judged = judge_cells(grid, cells, rates, options.policy, options.jobs, again=options.again)
            print_cells(judged, options.policy)
            figures += [*summarise(judged), *(figure for each in judged for figure in each.figures())]
        if "race" in parts:
            figures += race(grid, cells, rates, options)
    except RowcastError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        raise SystemExit(f"ended; what is finished stays in {options.out}, and the same command goes on") from None
    for (job, optimizer), rate in rates.best.items():
        figures.append(Figure(f"best rate of bsp, {job}, {optimizer}", rate, ""))
    finish("Where a policy is weak", figures, options, table=False)


if __name__ == "__main__":
    main()
