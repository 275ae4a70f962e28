"""The conformance suite of sources: a source that is right passes, and one that breaks a promise is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from rowcast.errors import LocalProtocolError, SourceEnded, StreamGap
from rowcast.streams import Positions, Sample
from rowcast.testing import check_source

COUNT = 40


class Listed:
    """Samples of a list, in two partitions; a live one if ``live``, one that begins at its last commit if ``keeps``."""

    live, keeps = False, False

    def __init__(self, place: list[Sample], kept: dict[str, int] | None = None) -> None:
        self.place, self.kept = place, {} if kept is None else kept
        self.at: dict[str, int] | None = None
        self.next = 0
        self.trouble = ""

    def open(self, positions: Positions | None = None) -> Positions:
        if self.at is not None:
            raise LocalProtocolError("open")
        at = dict(positions if positions is not None else self.kept if self.keeps else {})
        if any(place > max(s.position for s in self.place if s.partition == name) for name, place in at.items()):
            raise StreamGap("behind the end")
        self.at = at
        self.next = 0
        return Positions(at)

    def take(self, at_most: int, timeout_s: float) -> list[Sample]:
        found: list[Sample] = []
        at = self.opened()
        while self.next < len(self.place) and len(found) < at_most:
            sample = self.place[self.next]
            self.next += 1
            if sample.position > at.get(sample.partition, 0):
                found.append(sample)
        if not found and not self.live:
            raise SourceEnded("end")
        return found

    def commit(self, positions: Positions) -> None:
        self.opened()
        self.kept.update(Positions(self.kept).merged(positions))

    def lag(self) -> int | None:
        at = self.opened()
        return sum(sample.position > at.get(sample.partition, 0) for sample in self.place[self.next :])

    def close(self) -> None:
        self.at = None

    @property
    def dropped(self) -> Mapping[str, int]:
        return {}

    def opened(self) -> dict[str, int]:
        if self.at is None:
            raise LocalProtocolError("not open")
        return self.at


def sample(k: int) -> Sample:
    return Sample("ab"[k % 2], k // 2 + 1, k / 10, bytes([k % 256]) * 100, 100)


def made(kind: type[Listed]) -> Callable[[], Listed]:
    place = [sample(k) for k in range(COUNT)]
    kept: dict[str, int] = {}
    return lambda: kind(place, kept)


class Live(Listed):
    live = True


class Keeping(Live):
    keeps = True


def check_live(kind: type[Listed], **options: Any) -> None:
    place: list[Sample] = []
    kept: dict[str, int] = {}
    check_source(
        lambda: kind(place, kept),
        lambda count: place.extend(sample(k) for k in range(len(place), len(place) + count)),
        wait_s=0.0,
        **options,
    )


class FromItsCommit(Keeping):
    """Opened at positions, it begins at its commit all the same: as a queue of a broker does."""

    def open(self, positions: Positions | None = None) -> Positions:
        return super().open(None)


def test_what_is_right_passes() -> None:
    check_source(made(Listed))
    check_live(Live)
    check_live(Keeping, keeps_commits=True)
    check_live(FromItsCommit, seekable=False)


class Early(Listed):
    def take(self, at_most: int, timeout_s: float) -> list[Sample]:
        if self.next >= 30:
            raise SourceEnded("too early")
        return super().take(at_most, timeout_s)


class TooMany(Listed):
    def take(self, at_most: int, timeout_s: float) -> list[Sample]:
        return super().take(at_most + 1, timeout_s)


class Doubling(Listed):
    def take(self, at_most: int, timeout_s: float) -> list[Sample]:
        found = super().take(max(at_most // 2, 1), timeout_s)
        return [*found, *found][:at_most]


class Skipping(Listed):
    def open(self, positions: Positions | None = None) -> Positions:
        begin = super().open(positions)
        self.at = {name: place + 1 for name, place in begin.items()}
        return begin


class Endless(Listed):
    def take(self, at_most: int, timeout_s: float) -> list[Sample]:
        try:
            return super().take(at_most, timeout_s)
        except SourceEnded:
            return []


class EndsOnce(Listed):
    ended = False

    def take(self, at_most: int, timeout_s: float) -> list[Sample]:
        if self.ended:
            return []
        try:
            return super().take(at_most, timeout_s)
        except SourceEnded:
            self.ended = True
            raise


class LiveThatEnds(Live):
    live = False


class OpenTwice(Listed):
    def open(self, positions: Positions | None = None) -> Positions:
        self.at = None
        return super().open(positions)


class UsableWhenClosed(Listed):
    def opened(self) -> dict[str, int]:
        return self.at if self.at is not None else {}


class WrongLag(Listed):
    def lag(self) -> int | None:
        return (super().lag() or 1) - 1


class Forgetful(Keeping):
    def commit(self, positions: Positions) -> None:
        self.opened()
        self.kept.clear()
        self.kept.update(positions)


class Other(Listed):
    def take(self, at_most: int, timeout_s: float) -> list[Sample]:
        return [replace(each, payload=id(self)) for each in super().take(at_most, timeout_s)]


class BehindItsEnd(Listed):
    def open(self, positions: Positions | None = None) -> Positions:
        if self.at is not None:
            raise LocalProtocolError("open")
        self.at, self.next = dict(positions or {}), 0
        return Positions(self.at)


class Keeper(Listed):
    """Keeps what it delivers."""

    def open(self, positions: Positions | None = None) -> Positions:
        self.all: list[bytes] = []
        return super().open(positions)

    def take(self, at_most: int, timeout_s: float) -> list[Sample]:
        found = [replace(each, payload=each.payload * 100, size=10000) for each in super().take(at_most, timeout_s)]
        self.all += [each.payload for each in found]
        return found


class NoSample(Listed):
    def take(self, at_most: int, timeout_s: float) -> list[Sample]:
        return [each.payload for each in super().take(at_most, timeout_s)]


class Dropping(Listed):
    @property
    def dropped(self) -> Mapping[str, int]:
        return {"any": 3}


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        (Early, "lag 5 where everything was delivered"),
        (TooMany, r"take\(7\) gave 8 samples"),
        (Doubling, "position 1 behind 2"),
        (Skipping, "not the rest"),
        (Endless, "nothing came for 4 times"),
        (EndsOnce, "must raise SourceEnded"),
        (OpenTwice, "open of an open source is not refused"),
        (UsableWhenClosed, "take before open|after close"),
        (WrongLag, "lag 39, 40 samples are left"),
        (Other, "not the rest"),
        (BehindItsEnd, "a position behind the end"),
        (Keeper, "more bytes are kept"),
        (NoSample, "no sample|has no attribute"),
        (Dropping, "dropped {'any': 3}, expected {}"),
        (Keeping, "must raise SourceEnded|nothing came"),
    ],
)
def test_a_finite_source_that_breaks_a_promise_is_found(kind: type[Listed], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_source(made(kind), wait_s=0.0)


@pytest.mark.parametrize(
    ("kind", "options", "complaint"),
    [
        (LiveThatEnds, {}, "SourceEnded from a live source"),
        (Keeping, {}, "begins at"),
        (Live, {"keeps_commits": True}, "begins at"),
        (Forgetful, {"keeps_commits": True}, "begins at"),
        (Live, {"clock": lambda: 0.0}, "take waited 0 s of 0.05 s"),
        (Live, {"seekable": False}, "position 1 behind|behind"),
    ],
)
def test_a_live_source_that_breaks_a_promise_is_found(
    kind: type[Listed], options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_live(kind, **options)


def test_a_source_that_is_not_seekable_is_a_live_one() -> None:
    with pytest.raises(AssertionError, match="give produce="):
        check_source(made(Keeping), seekable=False, wait_s=0.0)
