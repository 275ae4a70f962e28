"""Recordings for the tests of sources, and a clock that moves only when somebody waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mcap.writer import CompressionType, Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as BagWriter

from rowcast.errors import SourceEnded
from rowcast.streams import Sample, Source

__all__ = ["FakeTime", "Opened", "rest", "taken", "write_bag", "write_csv", "write_mcap"]


#: Opens a source (behind positions), returns it, and closes it at the end of the test.
Opened = Callable[..., Any]


class FakeTime:
    """A clock, and what waits on it."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now
        self.pauses = 0
        self.meanwhile: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        """Time passes, and something may happen."""
        self.now += seconds
        self.pauses += 1
        self.meanwhile()

    @property
    def settings(self) -> dict[str, Callable[..., object]]:
        """For a source."""
        return {"clock": self, "pause": self.pause}


def taken(source: Source, count: int, at_most: int = 1000) -> list[Sample]:
    """``count`` samples that are there."""
    found: list[Sample] = []
    while len(found) < count:
        some = source.take(min(at_most, count - len(found)), 0.0)
        assert some, f"{len(found)} of {count} samples are there"
        found += some
    return found


def rest(source: Source, at_most: int = 100) -> list[Sample]:
    """Everything to the end of a finite source."""
    found: list[Sample] = []
    while True:
        try:
            found += source.take(at_most, 0.0)
        except SourceEnded:
            return found


def write_csv(path: Path, rows: int, start: int = 0) -> Path:
    """A CSV file with a header, or further rows of it."""
    with path.open("a", encoding="utf-8") as file:
        if not start:
            file.write("t_s,x,label\n")
        for k in range(start, start + rows):
            file.write(f"{k / 10},{k * k},name{k}\n")
    return path


def write_mcap(
    path: Path,
    topics: Sequence[str] = ("/camera", "/lidar"),
    count: int = 60,
    chunk_bytes: int = 1000,
    compression: CompressionType = CompressionType.LZ4,
    use_chunking: bool = True,
) -> list[tuple[str, float, bytes]]:
    """An MCAP file of ``count`` messages, topics in turn; returns topic, time and content of each."""
    messages = []
    with path.open("wb") as file:
        writer = Writer(file, chunk_size=chunk_bytes, compression=compression, use_chunking=use_chunking)
        writer.start()
        schema = writer.register_schema("any", "none", b"")
        channels = {topic: writer.register_channel(topic, "none", schema) for topic in topics}
        for k in range(count):
            topic, time_ns = topics[k % len(topics)], 1_000_000_000 + k * 10_000_000
            data = bytes([k % 256, k // 256]) * (20 + k % 7)
            writer.add_message(channels[topic], log_time=time_ns, data=data, publish_time=time_ns)
            messages.append((topic, time_ns / 1e9, data))
        writer.finish()
    return messages


def write_bag(
    path: Path,
    storage: StoragePlugin,
    topics: Sequence[str] = ("/a", "/b"),
    count: int = 60,
    packed: CompressionMode = CompressionMode.NONE,
) -> list[bytes]:
    """A rosbag2 of ``count`` messages, topics in turn; returns the content of each."""
    whole = BagWriter(path, version=9, storage_plugin=storage)
    whole.set_compression(packed, CompressionFormat.ZSTD)
    with whole as writer:
        connections = [
            writer.add_connection(topic, "std_msgs/msg/String", msgdef="string data\n", rihs01="RIHS01_0")
            for topic in topics
        ]
        contents = []
        for k in range(count):
            contents.append(b"\0\1\0\0" + bytes([k % 256]) * 40)
            writer.write(connections[k % len(topics)], 1_000_000_000 + k * 1_000_000, contents[-1])
    return contents
