"""The task ``motion``: its clips, its three models, frame by frame, and what a robot is given."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rowcast.errors import ConfigError, DataError
from rowcast.experiment import Comparison, run_comparison
from rowcast.journal import read_journal
from rowcast.streams import Sample
from rowcast.tasks import TASKS, build_task, find_task, pack_item
from rowcast.tasks.cruda import count_parameters
from rowcast.tasks.motion import DIRECTIONS, MODELS, FrameByFrame, MotionNet, MotionTask, moving
from rowcast.tasks.motion.clips import STEPS, opposite
from rowcast.tasks.motion.models import shifted
from rowcast.testing import check_task

#: Small enough for a test, large enough to be the task.
SMALL: dict[str, Any] = {"frames": 4, "side": 10, "test_clips": 40}
#: Learned in less than a hundred steps.
QUICK: dict[str, Any] = {"frames": 5, "side": 12, "speed": 2, "noise": 0.0, "lr": 0.01}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWCAST_CACHE", "off")


def made(**options: Any) -> MotionTask:
    task = build_task("motion", **{**SMALL, **options})
    assert isinstance(task, MotionTask)
    return task


def net(model: str, channels: int = 16, blocks: int = 2, seed: int = 0) -> MotionNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MotionNet(model, len(DIRECTIONS), channels=channels, blocks=blocks).eval()


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- conformance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["tsm", "online"])
def test_conformance(model: str) -> None:
    assert TASKS.find("motion") is MotionTask is find_task("motion").kind
    check_task(MotionTask, {**QUICK, "model": model, "test_clips": 40}, workers=2, steps=40)


# -- clips -------------------------------------------------------------------------------------------------------------


def test_a_clip_moves_by_its_direction_and_comes_in_again() -> None:
    """Against a roll of the first frame, for each direction and a speed."""
    image = np.arange(1, 7, dtype=np.float32).reshape(1, 2, 3)
    for number, (down, right) in enumerate(STEPS.tolist()):
        clip = moving(image, np.array([number]), np.array([[3, 4]]), frames=6, side=5, speed=2)
        assert clip.shape == (1, 6, 1, 5, 5) and clip.dtype == np.float32
        first = np.zeros((5, 5), np.float32)
        first[:2, :3] = image[0]
        first = np.roll(first, (3, 4), axis=(0, 1))
        for t in range(6):
            wanted = np.roll(first, (2 * t * down, 2 * t * right), axis=(0, 1))
            np.testing.assert_array_equal(clip[0, t, 0], wanted)


def test_names_are_those_of_the_steps() -> None:
    """Rows go down, columns to the right."""
    words = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
    for name, step in zip(DIRECTIONS, STEPS.tolist(), strict=True):
        assert np.sum([words[word] for word in name.split()], axis=0).tolist() == step
    every = torch.arange(len(DIRECTIONS))
    assert np.array_equal(STEPS[opposite(every).numpy()], -STEPS)


def test_a_clip_played_backwards_is_one_of_the_opposite_direction() -> None:
    rng = np.random.default_rng(0)
    images, directions = rng.random((16, 8, 8), np.float32), np.arange(16) % 8
    starts = rng.integers(0, 12, (16, 2))
    clips = moving(images, directions, starts, frames=5, side=12, speed=1)
    ends = starts + 4 * STEPS[directions]
    back = moving(images, opposite(torch.from_numpy(directions)).numpy(), ends, frames=5, side=12, speed=1)
    np.testing.assert_array_equal(back, clips[:, ::-1])


def test_one_frame_says_nothing_of_the_direction() -> None:
    """Over all starts, each frame shows the same pictures equally often whatever the direction."""
    side = 6
    image = np.arange(1, 5, dtype=np.float32).reshape(1, 2, 2).repeat(side * side, axis=0)
    starts = np.argwhere(np.ones((side, side)))
    seen: list[list[list[bytes]]] = []
    for number in range(len(DIRECTIONS)):
        clips = moving(image, np.full(len(starts), number), starts, frames=3, side=side, speed=2)
        seen.append([sorted(clip[t].tobytes() for clip in clips) for t in range(3)])
    assert all(each == seen[0] for each in seen[1:])
    assert len(set(seen[0][0])) == side * side and seen[0][0] == seen[0][2]


# -- models ------------------------------------------------------------------------------------------------------------


def test_models_have_the_same_parameters_and_the_same_flops() -> None:
    sizes, flops = set(), set()
    for model in MODELS:
        one = net(model)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            one(noise(2, 4, 1, 16, 16))
        sizes.add(count_parameters(one))
        flops.add(counter.get_total_flops())
        assert not list(one.buffers())
    assert sizes == {9576}
    # Two per multiplication: 8 frames of 8 x 8 places; the stem, four convolutions of blocks; the head once a frame.
    assert flops == {2 * 8 * (64 * (9 * 16 + 4 * 9 * 16 * 16) + 16 * 8)}


@pytest.mark.parametrize("both_ways", [True, False])
def test_an_eighth_of_the_channels_comes_from_each_neighbour(both_ways: bool) -> None:
    maps = noise(2, 5, 16, 3, 3)
    found = shifted(maps, both_ways=both_ways)
    assert torch.equal(found[:, 1:, :2], maps[:, :-1, :2]) and not found[:, 0, :2].any()
    if both_ways:
        assert torch.equal(found[:, :-1, 2:4], maps[:, 1:, 2:4]) and not found[:, -1, 2:4].any()
        assert torch.equal(found[:, :, 4:], maps[:, :, 4:])
    else:
        assert torch.equal(found[:, :, 2:], maps[:, :, 2:])
    before = noise(2, 2, 3, 3, seed=3)
    went_on = shifted(maps, before, both_ways=both_ways)
    assert torch.equal(went_on[:, 0, :2], before) and torch.equal(went_on[:, 1:], found[:, 1:])


def seen_by(model: str, blocks: int, frame: int, frames: int = 9) -> list[int]:
    """The frames whose pixels the scores of one frame depend on."""
    clips = noise(1, frames, 1, 8, 8).requires_grad_()
    scores, _ = net(model, blocks=blocks).frame_scores(clips)
    assert scores.shape == (1, frames, 8)
    # The sum of squares, as a plain sum can cancel.
    scores[0, frame].square().sum().backward()
    assert clips.grad is not None
    return [t for t in range(frames) if clips.grad[0, t].any()]


def test_which_frames_the_score_of_a_frame_depends_on() -> None:
    """None but its own; one more on both sides for each block; one more of the past."""
    assert seen_by("2d", 2, 4) == [4]
    assert seen_by("tsm", 1, 4) == [3, 4, 5] and seen_by("tsm", 2, 4) == [2, 3, 4, 5, 6]
    assert seen_by("online", 2, 4) == [2, 3, 4] and seen_by("online", 3, 1) == [0, 1]


def test_frames_by_themselves_have_no_order() -> None:
    """So the model without a shift gives the same scores for a clip that is played backwards; the others do not."""
    clips = noise(3, 6, 1, 12, 12)
    for model in MODELS:
        one = net(model)
        with torch.no_grad():
            same = torch.allclose(one(clips), one(clips.flip(1)), atol=1e-6)
        assert same == (model == "2d"), model


# -- frame by frame ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["online", "2d"])
def test_frame_by_frame_gives_what_the_whole_clip_gives(model: str) -> None:
    """After each frame, as for the clip that ends there; again after a restart, with another number of clips."""
    one = net(model, blocks=3)
    robot = FrameByFrame(one)
    for count in (3, 1):
        clips = noise(count, 7, 1, 16, 16, seed=count)
        for t in range(7):
            with torch.no_grad():
                found, wanted = robot.next(clips[:, t]), one(clips[:, : t + 1])
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
            assert robot.frames == t + 1
        robot.restart()
        assert robot.frames == 0


def test_a_restart_forgets_the_frames_before() -> None:
    one, frames = net("online"), noise(2, 2, 1, 12, 12)
    robot, fresh = FrameByFrame(one), FrameByFrame(one)
    with torch.no_grad():
        robot.next(frames[:, 0])
        goes_on = robot.next(frames[:, 1])
        robot.restart()
        first = robot.next(frames[:, 1])
        assert torch.equal(first, fresh.next(frames[:, 1])) and not torch.allclose(first, goes_on)


def test_a_clip_in_two_parts_is_the_whole_clip() -> None:
    one, clips = net("online"), noise(2, 6, 1, 10, 10)
    with torch.no_grad():
        whole, _ = one.frame_scores(clips)
        head, carried = one.frame_scores(clips[:, :2])
        tail, _ = one.frame_scores(clips[:, 2:], carried)
    assert [tuple(each.shape) for each in carried] == [(2, 2, 5, 5)] * 2
    torch.testing.assert_close(torch.cat([head, tail], dim=1), whole, rtol=1e-5, atol=1e-6)


def test_a_model_that_needs_the_frame_behind_is_none_for_a_robot() -> None:
    with pytest.raises(ConfigError, match="model: expected one that needs no later frame, got 'tsm'; train 'online'"):
        FrameByFrame(net("tsm"))


@pytest.mark.parametrize("shape", [(2, 1, 8), (2, 3, 8, 8), (1, 1, 8, 8), (2, 1, 8, 9)])
def test_frames_of_another_shape(shape: tuple[int, ...]) -> None:
    robot = FrameByFrame(net("online"))
    robot.next(noise(2, 1, 8, 8))
    with pytest.raises(ConfigError, match=re.escape(f"frame: expected (2, 1, 8, 8), got {shape}; call restart()")):
        robot.next(noise(*shape))
    assert robot.frames == 1


def test_a_first_frame_that_is_none() -> None:
    with pytest.raises(ConfigError, match=re.escape("frame: expected (n, 1, height, width), got (8, 8)")):
        FrameByFrame(net("online")).next(noise(8, 8))


# -- what robots are given ---------------------------------------------------------------------------------------------


def test_robots_share_out_the_digits() -> None:
    """No image is seen by two robots, none is left out, and a small alpha gives each its own mixture."""
    task = made(alpha=0.1)
    shards = task.shards(4)
    together = np.concatenate(shards)
    assert sorted(together.tolist()) == list(range(1297)) and min(map(len, shards)) >= 1
    mixtures = [np.bincount(task._digits[shard], minlength=10) / len(shard) for shard in shards]
    even = np.bincount(task._digits, minlength=10) / len(task._digits)
    assert min(np.abs(mixture - even).sum() for mixture in mixtures) > 0.3
    mixed = [np.bincount(task._digits[s], minlength=10) / len(s) for s in made(alpha=1e5).shards(4)]
    assert max(np.abs(mixture - even).sum() for mixture in mixed) < 0.1


def test_a_robot_sees_its_own_digits_in_all_directions() -> None:
    task = made(noise=0.0, side=8)
    shard = task.shards(3)[1]
    own = {np.sort(task._images[number].ravel()).tobytes() for number in shard}
    samples = task.samples(1, 3)
    seen = [next(samples) for _ in range(400)]
    counts = np.bincount([int(direction) for _, direction in seen], minlength=8)
    assert counts.min() > 25
    for clip, _ in seen[:100]:
        assert clip.shape == (4, 1, 8, 8) and clip.dtype == torch.float32
        pixels = clip[2].numpy().ravel() * np.float32(0.25) + np.float32(0.075)
        near = [np.abs(np.frombuffer(one, np.float32) - np.sort(pixels)).max() for one in own]
        assert min(near) < 1e-5


def test_batches_are_the_samples() -> None:
    task = made(batch=5)
    samples, batches = task.samples(0, 2), task.batches(0, 2)
    for _ in range(30):  # beyond what is made at a time
        clips, directions = next(batches)
        wanted = [next(samples) for _ in range(5)]
        assert torch.equal(clips, torch.stack([clip for clip, _ in wanted]))
        assert directions.tolist() == [int(direction) for _, direction in wanted]


def test_a_robot_draws_from_its_own_part_and_the_seed() -> None:
    first = {
        (seed, index, workers): next(made(seed=seed).samples(index, workers))[0]
        for seed in (0, 1)
        for index, workers in ((0, 2), (1, 2), (0, 3))
    }
    places = list(first)
    for number, one in enumerate(places):
        assert torch.equal(first[one], next(made(seed=one[0]).samples(*one[1:]))[0])
        assert not any(torch.equal(first[one], first[other]) for other in places[:number])


def test_test_clips_are_balanced_and_as_the_model_takes_them() -> None:
    task = build_task("motion", test_clips=1200)
    tests = task.labelled_tests()
    assert tests.inputs.shape == (1200, 8, 1, 16, 16)
    assert tests.classes == DIRECTIONS == task.class_names()
    assert np.bincount(tests.labels.numpy(), minlength=8).tolist() == [150] * 8
    assert abs(float(tests.inputs.mean())) < 0.05 and float(tests.inputs.std()) == pytest.approx(1.0, abs=0.05)
    assert task.make_model()(tests.inputs[:3]).shape == (3, 8)


def test_metrics_count_what_is_told_and_its_axis() -> None:
    task = made(test_clips=16)

    class Told(torch.nn.Module):
        """Right for the first four clips, the opposite for the next two, a neighbour otherwise."""

        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            labels = tests.labels
            told = (labels + 1) % 8
            told[:4] = labels[:4]
            told[4:6] = (labels[4:6] + 4) % 8
            return torch.nn.functional.one_hot(told, 8).float()

    tests = task.labelled_tests()
    worker = task.worker(0, 1)
    worker.model = Told()
    assert worker.evaluate() == {"accuracy": 25.0, "axis_accuracy": 37.5}


def test_looks_amid_a_run_are_at_fewer_clips() -> None:
    assert MotionTask.limit_tests({}, 40) == {"test_clips": 40}
    assert MotionTask.limit_tests({"test_clips": 30, "lr": 0.1}, 40) == {"test_clips": 30, "lr": 0.1}
    assert MotionTask.limit_tests({"test_clips": 90}, 40) == {"test_clips": 40}


def test_a_clip_travels_as_a_message() -> None:
    task = made()
    clip, direction = next(task.samples(0, 1))
    back = task.decode(Sample("0", 1, 0.0, pack_item((clip, direction)), 0))
    assert torch.equal(back[0], clip) and torch.equal(back[1], direction)
    for bad in ((clip[:2], direction), (clip, torch.tensor(8)), (clip[:, :, :8], direction)):
        with pytest.raises(DataError, match=r"item: expected an input \(4, 1, 10, 10\) and one of 8 classes"):
            task.decode(Sample("0", 2, 0.0, pack_item(bad), 0))


# -- bad settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": "online2"}, "unknown model 'online2'; did you mean 'online'"),
        ({"channels": 12}, "channels: expected a multiple of 8, of which an eighth can be shifted, got 12; take 8"),
        ({"channels": 4}, "channels: expected a number in 8 .. 4096, got 4"),
        ({"speed": 5}, "speed: expected less than half of 10 pixels, so that left and right differ, got 5; take"),
        ({"frames": 1}, "frames: expected a number in 2 .. 1024 frames, got 1"),
        ({"side": 7}, "side: expected a number in 8 .. 256 pixels, got 7"),
        ({"lr": "high"}, "lr: expected a number in 0.0 .. 1.0, got 'high'"),
        ({"chanels": 16}, "unknown option 'chanels'; did you mean 'channels'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        made(**options)


def test_a_speed_just_below_half_a_side_is_told_apart() -> None:
    """At half of it, left and right would show the same clips."""
    image, starts = np.ones((2, 8, 8), np.float32), np.zeros((2, 2), np.int64)
    two = np.array([DIRECTIONS.index("left"), DIRECTIONS.index("right")])
    made(speed=4)
    for speed, same in ((4, False), (5, True)):
        left, right = moving(image, two, starts, frames=4, side=10, speed=speed)
        assert np.array_equal(left, right) == same


def test_a_network_of_its_own_says_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match="model: unknown model 'tms'; did you mean 'tsm'"):
        MotionNet("tms", 8)
    with pytest.raises(ConfigError, match=r"channels: expected a multiple of 8, .* got 20; take 16"):
        MotionNet("tsm", 8, channels=20)
    with pytest.raises(ConfigError, match=r"channels: expected a multiple of 8, .* got 0; take 8"):
        MotionNet("tsm", 8, channels=0)


def test_more_robots_than_digits() -> None:
    with pytest.raises(ConfigError, match="1297 images are too few for 1298 workers"):
        MotionTask.check(SMALL, workers=1298)
    with pytest.raises(ConfigError, match=r"worker index: expected 0\.\.1, got 2"):
        made().samples(2, 2)


# -- a team ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["bsp", "rowcast"])
def test_a_team_trains_it_in_virtual_time(policy: str, tmp_path: Path) -> None:
    """Robots far better than chance at the end, with both metrics in their journals."""
    settings = Comparison(
        task="motion",
        task_options=tuple(f"{name}={value}" for name, value in QUICK.items()),
        policies=(policy,),
        links=("constant:1000",),
        workers=(2,),
        devices=("1",),
        seeds=1,
        hours=0.02,
        eval_every_s=70.0,
        eval_items=80,
    )
    (cell,) = run_comparison(settings, tmp_path, jobs=0)
    for path in sorted((tmp_path / "cells" / cell.name).glob("robot-*.jsonl")):
        records = [each for each in read_journal(path) if each["event"] == "metric"]
        found = {
            name: [each["value"] for each in records if each["name"] == name] for name in ("accuracy", "axis_accuracy")
        }
        first, *_, last = found["accuracy"]
        assert last > 40 > first, found
        assert all(axis >= told for axis, told in zip(found["axis_accuracy"], found["accuracy"], strict=True))


def test_a_worker_copied_amid_its_training_goes_on_alike() -> None:
    """Nothing of a clip stays in the model: no cache from one batch to the next."""
    worker = made(model="online").worker(0, 1)
    for _ in range(3):
        worker.compute()
        worker.optimizer.step()
    clips = made().labelled_tests().inputs
    other = copy.deepcopy(worker.model)
    with torch.no_grad():
        worker.model(clips[:7])
        assert torch.equal(worker.model(clips), other(clips))
