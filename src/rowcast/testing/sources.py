"""The conformance suite of sources."""

from __future__ import annotations

import math
import tracemalloc
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rowcast.errors import LocalProtocolError, RowcastError, SourceEnded, StreamGap
from rowcast.streams import Positions, Sample, Source

__all__ = ["check_source"]

#: A source object, opened nowhere yet, that reads the same place as the others that the same function makes.
Make = Callable[[], Source]
#: Adds so many samples to that place; they are there when it returns, or soon afterwards.
Produce = Callable[[int], None]

#: Samples that the suite has produced at a time; also what a finite source must have at least.
FEW = 24
#: Times that it asks anew where nothing came within the time allowed.
TRIES = 4
#: Bytes that a source may have kept more in the second half of reading than in the first, besides a quarter of them.
SLACK_BYTES = 65536


def check_source(
    make: Make,
    produce: Produce | None = None,
    *,
    seekable: bool = True,
    keeps_commits: bool = False,
    timed: bool = False,
    dropped: Mapping[str, int] | None = None,
    wait_s: float = 10.0,
    clock: Callable[[], float] | None = None,
) -> None:
    """Check that a source keeps its promises; raises AssertionError at the first that it breaks.

    * Each sample is a :class:`Sample`; within a partition positions grow, and begin behind what ``open`` returned.
    * ``take`` gives ``at_most`` samples at most, and without any returns when its time is over; 0 seconds do not block.
    * Opened at any position it gives exactly the rest; a second object reads the same as the first; one that is opened
      again after ``close`` too. Opened at its end it has nothing more; behind its end is an error.
    * A commit may be repeated, and one that lies before it takes nothing back. Where commits are kept, ``open()``
      begins at the last; otherwise at the start.
    * ``lag`` is ``None`` or the number of samples that are left: exactly (and what it will drop) for a finite source,
      not more for a live one.
    * ``SourceEnded`` comes from a finite source only, only when everything was delivered, and then each time.
    * Use before ``open`` and after ``close`` is a ``LocalProtocolError``; so is a second ``open``; a second ``close``
      does nothing.
    * What was delivered is not kept: memory does not grow with it.

    Args:
        make: makes a source object, not opened, each time for the same place.
        produce: for a live source: adds samples to that place. Without it the source is finite: it has at least 24
            samples from the start.
        seekable: it can be opened at any positions. One that is not (MQTT) begins behind what was committed.
        keeps_commits: ``open()`` begins at the last commit. One that is not seekable always does.
        timed: the samples of a finite source come by a clock: its lag counts those that have come.
        dropped: what a finite source drops of all its samples, by reason.
        wait_s: longest time for a sample to come.
        clock: seconds that grow; with it the suite measures how long ``take`` waits. Take that of the source, if it
            has one of its own.
    """
    keeps = keeps_commits or not seekable
    suite = _Suite(make, produce, seekable, keeps, dict(dropped or {}), wait_s, clock, timed)
    _check_misuse(suite)
    if seekable:
        everything = _check_reading(suite)
        _check_resuming(suite, everything)
        _check_commits(suite, everything)
        _check_memory(suite, len(everything))
    else:
        _check_unseekable(suite)


@dataclass(frozen=True)
class _Suite:
    make: Make
    produce: Produce | None
    seekable: bool
    keeps_commits: bool
    dropped: dict[str, int]
    wait_s: float
    clock: Callable[[], float] | None
    timed: bool

    @property
    def finite(self) -> bool:
        return self.produce is None

    def opened(self, positions: Positions | None) -> Source:
        source = self.make()
        begin = source.open(positions)
        assert isinstance(begin, Positions), f"open returned {begin!r}, not Positions"
        for partition, position in (positions or {}).items():
            assert begin.get(partition, 0) == position, f"opened at {positions}, it begins at {begin}"
        return source

    def rest(self, source: Source, count: int | None, at_most: int = 7) -> list[Sample]:
        """What comes: ``count`` samples, or all of a finite source."""
        found: list[Sample] = []
        empty = 0
        while (count is None or len(found) < count) and empty < TRIES:
            try:
                some = source.take(at_most if count is None else min(at_most, count - len(found)), self.wait_s)
            except SourceEnded:
                assert self.finite, "SourceEnded from a live source"
                assert count is None, f"SourceEnded after {len(found)} samples of {count}"
                return found
            assert len(some) <= at_most, f"take({at_most}) gave {len(some)} samples"
            empty = 0 if some else empty + 1
            found += some
        assert empty < TRIES, f"nothing came for {TRIES} times {self.wait_s:g} s, after {len(found)} samples"
        return found

    def read(self, source: Source, positions: Positions) -> None:
        """Open and read once."""
        source.open(positions)
        source.take(1, self.wait_s)

    def check_nothing_left(self, source: Source) -> None:
        """All was delivered."""
        for timeout_s in (0.0, 0.05, 0.0):
            began = self.clock() if self.clock else 0.0
            try:
                some = source.take(5, timeout_s)
            except SourceEnded:
                assert self.finite, "SourceEnded from a live source"
            else:
                assert not self.finite, "a finite source that has delivered everything must raise SourceEnded"
                assert some == [], f"{len(some)} samples after the last"
                if self.clock:
                    took = self.clock() - began
                    assert took >= 0.9 * timeout_s, f"take waited {took:g} s of {timeout_s:g} s for a sample"
                    assert took <= timeout_s + 2.0, f"take waited {took:g} s, its time was {timeout_s:g} s"
        assert source.lag() in (None, 0), f"lag {source.lag()} where everything was delivered"


def _by_partition(samples: list[Sample]) -> dict[str, list[tuple[int, object]]]:
    """Places and payloads: what comes again has to be the same."""
    found: dict[str, list[tuple[int, object]]] = {}
    for sample in samples:
        found.setdefault(sample.partition, []).append((sample.position, sample.payload))
    return found


def _check_samples(samples: list[Sample], begin: Mapping[str, int]) -> None:
    last = dict(begin)
    for sample in samples:
        assert isinstance(sample, Sample) and isinstance(sample.partition, str), f"no sample: {sample!r}"
        assert type(sample.position) is int and type(sample.size) is int, f"no whole numbers: {sample!r}"
        assert sample.size >= 0 and math.isfinite(sample.time_s), f"size or time of {sample!r}"
        before = last.get(sample.partition, 0)
        assert sample.position > before, f"position {sample.position} behind {before} in {sample.partition!r}"
        last[sample.partition] = sample.position


def _check_misuse(suite: _Suite) -> None:
    source = suite.make()
    assert isinstance(source, Source), f"{source!r} does not have what a Source has"
    _refused("take before open", lambda: source.take(1, 0.0))
    source.close()
    source.open(None)
    _refused("open of an open source", lambda: source.open(None))
    source.close()
    source.close()
    _refused("take after close", lambda: source.take(1, 0.0))
    _refused("commit after close", lambda: source.commit(Positions()))
    _refused("lag after close", source.lag)


def _refused(what: str, call: Callable[[], object], *errors: type[RowcastError]) -> None:
    expected = errors or (LocalProtocolError,)
    try:
        call()
    except expected:
        return
    except RowcastError as error:
        raise AssertionError(
            f"{what}: {error!r}, expected {' or '.join(each.__name__ for each in expected)}"
        ) from error
    raise AssertionError(f"{what} is not refused")


def _check_reading(suite: _Suite) -> list[Sample]:
    """Reads everything from the start; returns it."""
    source = suite.opened(Positions())
    if suite.produce:
        suite.check_nothing_left(source)
        suite.produce(FEW)
    everything = suite.rest(source, None if suite.finite else FEW)
    assert len(everything) >= FEW, f"the suite needs {FEW} samples, the source has {len(everything)}"
    _check_samples(everything, {})
    suite.check_nothing_left(source)
    if suite.finite:
        assert dict(source.dropped) == suite.dropped, f"dropped {dict(source.dropped)}, expected {suite.dropped}"
    source.close()
    source.open(Positions())
    left = source.lag()
    count, more = len(everything), sum(suite.dropped.values()) if suite.finite else 0
    least = count if suite.finite and not suite.timed else 0
    assert left is None or least <= left <= count + more, f"lag {left}, {count} samples are left"
    one = source.take(1, suite.wait_s)
    assert len(one) == 1, f"take(1) gave {len(one)}"
    again = [*one, *suite.rest(source, count - 1, at_most=count)]
    assert _by_partition(again) == _by_partition(everything), "opened again, it does not read the same"
    source.close()
    return everything


def _check_resuming(suite: _Suite, everything: list[Sample]) -> None:
    count = len(everything)
    for cut in sorted({0, 1, 2, count // 3, count // 2, count - 1, count}):
        positions = Positions().behind(everything[:cut])
        source = suite.opened(positions)
        rest = suite.rest(source, None if suite.finite else count - cut)
        _check_samples(rest, positions)
        assert _by_partition(rest) == _by_partition(everything[cut:]), f"opened behind {cut} samples: not the rest"
        suite.check_nothing_left(source)
        source.close()
    name = everything[-1].partition
    end = Positions().behind(everything)
    beyond = Positions({**end, name: end[name] + 1})
    source = suite.make()
    try:
        _refused("a position behind the end", lambda: suite.read(source, beyond), StreamGap)
    finally:
        source.close()


def _check_commits(suite: _Suite, everything: list[Sample]) -> None:
    half, third = (Positions().behind(everything[: len(everything) // k]) for k in (2, 3))
    source = suite.opened(Positions())
    suite.rest(source, len(everything) // 2)
    for positions in (third, half, half, third, Positions()):
        source.commit(positions)
    source.close()
    source = suite.make()
    begin = source.open()
    expected = half if suite.keeps_commits else Positions()
    begins = {name: place for name, place in begin.items() if place}
    assert begins == dict(expected), f"begins at {begin}, not {expected}"
    rest = everything[len(everything) // 2 :] if suite.keeps_commits else everything
    found = suite.rest(source, None if suite.finite else len(rest))
    assert _by_partition(found) == _by_partition(rest), "open() does not begin at the last commit, or at the start"
    source.close()


def _check_memory(suite: _Suite, count: int) -> None:
    """Of what was delivered, nothing is kept: neither in the first half of reading nor in the second."""
    if suite.produce:
        suite.produce(10 * FEW)
        count += 10 * FEW
    source = suite.opened(Positions())
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    try:
        suite.rest(source, count // 4)
        before, size, left = tracemalloc.get_traced_memory()[0], 0, count - count // 4
        while left > 0:
            some = deque(suite.rest(source, min(7, left)))
            left -= len(some)
            size += sum(sample.size for sample in some)
            some.clear()
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        if not tracing:
            tracemalloc.stop()
    source.close()
    assert kept <= size / 4 + SLACK_BYTES, f"{kept} more bytes are kept after {size} bytes of samples were delivered"


def _check_unseekable(suite: _Suite) -> None:
    """What holds for a source that begins where the last commit was."""
    assert suite.produce is not None, "a source that is not seekable is a live one: give produce="
    source = suite.opened(None)
    suite.check_nothing_left(source)
    suite.produce(FEW)
    first = suite.rest(source, FEW)
    _check_samples(first, {})
    suite.check_nothing_left(source)
    third, half = FEW // 3, FEW // 2
    for cut in (third, half, half, third):
        source.commit(Positions().behind(first[:cut]))
    source.close()
    source = suite.opened(None)
    suite.produce(FEW)
    again = suite.rest(source, FEW - half + FEW)
    _check_samples(again, Positions().behind(first[:half]))
    assert _by_partition(again[: FEW - half]) == _by_partition(first[half:]), "not what was not committed"
    suite.check_nothing_left(source)
    source.commit(Positions().behind(again))
    source.close()
    source = suite.opened(None)
    suite.check_nothing_left(source)
    source.close()
