"""The messages of one topic of a recording, decoded."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rowcast.bags.decoding import Decode, decoder_of, ros_decoder
from rowcast.bags.mcap_index import DamagedChunk, McapFile
from rowcast.bags.order import in_order, packs_messages
from rowcast.bags.rosbag2 import open_rosbag2
from rowcast.errors import DataError, near_match, visible

__all__ = ["read_topic"]

log = logging.getLogger("rowcast")

#: Topics that a message names at most.
_SHOWN = 40


def read_topic(path: Path, topic: str) -> Iterator[tuple[int, Any]]:
    """The messages of a topic: the time at which each was logged (ns), and what it says.

    That is what JSON makes of it, or an object of ROS with attributes. A file without an end, as a power loss leaves
    it, is read as far as it goes, and a line in the log says where that is.

    Args:
        path: an MCAP file; a ``.db3`` file or the folder of a rosbag2; or a folder with MCAP files.
        topic: its name.

    Raises:
        ConfigError: a library is not installed.
        DataError: it cannot be read or is damaged; there is no such topic (the message has those that there are); or
            its messages cannot be decoded.
    """
    if path.is_dir() and (packs_messages(path) or not any(path.glob("*.mcap"))):
        return _of_rosbag2(path, topic)
    if path.suffix.lower() == ".db3":
        return _of_rosbag2(path, topic)
    return _of_mcap(in_order(path.glob("*.mcap")) if path.is_dir() else [path], path, topic)


def _check(path: Path, topic: str, there: set[str]) -> None:
    if topic not in there:
        known = sorted(there)
        more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
        hint = near_match(topic, known[:_SHOWN]) + more if known else "it has none"
        raise DataError(f"{path}: no topic {visible(topic)!r}; {visible(hint, 2000)}")


def _decoded(path: Path, topic: str, number: int, decode: Decode, data: bytes) -> Any:
    try:
        return decode(data)
    except Exception as error:  # whatever a decoder raises for bytes that are no message of its kind
        raise DataError(
            f"{path}: message {number} of topic {visible(topic)} cannot be decoded: {visible(str(error))}"
        ) from error


def _of_mcap(paths: list[Path], path: Path, topic: str) -> Iterator[tuple[int, Any]]:
    number = 0
    with ExitStack() as stack:
        files = []
        for each in paths:
            files.append(McapFile(each, "a topic of an MCAP file"))
            stack.callback(files[-1].close)
        _check(path, topic, {name for file in files for name in file.topics.values()})
        for file in files:
            decoders: dict[int, Decode] = {}
            wanted = {channel for channel, name in file.topics.items() if name == topic}
            for segment in file.segments:
                if not wanted & segment.counts.keys():
                    continue
                try:
                    messages = file.messages(segment)
                except DamagedChunk as error:
                    raise DataError(
                        f"{file.path}: the chunk at byte {segment.offset} is damaged: {error}; 'mcap recover' writes a "
                        "file without it"
                    ) from error
                for channel, log_ns, data in messages:
                    if channel in wanted:
                        number += 1
                        if channel not in decoders:
                            decoders[channel] = decoder_of(topic, *file.described(channel))
                        yield log_ns, _decoded(file.path, topic, number, decoders[channel], data)
            if file.cut:
                log.warning("%s: %s: read as far as it goes", file.path, file.cut)


def _of_rosbag2(path: Path, topic: str) -> Iterator[tuple[int, Any]]:
    number = 0
    readers = open_rosbag2(path, "a topic of a rosbag2")
    try:
        _check(path, topic, {connection.topic for reader in readers for connection in reader.connections})
        for reader in readers:
            connections = [each for each in reader.connections if each.topic == topic]
            decoders = {each.id: _decoder_of_rosbag2(topic, each) for each in connections}
            messages = reader.messages(connections) if connections else iter(())
            while True:
                try:
                    connection, time_ns, data = next(messages)
                except StopIteration:
                    break
                except Exception as error:  # whatever rosbags and its data base raise for a damaged file
                    raise DataError(f"{path}: cannot be read on: {visible(str(error))}") from error
                number += 1
                yield time_ns, _decoded(path, topic, number, decoders[connection.id], bytes(data))
    finally:
        for reader in readers:
            reader.close()


def _decoder_of_rosbag2(topic: str, connection: Any) -> Decode:
    from rosbags.interfaces import MessageDefinitionFormat

    definition = connection.msgdef
    text = "" if definition.format == MessageDefinitionFormat.NONE else definition.data
    return ros_decoder(topic, connection.msgtype, text, idl=definition.format == MessageDefinitionFormat.IDL)
