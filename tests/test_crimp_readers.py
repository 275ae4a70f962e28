"""Readers of recorded sequences: each layout gives the frames that were written, and says what is wrong with them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import recorded
from recorded import K, save, save_matrix, write_npz
from rowcast.errors import ConfigError, DataError
from rowcast.tasks.crimp.frames import Intrinsics
from rowcast.tasks.crimp.readers import LAYOUTS, Camera, Recording, find_sequences
from rowcast.tasks.crimp.readers.seven_scenes import SEVEN_SCENES
from rowcast.tasks.crimp.readers.tum import TUM

REAL = Path(__file__).parents[2] / "shared" / "data" / "rgbd_redkitchen"
CAMERA = Intrinsics(14.0, 14.0, 7.5, 5.5)
WRITERS: dict[str, Callable[[Path], Path]] = {
    "npz": write_npz,
    "7scenes": recorded.write_7scenes,
    "tum": recorded.write_tum,
    "scannet": recorded.write_scannet,
    "replica": recorded.write_replica,
}
#: Units in one metre, so that depths are off by half of one at most.
UNITS = {"npz": 1000, "7scenes": 1000, "tum": 5000, "scannet": 1000, "replica": 6553.5}


def only(folder: Path, camera: Camera | None = None) -> Recording:
    (found,) = find_sequences(folder, camera=camera)
    return found


def refused(folder: Path, *words: str, camera: Camera | None = None) -> None:
    """To find the sequence of a folder and to read it is refused, with these words in the message."""
    with pytest.raises(DataError) as error:
        found = only(folder, camera)
        for place in range(len(found)):
            found.images(place)
        found.poses(np.arange(len(found)))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("layout", sorted(WRITERS))
def test_frames_are_those_that_were_written(layout: str, tmp_path: Path) -> None:
    found = only(WRITERS[layout](tmp_path / "place"))
    assert (len(found), found.size, found.intrinsics) == (12, recorded.SIZE, CAMERA)
    assert np.allclose(found.poses(np.arange(12)), recorded.poses(12), atol=1e-8)
    assert np.array_equal(found.poses(np.array([7, 2])), found.poses(np.arange(12))[[7, 2]])
    assert np.allclose(np.diff(found.times_s), {"npz": 0.1, "tum": 0.05}.get(layout, 1 / 30))
    for place in range(12):
        colour, depth = found.images(place)
        assert (colour.dtype, depth.dtype, colour.shape, depth.shape) == (np.uint8, np.float32, (12, 16, 3), (12, 16))
        assert np.allclose(depth, recorded.depths(12)[place], atol=0.6 / UNITS[layout])
        if layout in ("npz", "7scenes", "tum"):  # JPEG is not exact; ScanNet's colour comes from another camera
            assert np.array_equal(colour, recorded.colours(12)[place])
        elif layout == "replica":
            assert np.abs(colour.astype(int) - recorded.colours(12)[place]).mean() < 3


@pytest.mark.parametrize("layout", sorted(WRITERS))
def test_the_user_may_say_what_the_camera_is(layout: str, tmp_path: Path) -> None:
    given = Camera((15.0, 16.0, 8.0, 6.0), 2 * UNITS[layout])
    found = only(WRITERS[layout](tmp_path / "place"), given)
    assert found.intrinsics == Intrinsics(15.0, 16.0, 8.0, 6.0)
    assert np.allclose(found.images(3)[1] * 2, recorded.depths(12)[3], atol=0.6 / UNITS[layout])
    refused(tmp_path / "place", "intrinsics: expected four numbers", camera=Camera((15.0, 16.0)))
    refused(tmp_path / "place", "setting intrinsics", "of another size", camera=Camera((15.0, 16.0, 320.0, 6.0)))
    refused(tmp_path / "place", "setting intrinsics", "above 0", camera=Camera((15.0, 0.0, 8.0, 6.0)))
    refused(tmp_path / "place", "setting intrinsics", camera=Camera((15.0, float("inf"), 8.0, 6.0)))


def test_no_reader_needs_more_than_names_to_tell_layouts_apart(tmp_path: Path) -> None:
    for name, write in WRITERS.items():
        folder = write(tmp_path / name / "place")
        assert [kind.name for kind in LAYOUTS.values() if kind.is_here(folder)] == [name]


def test_what_is_looked_for_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    refused(tmp_path, *LAYOUTS, "rgb.txt, depth.txt", "found notes.txt", "seq-*")
    with pytest.raises(DataError, match="no such folder"):
        find_sequences(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="no data folder given"):
        find_sequences(None)
    with pytest.raises(ConfigError, match="did you mean '7scenes'"):
        find_sequences(tmp_path, "7scene")
    recorded.write_tum(tmp_path)
    write_npz(tmp_path)
    refused(tmp_path, "several layouts, npz, tum", "setting layout")
    assert find_sequences(tmp_path, "tum")[0].labels[0] == "100.004000.png"
    with pytest.raises(DataError, match=r"folders color, depth, .* set the layout to npz or tum"):
        find_sequences(tmp_path, "scannet")


def test_sub_folders_are_sequences(tmp_path: Path) -> None:
    for number in (10, 2):
        recorded.write_7scenes(tmp_path / f"seq-{number}", 3, first=10 * number)
    (tmp_path / "TrainSplit.txt").write_text("sequence2\n")
    found = find_sequences(tmp_path)
    assert [each.labels[0] for each in found] == ["frame-000020", "frame-000100"]
    assert np.allclose(found[0].times_s, np.array([20, 21, 22]) / 30)
    (tmp_path / "seq-10" / "frame-000100.pose.txt").unlink()
    refused(tmp_path, "seq-10", "pose of frame 100")


@pytest.mark.skipif(not REAL.is_dir(), reason="the red kitchen is not here")
def test_the_sample_folder_has_the_frames_of_the_archive() -> None:
    files, archive = only(REAL / "sample_7scenes_layout"), only(REAL)
    assert files.intrinsics == archive.intrinsics and len(files) == 10
    for place in range(10):
        there = archive.labels.index(f"frame {80 * place}")
        assert all(map(np.array_equal, files.images(place), archive.images(there)))
        assert np.allclose(files.poses(np.array([place])), archive.poses(np.array([there])))


# -- cameras ---------------------------------------------------------------------------------------------------


def test_7scenes_without_a_camera_file_has_the_documented_camera(tmp_path: Path) -> None:
    (recorded.write_7scenes(tmp_path) / "camera-intrinsics.txt").unlink()
    found = astuple(only(tmp_path).intrinsics)
    assert found == pytest.approx((585 / 40, 585 / 40, 320.5 / 40 - 0.5, 240.5 / 40 - 0.5))
    for path in tmp_path.glob("*.depth.png"):
        save(path, np.zeros((12, 12), dtype=np.uint16))
    refused(tmp_path, "12 x 12", "calibrated for 640 x 480")


def test_tum_knows_cameras_by_the_folder(tmp_path: Path) -> None:
    """Names of the data set, of NICE-SLAM, and of a folder within; others have no camera."""
    large = {"rgb": np.zeros((480, 640, 3), dtype=np.uint8), "depth": np.full((480, 640), 9, dtype=np.uint16)}
    for name, focal in (("rgbd_dataset_freiburg1_desk", 517.3), ("fr2_xyz", 520.9), ("FREIBURG3/seq-01", 535.4)):
        folder = recorded.write_tum(tmp_path / name, 2)
        (folder / "camera-intrinsics.txt").unlink()
        refused(folder, "calibrated for 640 x 480", "16 x 12")
        for kind, pixels in large.items():
            for path in (folder / kind).iterdir():
                save(path, pixels)
        assert only(folder).intrinsics.fx == focal
    unnamed = recorded.write_tum(tmp_path / "afr1ca", 2)
    (unnamed / "camera-intrinsics.txt").unlink()
    refused(unnamed, "intrinsics are missing", "freiburg1", "setting intrinsics")


def test_intrinsics_of_another_size_or_none(tmp_path: Path) -> None:
    folder = recorded.write_7scenes(tmp_path / "a")
    for wrong in (4 * K, K * [[0.0], [1.0], [1.0]]):
        save_matrix(folder / "camera-intrinsics.txt", wrong)
        refused(folder, "camera-intrinsics.txt", "setting intrinsics")
    (folder / "camera-intrinsics.txt").write_text("14 0 7.5 0 14\n")
    refused(folder, "camera-intrinsics.txt", "3 x 3 numbers")
    refused(write_npz(tmp_path / "b", K=K / 4), "sequence.npz, K", "of another size")
    folder = recorded.write_scannet(tmp_path / "c")
    (folder / "intrinsic" / "intrinsic_color.txt").unlink()
    refused(folder, "intrinsic_color.txt: intrinsics are missing")
    folder = recorded.write_replica(tmp_path / "d")
    parameters = tmp_path / "cam_params.json"
    written = json.loads(parameters.read_text())
    parameters.write_text(json.dumps({"camera": {**written["camera"], "w": 32}}))
    refused(folder, "cam_params.json", "32 x 12", "16 x 12")
    parameters.write_text("{}")
    refused(folder, "cam_params.json", "fx, fy, cx, cy, scale")
    parameters.write_text(json.dumps({"camera": {**written["camera"], "scale": 0}}))
    refused(folder, "cam_params.json", "a scale above 0")
    parameters.unlink()
    refused(folder, "no cam_params.json")
    found = only(folder, Camera((14.0, 14.0, 7.5, 5.5)))  # the scale is that of the data set
    assert np.allclose(found.images(3)[1], recorded.depths(12)[3], atol=1e-3)


def test_scannet_colour_is_that_of_the_depth_camera(tmp_path: Path) -> None:
    """The colour camera has twice the focal length and its principal point at (17.5, 12.5) of 36 x 28 pixels."""
    folder = recorded.write_scannet(tmp_path)
    colour, depth = only(folder).images(3)
    v, u = np.mgrid[0:12, 0:16]
    assert np.abs(colour[..., 0] - 4 * (2 * (u - 7.5) + 17.5))[:, 1:-1].max() < 4
    assert np.abs(colour[..., 1] - 4 * (2 * (v - 5.5) + 12.5))[1:-1].max() < 4
    assert np.all(depth > 0)
    narrow = np.eye(4)
    narrow[:3, :3] = [[40.0, 0.0, 17.5], [0.0, 28.0, 12.5], [0.0, 0.0, 1.0]]
    save_matrix(folder / "intrinsic" / "intrinsic_color.txt", narrow)
    colour, depth = only(folder).images(3)
    outside = np.abs(40 / 14 * (np.arange(16) - 7.5) + 17.5 - 17.5) > 18
    assert np.array_equal(np.flatnonzero(outside), [0, 1, 14, 15])
    assert np.array_equal(depth > 0, np.tile(~outside, (12, 1)))
    narrow[:2, :2] = np.diag([28.0, 40.0])
    save_matrix(folder / "intrinsic" / "intrinsic_color.txt", narrow)
    outside = np.abs(40 / 14 * (np.arange(12) - 5.5) + 0.5 - 1.5) > 14
    depth = only(folder).images(3)[1]
    assert outside.sum() == 2 and np.array_equal(depth > 0, np.tile(~outside[:, None], (1, 16)))
    narrow[0, 0] = 4000.0
    save_matrix(folder / "intrinsic" / "intrinsic_color.txt", narrow)
    refused(folder, "0.jpg", "by the intrinsics")


def test_scannet_cameras_of_one_size(tmp_path: Path) -> None:
    """Two old scans have colour as small as depth; what counts is whether the intrinsics differ."""
    folder, camera = recorded.write_scannet(tmp_path), np.eye(4)
    flat = recorded.colours(12)[4]
    for path in (folder / "color").iterdir():
        save(path.with_suffix(".png"), flat)
        path.unlink()
    for focal, same in ((14.0, True), (28.0, False)):
        camera[:3, :3] = K * [[focal / 14], [1.0], [1.0]]
        camera[0, 2] = 7.5
        save_matrix(folder / "intrinsic" / "intrinsic_color.txt", camera)
        assert np.array_equal(only(folder).images(0)[0], flat) == same


# -- images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_both_modes_of_deep_images(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PNG of 16 bits is of mode I in older versions of Pillow. 65.535 m and 0 are no measurements."""
    folder, opened = recorded.write_7scenes(tmp_path, 1), Image.open
    save(folder / "frame-000000.depth.png", np.tile(np.array([[0, 65535], [1500, 2000]], dtype=np.uint16), (6, 8)))
    found = only(folder)
    monkeypatch.setattr(
        Image,
        "open",
        lambda *args, **kwargs: opened(*args, **kwargs).convert(mode if "depth" in args[0].name else "RGB"),
    )
    assert np.allclose(found.images(0)[1], np.tile([[0, 0], [1.5, 2.0]], (6, 8)))


def test_npz_depth_may_be_nan_and_infinite(tmp_path: Path) -> None:
    raw = 1000 * recorded.depths(12)
    raw[2, 0, :5] = [np.nan, np.inf, -np.inf, -3.0, 65535.0]
    depth = only(write_npz(tmp_path, depth_mm=raw)).images(2)[1]
    assert np.array_equal(depth[0, :5], np.zeros(5))
    assert np.all(depth[1:] > 1)


@pytest.mark.parametrize("layout", ["7scenes", "tum", "scannet", "replica"])
def test_damaged_images(layout: str, tmp_path: Path) -> None:
    folder = WRITERS[layout](tmp_path / "place")
    path = sorted(folder.rglob("*.png"))[-1 if layout == "tum" else -2 if layout == "scannet" else -1]
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:60] + bytes(40) + whole[100:]):
        path.write_bytes(damaged)
        refused(folder, str(path), "cut off or damaged", "fetch the file again")


def test_shallow_depth_images(tmp_path: Path) -> None:
    folder = recorded.write_7scenes(tmp_path)
    for pixels in (np.zeros((12, 16), dtype=np.uint8), np.zeros((12, 16, 3), dtype=np.uint8)):
        save(folder / "frame-000007.depth.png", pixels)
        refused(folder, "frame-000007.depth.png", "16 bits", "mode 'L'" if pixels.ndim == 2 else "mode 'RGB'")


def test_images_of_several_sizes(tmp_path: Path) -> None:
    for layout in ("7scenes", "tum", "replica"):
        folder = WRITERS[layout](tmp_path / layout / "place")
        colour = sorted([*folder.rglob("*.jpg"), *folder.rglob("*.color.png"), *folder.rglob("rgb/*")])[4]
        save(colour, np.zeros((24, 32, 3), dtype=np.uint8))
        refused(folder, str(colour), "16 x 12", "32 x 24", "of one size")
    save(tmp_path / "7scenes" / "place" / "frame-000002.depth.png", np.ones((6, 8), dtype=np.uint16))
    refused(tmp_path / "7scenes" / "place", "frame-000002.depth.png", "found 8 x 6")
    refused(write_npz(tmp_path / "npz", color=recorded.colours(12, (6, 8))), "8 x 6 and 16 x 12")


# -- frames that are missing, out of order, or have no pose ------------------------------------------------------


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    folder = recorded.write_7scenes(tmp_path / "a")
    (folder / "frame-000005.pose.txt").unlink()
    refused(folder, "12 colour, 12 depth, 11 pose", "pose of frame 5 is the first", "frame-000005.color.png")
    (folder / "frame-000003.color.png").unlink()
    refused(folder, "colour of frame 3")
    folder = recorded.write_scannet(tmp_path / "b")
    (folder / "depth" / "0.png").unlink()
    refused(folder, "depth of frame 0")
    folder = recorded.write_replica(tmp_path / "c")
    (folder / "traj.txt").write_text("\n".join((folder / "traj.txt").read_text().splitlines()[:9]))
    refused(folder, "traj.txt", "each of 12 frames, found 9", "frame000009")
    folder = recorded.write_tum(tmp_path / "d")
    (folder / "depth" / "100.104000.png").unlink()
    refused(folder, "depth.txt", "100.104000.png is the first that is missing")
    (folder / "groundtruth.txt").unlink()
    refused(folder, "lacks groundtruth.txt")
    refused(write_npz(tmp_path / "e", pose_c2w=recorded.poses(10)), "12 color", "10 pose_c2w", "lacks frame 10")
    (tmp_path / "f" / "color").mkdir(parents=True)
    (tmp_path / "f" / "pose").mkdir()
    refused(tmp_path / "f", "expected a folder")
    (tmp_path / "f" / "depth").mkdir()
    refused(tmp_path / "f", "found no frames")


def test_frames_out_of_order(tmp_path: Path) -> None:
    numbers = np.arange(12)
    numbers[[4, 5]] = 5, 4
    refused(write_npz(tmp_path / "a", frame_id=numbers), "frame_id", "found frame 4 after frame 5")
    folder = recorded.write_tum(tmp_path / "b")
    lines = (folder / "rgb.txt").read_text().splitlines()
    (folder / "rgb.txt").write_text("\n".join([*lines[:4], lines[5], lines[4], *lines[6:]]))
    refused(folder, "rgb.txt", "rgb/100.150000.png after rgb/100.200000.png")
    folder = recorded.write_scannet(tmp_path / "c")
    save_matrix(folder / "pose" / "007.txt", np.eye(4))
    refused(folder, "007.txt and 7.txt are both frame 7")


def test_numbers_are_counted_and_not_spelled(tmp_path: Path) -> None:
    """ScanNet writes 10.jpg, which stands before 9.jpg in a list of names."""
    assert list(only(recorded.write_scannet(tmp_path)).labels) == [f"frame {number}" for number in range(12)]


def test_tum_takes_what_is_near_in_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = recorded.write_tum(tmp_path)
    for name in ("rgb.txt", "groundtruth.txt"):  # a colour image and the poses around another depth image are gone
        lines = (folder / name).read_text().splitlines()
        gone = "100.150000" if name == "rgb.txt" else ("100.23", "100.24", "100.25", "100.26", "100.27")
        (folder / name).write_text("\n".join(line for line in lines if not line.startswith(gone)) + "\n")
    found = only(folder)
    assert len(found) == 11 and "100.154000.png" not in found.labels
    assert "100.254000.png" in found.labels
    poses = found.poses(np.arange(11))
    assert np.flatnonzero(~np.isfinite(poses).all(axis=(1, 2))).tolist() == [found.labels.index("100.254000.png")]
    assert np.allclose(poses[0], recorded.poses(12)[0]) and np.allclose(poses[-1], recorded.poses(12)[-1])
    assert not caplog.records
    (folder / "rgb.txt").write_text("\n".join((folder / "rgb.txt").read_text().splitlines()[:5]))
    with caplog.at_level(logging.WARNING, "rowcast"):
        assert len(only(folder)) == 4
    assert "8 images have no partner within 0.02 s" in caplog.text
    (folder / "rgb.txt").write_text("5000.0 rgb/100.000000.png\n")
    refused(folder, "no image of rgb.txt is within 0.02 s")


def test_lines_that_are_none(tmp_path: Path) -> None:
    folder = recorded.write_tum(tmp_path / "a")
    whole = (folder / "groundtruth.txt").read_text()
    for line, words in {
        "100.9 1 2 3": ("line 62", "time, tx ty tz"),
        "100.9 1 2 3 0 0 0 x": ("line 62", "time, tx ty tz"),
        "100.9 1 2 3 0 0 0 0": ("line 62", "not rigid", "quaternion"),
        "100.9 1 2 3 0 0 0 1.02": ("line 62", "not rigid", "length 1.02"),
    }.items():
        (folder / "groundtruth.txt").write_text(f"{whole}{line}\n")
        refused(folder, "groundtruth.txt", *words)
    (folder / "groundtruth.txt").write_text("# nothing\n")
    refused(folder, "groundtruth.txt", "found none")
    (folder / "depth.txt").write_text("100.0 a b\n")
    refused(folder, "depth.txt: line 1", "a time and a file")
    folder = recorded.write_7scenes(tmp_path / "b")
    (folder / "frame-000002.pose.txt").write_text("1 0 0 0\n0 1 0 0\n0 0 1 zero\n0 0 0 1\n")
    refused(folder, "frame-000002.pose.txt", "4 x 4 numbers", "zero")
    (folder / "frame-000002.pose.txt").write_bytes(b"\xff\xfe\x00")
    refused(folder, "frame-000002.pose.txt", "text file")
    folder = write_npz(tmp_path / "c", color=np.zeros((12, 12, 16), dtype=np.uint8))
    refused(folder, "color: found uint8 (12, 12, 16)")
    (folder / "sequence.npz").write_bytes(b"PK")
    refused(folder, "sequence.npz", "whole .npz")


def test_layouts_say_what_they_look_for() -> None:
    assert (SEVEN_SCENES.name, TUM.name) == ("7scenes", "tum")
    assert all(LAYOUTS[name].name == name and LAYOUTS[name].files for name in WRITERS)
    assert sorted(LAYOUTS) == sorted(WRITERS)
