"""Sources by text: what stands for which, plug-ins, and one line for what stands for none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recordings import write_bag, write_csv, write_mcap
from registries import forget_afterwards
from rowcast.errors import ConfigError
from rowcast.sources import (
    CsvSource,
    DirectorySource,
    KafkaSource,
    McapSource,
    MqttSource,
    ReplaySource,
    RosbagSource,
    SourceText,
    make_source,
    register,
)
from rowcast.streams import Positions, Source


def test_what_stands_for_which(tmp_path: Path) -> None:
    from rosbags.rosbag2 import StoragePlugin

    csv, mcap = write_csv(tmp_path / "a.csv", 3), tmp_path / "a.mcap"
    write_mcap(mcap)
    write_bag(tmp_path / "sqlite", StoragePlugin.SQLITE3)
    write_bag(tmp_path / "mcap", StoragePlugin.MCAP)
    base = next((tmp_path / "sqlite").glob("*.db3"))
    kinds = {
        str(csv): CsvSource,
        f"{tmp_path}/later.csv.gz": CsvSource,
        str(mcap): McapSource,
        str(base): RosbagSource,
        str(tmp_path / "sqlite"): RosbagSource,
        str(tmp_path / "mcap"): McapSource,
        f"{mcap}?rate=5": ReplaySource,
        f"replay://{mcap}": ReplaySource,
        f"dir://{tmp_path}": DirectorySource,
    }
    for text, kind in kinds.items():
        source = make_source(text)
        assert type(source) is kind and isinstance(source, Source), text


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a?rate=b%20.csv", 3)
    source = make_source(path, time="t_s")
    assert source.open() == Positions({path.name: 0})
    assert len(source.take(9, 0.0)) == 3
    source.close()


def test_an_unknown_scheme_or_ending(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown scheme 'repaly'; did you mean 'replay'"):
        make_source("repaly://x?sasl.password=hush")
    (tmp_path / "a.mcab").write_text("")
    with pytest.raises(ConfigError, match=r"not a kind of file that can be read; did you mean '\.mcap'"):
        make_source(tmp_path / "a.mcab")


def test_a_kind_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_afterwards(monkeypatch)
    path = write_csv(tmp_path / "a.csv", 3)
    asked: list[SourceText] = []

    def kind(text: SourceText) -> Source:
        asked.append(text)
        return CsvSource(path)

    register("lidar", kind)
    assert isinstance(make_source("LIDAR://robot:5/a?x=1", look=True, y=2), CsvSource)
    assert (asked[0].host, asked[0].port, asked[0].path, asked[0].look) == ("robot", 5, "a", True)
    assert dict(asked[0].options) == {"x": ("1",), "y": ("2",)}
    with pytest.raises(ConfigError, match="this name is taken"):
        register("lidar", kind)
    with pytest.raises(ConfigError, match="expected a function or class method"):
        register("other", 3)  # type: ignore[arg-type]


WITHOUT = """
import sys
for name in ("mcap", "rosbags", "confluent_kafka", "paho", "torch"):
    sys.modules[name] = None  # as if it were not installed
from rowcast.sources import make_source
make_source(sys.argv[1]).open()
for text in sys.argv[2:]:
    try:
        make_source(text).open()
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""


@pytest.mark.system
def test_libraries_are_needed_only_where_they_are(tmp_path: Path) -> None:
    csv = write_csv(tmp_path / "a.csv", 3)
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT, csv, tmp_path / "a.mcap", tmp_path / "a.db3"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = ran.stdout.splitlines()
    assert len(lines) == 2
    for line, what in zip(lines, ("an MCAP file", "a rosbag2"), strict=True):
        assert line.startswith(f"ConfigError: a source of {what} needs a library (")
        assert line.endswith("install it: pip install 'rowcast[mcap]'")


def test_topics_of_brokers() -> None:
    pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")
    assert type(make_source("kafka://localhost:1/camera?group=a")) is KafkaSource
    assert type(make_source("mqtt://localhost:1/robots/+/camera")) is MqttSource
    assert type(make_source("mqtt://localhost:1/camera", look=True)) is MqttSource
    with pytest.raises(ConfigError, match=r"only looking leaves a session behind; set option\.version=5"):
        make_source("mqtt://localhost:1/camera?option.version=3.1.1", look=True)
