"""Starting models: what one is known by, and that one is trained once."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rowcast.experiment.starting import CACHE_VARIABLE, cache_folder, keep_starting_state, state_file
from rowcast.tasks import build_task
from rowcast.tasks.cruda import CrudaTask

TINY = {"train_images": 128, "test_images": 10, "widths": (8, 8, 8), "pretrain_epochs": 1}


def make(**more: object) -> CrudaTask:
    return build_task("cruda-digits", **{**TINY, **more})


class Trainer:
    """Counts what it is asked to train."""

    def __init__(self) -> None:
        self.calls = 0

    def watch(self, task: CrudaTask) -> CrudaTask:
        """The task, whose training is counted."""
        pretrain = task.pretrain

        def counted(progress: Callable[[float], None] | None = None) -> object:
            self.calls += 1
            return pretrain(progress)

        task.pretrain = counted
        return task


def keep(out: Path, trainer: Trainer, **more: object) -> CrudaTask:
    task = trainer.watch(make(**more))
    keep_starting_state(task, out / "states")
    return task


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "states"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HOME": "/home/ann"}, "/home/ann/.cache/rowcast/states"),
        ({"HOME": "/home/ann", "XDG_CACHE_HOME": "/fast"}, "/fast/rowcast/states"),
        ({"HOME": "/home/ann", "XDG_CACHE_HOME": "relative"}, "/home/ann/.cache/rowcast/states"),
        ({"HOME": "/home/ann", "XDG_CACHE_HOME": "/fast", CACHE_VARIABLE: "/mine"}, "/mine/states"),
        ({"HOME": "/home/ann", CACHE_VARIABLE: "off"}, None),
        ({}, None),
    ],
)
def test_where_the_cache_is(environment: dict[str, str], expected: str | None) -> None:
    assert cache_folder(environment) == (None if expected is None else Path(expected))


def test_another_folder_needs_no_second_training(tmp_path: Path, cache: Path) -> None:
    trainer = Trainer()
    first = keep(tmp_path / "a", trainer)
    second = keep(tmp_path / "b", trainer)
    third = keep(tmp_path / "b", trainer)
    assert trainer.calls == 1
    for name, value in first.state.items():
        np.testing.assert_array_equal(value, second.state[name])
        np.testing.assert_array_equal(value, third.state[name])
    assert [path.name for path in cache.iterdir()] == [state_file(make())]


def test_a_model_is_known_by_what_made_it() -> None:
    plain = state_file(make())
    for later in (
        {"lr": 0.5},
        {"alpha": 9.0},
        {"severity": 5},
        {"batch": 8},
        {"optimizer": "adam"},
        {"test_images": 3},
    ):
        assert state_file(make(**later)) == plain, later
    others = [
        state_file(make(**earlier))
        for earlier in (
            {"seed": 1},
            {"pretrain_epochs": 2},
            {"pretrain_lr": 0.01},
            {"label_smoothing": 0.2},
            {"widths": (8, 8, 16)},
            {"train_images": 127},
            {"pretrain_images": 100},
        )
    ]
    assert len({plain, *others}) == 1 + len(others)
    task = make()
    task.dataset.train_images[0, 0, 0, 0] ^= 1  # the same settings, other data
    assert state_file(task) != plain


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_a_damaged_entry_is_made_again(tmp_path: Path, cache: Path, damage: bytes | None) -> None:
    trainer = Trainer()
    keep(tmp_path / "a", trainer)
    (entry,) = cache.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    task = keep(tmp_path / "b", trainer)
    assert trainer.calls == 2 and task.state
    keep(tmp_path / "c", trainer)
    assert trainer.calls == 2  # the entry is whole again
    (own,) = (tmp_path / "c" / "states").iterdir()
    own.write_bytes(b"damaged")
    keep(tmp_path / "c", trainer)
    assert trainer.calls == 2  # that of the folder comes from the cache


def test_without_a_cache_each_folder_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer()
    monkeypatch.setenv(CACHE_VARIABLE, "off")
    for out in ("a", "b", "b"):
        keep(tmp_path / out, trainer)
    assert trainer.calls == 2


def test_a_cache_that_cannot_be_written_is_said_and_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    with caplog.at_level("WARNING", "rowcast"):
        task = keep(tmp_path / "a", Trainer())
    assert task.state and f"{CACHE_VARIABLE} names another folder" in caplog.text


def test_other_data_has_another_model_in_the_same_folder(tmp_path: Path, cache: Path) -> None:
    """Equal shapes, equal settings: the file of the first would load without an error."""
    trainer = Trainer()
    first = keep(tmp_path, trainer)
    other = make()
    other.dataset.train_images[:] = 255 - other.dataset.train_images
    keep_starting_state(trainer.watch(other), tmp_path / "states")
    assert trainer.calls == 2
    assert any(not np.array_equal(value, other.state[name]) for name, value in first.state.items())
    assert len(list((tmp_path / "states").iterdir())) == len(list(cache.iterdir())) == 2


@pytest.mark.usefixtures("cache")
def test_two_folders_that_need_the_same_at_once_train_it_once(tmp_path: Path) -> None:
    trained: list[str] = []
    began, second_trains = threading.Event(), threading.Event()

    def work(out: str) -> None:
        task = make()
        pretrain = task.pretrain

        def train(progress: Callable[[float], None] | None = None) -> object:
            trained.append(out)
            (second_trains if began.is_set() else began).set()
            second_trains.wait(0.5)  # the other does not come so far: it waits for this one
            return pretrain(progress)

        task.pretrain = train
        keep_starting_state(task, tmp_path / out / "states")

    threads = [threading.Thread(target=work, args=(out,)) for out in ("a", "b")]
    threads[0].start()
    assert began.wait(30)
    threads[1].start()
    for thread in threads:
        thread.join(60)
    assert trained == ["a"]
    assert len(list(tmp_path.glob("[ab]/states/*.npz"))) == 2


def test_a_full_disk_of_the_cache_is_said_and_leaves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    savez = np.savez

    def full(file: Any, **arrays: Any) -> None:
        if str(cache) in file.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        savez(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with caplog.at_level("WARNING", "rowcast"):
        task = keep(tmp_path / "a", Trainer())
    assert task.state and "No space left" in caplog.text
    assert list(cache.iterdir()) == []
