"""Links shaped by the kernel: rates that hold, outages, and what this shaper cannot do."""

from __future__ import annotations

import time

import pytest

from namespaces import Datagrams, mbps, needs_namespaces
from rowcast.drivers.netns import kernel_shaper
from rowcast.drivers.netns.kernel_shaper import KernelShaper, why_not_kernel
from rowcast.drivers.netns.network import Network
from rowcast.drivers.netns.rights import why_not
from rowcast.errors import ConfigError, WorkerFailed
from rowcast.links import Trace

HOSTS = ("server", "robot-0", "robot-1")
_REASON = None if why_not() is not None else why_not_kernel()
needs_shaper = pytest.mark.skipif(_REASON is not None, reason=str(_REASON))


def steady(**rates: float) -> dict[str, Trace]:
    return {name.replace("_", "-"): Trace.constant(rate * 1e6) for name, rate in rates.items()}


@needs_namespaces
@needs_shaper
@pytest.mark.system
def test_each_link_carries_its_rate_in_each_direction() -> None:
    down, up = steady(robot_0=8, robot_1=3), steady(robot_0=4, robot_1=8)
    with Network(HOSTS) as network, KernelShaper(network, down, up) as shaper:
        begin = time.monotonic()
        shaper.start(begin)
        asked = [("server", "robot-0", 8), ("robot-0", "server", 4), ("robot-1", "server", 8), ("server", "robot-1", 3)]
        flows = [
            Datagrams(network, source, target, 9000 + at, seconds=3, rate_bps=rate * 1.5e6)
            for at, (source, target, rate) in enumerate(asked)
        ]
        for flow, (_, _, rate) in zip(flows, asked, strict=True):
            frames = flow.arrived()
            assert len(frames) > 500
            first = frames[0][0]
            assert mbps(frames, first + 0.5, first + 2.5) == pytest.approx(rate, rel=0.1)


@needs_namespaces
@needs_shaper
@pytest.mark.system
def test_two_stations_go_through_both_of_their_links() -> None:
    down, up = steady(robot_0=2, robot_1=50), steady(robot_0=50, robot_1=4)
    with Network(HOSTS) as network, KernelShaper(network, down, up) as shaper:
        shaper.start(time.monotonic())
        there = Datagrams(network, "robot-0", "robot-1", 9000, seconds=1.5, rate_bps=8e6).arrived()
        assert mbps(there, there[0][0] + 0.3, there[0][0] + 1.3) == pytest.approx(8, rel=0.1)
        back = Datagrams(network, "robot-1", "robot-0", 9001, seconds=1.5, rate_bps=8e6).arrived()
        assert mbps(back, back[0][0] + 0.3, back[0][0] + 1.3) == pytest.approx(2, rel=0.1)


@needs_namespaces
@needs_shaper
@pytest.mark.system
def test_a_trace_is_followed_through_an_outage() -> None:
    trace = Trace([0, 1, 2, 3], [8e6, 0, 6e6, 2e6], "outage", loop=False, duration_s=4)
    with (
        Network(HOSTS) as network,
        KernelShaper(network, dict.fromkeys(HOSTS[1:], trace), steady(robot_0=1, robot_1=1)) as shaper,
    ):
        flow = Datagrams(network, "server", "robot-0", 9000, seconds=4.3, rate_bps=10e6)
        begin = time.monotonic()
        shaper.start(begin)
        frames = flow.arrived()
    for start, end, rate in ((0.1, 1, 8), (2, 2.9, 6), (3.1, 3.9, 2)):
        assert mbps(frames, begin + start, begin + end) == pytest.approx(rate, rel=0.1)
    # What was on its way at the cut: what the bucket held, and the frame that was let through.
    assert sum(1 for at, _ in frames if begin + 1.02 <= at < begin + 2) <= 3
    assert sum(1 for at, _ in frames if begin + 4.02 <= at) <= 3
    assert shaper.changes == 5
    assert 0 < shaper.lateness_s < 0.5


@needs_namespaces
@needs_shaper
@pytest.mark.system
def test_a_tc_that_fails_is_told_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = Trace([0, 0.05], [8e6, 6e6], "two", duration_s=0.1)
    shaped = dict.fromkeys(HOSTS[1:], trace)
    with Network(HOSTS) as network:
        shaper = KernelShaper(network, shaped, shaped)
        shaper.__enter__()
        monkeypatch.setattr(kernel_shaper, "_change_lines", lambda device, *_: [f"class change dev {device} nonsense"])
        shaper.start(time.monotonic())
        assert shaper._thread is not None
        shaper._thread.join(20)  # it notices by itself
        assert isinstance(shaper.failure, BrokenPipeError)
        with pytest.raises(WorkerFailed, match=r"shaper kernel: tc ended before its time: .*nonsense"):
            shaper.stop()


@needs_namespaces
@needs_shaper
@pytest.mark.system
def test_nothing_is_shaped_before_it_starts_and_after_it_is_lifted() -> None:
    slow = {name: Trace.constant(1e6) for name in HOSTS[1:]}

    def rate(port: int) -> float:
        frames = Datagrams(network, "server", "robot-0", port, seconds=1.5, rate_bps=8e6).arrived()
        return mbps(frames, frames[0][0] + 0.3, frames[0][0] + 1.3)

    with Network(HOSTS) as network, KernelShaper(network, slow, slow) as shaper:
        assert rate(9000) == pytest.approx(8, rel=0.1)
        shaper.start(time.monotonic())
        assert rate(9001) == pytest.approx(1, rel=0.1)
        shaper.lift()
        assert rate(9002) == pytest.approx(8, rel=0.1)


@needs_namespaces
@needs_shaper
@pytest.mark.system
def test_what_the_kernel_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_shaper, "_OPEN_BPS", 1e40)
    too_fast = {name: Trace.constant(1e40) for name in HOSTS[1:]}
    with (
        Network(HOSTS) as network,
        pytest.raises(ConfigError, match=r"shaper kernel: the kernel or tc refuses \(.*\); take"),
    ):
        KernelShaper(network, too_fast, too_fast).__enter__()


@needs_namespaces
def test_without_tc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_shaper, "why_not", lambda: None)
    monkeypatch.setenv("PATH", "")
    assert why_not_kernel() == "shaper kernel: needs the program tc; install the system package iproute2"


def test_a_trace_for_each_station() -> None:
    with pytest.raises(ConfigError, match="expected a trace up for each of robot-0, robot-1, got one for robot-0"):
        KernelShaper(Network(HOSTS), steady(robot_0=1, robot_1=1), steady(robot_0=1))
    with pytest.raises(ConfigError, match="queue_s: expected seconds above 0, got 0"):
        KernelShaper(Network(HOSTS), steady(robot_0=1, robot_1=1), steady(robot_0=1, robot_1=1), queue_s=0)
