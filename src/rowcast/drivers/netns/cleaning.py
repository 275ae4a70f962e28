"""What an emulation that was killed has left on the machine, and its removal."""

from __future__ import annotations

from dataclasses import dataclass

from rowcast.drivers.netns.namespaces import end_processes, remove_namespace
from rowcast.drivers.netns.places import names_folder
from rowcast.drivers.netns.records import Record, all_records, records_locked
from rowcast.errors import ConfigError

__all__ = ["Cleaned", "clean", "remove_all"]


@dataclass(frozen=True)
class Cleaned:
    """What was removed.

    Attributes:
        namespaces: by name, with the interfaces in them.
        processes: ids of those that still ran in there, and were ended.
        left: what is still there, a line each with the remedy.
    """

    namespaces: tuple[str, ...] = ()
    processes: tuple[int, ...] = ()
    left: tuple[str, ...] = ()


def clean() -> Cleaned:
    """Remove namespaces, interfaces and processes of emulations whose owner lives no longer; those of others never.

    Raises:
        ConfigError: this process may not.
    """
    namespaces: list[str] = []
    processes: list[int] = []
    with records_locked():
        records, damaged = all_records()
        left = [f"{file} is no record of a network; look at it, and delete it" for file in damaged]
        for record in records:
            if record.owner.lives:
                continue
            removed, ended, stuck = remove_all(record)
            namespaces += removed
            processes += ended
            if stuck:
                pids = ", ".join(map(str, stuck))
                left.append(f"network {record.token}: process {pids} does not end; clean again when it has")
    return Cleaned(tuple(namespaces), tuple(processes), tuple(left))


def remove_all(record: Record) -> tuple[list[str], list[int], list[int]]:
    """Take away everything of a network.

    Returns:
        the names that were removed; the processes that were ended; those that could not be: the record stays then.

    Raises:
        ConfigError: a name cannot be removed.
    """
    paths = [names_folder() / name for name in record.namespaces]
    ended, left = end_processes(path for path in paths if path.exists())
    removed = []
    if not left:
        for path in paths:
            try:
                if remove_namespace(path):
                    removed.append(path.name)
            except OSError as error:
                raise ConfigError(
                    f"namespace {path.name}: cannot be removed: {error.strerror}; do so as root"
                ) from error
        record.delete()
    return removed, ended, left
