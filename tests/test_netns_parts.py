"""What the process of the medium is made of: its specification, routes, histogram and packet log."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rowcast.drivers.netns.forward_spec import ForwardSettings, ForwardSpec, Port, Station, load_spec, save_spec
from rowcast.drivers.netns.lateness import Lateness
from rowcast.drivers.netns.medium import MediumLink
from rowcast.drivers.netns.packet_log import PacketLog
from rowcast.drivers.netns.routes import Routes
from rowcast.errors import ConfigError, TraceError
from rowcast.links import Trace, named_trace

MACS = [f"02:00:00:00:00:{place:02x}" for place in range(4)]


def spec_of(stations: int = 3, **how: object) -> ForwardSpec:
    up, down = MediumLink(named_trace("outdoor", (1, 2), 20.0), delay_s=0.1 + 0.2), MediumLink(Trace.constant(1e7 / 3))
    hosts = tuple(Station(Port(f"air{place}", MACS[place]), up, down) for place in range(1, stations + 1))
    return ForwardSpec(Port("air0", MACS[0]), hosts, ForwardSettings(**how))  # type: ignore[arg-type]


# -- specification ---------------------------------------------------------------------------------------------------


def test_a_specification_is_read_as_it_was_written(tmp_path: Path) -> None:
    spec = spec_of(channel="equal", seed=7, summary=tmp_path / "s.json", log_snap_bytes=64)
    save_spec(spec, tmp_path / "spec.json")
    again = load_spec(tmp_path / "spec.json")
    assert again == spec  # traces to the bit
    assert again.stations[0].down.trace.duration_s == math.inf
    assert sorted(again.links()) == list(range(6)) and again.links()[4] == spec.stations[2].up


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"medium": {"channel": "wifi"}}, r"unknown channel 'wifi'"),
        ({"medium": {"chanel": "equal"}}, r"unknown setting 'chanel'; did you mean 'channel'"),
        ({"medium": 3}, r"medium: expected a table, got int"),
        ({"stations": []}, r"expected one station or more, got none"),
        ({"stations": [3]}, r"station: expected a table, got int"),
        ({"access_point": {"interface": "air0", "mac": "02:00"}}, r"mac: expected six pairs .*, got '02:00'"),
        ({"access_point": {"interface": "air1", "mac": MACS[0]}}, r"interface: expected one for each host, got 'air1'"),
        ({"access_point": {"interface": "air0", "mac": MACS[1]}}, r"mac: expected one for each host, got '02:"),
        ({"more": 1}, r"expected medium, access_point, stations \(a list\), got access_point, medium, more"),
    ],
)
def test_a_specification_that_is_wrong_is_refused_in_a_line(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "spec.json"
    save_spec(spec_of(), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=message) as refused:
        load_spec(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": 2.0}, r"loss: expected 0 \.\. 1"),
        ({"los": 0.1}, r"unknown setting 'los'; did you mean 'loss'"),
        ({"trace": None}, r"trace: expected a table, got NoneType"),
        ({"trace": {"name": "x"}}, r"trace: expected name, loop, duration_s, times_s, rates_bps, got name"),
    ],
)
def test_a_link_that_is_wrong_is_refused_in_a_line(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "spec.json"
    save_spec(spec_of(), path)
    content = json.loads(path.read_text())
    content["stations"][1]["up"].update(change)
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        load_spec(path)


def test_a_damaged_trace_is_named(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    save_spec(spec_of(), path)
    content = json.loads(path.read_text())
    content["stations"][0]["down"]["trace"]["rates_bps"] = [-1.0]
    path.write_text(json.dumps(content))
    with pytest.raises(TraceError, match=r"rate -1 bit/s"):
        load_spec(path)


# -- routes ----------------------------------------------------------------------------------------------------------


def frame(target: str, source: str = MACS[0]) -> bytes:
    return bytes.fromhex((target + source).replace(":", "")) + b"\x08\x00" + bytes(46)


def test_frames_go_where_they_are_addressed() -> None:
    routes = Routes(spec_of())
    assert routes.route(0, frame(MACS[2])) == ((3, ()),)
    assert routes.route(2, frame(MACS[0])) == ((2, ()),)
    assert routes.route(1, frame(MACS[3])) == ((0, (5,)),)  # up, then down to the other one
    assert routes.route(1, frame(MACS[1])) == routes.route(0, frame("02:00:00:00:00:99")) == ()
    for group in ("ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "33:33:00:00:00:01"):
        assert routes.route(0, frame(group)) == ((1, ()), (3, ()), (5, ()))
        assert routes.route(2, frame(group)) == ((2, (1, 5)),)
        assert [routes.sink(link, frame(group)) for link in (2, 1, 5)] == [0, 1, 3]
    assert [routes.sink(link, frame(MACS[3])) for link in (0, 5)] == [None, 3]
    assert routes.sink(0, frame(MACS[0])) == 0
    assert routes.names(4) == {"station": "air3", "way": "up"}


# -- lateness --------------------------------------------------------------------------------------------------------


def test_quantiles_are_those_of_the_times() -> None:
    late = Lateness()
    assert late.summary() == {"p50_s": None, "p99_s": None, "max_s": None} and math.isnan(late.quantile_s(0.5))
    times = np.random.default_rng(0).exponential(1e-3, 5000)
    for each in times:
        late.add(float(each))
    for share in (0.5, 0.9, 0.99):
        wanted = np.quantile(times, share, method="inverted_cdf")
        assert wanted <= late.quantile_s(share) <= wanted + 1e-6
    assert late.quantile_s(1.0) == late.most_s == times.max()
    late.add(-1e-3)
    late.add(7.0)
    assert late.count == 5002 and late.summary()["max_s"] == 7.0 and late.quantile_s(0.0) <= 1e-6


# -- packet log ------------------------------------------------------------------------------------------------------

dpkt = pytest.importorskip("dpkt", reason="the package dpkt is not installed")


def packets(path: Path) -> list[tuple[float, bytes, int]]:
    """Time (s), what is kept, and the length on the wire, of each packet of a file that is whole."""
    content = path.read_bytes()
    with path.open("rb") as stream:
        found = [(float(time_s), bytes(kept)) for time_s, kept in dpkt.pcap.Reader(stream)]
    place, lengths = dpkt.pcap.FileHdr.__hdr_len__, []
    for _, kept in found:
        lengths.append(int.from_bytes(content[place + 12 : place + 16], sys.byteorder))
        place += 16 + len(kept)
    assert place == len(content), "the last packet is whole"
    return [(time_s, kept, length) for (time_s, kept), length in zip(found, lengths, strict=True)]


def test_a_log_is_read_back_by_the_library(tmp_path: Path) -> None:
    path, now = tmp_path / "log.pcap", 1_800_000_000.123456789
    log = PacketLog(path, snap_bytes=64)
    frames = [frame(MACS[1]) + bytes([place]) * place for place in range(200)]
    for place, each in enumerate(frames):
        log.add(now + place * 1e-3, each)
    log.close()
    found = packets(path)
    assert [kept for _, kept, _ in found] == [each[:64] for each in frames]
    assert [length for _, _, length in found] == [len(each) for each in frames]
    assert [time_s for time_s, _, _ in found] == pytest.approx([now + place * 1e-3 for place in range(200)], abs=5e-7)
    assert path.read_bytes()[:4] == (0xA1B23C4D).to_bytes(4, sys.byteorder)  # nanoseconds
    assert log.kept == 200 and log.skipped == 0


def test_nanoseconds_never_make_a_whole_second(tmp_path: Path) -> None:
    log = PacketLog(tmp_path / "log.pcap")
    log.add(math.nextafter(5.0, 0.0), frame(MACS[1]))
    log.close()
    assert packets(tmp_path / "log.pcap")[0][0] == pytest.approx(5.0, abs=2e-9)


def test_a_log_ends_at_its_limit_and_says_so_once(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "log.pcap"
    log = PacketLog(path, limit_bytes=1000, say=said.append)
    for place in range(50):
        log.add(float(place), frame(MACS[1]))
    log.close()
    assert len(packets(path)) == log.kept == (1000 - 24) // (16 + 60)
    assert log.skipped == 50 - log.kept
    assert said == [f"packet log {path}: has reached 1000 bytes; later packets are not kept"]


def test_a_log_on_a_full_disk_says_so_once(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this machine")
    said: list[str] = []
    log = PacketLog("/dev/full", say=said.append)
    for _ in range(1000):
        log.add(1.0, frame(MACS[1]))
    log.close()
    assert said == ["packet log /dev/full: cannot be written: No space left on device; later packets are not kept"]


def test_a_log_that_cannot_be_opened_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"cannot be written: No such file or directory; name another file"):
        PacketLog(tmp_path / "none" / "log.pcap")
    monkeypatch.setitem(sys.modules, "dpkt", None)
    with pytest.raises(
        ConfigError, match=r"packet log: expected the package dpkt, .* pip install 'rowcast\[emulate\]'"
    ):
        PacketLog(tmp_path / "log.pcap")


_ENDLESS = """
import sys
from rowcast.drivers.netns.packet_log import PacketLog
log = PacketLog(sys.argv[1])
place = 0
while True:
    log.add(float(place), bytes(14 + place % 90))
    place += 1
    if place == 5000:
        print("many", flush=True)
"""


@pytest.mark.system
def test_a_log_of_a_process_that_was_killed_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log.pcap"
    with subprocess.Popen([sys.executable, "-c", _ENDLESS, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"many\n"
        os.kill(process.pid, signal.SIGKILL)
    found = packets(path)
    assert len(found) > 4000
    assert [length for _, _, length in found] == [14 + place % 90 for place in range(len(found))]


@pytest.mark.system
@pytest.mark.skipif(shutil.which("capinfos") is None, reason="capinfos (Wireshark) is not installed")
def test_wireshark_opens_a_log(tmp_path: Path) -> None:
    log = PacketLog(tmp_path / "log.pcap")
    log.add(1.5, frame(MACS[1]))
    log.close()
    told = subprocess.run(["capinfos", str(tmp_path / "log.pcap")], capture_output=True, text=True, check=True).stdout
    assert "nanoseconds" in told and "Number of packets:   1" in told


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="log_snap_bytes: expected a number in 14"):
        ForwardSettings(log_snap_bytes=3)
    assert dataclasses.replace(ForwardSettings(), seed=3).seed == 3
