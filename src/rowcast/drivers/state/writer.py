"""Commits records in groups, on a thread of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rowcast.drivers.state.disk import Disk, OpenFile
from rowcast.drivers.state.groups import file_header, pack_group
from rowcast.drivers.state.log import GroupStore
from rowcast.errors import SteppedDown

__all__ = ["RETRY_S", "GroupCommit", "GroupWriter", "segment_name"]

#: After a write that failed it is tried again so much later (s).
RETRY_S = 1.0


def segment_name(first: int) -> str:
    """The file whose first group has this number."""
    return f"log-{first:012d}"


@dataclass
class _Group:
    """Records that are committed together.

    Attributes:
        number: of the group; ``opens``: it begins a new file; ``records``, ``position``: its records, and the newest's.
    """

    number: int
    opens: bool = False
    records: list[bytes] = field(default_factory=list)
    position: int = 0


class GroupCommit:
    """Appends records from one thread, commits them on another.

    A commit begins at once when the last one began ``commit_s`` ago or longer; what comes meanwhile goes into one
    group. While the store fails, nothing is committed and everything is kept; it is tried again each second. When the
    log has another owner, nothing is committed ever again.

    Args:
        store: where groups are stored.
        first: number of the next group.
        commit_s: seconds between the beginnings of two commits at least.
        committed: called on the writer's thread after a commit, after a failure, and when it has written again.

    Attributes:
        committed_to: position of the newest record that is committed.
        failure: why nothing can be written now; empty: it can.
        written: bytes written, all together.
        waiting_bytes: bytes of records that are not committed.
        tap: called on the writer's thread with number, newest position and content of each group once it is committed.
    """

    def __init__(self, store: GroupStore, first: int, *, commit_s: float, committed: Callable[[], None]) -> None:
        self.committed_to = 0
        self.failure = ""
        self.written = 0
        self.waiting_bytes = 0
        self.tap: Callable[[int, int, bytes], None] | None = None
        self._store = store
        self._commit_s = commit_s
        self._committed = committed
        self._position = 0
        self._open = _Group(first, opens=True)
        self._sealed: deque[_Group] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._idle = self._ending = self._due = self._over = False
        self._hurry = 0
        self._thread = threading.Thread(target=self._run, name="rowcast-log", daemon=True)
        self._thread.start()

    # -- called from the thread that appends ------------------------------------------------------------------------

    def append(self, record: bytes, *, waits: bool = False) -> int:
        """Append a record; returns its position.

        One that ``waits`` is committed with the next one, unless somebody waits in :meth:`flush`.
        """
        with self._lock:
            waits = waits and not self._hurry
            self._position += 1
            self._open.records.append(record)
            self.waiting_bytes += len(record)
            self._due = self._due or not waits
            if self._idle and not waits:
                self._idle = False
                self._wake.notify_all()
            return self._position

    def rotate(self) -> int:
        """What is appended from now on goes into a new file; returns the number of its first group."""
        with self._lock:
            self._seal()
            self._open.opens = True
            return self._open.number

    def flush(self) -> None:
        """Block until everything is committed, or the store fails."""
        with self._lock:
            self._hurry += 1
            self._due = True
            self._wake.notify_all()
            self._wake.wait_for(lambda: self.failure or self.committed_to == self._position or not self._alive())
            self._hurry -= 1

    def close(self) -> None:
        """Commit what there is, if the store allows, and end the thread."""
        with self._lock:
            self._ending = True
            self._wake.notify_all()
        self._thread.join()

    def _alive(self) -> bool:
        return self._thread.is_alive()

    def _seal(self) -> None:
        group = self._open
        self._due = False
        if group.records:
            group.position = self._position
            self._sealed.append(group)
            self._open = _Group(group.number + 1)

    # -- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        begun_at = -self._commit_s
        while True:
            with self._lock:
                while not (self._due or self._sealed or self._ending):
                    self._idle = True
                    self._wake.wait()
                self._idle = False
                rest_s = begun_at + self._commit_s - time.monotonic()
                if rest_s > 0:
                    self._wake.wait_for(lambda: self._hurry or self._ending, rest_s)
                self._seal()
                if not self._sealed:
                    if self._ending:
                        break
                    continue
                group = self._sealed[0]
            begun_at = time.monotonic()
            if self._commit(group):
                continue
            with self._lock:
                if self._ending or self._over:
                    break
                self._wake.wait_for(lambda: self._ending, RETRY_S)
        self._store.close()

    def _commit(self, group: _Group) -> bool:
        """Store a group; whether that went well."""
        content = b"".join(group.records)
        try:
            written = self._store.put(group.number, content, opens=group.opens)
        except OSError as error:
            self.failure = error.strerror or str(error)
            self._told()
            return False
        except SteppedDown as error:
            self.failure, self._over = str(error), True
            self._told()
            return False
        with self._lock:
            self._sealed.popleft()
            self.committed_to = group.position
            self.written += written
            self.waiting_bytes -= len(content)
            self.failure = ""
        if (tap := self.tap) is not None:
            tap(group.number, group.position, content)
        self._told()
        return True

    def _told(self) -> None:
        with self._lock:
            self._wake.notify_all()
        self._committed()


class _Files:
    """Stores groups in files of a folder: a new one where a snapshot may be taken, and after a failure."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._file: OpenFile | None = None

    def put(self, number: int, content: bytes, *, opens: bool) -> int:
        data = pack_group(number, content)
        try:
            if self._file is None or opens:
                self.close()
                self._file = self._disk.create(segment_name(number))
                self._file.write(file_header(number))
            self._file.write(data)
            self._file.sync()
        except OSError:
            # Whatever came of it on the disk: the group is written anew, into a file of its own.
            self.close()
            raise
        return len(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class GroupWriter(GroupCommit):
    """Commits records to files of a folder; after a write that failed, to a new file.

    Args:
        disk: the folder.
        first, commit_s, committed: see :class:`GroupCommit`.
    """

    def __init__(self, disk: Disk, first: int, *, commit_s: float, committed: Callable[[], None]) -> None:
        super().__init__(_Files(disk), first, commit_s=commit_s, committed=committed)
