"""Measured runs replayed: what is read from logs, what is missing, and the verdict."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rowcast.cli.app import app
from rowcast.errors import DataError
from rowcast.experiment.validate import read_measurements, replay

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "rog-artifact"

#: A team of two on links of 80 Mbit/s: computes 2 s (worker 1) and 3 s (worker 2); the server needs 0.1 s and 0.4 s.
RATE_BPS = 80e6
BYTES = 1_000_000
PUSH_S, PULL_S = 0.1, 0.4
STEPS = 60


@pytest.fixture
def folder(tmp_path):
    """Logs of a run that keeps exactly to the rules of bsp."""
    on_air = 8 * BYTES / (0.957 * RATE_BPS)
    period = 3.0 + on_air + PUSH_S + PULL_S + on_air
    iterations = []
    for worker, compute in (("1", 2.0), ("2", 3.0)):
        for n in range(1, STEPS + 1):
            stall = 3.0 - compute
            send = on_air + PUSH_S
            pull = PULL_S + on_air
            iterations.append(
                {
                    "run": "BSP-0",
                    "worker": worker,
                    "iteration": n,
                    "t_end_s": n * period,
                    "push_send_s": send,
                    "push_s": send + stall,
                    "stall_s": stall,
                    "pull_s": pull,
                    "decompress_s": 0,
                    "push_rate": 1,
                    "pull_rate": 1,
                    "push_bytes": BYTES,
                    "pull_bytes": BYTES,
                    "bookkeep_s": "",
                    "pull_wait_s": "",
                }
            )
    with gzip.open(tmp_path / "iterations.csv.gz", "wt", newline="") as stream:
        writer = csv.DictWriter(stream, iterations[0])
        writer.writeheader()
        writer.writerows(iterations)
    columns = ["compute", "sleep", "compress", "rank_serialise", "decompress", "bookkeep"]
    lines = [",".join(["run", "worker", *(f"{name}_mean_s" for name in columns)])]
    lines += ["BSP-0,1,2,0,0,,0,", "BSP-0,2,3,0,0,,0,"]
    (tmp_path / "timing.csv").write_text("\n".join(lines) + "\n")
    # 8 bits for each element and some scales: about BYTES when every element takes one bit.
    (tmp_path / "model_tensors.csv").write_text("name,shape\nweight,2000x3990\n")
    (tmp_path / "bandwidth" / "BSP-0").mkdir(parents=True)
    for worker in "12":
        path = tmp_path / "bandwidth" / "BSP-0" / f"worker{worker}.csv"
        path.write_text(f"time_s,mbps,set_mbps\n0,{RATE_BPS / 1e6},78\n4000,{RATE_BPS / 1e6},78\n")
    return tmp_path


def test_the_servers_work_is_read_from_the_logs(folder):
    _, (run,) = read_measurements(folder)
    push_s, pull_s = run.server_work_s()
    assert push_s == pytest.approx(PUSH_S, abs=1e-6)
    assert pull_s == pytest.approx(PULL_S, abs=1e-6)


def test_a_run_that_keeps_to_the_rules_is_reproduced(folder):
    layout, runs = read_measurements(folder)
    (result,) = replay(layout, runs)
    assert result.policy == "bsp"
    assert result.measured_steps[-1] == STEPS
    assert result.simulated_steps[-1] == pytest.approx(STEPS, abs=1)
    assert result.measured_stall_s == pytest.approx(0.5)
    assert result.simulated_stall_s == pytest.approx(0.5, rel=0.02)


def test_the_verdict(folder, tmp_path):
    good = CliRunner().invoke(app, ["validate", "--data", str(folder), "--check"], standalone_mode=False)
    assert good.return_value == 0, good.output
    assert "met: all" in good.output
    timing = folder / "timing.csv"
    timing.write_text(timing.read_text().replace("BSP-0,2,3", "BSP-0,2,6"))
    bad = CliRunner().invoke(app, ["validate", "--data", str(folder), "--check"], standalone_mode=False)
    assert bad.return_value == 1
    assert "NOT MET: BSP-0: steps" in bad.output


def test_missing_files_are_all_named(tmp_path):
    (tmp_path / "timing.csv").write_text("run,worker\n")
    with pytest.raises(DataError, match=r"missing: iterations\.csv\.gz, model_tensors\.csv, bandwidth"):
        read_measurements(tmp_path)


def test_a_run_without_its_columns_is_one_clear_line(folder):
    (folder / "model_tensors.csv").write_text("tensor,size\nweight,3\n")
    with pytest.raises(DataError, match="does not hold what it should"):
        read_measurements(folder)


@pytest.mark.skipif(not DATA.exists(), reason=f"the measured runs are not here: {DATA}")
def test_the_measured_minimum_of_rog():
    _, runs = read_measurements(DATA)
    rog = {run.name: run for run in runs}["ROG-20"]
    assert rog.minimum_bytes("push") == pytest.approx(308_472, rel=0.02)
    assert {run.name for run in runs} == {"BSP-0", "SSP-4", "SSP-20", "ROG-4", "ROG-20"}
