"""What computing costs each robot of a team, in one text: a profile that a comparison has as one of its values.

===================== ==========================================================================================
``2.18``              seconds of one gradient, the same for all robots
``2.0/2.2/2.5/8.1``   one for each robot, the first for ``robot-0``
``2.18~0.2``          drawn for each gradient: log-normal, with this median and this standard deviation of the
                      natural logarithm
``0.128@64``          of a batch of 64 samples; another batch takes time in proportion to its samples
``0.1@64~0.1/8.1``    each robot in its own way
``jetson.csv``        recorded: a CSV file with seconds, one column for each robot, or one column for all of them
===================== ==========================================================================================

The first row of a recording names its columns; each row below is one gradient. A column may be shorter than the
others: its first empty cell ends it. When it is used up it starts again. With a column for each robot, each begins at
its start. With one column for all, each robot enters it at another place, and with each seed at others.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rowcast.config import as_number
from rowcast.drivers.virtual import Device
from rowcast.errors import ConfigError, DataError
from rowcast.streams.batch import MOST_SAMPLES

__all__ = ["ComputeTime", "DeviceProfile", "parse_devices", "place_in_recording"]

SUFFIX = ".csv"
#: What one gradient may take (s).
LEAST_S, MOST_S = 0.001, 3600.0
#: Largest standard deviation of the logarithm: at 3, one gradient in six takes more than twenty times the median.
MOST_SPREAD = 3.0
_FORMS = (
    "2.18 (seconds), 2.18~0.2 (drawn), 0.128@64 (of 64 samples), 2.0/2.2/8.1 (one for each robot) or the path of a "
    ".csv file"
)

#: The golden section: how far on in a recording the next seed begins, so that no two seeds come close.
_SEED_STEP = (5**0.5 - 1) / 2
#: Keeps what a device draws apart from what else is drawn with the same seed.
_DRAWS_OF_DEVICES = 0xDE51CE


@dataclass(frozen=True)
class ComputeTime:
    """What the gradients of a robot take.

    Attributes:
        seconds: of one gradient after the other, from the start again when they are used up.
        spread: standard deviation of their natural logarithm; 0: nothing is drawn.
        samples: of a batch that takes so long, another one in proportion; ``None``: all batches take as long.
    """

    seconds: tuple[float, ...]
    spread: float = 0.0
    samples: int | None = None


@dataclass(frozen=True)
class DeviceProfile:
    """The devices of a team.

    Attributes:
        text: says the same to :func:`parse_devices`, from every folder: numbers at their shortest, the path of a file
            whole. Two profiles with one text are one.
        times: for each robot, or one for all of them.
        recorded: they come from a file.
    """

    text: str
    times: tuple[ComputeTime, ...]
    recorded: bool = False

    def check_team(self, workers: int) -> None:
        """Whether a team of so many robots can have these devices.

        Raises:
            ConfigError: there is one for each robot, of a team of another size.
        """
        if len(self.times) not in (1, workers):
            what = "columns" if self.recorded else "devices"
            raise ConfigError(
                f"devices {self.text}: has {len(self.times)} {what}, expected {workers}, one for each robot of the "
                "team, or one for all"
            )

    @property
    def by_samples(self) -> bool:
        """Whether the time of a gradient depends on the samples of its batch."""
        return any(time.samples is not None for time in self.times)

    def team(
        self, workers: int, seed: int, *, encode_s: float = 0.0, decode_s: float = 0.0, batch: int | None = None
    ) -> list[Device]:
        """The device of each robot.

        Args:
            workers: robots of the team.
            seed: of what is drawn; each robot draws its own.
            encode_s, decode_s: work of each push and each pull at the worker (s).
            batch: samples of every batch; ``None``: whoever asks for the time of a gradient says how many.

        Raises:
            ConfigError: as :meth:`check_team`; or a work that is negative or not finite.
        """
        self.check_team(workers)
        devices = []
        for index in range(workers):
            time = self.times[index % len(self.times)]
            seconds = time.seconds
            if self.recorded and len(self.times) == 1:
                start = int(place_in_recording(index, workers, seed) * len(seconds))
                seconds = seconds[start:] + seconds[:start]
            own = np.random.SeedSequence((_DRAWS_OF_DEVICES, seed, index)).generate_state(1, np.uint64)
            samples = time.samples
            if samples is not None and batch is not None:
                seconds, samples = tuple(value * batch / samples for value in seconds), None
            devices.append(Device(seconds, time.spread, encode_s, decode_s, int(own[0]), samples))
        return devices


def parse_devices(text: str) -> DeviceProfile:
    """Read a profile; its forms are in this module's text.

    Raises:
        ConfigError: the text has none of the forms, or a number is out of its range.
        DataError: the file of a recording cannot be read or breaks its format; the message names file, line and
            column.

    >>> parse_devices("2.0~0.1/8.1").times
    (ComputeTime(seconds=(2.0,), spread=0.1, samples=None), ComputeTime(seconds=(8.1,), spread=0.0, samples=None))
    >>> parse_devices("2.0 / 0.20@64").text
    '2/0.2@64'
    """
    text = text.strip()
    if text.lower().endswith(SUFFIX):
        path = Path(text).resolve()
        return DeviceProfile(str(path), _read_recording(path), recorded=True)
    times = tuple(_parse_time(text, part) for part in text.split("/"))
    return DeviceProfile("/".join(map(_written, times)), times)


def place_in_recording(part: int, parts: int, seed: int) -> float:
    """Where one of several that share a recording enters it, 0 .. below 1: evenly apart, further on with each seed."""
    return (part / parts + _SEED_STEP * seed) % 1.0


def _parse_time(text: str, part: str) -> ComputeTime:
    median, tilde, deviation = part.partition("~")
    whole, at, batch = median.partition("@")
    words = [whole, *([deviation] if tilde else [])]
    numbers = [number for number in map(as_number, words) if number is not None]
    if len(numbers) < len(words) or (at and not re.fullmatch(r" *[0-9]{1,9} *", batch)):
        what = f"{part.strip()!r} in {text!r}" if part != text else repr(text)
        raise ConfigError(f"devices: expected {_FORMS}, got {what}")
    seconds, *spread = numbers
    _check(text, "seconds of a gradient", seconds, LEAST_S, MOST_S)
    for value in spread:
        _check(text, "a spread", value, 0.0, MOST_SPREAD)
    if at:
        _check(text, "samples of a batch behind '@'", int(batch), 1, MOST_SAMPLES)
    return ComputeTime((seconds,), spread[0] if spread else 0.0, int(batch) if at else None)


def _check(text: str, what: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"devices {text}: expected {what} in {low:g} .. {high:g}, got {value:g}")


def _written(time: ComputeTime) -> str:
    numbers = [*time.seconds, time.spread] if time.spread else time.seconds
    first, *others = (repr(number).removesuffix(".0") for number in numbers)
    return "~".join([first if time.samples is None else f"{first}@{time.samples}", *others])


# -- recordings --------------------------------------------------------------------------------------------------------


def _read_recording(path: Path) -> tuple[ComputeTime, ...]:
    rows = _read_rows(path)
    line, header = rows[0]
    names = [cell.strip() for cell in header]
    for place, name in enumerate(names, start=1):
        if not name or as_number(name) is not None:
            raise DataError(
                f"{path}, line {line}, column {place}: expected a header that names each column, got {name!r}"
            )
        if names.index(name) < place - 1:
            raise DataError(f"{path}, line {line}, column {place}: {name!r} is there twice")
    columns: list[list[float]] = [[] for _ in names]
    ended = [0] * len(names)
    for line, cells in rows[1:]:
        if cells and len(cells) != len(names):
            raise DataError(f"{path}, line {line}: expected {len(names)} cells, got {len(cells)}")
        for place, cell in enumerate(cells or [""] * len(names)):
            if not cell.strip():
                ended[place] = ended[place] or line
            elif ended[place]:
                raise DataError(
                    f"{path}, line {line}, column {names[place]}: {cell.strip()!r} comes after the empty cell in line "
                    f"{ended[place]}, which ends the column"
                )
            else:
                columns[place].append(_seconds(path, line, names[place], cell))
    for name, column in zip(names, columns, strict=True):
        if not column:
            raise DataError(
                f"{path}, line {rows[0][0] + 1}, column {name}: expected seconds below the header, got none"
            )
    return tuple(ComputeTime(tuple(column)) for column in columns)


def _read_rows(path: Path) -> Sequence[tuple[int, list[str]]]:
    """Line number and cells of each row; at least one, and the first is not empty."""
    try:
        reader = csv.reader(path.read_text(encoding="utf-8-sig").splitlines())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file: {error}") from error
    try:
        rows = [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV: {error}") from error
    if not rows or not rows[0][1]:
        raise DataError(f"{path}, line 1: expected a header that names each column, got nothing")
    return rows


def _seconds(path: Path, line: int, column: str, cell: str) -> float:
    value = as_number(cell)
    if value is None or not LEAST_S <= value <= MOST_S:
        raise DataError(
            f"{path}, line {line}, column {column}: expected seconds in {LEAST_S:g} .. {MOST_S:g}, got {cell.strip()!r}"
        )
    return value
