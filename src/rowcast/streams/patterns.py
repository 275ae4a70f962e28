"""The rates of a team's streams by name: those of ScaDLES, and constant ones (algorithms.md 13).

================ =======================================================================================================
``S1``           drawn uniformly, mean 38, standard deviation 24 samples a second; one rate for each robot
``S2``           drawn uniformly, 300 and 112
``S1'``          drawn from a normal distribution, 64 and 24
``S2'``          drawn from a normal distribution, 256 and 28
``S1~10``        as ``S1``, and every robot draws anew each 10 s: rates that change within a device
``50``           50 samples a second for every robot
``12/30/75``     one rate for each robot, the first for ``robot-0``
``rates.csv``    a recording: column ``t_s``, then a column of samples a second for each robot, or one for all of them
================ =======================================================================================================

ScaDLES publishes the kinds of distribution as a picture; mean and deviation are as its code and its batches allow, and
no rate is below 12 a second, the lowest one in its lists.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from rowcast.config import as_number
from rowcast.errors import ConfigError, DataError, near_match
from rowcast.streams.rates import RateTrace

__all__ = ["LOWEST_RATE", "MOST_RATE", "PATTERNS", "StreamPattern", "parse_streams", "read_rates"]

#: No drawn rate is lower (samples/s).
LOWEST_RATE = 12.0
#: The highest rate that may be given (samples/s).
MOST_RATE = 100_000.0
#: A robot draws so many rates anew before they come again.
_DRAWS = 360
#: Keeps what streams draw apart from what else is drawn with the same seed.
_DRAWS_OF_STREAMS = 0x57EA45


def _uniform(mean: float, deviation: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    half = deviation * 3**0.5
    return lambda rng, count: rng.uniform(mean - half, mean + half, count)


def _normal(mean: float, deviation: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    return lambda rng, count: rng.normal(mean, deviation, count)


#: Drawn rates by name: (generator, how many) -> samples a second.
PATTERNS = {"S1": _uniform(38, 24), "S2": _uniform(300, 112), "S1'": _normal(64, 24), "S2'": _normal(256, 28)}
_FORMS = "S1, S2, S1', S2' (drawn), S1~10 (drawn each 10 s), 50, 12/30/75 (samples/s) or the path of a .csv file"


@dataclass(frozen=True)
class StreamPattern:
    """The streams of a team.

    Attributes:
        text: as it was given.
        name: of the distribution; empty where rates are given.
        every_s: a robot draws anew after so many seconds; ``None``: never.
        traces: the given rates: of each robot, or one for all.
    """

    text: str
    name: str = ""
    every_s: float | None = None
    traces: tuple[RateTrace, ...] = ()

    def check_team(self, workers: int) -> None:
        """Raises ConfigError where rates are given for a team of another size."""
        if not self.name and len(self.traces) not in (1, workers):
            raise ConfigError(
                f"streams {self.text}: has {len(self.traces)} rates, expected {workers}, one for each robot of the "
                "team, or one for all"
            )

    def team(self, workers: int, seed: int) -> list[RateTrace]:
        """The rate of each robot over time.

        Args:
            workers: robots of the team.
            seed: of what is drawn.

        Raises:
            ConfigError: as :meth:`check_team`.
        """
        self.check_team(workers)
        if not self.name:
            return [self.traces[index % len(self.traces)] for index in range(workers)]
        rng = np.random.default_rng([_DRAWS_OF_STREAMS, seed])
        draws = 1 if self.every_s is None else _DRAWS
        rates = np.maximum(np.round([PATTERNS[self.name](rng, workers) for _ in range(draws)]), LOWEST_RATE)
        if self.every_s is None:
            return [RateTrace.constant(float(rate)) for rate in rates[0]]
        times = np.arange(draws) * self.every_s
        return [RateTrace(times.tolist(), rates[:, index].tolist(), draws * self.every_s) for index in range(workers)]


def parse_streams(text: str) -> StreamPattern:
    """The pattern that a text stands for, a recording excepted: see :func:`read_rates`.

    Raises:
        ConfigError: the text has none of the forms, or a rate is out of its range.
    """
    text = text.strip()
    name, tilde, every = text.partition("~")
    if name in PATTERNS:
        every_s = as_number(every) if tilde else None
        if tilde and (every_s is None or not 0.1 <= every_s <= 86_400):
            raise ConfigError(f"streams {text}: expected seconds of 0.1 or more behind '~', as in {name}~10")
        return StreamPattern(text, name, every_s)
    rates = [as_number(part) for part in text.split("/")]
    if any(rate is None for rate in rates):
        raise ConfigError(f"streams: expected {_FORMS}, got {text!r}; {near_match(name, PATTERNS)}")
    for rate in rates:
        if rate is None or not 0 < rate <= MOST_RATE:
            raise ConfigError(f"streams {text}: expected rates above 0 and up to {MOST_RATE:g} samples/s, got {rate:g}")
    return StreamPattern(text, traces=tuple(RateTrace.constant(rate) for rate in rates if rate is not None))


def read_rates(text: str, lines: Iterable[str]) -> StreamPattern:
    """A recording of rates: CSV with a header ``t_s,...``; a rate of 0 says that nothing comes. It begins again when it
    is over: the last line says when, and its rates do not count.

    Args:
        text: the file's path, for messages.
        lines: of the file.

    Raises:
        DataError: another format; the message names line and column.
    """
    reader = csv.reader(lines)
    rows = [(reader.line_num, row) for row in reader if row]
    if len(rows) < 3 or rows[0][1][0].strip() != "t_s" or len(rows[0][1]) < 2:
        raise DataError(
            f"{text}: expected a header 't_s,...' with a column for each robot, and two lines or more below"
        )
    names = [name.strip() for name in rows[0][1]]
    table = []
    for line, row in rows[1:]:
        if len(row) != len(names):
            raise DataError(f"{text}, line {line}: expected {len(names)} cells, got {len(row)}")
        values = [as_number(cell) for cell in row]
        for name, cell, value in zip(names, row, values, strict=True):
            if value is None or not 0 <= value <= (MOST_RATE if name != "t_s" else 1e9):
                raise DataError(f"{text}, line {line}, column {name}: expected a number of 0 or more, got {cell!r}")
        table.append([value for value in values if value is not None])
    times = [row[0] for row in table]
    if times[0] != 0 or any(later <= earlier for earlier, later in itertools.pairwise(times)):
        raise DataError(f"{text}, column t_s: expected times that begin with 0 and ascend")
    try:
        traces = [
            RateTrace(times[:-1], [row[column] for row in table[:-1]], times[-1]) for column in range(1, len(names))
        ]
    except ConfigError as error:
        raise DataError(f"{text}: {error}") from error
    return StreamPattern(text, traces=tuple(traces))
