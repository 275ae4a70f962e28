"""The thread that takes samples out of a source as they come, whatever the training loop is doing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from rowcast.errors import SourceEnded
from rowcast.streams import Feed, FeedBatch, Positions, Source

__all__ = ["Puller"]

#: The source is asked for so many samples at most, and waits for the first one for so long (s); as long a commit may
#: have to wait for its turn.
_AT_MOST, _TIMEOUT_S = 512, 0.05
#: Samples that come one by one are taken in lumps of so much time (s): waking up for each costs more than the sample.
_LUMP_S = 0.02


class Puller:
    """Owns a source. While it is open one thread alone takes from it and commits; :meth:`start` opens it before that
    thread begins, and :meth:`stop` closes it behind its end.

    Args:
        source: not yet opened.
        feed: receives what comes.
        clock: seconds, never back.
    """

    def __init__(self, source: Source, feed: Feed, clock: Callable[[], float]) -> None:
        self.feed = feed
        self._source, self._clock = source, clock
        self._changed = threading.Condition()
        self._committed = Positions()
        self._to_commit: Positions | None = None
        self._stopping = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self, positions: Positions | None) -> None:
        """Open the source, and take from it from now on.

        Raises:
            RowcastError: as :meth:`Source.open` has it.
        """
        self.feed.positions = self._source.open(positions)
        self.feed.arrived(self._clock(), [])
        self._thread = threading.Thread(target=self._run, name="rowcast-source", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str:
        """What the source waits for."""
        return self._source.trouble

    @property
    def dropped(self) -> dict[str, int]:
        """Samples that the source did not deliver, and those that gave way to newer ones, by reason."""
        with self._changed:
            return dict(Counter(self._source.dropped) + self.feed.buffer.dropped)

    @property
    def rate(self) -> float | None:
        """Of the stream (samples/s); ``None`` while nobody can know."""
        with self._changed:
            return self.feed.rate(self._clock())

    @property
    def supply(self) -> float | None:
        """What the next batch can draw on (samples/s); see :meth:`Feed.supply`."""
        with self._changed:
            return self.feed.supply(self._clock())

    def next(self, timeout_s: float, prepare: Callable[[], None]) -> FeedBatch | None:
        """The next batch; ``None``: none within so many seconds, or at all (:attr:`over`).

        Args:
            timeout_s: longest wait.
            prepare: called before each look at the feed, on this thread, without a lock held.

        Raises:
            Exception: what the source raised.
        """
        until = self._clock() + timeout_s
        while True:
            prepare()
            with self._changed:
                now = self._clock()
                batch = self.feed.take(now)
                if batch is not None:
                    self._changed.notify()  # there is room again
                    return batch
                if self._error is not None:
                    raise self._error
                if self.feed.ended or now >= until:
                    return None
                begins = self.feed.begins_at(now)
                self._changed.wait(max(min(until, begins if begins > now else until) - now, 0.0))

    @property
    def over(self) -> bool:
        """The source has ended, and everything was taken."""
        return self.feed.ended and not len(self.feed.buffer)

    def commit(self, positions: Positions) -> None:
        """Everything up to ``positions`` is taken care of; the source is told on its own thread."""
        with self._changed:
            self._to_commit = positions
            self._changed.notify_all()

    def stop(self) -> None:
        """End the thread, tell the source what was committed last, and close it."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        try:
            self._tell()
        finally:
            self._source.close()

    # -- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._room():
                self._tell()
                try:
                    samples = self._source.take(_AT_MOST, _TIMEOUT_S)
                except SourceEnded:
                    with self._changed:
                        self.feed.ended = True
                        self._changed.notify_all()
                    self._rest()
                    return
                with self._changed:
                    now = self._clock()
                    self.feed.arrived(now, samples)
                    if samples and not self.feed.missing(now):
                        self._changed.notify_all()
                    elif samples and len(samples) < _AT_MOST:
                        self._changed.wait(_LUMP_S)
        except BaseException as error:  # handed to the training loop, which raises it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _room(self) -> bool:
        """Wait until there is room for more; whether to go on."""
        with self._changed:
            while not self._stopping and not self.feed.room(self._clock()) and self._to_commit is None:
                self._changed.wait()
            return not self._stopping

    def _rest(self) -> None:
        """The source has ended: commit until this is stopped."""
        while True:
            with self._changed:
                while not self._stopping and self._to_commit is None:
                    self._changed.wait()
                if self._stopping:
                    return
            self._tell()

    def _tell(self) -> None:
        """Tell the source what is to be committed."""
        with self._changed:
            positions, self._to_commit = self._to_commit, None
        if positions is not None and positions != self._committed:
            self._source.commit(positions)
            self._committed = positions
