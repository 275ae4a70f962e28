"""Files of a recording: their order, and how a rosbag2 is packed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from rowcast.errors import DataError

__all__ = ["in_order", "packs_messages"]


def in_order(paths: Iterable[Path]) -> list[Path]:
    """The files of a recording by name, numbers as numbers: ``drive_2`` before ``drive_10``."""
    return sorted(paths, key=lambda path: [part.zfill(20) for part in re.split(r"(\d+)", path.name)])


def packs_messages(bag: Path) -> bool:
    """Whether the messages of a rosbag2 are compressed one by one: what is in its MCAP files is not what was sent.

    Raises:
        DataError: its description cannot be read.
    """
    try:
        text = (bag / "metadata.yaml").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DataError(f"{bag}/metadata.yaml: cannot be read: {error.strerror}") from error
    return re.search(r"""^\s*compression_mode:\s*["']?message\b""", text, re.MULTILINE | re.IGNORECASE) is not None
