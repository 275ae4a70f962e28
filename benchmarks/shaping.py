"""What the medium of ``rowcast emulate`` does to real packets: UDP that saturates its links, in network namespaces.

Both cores are busy with matrix products meanwhile (``--idle``: without). A trace is followed from the sender's first
packet to the receiver's kernel: what the medium says of itself is not asked, except how late its departures were.

Bounds: bytes of each second in which the trace carries more than 3 Mbit/s, and of each 10 s with less; the 99th
percentile of lateness; delay, jitter and loss of packets on a link that is nearly idle; shares of three stations.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import rowcast
from common import SHARED, Figure, arguments, finish
from rowcast.drivers.netns.forward_spec import ForwardSettings, ForwardSpec, Port, Station, save_spec
from rowcast.drivers.netns.medium import MediumLink
from rowcast.drivers.netns.rights import why_not
from rowcast.errors import ConfigError
from rowcast.links import Trace, load_trace, named_trace
from shaping_network import Host, Network, network

FOLDER = Path(__file__).parent
WIFI = ("ac_20mhz_5ghz_run1_loc3.csv", "n_20mhz_2.4ghz_run1_loc1.csv")
WIFI_FOLDER = "traces_wifi_robot"

#: From here on a second is looked at by itself, below it 10 seconds together.
FAST_BPS = 3e6
WINDOW_S = 10
#: A packet is 2.5 % of so many: fewer in a window cannot be judged to 5 %.
LEAST_PACKETS = 40
FAST_PERCENT, SLOW_PERCENT, LATE_MS = 2.0, 5.0, 1.0
#: How far the median of delays may be off: the sender's system call is in it (ms).
DELAY_MS = 0.3
MTU = 1500
#: Senders begin so long before the traces do (s), so that a queue stands when these begin.
AHEAD_S = 0.4
#: Two-sided 99.9 % of the normal distribution, and of Kolmogorov's.
NORMAL, KOLMOGOROV = 3.29, 1.95


@dataclass(frozen=True)
class Flow:
    """Packets from one host to another: of which size, and how many bit/s from when on (s after the start)."""

    source: Host
    target: Host
    size_bytes: int
    schedule: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What a run gave.

    Attributes:
        summary: of the medium.
        flows: what arrived of each flow, arrays of ``shaping_ends.PACKET``, times in seconds after the start.
        sent: packets that each sender sent.
    """

    summary: dict[str, Any]
    flows: list[npt.NDArray[Any]]
    sent: list[int]


def saturating(trace: Trace, seconds: float) -> npt.NDArray[np.float64]:
    """A schedule that always offers more than the trace carries, and not much more."""
    times = np.arange(-0.5, seconds + 0.5, 0.01)
    rates = np.array([trace.rate(max(0.0, t)) for t in times])
    nearby = np.max([np.roll(rates, shift) for shift in range(-6, 7)], axis=0)
    return np.column_stack([times, 1.3 * nearby + 0.2e6])


def steady(bps: float) -> npt.NDArray[np.float64]:
    """A schedule of one rate."""
    return np.array([[-10.0, bps]])


@contextlib.contextmanager
def busy(cores: int) -> Iterator[None]:
    """So many processes that compute all the time."""
    script = "import numpy as np\na = np.random.rand(700, 700)\nwhile True: a @ a"
    one = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    processes = [subprocess.Popen([sys.executable, "-c", script], env=one) for _ in range(cores)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def carry(net: Network, spec: ForwardSpec, flows: Sequence[Flow], seconds: float, folder: Path) -> Outcome:
    """Run the medium and the flows over it for so many seconds of the traces."""
    save_spec(spec, folder / "spec.json")
    ours = {**os.environ, "PYTHONPATH": str(Path(rowcast.__file__).parents[1])}
    with contextlib.ExitStack() as running:

        def start(command: list[str]) -> subprocess.Popen[str]:
            process = running.enter_context(
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=FOLDER, env=ours
                )
            )
            running.callback(process.kill)
            return process

        medium = start(net.command(sys.executable, "-m", "rowcast.drivers.netns.forward", str(folder / "spec.json")))
        receivers, senders = [], []
        for place, flow in enumerate(flows):
            np.save(folder / f"schedule-{place}.npy", flow.schedule)
            ends = [sys.executable, "-c", "import shaping_ends; shaping_ends.main()"]
            receivers.append(start(flow.target.command(*ends, "receive", str(place), str(folder / f"{place}.npy"))))
            words = [
                "send",
                str(place),
                flow.target.address,
                str(flow.size_bytes),
                str(folder / f"schedule-{place}.npy"),
            ]
            senders.append(start(flow.source.command(*ends, *words)))
        for process in (medium, *receivers, *senders):
            _await_ready(process)
        begin = time.monotonic() + 0.2 + AHEAD_S
        zero = begin + time.time() - time.monotonic()
        linger = 0.5 + max(link.delay_s + link.jitter_s for link in spec.links().values())
        for receiver in receivers:
            _tell(receiver, repr(zero + seconds + linger))
        for sender in senders:
            _tell(sender, f"{zero - AHEAD_S!r} {zero!r} {zero + seconds!r}")
        _tell(medium, f"start {begin!r}")
        sent = [int(sender.communicate()[0]) for sender in senders]
        for receiver in receivers:
            receiver.communicate()
        medium.communicate()
    if medium.returncode or spec.settings.summary is None:
        raise ConfigError(f"the medium ended with status {medium.returncode}; its line is above")
    arrays = [np.load(folder / f"{place}.npy") for place in range(len(flows))]
    for array in arrays:
        array["sent_s"] -= zero
        array["arrived_s"] -= zero
    return Outcome(json.loads(spec.settings.summary.read_text()), arrays, sent)


def stolen_s() -> float:
    """Seconds for which a processor of this machine had to wait for a real one, since the machine was started."""
    first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    return int(first.split()[8]) / os.sysconf("SC_CLK_TCK")


def _await_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    if line.strip() != "ready":
        raise ConfigError(f"{process.args!r} did not start; its line is above")  # type: ignore[str-bytes-safe]


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def port_of(host: Host) -> Port:
    return Port(host.air_interface, host.mac)


def spec_of(net: Network, ups: Sequence[MediumLink], folder: Path, channel: str = "independent") -> ForwardSpec:
    """Uplinks as asked; downlinks carry a gigabit."""
    fast = MediumLink(Trace.constant(1e9))
    stations = [Station(port_of(host), up, fast) for host, up in zip(net.stations, ups, strict=False)]
    settings = ForwardSettings(channel=channel, seed=1, summary=folder / "summary.json")
    return ForwardSpec(port_of(net.access_point), tuple(stations), settings)


def step_trace() -> Trace:
    """Rates that jump, down to almost nothing, and for a while nothing."""
    rates = [40.0, 0.3, 100.0, 1.0, 8.0, 0.0, 20.0, 2.0, 0.1, 60.0]
    lengths = [2, 11, 2, 6, 2, 1.5, 2, 5, 6, 2]
    times = np.concatenate([[0.0], np.cumsum(lengths)])
    return Trace(times[:-1], np.array(rates) * 1e6, "steps", duration_s=float(times[-1]))


def fidelity(net: Network, trace: Trace, seconds: int, folder: Path) -> list[Figure]:
    """Follow a trace with a sender that always has more."""
    host = net.stations[0]
    size_bytes = MTU if trace.cut(0, seconds).stats().mean_bps > FAST_BPS else 500
    flow = Flow(host, net.access_point, size_bytes, saturating(trace, seconds))
    before = stolen_s()
    outcome = carry(net, spec_of(net, [MediumLink(trace)], folder), [flow], seconds, folder)
    stolen = stolen_s() - before
    arrived = outcome.flows[0]
    inside = arrived[(arrived["arrived_s"] >= 0) & (arrived["arrived_s"] < seconds)]
    bits = 8 * np.bincount(inside["arrived_s"].astype(int), weights=inside["size_bytes"], minlength=seconds)
    asked = np.array([trace.bits(t, t + 1) for t in range(seconds)])
    fast = asked > FAST_BPS
    figures = []
    if fast.any():
        worst = float(100 * np.max(np.abs(bits[fast] / asked[fast] - 1)))
        note = f"{fast.sum()} s of {seconds}, up to {asked.max() / 1e6:.0f} Mbit/s"
        figures.append(Figure(f"{trace.name}: worst second above 3 Mbit/s", worst, "%", FAST_PERCENT, note=note))
    windows = [slice(t, t + WINDOW_S) for t in range(seconds - WINDOW_S + 1)]
    slow = [window for window in windows if asked[window].mean() <= FAST_BPS]
    judged = [window for window in slow if asked[window].sum() >= LEAST_PACKETS * 8 * size_bytes]
    if judged:
        worst = max(100 * abs(float(bits[window].sum() / asked[window].sum()) - 1) for window in judged)
        note = f"{len(judged)} windows, {len(slow) - len(judged)} with too few packets"
        figures.append(Figure(f"{trace.name}: worst 10 s below 3 Mbit/s", worst, "%", SLOW_PERCENT, note=note))
    total = float(100 * (bits.sum() / asked.sum() - 1))
    late = outcome.summary["lateness"]
    note = f"median {1e3 * late['p50_s']:.3f}, longest {1e3 * late['max_s']:.1f}, {outcome.summary['priority']}"
    note += f"; {100 * stolen / seconds:.1f} % of a core stolen by the machine's host"
    (counts,) = [each for each in outcome.summary["links"] if each["way"] == "up" and each["packets_in"]]
    shaped = np.count_nonzero(arrived["arrived_s"] >= 0)
    offered = 8 * outcome.sent[0] * size_bytes / asked.sum()
    all_note = f"offered {100 * offered:.0f} %; {counts['packets_out'] - shaped} let go and not received"
    all_note += f", {outcome.summary['packets_missed']} missed"
    return [
        *figures,
        Figure(f"{trace.name}: all bytes, more than the trace", total, "%", note=all_note),
        Figure(f"{trace.name}: lateness, p99", 1e3 * late["p99_s"], "ms", LATE_MS, note=note),
    ]


def delays(net: Network, seconds: int, folder: Path) -> list[Figure]:
    """Packets that find an idle link: delay, jitter and loss of each are what was asked."""
    host, size_bytes, mbps = net.stations[0], 200, 20.0
    alone_s = 8 * size_bytes / (mbps * 1e6)

    def lone(rate: float, **how: float) -> tuple[npt.NDArray[Any], int]:
        """Packets, so many a second."""
        link = MediumLink(Trace.constant(mbps * 1e6), **how)  # type: ignore[arg-type]
        flow = Flow(host, net.access_point, size_bytes, steady(rate * 8 * size_bytes))
        outcome = carry(net, spec_of(net, [link], folder), [flow], seconds, folder)
        arrived = outcome.flows[0]
        before = int(np.count_nonzero(arrived["sent_s"] < 0))
        return arrived[arrived["sent_s"] >= 0], outcome.sent[0] - before

    figures = []
    for asked_s in (0.005, 0.05):
        arrived, _ = lone(200, delay_s=asked_s)
        extra_ms = 1e3 * (arrived["arrived_s"] - arrived["sent_s"] - asked_s - alone_s)
        name, note = f"delay of {1e3 * asked_s:g} ms", f"{len(arrived)} packets, p99 {np.quantile(extra_ms, 0.99):.2f}"
        figures.append(Figure(f"{name}: median too long", float(np.median(extra_ms)), "ms", DELAY_MS, note=note))
        early = float(np.max(-extra_ms))
        figures.append(Figure(f"{name}: earliest packet too early", early, "ms", 0.05))
    jitter_s = 0.008
    arrived, _ = lone(60, delay_s=0.02, jitter_s=jitter_s)
    drawn = np.sort((arrived["arrived_s"] - arrived["sent_s"] - 0.02 - alone_s) / jitter_s)
    distance = float(np.max(np.abs(np.clip(drawn, 0, 1) - (np.arange(len(drawn)) + 0.5) / len(drawn))))
    bound = KOLMOGOROV / len(drawn) ** 0.5 + DELAY_MS / 1e3 / jitter_s
    note = f"{len(drawn)} packets; 99.9 %, and {DELAY_MS} ms"
    figures.append(Figure("jitter of 8 ms: distance from uniform", distance, "", bound, note=note))
    swapped = float(np.count_nonzero(np.diff(arrived["serial"]) < 0))
    figures.append(Figure("jitter of 8 ms: packets out of order", swapped, "", 0))
    for asked in (0.02, 0.2):
        arrived, sent = lone(1500, loss=asked)
        lost = 1 - len(arrived) / sent
        bound = 100 * NORMAL * (asked * (1 - asked) / sent) ** 0.5
        note = f"{100 * lost:.2f} % of {sent} packets; bound: 99.9 %"
        name = f"loss of {100 * asked:g} %: off by"
        figures.append(Figure(name, 100 * abs(lost - asked), "points", bound, note=note))
    return figures


def shares(net: Network, seconds: int, folder: Path) -> list[Figure]:
    """Three stations that all have something to send, at rates that differ."""
    rates = np.array([40e6, 20e6, 5e6])
    figures = []
    for channel, asked in (("airtime", rates / 3), ("equal", np.full(3, 1 / np.sum(1 / rates)))):
        links = [MediumLink(Trace.constant(rate)) for rate in rates]
        flows = [
            Flow(host, net.access_point, MTU, steady(1.3 * share))
            for host, share in zip(net.stations, asked, strict=True)
        ]
        outcome = carry(net, spec_of(net, links, folder, channel), flows, seconds, folder)
        got = np.array(
            [
                8 * flow["size_bytes"][(flow["arrived_s"] >= 0) & (flow["arrived_s"] < seconds)].sum() / seconds
                for flow in outcome.flows
            ]
        )
        note = " ".join(f"{bps / 1e6:.2f}" for bps in got) + " of " + " ".join(f"{bps / 1e6:.2f}" for bps in asked)
        worst = float(100 * np.max(np.abs(got / asked - 1)))
        figures.append(Figure(f"{channel}, stations of 40, 20 and 5: worst share", worst, "%", FAST_PERCENT, note=note))
        late_ms = 1e3 * outcome.summary["lateness"]["p99_s"]
        figures.append(Figure(f"{channel}: lateness, p99", late_ms, "ms", LATE_MS))
    return figures


def traces_of(options: argparse.Namespace) -> list[Trace]:
    """Those that are followed."""
    if options.tiny:
        return [Trace.constant(10e6, "constant 10")]
    folder = options.data / WIFI_FOLDER
    recorded = [load_trace(folder / name) for name in WIFI if (folder / name).exists()]
    if not recorded:
        print(f"{folder}: recordings of Wi-Fi are not there, and left out; name the folder above it with --data")
    built_in = [named_trace("outdoor", 0, 60), step_trace(), Trace.constant(50e6, "constant 50")]
    return [*built_in, Trace.constant(0.5e6, "constant 0.5"), *recorded]


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--seconds", type=int, default=40, help="of each trace")
    parser.add_argument("--idle", action="store_true", help="nothing else runs on the cores")
    parser.add_argument("--parts", default="traces,delays,shares", help="which of them")
    parser.add_argument("--data", type=Path, default=SHARED.parents[1], help="folder of the recorded data")
    options = parser.parse_args()
    seconds = 1 if options.tiny else options.seconds
    parts = options.parts.split(",")
    title = "the medium of rowcast emulate, on real packets"
    if (reason := why_not()) is not None:
        print(f"shaping: skipped: {reason}")
        finish(title, [Figure("networks can be made here", 0, "", note=reason)], options)
        return
    figures: list[Figure] = []
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(network(3))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(busy(0 if options.idle or options.tiny else os.cpu_count() or 1))
        if "traces" in parts:
            for trace in traces_of(options):
                figures += fidelity(net, trace, seconds, folder)
        if "delays" in parts:
            figures += delays(net, 1 if options.tiny else 8, folder)
        if "shares" in parts:
            figures += shares(net, 1 if options.tiny else 8, folder)
    finish(title, figures, options)


if __name__ == "__main__":
    main()
