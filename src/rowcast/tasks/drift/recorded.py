"""The tasks with recorded streams: objects in a garden, a wall that is followed, the radio map of a hall."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rowcast.errors import DataError, visible
from rowcast.metric import Metric
from rowcast.streams import Sample
from rowcast.tasks._files import open_folder
from rowcast.tasks.base import TaskSettings
from rowcast.tasks.drift.recordings import Recording, RunningScale, as_number, parts, read_columns, standardised
from rowcast.tasks.drift.settings import RssiSettings
from rowcast.tasks.drift.task import Batch, DriftTask

__all__ = ["OutdoorTask", "RecordedTask", "RssiTask", "WallTask"]


class RecordedTask(DriftTask):
    """A drifting stream from files; it ends where they end.

    With as many robots as files each plays its own; more robots share one row by row.

    Attributes:
        recordings: what is in the files.
        dropped: how many rows were left out, by reason.
    """

    #: What the data folder must hold.
    files: ClassVar[tuple[str, ...]]
    #: Columns of numbers in the files, and the one with the name of the class; '': none.
    columns: ClassVar[tuple[str, ...]]
    label: ClassVar[str] = ""
    #: Inputs are scaled by what a robot has seen so far; for inputs without a scale that is known before.
    standardise: ClassVar[bool] = True

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        folder = open_folder(self.name, settings.data_dir, self.files)
        self.dropped: dict[str, int] = {}
        self.recordings = [self._read(folder / file) for file in self.files]
        self._streams: dict[tuple[int, int], Batch] = {}
        self._scale = RunningScale()

    @abstractmethod
    def recording(self, values: NDArray[np.float64], labels: list[str]) -> Recording:
        """Inputs and targets, from :attr:`columns` ``(rows, columns)`` and :attr:`label`.

        Raises:
            DataError: an unknown class.
        """

    def invalid(self, values: NDArray[np.float64]) -> tuple[NDArray[np.bool_], str]:
        """Which rows ``(rows,)`` are to be left out, and why; here, none."""
        return np.zeros(len(values), dtype=np.bool_), ""

    def decode(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """A row that a source delivers, as :class:`rowcast.sources.CsvSource` does: input and target.

        It is scaled by the rows that were decoded before it, so decode those of one robot, in their order. Bytes are
        taken as :func:`rowcast.tasks.pack_item` writes them.

        Raises:
            DataError: a column is missing or holds no number, an unknown class, or a row that is to be left out.
        """
        row = sample.payload
        if not isinstance(row, Mapping):
            return super().decode(sample)
        where = f"{sample.partition}: position {sample.position}"
        missing = [name for name in (*self.columns, self.label) if name and name not in row]
        if missing:
            raise DataError(f"{where}: expected the columns of task {self.name}; lacks {', '.join(missing)}")
        values = np.array([[as_number(row[name], where, name) for name in self.columns]])
        wrong, why = self.invalid(values)
        if wrong[0]:
            raise DataError(f"{where}: {why}")
        one = self.recording(values, [row[self.label]] if self.label else [])
        scaled = self._scale.scaled(one.inputs[0]) if self.standardise else one.inputs[0]
        return torch.from_numpy(scaled), torch.from_numpy(one.targets)[0]

    def samples(self, index: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        self.check_index(index, workers)
        return zip(*self._seen(index, workers), strict=True)

    def whole(self, workers: int) -> Batch:
        """All rows, each scaled as the robot saw it that has it."""
        seen = [self._seen(index, workers) for index in range(workers)]
        return torch.cat([inputs for inputs, _ in seen]), torch.cat([targets for _, targets in seen])

    def describe_start(self) -> str:
        rows = sum(len(each.targets) for each in self.recordings)
        left_out = "".join(f", {count} dropped: {reason}" for reason, count in self.dropped.items())
        return f"{rows} rows{left_out}; {super().describe_start()}"

    def _read(self, path: Path) -> Recording:
        values, labels = read_columns(path, self.columns, self.label or None)
        wrong, why = self.invalid(values)
        if wrong.all():
            raise DataError(f"{path}: expected some rows that are valid, found {why} in each")
        if wrong.any():
            self.dropped[why] = self.dropped.get(why, 0) + int(wrong.sum())
        kept = np.flatnonzero(~wrong)
        try:
            return self.recording(values[kept], [labels[row] for row in kept] if labels else [])
        except DataError as error:
            raise DataError(f"{path}: {error}; is it the right file under this name?") from error

    def _seen(self, index: int, workers: int) -> Batch:
        """The whole stream of a robot, as it sees it."""
        if (index, workers) not in self._streams:
            mine = parts(self.recordings, index, workers)
            inputs = np.concatenate([each.inputs for each in mine])
            targets = np.concatenate([each.targets for each in mine])
            if self.standardise:
                inputs = standardised(inputs)
            self._streams[index, workers] = (torch.from_numpy(inputs), torch.from_numpy(targets))
        return self._streams[index, workers]


class OutdoorTask(RecordedTask):
    """Objects in a garden, seen by a mobile robot: 40 objects, each approached ten times under changing light.

    Objects come in runs of ten images and come back; an image is a histogram of 21 numbers. Four robots, 10 new samples
    each in a step, 3 seeds (``benchmarks/drift.py``): tested before it is trained on, 13.7 % of the stream are right,
    with ``rehearsal=reservoir:200`` 24.8 %; of the whole stream afterwards 25 % and 53 %.

    Source: V. Losing, B. Hammer, H. Wersing, "Interactive Online Learning for Obstacle Classification on a Mobile
    Robot", IJCNN 2015.
    """

    name = "outdoor"
    files = ("outdoor_stream.csv.gz",)
    features, outputs = 21, 40
    columns, label = tuple(f"f{number}" for number in range(21)), "label"

    def recording(self, values: NDArray[np.float64], labels: list[str]) -> Recording:
        return Recording(values.astype(np.float32), _classes(labels, [str(label) for label in range(self.outputs)]))


class WallTask(RecordedTask):
    """A robot follows a wall: 24 distances by ultrasound (m), and which of four moves is due.

    The moves come back every few seconds. Measured as for :class:`OutdoorTask`: 44.4 % are right, with
    ``rehearsal=reservoir:200`` 60.9 %; of the whole stream afterwards 50 % and 78 %.

    Source: A. L. Freire, G. A. Barreto, M. Veloso, A. T. Varela, "Short-Term Memory Mechanisms in Neural Network
    Learning of Robot Navigation Tasks", LARS 2009 ("Wall-Following Robot Navigation Data", UCI repository).
    """

    name = "wall"
    files = ("sensor_readings_24.csv.gz",)
    features, outputs = 24, 4
    columns, label = tuple(f"S{number}" for number in range(1, 25)), "OUTPUT"

    def recording(self, values: NDArray[np.float64], labels: list[str]) -> Recording:
        return Recording(values.astype(np.float32), _classes(labels, _MOVES))


class RssiTask(RecordedTask):
    """The radio map of a hall: from where a robot is (m) to the level of five antennas (dBm).

    Three robots play one recording each. Here the world itself moves, and old samples hold back: measured as for
    :class:`OutdoorTask`, the error is 6.7 dB, with ``rehearsal=reservoir:200`` 7.3 dB, and with three steps for each
    new batch 5.3 dB.

    Some rows are glitches of the receiver, with levels that none can measure. They are dropped and counted; against
    those that stay below the limits the loss is linear beyond 10 dB.

    Source: R. Parashar, R. Parasuraman, "Particle Filter Based Localization of Access Points Using Direction of
    Arrival on Mobile Robots", VTC-Fall 2020.
    """

    metrics = (Metric("prequential_mae", "dB", "lower"), Metric("stream_mae", "dB", "lower"))
    Settings: ClassVar[type[TaskSettings]] = RssiSettings
    name = "rssi"
    files = ("dataset1.csv.gz", "dataset3.csv.gz", "dataset5.csv.gz")
    features, outputs = 2, 5
    columns = ("x_m", "y_m", *(f"{antenna}_rssi_dbm" for antenna in ("UL", "UR", "LL", "LR", "C")))
    standardise = False

    def invalid(self, values: NDArray[np.float64]) -> tuple[NDArray[np.bool_], str]:
        if self.settings.glitches == "keep":
            return super().invalid(values)
        dbm = values[:, 2:]
        wrong: NDArray[np.bool_] = np.any((dbm < _LEAST_DBM) | (dbm > _MOST_DBM), axis=1)
        return wrong, _GLITCH

    def recording(self, values: NDArray[np.float64], labels: list[str]) -> Recording:
        places, levels = values[:, :2] / _UNIT_M, (values[:, 2:] - _MIDDLE_DBM) / _UNIT_DB
        return Recording(places.astype(np.float32), levels.astype(np.float32))

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Huber's loss in units of 10 dB, mean over the antennas."""
        return functional.smooth_l1_loss(outputs, targets, reduction="none").mean(dim=1)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The absolute error of each sample in dB, mean over the antennas."""
        return _UNIT_DB * (outputs - targets).abs().mean(dim=1)


_MOVES = ("Move-Forward", "Sharp-Right-Turn", "Slight-Left-Turn", "Slight-Right-Turn")
#: Levels that a receiver can measure.
_LEAST_DBM, _MOST_DBM = -100.0, 0.0
_GLITCH = f"a level above {_MOST_DBM:g} or below {_LEAST_DBM:g} dBm"
#: Units in which the model sees places and levels, and the level that is its zero.
_UNIT_M, _UNIT_DB, _MIDDLE_DBM = 10.0, 10.0, -50.0


def _classes(labels: list[str], known: Sequence[str]) -> NDArray[np.int64]:
    numbers = {name: number for number, name in enumerate(known)}
    for row, label in enumerate(labels):
        if label not in numbers:
            shown = ", ".join(known[:4])
            raise DataError(f"row {row + 1}: expected a class ({shown} ...), found {visible(label, 40)!r}")
    return np.array([numbers[label] for label in labels], dtype=np.int64)
