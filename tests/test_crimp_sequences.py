"""Recorded sequences as what robots see: parts, walks, held-out frames, the box, and what is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from recorded import K, colours, depths, npz_arrays, poses, save_matrix, write_7scenes, write_npz, write_scannet
from rowcast.errors import ConfigError, DataError
from rowcast.tasks.crimp.checks import usable_poses
from rowcast.tasks.crimp.frames import Frames, Intrinsics
from rowcast.tasks.crimp.pixels import usable_pixels
from rowcast.tasks.crimp.readers.files import FileRecording
from rowcast.tasks.crimp.sequences import recorded_bounds, recorded_view
from rowcast.tasks.crimp.settings import RecordedSettings
from rowcast.tasks.crimp.tracks import PixelCache

REAL = Path(__file__).parents[2] / "shared" / "data" / "rgbd_redkitchen"


def settings(folder: Path | None, **others: Any) -> RecordedSettings:
    return RecordedSettings(data_dir=None if folder is None else str(folder), **others)


@pytest.mark.skipif(not REAL.is_dir(), reason="the red kitchen is not here")
def test_red_kitchen() -> None:
    views = [recorded_view(settings(REAL), index, 4) for index in range(4)]
    assert [(len(view.own), len(view.visit), len(view.tests)) for view in views] == [(40, 50, 30)] * 4
    assert views[0].own.colours.shape == (40, 60, 80, 3)
    assert views[3].visit.labels[0] == views[0].own.labels[0] == "frame 0"
    assert not {label for view in views for label in view.own.labels} & set(views[0].tests.labels)
    bounds = recorded_bounds(settings(REAL))
    assert np.allclose(np.subtract(bounds.high, bounds.low), (4.8, 2.6, 2.7), atol=0.1)


def test_parts(tmp_path: Path) -> None:
    """Two robots share 12 frames: six each, of which the third of each five is kept for the tests of the other."""
    view = recorded_view(settings(write_npz(tmp_path)), 1, 2)
    assert view.own.labels == [f"frame {3 * number}" for number in (6, 7, 9, 10, 11)]
    assert view.visit.labels == [f"frame {3 * number}" for number in range(6)]
    assert view.tests.labels == ["frame 6"]
    arrays = npz_arrays()
    assert np.array_equal(view.visit.colours, arrays["color"][:6])
    assert np.allclose(view.visit.depths * 1000, arrays["depth_mm"][:6])
    assert np.allclose(view.visit.poses, arrays["pose_c2w"][:6])
    assert np.allclose(view.own.times_s, 3 * np.array([6, 7, 9, 10, 11]) / 30)
    assert view.obstacles.shape == (0, 4)


# -- parts -----------------------------------------------------------------------------------------------------


def labels(parts: list[Frames]) -> list[list[str]]:
    return [list(part.labels) for part in parts]


def test_a_sequence_each(tmp_path: Path) -> None:
    """Where there are as many sequences as robots, or more, each robot has its own; the others are not used."""
    for number in range(3):
        write_7scenes(tmp_path / f"seq-0{number + 1}", 4 + 2 * number, first=100 * number)
    views = [recorded_view(settings(tmp_path, held_out=3), index, 2) for index in range(2)]
    assert labels([view.visit for view in views]) == [
        [f"frame-{number:06}" for number in range(100, 106)],
        [f"frame-{number:06}" for number in range(4)],
    ]
    assert labels([view.tests for view in views]) == [["frame-000101", "frame-000104"], ["frame-000001"]]
    assert recorded_view(settings(tmp_path), 2, 3).own.labels[0] == "frame-000200"
    longest = [recorded_view(settings(tmp_path, held_out=0), index, 4).own.labels[0] for index in range(4)]
    assert longest == ["frame-000000", "frame-000100", "frame-000200", "frame-000204"]


def test_no_frame_is_mapped_and_tested(tmp_path: Path) -> None:
    write_npz(tmp_path, 24)
    for workers in (2, 3, 4):
        views = [recorded_view(settings(tmp_path, held_out=4), index, workers) for index in range(workers)]
        mapped = [label for view in views for label in view.own.labels]
        tested = {label for view in views for label in view.tests.labels}
        assert len(mapped) == len(set(mapped)) and not tested & set(mapped)
        assert len(tested) + len(mapped) == 24
        for view in views:
            assert not set(view.tests.labels) & set(view.own.labels)
            assert view.own.labels[0] not in view.visit.labels


def test_nothing_held_out(tmp_path: Path) -> None:
    view = recorded_view(settings(write_npz(tmp_path), held_out=0), 0, 3)
    assert labels([view.own, view.tests]) == [
        [f"frame {3 * number}" for number in range(4)],
        [f"frame {3 * number}" for number in range(4, 12)],
    ]
    few = recorded_view(settings(tmp_path, held_out=0, tests=3), 0, 3)
    assert few.tests.labels == ["frame 12", "frame 21", "frame 33"]


def test_a_single_robot(tmp_path: Path) -> None:
    view = recorded_view(settings(write_npz(tmp_path)), 0, 1)
    assert (len(view.own), len(view.visit), view.tests.labels) == (10, 12, ["frame 6", "frame 21"])


def test_stride_and_size(tmp_path: Path) -> None:
    view = recorded_view(settings(write_npz(tmp_path), stride=2, largest_side=8, held_out=2), 1, 2)
    assert view.visit.labels == ["frame 0", "frame 6", "frame 12"]
    assert view.own.labels == ["frame 18", "frame 30"]
    assert view.own.depths.shape == (2, 6, 8)
    assert view.own.intrinsics == Intrinsics(7.0, 7.0, 3.5, 2.5)


def test_only_frames_that_are_used_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One robot of three, which sees its own part and the next and a frame of the last; and none of them twice."""
    decoded: list[int] = []
    images = FileRecording.images
    monkeypatch.setattr(FileRecording, "images", lambda self, place: decoded.append(place) or images(self, place))
    folder = write_7scenes(tmp_path, 60)
    chosen = settings(folder, held_out=10)
    recorded_view(chosen, 0, 3)
    assert len(decoded) == len(set(decoded))
    needed = set(range(40)) - {5, 15} | {45, 55}
    assert needed <= set(decoded)
    assert len(set(decoded) - needed) <= 8  # a look at the scale, and each robot's first frame
    before = len(decoded)
    recorded_view(chosen, 0, 3)
    recorded_view(settings(folder, held_out=10, lr=0.5), 0, 3)
    assert len(decoded) == before


def test_decoded_images_are_kept_up_to_a_bound() -> None:
    image = (np.zeros((2, 2, 3), dtype=np.uint8), np.zeros((2, 2), dtype=np.float32))  # 28 bytes
    cache = PixelCache(60)
    for key in ("a", "b", "a"):
        cache.put(key, image)
    assert cache.get("a") is image and len(cache) == 2
    cache.put("c", image)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (image, None, image)


# -- the box ---------------------------------------------------------------------------------------------------


def test_bounds_are_those_of_the_points(tmp_path: Path) -> None:
    """A wall two metres ahead of a camera that stands still: one point deep, as wide as the camera sees it."""
    depth = np.full((12, 12, 16), 2000, dtype=np.uint16)
    depth[0, 0, 0] = 4400  # an outlier
    bounds = recorded_bounds(settings(write_npz(tmp_path, depth_mm=depth, pose_c2w=poses(12, 0.0, 0.0))))
    half_x, half_y = 2 * 7.5 / 14 + 0.1, 2 * 5.5 / 14 + 0.1
    assert np.allclose(bounds.low, (-half_x, -half_y, 1.9), atol=1e-3)
    assert np.allclose(bounds.high, (half_x, half_y, 2.1), atol=1e-3)


def test_bounds_of_several_sequences(tmp_path: Path) -> None:
    """They share a frame of reference, and all count, whoever uses them."""
    for number in (1, 2):
        folder = write_7scenes(tmp_path / f"seq-{number}", 4)
        for pose in folder.glob("*.pose.txt"):
            save_matrix(pose, np.array([[1, 0, 0, 3 * number], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    low, high = (recorded_bounds(settings(tmp_path / f"seq-{number}")) for number in (1, 2))
    both = recorded_bounds(settings(tmp_path))
    assert both.low[0] == pytest.approx(low.low[0], abs=0.03) and both.high[0] == pytest.approx(high.high[0], abs=0.03)
    assert high.low[0] - low.low[0] == pytest.approx(3)


def test_bounds_of_large_images_take_some_of_the_pixels(tmp_path: Path) -> None:
    size = (150, 200)
    camera = np.array([[140.0, 0.0, 99.5], [0.0, 140.0, 74.5], [0.0, 0.0, 1.0]])
    write_npz(tmp_path, 2, color=colours(2, size), depth_mm=np.full((2, *size), 2000.0), K=camera)
    every, some = (recorded_bounds(settings(tmp_path, largest_side=side)) for side in (50, 200))
    assert np.allclose(every.low, some.low, atol=0.05) and np.allclose(every.high, some.high, atol=0.05)
    assert every != some


def test_bounds_without_depth(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no depth from 3 to 4.5 m in any of 12 frames"):
        recorded_bounds(settings(write_npz(tmp_path), min_depth=3.0))


# -- bad input -------------------------------------------------------------------------------------------------


def refused(folder: Path, *words: str, workers: int = 2, error: type[ConfigError] = DataError, **others: Any) -> None:
    with pytest.raises(error) as raised:
        recorded_view(settings(folder, **others), 0, workers)
    for word in (str(folder), *words) if error is DataError else words:
        assert word in str(raised.value)


def changed_depth(frames: slice | int, values: Any, count: int = 12) -> dict[str, Any]:
    depth = 1000 * depths(count)
    depth[frames] = values
    return {"depth_mm": depth}


def test_a_first_frame_without_depth(tmp_path: Path) -> None:
    folder = write_npz(tmp_path, **changed_depth(6, 0))
    refused(folder, "part of robot 1", "frame 18", "0.00% of its pixels", "0.1 to 4.5 m", "begin with another frame")
    refused(folder, "part of robot 0", "frame 0", "from 3 to 4.5 m", min_depth=3.0)
    assert len(recorded_view(settings(folder), 0, 1).own) == 10  # later frames may be without


def test_frames_without_depth_are_no_tests(tmp_path: Path) -> None:
    write_npz(tmp_path, **changed_depth(slice(7, 9), np.nan))
    view = recorded_view(settings(tmp_path, held_out=3), 0, 2)
    assert len(view.visit) == 6 and not view.visit.depths[1:3].any()
    assert view.tests.labels == ["frame 30"]
    refused(tmp_path, "none with depth is held out by 5", error=ConfigError)
    refused(tmp_path, "held_out", "parts of 6 frames", "0 to test with", error=ConfigError, held_out=100)
    refused(tmp_path, "held_out: 1 would keep every frame", error=ConfigError, held_out=1)


def test_depth_that_is_none(tmp_path: Path) -> None:
    none = np.resize([np.nan, 0.0, np.inf, 65535.0, -1.0], (6, 16))
    depth = 1000 * depths(12)
    depth[:, :6] = none
    view = recorded_view(settings(write_npz(tmp_path, depth_mm=depth)), 0, 2)
    assert not view.own.depths[:, :6].any() and np.allclose(view.own.depths[0, 6:], depths(12)[0, 6:])
    assert all(np.isfinite(recorded_bounds(settings(tmp_path)).high))


def test_dark_frames_have_depth_and_no_colours(tmp_path: Path) -> None:
    colour = colours(12) // 2 + 60
    colour[[2, 4]] = 3
    given = settings(write_npz(tmp_path, color=colour), held_out=0)
    own = recorded_view(given, 0, 2).own
    pixels = [usable_pixels(own, place, given) for place in range(len(own))]
    assert [each.dark for each in pixels] == [number in (2, 4) for number in range(6)]
    assert all(len(each) for each in pixels)


def test_a_walk_is_no_longer_than_the_setting_says(tmp_path: Path) -> None:
    """A look at the metrics of a recording of thousands of frames would take minutes."""
    view = recorded_view(settings(write_npz(tmp_path), visit_frames=3), 0, 2)
    whole = recorded_view(settings(tmp_path), 0, 2).visit
    assert len(whole) == 6 and view.visit.labels == whole.labels[:3]
    np.testing.assert_array_equal(view.visit.depths, whole.depths[:3])


def test_too_few_frames(tmp_path: Path) -> None:
    write_npz(tmp_path, 5)
    refused(tmp_path, "robot 0 of 3 would have 1 of 5 frames", "fewer robots", workers=3)
    refused(tmp_path, "1 of 1 frames", workers=1, stride=5)
    with pytest.raises(ConfigError, match=r"expected 0\.\.1, got 2"):
        recorded_view(settings(tmp_path), 2, 2)


def test_depth_scale(tmp_path: Path) -> None:
    """Depth in units of 1/5000 m, taken for millimetres, is still of a hall; other mistakes are told."""
    refused(write_npz(tmp_path / "a", depth_mm=depths(12)), "0.00", "depth_scale = 1 (metres)")
    refused(
        write_npz(tmp_path / "b"),
        "median depth is 1.89e+03 m",
        "depth_scale = 1000",
        "would make it 1.89 m",
        depth_scale=1.0,
    )
    refused(tmp_path / "b", "median depth is 0.0189 m", "depth_scale = 1000", depth_scale=1e5)
    odd = write_npz(tmp_path / "c", depth_mm=0.003 * depths(12))
    refused(odd, "depth_scale = 0.00284 would make it 2 m")
    with pytest.raises(DataError, match="depth_scale = 1000"):
        recorded_bounds(settings(tmp_path / "b", depth_scale=1.0))


def test_motion_that_is_too_fast(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    moved = poses(12)
    moved[8:, 1, 3] += 0.4
    write_npz(tmp_path / "a", pose_c2w=moved)
    refused(
        tmp_path / "a", "part of robot 1", "1 of 5 steps", "over 0.3 m", "worst is to frame 24, 0.4", "smaller stride"
    )
    with caplog.at_level(logging.WARNING, "rowcast"):
        assert len(recorded_view(settings(tmp_path / "a", truncation=0.25), 0, 2).own) == 5
        assert not caplog.records
        for _ in range(2):
            recorded_view(settings(tmp_path / "a"), 0, 1)
    assert [record.getMessage().count("1 of 11 steps") for record in caplog.records] == [1]
    turned = write_npz(tmp_path / "b", pose_c2w=poses(12, 0.0, 21.0))
    refused(turned, "5 of 5 steps", "21 degrees")
    assert len(recorded_view(settings(write_npz(tmp_path / "c", pose_c2w=poses(12, 0.0, 19.0))), 0, 2).own) == 5


@pytest.mark.skipif(not REAL.is_dir(), reason="the red kitchen is not here")
def test_the_sample_folder_is_too_coarse_to_track() -> None:
    refused(REAL / "sample_7scenes_layout", "seq-01", "too fast to track", "frame-000", workers=1)


def test_frames_without_a_pose(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As ScanNet marks them; they are left out before the parts are cut."""
    folder = write_scannet(tmp_path / "a")
    for number in (0, 5):
        save_matrix(folder / "pose" / f"{number}.txt", np.full((4, 4), -np.inf))
    with caplog.at_level(logging.WARNING, "rowcast"):
        view = recorded_view(settings(folder, held_out=0), 1, 2)
    assert view.visit.labels == [f"frame {number}" for number in (1, 2, 3, 4, 6)]
    assert view.own.labels == [f"frame {number}" for number in range(7, 12)]
    assert "2 of 12 frames have no finite pose, the first is frame 0; they are left out" in caplog.text
    assert len(caplog.records) == 1
    for number in range(1, 7):
        save_matrix(folder / "pose" / f"{number}.txt", np.diag([1.0, 1.0, np.nan, 1.0]))
    refused(folder, "7 of 12 frames have no finite pose", "frame 0", stride=1, largest_side=16)


def test_poses_that_are_not_rigid(tmp_path: Path) -> None:
    for name, (at, value), words in (
        ("a", ((1, 1), 1.002), "not orthonormal to 0.001"),
        ("b", ((1, 1), -1.0), "mirrors (determinant -1)"),
        ("c", ((3, 3), 2.0), "last row is not 0 0 0 1"),
        ("d", ((3, 0), 0.5), "last row is not 0 0 0 1"),
    ):
        moved = poses(12)
        moved[9][at] = value
        refused(write_npz(tmp_path / name, pose_c2w=moved), "frame 27: the pose is not rigid", words)


@hypothesis_settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.floats(0, 4e-4), st.lists(st.booleans(), min_size=1, max_size=6))
def test_poses_become_exactly_rigid(seed: int, noise: float, there: list[bool]) -> None:
    """Rotations that are off by rounding become exact ones next to them; frames without a pose fall out."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(len(there), 3, 3)))
    given_poses = np.tile(np.eye(4), (len(there), 1, 1))
    given_poses[:, :3, :3] = q * np.sign(np.linalg.det(q))[:, None, None] + rng.uniform(-noise / 3, noise / 3, q.shape)
    given_poses[:, :3, 3] = rng.normal(size=(len(there), 3))
    given_poses[~np.array(there), 1, 2] = np.inf
    names = [str(number) for number in range(len(there))]
    if 2 * sum(there) < len(there):
        with pytest.raises(DataError, match="have no finite pose"):
            usable_poses(given_poses, names, "here")
        return
    kept, found = usable_poses(given_poses, names, "here")
    assert kept.tolist() == there
    rotations = found[:, :3, :3]
    assert np.allclose(rotations.transpose(0, 2, 1) @ rotations, np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(rotations), 1)
    assert np.allclose(found, given_poses[kept], atol=2 * noise + 1e-12)
    with pytest.raises(DataError, match="not rigid"):
        usable_poses(found @ np.diag([1.0, 1.001, 1.0, 1.0]), names[: len(found)], "here")


def test_sequences_of_several_cameras(tmp_path: Path) -> None:
    write_7scenes(tmp_path / "seq-01")
    write_7scenes(tmp_path / "seq-02")
    save_matrix(tmp_path / "seq-02" / "camera-intrinsics.txt", K * [[1.1], [1.0], [1.0]])
    refused(tmp_path, "seq-02", "of one camera")


def test_images_that_would_be_nothing(tmp_path: Path) -> None:
    flat = write_npz(
        tmp_path,
        color=colours(12, (8, 64)),
        depth_mm=1000 * depths(12, (8, 64)),
        K=np.array([[14.0, 0.0, 31.5], [0.0, 14.0, 3.5], [0.0, 0.0, 1.0]]),
    )
    refused(flat, "64 x 8 pixels would be of 8 x 1", "largest_side 8", largest_side=8)
