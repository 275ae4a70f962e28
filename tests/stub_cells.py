"""Stands in for the virtual driver: writes small journals whose means one computes by hand.

Each robot makes one step in each 20 s and looks at its accuracy at the start and after each step. What is where:

- ``compute_s`` is what the cell's devices say, ``stall_s`` is 1 + seed, ``communicate_s`` the slack of the policy (0
  without one);
- accuracy, and own accuracy, is 50 + 2 n + seed - (robot's index) after n steps, and one more for each step with
  ``rog``.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

from rowcast.errors import WorkerFailed
from rowcast.experiment import Cell
from rowcast.experiment.devices import parse_devices
from rowcast.journal import open_journal

#: In the folder of the comparison: names of the cells that ran, one in each line, as they began.
LOG = "ran.txt"
#: In the folder of the comparison: name of a cell that shall go wrong, and how.
FAULT = "fault.json"


def run_stub(cell: Cell, folder: Path, progress: Callable[[float], None]) -> None:
    """As ``run_virtual``."""
    out = folder.parents[1]
    with (out / LOG).open("a") as log:
        log.write(f"{cell.name}\n")
    slack = int(cell.policy.partition(":")[2] or 0)
    steps = int(cell.seconds // 20)
    devices = parse_devices(cell.devices).team(cell.workers, cell.seed)
    for index in range(cell.workers):
        with open_journal(f"robot-{index}", folder / f"robot-{index}.jsonl") as journal:
            journal.record(0.0, "start", role="worker", policy=cell.policy)
            for n in range(steps + 1):
                if n:
                    journal.record(20.0 * n, "step", **step_of(cell, n, slack, devices[index].gradient_s(n - 1)))
                value = 50.0 + (3 if cell.policy.startswith("rog") else 2) * n + cell.seed - index
                for name in ("accuracy", "own_accuracy"):
                    journal.record(20.0 * n, "metric", iteration=n, name=name, value=value)
    progress(cell.seconds / 2)
    _go_wrong(out, cell)
    with open_journal("server", folder / "server.jsonl") as journal:
        journal.record(0.0, "start", role="server", policy=cell.policy)
    (folder / "up.csv").write_text("time_s,mbps\n0,8\n20,2\n")
    (folder / "links.json").write_text(json.dumps({f"robot-{k}": {"up": "up.csv"} for k in range(cell.workers)}))
    progress(cell.seconds)


def step_of(cell: Cell, n: int, slack: int, compute_s: float) -> dict[str, object]:
    return {
        "iteration": n,
        "compute_s": compute_s,
        "communicate_s": float(slack),
        "stall_s": 1.0 + cell.seed,
        "push_rows": 10,
        "push_bytes": 1000,
        "push_share": 0.5,
        "pull_rows": 10,
        "pull_bytes": 2000,
        "quota_s": None,
        "mta_time_s": 0.0,
        "rate_bps": 1e6 * n,
        "staleness": n % 2,
        "skipped": False,
    }


def _go_wrong(out: Path, cell: Cell) -> None:
    path = out / FAULT
    fault = json.loads(path.read_text()) if path.exists() else {}
    if fault.get("cell") != cell.name:
        return
    if fault["how"] == "interrupt":
        raise KeyboardInterrupt
    if fault["how"] == "refuse":
        raise WorkerFailed("the robot fell over")
    if fault["how"] == "bug":
        raise ZeroDivisionError("a bug")
    if fault["how"] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    (out / "hangs").write_text(str(os.getpid()))
    signal.pause()
