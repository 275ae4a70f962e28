"""The runners by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rowcast.experiment.cell import Cell
from rowcast.experiment.preparing import Preparing

__all__ = ["RUNNERS", "RunCell", "run_cell"]

#: Runs one cell: the cell, its folder, and whom to tell how many seconds are done, or how far its starting model is.
RunCell = Callable[[Cell, Path, Callable[[float | Preparing], None]], None]


def _virtual(cell: Cell, folder: Path, progress: Callable[[float | Preparing], None]) -> None:
    from rowcast.experiment.runners.virtual import run_virtual  # late: it loads PyTorch

    run_virtual(cell, folder, progress)


def _netns(cell: Cell, folder: Path, progress: Callable[[float | Preparing], None]) -> None:
    from rowcast.experiment.runners.emulated import run_emulated

    run_emulated(cell, folder, progress)


#: The field ``driver`` of a cell -> what runs a cell with it. Functions of a module: processes of a pool import them.
RUNNERS: dict[str, RunCell] = {"virtual": _virtual, "netns": _netns}


def run_cell(cell: Cell, folder: Path, progress: Callable[[float | Preparing], None]) -> None:
    """Run a cell with the runner that it names; writes its journals to ``folder``."""
    RUNNERS[cell.driver](cell, folder, progress)
