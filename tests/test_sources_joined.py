"""Several sources as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from recordings import FakeTime, Opened, rest, taken, write_csv, write_mcap
from rowcast.errors import ConfigError, DataError, LocalProtocolError, StreamGap
from rowcast.sources import CsvSource, DirectorySource, McapSource, join_sources
from rowcast.streams import Positions
from rowcast.testing import check_source


def test_suite_of_finite_ones(tmp_path: Path) -> None:
    csv, mcap = write_csv(tmp_path / "a.csv", 120), tmp_path / "a.mcap"
    write_mcap(mcap, count=90)
    check_source(lambda: join_sources([CsvSource(csv), McapSource(mcap), CsvSource(csv)]))


def test_suite_of_live_ones(tmp_path: Path) -> None:
    path, time, count = write_csv(tmp_path / "a.csv", 0), FakeTime(), [1]
    folder = tmp_path / "files"
    folder.mkdir()

    def produce(more: int) -> None:
        for k in range(count[0], count[0] + more):
            if k % 3:
                write_csv(path, 1, k)
            else:
                (folder / f"{k:05d}").write_bytes(b"%d" % k)
        count[0] += more

    check_source(
        lambda: join_sources([
            CsvSource(path, follow=True, **time.settings),
            DirectorySource(folder, index=folder / ".index", settle_s=0.0, **time.settings),
        ]),
        produce,
        clock=time,
    )  # fmt: skip


def test_one_alone_stays_as_it_is_and_none_is_refused(tmp_path: Path) -> None:
    source = CsvSource(tmp_path / "a.csv")
    assert join_sources([source]) is source
    with pytest.raises(ConfigError, match="expected at least one"):
        join_sources([])


def test_all_have_their_turn(tmp_path: Path, opened: Opened) -> None:
    csv = write_csv(tmp_path / "a.csv", 50)
    source = opened(join_sources([CsvSource(csv), CsvSource(csv)]))
    assert {sample.partition for sample in [*source.take(3, 0.0), *source.take(3, 0.0)]} == {"0/a.csv", "1/a.csv"}
    assert len(rest(source)) == 94


def test_what_is_there_is_delivered_before_an_error(tmp_path: Path, opened: Opened) -> None:
    first, second = write_csv(tmp_path / "a.csv", 5), write_csv(tmp_path / "b.csv", 5)
    source = opened(join_sources([CsvSource(second, follow=True), CsvSource(first, follow=True)]))
    assert len(taken(source, 10)) == 10
    write_csv(first, 5, 5)
    second.write_text("t_s,x,label\n")
    samples = []
    with pytest.raises(StreamGap, match=r"b\.csv: it has 12 bytes"):
        while True:
            samples += source.take(100, 0.0)
    assert [sample.position for sample in samples if sample.partition == "1/a.csv"] == [6, 7, 8, 9, 10]


def test_where_one_cannot_be_opened_none_is(tmp_path: Path) -> None:
    good = CsvSource(write_csv(tmp_path / "a.csv", 5))
    joined = join_sources([good, CsvSource(tmp_path / "none.csv")])
    with pytest.raises(DataError, match="cannot be read"):
        joined.open(Positions())
    with pytest.raises(LocalProtocolError):
        good.take(1, 0.0)
