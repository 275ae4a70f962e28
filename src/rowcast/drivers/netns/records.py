"""Who made which namespaces: a file for each network, written before they are made and deleted when they are gone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rowcast.drivers.claim import claimed
from rowcast.drivers.netns.places import records_folder
from rowcast.errors import ConfigError

__all__ = ["Owner", "Record", "all_records", "records_locked"]

_SUFFIX = ".json"


@dataclass(frozen=True)
class Owner:
    """A process, told apart from a later one with the same id.

    Attributes:
        pid: its id.
        started: when it started, in clock ticks since the machine did.
        boot: which start of the machine.
        pid_namespace: in which namespace of process ids the id counts.
    """

    pid: int
    started: int
    boot: str
    pid_namespace: int

    @classmethod
    def this_process(cls) -> Owner:
        """The process that asks."""
        pid = os.getpid()
        started = _started(pid)
        if started is None:
            raise ConfigError(f"/proc/{pid}/stat: cannot be read; expected /proc of this process' namespace of ids")
        return cls(pid, started, _boot(), _pid_namespace())

    @property
    def lives(self) -> bool:
        """Whether it still runs, as far as one can see from here: one of another namespace of ids is taken to."""
        if self.boot != _boot():
            return False
        return self.pid_namespace != _pid_namespace() or self.started == _started(self.pid)


@dataclass(frozen=True)
class Record:
    """A network and its owner.

    Attributes:
        token: what the names of its namespaces have in common.
        owner: who made it.
        namespaces: their names; some of them may not be there yet, or any more.
    """

    token: str
    owner: Owner
    namespaces: tuple[str, ...]

    def save(self) -> None:
        """Write it, in place of an earlier one; whoever reads it sees the one or the other. Lock the records first.

        Raises:
            ConfigError: it cannot be written.
        """
        file = self._file()
        new = file.with_name(".new")
        try:
            new.write_bytes(msgspec.json.encode(self))
            new.replace(file)
        except OSError as error:
            raise ConfigError(f"{file}: cannot be written: {error.strerror}; make room, or run it as root") from error

    def delete(self) -> None:
        """Delete it, if it is there."""
        self._file().unlink(missing_ok=True)

    def _file(self) -> Path:
        return records_folder() / f"{self.token}{_SUFFIX}"


@contextlib.contextmanager
def records_locked() -> Iterator[None]:
    """Nobody else claims a name or cleans meanwhile; makes the folder.

    Raises:
        ConfigError: the folder cannot be used.
    """
    folder = records_folder()
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            stack.enter_context(claimed(folder / ".lock"))
        except OSError as error:
            raise ConfigError(f"{folder}: cannot keep records of networks: {error.strerror}; run it as root") from error
        yield


def all_records() -> tuple[list[Record], list[Path]]:
    """All that are there, and the files that are none."""
    records, damaged = [], []
    for file in sorted(records_folder().glob(f"*{_SUFFIX}")):
        try:
            records.append(msgspec.json.decode(file.read_bytes(), type=Record))
        except FileNotFoundError:
            continue  # its network was closed just now
        except msgspec.DecodeError:
            damaged.append(file)
    return records, damaged


def _started(pid: int) -> int | None:
    """Start time of a process in clock ticks; ``None``: it is none, or only waits for its parent to take notice."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # what stands before the bracket is a name that may hold anything
    return None if fields[0] in "ZX" else int(fields[19])


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino
