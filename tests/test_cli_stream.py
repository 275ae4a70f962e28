"""``rowcast stream``: what it prints, and one clear line for each kind of bad input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Run, running
from recordings import write_csv, write_mcap
from rowcast.cli import ExitCode
from rowcast.sources.stats import StreamStats
from rowcast.streams import Sample


@pytest.fixture
def rowcast(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    with running(monkeypatch, capsys, "stream") as run:
        yield run


@pytest.mark.parametrize("words", [[], ["stats"]], ids=["group", "stats"])
def test_help(rowcast: Run, words: list[str]) -> None:
    code, out, err = rowcast(*words, "--help")
    assert (code, err) == (0, "")
    assert "Usage" in out


def test_stats_of_a_file_to_its_end(rowcast: Run, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", 101)
    with path.open("a") as file:
        file.write("1,2\n3,4\n")
    sizes = [len(line) + 96 for line in path.read_text().splitlines()[1:-2]]
    code, out, err = rowcast("stats", f"{path}?time=t_s", "--seconds", 0)
    assert code == 0
    assert "dropped, and from now on only counted: not a row: row 102" in err
    assert out.splitlines() == [
        f"source              {path}?time=t_s",
        "samples             101, then its end",
        "seconds             10 by the times of the samples",
        "rate                mean 10, lowest 10, highest 10 samples/s in windows of 1 s",
        "largest gap         0.1 s",
        f"bytes a sample      mean {sum(sizes) / 101:.6g}, most {max(sizes)}, in memory",
        "lag                 0 samples",
        "position of a.csv   101",
        "dropped: not a row  2",
    ]


def test_stats_as_json(rowcast: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    write_mcap(path, count=60)
    path.write_bytes(path.read_bytes()[:-400])
    code, out, err = rowcast("stats", path, "--json")
    figures = json.loads(out)
    assert code == 0 and "read as far as it goes" in err and figures["trouble"] in err
    assert figures["positions"] == {"/camera": 30, "/lidar": 30} and figures["ended"] is True
    assert (figures["samples"], figures["lag"], figures["dropped"]) == (60, 0, {})


def test_stats_of_what_has_no_end(rowcast: Run, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    code, out, err = rowcast("stats", f"dir://{tmp_path}?settle=0", "--seconds", 0.05, "--json")
    figures = json.loads(out)
    assert (code, err) == (0, "")
    assert (figures["samples"], figures["ended"], figures["times"], figures["rate_mean"]) == (1, False, "arrival", None)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.csv"], "none.csv: cannot be read: No such file or directory"),
        (["none"], "none: no such file or folder"),
        (["dri://x"], "unknown scheme 'dri'; did you mean 'dir'?"),
        (["none.csv", "--seconds", "inf"], "--seconds: expected a finite time"),
    ],
    ids=["file", "folder", "scheme", "seconds"],
)
def test_mistakes(rowcast: Run, words: list[str], message: str) -> None:
    code, out, err = rowcast("stats", *words)
    assert (code, out) == (ExitCode.USAGE, "")
    assert message in err and len(err.splitlines()) == 1


def test_figures_by_hand() -> None:
    stats = StreamStats()
    assert stats.figures()["samples"] == 0 and stats.figures()["rate_mean"] is None
    times = [5.0, 5.2, 5.4, 7.1, 7.0, 8.5]
    stats.add(100.0, [Sample("a", k + 1, time_s, b"", 10 * k) for k, time_s in enumerate(times)])
    figures = stats.figures()
    assert figures["rate_mean"] == pytest.approx(5 / 3.5)
    assert (figures["rate_lowest"], figures["rate_highest"]) == (0.0, 3.0)  # windows 5..6, 6..7, 7..8
    assert figures["largest_gap_s"] == pytest.approx(1.7) and figures["times_back"] == 1
    assert (figures["bytes_mean"], figures["bytes_most"], figures["positions"]) == (25.0, 50, {"a": 6})


def test_samples_without_times_are_counted_as_they_come() -> None:
    stats = StreamStats()
    for second in range(4):
        stats.add(100.0 + second, [Sample("a", 10 * second + k + 1, 0.0, b"", 1) for k in range(10 if second else 5)])
    figures = stats.figures()
    assert (figures["times"], figures["seconds"], figures["times_back"]) == ("arrival", 3.0, 0)
    assert (figures["rate_lowest"], figures["rate_highest"]) == (5.0, 10.0)
