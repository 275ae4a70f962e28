"""What runs a cell, by name: each a function ``run(cell, folder, progress)``."""

from rowcast.experiment.runners.registry import RUNNERS, RunCell, run_cell

__all__ = ["RUNNERS", "RunCell", "run_cell"]
