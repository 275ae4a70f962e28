"""Trace files: what is read, and what the message says about one that cannot be."""

from __future__ import annotations

import contextlib
import gzip
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rowcast.errors import ConfigError, TraceError
from rowcast.links import Trace, load_team, load_trace, named_trace, outdoor, save_csv

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def written(folder: Path, text: str, name: str = "link.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_by_hand(tmp_path: Path) -> None:
    trace = load_trace(written(tmp_path, "mbps, note ,time_s\n10,x,0\n2.5,y,1.5\n\n0,z,2\n"))
    np.testing.assert_array_equal(trace.times_s, [0, 1.5, 2])
    np.testing.assert_array_equal(trace.rates_bps, [10e6, 2.5e6, 0])
    assert trace.duration_s == 3.0  # the last row lasts as long as the median one
    assert trace.loop
    assert trace.name == "link.csv"
    assert not load_trace(tmp_path / "link.csv", loop=False).loop


def test_rows_before_time_0_are_history(tmp_path: Path) -> None:
    trace = load_trace(written(tmp_path, "time_s,mbps,set_mbps\n-22.6,5,1\n-22.1,7,1\n57.5,9,1\n58,1,1\n"))
    np.testing.assert_array_equal(trace.times_s, [0, 57.5, 58])
    np.testing.assert_array_equal(trace.rates_bps, [7e6, 9e6, 1e6])
    only = load_trace(written(tmp_path, "time_s,mbps\n-2,5\n-1,7\n"))
    assert (only.rate(0), only.duration_s) == (7e6, 1.0)


def test_save_and_load_are_inverse(tmp_path: Path) -> None:
    for trace in (outdoor(5, 60.0), Trace([0, 0.1, 7], [1 / 3, 0, 1e9 / 7], "odd", duration_s=8.25)):
        save_csv(trace, tmp_path / "saved.csv")
        again = load_trace(tmp_path / "saved.csv")
        np.testing.assert_array_equal(again.times_s, trace.times_s)
        np.testing.assert_allclose(again.rates_bps, trace.rates_bps, rtol=1e-15)
        assert again.duration_s == trace.duration_s
    with pytest.raises(TraceError, match="no end"):
        save_csv(Trace.constant(1e6), tmp_path / "endless.csv")
    with pytest.raises(TraceError, match="cannot be written"):
        save_csv(outdoor(5, 1.0), tmp_path / "missing" / "saved.csv")


def test_mahimahi_by_hand(tmp_path: Path) -> None:
    for name in ("a.up", "a.down", "a.mahi", "a.txt"):
        trace = load_trace(written(tmp_path, "0\n50\n50\n100\n101\n\n350\n", name))
        np.testing.assert_allclose(trace.times_s, [0, 0.1, 0.2, 0.3])
        np.testing.assert_array_equal(trace.rates_bps, [480e3, 120e3, 0, 120e3])
        assert trace.duration_s == 0.4
        assert trace.bits(0, 0.4) == pytest.approx(6 * 12000)


def test_two_columns_and_gzip(tmp_path: Path) -> None:
    trace = load_trace(written(tmp_path, "0.5 3.0\n1.5\t2.0\n", "cooked.txt"))
    np.testing.assert_array_equal(trace.times_s, [0, 1])
    np.testing.assert_array_equal(trace.rates_bps, [3e6, 2e6])
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbftime_s,mbps\n0,4\n"))
    assert load_trace(tmp_path / "b.csv.gz").rate(0) == 4e6


#: Less the first, the other two are the same number.
_TIE = (2.0**-19, 2.0**34 + 2 * 2.0**-18, 2.0**34 + 3 * 2.0**-18)


@pytest.mark.parametrize(
    ("name", "text", "line", "reason"),
    [
        ("a.csv", "", 1, "empty"),
        ("a.csv", " \n\n", 1, "empty"),
        ("a.csv", "time_s,mbps\n", 2, "no rows"),
        ("a.csv", "time_s,mbps\n5,\n", 2, "no rows"),
        ("a.csv", "0,10\n1,20\n", 1, "expected a header with the columns time_s .* and mbps .*got '0,10'"),
        ("a.csv", "time_s mbps\n0 10\n", 1, "separated by commas, semicolons or tabs, got 'time_s mbps'"),
        ("a.csv", "time_s,mbps,MBPS\n0,10,3\n", 1, "the column mbps stands twice"),
        ("a.csv", "# a note\n\n0,10\n", 3, "expected a header"),
        ("a.csv", "# a note\n# another\n", 1, "the file is empty"),
        ("a.csv", "time_s,mbps\n0,1,08\n", 2, "expected 2 cells, got 3 between commas: '0,1,08'; .* a decimal point"),
        ("a.csv", "time_s;mbps\n0;1,08\n", 2, "'1,08' is not a number; write 1.08"),
        ("a.csv", "time_s\tmbps\n0,5\t1\n", 2, "'0,5' is not a number; write 0.5"),
        ("a.csv", "time_s,mbps\n0,1_000\n", 2, "'1_000' is not a number; write 1000"),
        ("a.csv", "time_s,mbps\n0,\u0661\u0662\n", 2, "is not a number; expected Mbit/s, such as 12.5"),
        ("a.csv", "time_s,mbps\n0,inf\n", 2, "'inf' is not a number"),
        ("a.csv", "time_s,mbps\n0,0x10\n", 2, "'0x10' is not a number"),
        ("a.csv", "time_s,mbps\n0,1e308\n", 2, "'1e308' is more than 1e\\+09; expected Mbit/s"),
        ("a.csv", "time_s,mbps\n1764212345678,4\n", 2, "is more than 1e\\+11; expected seconds"),
        ("a.csv", "time_s,mbps\n" + "0," + "9" * 5000 + "\n", 2, "9... is more than|9...' is more than"),
        ("a.csv", 'time_s,mbps\n0,"1\n2",3\n', 2, "not CSV: unexpected end of data; a row is one line"),
        ("a.csv", 'time_s,mbps\n0,"1"2\n', 2, "not CSV"),
        ("a.csv", "time_s,mbps\n0,\x1b[31m1\n", 2, r"'\\x1b\[31m1' is not a number"),
        ("a.csv", "time_s,mbps\n0,1\x0c\n1,\x85x\n", 3, "'x' is not a number"),
        ("a.csv", "time_s,mbps\r\n0,1\r\n\r\n1,x\r\n", 4, "'x' is not a number"),
        ("a.csv", "time_s,mbps\n-2,1\n-1,1\n-0.5,\n", 4, "the end at -0.5 s does not come after 0 s"),
        ("a.csv", "time_s,mbps\n{!r},1\n{!r},1\n{!r},1\n".format(*_TIE), 4, "too near to that of the row before"),
        ("a.txt", "0,1\n1\n", 2, "expected seconds and Mbit/s, got '1' between commas"),
        ("a.txt", "0,5 3,0\n", 1, "'0,5' is not a number; write 0.5"),
        (
            "a.txt",
            "0,1,5\n",
            1,
            "expected seconds and Mbit/s, got '0,1,5' between commas; numbers have a decimal point",
        ),
        ("a.txt", "5\nx\n", 2, "whole number of milliseconds, or seconds and Mbit/s in two columns, got 'x'"),
        ("a.txt", "0 1\n0 2\n", 2, "time 0 s does not come after 0 s"),
        ("a.txt", "1764212345.25 1\n1764212344 2\n", 2, "time 1764212344 s does not come after 1764212345 s"),
        ("a.up", "1764212345\n1764212346\n", 1, "more than a week; expected milliseconds from the start"),
        ("a.up", "5\n1_000\n", 2, "whole number of milliseconds, got '1_000'"),
        ("a.up", "5\n\u0666\n", 2, "whole number of milliseconds"),
        ("a.up", "0,1\n", 1, "whole number of milliseconds, got '0,1'"),
        ("a.csv", "time,mbps\n0,10\n", 1, "expected a header"),
        ("a.csv", "time_s,kbps\n0,10\n", 1, "expected a header"),
        ("a.csv", "time_s,mbps\n0,10\n1,-2\n", 3, "rate -2 Mbit/s is negative"),
        ("a.csv", "time_s,mbps\n0,10\n2,2\n1,3\n", 4, "time 1 s does not come after 2 s"),
        ("a.csv", "time_s,mbps\n0,10\n0,3\n", 3, "time 0 s does not come after 0 s"),
        ("a.csv", "time_s,mbps\n0,fast\n", 2, "'fast' is not a number"),
        ("a.csv", "time_s,mbps\n0,nan\n", 2, "'nan' is not a number"),
        ("a.csv", "time_s,mbps\n0,1\n,3\n", 3, "'' is not a number"),
        ("a.csv", "time_s,mbps\n0,1\n1,\n2,3\n", 3, "no rate"),
        ("a.csv", "time_s,mbps\n0,1\n1\n", 3, "expected 2 cells, got 1"),
        ("a.up", "5\nx\n", 2, "whole number of milliseconds, got 'x'"),
        ("a.up", "5\n-6\n", 2, "whole number"),
        ("a.up", "5\n4\n", 2, "time 4 ms goes back behind 5 ms"),
        ("a.down", "0\n0\n", 2, "no length"),
        ("a.mahi", "5\n99999999999\n", 2, "more than a week"),
        ("a.mahi", "5\n" + "9" * 5000 + "\n", 2, "more than a week"),
        ("a.txt", "0 1\n1\n", 2, "expected seconds and Mbit/s"),
        ("a.txt", "0 1\n1 -1\n", 2, "negative"),
    ],
)
def test_a_broken_file_is_named_with_line_and_reason(
    tmp_path: Path, name: str, text: str, line: int, reason: str
) -> None:
    path = written(tmp_path, text, name)
    with pytest.raises(TraceError, match=reason) as caught:
        load_trace(path)
    assert str(caught.value).startswith(f"{path}, line {line}: ")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "\ufefftime_s,mbps\r\n0,1.5\r\n2,3\r\n4,\r\n"),
        ("a.csv", "# made by hand\n\n  # in May\ntime_s,mbps\n0,1.5\n#1,9\n2,3\n\n4,\n# over\n"),
        ("a.csv", "TIME_S;Mbps\n0;1.5\n2;3\n4;\n"),
        ("a.csv", "time_s\tmbps\tnote\n0\t1.5\ta,b\n2\t3\tc\n4\t\t\n"),
        ("a.csv", '"time_s", "mbps"\n"0", "1.5"\n"2", "3"\n"4",\n'),
        ("a.csv", 'note,"time_s","mbps"\n"x, y",0,+1.5e0\n,2,3.,,\n,4,,\n'),
        ("a.csv", "time_s,mbps\n1764212345,1.5\n1764212347,3\n1764212349,\n"),
        ("a.CSV", "time_s,mbps\r0,1.5\r2,3\r4,\r"),
        ("a.txt", "time_s mbps\n0 1.5\n2 3\n"),
        ("a.txt", "t_s;mbps\n0;1.5\n2;3\n4;\n"),
        ("a.txt", "0,1.5\n2,3\n"),
        ("a.txt", "# s, Mbit/s\n0 ,1.5\n2, 3\n"),
        ("a.txt", "100; 1.5\n102;3\n"),
        ("a.txt", "\ufeff-1\t1.5\r\n 1 \t 3\r\n"),
    ],
)
def test_the_same_trace_in_other_clothes(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    trace = load_trace(tmp_path / name)
    assert (trace.times_s.tolist(), trace.rates_bps.tolist(), trace.duration_s) == ([0, 2], [1.5e6, 3e6], 4)


def test_comments_in_a_mahimahi_file(tmp_path: Path) -> None:
    assert load_trace(written(tmp_path, "# ms\n50\n\n #x\n100\n", "a.up")).bits(0, 0.1) == 24_000


_PIECES = ["time_s", "mbps", "t_s", ",", ";", "\t", " ", "\n", "\r\n", "#", '"', "0", "1", "2.5", "-1", "1e308", "1e9"]
_PIECES += [
    "nan",
    "inf",
    "1_0",
    "\u0661",
    "0,5",
    "\ufeff",
    "\x00",
    "\x85",
    "1764212345",
    "9" * 20,
    "1e-300",
    "x",
    "\x1b[",
]
_HEADS = ["", "time_s,mbps\n", "time_s;mbps\n0;1\n", "0 1\n", "0,1\n", "5\n", "5\n60\n"]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["a.csv", "a.txt", "a.up"]),
    st.sampled_from(_HEADS),
    st.lists(st.sampled_from(_PIECES), max_size=12),
)
def test_whatever_is_in_a_file_it_is_read_or_refused_with_a_line(
    tmp_path: Path, name: str, head: str, pieces: list[str]
) -> None:
    path = tmp_path / name
    path.write_bytes((head + "".join(pieces)).encode())
    try:
        trace = load_trace(path)
    except TraceError as error:
        assert str(error).startswith(f"{path}, line "), error
        assert str(error).isprintable()
        return
    assert np.isfinite(trace.bits(0, trace.duration_s)) and trace.stats().mean_bps >= 0


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["a.csv", "a.txt", "a.up", "a.csv.gz"]), st.binary(max_size=60))
def test_whatever_bytes_are_in_a_file(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with contextlib.suppress(TraceError):
        load_trace(tmp_path / name)


def test_rates_that_cannot_be_added_up_are_refused_without_a_warning() -> None:
    with pytest.raises(TraceError, match="more bits pass than can be counted"):
        Trace([0, 1], [1e308, 1e308], "wild", duration_s=5)
    with pytest.raises(TraceError, match="expected finite"):
        Trace([0], [1e300], "wild", duration_s=5).scaled(1e300)
    with pytest.raises(TraceError, match="does not come after"):
        Trace([0, math.inf, math.inf], [1, 1, 1], "wild", duration_s=5)
    assert Trace.constant(1e300).finish(0, 1e300) == 1


def test_an_end_before_the_last_row(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="does not come after"):
        load_trace(written(tmp_path, "time_s,mbps\n0,1\n2,3\n1,\n"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"none\.csv: cannot be read: No such file"):
        load_trace(tmp_path / "none.csv")
    with pytest.raises(TraceError, match=r"unknown kind of file '\.xml'"):
        load_trace(tmp_path / "link.xml")
    (tmp_path / "dir.csv").mkdir()
    with pytest.raises(TraceError, match="cannot be read"):
        load_trace(tmp_path / "dir.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match="not a text file"):
        load_trace(tmp_path / "bytes.csv")
    (tmp_path / "cut.up.gz").write_bytes(gzip.compress(b"1\n2\n" * 100)[:-9])
    with pytest.raises(TraceError, match="not a text file"):
        load_trace(tmp_path / "cut.up.gz")
    (tmp_path / "plain.up.gz").write_bytes(b"1\n2\n")
    with pytest.raises(TraceError, match="cannot be read"):
        load_trace(tmp_path / "plain.up.gz")
    (tmp_path / "wide.csv").write_text("time_s,mbps\n0," + "1" * 200_000 + "\n", encoding="utf-8")
    with pytest.raises(TraceError, match="not CSV"):
        load_trace(tmp_path / "wide.csv")


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    for folder in (tmp_path / "none", written(tmp_path, "", "file.csv")):
        with pytest.raises(TraceError, match="expected a folder of trace files"):
            load_team(folder)
    (tmp_path / "utf16.csv").write_bytes("time_s,mbps\n0,1\n".encode("utf-16"))
    with pytest.raises(TraceError, match="expected UTF-8, save it as that"):
        load_trace(tmp_path / "utf16.csv")
    with pytest.raises(TraceError, match="cannot be read"):
        load_trace("a\0.csv")


def test_named_trace(tmp_path: Path) -> None:
    assert named_trace("outdoor", 4) == outdoor(4)
    assert named_trace("outdoor", (4, 1), 30.0) == outdoor((4, 1), 30.0)
    assert named_trace("constant:20", 0).rate(5) == 20e6
    assert named_trace("constant:0.5", 0).name == "constant:0.5"
    assert named_trace("constant:0", 0).finish(0, 1) == math.inf
    path = written(tmp_path, "time_s,mbps\n0,4\n")
    assert named_trace(str(path), 0) == load_trace(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("outdor", "unknown link 'outdor': did you mean 'outdoor'"),
        ("constnt:20", "did you mean 'constant:MBPS'"),
        ("", "unknown link ''"),
        ("constant", "unknown link 'constant'"),
        ("constant:", "is not a rate"),
        ("constant:fast", "is not a rate"),
        ("constant:-1", "is not a rate"),
        ("constant:inf", "is not a rate"),
        ("constant:1_000", "is not a rate"),
        ("constant:1e308", "expected Mbit/s in 0 .. 1e\\+09"),
    ],
)
def test_unknown_names(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        named_trace(text, 0)
    assert not isinstance(caught.value, TraceError)


def test_a_missing_file_is_a_trace_error() -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        named_trace("nowhere/link.csv", 0)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the recorded traces are not here ({SHARED})")
def test_recorded_traces() -> None:
    recorded = [
        *SHARED.glob("traces_*/*.up.gz"),
        *SHARED.glob("traces_*/*.down.gz"),
        *SHARED.glob("traces_*/*.csv"),
        *SHARED.glob("traces_*/*.txt"),
        *SHARED.glob("traces_*/csv_1s/*.csv"),
        *SHARED.glob("*/bandwidth/*.csv"),
        *SHARED.glob("rog-artifact/bandwidth/[BRS]*/*.csv"),
    ]
    assert recorded
    for path in recorded:
        trace = load_trace(path)
        stats = trace.stats()
        assert 0 < stats.mean_bps < 1e9
        bits = 0.6 * trace.bits(0, trace.duration_s)
        assert trace.bits(1.0, trace.finish(1.0, bits)) == pytest.approx(bits)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the recorded traces are not here ({SHARED})")
def test_recorded_numbers() -> None:
    """The means that the folders' README files state."""
    cellular = SHARED / "traces_cellular_mahimahi"
    for name, mbps in (("ATT-LTE-driving-2016.down", 4.56), ("Verizon-LTE-short.up", 5.95)):
        assert load_trace(cellular / f"{name}.gz").stats().mean_bps / 1e6 == pytest.approx(mbps, abs=0.01)
    worker = load_trace(SHARED / "rog-artifact" / "bandwidth" / "ROG-4" / "worker1.csv")
    assert (worker.rate(0), worker.next_change(0)) == (0.247e6, 57.520)
    # The statement of the artifact's README: outdoors_stats.json counts changes as rowcast.links.stats does.
    lines = (SHARED / "rog-artifact" / "outdoors.csv").read_text().splitlines()[1:]
    known = [float(line.split(",")[2]) for line in lines[432:2594]]
    record = Trace(np.arange(len(known)) * 0.5, np.array(known) * 1e6, "record", duration_s=len(known) * 0.5)
    assert record.stats().change_20_s == pytest.approx(0.968, abs=0.01)
    assert record.stats().change_40_s == pytest.approx(1.442, abs=0.01)
