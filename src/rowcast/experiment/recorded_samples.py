"""Samples of a task as a recording, which ``rowcast train --source`` plays."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rowcast.errors import ConfigError, DataError
from rowcast.libraries import needing
from rowcast.tasks import pack_item

__all__ = ["MOST_BYTES", "TOPIC", "write_samples"]

TOPIC = "samples"
#: Bytes of samples of one file, about.
MOST_BYTES = 32_000_000


def write_samples(path: Path, samples: Iterable[Any], count: int) -> int:
    """Write the first samples of a task into an MCAP file, one message each.

    Args:
        path: the file; it appears whole or not at all.
        samples: as :meth:`rowcast.tasks.Task.samples` gives them.
        count: so many at most; and no more than fit into 32 MB.

    Returns:
        how many there are.

    Raises:
        ConfigError: the file cannot be written; or the library ``mcap`` is not installed.
        DataError: there is no sample, or one holds something else than tensors, numbers and texts.
    """
    with needing("a recording of samples", "mcap"):
        from mcap.writer import CompressionType, Writer
    written = size = 0
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            writer = Writer(file, compression=CompressionType.NONE)
            writer.start(library="rowcast")
            channel = writer.register_channel(topic=TOPIC, message_encoding="msgpack", schema_id=0)
            for sample in itertools.islice(samples, count):
                data = pack_item(sample)
                writer.add_message(channel, log_time=written, publish_time=written, sequence=written, data=data)
                written, size = written + 1, size + len(data)
                if size >= MOST_BYTES:
                    break
            writer.finish()  # type: ignore[no-untyped-call]
        if not written:
            raise DataError(f"samples {path}: the task has none for this robot")
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"samples {path}: cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return written
