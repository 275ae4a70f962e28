"""MCAP files and rosbag2 folders as sources: whole, from the middle, cut by a power loss, damaged."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.writer import CompressionType
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from recordings import Opened, rest, write_bag, write_mcap
from rowcast.errors import ConfigError, DataError, RowcastError, StreamGap
from rowcast.sources import McapSource, RosbagSource, make_source
from rowcast.streams import Positions, Sample
from rowcast.testing import check_source

FORMS = [
    (CompressionType.NONE, True),
    (CompressionType.LZ4, True),
    (CompressionType.ZSTD, True),
    (CompressionType.NONE, False),
]


def content(samples: list[Sample]) -> list[tuple[str, float, bytes]]:
    return [(sample.partition, sample.time_s, sample.payload) for sample in samples]


@pytest.mark.parametrize(("compression", "chunks"), FORMS)
def test_suite(tmp_path: Path, compression: CompressionType, chunks: bool) -> None:
    path = tmp_path / "a.mcap"
    write_mcap(path, count=200, compression=compression, use_chunking=chunks)
    check_source(lambda: McapSource(path))
    check_source(lambda: McapSource(path, ["/lidar"]))


def test_messages_are_those_that_were_written(tmp_path: Path, opened: Opened) -> None:
    path = tmp_path / "a.mcap"
    messages = write_mcap(path, count=60)
    source = opened(make_source(path))
    assert source.lag() == 60 and source.trouble == ""
    samples = rest(source)
    assert content(samples) == messages
    assert [sample.position for sample in samples if sample.partition == "/lidar"] == list(range(1, 31))
    assert not source.dropped
    source = opened(make_source(path, topic="/lidar"))
    assert content(rest(source)) == [each for each in messages if each[0] == "/lidar"]


def test_topics_at_different_places(tmp_path: Path, opened: Opened) -> None:
    path = tmp_path / "a.mcap"
    messages = write_mcap(path, count=60)
    source = opened(McapSource(path), Positions({"/camera": 25, "/lidar": 3}))
    assert source.lag() == 32
    camera = [each for each in messages if each[0] == "/camera"][25:]
    lidar = [each for each in messages if each[0] == "/lidar"][3:]
    found = content(rest(source))
    assert [each for each in found if each[0] == "/camera"] == camera
    assert [each for each in found if each[0] == "/lidar"] == lidar


def test_several_files_are_one_recording(tmp_path: Path, opened: Opened) -> None:
    first = write_mcap(tmp_path / "drive_2.mcap", count=30)
    second = write_mcap(tmp_path / "drive_10.mcap", count=30)
    samples = rest(opened(make_source(tmp_path)))
    assert content(samples) == first + second
    assert max(sample.position for sample in samples) == 30
    again = rest(opened(make_source(tmp_path), Positions().behind(samples[:41])))
    assert again == samples[41:]


def test_only_what_is_needed_is_unpacked(tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    from rowcast.bags.mcap_index import McapFile

    path = tmp_path / "a.mcap"
    write_mcap(path, count=600)
    unpacked = []
    whole = McapFile._decompressed
    monkeypatch.setattr(McapFile, "_decompressed", lambda self, *words: unpacked.append(0) or whole(self, *words))
    source = opened(McapSource(path), Positions({"/camera": 290, "/lidar": 290}))
    assert unpacked == []
    assert len(rest(source)) == 20 and len(unpacked) <= 2
    assert len(opened(McapSource(path)).take(1, 0.0)) == 1 and len(unpacked) <= 3


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("a.mcap?topic=/camra", ConfigError, "no topic '/camra'; did you mean '/camera'"),
        ("a.mcap?topics=/camera", ConfigError, "unknown option 'topics'; did you mean 'topic'"),
        ("b.mcap", DataError, "not an MCAP file"),
        ("none.mcap", DataError, "cannot be read: No such file"),
        ("none.db3", DataError, "no rosbag2 that can be read"),
        ("b.db3", DataError, "no rosbag2 that can be read"),
    ],
)
def test_one_line_for_each_mistake(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    write_mcap(tmp_path / "a.mcap")
    (tmp_path / "b.mcap").write_bytes(b"something else")
    (tmp_path / "b.db3").write_bytes(b"something else" * 100)
    with pytest.raises(error, match=message):
        make_source(f"{tmp_path}/{text}").open()


def test_positions_of_another_recording_are_refused(tmp_path: Path) -> None:
    write_mcap(tmp_path / "a.mcap")
    with pytest.raises(StreamGap, match="behind message 31, and there are 30"):
        McapSource(tmp_path / "a.mcap").open(Positions({"/camera": 31}))
    write_bag(tmp_path / "bag", StoragePlugin.SQLITE3)
    with pytest.raises(StreamGap, match="behind message 31, and there are 30"):
        RosbagSource(tmp_path / "bag").open(Positions({"/a": 31}))


def test_too_many_topics_are_refused_at_once(tmp_path: Path, opened: Opened) -> None:
    path = tmp_path / "a.mcap"
    write_mcap(path, topics=[f"/t{k}" for k in range(257)], count=257)
    with pytest.raises(ConfigError, match="257 topics, and at most 256 can be read; choose: topic=NAME"):
        McapSource(path).open()
    assert len(rest(opened(McapSource(path, ["/t5"])))) == 1


# -- cut and damaged ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("compression", "chunks"), FORMS)
def test_cut_at_every_byte_a_prefix_comes_out(
    tmp_path: Path, opened: Opened, caplog: pytest.LogCaptureFixture, compression: CompressionType, chunks: bool
) -> None:
    caplog.set_level(logging.CRITICAL, "rowcast")
    path = tmp_path / "a.mcap"
    messages = write_mcap(path, count=10, chunk_bytes=250, compression=compression, use_chunking=chunks)
    length, most = path.stat().st_size, len(messages)
    for size in range(length - 1, -1, -1):
        os.truncate(path, size)
        source = McapSource(path)
        if size < 8:
            with pytest.raises(DataError, match="not an MCAP file"):
                source.open()
            continue
        opened(source)
        assert bool(source.trouble) == (size < length - 8), f"cut at {size}: {source.trouble!r}"
        found = content(rest(source))
        source.close()
        assert found == messages[: len(found)], f"cut at {size}"
        assert most - 6 <= len(found) <= most, f"cut at {size}: {len(found)} messages, with a byte more {most}"
        most = len(found)
    assert most == 0


def test_a_cut_file_says_how_far_it_goes(tmp_path: Path, opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.mcap"
    messages = write_mcap(path, count=400, compression=CompressionType.NONE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with caplog.at_level(logging.WARNING, "rowcast"):
        source = opened(McapSource(path))
    size = path.stat().st_size
    count = source.lag()
    assert 100 < count < 400 and content(rest(source)) == messages[:count]
    assert f"of {size}: read as far as it goes, {count} messages" in source.trouble
    assert any(source.trouble in record.getMessage() for record in caplog.records)
    assert set(source.dropped) <= {"cut off"}


def test_space_that_a_power_loss_left_empty_ends_a_file(tmp_path: Path, opened: Opened) -> None:
    path = tmp_path / "a.mcap"
    messages = write_mcap(path, count=400)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) // 2))
    source = opened(McapSource(path))
    found = content(rest(source))
    assert source.trouble and 100 < len(found) < 400 and found == messages[: len(found)]


def chunk_places(data: bytes) -> list[tuple[int, int]]:
    """First and last byte of what each chunk holds."""
    places, offset = [], 8
    while offset < len(data) - 8:
        kind, length = struct.unpack_from("<BQ", data, offset)
        if kind == 6:
            places.append((offset + 9 + 60, offset + 9 + length))
        offset += 9 + length
    return places


def test_a_damaged_chunk_is_dropped_and_counted(tmp_path: Path, opened: Opened) -> None:
    path = tmp_path / "a.mcap"
    messages = write_mcap(path, count=200)
    data = bytearray(path.read_bytes())
    begin, end = chunk_places(bytes(data))[1]
    data[(begin + end) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    source = opened(McapSource(path))
    assert source.lag() == 200
    samples = rest(source)
    lost = source.dropped["damaged"]
    assert lost > 0 and len(samples) == 200 - lost and source.lag() == 0
    for sample in samples:  # positions are those of the whole recording
        of_topic = [each for each in messages if each[0] == sample.partition]
        assert of_topic[sample.position - 1] == (sample.partition, sample.time_s, sample.payload)


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_anywhere_is_ours_or_nothing_false(tmp_path: Path, data: st.DataObject) -> None:
    compression, chunks = data.draw(st.sampled_from(FORMS))
    path = tmp_path / "a.mcap"
    messages = write_mcap(path, count=24, chunk_bytes=250, compression=compression, use_chunking=chunks)
    changed = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(changed))
    source = McapSource(path)
    try:
        source.open()
        found = rest(source)
        assert len(found) <= len(messages) + 24
    except RowcastError as error:
        assert str(error)
    finally:
        source.close()


@given(junk=st.binary(max_size=400))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_anything_behind_the_magic_is_read_or_refused(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "a.mcap"
    path.write_bytes(b"\x89MCAP0\r\n" + junk)
    source = McapSource(path)
    try:
        source.open()
        rest(source)
    except RowcastError as error:
        assert str(error)
    finally:
        source.close()


# -- rosbag2 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", list(StoragePlugin), ids=lambda storage: storage.name)
def test_suite_of_a_rosbag2(tmp_path: Path, storage: StoragePlugin) -> None:
    contents = write_bag(tmp_path / "bag", storage)
    check_source(lambda: make_source(tmp_path / "bag"))
    source = make_source(tmp_path / "bag", topic="/b")
    source.open()
    samples = rest(source)
    source.close()
    assert [sample.payload for sample in samples] == contents[1::2]
    assert samples[0].time_s == pytest.approx(1.001)


@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE], ids=lambda mode: mode.name)
@pytest.mark.parametrize("storage", list(StoragePlugin), ids=lambda storage: storage.name)
def test_a_packed_rosbag2_gives_what_was_sent(
    tmp_path: Path, opened: Opened, storage: StoragePlugin, mode: CompressionMode
) -> None:
    contents = write_bag(tmp_path / "bag", storage, packed=mode)
    samples = rest(opened(make_source(tmp_path / "bag")))
    assert [sample.payload for sample in samples] == contents


def test_a_rosbag2_without_its_metadata(tmp_path: Path, opened: Opened) -> None:
    contents = write_bag(tmp_path / "bag", StoragePlugin.SQLITE3)
    (tmp_path / "bag" / "metadata.yaml").unlink()
    assert [sample.payload for sample in rest(opened(make_source(tmp_path / "bag")))] == contents
    file = next((tmp_path / "bag").glob("*.db3"))
    assert [sample.payload for sample in rest(opened(make_source(file)))] == contents


def test_a_damaged_data_base_is_refused(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", StoragePlugin.SQLITE3, count=2000)
    file = next((tmp_path / "bag").glob("*.db3"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DataError, match=r"no rosbag2 that can be read: .*malformed"):
        make_source(tmp_path / "bag").open()


def test_what_is_only_in_a_journal_is_not_passed_over(tmp_path: Path, opened: Opened) -> None:
    write_bag(tmp_path / "bag", StoragePlugin.SQLITE3)
    file = next((tmp_path / "bag").glob("*.db3"))
    copy = tmp_path / "copy" / file.name
    copy.parent.mkdir()
    base = sqlite3.connect(file)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("INSERT INTO messages (topic_id, timestamp, data) VALUES (1, 9000000000, x'00')")
    base.commit()
    shutil.copy(file, copy)  # as a process that was killed leaves both
    shutil.copy(f"{file}-wal", f"{copy}-wal")
    base.close()
    for path in (copy, copy.parent):
        with pytest.raises(DataError, match=r"its last writes are still in bag\.db3-wal; open it once with SQLite"):
            make_source(path).open()
    base = sqlite3.connect(copy)
    base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    base.close()
    assert len(rest(opened(make_source(copy)))) == 61


def test_damage_that_is_met_only_later_is_said(tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    from rosbags.rosbag2 import Reader

    write_bag(tmp_path / "bag", StoragePlugin.SQLITE3)

    whole = Reader.messages

    def messages(self: Reader, connections: Any) -> Iterator[Any]:
        yield from itertools.islice(whole(self, connections), 3)
        raise RuntimeError("disk I/O error")

    monkeypatch.setattr(Reader, "messages", messages)
    source = opened(RosbagSource(tmp_path / "bag"))
    assert len(source.take(10, 0.0)) == 3
    for _ in range(2):
        with pytest.raises(DataError, match="cannot be read on: disk I/O error"):
            source.take(1, 0.0)


def test_a_folder_that_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(DataError, match=r"no recording: expected metadata.yaml, .* a file: dir://"):
        make_source(tmp_path)
    bag = tmp_path / "bag"
    write_bag(bag, StoragePlugin.SQLITE3)
    for file in bag.glob("*.db3"):
        file.unlink()
    with pytest.raises(DataError, match="no rosbag2 that can be read"):
        make_source(bag).open()
    shutil.rmtree(bag)
    with pytest.raises(DataError, match="no such file or folder"):
        make_source(bag)
