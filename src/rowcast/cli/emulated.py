"""What a terminal shows of finished emulations: the table, the proof that nothing was lost, and what the medium did."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from rowcast.errors import ConfigError
from rowcast.experiment.cell import Cell
from rowcast.experiment.folder import cell_folder
from rowcast.experiment.runners.emulated import EMULATION
from rowcast.report import Run, read_experiment, summarise, terminal_table

__all__ = ["shown"]

#: Gradients that take longer than the device would, from which on a comparison is not fair.
LATE_SHARE = 0.1


def shown(cells: Sequence[Cell], out: Path) -> Iterator[Table | str]:
    """For each seed the table of all policies, then a line about each run.

    Raises:
        ConfigError: a file of a run cannot be read.
    """
    runs = {run.folder.name: run for run in read_experiment(out).runs}
    groups: dict[tuple[int, str], list[tuple[Cell, Run]]] = {}
    for cell in cells:
        groups.setdefault((cell.seed, cell.links), []).append((cell, runs[cell.name]))
    for (seed, links), own in groups.items():
        if len(groups) > 1:
            yield f"{links}, seed {seed}"
        yield terminal_table([summarise(run) for _, run in own], own[0][1].metrics)
        for cell, _ in own:
            yield _line(cell, _account(cell_folder(out, cell)))


def _line(cell: Cell, account: dict[str, Any]) -> str:
    audit = account["audit"]
    verdict = "all replicas agree" if audit["clean"] else "THE AUDIT FAILED"
    text = (
        f"{cell.policy}: {audit['frames_sent']} row frames sent, {audit['lost']} lost, {audit['doubled']} doubled; "
        f"{verdict}"
    )
    late = account["late_share"]
    if late > LATE_SHARE:
        text += (
            f"; {100 * late:.0f} % of the gradients took longer than the device: this machine is too slow for the "
            "comparison; raise --devices, or take fewer --workers"
        )
    return text


def _account(folder: Path) -> dict[str, Any]:
    path = folder / EMULATION
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; delete {folder} to run it again") from error
