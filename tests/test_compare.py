"""A comparison: its plan, what it refuses, and what an interruption costs."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rowcast.cli import ExitCode, main
from rowcast.cli.progress import ComparisonDisplay, duration, headline
from rowcast.config import load_tables
from rowcast.energy import PowerStates
from rowcast.errors import ConfigError, DataError, TraceError, WorkerFailed
from rowcast.experiment import Cell, Comparison, ComparisonProgress, plan_cells, run_comparison
from rowcast.experiment import progress as progress_module
from rowcast.experiment.folder import claimed_folder
from rowcast.experiment.preparing import Preparing
from rowcast.experiment.progress import ProgressTracker
from rowcast.report import write_report
from stub_cells import FAULT, LOG, run_stub

SMALL = Comparison(policies=("bsp", "rog:4"), workers=(2,), hours=0.05, seeds=2)


# -- plan --------------------------------------------------------------------------------------------------------------


def test_the_plan_is_the_product_and_gives_everybody_a_seed_first() -> None:
    settings = replace(SMALL, policies=("bsp", "rog:4", "rog:20"), workers=(2, 4), batch=(16, 32), seeds=(7, 3))
    cells = plan_cells(settings)
    assert len(cells) == len({cell.name for cell in cells}) == 3 * 2 * 2 * 2
    assert [cell.seed for cell in cells] == [7] * 12 + [3] * 12
    assert [cell.policy for cell in cells[:4]] == ["bsp", "rog:4", "rog:20", "bsp"]
    assert cells[0] == Cell(
        policy="bsp",
        seed=7,
        task="cruda-digits",
        data=None,
        links="outdoor",
        channel="independent",
        workers=2,
        hours=0.05,
        devices="2.18",
        encode_s=0.0,
        decode_s=0.0,
        server_push_s=0.0,
        server_pull_s=0.0,
        batch=16,
        eval_every_s=60.0,
        eval_items=500,
    )
    assert cells[0].name == "bsp_outdoor_w2_b16_c2.18_s7"
    assert cells[0].seconds == pytest.approx(180.0)


def test_a_folder_of_traces_needs_one_for_each_robot(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("time_s,mbps\n0,8\n1,2\n")
    settings = replace(SMALL, links=(str(tmp_path),), workers=(2,))
    assert plan_cells(settings)[0].links == str(tmp_path)
    with pytest.raises(ConfigError, match="a trace file for each of 3 robots, found 2"):
        plan_cells(replace(settings, workers=(2, 3)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TraceError, match="expected trace files"):
        plan_cells(replace(settings, links=(str(tmp_path / "empty"),)))


def test_names_of_cells_stay_apart(tmp_path: Path) -> None:
    trace = tmp_path / "my trace.csv"
    trace.write_text("time_s,mbps\n0,8\n1,2\n")
    settings = replace(
        SMALL,
        policies=("rog:4", "rog:4?codec=raw", "rog:4?codec=half"),
        links=("outdoor", "constant:20", str(trace)),
        seeds=1,
    )
    cells = plan_cells(settings)
    names = {cell.name for cell in cells}
    assert len(names) == 9
    assert all(re.fullmatch(r"[\w.-]+", name) for name in names)
    assert "rog-4_constant-20_w2_btask_c2.18_s0" in names
    assert {cell.links for cell in cells} == {"outdoor", "constant:20", str(trace.resolve())}


def test_names_of_cells_tell_devices_apart(tmp_path: Path) -> None:
    recording = tmp_path / "jetson.csv"
    recording.write_text("all\n2.0\n")
    texts = ("2.18", "2.18~0.2", "2.18/0.2", "2.0/8.1", "2.0~0.1/8.1", str(recording))
    cells = plan_cells(replace(SMALL, policies=("bsp",), devices=texts, seeds=1))
    names = [cell.name for cell in cells]
    assert len(set(names)) == 6
    assert all(re.fullmatch(r"[\w.-]+", name) for name in names)
    assert names[0] == "bsp_outdoor_w2_btask_c2.18_s0"
    assert re.fullmatch(r"bsp_outdoor_w2_btask_c2-8\.1-[0-9a-f]{8}_s0", names[3])
    assert [cell.devices for cell in cells] == ["2.18", "2.18~0.2", "2.18/0.2", "2/8.1", "2~0.1/8.1", str(recording)]
    # Who writes a number otherwise, or comes from another folder, means the same runs.
    assert plan_cells(replace(SMALL, devices=("2.00 / 8.10",))) == plan_cells(replace(SMALL, devices=("2/8.1",)))


def test_a_count_of_seeds_and_a_list_of_them() -> None:
    assert replace(SMALL, seeds=3).seed_list == (0, 1, 2)
    assert replace(SMALL, seeds=(3,)).seed_list == (3,)


def test_a_file_and_options_make_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "compare.toml"
    path.write_text('[compare]\npolicies = ["bsp", "rog:4"]\nworkers = [2, 4]\nhours = 2\nseeds = [1, 5]\n')
    got = load_tables({"compare": Comparison}, path, overrides=["seeds=3", "batch=[8]", "devices=['1']"])["compare"]
    assert got == Comparison(policies=("bsp", "rog:4"), workers=(2, 4), hours=2.0, seeds=3, batch=(8,), devices=("1",))
    assert got.power == PowerStates()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("polices = ['bsp']", "unknown setting 'polices'; did you mean 'policies'"),
        ("policies = 'bsp'", "Comparison.policies: expected a list of texts, got 'bsp'"),
        ("policies = [4]", "expected a text, got 4"),
        ("workers = [0]", "workers: expected a number in 1"),
        ("workers = []", "workers: expected at least one"),
        ("seeds = 0", "seeds: expected at least one"),
        ("seeds = 20221001", "expected at most 1000 of them, got 20221001; is it a seed? [20221001]"),
        ("seeds = [1, 1]", "seeds: 1, 1 names one twice"),
        ("seeds = 'all'", "expected a whole number or a list of whole numbers in 0 .. 4294967295, got 'all'"),
        ("devices = [2.18]", "Comparison.devices: expected a text, got 2.18"),
        ("devices = []", "devices: expected at least one"),
        ("encode_s = -1", "encode_s: expected a number in 0"),
        ("hours = -1", "hours: expected a number in"),
        ("driver = 'virtuel'", "unknown driver 'virtuel'; did you mean 'virtual'"),
        ("channel = 'airtimes'", "unknown channel 'airtimes'; did you mean 'airtime'"),
        ("stall_w = 20.0", "are the two exchanged"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "compare.toml"
    path.write_text(f"[compare]\n{text}\n")
    with pytest.raises(ConfigError, match=re.escape(says)):
        load_tables({"compare": Comparison}, path)


def test_a_table_with_a_wrong_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "compare.toml"
    path.write_text("[comparison]\nhours = 1\n")
    with pytest.raises(ConfigError, match=r"unknown table \[comparison\]; did you mean 'compare'"):
        load_tables({"compare": Comparison}, path)


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"policies": ("bsp", "roug:4")}, ConfigError, "unknown policy 'roug:4'; did you mean 'rog:4'"),
        ({"links": ("outdor",)}, ConfigError, "unknown link 'outdor': did you mean 'outdoor'"),
        ({"links": ("nowhere.csv",)}, TraceError, "nowhere.csv"),
        ({"devices": ("2.18", "fast")}, ConfigError, "devices: expected 2.18 (seconds), 2.18~0.2 (drawn)"),
        ({"devices": ("2/8/8",)}, ConfigError, "devices 2/8/8: has 3 devices, expected 2, one for each robot"),
        ({"devices": ("2/8",), "workers": (2, 4)}, ConfigError, "devices 2/8: has 2 devices, expected 4, one for each"),
        ({"devices": ("2", "3", "2.0")}, ConfigError, "devices: 2 and 2.0 are the same"),
        ({"devices": ("nowhere.csv",)}, DataError, "nowhere.csv: cannot be read: No such file"),
        ({"task_options": ("lrr=1",)}, ConfigError, "unknown setting 'lrr'; did you mean 'lr'"),
        ({"task": "crudas"}, ConfigError, "unknown task 'crudas'; did you mean 'cruda'"),
        ({"task": "cruda-digit"}, ConfigError, "did you mean 'cruda-digits'"),
        ({"task": "cruda-fashion-mnist"}, DataError, "no data folder given; name the folder that holds train-images"),
        ({"task": "cruda-cifar10", "data": "nowhere"}, DataError, "nowhere is not a folder; expected a folder that"),
    ],
)
def test_what_the_plan_refuses(change: dict[str, Any], kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=re.escape(says)):
        plan_cells(replace(SMALL, **change))


def test_a_data_folder_that_lacks_files_is_told_which(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        plan_cells(replace(SMALL, task="cruda", data=str(tmp_path)))
    for name in ("train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "cifar10_train_jpeg.npz"):
        assert name in str(caught.value)
    assert "lacks train-labels-idx1-ubyte.gz" in str(caught.value)


# -- running -----------------------------------------------------------------------------------------------------------


def ran(out: Path) -> list[str]:
    """Names of the cells that were begun, in order."""
    path = out / LOG
    return path.read_text().splitlines() if path.exists() else []


def names(settings: Comparison = SMALL) -> list[str]:
    return [cell.name for cell in plan_cells(settings)]


def fault(out: Path, cell: str, how: str) -> None:
    out.mkdir(exist_ok=True)
    (out / FAULT).write_text(json.dumps({"cell": cell, "how": how}))


def done(out: Path) -> list[str]:
    return sorted(path.parent.name for path in out.glob("cells/*/done.json"))


def test_finished_runs_are_not_repeated(tmp_path: Path) -> None:
    seen: list[ComparisonProgress] = []
    cells = run_comparison(SMALL, tmp_path, jobs=0, run=run_stub, progress=seen.append)
    assert [cell.name for cell in cells] == ran(tmp_path) == names()
    assert (seen[0].finished, seen[0].total, seen[0].left_s) == (0, 4, None)
    assert (seen[-1].finished, seen[-1].total, seen[-1].left_s, seen[-1].running) == (4, 4, 0.0, ())
    record = json.loads((tmp_path / "cells" / cells[0].name / "done.json").read_text())
    assert record["cell"] == cells[0].written()
    assert {"rowcast", "python", "torch", "numpy"} <= record["versions"].keys()

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*/*")}
    seen.clear()
    assert run_comparison(SMALL, tmp_path, jobs=2, run=run_stub, progress=seen.append) == cells
    assert ran(tmp_path) == names()
    assert [(each.finished, each.left_s) for each in seen] == [(4, 0.0)]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*/*")} == before

    more = replace(SMALL, seeds=3)
    run_comparison(more, tmp_path, jobs=0, run=run_stub)
    assert ran(tmp_path) == names(more)


@pytest.mark.parametrize("how", ["interrupt", "refuse", "bug"])
def test_after_an_end_halfway_only_what_was_running_runs_again(tmp_path: Path, how: str) -> None:
    third = names()[2]
    fault(tmp_path, third, how)
    with pytest.raises((KeyboardInterrupt, WorkerFailed, ZeroDivisionError)):
        run_comparison(SMALL, tmp_path, jobs=0, run=run_stub)
    assert done(tmp_path) == sorted(names()[:2])
    (unfinished,) = (tmp_path / "running").glob(f"{third}~*")
    assert (unfinished / "robot-0.jsonl").read_text()  # for who looks for the cause
    leftover = tmp_path / "cells" / third / "robot-9.jsonl"  # where older versions left it
    leftover.parent.mkdir()
    (leftover.parent / "cell.json").write_text("{}")
    leftover.write_text("from the run before\n")
    (tmp_path / FAULT).unlink()
    run_comparison(SMALL, tmp_path, jobs=0, run=run_stub)
    assert ran(tmp_path) == [*names()[:3], *names()[2:]]
    assert done(tmp_path) == sorted(names())
    assert not leftover.exists()
    assert list((tmp_path / "running").iterdir()) == []


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    run_comparison(SMALL, tmp_path, jobs=0, run=run_stub)
    with pytest.raises(ConfigError, match=r"with other settings \(hours = 0.05, now 0.1\); choose another folder"):
        run_comparison(replace(SMALL, hours=0.1), tmp_path, jobs=0, run=run_stub)
    assert ran(tmp_path) == names()
    # What a robot draws is applied by the report.
    run_comparison(replace(SMALL, stall_w=1.0), tmp_path, jobs=0, run=run_stub)
    assert ran(tmp_path) == names()


def test_options_of_the_task_tell_folders_apart(tmp_path: Path) -> None:
    one = replace(SMALL, policies=("bsp",), seeds=1)
    run_comparison(replace(one, task_options=("alpha=1000", "lr=0.1")), tmp_path, jobs=0, run=run_stub)
    says = re.escape("with other settings (task_options = 'alpha=1000.0; lr=0.1', now '')")
    with pytest.raises(ConfigError, match=says):
        run_comparison(one, tmp_path, jobs=0, run=run_stub)
    run_comparison(replace(one, task_options=("lr=0.10", "alpha=1e3")), tmp_path, jobs=0, run=run_stub)
    assert len(ran(tmp_path)) == 1
    recorded = json.loads((tmp_path / "compare.json").read_text())["settings"]  # what the page shows
    assert recorded["task_options"] == ["lr=0.10", "alpha=1e3"]


def test_a_folder_of_traces_that_is_too_small_names_the_remedy(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.csv").write_text("time_s,mbps\n0,10\n50,\n")
    four = replace(SMALL, links=(str(tmp_path),), workers=(4,))
    with pytest.raises(ConfigError, match=r"each of 4 robots, found 3; --links-reuse .* or take --workers 3"):
        plan_cells(four)
    assert plan_cells(replace(four, links_reuse=True))[0].links_reuse
    plan_cells(replace(four, workers=(3,)))


def test_runs_of_a_version_with_other_settings_are_refused(tmp_path: Path) -> None:
    """Also where none of them is wanted again: the report would draw them beside the new ones."""
    (tmp_path / "cells" / "bsp_outdoor_w2_btask_c1.5_s0").mkdir(parents=True)
    done = tmp_path / "cells" / "bsp_outdoor_w2_btask_c1.5_s0" / "done.json"
    settings = plan_cells(SMALL)[0].written()
    del settings["devices"], settings["encode_s"]
    done.write_text(json.dumps({"cell": {**settings, "compute_s": 1.5}}))
    with pytest.raises(ConfigError, match=r"c1\.5_s0: was run by another version .* no devices, no encode_s,"):
        run_comparison(SMALL, tmp_path, jobs=0, run=run_stub)
    assert ran(tmp_path) == []
    with pytest.raises(ConfigError, match=r"done\.json: not what this 'rowcast compare' writes \(.*devices"):
        write_report(tmp_path)


def test_what_is_not_ours_is_not_thrown_away(tmp_path: Path) -> None:
    place = tmp_path / "cells" / names()[0]
    place.mkdir(parents=True)
    (place / "thesis.tex").write_text("years")
    with pytest.raises(ConfigError, match="holds files that no comparison wrote"):
        run_comparison(SMALL, tmp_path, jobs=0, run=run_stub)
    assert (place / "thesis.tex").read_text() == "years"


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    run_comparison(replace(SMALL, policies=("bsp",), seeds=1), tmp_path, jobs=0, run=run_stub)
    (tmp_path / "cells" / names()[0] / "done.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"done\.json: cannot be read .*; delete .* to run this cell again"):
        run_comparison(SMALL, tmp_path, jobs=0, run=run_stub)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with claimed_folder(tmp_path), pytest.raises(ConfigError, match="another comparison runs in this folder"):
        run_comparison(SMALL, tmp_path, jobs=0, run=run_stub)
    with pytest.raises(ConfigError, match="cannot be used"):
        run_comparison(SMALL, Path("/proc/nowhere"), jobs=0, run=run_stub)
    with pytest.raises(ConfigError, match="jobs: expected 0 or more"):
        run_comparison(SMALL, tmp_path, jobs=-1, run=run_stub)


def test_the_time_left_follows_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds to start, then one second for each 36 virtual ones; 4 runs of 180."""
    seen: list[float | None] = []
    clock = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    cells = plan_cells(SMALL)
    tracker = ProgressTracker(4, 0, cells, lambda progress: seen.append(progress.left_s))
    tracker.began(cells[0])
    for at, done_s in ((10.0, 36.0), (11.0, 72.0), (13.0, 144.0)):
        clock[0] = at
        tracker.telling(cells[0])(done_s)
    clock[0] = 14.0
    tracker.ended(cells[0])
    assert seen == [None, None, pytest.approx(18.0), pytest.approx(16.0), pytest.approx(15.0)]


# -- processes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def quiet_children() -> Iterator[None]:
    """No process is left by a test."""
    yield
    children = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children").read_text().split()
    commands = [Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode() for child in children]
    assert not [command for command in commands if "spawn_main" in command]


@pytest.mark.system
@pytest.mark.usefixtures("quiet_children")
def test_a_process_that_is_killed_fails_the_comparison_and_keeps_the_rest(tmp_path: Path) -> None:
    """The cells before it ran in the same process; the next call does the rest."""
    last = names()[-1]
    fault(tmp_path, last, "killed")
    with pytest.raises(WorkerFailed, match=rf"{last}: its process ended with code -9 before the cell was finished"):
        run_comparison(SMALL, tmp_path, jobs=1, run=run_stub)
    assert done(tmp_path) == sorted(names()[:-1])


@pytest.mark.system
@pytest.mark.usefixtures("quiet_children")
def test_ctrl_c_ends_the_processes_and_leaves_what_is_finished(tmp_path: Path) -> None:
    third = names()[2]
    fault(tmp_path, third, "hang")
    children: list[int] = []

    def interrupts(_: ComparisonProgress) -> None:
        hangs = tmp_path / "hangs"
        if hangs.exists() and hangs.read_text() and not children:
            children.append(int(hangs.read_text()))
            # As a terminal does: the whole group hears it, and the child is not to care.
            os.kill(children[0], signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_comparison(SMALL, tmp_path, jobs=1, run=run_stub, progress=interrupts)
    assert not Path(f"/proc/{children[0]}").exists()
    assert done(tmp_path) == sorted(names()[:2])


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def rowcast(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[Any, str, str]]]:
    """Runs the command in this process, with the stub in place of the driver."""
    log = logging.getLogger("rowcast")
    before = (list(log.handlers), log.level, log.propagate, signal.getsignal(signal.SIGTERM))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setitem(run_comparison.__kwdefaults__, "run", run_stub)

    def run(*words: object) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return end.value.code, out, err

    yield run
    log.handlers, log.level, log.propagate = before[:3]
    signal.signal(signal.SIGTERM, before[3])


WORDS = ("--policies=bsp,rog:4", "--workers=2", "--hours=0.05", "--jobs=0")


def test_the_command_from_start_to_report(rowcast: Callable[..., tuple[Any, str, str]], tmp_path: Path) -> None:
    config = tmp_path / "compare.toml"
    config.write_text('[compare]\npolicies = ["asp"]\nseeds = 2\n')
    out = tmp_path / "out"
    fault(out, names()[2], "interrupt")
    words = ("compare", "--config", config, *WORDS, "--out", out)
    code, printed, err = rowcast(*words)
    assert (code, err) == (ExitCode.INTERRUPTED, "rowcast: interrupted\n")
    assert "2 of 4 runs finished" in printed
    assert "the same command goes on" in " ".join(printed.split())
    (out / FAULT).unlink()
    code, printed, err = rowcast(*words)
    assert (code, err) == (0, "")
    assert "4 of 4 runs finished" in printed
    assert ran(out) == [*names()[:3], *names()[2:]]
    page = out / "report" / "report.html"
    assert page.is_file() and len((out / "results.jsonl").read_text().splitlines()) == 4
    page.unlink()
    assert rowcast("report", out) == (0, f"the report is {page}\n", "")
    assert page.is_file()


def test_settings_of_the_task_come_from_options_and_from_a_table(
    rowcast: Callable[..., tuple[Any, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROWCAST_CACHE", "off")
    config = tmp_path / "compare.toml"
    config.write_text("[compare]\nseeds = 1\n[task]\nalpha = 1000\nlr = 0.3\n")
    for letter in "abc":
        (tmp_path / f"{letter}.csv").write_text("time_s,mbps\n0,10\n50,\n")
    words = ("compare", "--config", config, "--policies=bsp", "--hours=0.05", "--jobs=0", "--set", "lr=0.1")
    more = ("--set", "optimizer=adamw", "--links", tmp_path, "--links-reuse", "--cache", tmp_path / "cache")
    assert rowcast(*words, *more, "--out", tmp_path / "out")[0] == 0
    assert os.environ["ROWCAST_CACHE"] == str(tmp_path / "cache")
    (done,) = (tmp_path / "out").glob("cells/*/done.json")
    cell = json.loads(done.read_text())["cell"]
    assert cell["task_options"] == 'alpha=1000.0; lr=0.1; optimizer="adamw"'
    assert cell["links_reuse"] is True and cell["workers"] == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("compare", "--policies=bsp,rogue:4"), "unknown policy 'rogue:4'; did you mean 'rog:4'"),
        (("compare", "--driver=virtul"), "unknown driver 'virtul'; did you mean 'virtual'"),
        (("compare", "--workers=many"), "--workers: expected a whole number in 1 .. 1000 workers, got 'many'"),
        (("compare", "--workers=2.5"), "--workers: expected a whole number in 1 .. 1000 workers, got 2.5"),
        (("compare", "--seeds=-1"), "seeds: expected a number in 0"),
        (("compare", "--workers=4", "--devices=2,2/6"), "devices 2/6: has 2 devices, expected 4"),
        (("compare", "--set=lrr=1"), "unknown setting 'lrr'; did you mean 'lr'"),
        (("compare", "--set=optimizer=adamx"), "unknown optimizer 'adamx'; did you mean 'adam"),
        (("compare", "--set=hour=1"), "unknown setting 'hour'; did you mean 'hours'"),
        (("compare", "--links=outdor"), "unknown link 'outdor'"),
        (("compare", "--config=/nowhere/a.toml"), "/nowhere/a.toml: cannot be read"),
        (("compare", "--jobs=-1"), "jobs: expected 0 or more"),
        (("report", "/nowhere"), "/nowhere: is not a folder"),
    ],
    ids=" ".join,
)
def test_wrong_usage(
    rowcast: Callable[..., tuple[Any, str, str]], tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    code, _, err = rowcast(*words, *(("--out", tmp_path / "out") if words[0] == "compare" else ()))
    assert code == ExitCode.USAGE
    assert err.startswith("rowcast: ") and says in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", ["compare", "report"])
def test_help(rowcast: Callable[..., tuple[Any, str, str]], words: str) -> None:
    code, out, err = rowcast(words, "--help")
    assert (code, err) == (0, "")
    assert "Usage" in out


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_says_how_much_time_is_left() -> None:
    cells = plan_cells(SMALL)
    running = ((cells[2], 45.0), (cells[3], 90.0))
    progress = ComparisonProgress(total=4, finished=2, running=running, passed_s=60.0, left_s=7500.0)
    assert headline(progress) == "2 of 4 runs finished, 2 under way, about 2 h 05 min left"
    assert [duration(s) for s in (0.4, 99.4, 99.5, 5969, 6000)] == ["0 s", "99 s", "2 min", "99 min", "1 h 40 min"]
    screen = Console(file=Screen(), force_terminal=True, width=100)
    with ComparisonDisplay(screen) as display:
        display.shows(progress)
    assert isinstance(screen.file, io.StringIO)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.file.getvalue())
    assert "about 2 h 05 min left" in shown and " 25 %" in shown and " 50 %" in shown


@pytest.mark.parametrize("colours", [False, True])
def test_in_a_file_progress_is_a_line_a_minute_and_one_for_each_finished_run(
    colours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten minutes, told four times a second; two runs end. FORCE_COLOR makes no terminal of a file."""
    now = 1000.0
    monkeypatch.setattr("rowcast.cli.display.time.monotonic", lambda: now)
    cells = plan_cells(SMALL)
    file = io.StringIO()
    with ComparisonDisplay(Console(file=file, force_terminal=colours or None, width=100)) as display:
        for tick in range(2400):
            finished = (tick >= 100) + (tick >= 1000)
            display.shows(ComparisonProgress(4, finished, ((cells[2], tick / 4),), tick / 4, 600.0))
            now += 0.25
    lines = file.getvalue().splitlines()
    assert len(lines) == 1 + 4 + 6  # at 0 s; at 25 s and each minute from there; at 250 s and each minute from there
    assert [line[:24] for line in lines].count("1 of 4 runs finished, 1 ") == 4


def test_the_training_of_starting_models_is_seen() -> None:
    cells = plan_cells(SMALL)
    tracker = ProgressTracker(4, 0, cells, lambda progress: seen.append(progress))
    seen: list[ComparisonProgress] = []
    for cell in cells[:2]:
        tracker.began(cell)
        tracker.telling(cell)(Preparing(0.4))
    tracker.tell()
    assert headline(seen[-1]) == "0 of 4 runs finished, 2 under way, starting models trained: 40 %, 40 %"
    screen = Console(file=Screen(), force_terminal=True, width=100)
    with ComparisonDisplay(screen) as display:
        display.shows(seen[-1])
    assert isinstance(screen.file, io.StringIO)
    assert "40 % of its starting model" in screen.file.getvalue()
    tracker.telling(cells[0])(1.0)
    tracker.ended(cells[1])
    assert seen[-1].preparing == ()
