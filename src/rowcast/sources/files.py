"""Recordings by what their names say."""

from __future__ import annotations

from pathlib import Path

from rowcast.bags import packs_messages
from rowcast.errors import ConfigError, DataError, near_match
from rowcast.sources.csv_file import CsvSource
from rowcast.sources.mcap_file import McapSource
from rowcast.sources.rosbag import RosbagSource
from rowcast.sources.text import SourceText
from rowcast.streams import Source

__all__ = ["recorded"]

_KINDS = {
    ".csv": CsvSource.from_text,
    ".csv.gz": CsvSource.from_text,
    ".mcap": McapSource.from_text,
    ".db3": RosbagSource.from_text,
}


def recorded(text: SourceText) -> Source:
    """The source of a file or folder, not opened.

    Raises:
        ConfigError: no kind of file that can be read, or an option that this kind does not have.
        DataError: a folder that is no recording, or is not there.
    """
    path = Path(text.place)
    ending = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    if ending in _KINDS:
        return _KINDS[ending](text)
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        raise ConfigError(f"{path}: not a kind of file that can be read; {near_match(ending, _KINDS)}, or a rosbag2")
    if any(path.glob("*.mcap")) and not packs_messages(path):
        return McapSource.from_text(text)
    if (path / "metadata.yaml").exists() or any(path.glob("*.db3")):
        return RosbagSource.from_text(text)
    raise DataError(
        f"{path}: no recording: expected metadata.yaml, or files *.mcap or *.db3; for a sample a file: dir://{path}"
    )
