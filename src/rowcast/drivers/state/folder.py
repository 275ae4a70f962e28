"""A folder that holds the state of a server: the newest snapshot, and the log of what came behind it."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable

import numpy as np
import safetensors
import safetensors.numpy

from rowcast.drivers.state.disk import Disk
from rowcast.drivers.state.groups import Segment, read_segments
from rowcast.drivers.state.log import Found
from rowcast.drivers.state.writer import GroupWriter, segment_name
from rowcast.durability.state import State
from rowcast.errors import StateDamaged
from rowcast.version import __version__

__all__ = ["StateFolder", "read_snapshot", "snapshot_bytes"]

#: The form of snapshots and logs; another number is another form.
FORMAT = 1
_TABLE = "table"
_IDENTITY = "identity"
_PROMISE = "promise"
_NAME = re.compile(r"(log|snapshot)-(\d{12})")


def _about(data: bytes) -> dict[str, str]:
    """What a snapshot says of itself."""
    length = int.from_bytes(data[:8], "little")
    about = json.loads(data[8 : 8 + length])["__metadata__"]
    return {str(key): str(value) for key, value in about.items()}


def _check_of(state: State) -> str:
    """A checksum of all of a state."""
    check = zlib.crc32(state.table)
    for name in sorted(state.arrays):
        check = zlib.crc32(state.arrays[name].reshape(-1).view(np.uint8).data, zlib.crc32(name.encode(), check))
    return f"{check:08x}"


def snapshot_name(first: int) -> str:
    """The snapshot behind which the log goes on with group ``first``."""
    return f"snapshot-{first:012d}"


def read_snapshot(name: str, data: bytes) -> tuple[State, dict[str, str]]:
    """The state in a snapshot, and what is said of it.

    Args:
        name: what it is called where it cannot be read.
        data: its bytes.

    Raises:
        StateDamaged: it is not as it was written, or of another form or release.
    """
    try:
        about = _about(data)
        arrays = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, LookupError) as error:
        raise StateDamaged(f"{name}: expected a whole snapshot, got one that cannot be read: {error}") from error
    if about.get("format") != str(FORMAT):
        raise StateDamaged(
            f"{name}: expected format {FORMAT}, got {about.get('format')}; use the release that wrote it"
        )
    if about.get("release") != __version__:
        raise StateDamaged(
            f"{name}: expected a state of release {__version__}, got one of {about.get('release')}; start that "
            "release once more and stop it, or go on without the state: the workers have the parameters"
        )
    table = arrays.pop(_TABLE).tobytes()
    state = State(table, {key: array.copy() for key, array in arrays.items()})
    if about.get("check") != _check_of(state):
        raise StateDamaged(f"{name}: expected a snapshot as it was written, got another one")
    return state, about


def snapshot_bytes(state: State, about: dict[str, str]) -> bytes:
    """A snapshot, as it lies on the disk; ``about`` is what is said of it."""
    table = np.frombuffer(state.table, dtype=np.uint8)
    said = {**about, "format": str(FORMAT), "release": __version__, "check": _check_of(state)}
    data: bytes = safetensors.numpy.save({**state.arrays, _TABLE: table}, metadata=said)
    return data


class StateFolder:
    """Reads and writes the state of one server; a :class:`~rowcast.drivers.state.log.RowLog`.

    Args:
        disk: the folder.

    Raises:
        ConfigError: another process uses it.
    """

    remedy = "make room there"
    #: A disk that fails is noticed when something is written, and waited for without end; no other owner comes.
    trouble, lost = "", None
    followable = True

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._give_back = disk.claim()

    def close(self) -> None:
        """Let others use the folder."""
        self._give_back()

    # -- what is there ---------------------------------------------------------------------------------------------

    def find(self) -> Found | None:
        """The newest snapshot and the log behind it; ``None``: the folder is new.

        Raises:
            StateDamaged: there is something that cannot be read as it was written, or is of another form or release.
        """
        names = self._numbered()
        snapshots, logs = names["snapshot"], names["log"]
        if not snapshots:
            if logs:
                raise StateDamaged(f"state: expected a snapshot before {segment_name(min(logs))}, got none")
            return None
        first = max(snapshots)
        state, about = read_snapshot(snapshot_name(first), self._read(snapshot_name(first)))
        segments = [Segment(segment_name(each), each, self._read(segment_name(each))) for each in sorted(logs)]
        behind = [one for one in segments if one.first >= first]
        return Found(state, about, read_segments(behind, first))

    def _numbered(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {"log": [], "snapshot": []}
        for name in self._disk.names():
            matched = _NAME.fullmatch(name)
            if matched is not None:
                found[matched[1]].append(int(matched[2]))
        return found

    def _read(self, name: str) -> bytes:
        try:
            return self._disk.read(name)
        except OSError as error:
            raise StateDamaged(f"{name}: cannot be read: {error.strerror or error}") from error

    # -- what is written -------------------------------------------------------------------------------------------

    def write(self, first: int, data: bytes) -> None:
        """Write a snapshot, then remove what it makes superfluous.

        Args:
            first: the group of the log that comes behind it.
            data: see :func:`snapshot_bytes`.

        Raises:
            OSError: it could not be written; what was there is still there.
        """
        name, new = snapshot_name(first), "new-snapshot"
        self._put(new, data)
        self._disk.replace(new, name)
        names = self._numbered()
        for number in names["snapshot"]:
            if number < first:
                self._disk.remove(snapshot_name(number))
        for number in names["log"]:
            if number < first:
                self._disk.remove(segment_name(number))

    def take(self, first: int, data: bytes) -> None:
        """Write the snapshot of another server in place of all that there is.

        Raises:
            OSError: it could not be written; what was there is there or gone, and nothing of it is mixed.
        """
        self._put("new-snapshot", data)
        names = self._numbered()
        for number in names["snapshot"]:  # first: a log without is refused, and a snapshot without would be older
            self._disk.remove(snapshot_name(number))
        for number in names["log"]:
            self._disk.remove(segment_name(number))
        self._disk.replace("new-snapshot", snapshot_name(first))

    def identity(self, source: Callable[[int], bytes]) -> bytes:
        """16 bytes that name this folder, drawn when it is asked for the first time.

        Raises:
            OSError: they can be neither read nor written.
        """
        if _IDENTITY in self._disk.names():
            known = self._disk.read(_IDENTITY)
            if len(known) == 16:
                return known
        drawn = source(16)
        self._put("new-identity", drawn)
        self._disk.replace("new-identity", _IDENTITY)
        return drawn

    def promised(self) -> int:
        """The highest term that a standby has promised not to ask for; 0: none.

        Raises:
            OSError: it cannot be read.
            StateDamaged: it is not as it was written.
        """
        if _PROMISE not in self._disk.names():
            return 0
        data = self._disk.read(_PROMISE)
        if len(data) != 12 or zlib.crc32(data[:8]) != int.from_bytes(data[8:], "little"):
            raise StateDamaged(f"{_PROMISE}: expected a term and its checksum, got other bytes")
        return int.from_bytes(data[:8], "little")

    def promise(self, term: int) -> None:
        """Keep a promise, for good.

        Raises:
            OSError: it cannot be written.
        """
        data = term.to_bytes(8, "little")
        self._put("new-promise", data + zlib.crc32(data).to_bytes(4, "little"))
        self._disk.replace("new-promise", _PROMISE)

    def _put(self, name: str, data: bytes) -> None:
        file = self._disk.create(name)
        try:
            file.write(data)
            file.sync()
        finally:
            file.close()

    def writer(self, first: int, *, commit_s: float, committed: Callable[[], None]) -> GroupWriter:
        """What appends to the log from group ``first`` on."""
        return GroupWriter(self._disk, first, commit_s=commit_s, committed=committed)
