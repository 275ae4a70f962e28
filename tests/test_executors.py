"""Where cells run: here, in processes, one by its key, on Ray; the files are the same, nothing is lost or doubled."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fake_ray import FakeRay
from rowcast.cli import ExitCode, main
from rowcast.drivers.claim import claimed
from rowcast.errors import ConfigError, WorkerFailed
from rowcast.experiment import (
    Comparison,
    ComparisonProgress,
    pending_cells,
    plan_cells,
    ray_cluster,
    run_comparison,
    run_some_cells,
)
from rowcast.experiment import folder as folder_module
from rowcast.experiment.executors import InThisProcess, executor_for
from rowcast.experiment.folder import put_in_place, scratch_folder
from rowcast.experiment.pool import Processes
from rowcast.experiment.preparing import Preparing
from rowcast.experiment.ray_cluster import RETRIES, RayCluster
from rowcast.report import read_experiment
from stub_cells import LOG, run_stub

SMALL = Comparison(policies=("bsp", "rog:4"), workers=(2,), hours=0.05, seeds=2)
#: Trains for real, for a second.
REAL = Comparison(
    task=f"{Path(__file__).parents[1] / 'examples' / 'diabetes_task.py'}:Diabetes",
    policies=("bsp", "rowcast"),
    seeds=1,
    hours=60 / 3600,
    eval_every_s=10.0,
    workers=(2,),
    batch=(16,),
)
NAMES = [cell.name for cell in plan_cells(SMALL)]

has_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='Ray is not installed: pip install "rowcast[ray]"'
)


def contents(out: Path) -> dict[str, bytes | dict[str, Any]]:
    """Every file of the finished cells, but how long a cell took."""
    found: dict[str, bytes | dict[str, Any]] = {}
    for path in sorted(out.glob("cells/**/*")):
        name = str(path.relative_to(out))
        if path.name == "done.json":
            record = json.loads(path.read_text())
            assert record.pop("real_s") >= 0
            found[name] = record
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def ran(out: Path) -> list[str]:
    path = out / LOG
    return path.read_text().splitlines() if path.exists() else []


def done(out: Path) -> list[str]:
    return sorted(path.parent.name for path in out.glob("cells/*/done.json"))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRay:
    """The fake in place of Ray."""
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)  # type: ignore[misc]
    monkeypatch.setitem(sys.modules, "ray.exceptions", fake.exceptions)  # type: ignore[misc]
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(ray_cluster, "take_one_thread", lambda: None)
    return fake


# -- the same files ----------------------------------------------------------------------------------------------------


@pytest.mark.system
@pytest.mark.usefixtures("no_cache")
def test_the_files_of_a_cell_are_the_same_wherever_it_ran(tmp_path: Path, ray: FakeRay) -> None:
    run_comparison(REAL, tmp_path / "pool", jobs=1)
    expected = contents(tmp_path / "pool")
    assert len([name for name in expected if name.endswith("robot-1.jsonl")]) == 2
    for key in [cell.name for cell in plan_cells(REAL)]:
        assert [cell.name for cell in run_some_cells(REAL, tmp_path / "cell", [key], jobs=0)] == [key]
    assert not (tmp_path / "cell" / "compare.json").exists()  # that is of who runs all
    run_comparison(REAL, tmp_path / "ray", on="ray")
    assert contents(tmp_path / "cell") == contents(tmp_path / "ray") == expected
    assert ray.started and ray.shutdowns == 1


# -- keys --------------------------------------------------------------------------------------------------------------


def test_keys_are_those_of_the_cells_that_are_not_finished(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert [cell.name for cell in pending_cells(SMALL, out)] == NAMES
    assert not out.exists()
    assert [cell.name for cell in run_some_cells(SMALL, out, [NAMES[2]], jobs=0, run=run_stub)] == [NAMES[2]]
    assert [cell.name for cell in pending_cells(SMALL, out)] == [NAMES[0], NAMES[1], NAMES[3]]
    with pytest.raises(ConfigError, match="with other settings"):
        pending_cells(replace(SMALL, hours=0.1), out)


def test_cells_by_key_run_once_and_all_of_them_are_found_afterwards(tmp_path: Path) -> None:
    seen: list[ComparisonProgress] = []
    keys = [NAMES[3], NAMES[1], NAMES[3]]
    cells = run_some_cells(SMALL, tmp_path, keys, jobs=0, run=run_stub, progress=seen.append)
    assert [cell.name for cell in cells] == ran(tmp_path) == [NAMES[3], NAMES[1]]
    assert (seen[0].finished, seen[0].total, seen[-1].finished) == (0, 2, 2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*/*")}
    run_some_cells(SMALL, tmp_path, keys, jobs=0, run=run_stub)
    run_comparison(SMALL, tmp_path, jobs=0, run=run_stub)
    assert ran(tmp_path) == [NAMES[3], NAMES[1], NAMES[0], NAMES[2]]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(read_experiment(tmp_path).runs) == 4


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("bsp_outdoor_w2_btask_c2.18_s7", r"did you mean 'bsp_outdoor_w2_btask_c2.18_s[01]' or "),
        ("!", "none is near"),
    ],
)
def test_an_unknown_key_is_refused_before_anything_runs(tmp_path: Path, key: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"cell: expected a key that --list-cells prints .* got '{key}'; {says}"):
        run_some_cells(SMALL, tmp_path / "out", [NAMES[0], key], jobs=0, run=run_stub)
    assert not (tmp_path / "out").exists()


def test_nobody_holds_the_folder_while_cells_run_by_key(tmp_path: Path) -> None:
    """Two run one cell at the same time: both come to an end, the first one counts, and nobody's files are changed."""
    first_ran, second_done = threading.Event(), threading.Event()
    slow: list[str] = []

    def outer(cell: Any, folder: Path, progress: Any) -> None:
        run_stub(cell, folder, progress)
        slow.append(folder.name)
        first_ran.set()
        assert second_done.wait(60)

    thread = threading.Thread(
        target=lambda: run_some_cells(SMALL, tmp_path, [NAMES[0]], jobs=0, run=outer), name="slower"
    )
    thread.start()
    try:
        assert first_ran.wait(60)
        assert done(tmp_path) == []
        run_some_cells(SMALL, tmp_path, NAMES[:2], jobs=0, run=run_stub)
        assert (tmp_path / "running" / slow[0]).is_dir()  # is not cleared: its process lives
        record = (tmp_path / "cells" / NAMES[0] / "done.json").stat().st_mtime_ns
    finally:
        second_done.set()
        thread.join(60)
    assert done(tmp_path) == sorted(NAMES[:2])
    assert (tmp_path / "cells" / NAMES[0] / "done.json").stat().st_mtime_ns == record
    assert list((tmp_path / "running").iterdir()) == []
    with claimed(tmp_path / ".lock", "somebody holds it"):
        run_some_cells(SMALL, tmp_path, NAMES[2:], jobs=0, run=run_stub)


def test_what_a_dead_process_left_is_cleared_on_its_machine_only(tmp_path: Path) -> None:
    place = tmp_path / "running"
    with scratch_folder(tmp_path / "cells" / "mine") as mine:
        ours = place / mine.name.replace("mine", "dead")
        other = place / "dead~another.machine~0123abcd"
        for folder in (ours, other):
            folder.mkdir()
            (folder / "robot-0.jsonl").write_text("half\n")
        folder_module.clear_abandoned(tmp_path)
        assert (mine.exists(), ours.exists(), other.exists()) == (True, False, True)


def test_a_finished_cell_is_never_replaced_and_an_unfinished_one_is(tmp_path: Path) -> None:
    folder = tmp_path / "cells" / "a"
    for k in range(3):
        made = tmp_path / "running" / f"a{k}"
        made.mkdir(parents=True)
        (made / "done.json").write_text(str(k))
        if k == 0:  # as an older version leaves one
            folder.mkdir(parents=True)
            (folder / "half.jsonl").write_text("half\n")
        put_in_place(made, folder)
        assert [path.name for path in folder.iterdir()] == ["done.json"]
        assert (folder / "done.json").read_text() == "0"
        assert list((tmp_path / "running").iterdir()) == []


def test_a_finished_folder_makes_the_place_that_it_goes_to(tmp_path: Path) -> None:
    (made := tmp_path / "running" / "a").mkdir(parents=True)
    put_in_place(made, tmp_path / "cells" / "a")
    assert (tmp_path / "cells" / "a").is_dir()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ConfigError, match=r"out .*: cannot be used"):
        run_some_cells(SMALL, tmp_path / "out", NAMES[:1], jobs=0, run=run_stub)
    (tmp_path / "running").write_text("a file")
    with pytest.raises(ConfigError, match=f"{NAMES[0]}: cannot be used"):
        run_some_cells(SMALL, tmp_path, NAMES[:1], jobs=0, run=run_stub)


# -- places ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on", "jobs", "says"),
    [
        ("rai", None, "on: expected local, ray or ray:ADDRESS, got 'rai'; did you mean 'ray'"),
        ("ray:", None, "ray:auto or ray:10.0.0.1:6379.*got 'ray:'"),
        ("local:4", None, "got 'local:4'"),
        ("ray", 0, "jobs: expected 1 or more on ray, got 0"),
        ("local", -1, "jobs: expected 0 or more, got -1"),
    ],
)
def test_places_that_are_refused(on: str, jobs: int | None, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        executor_for(on, jobs)


def test_places(ray: FakeRay) -> None:
    kinds = [type(executor_for(on, jobs)) for on, jobs in (("local", 0), ("local", None), ("ray", 2))]
    assert kinds == [InThisProcess, Processes, RayCluster]
    assert ray.started == []  # with the first cells


def test_without_ray_one_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # type: ignore[misc]
    with pytest.raises(ConfigError, match=r'on ray: expected Ray, .*pip install "rowcast\[ray\]"'):
        run_comparison(SMALL, tmp_path / "out", on="ray", run=run_stub)
    assert not (tmp_path / "out").exists()


# -- Ray, by a stand-in ------------------------------------------------------------------------------------------------


def run_quietly(cell: Any, folder: Path, progress: Any) -> None:
    """The stub with what it says of a starting model."""
    progress(Preparing(0.5))
    run_stub(cell, folder, progress)
    (folder / "shown").mkdir()
    (folder / "shown" / "map.bin").write_bytes(bytes(range(256)))
    (folder / "cache.txt").write_text(os.environ.get("ROWCAST_CACHE", ""))


def test_on_ray_each_cell_is_a_task_of_one_processor(tmp_path: Path, ray: FakeRay, monkeypatch: Any) -> None:
    monkeypatch.setenv("ROWCAST_CACHE", "off")
    seen: list[ComparisonProgress] = []
    run_comparison(SMALL, tmp_path, on="ray", jobs=2, run=run_quietly, progress=seen.append)
    assert done(tmp_path) == sorted(NAMES)
    assert ran(tmp_path) == []  # the cells ran elsewhere
    assert list((tmp_path / "running").iterdir()) == []
    for name in NAMES:
        assert (tmp_path / "cells" / name / "shown" / "map.bin").read_bytes() == bytes(range(256))
        assert (tmp_path / "cells" / name / "cache.txt").read_text() == "off"
    (started,) = ray.started
    assert (started["address"], started["num_cpus"], started["include_dashboard"]) == ("local", 2, False)
    assert (os.environ["RAY_USAGE_STATS_ENABLED"], ray.most_waiting) == ("0", 2)
    assert ray.options["run_there"] == {"num_cpus": 1, "max_retries": RETRIES}
    assert (ray.shutdowns, len(ray.killed)) == (1, 1)
    assert (seen[0].finished, seen[-1].finished, seen[-1].running, seen[-1].left_s) == (0, 4, (), 0.0)
    run_comparison(SMALL, tmp_path, on="ray", run=run_quietly)
    assert len(ray.started) == 1  # nothing to run: no cluster


def test_cells_on_ray_may_be_named_and_executors_are_used_again(tmp_path: Path, ray: FakeRay) -> None:
    with executor_for("ray", 3) as executor:
        run_some_cells(SMALL, tmp_path, NAMES[1:2], on=executor, run=run_stub)
        assert (done(tmp_path), ray.shutdowns) == ([NAMES[1]], 0)
        run_comparison(SMALL, tmp_path, on=executor, run=run_stub)
    executor.close()
    assert (len(ray.started), ray.shutdowns, sorted(ray.tries)) == (1, 1, sorted(NAMES))
    assert set(ray.tries.values()) == {1}


def test_a_cluster_that_this_process_has_joined_is_used_and_left_alone(tmp_path: Path, ray: FakeRay) -> None:
    ray.init(address="mine")
    run_comparison(SMALL, tmp_path, on="ray", run=run_stub)
    assert (done(tmp_path), ray.started, ray.shutdowns) == (sorted(NAMES), [{"address": "mine"}], 0)


def test_a_cell_whose_node_dies_runs_again_so_many_times(tmp_path: Path, ray: FakeRay) -> None:
    ray.deaths = {NAMES[1]: RETRIES}
    run_comparison(SMALL, tmp_path, on="ray", run=run_stub)
    assert ray.tries[NAMES[1]] == 1 + RETRIES
    assert done(tmp_path) == sorted(NAMES)


def test_a_cell_whose_node_dies_once_too_often_fails_and_the_rest_is_kept(tmp_path: Path, ray: FakeRay) -> None:
    ray.deaths = {NAMES[1]: RETRIES + 1}
    with pytest.raises(
        WorkerFailed, match=rf"{NAMES[1]}: its task on Ray ended .*\(3 times at most\): the worker died"
    ):
        run_comparison(SMALL, tmp_path, on="ray", jobs=1, run=run_stub)
    assert done(tmp_path) == [NAMES[0]]
    ray.deaths = {}
    run_comparison(SMALL, tmp_path, on="ray", jobs=1, run=run_stub)
    assert (ray.tries[NAMES[0]], done(tmp_path)) == (1, sorted(NAMES))


def run_badly(cell: Any, folder: Path, progress: Any) -> None:
    """Fails in the second cell, for the reason that its policy stands for."""
    if cell.name == NAMES[1]:
        raise ConfigError("no such file") if os.environ["TEST_FAILS"] == "config" else ZeroDivisionError("bug")
    run_stub(cell, folder, progress)


@pytest.mark.parametrize(
    ("how", "kind", "says"),
    [
        ("config", ConfigError, "no such file; this was on node .*, where files of tasks, data and traces have to be"),
        ("bug", WorkerFailed, rf"{NAMES[1]}: Traceback .*ZeroDivisionError: bug"),
    ],
)
def test_a_cell_that_fails_on_ray_cancels_the_others(
    tmp_path: Path, ray: FakeRay, monkeypatch: pytest.MonkeyPatch, how: str, kind: type[Exception], says: str
) -> None:
    monkeypatch.setenv("TEST_FAILS", how)
    with pytest.raises(kind, match=f"(?s){says}"):
        run_comparison(SMALL, tmp_path, on="ray", run=run_badly)
    assert done(tmp_path) == [NAMES[0]]
    assert (len(ray.cancelled), len(ray.killed), ray.shutdowns) == (2, 1, 1)
    assert ray.tries[NAMES[1]] == 1  # an error of its own is no reason to run it again


def test_ctrl_c_cancels_what_runs_on_ray(tmp_path: Path, ray: FakeRay) -> None:
    ray.interrupt_after = 1
    with pytest.raises(KeyboardInterrupt):
        run_comparison(SMALL, tmp_path, on="ray", run=run_stub)
    assert done(tmp_path) == [NAMES[0]]
    assert (len(ray.cancelled), ray.shutdowns) == (3, 1)


def test_a_node_with_other_versions_is_refused(tmp_path: Path, ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = [{"python": "3.11.7", "torch": "2.13"}, {"python": "3.11.9", "torch": "2.4"}]
    monkeypatch.setattr(ray_cluster, "versions", lambda: versions[len(ray.tries) > 0])
    with pytest.raises(ConfigError, match=r"expected the versions of this machine, found torch 2\.4 \(here 2\.13\)"):
        run_comparison(SMALL, tmp_path, on="ray", run=run_stub)
    assert done(tmp_path) == []


@pytest.fixture
def listener() -> Iterator[str]:
    """Somebody listens at this address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_a_cluster_that_is_there_is_joined_with_all_cells_at_once(tmp_path: Path, ray: FakeRay, listener: str) -> None:
    run_comparison(SMALL, tmp_path, on=f"ray:{listener}", run=run_stub)
    (started,) = ray.started
    assert started["address"] == listener and "num_cpus" not in started
    assert (ray.most_waiting, done(tmp_path), ray.shutdowns) == (4, sorted(NAMES), 1)


def test_an_address_where_nobody_is_says_so(tmp_path: Path, ray: FakeRay, listener: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    for address in (f"127.0.0.1:{port}", "nonsense", "ray://host:10001", "127.0.0.1:99999"):
        with pytest.raises(ConfigError, match=f"on ray:{address}: expected the head of a Ray cluster there.*ray start"):
            run_comparison(SMALL, tmp_path, on=f"ray:{address}", run=run_stub)
    assert ray.started == []
    ray.refuses = ConnectionError("could not find any running Ray instance")
    with pytest.raises(ConfigError, match="could not find any running Ray instance; start one with 'ray start --head'"):
        run_comparison(SMALL, tmp_path, on="ray:auto", run=run_stub)
    assert done(tmp_path) == []


def test_files_that_are_not_ours_stay_also_when_the_cell_ran_elsewhere(tmp_path: Path, ray: FakeRay) -> None:
    place = tmp_path / "cells" / NAMES[0]
    place.mkdir(parents=True)
    (place / "thesis.tex").write_text("years")
    with pytest.raises(ConfigError, match="holds files that no comparison wrote"):
        run_comparison(SMALL, tmp_path, on="ray", run=run_stub)
    assert (place / "thesis.tex").read_text() == "years"


# -- Ray itself --------------------------------------------------------------------------------------------------------


def run_and_die_once(cell: Any, folder: Path, progress: Any) -> None:
    """The stub; the first process that runs the second cell is killed in the middle of it."""
    marks = Path(os.environ["TEST_MARKS"])
    with (marks / cell.name).open("a") as file:
        file.write(f"{os.getpid()}\n")
    progress(1.0)
    if cell.name == NAMES[1] and len((marks / cell.name).read_text().splitlines()) == 1:
        shutil.rmtree(folder.parents[1])  # nobody clears it behind a process that was killed
        os.kill(os.getpid(), signal.SIGKILL)
    run_stub(cell, folder, progress)


@pytest.mark.system
@has_ray
def test_on_ray_itself_a_killed_process_is_replaced_and_the_files_are_the_same(tmp_path: Path) -> None:
    """In a process of its own, as a cluster leaves threads behind."""
    marks = tmp_path / "marks"
    marks.mkdir()
    script = tmp_path / "driver.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nimport test_executors as t\n"
        "from rowcast.experiment import run_comparison\nfrom rowcast.experiment.executors import executor_for\n"
        "if __name__ == '__main__':\n    out = Path(sys.argv[1])\n    with executor_for('ray', 2) as ray:\n"
        "        run_comparison(t.SMALL, out / 'stub', on=ray, run=t.run_and_die_once)\n"
        "        run_comparison(t.REAL, out / 'real', on=ray)\n"
    )
    environment = {
        **os.environ,
        "TEST_MARKS": str(marks),
        "ROWCAST_CACHE": "off",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]),
    }
    ended = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], env=environment, timeout=150, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert done(tmp_path / "stub") == sorted(NAMES)
    assert {name: len((marks / name).read_text().splitlines()) for name in NAMES} == {
        name: 2 if name == NAMES[1] else 1 for name in NAMES
    }
    run_comparison(REAL, tmp_path / "here", jobs=0)
    assert contents(tmp_path / "here") == contents(tmp_path / "real")


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def rowcast(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., list[str]]]:
    """Runs the command in this process, with the stub; gives what it printed, on standard error where it failed."""
    log = logging.getLogger("rowcast")
    before = (list(log.handlers), log.level, log.propagate, signal.getsignal(signal.SIGTERM))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    for function in (run_comparison, run_some_cells):
        monkeypatch.setitem(function.__kwdefaults__, "run", run_stub)

    def run(*words: str, code: int = 0) -> list[str]:
        with pytest.raises(SystemExit) as end:
            main(["compare", "--policies=bsp,rog:4", "--workers=2", "--hours=0.05", "--seeds=2", *words])
        out, err = capsys.readouterr()
        assert (end.value.code, bool(err)) == (code, code != 0), err
        return (err if code else out).splitlines()

    yield run
    log.handlers, log.level, log.propagate = before[:3]
    signal.signal(signal.SIGTERM, before[3])


def test_keys_on_the_command_line(rowcast: Callable[..., list[str]], tmp_path: Path) -> None:
    """As a shell on a cluster has it: the list, some cells of it, and all of them."""
    words = ["--jobs=0", f"--out={tmp_path / 'out'}"]
    assert rowcast(*words, "--list-cells") == NAMES
    assert not (tmp_path / "out").exists()
    assert "2 runs are finished in" in rowcast(*words, "--cell", NAMES[1], "--cell", NAMES[3])[-1]
    assert not (tmp_path / "out" / "report").exists()
    assert rowcast(*words, "--list-cells") == [NAMES[0], NAMES[2]]
    (refused,) = rowcast(*words, "--cell", NAMES[0][:-1] + "5", code=ExitCode.USAGE)
    assert "did you mean" in refused and f"'{NAMES[0]}'" in refused
    (refused,) = rowcast(*words, "--list-cells", "--cell", NAMES[0], code=ExitCode.USAGE)
    assert "leave one of them away" in refused
    (refused,) = rowcast(*words, "--on=rai", code=ExitCode.USAGE)
    assert "on: expected local, ray or ray:ADDRESS" in refused
    assert "4 runs are finished; the report is" in rowcast(*words)[-1]
    assert ran(tmp_path / "out") == [NAMES[1], NAMES[3], NAMES[0], NAMES[2]]
    assert rowcast(*words, "--list-cells") == []


def test_ray_on_the_command_line(rowcast: Callable[..., list[str]], tmp_path: Path, ray: FakeRay) -> None:
    assert "4 runs are finished; the report is" in rowcast("--on=ray", "--jobs=3", f"--out={tmp_path}")[-1]
    assert (ray.started[0]["num_cpus"], done(tmp_path)) == (3, sorted(NAMES))
    assert (tmp_path / "report" / "report.html").is_file()
