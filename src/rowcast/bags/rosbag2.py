"""A rosbag2 in SQLite, or one whose files or messages are compressed, by the library ``rosbags``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rowcast.bags.order import in_order
from rowcast.errors import DataError, visible
from rowcast.libraries import needing

__all__ = ["open_rosbag2"]


def open_rosbag2(path: Path, what: str = "a rosbag2") -> list[Any]:
    """Open readers of ``rosbags``, in the order in which their files were written; whoever asks closes them.

    Args:
        path: the folder of the bag, or one of its ``.db3`` files. A folder without ``metadata.yaml``, as a power loss
            leaves it, is read by its ``.db3`` files.
        what: needs the library, for the message.

    Raises:
        ConfigError: the library is not installed.
        DataError: it cannot be read, or its last writes are still in a journal beside it.
    """
    with needing(what, "mcap"):
        from rosbags.rosbag2 import Reader
    whole = not path.is_dir() or (path / "metadata.yaml").exists()
    readers: list[Any] = []
    try:
        _check_journals(path)
        for each in [path] if whole else in_order(path.glob("*.db3")):
            reader = Reader(each)
            reader.open()
            readers.append(reader)
    except Exception as error:  # whatever rosbags and its data base raise for a damaged file
        for reader in readers:
            reader.close()
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: no rosbag2 that can be read: {visible(str(error))}") from error
    return readers


def _check_journals(path: Path) -> None:
    """``rosbags`` would pass over what a process that was killed had only written there.

    Raises:
        DataError: there is a journal with something in it.
    """
    folder = path if path.is_dir() else path.parent
    mine = "*.db3" if path.is_dir() else path.name
    for journal in in_order([*folder.glob(f"{mine}-wal"), *folder.glob(f"{mine}-journal")]):
        if journal.stat().st_size:
            base = journal.with_name(journal.name.rpartition("-")[0])
            raise DataError(
                f"{base}: its last writes are still in {journal.name}; open it once with SQLite: "
                f"sqlite3 {base} 'PRAGMA wal_checkpoint(TRUNCATE); SELECT count(*) FROM messages'"
            )
