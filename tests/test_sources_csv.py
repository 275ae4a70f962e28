"""A CSV file as a source: its rows, what is dropped, files that grow, shrink or are cut."""

from __future__ import annotations

import gzip
import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordings import FakeTime, Opened, rest, taken, write_csv
from rowcast.errors import ConfigError, DataError, SourceEnded, StreamGap
from rowcast.sources import CsvRow, CsvSource, ValidRange, make_source
from rowcast.sources.csv_file import Columns
from rowcast.sources.lines import LineFile
from rowcast.streams import Positions
from rowcast.testing import check_source

RSSI = "t_s,rssi\n0.0,-50\n0.1,102\n0.2,-60\n0.3,what\n0.4\nx,-70\n\n0.6,-101\n0.7,-70"


def test_suite_plain_and_zipped(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", 200)
    check_source(lambda: CsvSource(path, time="t_s"))
    zipped = tmp_path / "a.csv.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    check_source(lambda: CsvSource(zipped))


def test_suite_with_rows_that_are_dropped(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", 60)
    with path.open("a") as file:
        file.write("1,2\n6.0,-5,a\n6.1,3,b\n")
    dropped = {"not a row": 1, "x outside 0..1e+06": 1}
    check_source(lambda: make_source(path, time="t_s", valid="x:0..1e6"), dropped=dropped)


def test_suite_of_a_file_that_grows(tmp_path: Path) -> None:
    path, time = write_csv(tmp_path / "a.csv", 0), FakeTime()
    written = [1]

    def produce(count: int) -> None:
        write_csv(path, count, written[0])
        written[0] += count

    check_source(lambda: CsvSource(path, time="t_s", follow=True, **time.settings), produce, clock=time)


def test_rows_by_the_names_of_their_columns(tmp_path: Path, opened: Opened) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('\ufefft_s, x ,"la,bel"\r\n0.5,3,"a ""b"", c"\r\n0.6,4,ü'.encode())
    source = opened(CsvSource(path, time="t_s"))
    assert source.columns == ("t_s", "x", "la,bel")
    first, second = taken(source, 2)
    assert (first.partition, first.position, first.time_s) == ("a.csv", 1, 0.5)
    assert dict(first.payload) == {"t_s": "0.5", "x": "3", "la,bel": 'a "b", c'}
    assert second.payload["la,bel"] == "ü" and len(second.payload) == 3
    assert first.payload.numbers(["x", "t_s"]).tolist() == [3.0, 0.5]
    with pytest.raises(DataError, match="name the columns that are numbers"):
        first.payload.numbers()
    with pytest.raises(DataError, match="no column 'xx'; did you mean 'x'"):
        first.payload.numbers(["xx"])
    with pytest.raises(KeyError):
        first.payload["none"]
    assert pickle.loads(pickle.dumps(first.payload)) == first.payload != second.payload  # noqa: S301
    assert bytes(second.payload) == "0.6,4,ü".encode()
    assert second.size >= len(second.payload.line)


def test_what_is_dropped_is_counted_and_the_first_is_shown(
    tmp_path: Path, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(RSSI)
    source = opened(make_source(path, time="t_s", valid="rssi:-100..0"))
    assert source.lag() == 9
    with caplog.at_level(logging.WARNING, "rowcast"):
        assert [sample.position for sample in taken(source, 3)] == [1, 3, 9]
        with pytest.raises(SourceEnded, match="all 9 rows were delivered"):
            source.take(1, 0.0)
    assert dict(source.dropped) == {"rssi outside -100..0": 3, "not a row": 1, "t_s is no number": 1}
    assert [record.getMessage().split("only counted: ")[1] for record in caplog.records] == [
        "rssi outside -100..0: row 2: not valid: 0.1,102",
        "not a row: row 5: 1 fields, the header has 2: 0.4",
        "t_s is no number: row 6: it has no time: x,-70",
    ]


@pytest.mark.parametrize(
    ("content", "options", "error", "message"),
    [
        (b"", {}, DataError, "expected a header line with the names of columns, got nothing"),
        (b"1,2,3\n4,5,6\n", {}, DataError, "expected a header line with different names"),
        (b"a,a\n1,2\n", {}, DataError, "expected a header line with different names"),
        (b"a,\n1,2\n", {}, DataError, "expected a header line with different names"),
        (b"\xff\xfe,b\n1,2\n", {}, DataError, "the header cannot be read"),
        (b"a,b\n1,2\n", {"time": "aa"}, ConfigError, "no column 'aa'; did you mean 'a'"),
        (b"a,b\n1,2\n", {"valid": "c:0..1"}, ConfigError, "no column 'c'"),
        (b"a,b\n1,2\n", {"valid": "a:1..0"}, ConfigError, "expected COLUMN:LOW..HIGH"),
        (b"a,b\n1,2\n", {"valid": "a"}, ConfigError, "expected COLUMN:LOW..HIGH"),
        (b"a,b\n1,2\n", {"delimiter": ";;"}, ConfigError, "expected one character"),
        (b"a,b\n1,2\n", {"tiem": "a"}, ConfigError, "unknown option 'tiem'; did you mean 'time'"),
    ],
)  # fmt: skip
def test_one_line_for_each_mistake(
    tmp_path: Path, content: bytes, options: dict[str, str], error: type[Exception], message: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(error, match=message):
        make_source(path, **options).open()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        CsvSource(tmp_path / "none.csv").open()
    with pytest.raises(ConfigError, match="cannot be followed"):
        CsvSource(tmp_path / "a.csv.gz", follow=True)


def test_a_line_without_end_is_not_held(tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rowcast.sources.lines.MOST_LINE_BYTES", 1 << 20)
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n" + bytes(2 << 20))
    source = opened(CsvSource(path))
    with pytest.raises(DataError, match="a line is longer than 1 MiB; is it a text file"):
        source.take(1, 0.0)


# -- files that change -------------------------------------------------------------------------------------------------


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_take_waits_for_a_row_and_for_its_end(tmp_path: Path, opened: Opened) -> None:
    path = tmp_path / "a.csv"
    path.write_text("")
    time = FakeTime()
    source = opened(CsvSource(path, follow=True, **time.settings))
    assert source.columns == () and source.lag() == 0
    assert source.take(1, 0.0) == [] and source.trouble == "it has no header line yet"
    pieces = iter(["t_", "s,x\n", "0,", "1", "\n2,2\n"])
    time.meanwhile = lambda: append(path, next(pieces, ""))
    assert [sample.payload.line for sample in source.take(1, 10.0)] == [b"0,1"]
    assert time.pauses == 5 and source.lag() == 1 and source.trouble == ""
    assert len(source.take(5, 10.0)) == 1
    before = time.now
    assert source.take(1, 0.5) == [] and time.now == pytest.approx(before + 0.5)


def test_a_file_that_is_cut_is_a_gap(tmp_path: Path, opened: Opened) -> None:
    path = write_csv(tmp_path / "a.csv", 10)
    for follows in (True, False):
        source = opened(CsvSource(path, follow=follows))
        taken(source, 10)
        content = path.read_bytes()
        os.truncate(path, 40)
        with pytest.raises(StreamGap, match=f"it has 40 bytes, and {len(content)} were read"):
            source.take(1, 0.0)
        with pytest.raises(StreamGap, match=r"to be read behind row 10, and it has \d"):
            CsvSource(path).open(Positions({"a.csv": 10}))
        path.write_bytes(content)


def test_a_file_that_is_written_anew_or_replaced_is_a_gap(tmp_path: Path, opened: Opened) -> None:
    path = write_csv(tmp_path / "a.csv", 10)
    source = opened(CsvSource(path, follow=True))
    taken(source, 10)
    path.write_text("t_s,x,label\n" + "7,7,7\n" * 100)
    with pytest.raises(StreamGap, match="what was read of it has changed"):
        source.take(1, 0.0)
    source = opened(CsvSource(path, follow=True))
    taken(source, 100)
    path.rename(tmp_path / "a.csv.1")
    assert source.take(1, 0.0) == []  # its writer may still have it open
    write_csv(path, 1)
    with pytest.raises(StreamGap, match="another file has its name now"):
        source.take(1, 0.0)


def test_a_zipped_file_that_is_cut_is_read_as_far_as_it_goes(tmp_path: Path, opened: Opened) -> None:
    whole = write_csv(tmp_path / "a.csv", 3000).read_bytes()
    packed = gzip.compress(whole)
    path = tmp_path / "a.csv.gz"
    path.write_bytes(packed[: len(packed) // 2])
    source = opened(CsvSource(path))
    samples = rest(source)
    lines = whole.split(b"\n")[1:]
    assert 0 < len(samples) < 3000
    assert [sample.payload.line for sample in samples] == lines[: len(samples)]
    assert f"cut off behind row {len(samples)}" in source.trouble
    assert dict(source.dropped) == {"cut off": 1}
    assert source.lag() == 0


# -- properties --------------------------------------------------------------------------------------------------------

cells = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=6)


@given(st.lists(st.tuples(cells, cells), max_size=8))
def test_what_was_written_as_csv_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    path.write_bytes("\n".join(["a,b", *quoted]).encode())
    source = CsvSource(path)
    source.open()
    found = [tuple(sample.payload.fields()) for sample in rest(source)]
    source.close()
    assert found == rows


pieces_of_lines = st.lists(st.sampled_from([b"\n", b"\n\n", b"a", b"bb\r", b"c" * 5])).map(b"".join)


@given(pieces_of_lines, st.integers(0, 12), st.sampled_from([1, 2, 7, 1000]))
def test_lines_are_those_of_the_content(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, skipped: int, block: int
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    path.write_bytes(content)
    lines = content.split(b"\n")
    complete = lines[:-1]
    for follows, expected in ((True, complete), (False, lines if lines[-1] else complete)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rowcast.sources.lines.BLOCK_BYTES", block)
            file = LineFile(path, follows)
            assert file.left() == len(expected)
            assert file.skip(skipped) == min(skipped, len(expected))
            assert file.left() == len(expected[skipped:])
            found = []
            while some := file.lines(3):
                found += some
            assert found == expected[skipped:] and file.left() == 0
            file.close()


def test_numbers_of_a_row_by_hand() -> None:
    row = CsvRow(b"1;2.5", Columns(["a", "b"], ";"))
    assert np.array_equal(row.numbers(), [1.0, 2.5]) and hash(row) == hash(CsvRow(b"1;2.5", Columns(["a", "b"], ";")))
    assert row != {"a": "1"} and repr(row) == "CsvRow(1;2.5)"
    assert str(ValidRange.parse("a:b:-1.5..2")) == "a:b outside -1.5..2"
