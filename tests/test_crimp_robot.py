"""A robot that maps: when frames come, what it contributes, what it tells and shows, and its warm-up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mapped import FEW, QUICK, Timed, made, stepped, view_of
from rowcast.errors import ConfigError
from rowcast.exhibits import Picture, Plan, load_exhibits, save_exhibits
from rowcast.tasks.crimp import CrimpTask, RoomTask
from rowcast.tasks.crimp.scene import View
from rowcast.tasks.crimp.trajectory import ate, read_tum
from test_optim_fakes import EchoTeam
from wall_task import WallTask

LOOKS = {"localisation_error", "localised_share", "visit_ate", "visit_share", "hit_share", "depth_l1"}


pytestmark = pytest.mark.usefixtures("one_thread", "no_cache")


# -- frames come by the clock ------------------------------------------------------------------------------------------


def test_frames_come_when_they_are_due() -> None:
    """The first at once; the second when the robot sets out, and one more each two seconds from there."""
    worker, clock = made()
    seen = []
    for clock.now_s in (0.0, 0.0, 9.999, 10.0, 11.999, 12.0, 13.0, 14.0, 21.999, 22.0, 1e9):
        seen.append((worker.arrive(), worker.taken))
    assert seen == [(1, 1), (0, 1), (0, 1), (1, 2), (0, 2), (1, 3), (0, 3), (1, 4), (3, 7), (1, 8), (0, 8)]
    assert worker.lost == 7 and not worker.contributes  # no step was made: the map is empty


def test_a_step_takes_all_frames_that_are_due() -> None:
    worker, clock = made(first_s=0.0, frame_every_s=0.5)
    stepped(worker)
    assert worker.taken == 2  # it sets out at once
    clock.now_s = 2.0
    stepped(worker)
    assert worker.taken == 6
    figures = worker.measure()
    assert figures["ate"] < 0.3 and figures["aligned_ate"] <= figures["ate"]


def test_a_robot_of_one_frame_stays_where_it_is() -> None:
    worker, clock = made(frames=1)
    clock.now_s = 1e6
    stepped(worker, 2)
    assert worker.taken == 1 and worker.contributes and not {"ate", "aligned_ate"} & set(worker.evaluate())


def test_a_robot_knows_its_first_pose_alone() -> None:
    """What it tracks and maps does not follow from where its camera truly was; only the errors do."""
    wrong = view_of()
    wrong.own.poses[1:, :3, 3] += 0.5
    (worker, clock), (misled, other) = made(lr=0.05), made(wrong, lr=0.05)
    assert stepped(worker, 20) == stepped(misled, 20)
    clock.now_s = other.now_s = 30.0
    assert stepped(worker, 5) == stepped(misled, 5) and worker.lost == misled.lost == 0
    assert torch.equal(worker.model.grid, misled.model.grid)
    assert misled.measure()["ate"] > 0.5 > worker.measure()["ate"]


# -- lost --------------------------------------------------------------------------------------------------------------


def blinded(places: slice, metres: float = np.nan) -> View:
    """The wall, with frames whose depth is nothing that can be found."""
    view = view_of(frames=10)
    view.own.depths[places] = metres
    return view


def test_after_lost_frames_in_a_row_nothing_is_contributed_until_one_is_found() -> None:
    worker, clock = made(blinded(slice(1, 5)), lost_frames=3, lr=0.05)
    stepped(worker, 40)
    grads, kept = [], []
    for number in range(6):
        clock.now_s = 10.0 + 2 * number
        before = worker.model.grid.detach().clone()
        touched = worker.touched.copy()
        assert np.isfinite(worker.compute())
        grads.append(worker.model.grid.grad is not None)
        worker.optimizer.step()
        assert torch.equal(before, worker.model.grid.detach()) == (not grads[-1])
        assert np.array_equal(touched, worker.touched) == (not grads[-1])
        kept.append(len(worker._sampler))
    assert grads == [True, True, False, False, True, True]
    assert kept == [1, 1, 1, 1, 2, 3]  # lost frames are not mapped
    assert worker.lost == 4 and worker.taken == 7
    told = worker.happened()
    assert [what for what, _ in told] == [
        *["frame without depth", "frame lost"] * 3,
        "contributes nothing",
        *["frame without depth", "frame lost"],
        "found again",
    ]
    assert told[0][1] == "frame 1: no pixel has a usable depth"
    assert told[1][1] == "frame 1: 0 % of its points are near a surface of the map"
    assert told[6][1] == "frame 3: 3 lost in a row" and told[-1][1] == "frame 5: after 4 lost"
    assert worker.happened() == []


def test_a_frame_that_does_not_fit_the_map_is_lost() -> None:
    """It shows a wall at half the distance."""
    worker, clock = made(blinded(slice(1, 2), 0.7))
    stepped(worker, 30)
    clock.now_s = 12.0
    stepped(worker)
    assert [what for what, _ in worker.happened()] == ["frame lost", "found again"]
    assert worker.lost == 1 and worker.contributes and len(worker._sampler) == 2


def test_in_a_team_a_lost_robot_changes_nothing_and_finds_itself_in_what_others_map() -> None:
    worker, clock = made(blinded(slice(1, 4)), lost_frames=2)
    team = EchoTeam()
    optimizer = worker.wrap(team)
    for _ in range(30):
        worker.compute()
        optimizer.step()
    clock.now_s = 14.0
    for _ in range(2):
        before = worker.model.grid.detach().clone()
        worker.compute()
        optimizer.step()
        assert torch.equal(worker.model.grid, before) and not worker.contributes
    clock.now_s = 16.0
    worker.compute()
    assert worker.contributes


@pytest.mark.parametrize(("option", "moves"), [(1.0, 1.0), (0.25, 0.25), (0.0, 0.5)])
def test_a_step_counts_as_the_settings_have_it(option: float, moves: float) -> None:
    """By itself with weight 1; 0 is one over the members, of which there are two here."""
    worker, _ = made(weight=option)
    team = EchoTeam()
    team.members = 2
    optimizer = worker.wrap(team)
    worker.compute()
    optimizer.step()
    settings = worker.task.settings
    first = settings.lr / (1 + settings.lr_decay)
    assert float(worker.model.grid.detach().abs().max()) == pytest.approx(moves * first, rel=1e-3)


def test_dark_frames_and_depth_that_is_none_are_told_and_borne() -> None:
    view = view_of()
    view.own.colours[1] = 0
    for place, wrong in enumerate((np.nan, np.inf, 0.0, 65.535), 2):
        view.own.depths[place, ::2] = wrong
    worker, clock = made(view, lr=0.05)
    stepped(worker, 40)
    for number in range(7):
        clock.now_s = 10.0 + 2 * number
        assert np.isfinite(stepped(worker, 3))
    assert worker.lost == 0 and worker.taken == 8
    assert worker.happened() == [("dark frame", "frame 1: its colours are not used")]
    assert all(np.isfinite(list(worker.evaluate().values())))


# -- looks -------------------------------------------------------------------------------------------------------------


def test_brief_looks_test_from_time_to_time() -> None:
    worker, clock = made(test_every_s=40.0)
    tested = []
    for clock.now_s, brief in ((0.0, True), (39.0, True), (40.0, True), (50.0, False), (89.0, True), (90.0, True)):
        found = worker.evaluate(brief=brief).keys()
        assert found & LOOKS in (LOOKS, set())
        tested.append(found >= LOOKS)
    assert tested == [True, False, True, True, False, True]
    always, clock = made()
    assert all(always.evaluate(brief=True).keys() >= LOOKS for _ in range(2))


def test_rows_touched_are_those_with_a_gradient_since_the_last_look() -> None:
    worker, _ = made()
    assert "touched_rows" not in worker.evaluate()
    counts, total = [], np.zeros_like(worker.touched)
    for _ in range(5):
        worker.compute()
        rows = worker.model.grid.grad.ne(0).any(dim=1).numpy()
        counts.append(rows.sum())
        total += rows
        worker.optimizer.step()
    assert 0 < max(counts) < len(total)
    assert worker.evaluate()["touched_rows"] == pytest.approx(np.mean(counts))
    assert "touched_rows" not in worker.evaluate()
    assert np.array_equal(worker.touched, total)


def test_the_rate_of_tracking_is_measured_where_time_passes() -> None:
    """In virtual time it takes none. Here each look at the clock takes half a second, and tracking takes two."""
    for look_s, rate in ((0.0, None), (0.5, 2.0)):
        worker, _ = made()
        worker.clock = clock = Timed(look_s)
        stepped(worker)
        assert "tracking_rate" not in worker.evaluate()
        clock.now_s = 100.0
        stepped(worker)
        assert worker.taken == 8
        assert worker.evaluate().get("tracking_rate") == (None if rate is None else pytest.approx(rate))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_diverged_map_has_numbers_for_a_table_and_pictures(value: float) -> None:
    worker, clock = made()
    stepped(worker)
    with torch.no_grad():
        worker.model.grid.fill_(value)
    clock.now_s = 20.0
    worker.arrive()
    assert not worker.contributes
    found = worker.evaluate()
    assert found.keys() == LOOKS | {"ate", "aligned_ate", "touched_rows"}
    assert np.isfinite(list(found.values())).all()
    assert (found["hit_share"], found["depth_l1"], found["localised_share"]) == (0.0, 1.0, 0.0)
    assert len(worker.shown()) == 5


def test_a_worker_of_another_kind_is_refused() -> None:
    task = WallTask.build(QUICK)
    worker = super(CrimpTask, task).worker(0, 1)
    with pytest.raises(ConfigError, match="task WallTask: expected a CrimpWorker, got TaskWorker"):
        task.evaluate(worker)


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_exhibits_are_a_plan_of_each_robot_and_pictures_of_the_first(tmp_path: Path) -> None:
    task = RoomTask.build({**FEW, "first_s": 0.0})
    shown = {}
    for index in range(2):
        worker = task.worker(index, 2)
        worker.clock = Timed(2.0)
        stepped(worker, 4)
        shown[index] = worker.shown()
        save_exhibits(tmp_path / "kept.npz", shown[index])
        again = load_exhibits(tmp_path / "kept.npz")
        assert [type(each) for each in again] == [type(each) for each in shown[index]]
        plan = shown[index][0]
        assert isinstance(plan, Plan) and (plan.name, plan.unit) == ("map", "m")
        assert [(path.label, path.true) for path in plan.paths] == [
            (f"robot {index}, true", True),
            (f"robot {index}", False),
        ]
        assert all(path.points.shape == (worker.taken, 2) for path in plan.paths)
        np.testing.assert_array_equal(plan.paths[0].points, worker.view.own.poses[: worker.taken, :2, 3])
        assert plan.obstacles.shape[1] == 4 and len(plan.obstacles) > 4
        cells = plan.cells
        assert cells is not None and cells.size == pytest.approx(4 * worker.model.voxel)
        assert cells.corners.shape == (worker.model.blocks[0] * worker.model.blocks[1], 2)
        assert cells.weights.sum() == worker.touched.sum() > 0
        # The robot stands in a column that it has trained.
        here = np.floor((worker.view.own.poses[0, :2, 3] - cells.corners) / cells.size)
        assert cells.weights[(here == 0).all(axis=1)].item() > 0
    assert [type(each) for each in shown[1]] == [Plan]
    pictures = shown[0][1:]
    assert all(isinstance(each, Picture) for each in pictures)
    assert [each.name for each in pictures] == ["visit_colour", "map_colour", "visit_depth", "map_depth"]
    assert [each.pixels.shape for each in pictures] == [(24, 32, 3), (24, 32, 3), (24, 32), (24, 32)]
    assert [each.pixels.dtype for each in pictures] == [np.uint8, np.uint8, np.float32, np.float32]
    assert [each.reference for each in pictures] == [True, False, True, False]
    assert [each.row for each in pictures] == [0, 0, 1, 1] and pictures[2].high == pictures[3].high


@pytest.mark.parametrize(("wrong", "high"), [(np.inf, 2.0), (65.535, 2.0), (None, 10.0)])
def test_pictures_bear_depth_that_is_none(wrong: float | None, high: float) -> None:
    """Some of it, which does not stretch the colours; where there is no other, they reach as far as is looked."""
    view = view_of()
    if wrong is None:
        view.visit.depths[:] = np.nan
    else:
        view.visit.depths[:, :4] = wrong
    worker, _ = made(view)
    stepped(worker)
    depth = {each.name: each for each in worker.shown()[1:]}["visit_depth"]
    assert isinstance(depth, Picture) and depth.high == pytest.approx(high)
    assert np.isfinite(depth.pixels).mean() == (0 if wrong is None else pytest.approx(20 / 24))


# -- warm-up -----------------------------------------------------------------------------------------------------------


def test_a_robot_that_was_warmed_up_goes_on_as_one_that_was_not() -> None:
    (warm, clock), (cold, other) = made(), made()
    noise = torch.get_rng_state()
    warm.warm_up()
    assert torch.equal(noise, torch.get_rng_state())
    assert warm.model.grid.grad is None and not warm.model.grid.detach().any() and not warm.optimizer.state
    assert (warm.taken, warm.lost, warm.happened(), warm.touched.any()) == (0, 0, [], False)
    for clock.now_s in (0.0, 5.0, 12.0, 20.0):
        other.now_s = clock.now_s
        assert stepped(warm, 3) == stepped(cold, 3)
    assert torch.equal(warm.model.grid, cold.model.grid)
    assert warm.evaluate() == cold.evaluate()


def test_a_robot_leaves_its_trajectory_beside_its_journal(tmp_path: Path) -> None:
    robot, clock = made(first_s=0.0)
    stepped(robot, 3)
    clock.now_s = 4.0
    stepped(robot)
    robot.write_files(tmp_path, "robot-0")
    found, times_s = read_tum(tmp_path / "robot-0.found.tum")
    true, _ = read_tum(tmp_path / "robot-0.true.tum")
    assert len(found) == robot.taken > 2 and np.array_equal(times_s, robot.view.own.times_s[: robot.taken])
    assert np.allclose(true, robot.view.own.poses[: robot.taken])
    assert ate(found, true, align=False) == pytest.approx(robot.measure()["ate"], abs=1e-9)
