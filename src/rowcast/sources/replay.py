"""A recording, played at a rate."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rowcast.errors import ConfigError, DataError, RowcastError, SourceEnded, visible
from rowcast.sources.base import POLL_S, PulledSource
from rowcast.sources.csv_file import CsvSource
from rowcast.sources.files import recorded
from rowcast.sources.text import SourceText
from rowcast.streams import Positions, RateTrace, Sample, Source, read_rates

__all__ = ["REPLAY_OPTIONS", "ReplaySource"]

log = logging.getLogger("rowcast")

REPLAY_OPTIONS = ("rate", "rates", "robot", "speed", "loop")
#: Samples that are fetched at a time, ahead of their moment.
AHEAD = 64
#: Seconds by which the times of a recording may go back, as those of several topics do, without being begun anew.
JITTER_S = 1.0
#: A moment counts as reached so much before (s): who waits for it may wake with a rounded time.
ROUNDING_S = 1e-6
#: Longest and shortest time to wait at once (s).
MOST_PAUSE_S, LEAST_PAUSE_S = 1.0, 1e-4


class ReplaySource(PulledSource):
    """Plays a finite source from the moment at which it is opened. What is not taken waits: nothing is left out.

    Args:
        source: what is played, not opened. It is not used by others from now on.
        rates: samples a second, or how that changes; the times of the samples are then those of the replay, in seconds
            since its start. ``None``: each sample comes when its own time says, the first at once; times that go back
            by more than a second begin anew there.
        speed: so many times as fast as recorded; with ``rates``, 1.
        loop: begin again at the end; positions go on growing.
        settings: clock and pause, see :class:`PulledSource`.

    Raises:
        ConfigError: a speed that is not above 0, or given besides ``rates``.
    """

    def __init__(
        self,
        source: Source,
        *,
        rates: RateTrace | float | None = None,
        speed: float = 1.0,
        loop: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(f"replay of {getattr(source, 'name', source)}", **settings)
        if not 0 < speed < float("inf") or (rates is not None and speed != 1.0):
            raise ConfigError(f"{self.name}: expected rates, or a finite speed above 0, got speed {speed:g}")
        self._source, self._speed, self._loop = source, speed, loop
        self._rates = RateTrace.constant(rates) if isinstance(rates, float | int) else rates
        self._queue: deque[Sample] = deque()
        self._past: dict[str, int] = {}

    @classmethod
    def from_text(cls, text: SourceText) -> ReplaySource:
        """``FILE?rate=100``, ``?rates=FILE.csv&robot=0``, ``?speed=2``, each with ``&loop=1``; and options of the file.

        Raises:
            ConfigError: options that do not go together, or a rate or speed out of its range.
            DataError: a file of rates that is none.
        """
        source = recorded(text.without(REPLAY_OPTIONS))
        ways = [name for name in ("rate", "rates", "speed") if name in text.options]
        if len(ways) > 1:
            raise ConfigError(f"source {str(text)!r}: {' and '.join(ways)} say the same; give one of them")
        if text.flag("follow"):
            raise ConfigError(f"source {str(text)!r}: a file that is followed has its own rate; leave {ways[0]} out")
        rates: RateTrace | None = None
        if text.one("rate"):
            rates = RateTrace.constant(text.number("rate", 1.0))
        elif text.one("rates"):
            rates = _trace(text)
        elif isinstance(source, CsvSource) and not text.one("time"):
            raise ConfigError(
                f"source {str(text)!r}: rows have no time; give time=COLUMN to play it as recorded, or rate=SAMPLES_A_S"
            )
        return cls(source, rates=rates, speed=text.number("speed", 1.0), loop=text.flag("loop"))

    @property
    def trouble(self) -> str:
        """What is wrong with what is played."""
        return self._source.trouble

    @property
    def dropped(self) -> Mapping[str, int]:
        """How many samples were not delivered, in all laps, by reason."""
        now = self._source.dropped
        return {reason: self._past.get(reason, 0) + now.get(reason, 0) for reason in {**self._past, **now}}

    def _begin(self, positions: Positions) -> Positions:
        self._queue.clear()
        self._past = {}
        self._ended, self._remarked = False, False
        self._delivered, self._in_lap, self._due_s = 0, 0, 0.0
        self._time_s: float | None = None  # of the last sample whose moment is known, as recorded
        self._origin_s = 0.0  # recorded time that is moment 0
        self._head_s: float | None = None  # moment of the first in the queue
        self._behind, self._lengths = dict(positions), self._measured() if self._loop and positions else {}
        self._lap = min((positions.get(name, 0) // length for name, length in self._lengths.items()), default=0)
        begin = self._source.open(
            Positions(
                {
                    name: min(self._inside(name, place), self._lengths.get(name, place))
                    for name, place in positions.items()
                }
            )
        )
        self._start = self._now()
        return positions if self._loop else begin

    def _inside(self, partition: str, position: int) -> int:
        """A position of the replay as one within the lap."""
        return position - self._lap * self._lengths.get(partition, 0)

    def _measured(self) -> dict[str, int]:
        """How far each partition goes in a lap."""
        end = self._source.open(Positions())
        try:
            while True:
                end = end.behind(self._source.take(AHEAD, POLL_S))
        except SourceEnded:
            return {name: length for name, length in end.items() if length}
        finally:
            self._source.close()

    def _next(self, at_most: int) -> list[Sample]:
        elapsed = self._now() - self._start
        found: list[Sample] = []
        try:
            while len(found) < at_most and self._is_due(elapsed):
                found.append(self._due())
        except RowcastError:
            if not found:
                raise
            # they are delivered first; the next call meets the error again
        if not found and self._ended and not self._fetch():
            raise SourceEnded(f"{self.name}: everything was delivered")
        return found

    def _is_due(self, elapsed: float) -> bool:
        """Whether there is a sample whose moment has come."""
        if self._rates is not None:
            return self._rates.count_until(elapsed) > self._delivered and self._fetch()
        return self._fetch() and self._moment_s() <= elapsed + ROUNDING_S

    def _due(self) -> Sample:
        """The first of the queue, as it is delivered."""
        sample = self._queue.popleft()
        if self._rates is not None:
            time_s = self._rates.time_of(self._delivered)
            self._delivered += 1
            return Sample(sample.partition, sample.position, time_s, sample.payload, sample.size)
        assert self._head_s is not None
        self._due_s, self._head_s = self._head_s, None
        return sample

    def _fetch(self) -> bool:
        """Have a sample in the queue, if there is one."""
        while not self._queue and not self._ended:
            try:
                samples = self._source.take(AHEAD, 0.0)
            except SourceEnded:
                self._end_lap()
                continue
            if not samples:
                return False
            self._in_lap += len(samples)
            self._queue.extend(filter(self._is_new, map(self._moved, samples)))
        return bool(self._queue)

    def _end_lap(self) -> None:
        if not self._loop:
            self._ended = True
            return
        if not self._in_lap:
            raise DataError(f"{self.name}: there is no sample in it: nothing to repeat")
        self._past = dict(self.dropped)
        self._source.close()
        self._source.open(Positions())
        self._lap += 1
        self._in_lap, self._time_s = 0, None

    def _moved(self, sample: Sample) -> Sample:
        """A sample with its position in the replay."""
        if not self._loop:
            return sample
        if not self._lap:
            self._lengths[sample.partition] = max(sample.position, self._lengths.get(sample.partition, 0))
            return sample
        position = sample.position + self._lap * self._lengths.get(sample.partition, 0)
        return Sample(sample.partition, position, sample.time_s, sample.payload, sample.size)

    def _is_new(self, sample: Sample) -> bool:
        return sample.position > self._behind.get(sample.partition, 0)

    def _moment_s(self) -> float:
        """When the first sample of the queue is to come, in seconds since the start; by the recorded times."""
        if self._head_s is None:
            time_s = self._queue[0].time_s
            if self._time_s is None or time_s < self._time_s - JITTER_S:
                if self._time_s is not None and not self._remarked:
                    self._remarked = True
                    log.warning(
                        "%s: its times go back by %.3g s; it goes on from there",
                        visible(self.name), self._time_s - time_s,
                    )  # fmt: skip
                self._origin_s, self._time_s = time_s - self._due_s * self._speed, time_s
            self._time_s = max(self._time_s, time_s)
            self._head_s = max((time_s - self._origin_s) / self._speed, self._due_s)
        return self._head_s

    def _left(self) -> int | None:
        if self._rates is None:
            return 0 if self._ended and not self._queue else None
        come = max(self._rates.count_until(self._now() - self._start) - self._delivered, 0)
        rest = None if self._loop else self._source.lag()
        return come if rest is None else min(come, rest + len(self._queue))

    def _patience_s(self) -> float:
        if not self._fetch():
            return POLL_S
        due = self._moment_s() if self._rates is None else self._rates.time_of(self._delivered)
        return min(max(self._start + due - self._now(), LEAST_PAUSE_S), MOST_PAUSE_S)

    def _end(self) -> None:
        self._queue.clear()
        self._source.close()


def _trace(text: SourceText) -> RateTrace:
    """The trace of ``rates=FILE``."""
    path = Path(text.one("rates"))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: rates cannot be read: {error}") from error
    traces = read_rates(str(path), lines).traces
    robot = text.number("robot", 0.0 if len(traces) == 1 else -1.0, -1.0)
    if robot not in range(len(traces)):
        raise ConfigError(
            f"source {str(text)!r}: {path} has rates of {len(traces)} robots; give robot=0 to {len(traces) - 1}"
        )
    return traces[int(robot)]
