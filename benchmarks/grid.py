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
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from common import SHARED, Figure, arguments, finish
from grid_cells import JOBS, GridCell, all_cells, chosen, ladder
from grid_judge import WINDOW, Judged, judge, line_of
from grid_runs import Grid, Wanted, run_all, save_json
from rowcast.energy import smoothed
from rowcast.errors import RowcastError
from rowcast.sync import parse_policy

PARTS = ("cells",)
#: Seeds of the first stage.
LADDER_SEEDS = 2

Rates = dict[tuple[str, str], float]


def find_rates(grid: Grid, cells: Sequence[GridCell], jobs: int) -> Rates:
    """The learning rate with which ``bsp`` ends best, for each job and optimizer that the cells have."""
    wanted: dict[tuple[str, str], list[Wanted]] = {}
    for job, optimizer in sorted({(cell.job, cell.optimizer) for cell in cells} | {(c.job, "momentum") for c in cells}):
        cell = GridCell(job, optimizer=optimizer, links="fast")
        wanted[job, optimizer] = [
            Wanted(cell, lr, "bsp", seed) for lr in ladder(optimizer) for seed in range(LADDER_SEEDS)
        ]
    run_all(grid, [each for own in wanted.values() for each in own], jobs, "rates of bsp")
    rates: Rates = {}
    table = []
    for (job, optimizer), own in wanted.items():
        ends: dict[float, list[float]] = {}
        for each in own:
            ends.setdefault(each.lr, []).append(float(smoothed(line_of(grid.run(each)).curve.values, WINDOW)[-1]))
        # What is no number is no candidate.
        means = {lr: float(np.nan_to_num(np.mean(values), nan=-np.inf)) for lr, values in ends.items()}
        rates[job, optimizer] = max(means, key=lambda lr: means[lr])
        table.append({"job": job, "optimizer": optimizer, "best": rates[job, optimizer], "ends": means})
    save_json(grid.out / "rates.json", table)
    return rates


def judge_cells(
    grid: Grid, cells: Sequence[GridCell], rates: Rates, policy: str, options: argparse.Namespace
) -> list[Judged]:
    """The policy in each of the cells, the worst first."""
    seeds = range(options.seeds)

    def wanted(cell: GridCell, which: str, seed: int) -> Wanted:
        return Wanted(cell, cell.rate * rates[cell.job, cell.optimizer], which, seed)

    bases = {cell.job: GridCell(cell.job).reference for cell in cells}
    paced = {cell for cell in cells if cell.links == "fast"}
    references = {*bases.values(), *(cell.reference for cell in cells), *paced}
    run_all(
        grid,
        [wanted(cell, "bsp", seed) for seed in seeds for cell in sorted(references, key=name_of)],
        options.jobs,
        "bsp",
    )
    run_all(
        grid,
        [wanted(cell, policy, seed) for seed in seeds for cell in cells],
        options.jobs,
        policy,
        again=policy if options.again else "",
    )
    usual = {
        job: float(np.mean([line_of(grid.run(wanted(base, "bsp", seed))).gained for seed in seeds]))
        for job, base in bases.items()
    }
    judged = []
    for cell in cells:
        of_bsp, ours = (
            {seed: grid.run(wanted(of, which, seed)) for seed in seeds}
            for of, which in ((cell.reference, "bsp"), (cell, policy))
        )
        at_pace = {seed: grid.run(wanted(cell, "bsp", seed)) for seed in seeds} if cell in paced else {}
        judged.append(judge(cell, of_bsp, ours, usual[cell.job], at_pace))
    return sorted(judged, key=lambda each: -each.excess)


def name_of(cell: GridCell) -> str:
    return cell.name


def print_cells(judged: Sequence[Judged], policy: str) -> None:
    """A row for each cell, the worst first."""
    table = Table(title=f"{policy} against bsp that never waits, at equal samples; the worst first")
    heads = ("cell", "bsp", policy, "below at the end", "at most, from a tenth on", "allowed", "diverged", "time / bsp")
    for head in heads:
        table.add_column(head, justify="left" if head == "cell" else "right")
    for each in judged:
        end = f"{np.mean(each.end):.2f} ({', '.join(f'{gap:.2f}' for gap in each.end)})"
        read = "" if each.read > 0.99 else f" of {each.read:.0%}"
        table.add_row(
            each.cell.name,
            f"{each.values[0]:.2f}",
            f"{each.values[1]:.2f}",
            end,
            f"{np.mean(each.worst):.2f} at {each.worst_at:.0%}{read}",
            f"{each.allowed:.2f}" if each.trains else "bsp trains not",
            ", ".join(map(str, each.diverged)),
            f"{np.mean(each.slower):.2f}" if each.slower else "",
        )
    print_wide(table)


def print_wide(table: Table) -> None:
    """Names are not cut, also where nobody looks at a terminal."""
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


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


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--policy", default="rowcast", help="what is judged, for example 'rowcast?outer_momentum=0'")
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
    grid = Grid(options.out, options.data, shorter=20 if options.tiny else 1)
    present = [job for job in JOBS if grid.has(job)]
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
        rates = find_rates(grid, cells, options.jobs)
        if "cells" in parts:
            judged = judge_cells(grid, cells, rates, options.policy, options)
            print_cells(judged, options.policy)
            figures += [*summarise(judged), *(figure for each in judged for figure in each.figures())]
    except RowcastError as error:
        parser.error(str(error))
    for (job, optimizer), rate in rates.items():
        figures.append(Figure(f"best rate of bsp, {job}, {optimizer}", rate, ""))
    finish("Where a policy is weak", figures, options, table=False)


if __name__ == "__main__":
    main()
