"""``rowcast trace``: what it prints and writes, and one clear line for each kind of bad input."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from commands import Run, running
from rowcast.cli import ExitCode
from rowcast.cli.trace import describe
from rowcast.errors import ConfigError
from rowcast.links import PROFILES, Trace, differences, fit, load_trace, outdoor, save_csv, synthesise
from rowcast.report.trace_figure import draw_trace

PAGE = Path(__file__).resolve().parents[1] / "docs" / "links.md"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def rowcast(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    with running(monkeypatch, capsys, "trace") as run:
        yield run


@pytest.mark.parametrize("words", [[], ["stats"], ["synth"], ["plot"]])
def test_help(rowcast: Run, words: list[str]) -> None:
    code, out, err = rowcast(*words, "--help")
    assert (code, err) == (0, "")
    assert "Usage" in out


def test_stats_of_a_profile(rowcast: Run) -> None:
    code, out, err = rowcast("stats", "outdoor", "--seed", 3, "--seconds", 120, "--low", 5)
    assert (code, err) == (0, "")
    assert out.splitlines() == describe(outdoor(3, 120.0), 5e6)
    assert out.startswith("trace           outdoor:3\nlength          120 s, 600 steps, then again\n")


def test_stats_by_hand() -> None:
    trace = Trace([0, 1, 3, 4, 9], [100e6, 2e6, 0, 75e6, 90e6], "hand", loop=False, duration_s=10)
    assert describe(trace) == [
        "trace           hand",
        "length          10 s, 5 steps, then nothing",
        "mean            56.9 Mbit/s",
        "percentiles     5 %: 0, 25 %: 2, 50 %: 75, 75 %: 75, 95 %: 100 Mbit/s",
        "best            100 Mbit/s",
        "change of 20 %  every 2.5 s",
        "change of 40 %  every 3.33 s",
        f"memory          autocorrelation falls to 1/e in {trace.stats().autocorrelation_s:.3g} s",
        "below 5 Mbit/s  30.0 % of the time",
        "nothing at all  10.0 % of the time",
        "low episodes    1; mean 3 s, median 3 s, longest 3 s",
    ]
    assert describe(Trace.constant(5e6))[1].endswith("without end")


def test_synth_of_a_profile_can_be_read_again(rowcast: Run, tmp_path: Path) -> None:
    file = tmp_path / "made.csv"
    code, out, err = rowcast("synth", "indoor", "--seconds", 30, "--seed", 2, "--out", file)
    assert (code, err) == (0, "")
    assert out.endswith(f"written to {file}\n")
    made = load_trace(file)
    wanted = synthesise(PROFILES["indoor"], 2, 30.0)
    np.testing.assert_allclose(made.rates_bps, wanted.rates_bps)
    assert made.duration_s == 30.0


def test_synth_like_a_file(rowcast: Run, tmp_path: Path) -> None:
    save_csv(outdoor(1, 120.0), tmp_path / "seen.csv")
    code, _, err = rowcast("synth", tmp_path / "seen.csv", "--seconds", 50, "--out", tmp_path / "made.csv")
    assert (code, err) == (0, "")
    wanted = synthesise(fit(load_trace(tmp_path / "seen.csv")), 0, 50.0)
    np.testing.assert_allclose(load_trace(tmp_path / "made.csv").rates_bps, wanted.rates_bps)


def test_synth_says_what_is_not_like_the_source(rowcast: Run, tmp_path: Path) -> None:
    save_csv(outdoor(1, 600.0), tmp_path / "seen.csv")
    code, out, err = rowcast("synth", tmp_path / "seen.csv", "--seconds", 5, "--out", tmp_path / "made.csv")
    assert (code, err) == (0, "")
    wanted = load_trace(tmp_path / "seen.csv")
    said = [line for line in out.splitlines() if line.startswith("not like the source: ")]
    made = synthesise(fit(wanted), 0, 5.0)
    assert said == [f"not like the source: {difference}" for difference in differences(wanted, made)] != []
    assert "another --seed may be nearer" in out
    code, out, _ = rowcast("synth", tmp_path / "seen.csv", "--seconds", 3600, "--out", tmp_path / "made.csv")
    assert code == 0 and "not like" not in out and "--seed" not in out


def test_synth_of_one_rate_for_ever(rowcast: Run, tmp_path: Path) -> None:
    assert rowcast("synth", "constant:5", "--seconds", 7, "--out", tmp_path / "made.csv")[0] == 0
    made = load_trace(tmp_path / "made.csv")
    assert (made.duration_s, made.rates_bps.tolist()) == (7.0, [5e6])


@pytest.mark.parametrize("source", ["outdoor", "constant:3"])
def test_plot(rowcast: Run, tmp_path: Path, source: str) -> None:
    file = tmp_path / "trace.png"
    code, out, err = rowcast("plot", source, "--seconds", 60, "--out", file, "--low", 20)
    assert (code, err) == (0, "")
    assert out == f"written to {file}\n"
    assert file.read_bytes().startswith(PNG)


def test_a_figure_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        draw_trace(outdoor(0, 10.0), tmp_path / "trace.odd")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["stats", "indor"], "did you mean 'indoor'"),
        (["stats", "outdoor", "--low", "nan"], "--low"),
        (["stats", "outdoor", "--low", "inf"], "--low: expected a finite rate"),
        (["stats", "none.csv"], "none.csv: cannot be read"),
        (["stats", "broken.csv"], "broken.csv, line 3: rate -2 Mbit/s is negative"),
        (["stats", "back.csv"], "back.csv, line 4: time 1 s does not come after 2 s"),
        (["stats", "empty.csv"], "empty.csv, line 1: the file is empty"),
        (["stats", "unit.csv"], "unit.csv, line 1: expected a header with the columns time_s (seconds) and mbps"),
        (["stats"], "Missing argument"),
        (["stats", "outdoor", "--seconds", "0"], "duration_s"),
        (["synth", "outdoor"], "--out"),
        (["synth", "outdoor", "--seconds", "nan", "--out", "made.csv"], "--seconds: expected a finite time above 0"),
        (["synth", "short.csv", "--out", "made.csv"], "cannot be fitted; expected an end, 20 steps"),
        (["synth", "outdoor", "--out", "missing/made.csv"], "cannot be written"),
        (["synth", "outdoor", "--seed", "-1", "--out", "made.csv"], "--seed"),
        (["plot", "outdoor", "--out", "made.odd"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    rowcast: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "broken": "time_s,mbps\n0,10\n1,-2\n",
        "back": "time_s,mbps\n0,10\n2,2\n1,3\n",
        "empty": "",
        "unit": "time_s,kbps\n0,10\n",
        "short": "time_s,mbps\n0,10\n1,2\n",
    }.items():
        Path(f"{name}.csv").write_text(text, encoding="utf-8")
    code, _, err = rowcast(*words)
    assert code == ExitCode.USAGE
    assert err.startswith("rowcast: ")
    assert says in err
    assert err.count("\n") == 1
    assert not Path("made.csv").exists()


def test_what_the_documentation_shows_is_what_the_command_prints(rowcast: Run) -> None:
    """Each block of ``docs/links.md`` that begins with ``$ .venv/bin/rowcast trace`` goes on with the output."""
    blocks = re.findall(
        r"^```text\n\$ \.venv/bin/rowcast trace (.*)\n((?:.*\n)*?)```$", PAGE.read_text("utf-8"), re.MULTILINE
    )
    assert len(blocks) >= 2
    for words, shown in blocks:
        assert rowcast(*words.split()) == (0, shown, "")


def test_the_list_of_profiles_in_the_documentation_is_complete() -> None:
    page = PAGE.read_text("utf-8")
    assert all(f"`{name}`" in page for name in PROFILES)
