"""The folder of one worker's state: its lock, its generations, and what is read of them at the start.

A generation is a picture, ``picture-N.safetensors``, and the notes behind it, ``notes-N``, which begin when the picture
is taken. The two newest pictures are kept, and the one that was flushed to the disk last, with all notes from the
oldest of them on: should a newer one be damaged, the notes lead from the one before to the same state.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import time
import weakref
from dataclasses import dataclass
from pathlib import Path

from rowcast.drivers.flushing import flush
from rowcast.drivers.kept.arrays import Damaged
from rowcast.drivers.kept.noting import read_notes
from rowcast.drivers.kept.pictures import FORMAT, Head, picture_of, read_picture
from rowcast.errors import ConfigError, RemoteProtocolError
from rowcast.rows import Layout
from rowcast.training.kept import Extras, Replay

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Folder", "Kept"]

log = logging.getLogger("rowcast")

_PICTURE = re.compile(r"picture-(\d{10})\.safetensors")
_NOTES = re.compile(r"notes-(\d{10})")

#: No generation has a number as high.
MAX_GENERATION = 10**10


@dataclass(frozen=True)
class Kept:
    """What was kept of another life of a worker.

    Attributes:
        replay: its state.
        extras: what the training loop had when the picture was taken.
        generation: of the picture.
        age_s: seconds since it was taken.
    """

    replay: Replay
    extras: Extras
    generation: int
    age_s: float


class Folder:
    """The files of one worker.

    Args:
        path: the folder; it is made, and used by one process at a time.
        name: of the worker.

    Raises:
        ConfigError: it cannot be used.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self._name = name
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(f"state_dir {path}: expected a folder that can be written, got: {why}") from error
        self.close = weakref.finalize(self, os.close, self._lock)
        try:
            if fcntl is not None:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise ConfigError(
                f"state_dir {path}: another process uses this folder; stop it, or give each robot a folder of its own"
            ) from None
        except OSError:
            pass  # a file system without locks
        _folders.add(self)

    def picture(self, generation: int) -> Path:
        """Where a picture is."""
        return self.path / f"picture-{generation:010d}.safetensors"

    def notes(self, generation: int) -> Path:
        """Where the notes behind it are."""
        return self.path / f"notes-{generation:010d}"

    def size_of_notes(self, generation: int) -> int:
        """Bytes of them; 0 where there are none.

        Raises:
            OSError: it cannot be told.
        """
        path = self.notes(generation)
        return path.stat().st_size if path.exists() else 0

    def newest(self) -> int:
        """The newest generation of which there is anything; 0: there is none."""
        return max([*self._found(_PICTURE), *self._found(_NOTES)], default=0)

    def read(self, layout: Layout) -> Kept | None:
        """What was kept; ``None``: nothing was. What does not belong to it is removed.

        Raises:
            ConfigError: it is the state of another worker, model or release.
        """
        for part in self.path.glob("picture-*.part"):
            part.unlink(missing_ok=True)
        for generation in sorted(self._found(_PICTURE), reverse=True):
            try:
                head, arrays = read_picture(self.picture(generation))
            except (Damaged, OSError) as error:
                log.warning(
                    "%s: state_dir %s: %s; an older state is used, if there is one", self._name, self.path, error
                )
                self.picture(generation).unlink(missing_ok=True)
                continue
            self._check(head, layout)
            picture, extras = picture_of(head, arrays)
            replay = Replay(layout, picture)
            try:
                last = self._play(replay, generation, layout)
            except RemoteProtocolError as error:
                raise ConfigError(f"state_dir {self.path}: {error}; load the plug-in with this code first") from error
            self.remove(beyond=last)
            return Kept(replay, extras, generation, max(time.time() - head.taken_at, 0.0))
        self.remove(before=MAX_GENERATION)
        return None

    def remove(self, *, before: int = 0, beyond: int = MAX_GENERATION) -> None:
        """Remove the generations before one, and those beyond one. What cannot be removed stays."""
        for generation, path in self._files():
            if generation < before or generation > beyond:
                with contextlib.suppress(OSError):
                    path.unlink()

    def forget(self, before: int = MAX_GENERATION) -> None:
        """No generation before one can be gone on from any more, not even after a loss of power.

        Raises:
            OSError: something is left.
        """
        for generation, path in self._files():
            if generation < before:
                path.unlink(missing_ok=True)
        self._flush_names()

    def flush(self, newest: int) -> None:
        """All notes up to a generation are on the disk when this returns, with their names.

        Raises:
            OSError: they may not be.
        """
        for generation in sorted(self._found(_NOTES)):
            if generation <= newest:
                try:
                    flush(self.notes(generation))
                except FileNotFoundError:
                    if generation == newest:
                        raise  # an older one is removed when two newer pictures are there
        self._flush_names()

    def flush_picture(self, generation: int) -> None:
        """A picture is on the disk when this returns, with its name.

        Raises:
            OSError: it may not be.
        """
        flush(self.picture(generation))
        self._flush_names()

    def keep(self, flushed: int) -> None:
        """Keep the two newest pictures, that which was flushed last, and all notes from the oldest of these on."""
        pictures = sorted(self._found(_PICTURE))
        kept = {*pictures[-2:], flushed}
        for generation in pictures:
            if generation not in kept:
                with contextlib.suppress(OSError):
                    self.picture(generation).unlink()
        self.remove(before=min(kept))

    def _flush_names(self) -> None:
        try:
            flush(self.path)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems have no need of it
                raise

    def _play(self, replay: Replay, generation: int, layout: Layout) -> int:
        """Play the notes behind a picture, as far as nothing is missing; returns the last generation of them."""
        last, ended = generation, 0
        for number in range(generation, self.newest() + 1):
            try:
                follows, notes, end = read_notes(self.notes(number), layout)
            except OSError:
                if number > generation:
                    break
                continue
            if number > generation and follows != ended:
                break
            last, ended = number, end
            for note in notes:
                replay.play(note)
            if end < self.notes(number).stat().st_size:
                os.truncate(self.notes(number), end)
                break
        return last

    def _check(self, head: Head, layout: Layout) -> None:
        advice = "give each robot and each model a folder of its own, or remove this one to begin anew"
        if head.format != FORMAT:
            raise ConfigError(
                f"state_dir {self.path}: expected a state of format {FORMAT}, got one of format {head.format}; install "
                "the release of rowcast that wrote it, or remove the folder to begin anew"
            )
        if head.name != self._name:
            raise ConfigError(
                f"state_dir {self.path}: expected the state of {self._name!r}, got that of {head.name!r}; {advice}"
            )
        if head.layout != layout.digest:
            raise ConfigError(
                f"state_dir {self.path}: expected the state of this model ({layout}), got that of another one; {advice}"
            )

    def _files(self) -> list[tuple[int, Path]]:
        """All files of all generations, each with its generation."""
        pictures = [(generation, self.picture(generation)) for generation in self._found(_PICTURE)]
        return pictures + [(generation, self.notes(generation)) for generation in self._found(_NOTES)]

    def _found(self, pattern: re.Pattern[str]) -> list[int]:
        names = (pattern.fullmatch(path.name) for path in self.path.iterdir())
        return [int(name[1]) for name in names if name is not None]


#: Folders that this process uses.
_folders: weakref.WeakSet[Folder] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """In a forked child: the folder is the parent's, whose lock must not live on here."""
    for folder in list(_folders):
        folder.close()
    _folders.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
