"""A recording that is played: by its own times, at a rate, at a rate that changes; again and again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rosbags.rosbag2 import StoragePlugin

from recordings import FakeTime, Opened, rest, taken, write_bag, write_csv, write_mcap
from rowcast.errors import ConfigError, DataError, SourceEnded, StreamGap
from rowcast.sources import CsvSource, McapSource, ReplaySource, make_source
from rowcast.streams import Positions, RateTrace
from rowcast.testing import check_source


def replay(path: Path, time: FakeTime, **options: Any) -> ReplaySource:
    return ReplaySource(CsvSource(path, time="t_s"), **time.settings, **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"speed": 8.0}, {"rates": 50.0}, {"rates": RateTrace([0.0, 1.0, 2.0], [100.0, 0.0, 10.0])}],
    ids=["recorded", "faster", "rate", "trace"],
)
def test_suite(tmp_path: Path, options: dict[str, Any]) -> None:
    path, time = write_csv(tmp_path / "a.csv", 100), FakeTime()
    check_source(lambda: replay(path, time, **options), timed=True, clock=time)


def test_at_a_rate_the_count_is_that_of_the_clock(tmp_path: Path, opened: Opened) -> None:
    time = FakeTime()
    source = opened(replay(write_csv(tmp_path / "a.csv", 200), time, rates=20.0))
    assert source.take(9, 0.0) == [] and source.lag() == 0
    time.now += 1.0
    assert source.lag() == 20
    samples = source.take(100, 0.0)
    assert [sample.position for sample in samples] == list(range(1, 21))
    assert [sample.time_s for sample in samples[:3]] == pytest.approx([0.05, 0.10, 0.15])
    time.now += 60.0  # nobody took anything: nothing is left out
    assert source.lag() == 180 and len(taken(source, 180)) == 180
    with pytest.raises(SourceEnded):
        source.take(1, 0.0)


def test_take_waits_for_the_moment_and_no_longer(tmp_path: Path, opened: Opened) -> None:
    time = FakeTime()
    source = opened(replay(write_csv(tmp_path / "a.csv", 5), time, rates=RateTrace([0, 60], [0, 4])))
    assert source.take(3, 10.0) == [] and time.now == pytest.approx(110.0)
    assert [sample.position for sample in source.take(3, 100.0)] == [1]
    assert time.now == pytest.approx(160.25, abs=1e-3) and time.pauses < 100
    assert [sample.position for sample in source.take(3, 100.0)] == [2]
    assert time.now == pytest.approx(160.5, abs=1e-3)


def test_by_its_own_times_from_any_place(tmp_path: Path, opened: Opened) -> None:
    time = FakeTime()
    source = opened(replay(write_csv(tmp_path / "a.csv", 50), time, speed=2.0), Positions({"a.csv": 10}))
    assert [sample.position for sample in source.take(9, 0.0)] == [11]  # the first at once
    time.now += 0.05
    assert [sample.position for sample in source.take(9, 0.0)] == [12]
    time.now += 0.5
    assert [sample.time_s for sample in source.take(9, 0.0)] == pytest.approx([1.2 + k / 10 for k in range(9)])


def test_times_that_go_back_begin_anew_there(tmp_path: Path, opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    path, time = tmp_path / "a.csv", FakeTime()
    path.write_text("t_s\n100\n100.5\n100.2\n0\n1\n-50\n-49\n")
    source = opened(replay(path, time))
    moments = []
    with caplog.at_level(logging.WARNING, "rowcast"):
        for _ in range(7):
            (sample,) = source.take(1, 10.0)
            moments.append((round(time.now - 100.0, 3), sample.time_s))
    assert moments == [(0, 100), (0.5, 100.5), (0.5, 100.2), (0.5, 0), (1.5, 1), (1.5, -50), (2.5, -49)]
    assert [record.getMessage().split(": ")[-1] for record in caplog.records] == [
        "its times go back by 100 s; it goes on from there"
    ]


def test_a_clock_that_goes_back(tmp_path: Path, opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    time = FakeTime()
    source = opened(replay(write_csv(tmp_path / "a.csv", 100), time, rates=10.0))
    time.now += 1.0
    assert len(source.take(100, 0.0)) == 10
    with caplog.at_level(logging.WARNING, "rowcast"):
        for _ in range(2):
            time.now -= 3600.0
            assert source.take(100, 0.0) == []
            time.now += 1.0
            assert len(source.take(100, 0.0)) == 10
        before = time.now
        time.meanwhile = lambda: setattr(time, "now", time.now - 7200.0)
        time.pauses = 0
        source.close()
        source.open(Positions({"a.csv": 99}))
        assert source.take(1, 0.0) == [] and time.now == before
    assert [record.getMessage().split(": ")[-1] for record in caplog.records] == [
        "the clock went back by 3.6e+03 s; it goes on as if it had not"
    ]


def test_looped_it_has_no_end_and_positions_grow(tmp_path: Path, opened: Opened) -> None:
    path, time = write_csv(tmp_path / "a.csv", 10), FakeTime()
    source = opened(replay(path, time, rates=100.0, loop=True))
    time.now += 1.0
    samples = taken(source, 100, at_most=7)
    assert [sample.position for sample in samples] == list(range(1, 101))
    assert [sample.payload["x"] for sample in samples] == [str(k % 10 * (k % 10)) for k in range(100)]
    source = opened(replay(path, time, loop=True, speed=1.0))
    time.now += 0.95
    assert len(source.take(50, 0.0)) == 11  # the last of a lap and the first of the next come together


@given(
    count=st.integers(1, 9),
    topics=st.sampled_from([("/a",), ("/a", "/b"), ("/a", "/b", "/a")]),
    cut=st.integers(0, 40),
)
def test_looped_it_goes_on_exactly(
    tmp_path_factory: pytest.TempPathFactory, count: int, topics: tuple[str, ...], cut: int
) -> None:
    path, time = tmp_path_factory.mktemp("loop") / "a.mcap", FakeTime()
    write_mcap(path, topics=topics, count=count)
    found = []
    for positions in (None, cut):
        source = ReplaySource(McapSource(path), rates=1000.0, loop=True, **time.settings)
        source.open(None if positions is None else Positions().behind(found[:cut]))
        time.now += 1.0
        some = taken(source, 50 if positions is None else 10)
        found = some if positions is None else found
        source.close()
    assert [(each.partition, each.position, each.payload) for each in some] == [
        (each.partition, each.position, each.payload) for each in found[cut : cut + 10]
    ]


def test_looped_partitions_may_be_laps_apart(tmp_path: Path, opened: Opened) -> None:
    path, time = tmp_path / "a.mcap", FakeTime()
    write_mcap(path, topics=("/a", "/b"), count=10)
    behind = Positions({"/a": 17, "/b": 3})
    source = opened(ReplaySource(McapSource(path), rates=1000.0, loop=True, **time.settings), behind)
    time.now += 1.0
    samples = taken(source, 40)
    for topic, first in behind.items():
        found = [sample.position for sample in samples if sample.partition == topic]
        assert found == list(range(first + 1, first + 1 + len(found))) and len(found) > 5


def test_what_is_dropped_in_each_lap_is_counted(tmp_path: Path, opened: Opened) -> None:
    path, time = write_csv(tmp_path / "a.csv", 10), FakeTime()
    with path.open("a") as file:
        file.write("1,2\n")
    source = opened(replay(path, time, rates=100.0, loop=True))
    time.now += 1.0
    taken(source, 35)  # it reads ahead: of the fourth lap, too
    assert dict(source.dropped) == {"not a row": 4} and source.trouble == ""


def test_nothing_is_not_repeated_for_ever(tmp_path: Path, opened: Opened) -> None:
    path, time = tmp_path / "a.csv", FakeTime()
    path.write_text("t_s,x\n")
    source = opened(replay(path, time, loop=True))
    with pytest.raises(DataError, match="nothing to repeat"):
        source.take(1, 0.0)


def test_what_is_there_is_delivered_before_an_error(tmp_path: Path, opened: Opened) -> None:
    path, time = write_csv(tmp_path / "a.csv", 300), FakeTime()
    source = opened(replay(path, time, rates=1000.0))
    time.now += 1.0
    first = source.take(1, 0.0)
    path.write_text("t_s,x,label\n")
    some = [*first, *source.take(1000, 0.0)]
    assert [sample.position for sample in some] == list(range(1, 301))
    with pytest.raises(StreamGap, match="it has 12 bytes"):
        source.take(1, 0.0)


# -- by text -----------------------------------------------------------------------------------------------------------


def test_texts(tmp_path: Path, opened: Opened) -> None:
    path = write_csv(tmp_path / "a.csv", 10)
    assert isinstance(make_source(path), CsvSource)
    for text in (f"{path}?rate=1e6", f"{path}?speed=1e6&time=t_s", f"replay://{path}?time=t_s&speed=1000"):
        assert len(taken_by_time(opened(make_source(text)))) == 10
    rates = tmp_path / "rates.csv"
    rates.write_text("t_s,robot0,robot1\n0,1,1e5\n100,0,0\n")
    assert len(taken_by_time(opened(make_source(path, rates=rates, robot=1)))) == 10
    write_bag(tmp_path / "bag", StoragePlugin.SQLITE3)
    assert len(taken_by_time(opened(make_source(f"replay://{tmp_path}/bag?speed=1000")))) == 60


def taken_by_time(source: ReplaySource) -> list[Any]:
    assert isinstance(source, ReplaySource)
    found: list[Any] = []
    while True:
        try:
            found += source.take(100, 10.0)
        except SourceEnded:
            return found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("rate=10&speed=2", "rate and speed say the same"),
        ("rate=0", "expected samples, got a rate that stays 0"),
        ("rate=-1", "option 'rate': expected a number of 0 or more"),
        ("speed=2", "rows have no time; give time=COLUMN"),
        ("loop=1", "rows have no time; give time=COLUMN"),
        ("speed=0&time=t_s", "expected rates, or a finite speed above 0"),
        ("rate=5&follow=1", "a file that is followed has its own rate"),
        ("rates=none.csv", "rates cannot be read"),
        ("rate=5&tmie=t_s", "unknown option 'tmie'; did you mean 'time'"),
    ],
)
def test_mistakes(tmp_path: Path, options: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_source(f"{write_csv(tmp_path / 'a.csv', 3)}?{options}")


def test_rates_of_several_robots_need_one_to_be_named(tmp_path: Path) -> None:
    rates = tmp_path / "rates.csv"
    rates.write_text("t_s,robot0,robot1\n0,1,1\n100,0,0\n")
    path = write_csv(tmp_path / "a.csv", 3)
    for robot in ({}, {"robot": 2}, {"robot": 0.5}):
        with pytest.raises(ConfigError, match="has rates of 2 robots; give robot=0 to 1"):
            make_source(path, rates=rates, **robot)


def test_rest_of_a_plain_recording(tmp_path: Path, opened: Opened) -> None:
    assert len(rest(opened(make_source(write_csv(tmp_path / "a.csv", 30))))) == 30
