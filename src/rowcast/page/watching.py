"""A team that is kept up to date for a page: by a server of this process, or from journals."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from rowcast.errors import RowcastError
from rowcast.journal import Record
from rowcast.page.history import History
from rowcast.page.model import Team
from rowcast.page.preview import preview
from rowcast.page.totals import Totals

__all__ = ["Live", "Source", "Watch"]

T = TypeVar("T")

#: Records that wait for the page at most; the oldest go first.
MOST_WAITING = 100_000
#: Records that are taken in while nobody else can look.
AT_ONCE = 1000
#: Journals are looked at so often (s), and their folder.
POLL_S, FOLDER_S = 0.1, 2.0
#: A longer run is shown by samples first, and then read in full.
LONG_BYTES = 24 << 20


class Source(Protocol):
    """Where a page gets its team from. All but :meth:`at` is to be looked at with ``lock`` held.

    Attributes:
        title: what is watched, for people.
        generation: another number means that ``team`` is another object.
        totals: what the records add up to, for metrics; ``None``: nobody counts.
        loaded: share of the journals that was read; 1 where all of it was.
        replays: whether :meth:`at` can tell of the past.
    """

    lock: threading.Lock
    title: str
    generation: int
    totals: Totals | None

    @property
    def team(self) -> Team: ...

    @property
    def loaded(self) -> float: ...

    @property
    def replays(self) -> bool: ...

    def pump(self) -> None:
        """Take in what waits."""

    def at(self, t: float, look: Callable[[Team], T]) -> T:
        """``look`` at the team at time ``t`` (s)."""


class Watch:
    """Follows journals, on a thread of its own.

    Args:
        path, session: see :class:`rowcast.page.Recording`.
        totals: where records are counted for metrics; ``None``: nowhere.

    Raises:
        ConfigError: see :class:`rowcast.page.Recording`.
    """

    def __init__(self, path: str | Path, session: int = -1, totals: Totals | None = None) -> None:
        self.totals = totals
        self.lock = threading.Lock()
        self.title = str(path)
        self.generation = 1
        self.failure = ""
        self._history = History(path, session, totals)
        self._preview: Team | None = None
        self._size = self._history.recording.bytes_left
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="rowcast-watch", daemon=True)
        if self._size > LONG_BYTES:
            recording = self._history.recording
            places = recording.places()
            self._preview = preview({file: places[file.name].offset for file in recording.files})
        else:
            while self._history.read(AT_ONCE):
                pass

    def start(self) -> None:
        """Read on from now on."""
        self._thread.start()

    def close(self) -> None:
        """Read no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def team(self) -> Team:
        return self._preview or self._history.team

    @property
    def loaded(self) -> float:
        if self._preview is None:
            return 1.0
        return 1.0 - min(self._history.recording.bytes_left / max(self._size, 1), 1.0)

    @property
    def replays(self) -> bool:
        return True

    def pump(self) -> None:
        """Nothing waits: the thread takes it in."""

    def at(self, t: float, look: Callable[[Team], T]) -> T:
        return self._history.at(t, look)

    def _follow(self) -> None:
        waited_s = 0.0
        while not self._stop.is_set():
            try:
                with self.lock:
                    count = self._history.read(AT_ONCE)
                    if not count and self._preview is not None:
                        self._preview, self.generation = None, self.generation + 1
                    if not count and waited_s >= FOLDER_S:
                        waited_s = 0.0
                        self._history.recording.look_for_more()
            except RowcastError as error:
                with self.lock:
                    team = self.team
                    team.tell(team.now or 0.0, "page", "journal", ("trouble", str(error)))
                return
            # While there is more the lock is free for a moment all the same: who shows the page waits for it.
            self._stop.wait(0.0005 if count else POLL_S)
            waited_s += 0.0 if count else POLL_S


class Live:
    """Is told by the journal of a server in this process; see :meth:`rowcast.journal.Journal.watch`.

    Args:
        title: what is watched, for people.
        past: the journal's file, once it is written: then the run can be replayed.
        totals: where records are counted for metrics; ``None``: nowhere.
    """

    def __init__(
        self, title: str, past: Callable[[], Path | None] = lambda: None, totals: Totals | None = None
    ) -> None:
        self.totals = totals
        self.lock = threading.Lock()
        self.title = title
        self.generation = 1
        self.team = Team()
        self._waiting: deque[Record] = deque(maxlen=MOST_WAITING)
        self._overrun = False
        self._past = past
        self._history: History | None = None
        self._reading = threading.Lock()

    def take(self, record: Record) -> None:
        """One record, from the thread of the server: it waits for the page's."""
        if len(self._waiting) == MOST_WAITING:
            self._overrun = True
            if self.totals is not None:
                self.totals.left_out += 1
        self._waiting.append(record)

    @property
    def loaded(self) -> float:
        return 1.0

    @property
    def replays(self) -> bool:
        return self._past() is not None

    def pump(self) -> None:
        waiting = self._waiting
        for _ in range(min(len(waiting), AT_ONCE)):
            record = waiting.popleft()
            self.team.take(record)
            if self.totals is not None:
                self.totals.take(record, self.team.about)
        if self._overrun:
            self._overrun = False
            told = ("trouble", "more was written than the page could take in: the oldest of it is left out here")
            self.team.tell(self.team.now or 0.0, "page", "journal", told)

    def at(self, t: float, look: Callable[[Team], T]) -> T:
        with self._reading:
            if self._history is None:
                path = self._past()
                assert path is not None, "who asks looks at 'replays' first"
                self._history = History(path)
            while self._history.read(AT_ONCE):
                pass
        return self._history.at(t, look)
