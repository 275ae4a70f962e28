"""A run as event files of TensorBoard, written without TensorFlow: a folder for each robot."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rowcast.export.moments import Moment
from rowcast.libraries import needing
from rowcast.version import __version__

__all__ = ["write_tensorboard"]

#: Files that are open at once at most.
_MOST_OPEN = 64


def write_tensorboard(moments: Iterable[Moment], folder: Path) -> None:
    """Write a folder of runs; the step of a value is the iteration of its robot, its time that of the journal.

    Raises:
        ConfigError: the library is not installed.
        OSError: a file cannot be written.
    """
    with needing("an export to tensorboard", "tensorboard"):
        import tensorboard.summary.writer.record_writer  # noqa: F401
    folder.mkdir()
    files = _Files(folder)
    try:
        for moment in moments:
            files.add(moment)
    finally:
        files.close()


class _Files:
    """An event file for each robot, and for the server."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2
        from tensorboard.plugins.text.plugin_data_pb2 import TextPluginData
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._folder = folder
        self._event, self._summary, self._writer = event_pb2.Event, summary_pb2.Summary, RecordWriter
        self._tensor, self._shape = tensor_pb2.TensorProto, tensor_shape_pb2.TensorShapeProto
        plugin = summary_pb2.SummaryMetadata.PluginData(
            plugin_name="text", content=TextPluginData(version=0).SerializeToString()
        )
        self._text = summary_pb2.SummaryMetadata(plugin_data=plugin)
        self._paths: dict[str, Path] = {}
        self._open: dict[str, Any] = {}

    def add(self, moment: Moment) -> None:
        """What a moment tells, as one event."""
        values: list[Any] = [
            self._summary.Value(tag=value.series, simple_value=value.number)
            for value in moment.values
            if value.number is not None
        ]
        if (line := moment.line) is not None:
            values.append(self._of_text("events", f"{line.who} {line.text}"))
        if values:
            self._write(moment, values)

    def _of_text(self, tag: str, text: str) -> Any:
        shape = self._shape(dim=[self._shape.Dim(size=1)])
        tensor = self._tensor(dtype="DT_STRING", string_val=[text.encode()], tensor_shape=shape)
        return self._summary.Value(tag=tag, metadata=self._text, tensor=tensor)

    def _write(self, moment: Moment, values: list[Any]) -> None:
        event = self._event(wall_time=moment.t, step=moment.iteration or 0, summary=self._summary(value=values))
        self._file(moment.who, moment.t).write(event.SerializeToString())

    def _file(self, who: str, t: float) -> Any:
        """Where events of a robot are written to; of too many files the one that was not used longest is closed."""
        file = self._open.pop(who, None)
        if file is None:
            if len(self._open) >= _MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            new = who not in self._paths
            if new:
                self._paths[who] = self._new_path(who, t)
            file = self._writer(self._paths[who].open("ab"))
            if new:
                head = self._event(wall_time=t, file_version="brain.Event:2")
                head.source_metadata.writer = f"rowcast {__version__}"
                file.write(head.SerializeToString())
        self._open[who] = file  # it is the newest now
        return file

    def _new_path(self, who: str, t: float) -> Path:
        """A folder of its own; the name is that of the robot, as far as a folder may have it."""
        name = re.sub(r"[^\w.-]", "_", who).lstrip(".") or "_"
        folder, number = self._folder / name, 1
        while folder.exists():
            number += 1
            folder = self._folder / f"{name}-{number}"
        folder.mkdir()
        return folder / f"events.out.tfevents.{int(t):010d}.rowcast"

    def close(self) -> None:
        """Close all files."""
        for file in self._open.values():
            file.close()
