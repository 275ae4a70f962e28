"""What is asked of a disk, so that a test can be one that is full, or forgets what was not synchronised."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from rowcast.drivers.flushing import flush
from rowcast.errors import ConfigError

__all__ = ["Disk", "OpenFile", "RealDisk"]


class OpenFile(Protocol):
    """A file that is written from its beginning on."""

    def write(self, data: bytes) -> None:
        """Append. Raises OSError."""

    def sync(self) -> None:
        """What was written is there after a loss of power. Raises OSError."""

    def close(self) -> None:
        """Close; says nothing about what was written."""


class Disk(Protocol):
    """One folder of files."""

    def names(self) -> list[str]:
        """The files that there are, in any order. Raises OSError."""

    def read(self, name: str) -> bytes:
        """The content of a file. Raises OSError."""

    def create(self, name: str) -> OpenFile:
        """A new file, empty, in place of one of that name. It is there after a loss of power once it was synced."""

    def replace(self, name: str, new: str) -> None:
        """Give a file another name, in place of one of that name; at once, and for good. Raises OSError."""

    def remove(self, name: str) -> None:
        """Remove a file. Raises OSError."""

    def claim(self) -> Callable[[], None]:
        """Make sure that nobody else works in the folder; returns what gives it back.

        Raises:
            ConfigError: somebody does.
        """


class _RealFile:
    def __init__(self, folder: RealDisk, descriptor: int) -> None:
        self._folder = folder
        self._descriptor = descriptor
        self._named = False

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while len(view):
            view = view[os.write(self._descriptor, view) :]

    def sync(self) -> None:
        os.fdatasync(self._descriptor)
        if not self._named:
            self._folder.sync_names()
            self._named = True

    def close(self) -> None:
        os.close(self._descriptor)


class RealDisk:
    """A folder of this machine; made if it is not there, for its owner alone.

    Raises:
        ConfigError: it cannot be made.
    """

    LOCK = "lock"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"state {folder}: cannot be made: {error.strerror}; choose another folder") from error

    def names(self) -> list[str]:
        return [entry.name for entry in self.folder.iterdir() if entry.name != self.LOCK]

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def create(self, name: str) -> OpenFile:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        return _RealFile(self, os.open(self.folder / name, flags, 0o600))

    def replace(self, name: str, new: str) -> None:
        (self.folder / name).replace(self.folder / new)
        self.sync_names()

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()

    def sync_names(self) -> None:
        """The names of the files are there after a loss of power."""
        flush(self.folder)

    def claim(self) -> Callable[[], None]:
        from rowcast.drivers.claim import claimed  # where there are no such locks (Windows) nothing else is missing

        held = contextlib.ExitStack()
        taken = f"state {self.folder}: another process uses it; end that, or give another --state"
        held.enter_context(claimed(self.folder / self.LOCK, taken))
        return held.close
