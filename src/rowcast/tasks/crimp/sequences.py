"""Recorded RGB-D sequences as what each robot of a team sees: parts, walks and frames that are kept for tests."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np
import numpy.typing as npt

from rowcast.errors import ConfigError, DataError
from rowcast.tasks.base import Task
from rowcast.tasks.crimp.checks import check_depth_scale, check_first_depth, check_motion
from rowcast.tasks.crimp.frames import Frames
from rowcast.tasks.crimp.readers import Camera, find_sequences
from rowcast.tasks.crimp.scene import Bounds, View
from rowcast.tasks.crimp.settings import RecordedSettings
from rowcast.tasks.crimp.tracks import PixelCache, Track

__all__ = ["recorded_bounds", "recorded_view"]

#: A box is that of so many frames, spread over all, and of so many pixels of each, at most.
_BOUNDS_FRAMES, _BOUNDS_PIXELS = 128, 4096
_QUANTILES = (0.005, 0.995)
_MARGIN_M = 0.1
#: So many frames of a sequence are looked at to see whether the scale of the depth can be right.
_SCALE_FRAMES = 8
_LEAST_FRAMES = 2


@dataclasses.dataclass(frozen=True)
class _Source:
    """What decides which frames there are."""

    data_dir: str | None
    layout: str | None
    camera: Camera
    stride: int
    largest_side: int

    @classmethod
    def of(cls, settings: RecordedSettings) -> _Source:
        camera = Camera(settings.intrinsics, settings.depth_scale)
        return cls(settings.data_dir, settings.layout, camera, settings.stride, settings.largest_side)


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """Consecutive frames of a track, those from ``start`` to before ``end``."""

    track: Track
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    def frames(self, which: npt.NDArray[np.int64]) -> Frames:
        return self.track.frames(self.start + which)


def recorded_view(settings: RecordedSettings, index: int, workers: int) -> View:
    """What robot ``index`` of ``workers`` sees of the recorded frames in ``settings.data_dir``.

    Each robot has a part: where the folder holds as many sequences as there are robots, a sequence, and else
    consecutive frames of one, as many as the others of that sequence (a longer sequence goes to more robots). Of each
    part one frame in ``held_out`` is mapped by nobody.

    - ``own``: the part, without what is held out.
    - ``visit``: the first ``visit_frames`` of the part of the next robot, in order; its owner mapped them, but for the
      held-out ones.
    - ``tests``: the held-out frames of all other robots' parts; with ``held_out=0`` all frames of those, which their
      owners mapped. Of more than ``settings.tests`` these are so many, evenly spread. A single robot has no others: it
      is tested on, and walks in, its own part. Frames without any depth between ``min_depth`` and ``max_depth`` are no
      tests.

    The same settings give the same view in every process. Decoded frames are kept in the process (512 MB at most), so
    that the robots of one process decode each once; a folder that changes meanwhile is not looked at again.

    Args:
        settings: of the task.
        index: of the robot, from 0.
        workers: robots of the team.

    Raises:
        ConfigError: no such robot, or a setting of which no frames are left.
        DataError: what is wrong with the files, with the name of file and frame.
    """
    Task.check_index(index, workers)
    if settings.held_out == 1:
        raise ConfigError("held_out: 1 would keep every frame for the tests; expected 0 (none), or 2 and more")
    parts = _parts(_Source.of(settings), workers, 2 * settings.truncation, settings.min_depth, settings.max_depth)
    mine, other = parts[index], parts[(index + 1) % workers]
    others = [part for part in parts if part is not mine] or [mine]
    return View(
        own=mine.frames(np.flatnonzero(~_held_out(mine, settings.held_out))),
        visit=other.frames(np.arange(min(len(other), settings.visit_frames))),
        tests=_tests(others, settings),
        obstacles=np.zeros((0, 4)),
    )


def recorded_bounds(settings: RecordedSettings) -> Bounds:
    """The box in which what was recorded lies, the same for every number of robots.

    Its sides are the 0.5 % and 99.5 % quantiles of the measured points, and 0.1 m of margin. Of a long recording 128
    frames count, spread evenly over it.

    Raises:
        DataError: as :func:`recorded_view`; no depth in any of these frames.
    """
    return _bounds(_Source.of(settings), settings.min_depth, settings.max_depth)


@functools.lru_cache(maxsize=4)
def _tracks(source: _Source) -> tuple[Track, ...]:
    pixels = PixelCache()
    recordings = find_sequences(source.data_dir, source.layout, source.camera)
    tracks = tuple(Track(each, source.stride, source.largest_side, pixels) for each in recordings)
    for track, recording in zip(tracks, recordings, strict=True):
        if (track.size, track.intrinsics) != (tracks[0].size, tracks[0].intrinsics):
            raise DataError(
                f"{track.name}: {track.size}, {track.intrinsics}; expected what {tracks[0].name} has, "
                f"{tracks[0].size}, {tracks[0].intrinsics}: the sequences of a folder are of one camera"
            )
        check_depth_scale(track.frames(_spread(len(track), _SCALE_FRAMES)), recording.units_per_metre)
    return tracks


@functools.lru_cache(maxsize=8)
def _parts(source: _Source, workers: int, farthest_m: float, min_depth: float, max_depth: float) -> tuple[_Part, ...]:
    """The parts of all robots, checked."""
    tracks = _tracks(source)
    lengths = [len(track) for track in tracks]
    robots = _robots(lengths, workers)
    parts: list[_Part] = []
    for track, count in zip(tracks, robots, strict=True):
        edges = [len(track) * number // count for number in range(count + 1)] if count else []
        parts += [_Part(track, start, end) for start, end in itertools.pairwise(edges)]
    for number, part in enumerate(parts):
        if len(part) < _LEAST_FRAMES:
            raise DataError(
                f"{part.track.name}: robot {number} of {workers} would have {len(part)} of {len(part.track)} frames; "
                f"expected {_LEAST_FRAMES} a robot at least: take fewer robots, a smaller stride or a longer sequence"
            )
        name = f"{part.track.name}, part of robot {number}"
        check_motion(
            part.track.poses[part.start : part.end], part.track.labels[part.start : part.end], name, farthest_m
        )
        check_first_depth(dataclasses.replace(part.frames(np.arange(1)), name=name), min_depth, max_depth)
    return tuple(parts)


@functools.lru_cache(maxsize=8)
def _bounds(source: _Source, min_depth: float, max_depth: float) -> Bounds:
    tracks = _tracks(source)
    ends = np.cumsum([0] + [len(track) for track in tracks])
    chosen = _spread(int(ends[-1]), _BOUNDS_FRAMES)
    points: list[npt.NDArray[np.float64]] = []
    for track, start, end in zip(tracks, ends, ends[1:], strict=False):
        frames = track.frames(chosen[(chosen >= start) & (chosen < end)] - start)
        step = int(np.ceil(np.sqrt(track.size[0] * track.size[1] / _BOUNDS_PIXELS)))
        depths = frames.depths[:, ::step, ::step]
        rays = frames.intrinsics.rays(*track.size)[::step, ::step]
        for depth, pose in zip(depths, frames.poses, strict=True):
            measured = (depth > min_depth) & (depth < max_depth)
            points.append((rays[measured] * depth[measured][:, None]) @ pose[:3, :3].T + pose[:3, 3])
    every = np.concatenate(points)
    if not len(every):
        raise DataError(
            f"{tracks[0].name}: no depth from {min_depth:g} to {max_depth:g} m in any of {len(chosen)} frames; "
            "set min_depth and max_depth to fit the place"
        )
    low, high = np.quantile(every, _QUANTILES, axis=0) + np.array([[-_MARGIN_M], [_MARGIN_M]])
    return Bounds((float(low[0]), float(low[1]), float(low[2])), (float(high[0]), float(high[1]), float(high[2])))


def _robots(lengths: list[int], workers: int) -> list[int]:
    """How many robots are in each sequence: one in each, then one more where each has most frames."""
    robots = [int(number < workers) for number in range(len(lengths))]
    for _ in range(workers - sum(robots)):
        longest = max(range(len(lengths)), key=lambda number: lengths[number] / (robots[number] + 1))
        robots[longest] += 1
    return robots


def _held_out(part: _Part, every: int) -> npt.NDArray[np.bool_]:
    """Which frames of a part nobody maps: the middle one of each ``every``, so that the first is mapped."""
    places = np.arange(len(part))
    return places % every == every // 2 if every else np.zeros(len(part), dtype=bool)


def _tests(parts: list[_Part], settings: RecordedSettings) -> Frames:
    """Frames of these parts that nobody maps (any, where none is held out), evenly spread over them."""
    every = settings.held_out
    places = [np.flatnonzero(_held_out(part, every)) if every else np.arange(len(part)) for part in parts]
    ends = np.cumsum([0] + [len(each) for each in places])
    chosen = _spread(int(ends[-1]), settings.tests)
    found: list[Frames] = []
    for part, among, (start, end) in zip(parts, places, itertools.pairwise(ends.tolist()), strict=True):
        frames = part.frames(among[chosen[(chosen >= start) & (chosen < end)] - start])
        seen = (frames.depths > settings.min_depth) & (frames.depths < settings.max_depth)
        found.append(frames.take(seen.any(axis=(1, 2))))
    if not any(map(len, found)):
        raise ConfigError(
            f"held_out: of parts of {min(map(len, parts))} frames none with depth is held out by {every}; expected a "
            "smaller number, or 0 to test with frames that were mapped"
        )
    return dataclasses.replace(
        found[0],
        colours=np.concatenate([each.colours for each in found]),
        depths=np.concatenate([each.depths for each in found]),
        poses=np.concatenate([each.poses for each in found]),
        times_s=np.concatenate([each.times_s for each in found]),
        labels=[label for each in found for label in each.labels],
    )


def _spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """Places from 0 to before ``count``, at most so many, evenly spread and the first among them."""
    return np.linspace(0, max(count - 1, 0), min(count, most)).astype(np.int64)
