"""Trace files: what is read, and what the message says about one that cannot be."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from rowcast.errors import ConfigError, TraceError
from rowcast.links import Trace, load_trace, named_trace, outdoor, save_csv

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


@pytest.mark.parametrize(
    ("name", "text", "line", "reason"),
    [
        ("a.csv", "", 1, "empty"),
        ("a.csv", " \n\n", 1, "empty"),
        ("a.csv", "time_s,mbps\n", 2, "no rows"),
        ("a.csv", "time_s,mbps\n5,\n", 2, "no rows"),
        ("a.csv", "0,10\n1,20\n", 1, "expected a header with the columns time_s .* and mbps .*got '0,10'"),
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
        ("a.csv", "time_s,mbps\n1,10\n", 2, "first row is at 1 s"),
        ("a.up", "5\nx\n", 2, "whole number of milliseconds, got 'x'"),
        ("a.up", "5\n-6\n", 2, "whole number"),
        ("a.up", "5\n4\n", 2, "time 4 ms goes back behind 5 ms"),
        ("a.down", "0\n0\n", 2, "no length"),
        ("a.mahi", "5\n99999999999\n", 2, "more than a month"),
        ("a.mahi", "5\n" + "9" * 5000 + "\n", 2, "more than a month"),
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


def test_an_end_before_the_last_row(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="does not come after"):
        load_trace(written(tmp_path, "time_s,mbps\n0,1\n2,3\n1,\n"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"none\.csv: cannot be read: No such file"):
        load_trace(tmp_path / "none.csv")
    with pytest.raises(TraceError, match=r"unknown kind of file '\.json'"):
        load_trace(tmp_path / "link.json")
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
