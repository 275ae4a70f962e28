"""The process of the medium on real interfaces in network namespaces; skipped where those are not allowed."""

from __future__ import annotations

import contextlib
import importlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from namespaces import needs_namespaces
from rowcast.drivers.netns import forward
from rowcast.drivers.netns.forward_spec import ForwardSettings, ForwardSpec, Station, save_spec
from rowcast.drivers.netns.medium import MediumLink
from rowcast.drivers.netns.network import INTERFACE
from rowcast.errors import ConfigError
from rowcast.links import Trace

pytestmark = [pytest.mark.system, needs_namespaces]

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FAST = MediumLink(Trace.constant(1e9))


@pytest.fixture
def shaping(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The benchmark, whose hosts and flows are ours."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    known = set(sys.modules)
    yield importlib.import_module("shaping")
    for name in set(sys.modules) - known:
        if (BENCHMARKS / f"{name}.py").exists():
            del sys.modules[name]


def switch_offloads_on(net: Any) -> None:
    """As hosts have them by default: segments and checksums are left to the interfaces."""

    def switch_on() -> None:
        from pyroute2.ethtool.ioctl import IoctlEthtool

        tool = IoctlEthtool(INTERFACE)
        features = tool.get_features()
        for name, _, changeable, *_ in list(features):
            if changeable and name.startswith(("tx-checksum", "tx-scatter-gather", "tx-tcp")):
                features[name] = True
        tool.set_features(features)
        tool.close()

    for host in net.network.hosts:
        net.network.inside(host, switch_on)


def spec_of(shaping: ModuleType, net: Any, *links: tuple[MediumLink, MediumLink], **how: Any) -> ForwardSpec:
    ports = [shaping.port_of(host) for host in net.stations]
    stations = tuple(Station(port, up, down) for port, (up, down) in zip(ports, links, strict=True))
    return ForwardSpec(shaping.port_of(net.access_point), stations, ForwardSettings(**how))


@contextlib.contextmanager
def running(net: Any, spec: ForwardSpec, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The process, ready; it is gone afterwards."""
    save_spec(spec, folder / "spec.json")
    command = net.command(sys.executable, "-m", "rowcast.drivers.netns.forward", str(folder / "spec.json"))
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    """Its next line on standard error that is not about its priority."""
    assert process.stderr is not None
    line = process.stderr.readline()
    return hear(process) if line.startswith("medium: priority ") else line


def test_packets_come_at_the_rate_and_with_the_delay_of_their_link(shaping: ModuleType, tmp_path: Path) -> None:
    """And each is in the log with the time at which it left the medium."""
    dpkt = pytest.importorskip("dpkt", reason="the package dpkt is not installed")
    how = {"summary": tmp_path / "summary.json", "packet_log": tmp_path / "log.pcap"}
    with shaping.network(1) as net:
        up = MediumLink(Trace.constant(8e6), delay_s=0.03, queue_s=0.1)
        spec = spec_of(shaping, net, (up, FAST), **how)
        flow = shaping.Flow(net.stations[0], net.access_point, 1000, shaping.steady(12e6))
        outcome = shaping.carry(net, spec, [flow], 1, tmp_path)
    arrived = outcome.flows[0]
    during = arrived[(arrived["arrived_s"] >= 0.1) & (arrived["arrived_s"] < 0.9)]
    assert 8 * during["size_bytes"].sum() == pytest.approx(0.8 * 8e6, rel=0.03)
    assert np.all(np.diff(arrived["serial"]) > 0)
    assert np.min(during["arrived_s"] - during["sent_s"]) >= 0.0299
    (counts,) = [each for each in outcome.summary["links"] if each["way"] == "up"]
    assert counts["packets_in"] == counts["packets_out"] + counts["packets_full"] and counts["packets_full"] > 0
    assert counts["bytes_out"] == 1000 * counts["packets_out"]
    assert counts["largest_queue_bytes"] == 100_000 and counts["packets_held"] == 0
    assert outcome.summary["packets_missed"] == outcome.summary["packets_not_taken"] == 0
    with how["packet_log"].open("rb") as stream:
        logged = [float(time_s) for time_s, _ in dpkt.pcap.Reader(stream)]
    assert len(logged) == outcome.summary["logged"]["kept"] == outcome.summary["departures"] == counts["packets_out"]
    # Exact, however late each was sent, as long as there was something to send.
    assert np.diff(logged)[50:-110] == pytest.approx(0.001, abs=1e-6)


def test_stations_reach_each_other_over_both_links(shaping: ModuleType, tmp_path: Path) -> None:
    up, down = MediumLink(Trace.constant(8e6), delay_s=0.01), MediumLink(Trace.constant(4e6), delay_s=0.02)
    with shaping.network(2) as net:
        spec = spec_of(shaping, net, (up, FAST), (FAST, down), summary=tmp_path / "summary.json")
        flow = shaping.Flow(net.stations[0], net.stations[1], 1000, shaping.steady(6e6))
        outcome = shaping.carry(net, spec, [flow], 1, tmp_path)
    during = outcome.flows[0]
    during = during[(during["arrived_s"] >= 0.1) & (during["arrived_s"] < 0.9)]
    assert 8 * during["size_bytes"].sum() == pytest.approx(0.8 * 4e6, rel=0.03)
    assert np.min(during["arrived_s"] - during["sent_s"]) >= 0.0299


def test_offloads_end_it_with_the_remedy(
    shaping: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with shaping.network(1) as net:
        switch_offloads_on(net)
        spec = spec_of(shaping, net, (FAST, FAST), summary=tmp_path / "summary.json")
        flow = shaping.Flow(net.stations[0], net.access_point, 1000, shaping.steady(1e6))
        with pytest.raises(ConfigError, match="the medium ended with status 1"):
            shaping.carry(net, spec, [flow], 1, tmp_path)
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "offloads" in line]
    assert line == (
        "medium: interface 'station-0': a packet without its checksum, which its receiver would throw away: offloads "
        "are on; switch them off at the host's end: ethtool -K INTERFACE tso off gso off gro off tx off"
    )
    assert "packets_short" in json.loads((tmp_path / "summary.json").read_text())


def test_it_obeys_and_goes_on_without_an_interface_that_was_taken_away(shaping: ModuleType, tmp_path: Path) -> None:
    with shaping.network(2) as net:
        spec = spec_of(shaping, net, (FAST, FAST), (FAST, FAST), summary=tmp_path / "summary.json")
        with running(net, spec, tmp_path) as medium:
            say(medium, "strat 3")
            assert hear(medium) == "medium: unknown command strat; did you mean 'start'? (known: lift, start)\n"
            say(medium, "start soon")
            assert (
                hear(medium) == "medium: expected seconds of the monotonic clock, as in 'start 123.5', got start soon\n"
            )
            say(medium, f"start {time.monotonic()!r}\nstart {time.monotonic()!r}")
            assert hear(medium) == "medium: start: the traces have begun already; expected it once\n"
            gone = net.stations[0]
            subprocess.run(gone.command("ip", "link", "del", gone.interface), check=True)
            lines = hear(medium)
            while "from now on" not in lines:  # first it is down, then gone
                lines += hear(medium)
            assert "medium: interface 'station-0': ENETDOWN; its frames are lost from now on\n" in lines
            say(medium, "lift")
            medium.send_signal(signal.SIGTERM)
            assert medium.wait(10) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["interfaces_gone"] == ["station-0"] and summary["priority"] in ("fifo", "nice", "normal")


def test_it_ends_with_its_input(shaping: ModuleType, tmp_path: Path) -> None:
    """Whoever has started it is gone: nothing stays behind."""
    with shaping.network(1) as net, running(net, spec_of(shaping, net, (FAST, FAST)), tmp_path) as medium:
        assert medium.stdin is not None
        medium.stdin.close()
        assert medium.wait(10) == 0


def test_it_says_why_it_cannot_begin(shaping: ModuleType, tmp_path: Path) -> None:
    with shaping.network(1) as net:
        spec = spec_of(shaping, net, (FAST, FAST))
        save_spec(spec, tmp_path / "spec.json")
        text = (tmp_path / "spec.json").read_text()
        (tmp_path / "spec.json").write_text(text.replace("station-0", "station-9"))
        command = net.command(sys.executable, "-m", "rowcast.drivers.netns.forward", str(tmp_path / "spec.json"))
        done = subprocess.run(command, input="", capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(
        "medium: interface 'station-9': No such device; expected one of those that are here: lo"
    )
    assert done.stderr.count("\n") == 1


def test_it_says_how_it_is_called(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert forward.main([]) == 2
    assert forward.main([str(tmp_path / "none.json")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "medium: expected one argument, the specification (.json), got 0"
    assert len(lines) == 2 and "cannot be read: No such file or directory" in lines[1]
