"""Keeps the state of a worker in a folder while it trains: notes at once, pictures as often as they cost little."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rowcast.drivers.kept.folder import Folder, Kept
from rowcast.drivers.kept.noting import NotesFile
from rowcast.drivers.kept.pictures import write_picture
from rowcast.rows import Layout
from rowcast.training.core import WorkerCore
from rowcast.training.kept import SESSION_NOTES, Extras, Note, Picture

__all__ = ["SHARE", "Keeper"]

log = logging.getLogger("rowcast")

#: Pictures may take so much of the time: what the last one took, of the time until the next.
SHARE = 0.02
#: A picture is flushed to the disk every so many seconds; what the system does with the others is its business.
FLUSH_S = 30.0


class Keeper:
    """A :class:`~rowcast.training.kept.Notebook` in a folder.

    A picture is copied between two steps, and written by a thread of its own while training goes on. There is one
    behind each step, as long as both together take less than :data:`SHARE` of the time; otherwise it waits until they
    do, but no longer than ``limit_s``. When the notes have become longer than the last picture, it does not wait.

    What cannot be written (a full disk) does not stop the training: it is told once, tried again, and told when it
    works again.

    Args:
        path: the folder.
        name: of the worker.
        limit_s: longest time between two pictures (s).

    Attributes:
        pictures: how many were written.
        cost_s: what the last one took: seconds of the training loop, and of the processor behind it.

    Raises:
        ConfigError: the folder cannot be used.
    """

    def __init__(self, path: Path, name: str, limit_s: float) -> None:
        self._kept: Extras | None = None
        self._extras: Callable[[], Extras] = lambda: Extras({}, None)
        self.pictures = 0
        self.cost_s = 0.0
        self._folder = Folder(path, name)
        self._name = name
        self._limit_s = limit_s
        self._generation = 0
        self._file: NotesFile | None = None
        self._whole = False  # no note is missing since the last picture that was taken
        self._gap = 0  # the generation before which notes are missing; 0: there is none that could be come to
        self._flushed = 0  # the generation whose picture was flushed last, and when
        self._flushed_at = -float("inf")
        self._taken_at = -float("inf")
        self._picture_bytes = 1 << 20
        self._writing: threading.Thread | None = None
        self._error: OSError | None = None
        self._told = False

    def open(self, layout: Layout) -> Kept | None:
        """What was kept of another life. From now on notes are taken.

        Raises:
            ConfigError: the folder holds the state of another worker, model or release.
        """
        kept = self._folder.read(layout)
        self._generation = self._folder.newest()
        if kept is not None:
            self._kept = kept.extras
            self._flushed = kept.generation
            self._whole = True
            self._begin_notes()
        return kept

    def exchange_extras(self, extras: Callable[[], Extras]) -> Extras | None:
        """From now on ``extras`` gives what belongs to a picture beside the worker: copies, that nobody changes.

        Returns:
            What belonged to the picture that was kept; ``None``: there was none.
        """
        self._extras = extras
        kept, self._kept = self._kept, None
        return kept

    # -- the notebook ------------------------------------------------------------------------------------------

    def note(self, note: Note) -> None:
        """Write a note; where that is not possible, none follows until the next picture.

        It is with the system then. A note of the session is on the disk, with all before it; where it cannot be, what
        was kept until then is removed: without it, that would be believed of frames that bear the same numbers and are
        others.
        """
        of_the_session = isinstance(note, SESSION_NOTES)
        if self._file is not None:
            try:
                self._file.append(note)
                if of_the_session:
                    self._folder.flush(self._generation)
            except OSError as error:
                self._fail(error)
        if of_the_session and (self._file is None or self._gap):
            self._await_picture()
            try:
                if self._file is None:
                    self._folder.forget()
                else:
                    self._folder.forget(before=self._gap)
                self._gap = 0
            except OSError as error:
                self._error = error

    def turn(self, now: float, node: WorkerCore) -> None:
        """Take a picture, if one is due."""
        if self._error is not None:
            self._tell(now, node, self._error)
        if self._writing is not None and not self._writing.is_alive():
            self._writing = None
        if self._writing is None and self._is_due():
            self._take(node)

    def last(self, node: WorkerCore) -> None:
        """The worker leaves before its work is done: take a picture, whatever it costs."""
        if node.joined and node.recovery is None and not node.holds:
            self._await_picture()
            self._take(node)

    def _take(self, node: WorkerCore) -> None:
        began = self._taken_at = time.perf_counter()
        self._begin_notes()
        if self._file is None:
            self.cost_s = time.perf_counter() - began
            return
        self._whole = True
        picture, extras = Picture.of(node), self._extras()
        blocked_s = time.perf_counter() - began
        job = self._generation, picture, extras, blocked_s
        self._writing = threading.Thread(target=self._write, args=job, name=f"rowcast-state-{self._name}", daemon=True)
        self._writing.start()

    @property
    def closed(self) -> bool:
        """Nothing is kept any more."""
        return not self._folder.close.alive

    def close(self, *, done: bool) -> None:
        """Keep no more.

        Args:
            done: the work is done and delivered: nobody will go on from here, and the files are removed.
        """
        self._await_picture()
        if self._file is not None:
            self._file.close()
            self._file = None
        if done and not self.closed:
            with contextlib.suppress(OSError):
                self._folder.forget()
        self._folder.close()

    # -- pictures ------------------------------------------------------------------------------------------------

    def _await_picture(self) -> None:
        if self._writing is not None:
            self._writing.join()

    def _is_due(self) -> bool:
        passed_s = time.perf_counter() - self._taken_at
        if self._file is not None and self._file.size > self._picture_bytes:
            return True
        return passed_s >= min(self.cost_s / SHARE, self._limit_s)

    def _begin_notes(self) -> None:
        """From here on notes belong to the next generation."""
        before, self._file = self._file, None
        if before is not None:
            before.close()
        try:
            follows = self._folder.size_of_notes(self._generation) if self._whole else -1
            file = NotesFile(self._folder.notes(self._generation + 1), follows=follows)
        except OSError as error:
            self._fail(error)
            return
        self._file = file
        self._generation += 1
        if follows < 0:
            self._gap = self._generation

    def _write(self, generation: int, picture: Picture, extras: Extras, blocked_s: float) -> None:
        """On a thread of its own."""
        began, began_at = time.thread_time(), time.perf_counter()
        try:
            self._picture_bytes = max(
                write_picture(self._folder.picture(generation), picture, extras, time.time()), 1 << 20
            )
            try:
                if began_at >= self._flushed_at + FLUSH_S:
                    self._folder.flush_picture(generation)
                    self._flushed, self._flushed_at = generation, began_at
            finally:
                self._folder.keep(self._flushed)
            self.pictures += 1
            if self._told:
                self._told = False
                log.warning("%s: state_dir %s: the state is kept again", self._name, self._folder.path)
        except OSError as error:
            self._error = error
        finally:
            self.cost_s = blocked_s + time.thread_time() - began

    # -- what cannot be written ----------------------------------------------------------------------------------

    def _fail(self, error: OSError) -> None:
        """Notes are missing from here on."""
        self._error, self._whole = error, False
        if self._file is not None:
            self._file.close()
            self._file = None

    def _tell(self, now: float, node: WorkerCore, error: OSError) -> None:
        self._error = None
        if self._told:
            return
        self._told = True
        why = error.strerror or str(error)
        node.journal.record(now, "error", peer=self._name, error=type(error).__name__, message=f"state_dir: {why}")
        log.warning(
            "%s: state_dir %s: cannot be written (%s); training goes on, and a crash now loses what was computed since "
            "it last could be; make room",
            self._name,
            self._folder.path,
            why,
        )
