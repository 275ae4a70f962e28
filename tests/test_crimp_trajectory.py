"""Errors of trajectories, checked by hand, by their invariants and against evo; files of the TUM benchmark."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.errors import DataError
from rowcast.tasks.crimp.trajectory import ate, pose_error, read_tum, rigid_fit, rpe, write_tum

Array = npt.NDArray[np.float64]
SEEDS = st.integers(0, 2**32 - 1)


def rotation(axis: Any, angle: float) -> Array:
    """Rodrigues' formula."""
    x, y, z = np.asarray(axis, dtype=np.float64) / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    turned: Array = np.eye(3) + math.sin(angle) * cross + (1.0 - math.cos(angle)) * cross @ cross
    return turned


def pose(axis: Any, angle: float, place: Any) -> Array:
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = rotation(axis, angle), place
    return made


def trajectory(rng: np.random.Generator, count: int, noise: float = 0.0) -> tuple[Array, Array]:
    """A true trajectory and an estimate of it, each pose off by about ``noise`` metres and radians."""
    true = np.stack([pose(rng.normal(size=3), rng.uniform(0, np.pi), rng.normal(size=3)) for _ in range(count)])
    off = [pose(rng.normal(size=3), noise * rng.normal(), noise * rng.normal(size=3)) for _ in range(count)]
    return true @ np.stack(off), true


def test_absolute_error_by_hand() -> None:
    true = np.zeros((4, 3))
    found = np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 5.0]])
    assert ate(found, true, align=False) == pytest.approx(math.sqrt((9 + 16 + 25) / 4))
    shifted = true + np.array([1.0, 2.0, 2.0])
    assert ate(shifted, true, align=False) == pytest.approx(3.0)
    assert ate(shifted, true, align=True) == pytest.approx(0.0, abs=1e-12)


def test_a_scale_is_not_fitted() -> None:
    true = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])
    assert ate(2.0 * true, true, align=True) == pytest.approx(1.0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=SEEDS, count=st.integers(1, 12), flat=st.integers(0, 3))
def test_a_moved_trajectory_has_no_aligned_error(seed: int, count: int, flat: int) -> None:
    """Also where all points are on a plane, a line or in one place (``flat`` of three axes are left out)."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(count, 3))
    true[:, 3 - flat :] = 0.0
    true = true @ rotation(rng.normal(size=3), rng.uniform(0, np.pi)).T
    motion = pose(rng.normal(size=3), rng.uniform(0, np.pi), 10.0 * rng.normal(size=3))
    found = true @ motion[:3, :3].T + motion[:3, 3]
    assert ate(found, true, align=True) < 1e-10
    fit = rigid_fit(found, true)
    assert np.linalg.det(fit[:3, :3]) == pytest.approx(1.0)
    assert np.allclose(fit[:3, :3] @ fit[:3, :3].T, np.eye(3), atol=1e-12)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=SEEDS, count=st.integers(2, 12))
def test_no_other_motion_aligns_better(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    found, true = rng.normal(size=(2, count, 3))
    best = ate(found, true, align=True)
    fit = rigid_fit(found, true)
    for size in (1e-3, 0.1, 1.0):
        other = pose(rng.normal(size=3), size, size * rng.normal(size=3)) @ fit
        assert ate(found @ other[:3, :3].T + other[:3, 3], true, align=False) >= best - 1e-12


def test_a_mirror_image_is_not_mirrored_back() -> None:
    true = np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    mirrored = true * np.array([-1.0, 1.0, 1.0])
    assert np.linalg.det(rigid_fit(mirrored, true)[:3, :3]) == pytest.approx(1.0)
    assert ate(mirrored, true, align=True) > 0.1


def test_positions_of_poses_are_what_counts() -> None:
    found, true = trajectory(np.random.default_rng(0), 9, 0.1)
    for align in (False, True):
        assert ate(found, true, align=align) == ate(found[:, :3, 3], true[:, :3, 3], align=align)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=SEEDS,
    angle=st.one_of(st.floats(0.0, np.pi), st.sampled_from([0.0, 1e-12, 1e-9, 1e-7, np.pi - 1e-9, np.pi])),
    metres=st.floats(0.0, 10.0),
)
def test_errors_of_poses_are_exact_for_all_angles(seed: int, angle: float, metres: float) -> None:
    rng = np.random.default_rng(seed)
    true = pose(rng.normal(size=3), rng.uniform(0, np.pi), rng.normal(size=3))
    away = rng.normal(size=3)
    found = true.copy()
    found[:3, :3] = true[:3, :3] @ rotation(rng.normal(size=3), angle)
    found[:3, 3] += metres * away / np.linalg.norm(away)
    distances, angles = pose_error(found[None], true[None])
    assert distances == pytest.approx([metres], abs=1e-12)
    assert angles == pytest.approx([angle], abs=1e-14 if angle < 1e-6 else 1e-12)


def test_relative_error_by_hand() -> None:
    true = np.stack([pose([0, 0, 1], 0.0, [i, 0, 0]) for i in range(5)])
    found = np.stack([pose([0, 0, 1], 0.01 * i, [1.1 * i, 0, 0]) for i in range(5)])
    # Each motion turns by 0.01 too much; its translation is 1.1 in the frame of a pose that is turned by 0.01 i.
    lengths = [math.hypot(1.1 * math.cos(0.01 * i) - 1.0, 1.1 * math.sin(0.01 * i)) for i in range(4)]
    metres, radians = rpe(found, true)
    assert metres == pytest.approx(math.sqrt(np.mean(np.square(lengths))))
    assert radians == pytest.approx(0.01)
    assert rpe(found, true, delta=4)[1] == pytest.approx(0.04)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=SEEDS, count=st.integers(2, 10))
def test_relative_error_knows_no_frame(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    found, true = trajectory(rng, count, 0.1)
    moved = pose(rng.normal(size=3), 1.0, 5.0 * rng.normal(size=3)) @ found
    assert rpe(moved, true) == pytest.approx(rpe(found, true), abs=1e-12)
    assert rpe(true, true) == pytest.approx((0.0, 0.0), abs=1e-7)


@pytest.mark.parametrize(
    ("found", "true", "says"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3)), "expected at least one pose, got none"),
        (np.zeros((3, 3)), np.zeros((2, 3)), "as many estimated as true poses, got 3 and 2"),
        (np.zeros((3, 2)), np.zeros((3, 2)), r"estimated trajectory: expected positions \[n, 3\] or poses"),
        (np.zeros((3, 3, 3)), np.zeros((3, 3)), r"estimated trajectory: expected poses \[n, 4, 4\]"),
        (
            np.zeros((2, 3)),
            np.array([[0, 0, 0], [0, np.nan, 0]]),
            "true trajectory: expected finite numbers, pose 1 of 2",
        ),
    ],
    ids=["none", "counts", "plane", "rotations", "nan"],
)
def test_what_cannot_be_compared(found: Array, true: Array, says: str) -> None:
    with pytest.raises(DataError, match=says):
        ate(found, true, align=True)


@pytest.mark.parametrize("delta", [0, -1, 3])
def test_a_delta_without_motions(delta: int) -> None:
    true = trajectory(np.random.default_rng(0), 3)[1]
    with pytest.raises(DataError, match=rf"expected a delta from 1 to 2, as there are 3 poses, got {delta}"):
        rpe(true, true, delta=delta)


def test_no_poses_have_no_errors_each() -> None:
    distances, angles = pose_error(np.empty((0, 4, 4)), np.empty((0, 4, 4)))
    assert distances.shape == angles.shape == (0,)


# ---- files ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=SEEDS,
    angle=st.one_of(st.floats(0.0, np.pi), st.sampled_from([0.0, 1e-9, np.pi / 2, np.pi - 1e-9, np.pi])),
    axis=st.sampled_from([None, (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, -1, 1)]),
)
def test_a_file_gives_back_every_rotation(
    tmp_path_factory: pytest.TempPathFactory, seed: int, angle: float, axis: tuple[int, int, int] | None
) -> None:
    rng = np.random.default_rng(seed)
    poses = pose(rng.normal(size=3) if axis is None else axis, angle, 100.0 * rng.normal(size=3))[None]
    times = np.array([1305031102.175304 + rng.uniform()])
    path = tmp_path_factory.mktemp("tum") / "poses.txt"
    write_tum(path, poses, times)
    found, stamps = read_tum(path)
    assert stamps.tolist() == times.tolist()
    assert found[:, :3, 3].tolist() == poses[:, :3, 3].tolist()
    assert np.allclose(found, poses, rtol=0.0, atol=1e-14 if angle < 3 else 1e-12)
    quaternion = [float(cell) for cell in path.read_text().splitlines()[1].split()[4:]]
    assert math.hypot(*quaternion) == pytest.approx(1.0, abs=1e-15)
    assert quaternion[3] >= 0.0


def test_the_form_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "poses.txt"
    write_tum(path, np.stack([np.eye(4), pose([0, 0, 1], np.pi, [1, 2, 3])]), np.array([0.0, 0.5]))
    head, first, second = path.read_text(encoding="utf-8").splitlines()
    assert head == "# timestamp tx ty tz qx qy qz qw"
    assert first == "0.0 0.0 0.0 0.0 0.0 0.0 0.0 1.0"
    assert [float(cell) for cell in second.split()] == pytest.approx([0.5, 1, 2, 3, 0, 0, 1, 0], abs=1e-15)
    assert [file.name for file in tmp_path.iterdir()] == ["poses.txt"]


def test_a_file_of_others_is_read(tmp_path: Path) -> None:
    """With comments, empty lines, other ends of lines and quaternions of few digits, as the benchmark's are."""
    path = tmp_path / "groundtruth.txt"
    path.write_bytes(
        b"# ground truth trajectory\r\n# file: 'rgbd_dataset.bag'\r\n\r\n"
        b"1305031098.6659 1.3563 0.6305 1.6380 0.6132 0.5962 -0.3311 -0.3986\r\n"
        b"  1305031098.6758\t1.3543 0.6306 1.6360 0 0 0 1\r\n"
    )
    poses, times = read_tum(path)
    assert times.tolist() == [1305031098.6659, 1305031098.6758]
    assert poses[0, :3, 3].tolist() == [1.3563, 0.6305, 1.6380]
    assert np.allclose(poses[:, :3, :3] @ np.swapaxes(poses[:, :3, :3], 1, 2), np.eye(3), atol=1e-14)
    assert np.array_equal(poses[1, :3, :3], np.eye(3))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected lines of poses"),
        ("# only a comment\n", "expected lines of poses"),
        ("0 0 0 0 0 0 0 1\n1 0 0 0 0 0 1\n", "line 2: expected 8 finite numbers"),
        ("\n# c\n0 0 0 0 0 0 0 1 2\n", "line 3: expected 8 finite numbers"),
        ("0 0 zero 0 0 0 0 1\n", "line 1: expected 8 finite numbers"),
        ("0 0 0 inf 0 0 0 1\n", "line 1: expected 8 finite numbers"),
        ("0 0 0 nan 0 0 0 1\n", "line 1: expected 8 finite numbers"),
        ("0 0 0 0 0 0 0 0\n", "line 1: expected a quaternion qx qy qz qw of length 1, found one of length 0;"),
        ("0 1 2 3 4 0 0 1\n", "line 1: expected a quaternion qx qy qz qw of length 1, found one of length 4.123"),
    ],
    ids=["empty", "comment", "seven", "nine", "word", "inf", "nan", "zero", "long"],
)
def test_a_bad_file(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "poses.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=says) as raised:
        read_tum(path)
    assert str(raised.value).startswith(str(path))


def test_no_file_and_no_text(tmp_path: Path) -> None:
    (tmp_path / "poses.txt").write_bytes(b"\xff\xfe\x00\x81")
    for name in ("missing.txt", "poses.txt", "."):
        with pytest.raises(DataError, match="expected a text file of poses"):
            read_tum(tmp_path / name)


def test_what_is_not_written(tmp_path: Path) -> None:
    path, eye = tmp_path / "poses.txt", np.eye(4)[None]
    with pytest.raises(DataError, match=r"expected 1 finite times, one for each pose, got an array of shape \(2,\)"):
        write_tum(path, eye, np.zeros(2))
    with pytest.raises(DataError, match="expected 1 finite times"):
        write_tum(path, eye, np.array([np.inf]))
    with pytest.raises(DataError, match="the 3 x 3 part of pose 1 of 2 is no rotation"):
        write_tum(path, np.concatenate([eye, 2.0 * eye]), np.zeros(2))
    with pytest.raises(DataError, match="the 3 x 3 part of pose 0 of 1 is no rotation"):
        write_tum(path, np.diag([-1.0, 1.0, 1.0, 1.0])[None], np.zeros(1))
    with pytest.raises(DataError, match="pose 0 of 1 has others"):
        write_tum(path, np.full((1, 4, 4), np.inf), np.zeros(1))
    assert not path.exists()
    with pytest.raises(DataError, match=r"cannot be written .*; choose a folder that exists"):
        write_tum(tmp_path / "none" / "poses.txt", eye, np.zeros(1))


# ---- evo --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evo() -> SimpleNamespace:
    """The parts of evo that the tests use; what it or its dependencies warn of while imported is theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        why = "evo is not installed (pip install 'rowcast[slam]')"
        return SimpleNamespace(
            metrics=pytest.importorskip("evo.core.metrics", reason=why),
            trajectory=pytest.importorskip("evo.core.trajectory", reason=why),
            files=pytest.importorskip("evo.tools.file_interface", reason=why),
        )


def paths(evo: SimpleNamespace, found: Array, true: Array) -> tuple[Any, Any]:
    return tuple(evo.trajectory.PosePath3D(poses_se3=list(poses)) for poses in (true, found))


def error(metric: Any, pair: tuple[Any, Any], evo: SimpleNamespace) -> float:
    metric.process_data(pair)
    return float(metric.get_statistic(evo.metrics.StatisticsType.rmse))


@pytest.mark.parametrize("noise", [1e-3, 0.1, 1.0])
def test_absolute_errors_are_those_of_evo(evo: SimpleNamespace, noise: float) -> None:
    found, true = trajectory(np.random.default_rng(7), 50, noise)
    moved = pose([1, 2, 3], 0.7, [4, 5, 6]) @ found
    for estimate in (found, moved):
        reference, estimated = paths(evo, estimate, true)
        metric = evo.metrics.APE(evo.metrics.PoseRelation.translation_part)
        assert ate(estimate, true, align=False) == pytest.approx(error(metric, (reference, estimated), evo), abs=1e-9)
        estimated.align(reference)
        assert ate(estimate, true, align=True) == pytest.approx(error(metric, (reference, estimated), evo), abs=1e-9)


@pytest.mark.parametrize("delta", [1, 2, 10])
def test_relative_errors_are_those_of_evo(evo: SimpleNamespace, delta: int) -> None:
    found, true = trajectory(np.random.default_rng(8), 40, 0.05)
    pair, relation = paths(evo, found, true), evo.metrics.PoseRelation
    theirs = [
        error(evo.metrics.RPE(kind, delta, evo.metrics.Unit.frames, all_pairs=True), pair, evo)
        for kind in (relation.translation_part, relation.rotation_angle_rad)
    ]
    assert rpe(found, true, delta=delta) == pytest.approx(theirs, abs=1e-9)


def test_evo_reads_our_file_and_we_read_that_of_evo(evo: SimpleNamespace, tmp_path: Path) -> None:
    poses = trajectory(np.random.default_rng(9), 20)[1]
    turned = [pose(axis, np.pi, [1, 2, 3]) for axis in ([1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1])]
    poses, times = np.concatenate([poses, turned]), 1305031102.175304 + np.arange(24.0)
    write_tum(tmp_path / "ours.txt", poses, times)
    read = evo.files.read_tum_trajectory_file(str(tmp_path / "ours.txt"))
    assert np.allclose(read.poses_se3, poses, rtol=0.0, atol=1e-9)
    assert read.timestamps.tolist() == times.tolist()
    assert read.check()[0]
    evo.files.write_tum_trajectory_file(str(tmp_path / "theirs.txt"), read)
    found, stamps = read_tum(tmp_path / "theirs.txt")
    assert np.allclose(found, poses, rtol=0.0, atol=1e-9)
    assert np.allclose(stamps, times, rtol=0.0, atol=1e-6)
