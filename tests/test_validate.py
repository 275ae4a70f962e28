"""Measured runs replayed: what is read from logs, what is missing, and the verdict."""

from __future__ import annotations

import csv
import dataclasses
import gzip
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rowcast.cli.app import app
from rowcast.drivers.virtual import ServerCosts
from rowcast.errors import ConfigError, DataError
from rowcast.experiment import Bounds, RunSettings, read_run, read_runs, run_settings, validate_run
from rowcast.experiment.csv_table import Table
from rowcast.experiment.run_table import COMPATS
from rowcast.experiment.validate import _device
from rowcast.sync import REGISTRY

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "rog-artifact"

#: A team of two on links of 80 Mbit/s: computes 2 s (worker 1) and 3 s (worker 2); the server needs 0.1 s and 0.4 s.
RATE_BPS = 80e6
BYTES = 1_000_000
PUSH_S, PULL_S = 0.1, 0.4
STEPS = 60


COLUMNS = ("compute", "sleep", "compress", "rank_serialise", "decompress", "bookkeep")


def period_s(compute_s):
    on_air = 8 * BYTES / (0.957 * RATE_BPS)
    return compute_s + on_air + PUSH_S + PULL_S + on_air


def bsp_rows(run="BSP-0", computes=(("1", 2.0), ("2", 3.0)), steps=STEPS):
    """Logs of a run that keeps exactly to the rules of bsp."""
    on_air = 8 * BYTES / (0.957 * RATE_BPS)
    slowest = max(seconds for _, seconds in computes)
    return [
        {
            "run": run,
            "worker": worker,
            "iteration": n,
            "t_end_s": n * period_s(slowest),
            "push_send_s": on_air + PUSH_S,
            "push_s": on_air + PUSH_S + slowest - compute,
            "stall_s": slowest - compute,
            "pull_s": PULL_S + on_air,
            "decompress_s": 0,
            "push_rate": 1,
            "pull_rate": 1,
            "push_bytes": BYTES,
            "pull_bytes": BYTES,
            "bookkeep_s": "",
            "pull_wait_s": "",
        }
        for worker, compute in computes
        for n in range(1, steps + 1)
    ]


def write_iterations(folder, rows):
    with gzip.open(folder / "iterations.csv.gz", "wt", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_folder(folder, runs):
    """A folder of runs: for each name its workers' seconds."""
    write_iterations(folder, [row for run, computes in runs.items() for row in bsp_rows(run, computes)])
    lines = [",".join(["run", "worker", *(f"{name}_mean_s" for name in COLUMNS)])]
    lines += [f"{run},{worker},{compute},0,0,,0," for run, computes in runs.items() for worker, compute in computes]
    (folder / "timing.csv").write_text("\n".join(lines) + "\n")
    # 8 bits for each element and some scales: about BYTES when every element takes one bit.
    (folder / "model_tensors.csv").write_text("name,shape\nweight,2000x3990\n")
    for run, computes in runs.items():
        (folder / "bandwidth" / run).mkdir(parents=True)
        for worker, _ in computes:
            path = folder / "bandwidth" / run / f"worker{worker}.csv"
            path.write_text(f"time_s,mbps,set_mbps\n0,{RATE_BPS / 1e6},78\n4000,{RATE_BPS / 1e6},78\n")
    return folder


TEAM = (("1", 2.0), ("2", 3.0))


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path, {"BSP-0": TEAM})


def invoke(*arguments):
    return CliRunner().invoke(app, ["validate", *map(str, arguments)], standalone_mode=False)


def figures(replay):
    return {figure.what: figure for figure in replay.figures}


def test_the_servers_work_is_read_from_the_logs(folder):
    (run,) = read_runs(folder)
    costs = run.server_costs()
    assert costs.push_s == pytest.approx(PUSH_S, abs=1e-6)
    assert costs.pull_s == pytest.approx(PULL_S, abs=1e-6)


def test_a_run_that_keeps_to_the_rules_is_reproduced(folder):
    (run,) = read_runs(folder)
    result = validate_run(run)
    assert result.policy == "bsp"
    found = figures(result)
    steps = next(figure for what, figure in found.items() if what.startswith("steps at"))
    assert steps.measured == STEPS
    assert steps.simulated == pytest.approx(STEPS, abs=1)
    assert found["stall per step (s)"].measured == pytest.approx(0.5)
    assert found["stall per step (s)"].simulated == pytest.approx(0.5, rel=0.02)
    for way in ("push", "pull"):
        assert found[f"{way} per step (kB)"].measured == pytest.approx(BYTES / 1e3)
        assert found[f"{way} per step (kB)"].simulated == pytest.approx(BYTES / 1e3, rel=0.02)
    assert all(figure.met for figure in result.figures)


def test_the_verdict_names_what_was_checked(folder):
    good = invoke("--data", folder, "--check")
    assert good.return_value == 0, good.output
    assert good.output.count("%") == 2 * 4
    assert "met: all 4 bounds (4 of BSP-0)" in good.output
    timing = folder / "timing.csv"
    timing.write_text(timing.read_text().replace("BSP-0,2,3", "BSP-0,2,6"))
    bad = invoke("--data", folder, "--check")
    assert bad.return_value == 1
    assert "NOT MET: BSP-0: steps" in bad.output


def test_bytes_that_are_off_are_not_met(folder):
    (run,) = read_runs(folder)
    rows = [{**row, "push_bytes": 0.7 * BYTES} for row in bsp_rows()]
    write_iterations(folder, rows)
    (less,) = read_runs(folder)
    costs = run.server_costs()
    assert not figures(validate_run(less, costs=costs))["push per step (kB)"].met
    wide = validate_run(less, costs=costs, bounds=Bounds(bytes=0.5))
    assert figures(wide)["push per step (kB)"].met


# -- names, and tables of runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("BSP-0", "bsp"),
        ("bsp", "bsp"),
        ("SSP-4", "ssp:4"),
        ("ssp-4-x2", "ssp:4"),
        ("SSP-4-x2", "ssp:4"),
        ("rog-20_second", "rog:20"),
        ("ROG-4", "rog:4"),
        ("flown-4", "flown:4"),
        ("asp-again", "asp"),
        ("rowcast", "rowcast"),
        ("rowcast-16", "rowcast:16"),
        ("Rowcast-evening", "rowcast"),
    ],
)
def test_what_a_name_says(name, policy):
    assert RunSettings(name).policy_text == policy


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("SSP", "a number behind SSP"),
        ("walk-3", "begins with a policy"),
        ("", "needs a name"),
        ("4", "begins"),
    ],
)
def test_a_name_that_says_no_policy(name, says):
    with pytest.raises(ConfigError, match=says):
        RunSettings(name)


def test_two_runs_of_one_policy_in_a_folder_each_have_their_own_figures(tmp_path):
    both = write_folder(tmp_path, {"BSP-0": TEAM, "BSP-0-x2": (("1", 4.0), ("2", 5.0))})
    first, second = read_runs(both)
    assert (first.name, second.name) == ("BSP-0", "BSP-0-x2")
    alone = tmp_path / "alone"
    alone.mkdir()
    write_folder(alone, {"BSP-0": TEAM})
    (same,) = read_runs(alone)
    # What a run comes to does not depend on what else is there.
    assert validate_run(first) == validate_run(same)
    result = invoke("--data", both, "--check")
    assert result.return_value == 0, result.output
    assert "4 of BSP-0, 4 of BSP-0-x2" in result.output


@pytest.mark.parametrize("kind", ["toml", "csv"])
def test_a_table_says_policy_files_moments_and_bounds(tmp_path, kind):
    folder = write_folder(tmp_path, {"monday": TEAM})
    if kind == "toml":
        (folder / "runs.toml").write_text(
            '[[run]]\nname = "walk"\nrecords = "monday"\npolicy = "bsp"\nmoments_s = [100, 150.0]\n'
            'bandwidth = "bandwidth/monday"\nsteps_within = 0.05\nserver_push_s = 0.1\nserver_pull_s = 0.4\n'
        )
    else:
        (folder / "runs.csv").write_text(
            "name,records,policy,moments_s,bandwidth,steps_within,server_push_s,server_pull_s,startup_steps\n"
            "walk,monday,bsp,100 150,bandwidth/monday,0.05,0.1,0.4,2\n"
        )
    (run,) = read_runs(folder)
    result = validate_run(run)
    assert result.run == "walk" and result.costs == ServerCosts(0.1, 0.4)
    assert [(one.what, one.within) for one in result.figures[:2]] == [
        ("steps at 100 s", 0.05),
        ("steps at 150 s", 0.05),
    ]
    assert all(figure.met for figure in result.figures)
    shown = invoke("--data", folder, "--runs", next(folder.glob("runs.*")), "--check")
    assert "met: all 5 bounds (5 of walk)" in shown.output


def test_suffixes_may_be_in_capital_letters(tmp_path):
    folder = write_folder(tmp_path, {"monday": TEAM})
    (folder / "iterations.csv.gz").rename(folder / "ITERATIONS.CSV.GZ")
    (folder / "RUNS.CSV").write_text("name,policy,iterations,records\n3,bsp,ITERATIONS.CSV.GZ,monday\n")
    (run,) = read_runs(folder, folder / "RUNS.CSV")
    assert run.settings.name == "3" and validate_run(run).figures


@pytest.mark.parametrize("steps", ["²", "2.5", "-1", "two", "1_0"])
def test_a_cell_that_is_no_whole_number_is_refused(folder, steps):
    (folder / "runs.csv").write_text(f"name,policy,startup_steps\na,bsp,{steps}\n")
    with pytest.raises(
        ConfigError, match=r"runs\.csv, line 2: RunSettings\.startup_steps: expected a (whole )?number in 0"
    ):
        run_settings(folder)


@pytest.mark.parametrize(("policy", "is_rog"), [("rog:4?f2=0.5", True), (" rog:4", True), ("rogish:4", False)])
def test_the_family_says_whether_a_run_goes_by_the_phases_of_rog(monkeypatch, policy, is_rog):
    """Not the first letters of the policy's text: a family of one's own may begin with them."""
    known = REGISTRY["bsp"]
    own = dataclasses.replace(known, form="rogish:S", build=lambda name, slack: known.build(name, None))
    monkeypatch.setitem(REGISTRY._entries, own.name, own)
    assert RunSettings(name="a", policy=policy).is_rog is is_rog
    if not is_rog:
        with pytest.raises(ConfigError, match="goes with 'rog:S'"):
            RunSettings(name="a", policy=policy, compat="artifact")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[run]]\nname = "a"\npolcy = "bsp"\n', "did you mean 'policy'"),
        ('[[run]]\nname = "a"\npolicy = "bspp"\n', "did you mean 'bsp'"),
        ('[[run]]\npolicy = "bsp"\n', "run 1: a run needs a name"),
        ('[[run]]\nname = "a"\npolicy = "bsp"\nsteps_within = -1\n', "steps_within: expected a number in 0.0"),
        ('[[run]]\nname = "a"\npolicy = "bsp"\n[[run]]\nname = "a"\npolicy = "bsp"\n', "two runs are named 'a'"),
        ('[[run]]\nname = "a"\npolicy = "bsp"\ncompat = "artifact"\n', "goes with 'rog:S'"),
        ('[[run]]\nname = "a"\npolicy = "rog:4"\ncompat = "artefact"\n', "did you mean 'artifact'"),
        ('[runs]\nname = "a"\n', "unknown key 'runs'"),
        ("run = 3\n", "expected entries"),
        ("name =\n", "not TOML"),
    ],
)
def test_a_table_that_is_wrong_is_one_clear_line(folder, text, says):
    (folder / "runs.toml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        run_settings(folder)


def test_moments_that_were_asked_for_and_lie_after_the_end_are_said(folder):
    (settings,) = run_settings(folder, moments_s=[100.0, 9000.0])
    run = read_run(folder, settings)
    assert [note.partition(" at")[0] for note in run.notes] == ["moments after the end"]
    assert validate_run(run).figures[0].what == "steps at 100 s"


def test_moments_and_costs_are_arguments(folder):
    (run,) = read_runs(folder)
    result = validate_run(run, policy="ssp:4", costs=ServerCosts(0.0, 0.2), moments_s=[100.0])
    assert result.policy == "ssp:4" and result.costs.pull_s == 0.2
    assert result.figures[0].what == "steps at 100 s"
    for moments in ([0.1], [1e6], []):
        with pytest.raises(ConfigError, match="expected moments after the first step and up to its end"):
            validate_run(run, moments_s=moments)


def test_the_startup_is_replayed(folder):
    rows = [{**row, "compute_s": dict(TEAM)[row["worker"]], "sleep_s": 0} for row in bsp_rows()]
    for row in rows:  # the first iteration of both took 30 s more
        row["t_end_s"] += 30
        row["sleep_s"] = 30 if row["iteration"] == 1 else 0
    write_iterations(folder, rows)
    (settings,) = run_settings(folder, startup_steps=1)
    with_it = validate_run(read_run(folder, settings))
    (settings,) = run_settings(folder, startup_steps=0)
    without = validate_run(read_run(folder, settings))
    assert with_it.figures[0].simulated == pytest.approx(STEPS, abs=1)
    assert without.figures[0].simulated > STEPS + 5


def test_a_start_that_was_not_recorded_takes_the_mean(folder):
    """An empty cell is not 0 s: of three iterations the second was not recorded."""
    rows = [{**row, "compute_s": 1.0, "sleep_s": 0} for row in bsp_rows()]
    rows[1]["compute_s"] = ""
    write_iterations(folder, rows)
    (settings,) = run_settings(folder, startup_steps=3)
    run = read_run(folder, settings)
    assert _device(run, "1").compute_s[:5] == [1.0, 2.0, 1.0, 2.0, 2.0]
    assert "compute_s: left out 1 that were not recorded (empty cells)" in run.notes
    rows[0]["decompress_s"] = ""  # done before the second gradient
    rows[1]["compute_s"] = 1.0
    write_iterations(folder, rows)
    assert _device(read_run(folder, settings), "1").compute_s[:3] == [1.0, 2.0, 1.0]


# -- what a file may hold ----------------------------------------------------------------------------------------------


def test_missing_files_are_all_named(tmp_path):
    (tmp_path / "timing.csv").write_text("run,worker\n")
    with pytest.raises(DataError, match=r"missing: iterations\.csv\.gz, model_tensors\.csv, bandwidth"):
        read_runs(tmp_path)


def change(path, old, new):
    raw = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    assert old in raw
    raw = raw.replace(old, new, 1)
    path.write_bytes(gzip.compress(raw.encode()) if path.suffix == ".gz" else raw.encode())


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("model_tensors.csv", "name,shape", "tensor,size", "model_tensors.csv: lacks the column 'shape'"),
        ("model_tensors.csv", "2000x3990", "2000*3990", "line 2, column shape: expected sizes as 32x3x3"),
        ("model_tensors.csv", "weight,2000x3990\n", "", "expected a line for each tensor"),
        ("timing.csv", "run,worker,compute_mean_s", "run,worker,computing_mean_s", "lacks the column 'compute_mean_s'"),
        (
            "timing.csv",
            "BSP-0,2,3.0",
            "BSP-0,2,",
            "line 3, column compute_mean_s: expected a number .*got an",
        ),
        ("timing.csv", "BSP-0,2,3.0", 'BSP-0,2,"1,08"', "line 3, column compute_mean_s: .*'1,08'; write a point"),
        ("timing.csv", "BSP-0,2,3.0", "BSP-0,2,1,08", "line 3: expected 8 cells, as the header has, got 9"),
        (
            "timing.csv",
            "BSP-0,2,3.0",
            "BSP-0,2,1_000",
            "line 3, column compute_mean_s: expected a number .*got '1_000'",
        ),
        ("timing.csv", "BSP-0,2,3.0", "BSP-0,2,nan", "line 3, column compute_mean_s: expected a number"),
        ("timing.csv", "BSP-0,2,3.0", "BSP-0,2,-1", "line 3, column compute_mean_s: expected a number of 0 or more"),
        ("timing.csv", "BSP-0,2,3.0", "BSP-0,1,3.0", "line 3, column worker: worker 1 of run BSP-0 is there twice"),
        ("timing.csv", "BSP-0,2,3.0,0,0,,0,\n", "", "timing.csv: run 'BSP-0' lacks worker 2"),
        ("timing.csv", "BSP-0,2,3.0", "BSP-0,2,0", "expected parts that take some time"),
        ("iterations.csv.gz", "stall_s", "waited_s", "lacks the column 'stall_s'"),
        ("iterations.csv.gz", "BSP-0,1,2,", "BSP-0,1,2,,", "line 3: expected 15 cells"),
        ("iterations.csv.gz", ",1,1,1000000,", ",1,1,many,", "line 2, column push_bytes: .*got 'many'"),
        ("iterations.csv.gz", f",{period_s(3.0)},", ",,", "line 2, column t_end_s: .*got an empty cell"),
        ("iterations.csv.gz", "BSP-0,1,2,", ",1,2,", "line 3, column run: expected a text, got an empty cell"),
        ("iterations.csv.gz", "BSP-0,1,2,", "7,BSP-0,1,2,", "line 3: expected 15 cells"),
        (
            "iterations.csv.gz",
            "BSP-0,1,2,8",
            "BSP-0,1,2,0",
            "column t_end_s: expected .* or more, the end",
        ),
    ],
)
def test_a_file_that_is_wrong_is_one_clear_line(folder, file, old, new, says):
    if "BSP-0,1,2,8" in old:
        old = f"BSP-0,1,2,{2 * period_s(3.0)}"
        new = "BSP-0,1,2,0.5"
    change(folder / file, old, new)
    with pytest.raises(DataError, match=says):
        list(read_runs(folder))


# Without ids of their own these would be named by their bytes, and gzip writes the time into
# them: two test processes that collect in two different seconds then disagree about the names.
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"no gzip", id="no gzip"),
        pytest.param(gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:30], id="cut"),
        pytest.param(gzip.compress(b"\xff\xfe", mtime=0), id="no text"),
    ],
)
def test_a_damaged_file_is_one_clear_line(folder, content):
    (folder / "iterations.csv.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"iterations\.csv\.gz"):
        list(read_runs(folder))


def test_a_line_of_another_run_is_no_matter_of_this_one(tmp_path, monkeypatch):
    folder = write_folder(tmp_path, {"BSP-0": TEAM, "BSP-7": TEAM})
    change(folder / "iterations.csv.gz", "BSP-7,1,2,", "BSP-7,1,2,,")
    with gzip.open(folder / "iterations.csv.gz", "at") as stream:
        stream.write("BSP-7,1\n")
    read, original = [], Table.read
    monkeypatch.setattr(Table, "read", lambda path: read.append(path.name) or original(path))
    runs = read_runs(folder)
    read.clear()
    assert next(runs).name == "BSP-0"
    with pytest.raises(DataError, match=r"line 123: expected 15 cells, as the header has, got 16"):
        next(runs)
    assert sorted(read) == ["iterations.csv.gz", "model_tensors.csv", "timing.csv"]


def test_a_worker_that_is_missing_is_named(folder):
    write_iterations(folder, bsp_rows(computes=TEAM[:1]))
    with pytest.raises(DataError, match=r"iterations.csv.gz: run 'BSP-0' lacks worker 2"):
        list(read_runs(folder))


def test_a_few_values_that_were_not_recorded_are_left_out_and_said(folder):
    rows = bsp_rows()
    rows[5]["stall_s"] = rows[9]["stall_s"] = ""
    write_iterations(folder, rows)
    (run,) = read_runs(folder)
    assert run.mean("stall_s", 1e9) == pytest.approx(0.5)
    assert "stall_s: left out 2 that were not recorded (empty cells)" in run.notes
    for row in rows[:10]:
        row["stall_s"] = ""
    write_iterations(folder, rows)
    with pytest.raises(DataError, match="column stall_s: 10 of the 60 cells of worker 1 are empty"):
        list(read_runs(folder))


def test_the_servers_work_is_not_read_from_what_was_not_recorded(folder):
    rows = bsp_rows()
    for row in rows[: STEPS + 10]:
        row["decompress_s"] = row["push_send_s"] = ""
    write_iterations(folder, rows)
    (run,) = read_runs(folder)
    costs = run.server_costs()
    assert (costs.push_s, costs.pull_s) == pytest.approx((PUSH_S, PULL_S), abs=1e-6)


def test_a_bandwidth_file_that_is_missing_is_named(folder):
    (folder / "bandwidth" / "BSP-0" / "worker2.csv").unlink()
    with pytest.raises(DataError, match=r"missing: worker2\.csv"):
        list(read_runs(folder))


def test_a_stall_of_nothing_is_compared_with_the_step(tmp_path):
    folder = write_folder(tmp_path, {"BSP-0": (("1", 3.0), ("2", 3.0))})
    result = invoke("--data", folder, "--check")
    assert result.return_value == 0, result.output
    (run,) = read_runs(folder)
    stall = figures(validate_run(run))["stall per step (s)"]
    assert stall.measured == 0 and stall.scale == pytest.approx(period_s(3.0), rel=0.01)


def test_what_is_done_is_shown_when_a_later_run_fails(tmp_path):
    folder = write_folder(tmp_path, {"BSP-0": TEAM, "BSP-0-x2": TEAM})
    (folder / "bandwidth" / "BSP-0-x2" / "worker1.csv").unlink()
    result = invoke("--data", folder)
    assert isinstance(result.exception, DataError)
    assert "steps at" in result.output and "missing: worker1.csv" in result.output


def test_a_run_that_is_not_there(folder):
    result = invoke("--data", folder, "--run", "BSP-1")
    assert isinstance(result.exception, ConfigError) and "did you mean 'BSP-0'" in str(result.exception)


# -- the artifact's minimum --------------------------------------------------------------------------------------------


def rog_rows(odd=()):
    """Logs of a run of rog: half of all transfers carry 40 % of the rows."""
    rows = []
    for row in bsp_rows("ROG-4"):
        least = row["iteration"] % 2 == 0
        share, size = (0.4, 300_000) if least else (1, BYTES)
        rows.append(
            {
                **row,
                "push_rate": share,
                "pull_rate": share,
                "push_bytes": size,
                "pull_bytes": size,
                "pull_timeout_s": 0 if least else 3,
                "pull_wait_s": 0.6,
                "bookkeep_s": 0,
            }
        )
    for place, values in odd:
        rows[place] = {**rows[place], **values}
    return rows


@pytest.fixture
def rog_folder(tmp_path):
    write_folder(tmp_path, {"ROG-4": TEAM})
    write_iterations(tmp_path, rog_rows())
    return tmp_path


def test_one_odd_row_does_not_decide_the_minimum(rog_folder):
    (run,) = read_runs(rog_folder)
    usual = run.minimum("push")
    assert (usual.share, usual.bytes, usual.left_out) == (0.4, 300_000, ())
    assert run.notes == ()
    nothing = {"push_rate": 0, "push_bytes": 0, "pull_rate": 0, "pull_bytes": 5}
    write_iterations(rog_folder, rog_rows([(50, nothing), (70, {"push_rate": 0.01}), (71, {"push_bytes": 9e9})]))
    (run,) = read_runs(rog_folder)
    minimum = run.minimum("push")
    assert (minimum.share, minimum.bytes) == (0.4, 300_000)
    text = " | ".join(run.notes)
    assert "minimum of a push: left out 1 of 116 transfers of no bytes or of a share of 0" in text
    assert "1 of 115 of a share below 0.4000" in text
    assert "whose bytes are more than 5 times off the median" in text
    assert "minimum of a pull: left out 1 of 116" in text


def test_a_share_that_was_not_recorded_is_none_of_1(rog_folder):
    less = {"push_rate": 0.4, "pull_rate": 0.4, "push_bytes": 300_000, "pull_bytes": 300_000}
    odd = [(place, {**less, "push_rate": ""}) for place in range(0, STEPS, 2)]
    write_iterations(rog_folder, rog_rows([*odd, (5, {"stall_s": 0.5, "pull_timeout_s": ""})]))
    (run,) = read_runs(rog_folder)
    assert run.minimum("push").left_out == ()
    assert f"push_rate: left out {STEPS // 2} that were not recorded (empty cells)" in run.notes
    held = [row for row in run.iterations["1"][2:] if row["stall_s"] > 0.3]
    assert run.race() == sum(row["pull_timeout_s"] == 0 for row in held) / (len(held) - 1)


def test_what_the_logs_say_goes_into_the_policy(rog_folder):
    shown = {}
    for compat in COMPATS:
        (settings,) = run_settings(rog_folder, compat=compat)
        shown[compat] = validate_run(read_run(rog_folder, settings), moments_s=[100.0]).policy
    assert shown["none"] == "rog:4"
    assert shown["artifact-rules"] == "rog:4?compat=artifact"
    assert shown["artifact"].startswith("rog:4?compat=artifact&counts=bytes&share=0.29")
    assert shown["artifact"].endswith("&race=0.500")


@pytest.mark.skipif(not DATA.exists(), reason=f"the measured runs are not here: {DATA}")
def test_the_measured_minimum_of_rog():
    runs = {run.name: run for run in read_runs(DATA)}
    assert set(runs) == {"BSP-0", "SSP-4", "SSP-20", "ROG-4", "ROG-20"}
    rog = runs["ROG-20"]
    assert rog.minimum("push").bytes == pytest.approx(308_472, rel=0.02)
    assert rog.minimum("push").share == pytest.approx(8000 / 33_307, abs=1e-4)  # 8 groups of 1000 rows
    assert runs["ROG-4"].minimum("pull").share == pytest.approx(11_000 / 33_307, abs=1e-4)
    assert runs["ROG-4"].race() == pytest.approx(0.255, abs=0.005) and rog.race() == 0
    assert not any("minimum" in note for run in runs.values() for note in run.notes)
