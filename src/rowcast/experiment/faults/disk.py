"""Disks that are full, and files as they are after a loss of power."""

from __future__ import annotations

import errno
import os
import random
import shutil
import tempfile
import threading
from collections.abc import Collection
from pathlib import Path

from rowcast.drivers.kept.folder import Folder
from rowcast.drivers.kept.noting import flushed_to
from rowcast.drivers.state.disk import OpenFile, RealDisk
from rowcast.experiment.faults.counting import LAYOUT

__all__ = ["FaultyDisk", "fill_folder", "free_folder", "lose_unflushed"]

#: A device of Linux on which every write finds the disk full.
FULL = Path("/dev/full")
#: The next so many files of notes are on the full device.
AHEAD = 64


class _File:
    def __init__(self, disk: FaultyDisk, name: str, file: OpenFile) -> None:
        self._disk, self._name, self._file = disk, name, file

    def write(self, data: bytes) -> None:
        with self._disk.lock:
            self._disk.check()
            self._file.write(data)

    def sync(self) -> None:
        with self._disk.lock:
            self._file.sync()
            self._disk.synced[self._name] = self._disk.size(self._name)

    def close(self) -> None:
        self._file.close()


class FaultyDisk(RealDisk):
    """A folder of this machine that can be full, and knows what of it was synchronised.

    Attributes:
        full: nothing more can be written.
        synced: bytes of each file that are there after a loss of power.
        lock: held while anything is written.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.full = False
        self.synced: dict[str, int] = {name: self.size(name) for name in self.names()}
        self._new: set[str] = set()
        self.lock = threading.RLock()

    def check(self) -> None:
        """Raises OSError where the disk is full."""
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return (self.folder / name).stat().st_size

    def create(self, name: str) -> OpenFile:
        with self.lock:
            self.check()
            self.synced.pop(name, None)
            self._new.add(name)
            return _File(self, name, super().create(name))

    def replace(self, name: str, new: str) -> None:
        with self.lock:
            super().replace(name, new)
            self.synced[new] = self.synced.pop(name, 0)
            self._new.discard(name)
            self._new.add(new)

    def remove(self, name: str) -> None:
        with self.lock:
            super().remove(name)
            self.synced.pop(name, None)
            self._new.discard(name)

    def lose_power(self, chance: random.Random) -> None:
        """What was not synchronised is gone, or there in part. Nothing is written any more: the lock stays held."""
        self.lock.acquire()
        for name in self._new:
            if name not in self.synced:
                (self.folder / name).unlink(missing_ok=True)
                continue
            size, synced = self.size(name), self.synced[name]
            os.truncate(self.folder / name, chance.randint(synced, size) if size > synced else size)


# -- the folder of a robot's state -------------------------------------------------------------------------------------


def fill_folder(folder: Path) -> None:
    """The disk of a robot's state is full: its next files are on a device that always is."""
    newest = max((int(path.name[6:]) for path in folder.glob("notes-*")), default=0)
    for number in range(newest + 1, newest + 1 + AHEAD):
        path = folder / f"notes-{number:010d}"
        if not path.exists():
            path.symlink_to(FULL)


def free_folder(folder: Path) -> None:
    """There is room again."""
    for path in folder.glob("notes-*"):
        if path.is_symlink():
            path.unlink()


def lose_unflushed(folder: Path, name: str, chance: random.Random) -> int:
    """A robot's state as it is after a loss of power: the system has written what it liked of the newest files.

    All pictures but the oldest are torn. Of the notes there is what was flushed, which is all up to the newest one of
    the session, and of each file perhaps more.

    Args:
        folder: of the state.
        name: of the robot, whose process is gone.
        chance: decides what is there.

    Returns:
        Iterations of which nothing is there any more: no life of the robot can know of them.
    """
    before = _iterations(folder, name)
    later = False  # a file behind this one has been flushed, and this one with it
    for path in sorted(folder.glob("notes-*"), reverse=True):
        data = path.read_bytes()
        flushed = len(data) if later else flushed_to(data)
        os.truncate(path, chance.randint(flushed, len(data)))
        later = later or flushed > 0
    torn = sorted(folder.glob("picture-*.safetensors"))[1:]
    after = _iterations(folder, name, {path.name for path in torn})
    for path in torn:
        os.truncate(path, chance.randint(0, max(path.stat().st_size - 1, 0)))
    return max(before - after, 0)


def _iterations(folder: Path, name: str, but: Collection[str] = ()) -> int:
    """How many iterations the state has without some of its files: what a robot that is started now would find."""
    with tempfile.TemporaryDirectory() as copy:
        for path in folder.iterdir():
            if path.name not in but:
                shutil.copy(path, copy)
        state = Folder(Path(copy), name)
        try:
            kept = state.read(LAYOUT)
            return 0 if kept is None else kept.replay.iteration
        finally:
            state.close()
