"""Traces from topics of recordings: MCAP and rosbag2, JSON and ROS, and what is said about one that is none."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.writer import CompressionType, Writer
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as BagWriter
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from rowcast.cli import main
from rowcast.errors import ConfigError, TraceError
from rowcast.experiment.emulation import _check_length
from rowcast.links import load_trace, named_trace
from rowcast.links.topics import TopicAddress

#: Times (s) since 1970 and rates (Mbit/s) of the recordings here.
STEPS = [(1_700_000_000.0, 20.0), (1_700_000_000.5, 7.5), (1_700_000_002.0, 0.0), (1_700_000_002.5, 31.25)]
LINK_TYPE = "lab_msgs/msg/Link"
LINK_MSG = "float64 rate\nstring name\nfloat32[] samples\n"


def written(path: Path, messages: list[tuple[float, Any]], topic: str = "/bandwidth", **settings: Any) -> Path:
    """An MCAP file with messages in JSON, and one of another topic before each."""
    with path.open("wb") as file:
        writer = Writer(file, chunk_size=64, **settings)
        writer.start()
        schema = writer.register_schema("any", "jsonschema", b'{"type": "object"}')
        other = writer.register_channel("/other", "json", schema)
        channel = writer.register_channel(topic, "json", schema)
        for t, message in messages:
            time_ns = round(t * 1e9)
            writer.add_message(other, time_ns, b'{"data": -1}', time_ns)
            writer.add_message(channel, time_ns, json.dumps(message).encode(), time_ns)
        writer.finish()
    return path


def bagged(path: Path, storage: StoragePlugin) -> Path:
    """A rosbag2 with topics of a type of ROS, and of one of the lab's own."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg(LINK_MSG, LINK_TYPE))
    with BagWriter(path, version=9, storage_plugin=storage) as writer:
        plain = writer.add_connection("/bandwidth", "std_msgs/msg/Float64", typestore=store)
        own = writer.add_connection("/link", LINK_TYPE, typestore=store)
        for t, mbps in STEPS:
            time_ns = round(t * 1e9)
            message = store.types["std_msgs/msg/Float64"](data=mbps)
            writer.write(plain, time_ns, store.serialize_cdr(message, "std_msgs/msg/Float64"))
            link = store.types[LINK_TYPE](rate=mbps * 125, name="wlan0", samples=np.array([1.0, mbps], np.float32))
            writer.write(own, time_ns, store.serialize_cdr(link, LINK_TYPE))
    return path


def check(trace: Any) -> None:
    np.testing.assert_allclose(trace.times_s, [0, 0.5, 2.0, 2.5])
    np.testing.assert_allclose(trace.rates_bps, [20e6, 7.5e6, 0, 31.25e6])
    assert trace.duration_s == 3.0 and trace.loop  # the last one lasts as long as the median one


@pytest.mark.parametrize("compression", [CompressionType.NONE, CompressionType.LZ4, CompressionType.ZSTD])
def test_a_topic_in_json(tmp_path: Path, compression: CompressionType) -> None:
    path = written(tmp_path / "a.mcap", [(t, {"data": mbps}) for t, mbps in STEPS], compression=compression)
    check(named_trace(f"{path}?topic=/bandwidth&field=data"))
    check(load_trace(f"{path}?topic=%2Fbandwidth&field=data&unit=Mbit/s"))
    assert not load_trace(f"{path}?topic=/bandwidth&field=data", loop=False).loop
    assert named_trace(f"{path}?topic=/bandwidth&field=data").name == "a.mcap:/bandwidth"


@pytest.mark.parametrize(
    ("unit", "factor"), [("bit/s", 1e6), ("kbit/s", 1e3), ("Gbit/s", 1e-3), ("B/s", 125e3), ("MB/s", 0.125)]
)
def test_units_and_fields_within_fields(tmp_path: Path, unit: str, factor: float) -> None:
    messages = [(t, {"links": [{"name": "lte"}, {"name": "wlan0", "rate": mbps * factor}]}) for t, mbps in STEPS]
    path = written(tmp_path / "a.mcap", messages, use_chunking=False)
    check(named_trace(f"{path}?topic=/bandwidth&field=links.1.rate&unit={unit}"))


@pytest.mark.parametrize("storage", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
@pytest.mark.parametrize("whole", ["folder", "file", "folder without metadata"])
def test_topics_of_a_rosbag2(tmp_path: Path, storage: StoragePlugin, whole: str) -> None:
    path = bagged(tmp_path / "bag", storage)
    if whole == "file":
        (path,) = (each for each in path.iterdir() if each.suffix in (".db3", ".mcap"))
    elif whole == "folder without metadata":
        (path / "metadata.yaml").unlink()
    check(named_trace(f"{path}?topic=/bandwidth&field=data"))
    check(named_trace(f"{path}?topic=/link&field=rate&unit=kB/s"))
    check(named_trace(f"{path}?topic=/link&field=samples.1"))


def test_one_message_is_a_second_of_it(tmp_path: Path) -> None:
    trace = named_trace(f"{written(tmp_path / 'a.mcap', [(5.0, {'data': 3})])}?topic=/bandwidth&field=data")
    assert (trace.times_s.tolist(), trace.rates_bps.tolist(), trace.duration_s) == ([0.0], [3e6], 1.0)


GOOD = [(1.0, {"data": 1.0, "name": "wlan0", "up": True, "deep": {"rate": 5, "none": None}})]
BAD_MESSAGES = [
    ("no such topic", GOOD, "?topic=/bandwith&field=data", "no topic '/bandwith'; did you mean '/bandwidth'"),
    ("no such topic", GOOD, "?topic=/x&field=data", "no topic '/x'; known: /bandwidth, /other"),
    ("no such field", GOOD, "?topic=/bandwidth&field=date", "message 1 has no field 'date'; .* did you mean 'data'"),
    ("no such field", GOOD, "?topic=/bandwidth&field=deep.x", r"numbers in it: .*\(known: data, deep.rate\)"),
    ("null", GOOD, "?topic=/bandwidth&field=deep.none", "message 1 has no field 'deep.none'"),
    ("text", GOOD, "?topic=/bandwidth&field=name", "field 'name' is 'wlan0', not a number; expected Mbit/s"),
    ("truth", GOOD, "?topic=/bandwidth&field=up", "is True, not a number"),
    ("a message", GOOD, "?topic=/bandwidth&field=deep", "not a number"),
    ("too much", [(1.0, {"data": 1e12})], "?topic=/bandwidth&field=data", r"1e\+12 Mbit/s cannot be a rate"),
    ("below 0", [(1.0, {"data": -2})], "?topic=/bandwidth&field=data", r"-2 Mbit/s cannot be a rate; expected 0 \.\."),
    ("nan", [(1.0, {"data": float("nan")})], "?topic=/bandwidth&field=data", "nan Mbit/s cannot be a rate"),
    (
        "back",
        [(2.0, {"data": 1}), (3.0, {"data": 1}), (2.5, {"data": 1})],
        "?topic=/bandwidth&field=data",
        r"message 3 was logged at 2\.500000000 s, not after 3\.000000000 s",
    ),
    (
        "at once",
        [(2.0, {"data": 1}), (2.0, {"data": 1})],
        "?topic=/bandwidth&field=data",
        "message 2 was logged .* not after",
    ),
    ("no options", GOOD, "", r"expected topic=\.\.\. behind '\?', as in .*a\.mcap\?topic=/bandwidth&field=data"),
    ("no field", GOOD, "?topic=/bandwidth", r"expected field=\.\.\. behind"),
    ("no value", GOOD, "?topic=&field=data", r"expected topic=\.\.\. once, with a value"),
    ("twice", GOOD, "?topic=/a&topic=/b&field=data", r"expected topic=\.\.\. once"),
    ("unit", GOOD, "?topic=/bandwidth&field=data&unit=Mbits", "unknown unit 'Mbits'; did you mean 'Mbit/s'"),
    ("option", GOOD, "?topics=/bandwidth&field=data", "unknown option 'topics'; did you mean 'topic'"),
]


@pytest.mark.parametrize(("case", "messages", "tail", "reason"), BAD_MESSAGES)
def test_what_is_no_trace_is_one_line(
    tmp_path: Path, case: str, messages: list[tuple[float, Any]], tail: str, reason: str
) -> None:
    path = written(tmp_path / "a.mcap", messages)
    with pytest.raises(TraceError, match=reason) as refused:
        named_trace(f"{path}{tail}")
    assert "\n" not in str(refused.value)


def test_a_missing_field_of_ros(tmp_path: Path) -> None:
    path = bagged(tmp_path / "bag", StoragePlugin.SQLITE3)
    with pytest.raises(TraceError, match=r"no field 'rat'; numbers in it: did you mean 'rate'"):
        named_trace(f"{path}?topic=/link&field=rat")
    with pytest.raises(TraceError, match="is 'wlan0', not a number"):
        named_trace(f"{path}?topic=/link&field=name")


def test_messages_that_nobody_can_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        schema = writer.register_schema("x.Rate", "protobuf", b"")
        broken = writer.register_channel("/broken", "json", 0)
        ros = writer.register_channel("/ros", "cdr", writer.register_schema("a/msg/B", "ros2msg", b"float64 !"))
        for channel in (writer.register_channel("/proto", "protobuf", schema), broken, ros):
            writer.add_message(channel, 1, b"\x01", 1)
        writer.finish()
    for topic, reason in (
        ("/proto", "messages in 'protobuf' with a schema in 'protobuf' cannot be read; those in json"),
        ("/broken", "message 1 of topic /broken cannot be decoded"),
        ("/ros", "the definition of a/msg/B is none"),
    ):
        with pytest.raises(TraceError, match=reason) as refused:
            named_trace(f"{path}?topic={topic}&field=data")
        assert "\n" not in str(refused.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.mcap").write_text("time_s,mbps\n0,1\n")
    (tmp_path / "folder").mkdir()
    for name, reason in (
        ("missing.mcap", "cannot be read"),
        ("text.mcap", "not an MCAP file"),
        ("missing.db3", "no rosbag2 that can be read"),
        ("folder", "no topic '/a'; it has none"),
    ):
        with pytest.raises(TraceError, match=reason) as refused:
            named_trace(f"{tmp_path / name}?topic=/a&field=data")
        assert "\n" not in str(refused.value)
    with pytest.raises(ConfigError, match="unknown link"):
        named_trace("nowhere?topic=/a&field=data")


def test_a_file_that_was_cut_is_read_as_far_as_it_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path / "a.mcap", [(float(k), {"data": k}) for k in range(1, 100)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    trace = named_trace(f"{path}?topic=/bandwidth&field=data")
    assert 3 < len(trace.rates_bps) < 99
    np.testing.assert_allclose(trace.rates_bps, 1e6 * np.arange(1, len(trace.rates_bps) + 1))
    assert "it has no end: cut off" in caplog.text


def test_a_damaged_chunk_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mcap", [(1.0, {"data": 123456789})], compression=CompressionType.NONE)
    path.write_bytes(path.read_bytes().replace(b"123456789", b"123456780", 1))
    with pytest.raises(TraceError, match=r"is damaged: .*mcap recover"):
        named_trace(f"{path}?topic=/bandwidth&field=data")


def test_without_the_library_the_message_has_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.mcap", GOOD)
    monkeypatch.setitem(sys.modules, "mcap.stream_reader", None)
    with pytest.raises(ConfigError, match=r"a topic of an MCAP file needs .* pip install 'rowcast\[mcap\]'"):
        named_trace(f"{path}?topic=/bandwidth&field=data")


def test_where_links_are_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address stands wherever the path of a trace may."""
    path = written(tmp_path / "a.mcap", [(t, {"data": mbps}) for t, mbps in STEPS])
    with pytest.raises(SystemExit) as done:
        main(["trace", "stats", f"{path}?topic=/bandwidth&field=data"])
    assert done.value.code == 0 and "3 s, 4 steps, then again" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="expected a trace of 60 s or more, got 3 s"):
        _check_length(f"{path}?topic=/bandwidth&field=data", 60.0)
    monkeypatch.chdir(tmp_path)
    assert TopicAddress.parse("a.mcap?topic=/b&field=c") == TopicAddress(Path("a.mcap"), "/b", "c", "Mbit/s")
    assert TopicAddress.parse("outdoor") is None and TopicAddress.parse("link.csv") is None
