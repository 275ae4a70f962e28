"""The filter for a robot that stands still: which frames go through, what is counted, and what is committed."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from commands import running
from recordings import FakeTime, rest
from rowcast.errors import ConfigError, DataError, SourceEnded, StreamGap
from rowcast.loader import StreamLoader
from rowcast.sources import PulledSource, ReplaySource, StillFilter, join_sources, make_source
from rowcast.sources.still import frame_of, thumbnail
from rowcast.streams import Positions, Sample
from rowcast.tasks import pack_item
from rowcast.testing import check_source

KITCHEN = Path(__file__).parents[2] / "shared" / "data" / "rgbd_redkitchen" / "redkitchen_160x120.npz"


class Frames(PulledSource):
    """Frames, one a second or at given times; says what was committed."""

    def __init__(self, frames: Sequence[Any], times: Sequence[float] | None = None, **settings: Any) -> None:
        super().__init__("frames", **settings)
        self._frames = frames
        self._times = list(range(len(frames))) if times is None else times
        self.commits: list[dict[str, int]] = []

    def _begin(self, positions: Positions) -> Positions:
        self._at = positions.get("camera", 0)
        if self._at > len(self._frames):
            raise StreamGap("frames: they end before that")
        return Positions({"camera": self._at}) if self._at else Positions()

    def _next(self, at_most: int) -> list[Sample]:
        first, self._at = self._at, min(self._at + at_most, len(self._frames))
        if first == self._at:
            raise SourceEnded("all frames were delivered")
        return [Sample("camera", k + 1, self._times[k], self._frames[k], 100) for k in range(first, self._at)]

    def _left(self) -> int:
        return len(self._frames) - self._at

    def commit(self, positions: Positions) -> None:
        super().commit(positions)
        self.commits.append(dict(positions))

    def _end(self) -> None:
        pass


def raw(sample: Sample) -> Any:
    return sample.payload


def standing(count: int, level: float = 100.0) -> list[Any]:
    """A picture with the noise of a camera."""
    rng = np.random.default_rng(3)
    seen = level + 40 * np.sin(np.arange(96))[:, None, None] * np.ones((96, 128, 3))
    return [np.clip(seen + rng.normal(0, 6, seen.shape), 0, 255).astype(np.uint8) for _ in range(count)]


def grey(*levels: float) -> list[Any]:
    """Frames of one grey, 0 .. 1."""
    return [np.full((64, 64), level, dtype=np.float32) for level in levels]


def places(samples: Sequence[Sample]) -> list[int]:
    return [sample.position for sample in samples]


def kept(frames: Sequence[Any], times: Sequence[float] | None = None, **settings: Any) -> list[int]:
    source = StillFilter(Frames(frames, times), frame=raw, **settings)
    source.open()
    return places(rest(source))


# -- which are kept ------------------------------------------------------------------------------------------


def test_of_a_robot_that_stands_still_one_frame_is_kept() -> None:
    source = StillFilter(Frames(standing(100)), t_max_s=1e6, frame=raw)
    source.open()
    assert places(rest(source)) == [1]
    assert (source.kept, dict(source.dropped)) == (1, {"still": 99})


def test_one_is_kept_each_time_the_last_is_too_old() -> None:
    assert kept(standing(100), t_max_s=30.0) == [1, 31, 61, 91]


def test_what_changes_is_kept() -> None:
    moving = [np.roll(standing(1)[0], 3 * k, axis=0) for k in range(10)]
    assert kept(moving) == list(range(1, 11))


def test_the_last_that_was_kept_is_what_counts_not_the_one_before() -> None:
    """A slow drift, of which no frame differs from the one before by as much as the threshold."""
    assert kept(grey(0.50, 0.515, 0.53, 0.545, 0.56, 0.575), theta=0.02) == [1, 3, 5]


def test_a_difference_of_the_threshold_itself_is_none() -> None:
    assert kept(grey(0.5, 0.75, 0.75), theta=0.25) == [1]
    assert kept(grey(0.5, 0.5, 0.75), theta=0.0) == [1, 3]


def test_times_that_go_back_are_another_recording_unless_by_a_little() -> None:
    assert kept(grey(*[0.5] * 4), times=[10.0, 10.5, 9.8, 10.6]) == [1]
    assert kept(grey(*[0.5] * 4), times=[10.0, 10.5, 3.0, 3.5]) == [1, 3]
    assert kept(grey(*[0.5] * 3), times=[0.0, float("nan"), 1.0]) == [1, 2, 3]


def test_each_partition_has_a_last_frame_of_its_own() -> None:
    both = StillFilter(join_sources([Frames(grey(0.2, 0.2)), Frames(grey(0.8, 0.8))]), frame=raw)
    both.open()
    assert sorted((each.partition, each.position) for each in rest(both)) == [("0/camera", 1), ("1/camera", 1)]


def test_what_is_no_frame_goes_through_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    frames = [*grey(0.5), np.zeros(7), "text", np.full((4, 4), np.nan), *grey(0.5)]
    source = StillFilter(Frames(frames), frame=raw)
    source.open()
    with caplog.at_level(logging.WARNING, "rowcast"):
        assert places(rest(source)) == [1, 2, 3, 4]
    assert source.unreadable == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "sample 2 of camera is no frame that the filter can read; all such go through" in caplog.text


def test_an_error_of_the_setting_is_not_taken_for_a_bad_frame() -> None:
    def refuses(sample: Sample) -> Any:
        raise ConfigError("frame: a library is missing")

    source = StillFilter(Frames(grey(0.5)), frame=refuses)
    source.open()
    with pytest.raises(ConfigError, match="a library is missing"):
        source.take(1, 0.0)


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_a_threshold_out_of_range_is_refused(bad: float) -> None:
    with pytest.raises(ConfigError, match=r"still \(theta\): expected a difference from 0 to 1, got"):
        StillFilter(Frames([]), theta=bad)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf"), float("nan")])
def test_a_longest_time_out_of_range_is_refused(bad: float) -> None:
    with pytest.raises(ConfigError, match="t_max: expected seconds above 0, got"):
        StillFilter(Frames([]), t_max_s=bad)


# -- as a source ---------------------------------------------------------------------------------------------


def test_suite() -> None:
    """A filter that drops nothing keeps all promises of a source."""
    frames = grey(*np.linspace(0, 1, 30))
    check_source(lambda: StillFilter(Frames(frames), frame=raw))


def test_where_it_goes_on_the_first_frame_is_kept() -> None:
    source = StillFilter(Frames(grey(*[0.5] * 6)), frame=raw)
    source.open()
    assert places(rest(source)) == [1]
    source.close()
    source.open(Positions({"camera": 3}))
    assert (places(rest(source)), source.kept, dict(source.dropped)) == ([4], 1, {"still": 2})


def test_it_waits_for_a_frame_that_is_kept_as_long_as_asked() -> None:
    time = FakeTime()
    frames = grey(*[0.5] * 40, 0.9)
    played = make_source_at(time, frames)
    played.open()
    assert places(played.take(100, 0.0)) == [1]
    assert places(played.take(100, 60.0)) == [41]
    assert time.now == pytest.approx(140.0)
    played = make_source_at(time, frames)
    played.open()
    played.take(100, 0.0)
    before = time.now
    assert played.take(100, 5.0) == []
    assert time.now - before == pytest.approx(5.0)


def make_source_at(time: FakeTime, frames: Sequence[Any]) -> StillFilter:
    """Frames that come one a second."""
    return StillFilter(ReplaySource(Frames(frames), **time.settings), t_max_s=1e6, frame=raw, clock=time)


def test_what_was_dropped_behind_is_committed_with_it() -> None:
    inner = Frames(grey(0.5, 0.5, 0.9, 0.9, 0.9))
    source = StillFilter(inner, frame=raw)
    source.open()
    assert places(source.take(4, 0.0)) == [1, 3]
    assert inner.commits == []
    source.commit(Positions({"camera": 1}))
    assert inner.commits == [{"camera": 1}], "the frame behind what was dropped was not trained on yet"
    source.commit(Positions({"camera": 3}))
    assert inner.commits[-1] == {"camera": 4}
    assert source.take(4, 0.0) == []
    assert inner.commits[-1] == {"camera": 5}, "while the robot stands still nobody else commits"


def test_nothing_is_committed_before_what_was_kept() -> None:
    inner = Frames(grey(*[0.5] * 5))
    source = StillFilter(inner, frame=raw)
    source.open()
    source.take(5, 0.0)
    assert inner.commits == []


def test_the_loader_counts_what_was_dropped() -> None:
    source = StillFilter(Frames(standing(50)), t_max_s=10.0, frame=raw)
    with StreamLoader(source, lambda sample: torch.tensor(float(sample.position)), batch="fixed:5") as loader:
        assert [batch.tolist() for batch in loader] == [[1.0, 11.0, 21.0, 31.0, 41.0]]
        assert dict(loader.dropped) == {"still": 45}


# -- by a text -----------------------------------------------------------------------------------------------


def folder_of(path: Path, count: int) -> Path:
    for k, frame in enumerate(standing(count)):
        file = path / f"{k:03d}.npy"
        np.save(file, frame)
        os.utime(file, (1000.0 + k, 1000.0 + k))
    return path


def test_a_text_has_it_as_options(tmp_path: Path) -> None:
    source = make_source(f"dir://{folder_of(tmp_path, 12)}?settle=0&index=none&still=0.02&t_max=5")
    assert isinstance(source, StillFilter)
    source.open()
    assert places(source.take(100, 0.0)) == [1, 6, 11]
    source.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("still=much", "option 'still': expected a number from 0 to 1, got 'much'"),
        ("still=2", "option 'still': expected a number from 0 to 1, got '2'"),
        ("t_max=5", "t_max goes with still=THETA"),
        ("still=0.02&t_max=0", "t_max: expected seconds above 0, got 0"),
        ("still=0.02&t_max=-1", "option 't_max': expected a number of 0 or more, got '-1'"),
        ("still=0.02&still=0.03", "option 'still' is given 2 times"),
        ("still=0.02&tmax=5", "unknown option 'tmax'"),
    ],
)
def test_options_that_do_not_fit_are_said(tmp_path: Path, options: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_source(f"dir://{tmp_path}?{options}")
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_stream_stats_shows_the_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path, 12)
    with running(monkeypatch, capsys, "stream", "stats") as run:
        code, out, _ = run(f"dir://{folder}?settle=0&still=0.02&t_max=5", "--seconds", "0.5")
    assert code == 0
    assert "dropped: still" in out and out.split("dropped: still")[1].split()[0] == "9"


# -- frames --------------------------------------------------------------------------------------------------


def test_a_thumbnail_is_the_mean_of_areas() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 96), dtype=np.uint8)
    wanted = frame.reshape(32, 2, 32, 3).mean(axis=(1, 3)) / 255
    np.testing.assert_allclose(thumbnail(frame), wanted, atol=1e-6)


def test_areas_may_cut_pixels_and_frames_may_be_small() -> None:
    ramp = np.tile(np.arange(48, dtype=np.float64), (5, 1)) / 48
    found = thumbnail(ramp)
    assert found.shape == (32, 32)
    assert found.mean() == pytest.approx(ramp.mean(), abs=1e-6)
    assert found[7, 0] == pytest.approx((ramp[0, 0] + ramp[0, 1] / 2) / 1.5, abs=1e-6)


def test_the_forms_of_a_frame_are_the_same_frame() -> None:
    colour = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    usual = thumbnail(colour)
    np.testing.assert_allclose(thumbnail(colour.transpose(2, 0, 1)), usual, atol=1e-6)
    np.testing.assert_allclose(thumbnail(colour / 255), usual, atol=1e-6)
    np.testing.assert_allclose(thumbnail(colour.astype(np.uint16) * 257), usual, atol=1e-6)
    opaque = np.concatenate([colour, np.full((40, 50, 1), 255, np.uint8)], axis=2)
    np.testing.assert_allclose(thumbnail(opaque), usual, atol=1e-6)
    np.testing.assert_allclose(thumbnail(torch.from_numpy(colour)), usual, atol=1e-6)
    one = colour[:, :, :1]
    np.testing.assert_allclose(thumbnail(one), thumbnail(one[:, :, 0]), atol=1e-6)


@pytest.mark.parametrize(
    "bad", [np.zeros(5), np.zeros((2, 2, 2)), np.zeros((0, 4)), np.array([["a"]]), np.full((3, 3), np.inf), 1.0]
)
def test_what_is_no_frame_is_refused(bad: Any) -> None:
    with pytest.raises(DataError, match=r"^frame: expected "):
        thumbnail(bad)


def test_frames_are_read_from_files_and_items() -> None:
    colour = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    png, npy = io.BytesIO(), io.BytesIO()
    Image.fromarray(colour).save(png, "PNG")
    np.save(npy, colour)
    packed = pack_item((3, torch.from_numpy(colour)))
    for data in (png.getvalue(), npy.getvalue(), packed):
        np.testing.assert_array_equal(frame_of(Sample("camera", 1, 0.0, data, 1)), colour)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff cut off", pack_item([1, "two"]), "text"])
def test_other_payloads_are_no_frames(data: Any) -> None:
    with pytest.raises(DataError, match=r"^frame: "):
        frame_of(Sample("camera", 1, 0.0, data, 1))


def test_an_image_without_pillow_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ConfigError, match=r"pip install 'rowcast\[demo\]'"):
        frame_of(Sample("camera", 1, 0.0, b"\xff\xd8\xff", 1))


def test_of_a_camera_that_moves_it_keeps_nearly_all_at_the_usual_threshold() -> None:
    if not KITCHEN.exists():
        pytest.skip("the recorded frames of the kitchen are not on this machine")
    with np.load(KITCHEN) as archive:
        frames = list(archive["color"])
    assert len(kept(frames, t_max_s=1e6)) / len(frames) == pytest.approx(0.98, abs=0.02)
    assert len(kept(frames, theta=0.12, t_max_s=1e6)) / len(frames) == pytest.approx(0.25, abs=0.03)
