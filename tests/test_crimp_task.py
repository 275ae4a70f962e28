"""The tasks of CRIMP: conformance, settings, what is refused, recorded frames, and robots in a team."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loops import run_team
from mapped import FEW, QUICK, Timed, made, stepped, view_of
from recorded import npz_arrays, write_npz
from rowcast.drivers.virtual import VirtualWorker
from rowcast.errors import ConfigError, DataError
from rowcast.exhibits import load_exhibits
from rowcast.experiment import Comparison, run_comparison
from rowcast.journal import read_journal
from rowcast.tasks import TASKS, build_task
from rowcast.tasks.crimp import CRIMP_TASKS, CrimpTask, RecordedTask, RoomTask
from rowcast.tasks.crimp.worker import CrimpWorker
from rowcast.testing import check_task
from wall_task import NoTests, WallTask

WALL = f"{Path(__file__).parent / 'wall_task.py'}:WallTask"


pytestmark = pytest.mark.usefixtures("one_thread", "no_cache")


# -- conformance -------------------------------------------------------------------------------------------------------


def test_the_tasks_are_registered() -> None:
    assert all(TASKS.find(name) is kind for name, kind in CRIMP_TASKS.items())
    assert set(CRIMP_TASKS) == {"crimp-room", "crimp-redkitchen", "crimp-7scenes", "crimp-folder"}


def test_the_room_conforms() -> None:
    check_task(RoomTask, FEW, workers=2, steps=12)


def test_a_place_of_ones_own_conforms() -> None:
    check_task(WallTask, QUICK, workers=3, steps=12)


def test_recorded_frames_conform(tmp_path: Path) -> None:
    write_npz(tmp_path, 16)
    check_task(RecordedTask, {"tests": 3, "rays": 64}, data_dir=str(tmp_path), workers=2, steps=12)


# -- settings ----------------------------------------------------------------------------------------------------------


def test_frames_come_in_step_with_the_pace() -> None:
    assert RoomTask.at_pace({}, 0.1) == pytest.approx({"first_s": 6.0, "frame_every_s": 0.4, "test_every_s": 4.0})
    assert RoomTask.at_pace({}, 1.0)["first_s"] == RoomTask.build({}).settings.first_s
    kept = RoomTask.at_pace({"first_s": 1.0, "lr": 0.1}, 0.5)
    assert kept == pytest.approx({"first_s": 1.0, "frame_every_s": 2.0, "test_every_s": 20.0, "lr": 0.1})
    RoomTask.build(kept)


def test_tests_are_limited() -> None:
    assert RoomTask.limit_tests({}, 50) == {"tests": 50}
    assert RoomTask.limit_tests({"lr": 0.1}, 1000) == {"tests": 120, "lr": 0.1}
    assert RoomTask.limit_tests({"tests": 10}, 50) == {"tests": 10}
    assert WallTask.limit_tests({"tests": 80}, 50) == {"tests": 50}


def test_a_start_is_described_without_a_run() -> None:
    assert WallTask.build(QUICK).describe_start() == "an empty map of 5.7 x 3.3 x 3.3 m, 45 rows of 512 numbers"


@pytest.mark.parametrize(
    ("kind", "options", "workers", "says"),
    [
        (RoomTask, {}, 9, "8"),
        (RoomTask, {"voxel": 0.005}, 2, "and a map may have"),
        (RoomTask, {"voxel": 0.3}, 2, "voxel: 0.3 m is larger than the truncation of 0.2 m"),
        (RoomTask, {"voxels": 0.3}, 2, "unknown option 'voxels'; did you mean 'voxel'"),
        (WallTask, {"voxel": 0.001}, 1, "and a map may have"),
        (NoTests, {}, 1, "task NoTests, robot 0: view: tests: expected 1 or more frames, got 0"),
    ],
)
def test_what_cannot_be_is_found_before_a_run(
    kind: type[CrimpTask], options: dict[str, Any], workers: int, says: str
) -> None:
    with pytest.raises((ConfigError, DataError), match=re.escape(says)):
        kind.check(options, workers=workers)


def test_a_room_without_depth_is_refused() -> None:
    """A robot's first frame has nothing to map."""
    task = RoomTask.build({**FEW, "invalid_share": 1.0})
    with pytest.raises(
        DataError, match=r"robot 1: robot 1, frame 0: 0\.00% of its pixels have a depth from 0\.1 to 10 m"
    ):
        task.worker(1, 2)


@pytest.mark.parametrize(
    ("part", "change", "says"),
    [
        ("own", {"take": []}, "view: own: expected 1 or more frames, got 0"),
        ("visit", {"take": [0]}, "view: visit: expected 2 or more frames, got 1"),
        ("own", {"pose": np.nan}, "view: own: frame 3: the pose is not finite"),
        ("visit", {"pose": np.inf}, "view: visit: frame 3: the pose is not finite"),
        ("tests", {"pose": 2.0}, "frame 3: the pose is not rigid: its rotation is not orthonormal"),
    ],
    ids=str,
)
def test_a_view_that_is_none_is_refused_by_name(part: str, change: dict[str, Any], says: str) -> None:
    view = view_of()
    frames = getattr(view, part)
    if "take" in change:
        frames = frames.take(change["take"])
    else:
        frames.poses[3, 0, 0] = change["pose"]
    with pytest.raises(DataError, match=re.escape("task WallTask, robot 0: ") + ".*" + re.escape(says)):
        made(dataclasses.replace(view, **{part: frames}))


# -- recorded frames ---------------------------------------------------------------------------------------------------


def changed_arrays(what: str) -> dict[str, Any]:
    """The arrays of a recording of 12 frames in which one thing is wrong."""
    arrays = npz_arrays()
    if what == "first":
        arrays["depth_mm"][0] = 0
    elif what == "mirror":
        arrays["pose_c2w"][4, 0] *= -1
    elif what == "inf":
        arrays["pose_c2w"][3:] = -np.inf
    elif what == "fast":
        arrays["pose_c2w"][:, 0, 3] *= 50
    elif what == "scale":
        arrays["depth_mm"] //= 100
    elif what == "count":
        arrays["pose_c2w"] = arrays["pose_c2w"][:-1]
    return arrays


@pytest.mark.parametrize(
    ("what", "workers", "says"),
    [
        ("first", 2, "a robot starts to map from this frame"),
        ("mirror", 2, "the pose is not rigid"),
        ("inf", 2, "frames have no finite pose"),
        ("fast", 2, "too fast to track"),
        ("scale", 2, "the median depth is"),
        ("count", 2, "pose_c2w"),
        ("none", 7, "robot"),
    ],
)
def test_bad_recordings_are_found_before_a_run(what: str, workers: int, says: str, tmp_path: Path) -> None:
    write_npz(tmp_path, **changed_arrays(what))
    for name in ("crimp-folder", "crimp-redkitchen"):
        with pytest.raises(DataError, match=re.escape(says)):
            CRIMP_TASKS[name].check({}, data_dir=tmp_path, workers=workers)


def test_good_recordings_pass_and_no_folder_is_said(tmp_path: Path) -> None:
    write_npz(tmp_path)
    RecordedTask.check({}, data_dir=tmp_path, workers=2)
    with pytest.raises(ConfigError, match="data"):
        RecordedTask.check({}, workers=2)


def test_recorded_frames_of_which_some_show_nothing_are_mapped(tmp_path: Path) -> None:
    arrays = npz_arrays(24)
    depths = arrays["depth_mm"]
    depths[5:8], depths[9, ::2], depths[10, ::2] = 0, 65535, 1
    arrays["color"][11] = 0
    write_npz(tmp_path, 24, **arrays)
    task = build_task("crimp-folder", tmp_path, tests=4, rays=64, lost_frames=2, first_s=1.0, frame_every_s=1.0)
    worker = task.worker(0, 1)
    assert isinstance(worker, CrimpWorker)
    worker.clock = clock = Timed()
    stepped(worker, 20)
    contributed = []
    for clock.now_s in np.arange(1.0, 19.0).tolist():
        assert np.isfinite(stepped(worker, 2))
        contributed.append(worker.contributes)
    told = [what for what, _ in worker.happened()]
    assert told.count("frame without depth") == 2 and "contributes nothing" in told and "dark frame" in told
    assert False in contributed
    assert np.isfinite(list(worker.evaluate().values())).all()
    worker.shown()


# -- a team ------------------------------------------------------------------------------------------------------------


def test_robots_of_a_team_end_with_one_map() -> None:
    task = WallTask.build(QUICK)
    robots: dict[int, CrimpWorker] = {}

    def loop(index: int, worker: VirtualWorker) -> None:
        robot = robots[index] = task.worker(index, 2)
        optimizer = robot.wrap(worker)
        began = worker.now
        robot.clock = lambda: worker.now - began
        for _ in range(20):
            robot.compute()
            optimizer.step()
        optimizer.close()

    server, _ = run_team("bsp?codec=raw", 2, loop, rate_bps=2e6)
    maps = [robots[index].model.grid.detach().numpy().ravel() for index in range(2)]
    np.testing.assert_allclose(maps[0], maps[1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(maps[0], server.parameters, rtol=0, atol=1e-5)
    assert all(robot.taken > 1 for robot in robots.values())
    for robot in robots.values():  # it has rows that only the other one trained
        only_other = (robots[0].touched > 0) != (robots[1].touched > 0)
        assert only_other.any() and robot.model.grid.detach().numpy()[only_other].any(axis=1).all()


def test_a_place_of_ones_own_is_compared(tmp_path: Path) -> None:
    settings = Comparison(
        task=WALL,
        task_options=tuple(
            f"{name}={value}" for name, value in {**QUICK, "tests": 3, "first_s": 3.0, "test_every_s": 8.0}.items()
        ),
        policies=("bsp?codec=raw", "rowcast"),
        links=("constant:1000",),
        devices=("1",),
        workers=(2,),
        seeds=1,
        hours=12 / 3600,
        eval_every_s=4.0,
    )
    cells = run_comparison(settings, tmp_path, jobs=0)
    assert len(cells) == 2
    for cell in cells:
        folder = tmp_path / "cells" / cell.name
        for index in range(2):
            records = list(read_journal(folder / f"robot-{index}.jsonl"))
            metrics = [record for record in records if record["event"] == "metric"]
            assert all(np.isfinite(record["value"]) for record in metrics)
            times: dict[str, list[float]] = {}
            for record in metrics:
                times.setdefault(record["name"], []).append(record["t"])
            tested, tracked = times["visit_ate"], times["ate"]
            # A look each 4 s, a test each 8 s; at the first look nothing was tracked.
            assert len(tested) == 2 <= len(tracked) and tested[0] < tracked[0] < tested[1]
            assert "tracking_rate" not in times  # no time passes while a robot computes
            names = [each.name for each in load_exhibits(folder / f"robot-{index}.exhibits.npz")]
            assert names == (
                ["map", "visit_colour", "map_colour", "visit_depth", "map_depth"] if not index else ["map"]
            )
