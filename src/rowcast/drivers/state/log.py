"""What a log of inputs is to the server that keeps one, wherever it lies.

A log holds the newest snapshot of a node, and behind it everything that the node has heard, in groups that are
committed one after the other. Nothing that follows from a group leaves the machine before the group is committed. What
is read again is a snapshot and the whole groups behind it; a group that was not committed may be missing.

:class:`~rowcast.drivers.state.folder.StateFolder` has it in files of this machine,
:class:`~rowcast.drivers.state.jetstream.JetStreamLog` in NATS JetStream. The interface says nothing of the node: a
snapshot is bytes, a group is records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rowcast.drivers.state.groups import Groups
from rowcast.durability.records import Record, decode
from rowcast.durability.state import State
from rowcast.errors import RowcastError

__all__ = ["Found", "GroupStore", "LogWriter", "RowLog"]


@dataclass
class Found:
    """What a log holds.

    Attributes:
        state: of the newest snapshot.
        about: what was said of it when it was written.
        groups: of the log behind it.
    """

    state: State
    about: dict[str, str]
    groups: Groups

    def inputs(self) -> Iterable[Record]:
        """The inputs that came behind the snapshot."""
        return decode(self.groups)


class GroupStore(Protocol):
    """Where groups are stored, one after the other; called on one thread."""

    def put(self, number: int, content: bytes, *, opens: bool) -> int:
        """Store a group; it is committed when this returns.

        Args:
            number: of the group, one more than that of the group before. After an OSError the same comes again.
            content: its records.
            opens: a snapshot may be taken before it.

        Returns:
            How many bytes were written.

        Raises:
            OSError: it could not be stored, or nobody knows: it is tried again.
            SteppedDown: the log has another owner; nothing is ever stored here again.
        """

    def close(self) -> None:
        """Nothing more is stored."""


class LogWriter(Protocol):
    """Commits records in groups; see :class:`~rowcast.drivers.state.writer.GroupCommit`, which is one.

    Attributes:
        tap: called with number, newest position and content of each group once it is committed.
    """

    tap: Callable[[int, int, bytes], None] | None

    @property
    def committed_to(self) -> int:
        """Position of the newest record that is committed."""

    @property
    def failure(self) -> str:
        """Why nothing can be committed now; empty: it can."""

    @property
    def written(self) -> int:
        """Bytes written, all together."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes of records that are not committed."""

    def append(self, record: bytes, *, waits: bool = False) -> int:
        """Append a record; returns its position, which rises. One that ``waits`` is committed with the next one."""

    def rotate(self) -> int:
        """What is appended from now on goes into another group; returns its number."""

    def flush(self) -> None:
        """Block until everything is committed, or nothing can be."""

    def close(self) -> None:
        """Commit what there is, if that is possible, and end."""


@runtime_checkable
class RowLog(Protocol):
    """One log, of which this process is the owner until it is closed."""

    @property
    def remedy(self) -> str:
        """What an operator does when nothing can be written."""

    @property
    def trouble(self) -> str:
        """Why the log cannot be reached, although nothing waits to be written; empty: it can, as far as is known."""

    @property
    def lost(self) -> RowcastError | None:
        """Why this process must end: the log has another owner, or was away for too long; ``None``: it need not."""

    @property
    def followable(self) -> bool:
        """Whether a standby may follow the server of this log."""

    def find(self) -> Found | None:
        """The newest snapshot and the groups behind it; ``None``: the log is new.

        Raises:
            StateDamaged: there is something that cannot be read as it was written, or is of another form or release.
        """

    def identity(self, source: Callable[[int], bytes]) -> bytes:
        """16 bytes that name this log; they stay the same.

        Args:
            source: of random bytes, for a log that has no name yet.

        Raises:
            OSError: they can be neither read nor written.
        """

    def promised(self) -> int:
        """The highest term that a standby has promised not to ask for; 0: none.

        Raises:
            OSError: it cannot be read.
            StateDamaged: it is not as it was written.
        """

    def write(self, first: int, data: bytes) -> None:
        """Store a snapshot, then remove what it makes superfluous.

        Args:
            first: number of the group that comes behind it: the newest that ``rotate`` of the writer has told, or the
                one that the writer begins with.
            data: see :func:`~rowcast.drivers.state.folder.snapshot_bytes`.

        Raises:
            OSError: it could not be stored, or what is superfluous not removed; the snapshot before it counts, or
                this one.
            SteppedDown: the log has another owner.
        """

    def writer(self, first: int, *, commit_s: float, committed: Callable[[], None]) -> LogWriter:
        """What appends to the log from group ``first`` on.

        Args:
            first: number of the next group.
            commit_s: seconds between the beginnings of two commits at least.
            committed: called on some thread after a commit, after a failure, when it works again, and when
                :attr:`lost` or :attr:`trouble` changes.
        """

    def close(self) -> None:
        """Let others have the log."""
