"""A directory that grows: only complete files, each once, in an order that stays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordings import FakeTime, Opened, taken
from rowcast.errors import ConfigError, DataError, StreamGap
from rowcast.sources import DirectorySource, make_source
from rowcast.sources.directory import INDEX, _escaped, _unescaped
from rowcast.streams import Positions, Sample
from rowcast.testing import check_source

LONG_AGO = 1_000_000.0


def put(folder: Path, name: str, content: bytes = b"x", at: float = LONG_AGO) -> Path:
    path = folder / name
    path.write_bytes(content)
    os.utime(path, (at, at))
    return path


def contents(samples: list[Sample]) -> list[bytes]:
    return [sample.payload for sample in samples]


def directory(folder: Path, time: FakeTime, **options: Any) -> DirectorySource:
    options = {"index": folder / INDEX, **options}
    return DirectorySource(folder, wall=lambda: LONG_AGO + time.now, **options, **time.settings)


def test_suite(tmp_path: Path) -> None:
    time, count = FakeTime(), [0]

    def produce(more: int) -> None:
        for k in range(more):
            put(tmp_path, f"{count[0] + k:05d}.bin", b"%d" % k)
        count[0] += more

    check_source(lambda: directory(tmp_path, time), produce, clock=time)


def test_in_the_order_of_names_and_late_ones_next(tmp_path: Path, opened: Opened) -> None:
    time = FakeTime()
    for name in ("b", "d", "a"):
        put(tmp_path, name, name.encode())
    source = opened(directory(tmp_path, time))
    assert contents(taken(source, 2)) == [b"a", b"b"] and source.lag() == 1
    put(tmp_path, "c", b"c")
    put(tmp_path, "0", b"0")
    samples = taken(source, 3)
    assert contents(samples) == [b"d", b"0", b"c"]
    assert [(sample.partition, sample.position, sample.time_s) for sample in samples[:1]] == [("files", 3, LONG_AGO)]
    source.close()
    (tmp_path / "a").unlink()  # what is behind may be deleted
    again = opened(directory(tmp_path, time), Positions({"files": 3}))
    assert contents(taken(again, 2)) == [b"0", b"c"]


def test_only_complete_files(tmp_path: Path, opened: Opened) -> None:
    time = FakeTime()
    for name in (".hidden", "a.part", "b.tmp", "c~", "d.partial", "e.crdownload"):
        put(tmp_path, name)
    (tmp_path / "folder").mkdir()
    source = opened(directory(tmp_path, time))
    assert source.take(9, 5.0) == []
    (tmp_path / "a.part").rename(tmp_path / "a")
    assert len(source.take(9, 0.0)) == 1
    path, began = put(tmp_path, "z", b"", at=LONG_AGO * 2), time.now
    os.utime(tmp_path, (LONG_AGO, LONG_AGO))  # nothing new comes, but one is waited for

    def grow() -> None:
        path.write_bytes(b"x" * min(int((time.now - began) / 0.7), 2))
        os.utime(path, (LONG_AGO * 2, LONG_AGO * 2))  # the size alone tells

    time.meanwhile = grow
    assert contents(source.take(9, 5.0)) == [b"xx"]
    assert 2.4 <= time.now - began <= 2.5


def test_a_time_in_the_future_does_not_keep_a_file_back(tmp_path: Path, opened: Opened) -> None:
    time = FakeTime()
    source = opened(directory(tmp_path, time))
    put(tmp_path, "a", at=LONG_AGO * 2)
    began = time.now
    assert len(source.take(1, 5.0)) == 1
    assert 1.0 <= time.now - began <= 1.1
    source = opened(directory(tmp_path, time, settle_s=0.0, index=None))
    assert len(source.take(1, 0.0)) == 1


def test_a_file_that_is_gone_is_a_gap_or_counted(tmp_path: Path, opened: Opened) -> None:
    time = FakeTime()
    for name in "abcd":
        put(tmp_path, name, name.encode())
    source = opened(directory(tmp_path, time))
    assert contents(source.take(1, 0.0)) == [b"a"]
    (tmp_path / "b").unlink()
    for _ in range(2):
        with pytest.raises(StreamGap, match=r"deleted before it was read, as file 2; .* set gone=skip"):
            source.take(1, 0.0)
    source.close()
    source = opened(directory(tmp_path, time), Positions({"files": 0}))
    assert contents(source.take(3, 0.0)) == [b"a"]  # what is there is delivered before
    with pytest.raises(StreamGap, match="deleted before it was read"):
        source.take(3, 0.0)
    source.close()
    source = opened(directory(tmp_path, time, skip_gone=True), Positions({"files": 1}))
    samples = taken(source, 2)
    assert contents(samples) == [b"c", b"d"] and [sample.position for sample in samples] == [3, 4]
    assert dict(source.dropped) == {"gone": 1}


def test_a_file_that_is_too_large_is_counted(tmp_path: Path, opened: Opened) -> None:
    put(tmp_path, "a", bytes(11))
    put(tmp_path, "b", bytes(10))
    source = opened(directory(tmp_path, FakeTime(), most_bytes=10))
    assert [sample.position for sample in source.take(9, 0.0)] == [2]
    assert dict(source.dropped) == {"over 10 bytes": 1}


def test_an_index_is_for_one_process(tmp_path: Path, opened: Opened) -> None:
    time = FakeTime()
    put(tmp_path, "a")
    opened(directory(tmp_path, time))
    with pytest.raises(ConfigError, match="another process reads it with the index"):
        directory(tmp_path, time).open()
    assert len(opened(make_source(f"dir://{tmp_path}", look=True)).take(1, 0.0)) == 1
    with pytest.raises(ConfigError, match="the index cannot be written: No such file"):
        make_source(f"dir://{tmp_path}?index={tmp_path}/none/index").open()


def test_who_only_looks_leaves_nothing_behind(tmp_path: Path, opened: Opened) -> None:
    put(tmp_path, "a")
    for source in (make_source(f"dir://{tmp_path}", look=True), make_source(f"dir://{tmp_path}", index="none")):
        assert len(opened(source).take(9, 0.0)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_name_that_was_deleted_and_comes_again_is_read_again(tmp_path: Path, opened: Opened) -> None:
    source = opened(directory(tmp_path, FakeTime()))
    for content in (b"1", b"2"):
        path = put(tmp_path, "a", content)
        assert contents(source.take(9, 0.0)) == [content]
        assert source.take(9, 0.0) == []
        path.unlink()
        assert source.take(9, 0.0) == []


def test_a_directory_is_listed_only_when_it_may_have_changed(
    tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    time, whole, listings = FakeTime(), os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path: listings.append(path) or whole(path))

    def touched(at: float) -> None:
        os.utime(tmp_path, (at, at))
        listings.clear()

    source = opened(directory(tmp_path, time, index=None))
    touched(LONG_AGO)
    assert source.take(1, 1.0) == [] and len(listings) == 1
    put(tmp_path, "a")
    touched(LONG_AGO + time.now - 1.0)  # too near: another file may come without moving it on
    assert len(source.take(1, 0.0)) == 1 and source.take(1, 0.2) == [] and len(listings) > 5
    put(tmp_path, "b")
    os.utime(tmp_path, (LONG_AGO + time.now - 1.2, LONG_AGO + time.now - 1.2))
    assert len(source.take(1, 0.0)) == 1


def test_a_listing_that_takes_long_is_made_less_often(
    tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    time, whole, listings = FakeTime(), os.scandir, []

    def slow(path: Path) -> Any:
        time.now += 0.1
        listings.append(time.now)
        return whole(path)

    monkeypatch.setattr(os, "scandir", slow)
    source = opened(directory(tmp_path, time, settle_s=0.0))
    time.meanwhile = lambda: put(tmp_path, str(time.pauses)) and None
    for _ in range(500):
        source.take(1, 0.02)
        time.pause(0.02)
    assert 0.7 <= 0.1 * len(listings) / (time.now - 100.0) * 20 <= 1.1


def test_a_line_that_was_written_in_part_is_written_anew(tmp_path: Path, opened: Opened) -> None:
    time = FakeTime()
    for name in ("a", "bcd"):
        put(tmp_path, name, name.encode())
    (tmp_path / INDEX).write_text("a\nbc")
    source = opened(directory(tmp_path, time), Positions({"files": 1}))
    assert contents(source.take(9, 0.0)) == [b"bcd"]
    assert (tmp_path / INDEX).read_text() == "a\nbcd\n"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ("gone=maybe", ConfigError, "expected error or skip, got 'maybe'"),
        ("setle=1", ConfigError, "unknown option 'setle'; did you mean 'settle'"),
        ("settle=-1", ConfigError, "option 'settle': expected a number of 0 or more"),
    ],
)
def test_mistakes(tmp_path: Path, options: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_source(f"dir://{tmp_path}?{options}")


def test_a_directory_that_is_not_there_or_another_index(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such directory"):
        make_source(f"dir://{tmp_path}/none").open()
    put(tmp_path, "a")
    with pytest.raises(StreamGap, match=r"to be read behind file 7, and the index .* has 0"):
        make_source(f"dir://{tmp_path}").open(Positions({"files": 7}))


@given(st.text(st.characters(exclude_characters="\0/"), min_size=1))
def test_names_survive_the_index(name: str) -> None:
    assert "\n" not in _escaped(name) and _unescaped(_escaped(name)) == name


names = st.integers(0, 9).map(str)
steps = st.lists(st.one_of(st.tuples(st.just("put"), names), st.tuples(st.just("take"), st.integers(1, 3)),
                           st.tuples(st.just("reopen"), st.booleans())), max_size=30)  # fmt: skip


@given(steps)
def test_each_file_once_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]]
) -> None:
    folder, time = tmp_path_factory.mktemp("dir"), FakeTime()
    source = directory(folder, time)
    source.open()
    found: list[Sample] = []
    there: set[bytes] = set()
    for what, value in steps:
        if what == "put" and not (folder / value).exists():
            put(folder, value, value.encode())
            there.add(value.encode())
        elif what == "take":
            found += source.take(value, 0.0)
        elif what == "reopen":
            found = found if value else found[: len(found) // 2]  # the rest was delivered, and not trained
            source.close()
            source = directory(folder, time)
            source.open(Positions().behind(found))
    found += source.take(100, 0.0)
    source.close()
    assert sorted(contents(found)) == sorted(there)
    assert [sample.position for sample in found] == list(range(1, len(found) + 1))
