"""Settings and the journal: what is read, what is refused, and what a crash leaves."""

from __future__ import annotations

import dataclasses
import gc
import io
import json
import math
from pathlib import Path

import pytest

from rowcast.config import (
    LinkSettings,
    ServerSettings,
    WorkerSettings,
    as_number,
    describe,
    load,
    load_tables,
    read_secret,
)
from rowcast.errors import ConfigError, LocalProtocolError
from rowcast.journal import EVENTS, FileSink, Journal, open_journal, read_journal, write_to

KINDS = (LinkSettings, ServerSettings, WorkerSettings)
NUMBERS = [
    (kind, field) for kind in KINDS for field in dataclasses.fields(kind) if field.metadata.get("low") is not None
]


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "number"),
    [("12", 12.0), (" -1.5e3 ", -1500.0), (".5", 0.5), ("5.", 5.0), ("INF", math.inf), ("+2", 2.0)]
    + [(text, None) for text in ("", "1_000", "1,5", "\u0661\u0662", "\uff11", "0x10", "1e", ".", "1 2", "--1")],
)
def test_a_number_is_written_in_one_way(text: str, number: float | None) -> None:
    assert as_number(text) == number


# -- ranges --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "field"), NUMBERS, ids=lambda value: getattr(value, "name", None))
def test_both_ends_of_a_range_are_allowed_and_nothing_beyond(kind: type, field: dataclasses.Field[object]) -> None:
    low, high = field.metadata["low"], field.metadata["high"]
    optional = field.default is None
    assert optional or low <= field.default <= high
    for value in (low, high):
        assert getattr(kind(**{field.name: value}), field.name) == value
    for value in (
        low * 0.999 - 1e-9,
        high * 1.001,
        -math.inf,
        math.inf,
        math.nan,
        True,
        "5",
        [1],
        *([] if optional else [None]),
    ):
        with pytest.raises(ConfigError, match=f"{field.name}: expected a (whole )?number in .* got"):
            kind(**{field.name: value})


def test_a_refusal_names_range_unit_and_value() -> None:
    with pytest.raises(ConfigError, match=r"^absence_limit_s: expected a number in 0\.1 \.\. 86400\.0 s, got -5$"):
        ServerSettings(absence_limit_s=-5)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LinkSettings().frame_s = 0.5  # type: ignore[misc]


# -- files and overrides -------------------------------------------------------------------------------------


def test_a_file_and_overrides_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.toml", 'frame_s = 0.5\nwindow_s = 1\ncongestion_control = "bbr"\n')
    assert load(LinkSettings) == LinkSettings()
    assert load(LinkSettings, path) == LinkSettings(frame_s=0.5, window_s=1.0, congestion_control="bbr")
    got = load(LinkSettings, path, overrides=["frame_s=0.25", " frame_min_bytes = 2048 ", "congestion_control=reno"])
    assert got == LinkSettings(frame_s=0.25, window_s=1.0, frame_min_bytes=2048, congestion_control="reno")
    assert type(got.window_s) is float and type(got.frame_min_bytes) is int
    assert load(LinkSettings, overrides=['congestion_control="cubic"']).congestion_control == "cubic"


def test_tables_of_one_file_go_to_their_classes(tmp_path: Path) -> None:
    path = written(tmp_path / "team.toml", "[server]\nexpected_workers = 4\n[link]\nframe_s = 0.02\n[worker]\n")
    kinds = {"server": ServerSettings, "link": LinkSettings}
    got = load_tables(kinds, path, overrides=["window_s=0.5", "expected_workers=5"])
    assert got == {"server": ServerSettings(expected_workers=5), "link": LinkSettings(frame_s=0.02, window_s=0.5)}
    assert load(ServerSettings, path, table="server").expected_workers == 4
    assert load(WorkerSettings, path, table="nothing") == WorkerSettings()
    assert load_tables(kinds) == {"server": ServerSettings(), "link": LinkSettings()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frame_sec = 1", "LinkSettings: unknown setting 'frame_sec'; did you mean 'frame_s'"),
        ("frame_s = 'x'", "LinkSettings.frame_s: expected a number in 0.001 .. 10.0 s, got 'x'"),
        ("frame_s = true", "LinkSettings.frame_s: expected a number in 0.001 .. 10.0 s, got True"),
        (
            "frame_min_bytes = 1024.0",
            "LinkSettings.frame_min_bytes: expected a whole number in 64 .. 1048576 byte, got 1024.0",
        ),
        ("congestion_control = 5", "LinkSettings.congestion_control: expected a text, got 5"),
        ("frame_s = 70", "frame_s: expected a number in 0.001 .. 10.0 s, got 70.0"),
        ("frame_s = [", "not TOML"),
        ("frame_s = 0.5\nframe_s = 0.5", "not TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(LinkSettings, written(tmp_path / "a.toml", text))
    assert message in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load(LinkSettings, path)
    (tmp_path / "latin.toml").write_bytes(b"frame_s = '\xe4'")
    with pytest.raises(ConfigError, match="not TOML"):
        load(LinkSettings, tmp_path / "latin.toml")
    with pytest.raises(ConfigError, match="must be a table"):
        load(LinkSettings, written(tmp_path / "a.toml", "link = 5"), table="link")
    with pytest.raises(ConfigError, match=r"unknown table \[linc\]; did you mean 'link'"):
        load_tables({"link": LinkSettings}, written(tmp_path / "a.toml", "[linc]"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("frame_s", "setting 'frame_s': expected key=value"),
        ("frame=1", "unknown setting 'frame'; did you mean 'frame_s'"),
        ("frame_s=", "frame_s: expected a number in 0.001 .. 10.0 s, got ''"),
        ("frame_s=fast", "frame_s: expected a number in 0.001 .. 10.0 s, got 'fast'"),
        ("frame_min_bytes=64.5", "frame_min_bytes: expected a whole number in 64 .. 1048576 byte, got 64.5"),
        ("congestion_control=5", "congestion_control: expected a text, got 5"),
    ],
)
def test_an_override_that_cannot_be_used_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(LinkSettings, overrides=[override])
    assert message in str(caught.value)


def test_an_override_of_no_known_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown setting 'absence_limit'; did you mean 'absence_limit_s'"):
        load_tables({"server": ServerSettings, "link": LinkSettings}, overrides=["absence_limit=5"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_is_described(kind: type) -> None:
    rows = describe(kind)
    assert [row["name"] for row in rows] == [field.name for field in dataclasses.fields(kind)]
    for row, field in zip(rows, dataclasses.fields(kind), strict=True):
        assert row["doc"].endswith(".") and row["default"]
        assert bool(row["range"]) == (field.metadata["low"] is not None)
    by_name = {row["name"]: row for row in describe(LinkSettings)}
    assert by_name["frame_s"] | {"doc": ""} == {
        "name": "frame_s",
        "default": "0.01",
        "unit": "s",
        "range": "0.001 .. 10",
        "flag": "",
        "doc": "",
    }
    assert by_name["congestion_control"]["default"] == "none"


def test_a_secret_is_the_content_of_a_file_of_some_length(tmp_path: Path) -> None:
    path = tmp_path / "team.secret"
    path.write_bytes(b"\n 0123456789 abcdef \r\n")
    assert read_secret(path) == b"0123456789 abcdef"
    path.write_bytes(b" " * 50 + b"0123456789abcde")
    with pytest.raises(ConfigError, match="expected at least 16 bytes, got 15; make one with"):
        read_secret(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_secret(tmp_path / "missing")


# -- the journal ---------------------------------------------------------------------------------------------


def test_a_record_has_time_node_and_event() -> None:
    journal = Journal("robot1")
    journal.record(1.23456789, "metric", iteration=3, name="loss", value=0.5)
    assert journal.records == [
        {"t": 1.234568, "node": "robot1", "event": "metric", "iteration": 3, "name": "loss", "value": 0.5}
    ]


def test_the_schema_refuses_what_it_does_not_know() -> None:
    journal = Journal("robot1")
    with pytest.raises(LocalProtocolError, match="unknown event 'metrics'"):
        journal.record(0.0, "metrics")
    with pytest.raises(LocalProtocolError, match=r"event 'end' has no field \['a', 'why'\]"):
        journal.record(0.0, "end", why="x", cause="y", a=1)
    assert journal.records == []
    for event, fields in EVENTS.items():
        journal.record(0.0, event, **dict.fromkeys(fields, None))
        assert not fields.keys() & {"t", "node", "event"}
    assert len(journal.records) == len(EVENTS)


def test_a_file_holds_each_record_as_soon_as_it_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "journal.jsonl"
    with open_journal("robot1", path) as journal:
        assert journal.records == []
        for t in range(3):
            journal.record(t, "end", cause="ü\n\u2028")
            assert [record["t"] for record in read_journal(path)] == list(range(t + 1))
    assert path.read_bytes().isascii()
    assert [record["cause"] for record in read_journal(path)] == ["ü\n\u2028"] * 3
    with open_journal("robot1", None) as journal:
        journal.record(0.0, "end", cause="kept nowhere")
    assert journal.records == []


def test_a_file_sink_writes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal("robot1", FileSink(path))
    journal.record(0.0, "end", cause="x")
    assert path.read_text() == '{"t":0.0,"node":"robot1","event":"end","cause":"x"}\n'
    del journal
    gc.collect()  # the sink is never closed; the file goes with the journal
    written(tmp_path / "file", "")
    with pytest.raises(ConfigError, match="cannot be written"):
        FileSink(tmp_path / "file" / "journal.jsonl")
    with pytest.raises(ConfigError, match="cannot be written"), open_journal("robot1", tmp_path):
        pass


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_became_nan_is_written_as_null(value: float) -> None:
    stream = io.StringIO()
    Journal("robot1", write_to(stream)).record(0.0, "metric", iteration=1, name="loss", value=value)
    assert json.loads(stream.getvalue()) == {
        "t": 0.0,
        "node": "robot1",
        "event": "metric",
        "iteration": 1,
        "name": "loss",
        "value": None,
    }


LINE = '{"t":0.0,"node":"robot1","event":"end","cause":"x"}\n'


def test_a_crash_at_any_byte_leaves_the_records_before_it(tmp_path: Path) -> None:
    text = LINE + LINE.replace("0.0", "1.0")
    for cut in range(len(text) + 1):
        path = written(tmp_path / "journal.jsonl", text[:cut])
        whole = [end for end in (len(LINE) - 1, len(text) - 1) if end <= cut]
        assert len(list(read_journal(path))) == len(whole)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LINE + '"t":1.0,"no\n' + LINE, "journal.jsonl, line 2: not JSON"),
        (LINE + "5\n", "journal.jsonl, line 2: expected t, node and event"),
        (LINE + LINE + '{"t":1}\n', "journal.jsonl, line 3: expected t, node and event"),
        ("[]\n" + LINE, "journal.jsonl, line 1: expected t, node and event"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        list(read_journal(written(tmp_path / "journal.jsonl", text)))
    assert message in str(caught.value)


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        list(read_journal(tmp_path / "missing.jsonl"))
    (tmp_path / "binary.jsonl").write_bytes(b"\x80\x81\n")
    with pytest.raises(ConfigError, match="not a journal"):
        list(read_journal(tmp_path / "binary.jsonl"))
    assert list(read_journal(written(tmp_path / "empty.jsonl", "\n\n"))) == []
