"""Callbacks of users, called with what happens: on a thread of their own, so that a slow one keeps nobody."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType

from rowcast.errors import visible
from rowcast.journal import Event, Journal, Record

__all__ = ["MOST_WAITING", "Subscription"]

log = logging.getLogger("rowcast")

#: Events that wait for a callback at most; the oldest go first.
MOST_WAITING = 10_000
#: Who ends a subscription waits so long at most (s) for the callback to be called with what waits.
LIMIT_S = 5.0


class Subscription:
    """A callback that is called with each event of a journal, until it is closed; also a context that closes it.

    The callback is called on a thread of the subscription's own, one event after the other, in the order of the
    journal. It may be slow: beyond :data:`MOST_WAITING` events that wait the oldest are dropped, and a warning says so.
    It may raise: the first error of each class is logged with its traceback, the others are counted, and it is called
    with the next event.

    Args:
        journal: whose events.
        callback: called with each.

    Attributes:
        dropped: events that the callback was not called with, because it was too slow.
        failures: times that it has raised.
    """

    def __init__(self, journal: Journal, callback: Callable[[Event], object]) -> None:
        self.dropped = 0
        self.failures = 0
        self._journal = journal
        self._callback = callback
        self._waiting: deque[Record] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._seen: set[type[BaseException]] = set()
        self._thread = threading.Thread(target=self._run, name=f"rowcast-events-{journal.node}", daemon=True)
        self._thread.start()
        journal.watch(self._take)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """No further event is taken."""
        return self._closed

    def close(self, limit_s: float = LIMIT_S) -> None:
        """Take no further event; the callback is called with what waits before this returns, if it is quick enough.

        Args:
            limit_s: wait for that at most so long (s); what is left then is dropped, and a warning says how much.
        """
        self._journal.unwatch(self._take)
        with self._changed:
            first, self._closed = not self._closed, True
            self._changed.notify_all()
        if threading.current_thread() is self._thread:  # the callback has closed it: its thread ends behind it
            return
        self._thread.join(limit_s)
        with self._changed:
            left, busy = len(self._waiting), self._thread.is_alive()
            self.dropped += left
            self._waiting.clear()
        if not first:
            return
        if busy or left:
            log.warning(
                "%s: the callback of on_event %s was still at work after %g s: %d events are dropped; make it quicker",
                *(self._journal.node, self._name(), limit_s, left),
            )
        if self.failures > len(self._seen):
            log.warning(
                "%s: the callback of on_event %s has raised %d times", self._journal.node, self._name(), self.failures
            )

    def _take(self, record: Record) -> None:
        """One record, on the thread of whoever records it."""
        with self._changed:
            if self._closed:
                return
            if len(self._waiting) >= MOST_WAITING:
                self._waiting.popleft()
                self.dropped += 1
                overrun = self.dropped == 1
            else:
                overrun = False
            self._waiting.append(record)
            self._changed.notify_all()
        if overrun:
            log.warning(
                "%s: the callback of on_event %s is slower than events come: of more than %d that wait the oldest are "
                "dropped; make it quicker",
                *(self._journal.node, self._name(), MOST_WAITING),
            )

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                record = self._waiting.popleft()
            try:
                self._callback(Event.of(record))
            except BaseException as error:  # also SystemExit, which would end this thread without a word
                self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self.failures += 1
        if type(error) in self._seen:
            return
        self._seen.add(type(error))
        log.error(
            "%s: the callback of on_event %s has raised %s: %s; training goes on, and it is called with the next event",
            *(self._journal.node, self._name(), type(error).__name__, visible(str(error))),
            exc_info=error,
        )

    def _name(self) -> str:
        return visible(str(getattr(self._callback, "__qualname__", type(self._callback).__name__)), 80)
